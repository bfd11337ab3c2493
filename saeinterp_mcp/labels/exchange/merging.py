"""One record of a file into the database: new, newer, the same, older, or in conflict."""

from typing import TYPE_CHECKING, Any

from saeinterp_mcp.labels.database import now
from saeinterp_mcp.labels.exchange.records import (
    BadLine,
    Conflict,
    Counts,
    Demoted,
    IncomingLabel,
    IncomingNote,
    OnConflict,
    Skipped,
)
from saeinterp_mcp.labels.exchange.shelves import LABELS, NOTES, Shelf
from saeinterp_mcp.labels.exchange.versions import (
    content_hash,
    continues,
    take,
    taken_versions,
    version_of,
)
from saeinterp_mcp.labels.records import Label, Note

if TYPE_CHECKING:
    import sqlite3

MAX_LISTED = 200
"""Conflicts, demotions and skipped lines that a report names one by one."""
SHOWN = (
    "revision",
    "text",
    "rule",
    "category",
    "status",
    "confidence",
    "author",
    "retired",
    "kind",
    "made_at",
)
WHAT_IS_DONE = {
    "both": "ours stays, theirs is kept beside it",
    "keep": "ours stays, theirs is in the file only",
    "theirs": "theirs is the newest revision, ours is in the history",
}


class Tally:
    """What has happened so far in an import."""

    def __init__(self) -> None:
        self.counts = {kind: dict.fromkeys(Counts.model_fields, 0) for kind in (LABELS.kind, NOTES.kind)}
        self.conflicts: list[Conflict] = []
        self.demoted: list[Demoted] = []
        self.skipped: list[Skipped] = []
        self.n = dict.fromkeys(("conflicts", "demoted", "skipped", "tests", "answers", "uncited"), 0)

    def count(self, shelf: Shelf, what: str) -> None:
        """One more record of a kind."""
        self.counts[shelf.kind][what] += 1

    def list(self, what: str, entry: Any) -> None:
        """One more entry of a list; the first ones are kept."""
        self.n[what] += 1
        if self.n[what] <= MAX_LISTED:
            getattr(self, what).append(entry)


