"""Taking a label file in: one transaction, so that a file is taken in whole or not at all, and may be tried first.

Held-out tests and answers come before the labels that rest on them, so the file is read twice.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from saeinterp_mcp.errors import BadInput, SaeInterpError
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.labels.database import LabelsInMemory
from saeinterp_mcp.labels.evidence import FIELDS as ANSWER_FIELDS
from saeinterp_mcp.labels.exchange.merging import Merger, Tally
from saeinterp_mcp.labels.exchange.records import (
    BadLine,
    Counts,
    Demoted,
    ImportReport,
    Incoming,
    IncomingAnswer,
    IncomingLabel,
    IncomingNote,
    IncomingTest,
    OnBad,
    OnConflict,
    Skipped,
    Source,
    Target,
)
from saeinterp_mcp.labels.exchange.shelves import LABELS, NOTES
from saeinterp_mcp.labels.exchange.versions import version_of
from saeinterp_mcp.labels.gate import supported_by
from saeinterp_mcp.labels.records import MAX_NOTES, Label, Note

if TYPE_CHECKING:
    import sqlite3

Reader = Callable[[], Iterator[Incoming | BadLine]]
"""Reads the file from its beginning."""


class _OnlyTried(Exception):
    """Takes a transaction back, and carries what it did."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally


