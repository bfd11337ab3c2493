"""Labels: revisions are only appended; a label that is deleted is retired, and can be restored."""

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.labels.database import LabelDatabase, now
from saeinterp_mcp.labels.queue import complete
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.search import index_words, matching

if TYPE_CHECKING:
    import sqlite3

FIELDS = tuple(name for name in Label.model_fields if name not in ("label_id", "feature"))
"""Columns of `label_revisions` that are fields of a label."""
LABEL_ID = re.compile(r"lb-[0-9a-f]{12}")
_SELECT = (
    f"SELECT l.label_id, l.feature, {', '.join(f'r.{name}' for name in FIELDS)} "
    "FROM labels l JOIN label_revisions r ON "
)
BY_WHOM = ("author", "author_kind", "source")
"""Fields that say who revised, and are no revision by themselves."""
RANK = {"supported": 0, "draft": 1, "unclear": 2, "refuted": 3}
KIND_RANK = {"human": 0, "agent": 1, "import": 2}
ASKED_AT_ONCE = 500
"""Features in one statement."""


def save_label(
    database: LabelDatabase,
    lineage: str,
    feature: int,
    changes: Mapping[str, Any],
    label_id: str | None = None,
    expected_revision: int | None = None,
    check: "Callable[[sqlite3.Connection, Label], Label] | None" = None,
) -> Label:
    """A new label, or the next revision of one with what is not in `changes` kept; nothing new when nothing changes.

    Args:
        database: where.
        lineage: of the store.
        feature: which feature it is about.
        changes: fields of `Label` to values; `text` at least for a new one.
        label_id: the label to revise.
        expected_revision: the revision that the author has seen; refused when there is a newer one.
        check: sees the label before it is kept, inside the transaction, and may complete or refuse it.

    Raises:
        UnknownName: no such label.
        BadInput: it is retired, belongs to another feature, or was revised by somebody else.
    """

    def write(connection: "sqlite3.Connection") -> Label:
        if label_id is None:
            old, row = None, None
            label = Label(
                label_id=f"lb-{secrets.token_hex(6)}", feature=feature, revision=1, made_at=now(), **changes
            )
        else:
            row, old = find_label(connection, lineage, label_id)
            _check_revisable(old, feature, changes, expected_revision)
            if all(getattr(old, name) == value for name, value in changes.items() if name not in BY_WHOM):
                complete(connection, lineage, feature)
                return old
            label = old.model_copy(
                update={**changes, "revision": old.revision + 1, "made_at": now(), "reason": None}
            )
        if check:
            label = check(connection, label)
        append(connection, lineage, row, label)
        complete(connection, lineage, feature)
        return label

    return database.write(write)


def retire_label(
    database: LabelDatabase,
    lineage: str,
    label_id: str,
    reason: str | None,
    restore: bool,
    author: Mapping[str, Any],
) -> Label:
    """Take a label out of use, or bring it back: a revision that says so. Nothing new where it stands so already."""

    def write(connection: "sqlite3.Connection") -> Label:
        row, old = find_label(connection, lineage, label_id)
        if old.retired is not restore:
            return old
        changes = {"retired": not restore, "reason": reason, "revision": old.revision + 1, "made_at": now()}
        label = old.model_copy(update={**changes, **author})
        append(connection, lineage, row, label)
        return label

    return database.write(write)


def append(connection: "sqlite3.Connection", lineage: str, row: int | None, label: Label) -> None:
    """Write a revision, inside a transaction; of a new label when `row` is None."""
    if row is None:
        insert = "INSERT INTO labels (label_id, store, feature, current) VALUES (?, ?, ?, 0)"
        row = connection.execute(insert, (label.label_id, lineage, label.feature)).lastrowid
        assert row is not None, "an inserted row has an id"
    values = {name: getattr(label, name) for name in FIELDS}
    values["evidence"] = canonical_json(list(label.evidence))
    names, slots = ", ".join(values), ", ".join("?" * len(values))
    written = connection.execute(
        f"INSERT INTO label_revisions (label, {names}) VALUES (?, {slots})", (row, *values.values())
    )
    connection.execute("UPDATE labels SET current = ? WHERE id = ?", (written.lastrowid, row))
    words = {name: getattr(label, name) for name in ("text", "explanation", "rule", "category", "notes")}
    index_words(connection, "label", row, {} if label.retired else words)


def find_label(connection: "sqlite3.Connection", lineage: str, label_id: str) -> tuple[int, Label]:
    """(row, newest revision) of a label.

    Raises:
        UnknownName: the store has no such label.
    """
    ask = "SELECT id FROM labels WHERE label_id = ? AND store = ?"
    found = connection.execute(ask, (label_id, lineage)).fetchone()
    if found is None:
        raise UnknownName(f"there is no label {label_id!r} of this store; label_get lists them")
    (label,) = _labels(connection.execute(f"{_SELECT} r.id = l.current WHERE l.id = ?", (found[0],)))
    return int(found[0]), label