class Merger:
    """Takes records into one store's labels, inside a transaction."""

    def __init__(
        self, connection: "sqlite3.Connection", lineage: str, on_conflict: OnConflict, tally: Tally
    ) -> None:
        self.connection, self.lineage, self.on_conflict, self.tally = connection, lineage, on_conflict, tally

    def merge(
        self,
        shelf: Shelf,
        incoming: IncomingLabel | IncomingNote,
        record: Any,
        claimed: str,
    ) -> bool:
        """Take one record in; whether anything of it was new.

        Args:
            shelf: its kind.
            incoming: the line.
            record: what of it may be kept here: an id, a rule in its normal form, no claim that is not covered.
            claimed: the version that the line itself is.

        Raises:
            BadLine: its id is taken by another feature or store.
        """
        record_id = shelf.id_of(record)
        found = shelf.find(self.connection, self.lineage, record_id)
        if found is None:
            self._add(shelf, incoming, record, claimed)
            return True
        row, ours = found
        if ours.feature != record.feature or (shelf is NOTES and ours.kind != record.kind):
            what = f"of feature {ours.feature}" + (f" and kind {ours.kind}" if shelf is NOTES else "")
            raise BadLine(incoming.where, f"{shelf.kind} {record_id} is {what} here")
        if content_hash(ours) == content_hash(record) or self._is_known(shelf, record_id, claimed):
            self.tally.count(shelf, "unchanged")
            return False
        if self._goes_on(shelf, incoming, ours):
            self._revise(shelf, incoming, row, ours, record, claimed)
        else:
            self._conflict(shelf, incoming, row, ours, record, claimed)
        return True

    def _add(self, shelf: Shelf, incoming: IncomingLabel | IncomingNote, record: Any, claimed: str) -> None:
        record_id = shelf.id_of(record)
        if shelf.is_elsewhere(self.connection, record_id):
            raise BadLine(
                incoming.where, f"{shelf.kind} {record_id} belongs to another store in this labels file"
            )
        record = record.model_copy(update={"made_at": record.made_at or now()})
        shelf.append(self.connection, self.lineage, None, record)
        take(self.connection, record_id, _taken_with(incoming, claimed, record))
        self.tally.count(shelf, "added")

    def _is_known(self, shelf: Shelf, record_id: str, claimed: str) -> bool:
        """Whether that version has been here before: ours goes on from it."""
        if claimed in taken_versions(self.connection, record_id):
            return True
        return claimed in map(version_of, shelf.history(self.connection, self.lineage, record_id))

    def _goes_on(self, shelf: Shelf, incoming: IncomingLabel | IncomingNote, ours: Label | Note) -> bool:
        version, taken = version_of(ours), taken_versions(self.connection, shelf.id_of(ours))
        if isinstance(incoming, IncomingLabel) and incoming.edit_of is not None:
            return incoming.edit_of == ours.revision
        # what an import wrote in its own way (without evidence, as a draft) and nobody has touched since
        untouched = version in taken
        if _has_no_history(incoming):
            return untouched
        return continues(incoming.based_on, version) or (
            untouched and not taken.isdisjoint(incoming.based_on)
        )

    def _revise(
        self,
        shelf: Shelf,
        incoming: IncomingLabel | IncomingNote,
        row: int,
        ours: Any,
        record: Any,
        claimed: str,
    ) -> None:
        edited = isinstance(incoming, IncomingLabel) and incoming.edit_of is not None
        changes = {
            "revision": max(record.revision, ours.revision + 1),
            "made_at": now() if edited or not record.made_at else record.made_at,
        }
        record = record.model_copy(update=changes)
        shelf.append(self.connection, self.lineage, row, record)
        take(self.connection, shelf.id_of(record), _taken_with(incoming, claimed, record))
        self.tally.count(shelf, "revised")
        if getattr(record, "retired", False) and not ours.retired:
            self.tally.count(shelf, "retired")

    def _conflict(
        self,
        shelf: Shelf,
        incoming: IncomingLabel | IncomingNote,
        row: int,
        ours: Any,
        record: Any,
        claimed: str,
    ) -> None:
        record_id, done = shelf.id_of(record), WHAT_IS_DONE[self.on_conflict]
        if self.on_conflict == "theirs":
            self._revise(shelf, incoming, row, ours, record, claimed)
        else:
            if self.on_conflict == "both":
                done = f"{done} as {self._keep_beside(shelf, record, claimed)}"
            # like a merge in git: the file that is exported next goes on from both
            take(self.connection, record_id, [*incoming.based_on, claimed])
        entry = Conflict(
            id=record_id,
            feature=record.feature,
            where=incoming.where,
            ours=_shown(ours),
            theirs=_shown(record),
            result=done,
        )
        self.tally.list("conflicts", entry)

    def _keep_beside(self, shelf: Shelf, record: Any, claimed: str) -> str:
        """Their version as a record of its own, once; its id."""
        old_id = shelf.id_of(record)
        new_id = shelf.id_from("conflict", old_id, claimed)
        if shelf.find(self.connection, self.lineage, new_id) is None:
            changes: dict[str, Any] = {
                shelf.id_field: new_id,
                "revision": 1,
                "made_at": record.made_at or now(),
            }
            if shelf is LABELS:
                changes["source"] = f"conflict with {old_id}"
            shelf.append(self.connection, self.lineage, None, record.model_copy(update=changes))
        return new_id


def _has_no_history(incoming: IncomingLabel | IncomingNote) -> bool:
    return isinstance(incoming, IncomingLabel) and not incoming.label.label_id


def _taken_with(incoming: IncomingLabel | IncomingNote, claimed: str, kept: Label | Note) -> list[str]:
    """The versions to remember when a line is kept as `kept`: those it came from, and itself where it was changed."""
    here = version_of(kept)
    return [*incoming.based_on, *([claimed, here] if here != claimed or _has_no_history(incoming) else [])]


def _shown(record: Label | Note) -> dict[str, Any]:
    values = record.model_dump(mode="json")
    return {name: values[name] for name in SHOWN if values.get(name) not in (None, "", False)}