class Import:
    """One file into one store's labels."""

    def __init__(
        self,
        path: Path,
        format_name: str,
        target: Target,
        source: Source,
        on_conflict: OnConflict,
        on_bad: OnBad,
    ) -> None:
        self.path, self.format_name, self.target, self.source = path, format_name, target, source
        self.on_conflict: OnConflict = on_conflict
        self.on_bad: OnBad = on_bad
        self.same_lineage = source.lineage in (None, target.lineage)
        if source.n_features not in (None, target.n_features):
            raise BadInput(
                f"{path} is about a store of {source.n_features} features, {target.name!r} has {target.n_features}: "
                "feature numbers do not mean the same"
            )

    def run(self, read: Reader, dry_run: bool) -> ImportReport:
        """Take the file in, or only say what would happen.

        Raises:
            BadInput: a line cannot be taken in (and `on_bad` is stop), or the database cannot be written.
            BadStore: what is there is no labels file.
        """

        def work(connection: "sqlite3.Connection") -> Tally:
            tally = Tally()
            self._take_evidence(connection, read, tally)
            self._take_records(connection, read, tally)
            if dry_run:
                raise _OnlyTried(tally)
            return tally

        database = self.target.database
        if dry_run and not database.read(lambda _: True, False):
            database = LabelsInMemory()
        try:
            tally = database.write(work)
        except _OnlyTried as tried:
            tally = tried.tally
        return self._report(tally, dry_run)

    def _take_evidence(self, connection: "sqlite3.Connection", read: Reader, tally: Tally) -> None:
        """Held-out tests and answers; and every bad line is met before anything is written for long."""
        for incoming in read():
            if isinstance(incoming, BadLine):
                self._bad(incoming, tally)
            elif not self.same_lineage:
                continue  # tests and answers about another build say nothing about this one
            elif isinstance(incoming, IncomingTest):
                tally.n["tests"] += self._take_test(connection, incoming)
            elif isinstance(incoming, IncomingAnswer):
                tally.n["answers"] += self._take_answer(connection, incoming, tally)

    def _take_test(self, connection: "sqlite3.Connection", incoming: IncomingTest) -> int:
        values = {**incoming.test.model_dump(), "store": self.target.lineage, "made_at": incoming.made_at}
        names = ", ".join(f'"{name}"' for name in values)
        slots = ", ".join(f":{name}" for name in values)
        insert = f"INSERT OR IGNORE INTO heldout_tests ({names}) VALUES ({slots})"
        return connection.execute(insert, values).rowcount

    def _take_answer(self, connection: "sqlite3.Connection", incoming: IncomingAnswer, tally: Tally) -> int:
        answer = incoming.answer
        try:
            self.target.check_call(answer.operation, answer.arguments)
        except SaeInterpError as error:
            return self._bad(BadLine(incoming.where, str(error)), tally)
        values = {**answer.model_dump(), "store": self.target.lineage}
        values["arguments"] = canonical_json(answer.arguments)
        values["result"] = zlib.compress(json.dumps(answer.result, ensure_ascii=False).encode("utf-8"))
        slots = ", ".join("?" * len(ANSWER_FIELDS))
        insert = f"INSERT OR IGNORE INTO answers ({', '.join(ANSWER_FIELDS)}) VALUES ({slots})"
        return connection.execute(insert, tuple(values[name] for name in ANSWER_FIELDS)).rowcount

    def _take_records(self, connection: "sqlite3.Connection", read: Reader, tally: Tally) -> None:
        merger = Merger(connection, self.target.lineage, self.on_conflict, tally)
        for incoming in read():
            try:
                if isinstance(incoming, IncomingLabel):
                    self._take_label(merger, incoming)
                elif isinstance(incoming, IncomingNote):
                    note = self._here_note(incoming.note)
                    merger.merge(NOTES, incoming, note, version_of(incoming.note))
            except BadLine as error:
                self._bad(error, tally)

    def _take_label(self, merger: Merger, incoming: IncomingLabel) -> None:
        claimed, label = version_of(incoming.label), incoming.label
        if not label.label_id:
            label = label.model_copy(
                update={
                    "label_id": LABELS.id_from(self.target.lineage, label.feature, label.source, label.text)
                }
            )
            if label.importance is None:
                label = label.model_copy(update={"importance": self.target.importance(label.feature)})
        elif not self.same_lineage:
            label = label.model_copy(update={"label_id": LABELS.id_from(self.target.lineage, label.label_id)})
        if not self.same_lineage:
            merger.tally.n["uncited"] += bool(label.evidence)
            label = label.model_copy(update={"evidence": ()})
        try:
            label, scope = self.target.normal_rule(label)
        except SaeInterpError as error:
            raise BadLine(incoming.where, f"rule: {error}") from error
        why = self._not_supported(merger, label, scope)
        if why:
            label = _as_draft(label, why)
        if merger.merge(LABELS, incoming, label, claimed) and why:
            entry = Demoted(label_id=label.label_id, feature=label.feature, where=incoming.where, why=why)
            merger.tally.list("demoted", entry)

    def _not_supported(self, merger: Merger, label: Label, scope: str | None) -> str | None:
        """What a label lacks that says it is supported."""
        if label.status != "supported":
            return None
        try:
            supported_by(merger.connection, self.target.lineage, label, scope, self.target.fingerprint)
        except BadInput as error:
            return str(error).partition(": ")[2].partition(". Save it")[0] or str(error)
        return None

    def _here_note(self, note: Note) -> Note:
        """A note of another build with ids of its own, because one labels file may serve both stores."""
        if self.same_lineage:
            return note
        moved = {
            name: tuple(NOTES.id_from(self.target.lineage, one) for one in getattr(note, name))
            for name in ("supports", "refutes")
        }
        new_id = NOTES.id_from(self.target.lineage, note.note_id)
        return note.model_copy(update={"note_id": new_id, "evidence": (), **moved})

    def _bad(self, error: BadLine, tally: Tally) -> int:
        if self.on_bad == "stop":
            raise BadInput(
                f"{self.path}, {error}. Nothing was imported; repair it, or leave such lines out with --bad skip"
            )
        tally.list("skipped", Skipped(where=error.where, why=error.why))
        return 0

    def _report(self, tally: Tally, dry_run: bool) -> ImportReport:
        return ImportReport(
            file=str(self.path),
            format=self.format_name,
            store=self.target.name,
            labels_file=self.target.database.name,
            dry_run=dry_run,
            labels=Counts(**tally.counts["label"]),
            notes=Counts(**tally.counts["note"]),
            n_tests=tally.n["tests"],
            n_answers=tally.n["answers"],
            n_conflicts=tally.n["conflicts"],
            n_demoted=tally.n["demoted"],
            n_skipped=tally.n["skipped"],
            conflicts=tuple(tally.conflicts),
            demoted=tuple(tally.demoted),
            skipped=tuple(tally.skipped),
            warnings=tuple(self._warnings(tally)),
        )

    def _warnings(self, tally: Tally) -> list[str]:
        if self.same_lineage:
            return []
        told = [
            f"the file is of store {self.source.store!r}, another build than {self.target.name!r}: make sure that "
            "feature numbers mean the same SAE; held-out tests and evidence stay behind"
        ]
        if n := tally.n["uncited"]:
            told.append(f"{n} labels cite answers about that other build; the ids are left out")
        return told


def _as_draft(label: Label, why: str) -> Label:
    """A draft of a label, with the reason in its notes where there is room."""
    notes = f"{label.notes}\n" if label.notes else ""
    notes += f"Imported as a draft, it said supported: {why}"
    return label.model_copy(
        update={"status": "draft", "notes": notes if len(notes) <= MAX_NOTES else label.notes}
    )