def labels_of(
    connection: "sqlite3.Connection",
    lineage: str,
    features: Sequence[int] | None = None,
    query: str | None = None,
    retired: bool = False,
) -> list[Label]:
    """Newest revisions: by feature and best first, or best match first where there is a query."""
    if query is not None:
        return [_by_row(connection, row) for row in matching(connection, "label", lineage, query)]
    found: list[Label] = []
    batches: Iterable[Sequence[int] | None] = (
        [None]
        if features is None
        else [features[i : i + ASKED_AT_ONCE] for i in range(0, len(features), ASKED_AT_ONCE)]
    )
    for batch in batches:
        which = "" if batch is None else f" AND l.feature IN ({', '.join(str(int(f)) for f in batch)})"
        ask = f"{_SELECT} r.id = l.current WHERE l.store = ?{which} ORDER BY r.id DESC"
        found += _labels(connection.execute(ask, (lineage,)))
    return sorted((label for label in found if retired or not label.retired), key=precedence)


def current_labels(
    database: LabelDatabase | None,
    lineage: str,
    features: Sequence[int] | None = None,
    query: str | None = None,
) -> list[Label]:
    """`labels_of` where there may be no database."""
    empty: list[Label] = []
    if database is None:
        return empty
    return database.read(lambda connection: labels_of(connection, lineage, features, query), empty)


def history_of(connection: "sqlite3.Connection", lineage: str, label_id: str) -> list[Label]:
    """All revisions of a label, oldest first."""
    ask = f"{_SELECT} r.label = l.id WHERE l.label_id = ? AND l.store = ? ORDER BY r.revision"
    return _labels(connection.execute(ask, (label_id, lineage)))


def names_of(database: LabelDatabase, lineage: str, features: Sequence[int]) -> dict[int, str]:
    """Feature to the text it is called by: of the first label by `precedence` that is not refuted."""

    def look(connection: "sqlite3.Connection") -> dict[int, str]:
        found: dict[int, str] = {}
        for label in labels_of(connection, lineage, features):
            if label.status != "refuted":
                found.setdefault(label.feature, label.text)
        return found

    return database.read(look, {})


def labelled_features(connection: "sqlite3.Connection", lineage: str) -> set[int]:
    """Features with a label that is not retired."""
    ask = (
        "SELECT DISTINCT l.feature FROM labels l JOIN label_revisions r ON r.id = l.current "
        "WHERE l.store = ? AND NOT r.retired"
    )
    return {int(row[0]) for row in connection.execute(ask, (lineage,))}


def n_labels_of_others(connection: "sqlite3.Connection", lineage: str) -> int:
    """Labels in the file that belong to other stores, retired ones too."""
    return int(connection.execute("SELECT count(*) FROM labels WHERE store <> ?", (lineage,)).fetchone()[0])


def precedence(label: Label) -> tuple[int, bool, int, int]:
    """Sorts by feature; in use, supported, by a human, first. Python's sort keeps the newest of equals first."""
    return label.feature, label.retired, RANK[label.status], KIND_RANK[label.author_kind]


def _check_revisable(old: Label, feature: int, changes: Mapping[str, Any], expected: int | None) -> None:
    if old.feature != feature:
        raise BadInput(f"label {old.label_id} is of feature {old.feature}, not of {feature}")
    if old.retired:
        raise BadInput(f"label {old.label_id} is retired; restore it first (label_delete with restore)")
    if expected is not None and expected != old.revision:
        from saeinterp_mcp.analysis.text import visible

        if expected > old.revision:
            raise BadInput(f"label {old.label_id} is at revision {old.revision}; there is no {expected} yet")
        names = dict.fromkeys(["author", "status", "text", *changes])
        stored = {"revision": old.revision, **{name: getattr(old, name) for name in names}}
        yours = {"revision": expected + 1, **changes}
        shown = [visible(_short_json(version)) for version in (stored, yours)]
        raise BadInput(
            f"label {old.label_id} is at revision {old.revision}, you expected {expected}: somebody revised it. "
            f"Stored: {shown[0]}. Yours, not saved: {shown[1]}. Read it with label_get, decide, and save with "
            f"expected_revision {old.revision}"
        )


def _short_json(version: Mapping[str, Any]) -> str:
    short = {k: f"{v[:200]}…" if isinstance(v, str) and len(v) > 200 else v for k, v in version.items()}
    return json.dumps(short, ensure_ascii=False)


def _by_row(connection: "sqlite3.Connection", row: int) -> Label:
    return _labels(connection.execute(f"{_SELECT} r.id = l.current WHERE l.id = ?", (row,)))[0]


def _labels(rows: Iterable[Sequence[Any]]) -> list[Label]:
    found = []
    for row in rows:
        values = dict(zip(("label_id", "feature", *FIELDS), row, strict=True))
        values["evidence"] = tuple(json.loads(values["evidence"]))
        values["retired"] = bool(values["retired"])
        found.append(Label.model_validate(values))
    return found
