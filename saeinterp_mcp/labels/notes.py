"""Notes of an investigation: hypotheses and what was predicted, seen, decided; revisions are only appended."""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.labels.database import LabelDatabase, now
from saeinterp_mcp.labels.evidence import check_cited
from saeinterp_mcp.labels.records import MAX_NOTES, Note
from saeinterp_mcp.labels.search import index_words, matching

if TYPE_CHECKING:
    import sqlite3

FIELDS = tuple(name for name in Note.model_fields if name not in ("note_id", "feature"))
"""Columns of `note_revisions` that are fields of a note."""
LINKS = ("supports", "refutes")
LISTS = ("evidence", *LINKS)
BY_WHOM = ("author", "author_kind")
_SELECT = (
    f"SELECT n.note_id, n.feature, {', '.join(f'r.{name}' for name in FIELDS)} "
    "FROM notes n JOIN note_revisions r ON "
)


def save_note(
    database: LabelDatabase,
    lineage: str,
    feature: int,
    changes: Mapping[str, Any],
    note_id: str | None = None,
) -> Note:
    """A new note, or the next revision of one with what is not in `changes` kept; nothing new when nothing changes.

    Args:
        database: where.
        lineage: of the store.
        feature: which feature it is about.
        changes: fields of `Note` to values; `kind` and `text` at least for a new one.
        note_id: the note to revise.

    Raises:
        UnknownName: no such note, or it names notes or evidence that this store does not have.
        BadInput: it says nothing or too much, belongs to another feature, or would change its kind.
    """

    def write(connection: "sqlite3.Connection") -> Note:
        if note_id is None:
            _check_new(changes)
            row = None
            status = "proposed" if changes["kind"] == "hypothesis" else None
            values = {"status": status, **changes, "revision": 1, "made_at": now()}
            note = Note(note_id=f"nt-{secrets.token_hex(6)}", feature=feature, **values)
        else:
            row, old = find_note(connection, lineage, note_id)
            _check_revisable(old, feature, changes)
            if all(getattr(old, name) == value for name, value in changes.items() if name not in BY_WHOM):
                return old
            note = old.model_copy(update={**changes, "revision": old.revision + 1, "made_at": now()})
        _check_says_something(note)
        if "evidence" in changes:
            note = note.model_copy(update={"evidence": check_cited(connection, lineage, note.evidence)})
        _check_links(connection, lineage, note, [i for name in LINKS for i in changes.get(name, ())])
        _append(connection, lineage, row, note)
        return note

    return database.write(write)


def find_note(connection: "sqlite3.Connection", lineage: str, note_id: str) -> tuple[int, Note]:
    """(row, newest revision) of a note.

    Raises:
        UnknownName: the store has no such note.
    """
    ask = "SELECT id FROM notes WHERE note_id = ? AND store = ?"
    found = connection.execute(ask, (note_id, lineage)).fetchone()
    if found is None:
        raise UnknownName(f"there is no note {note_id[:40]!r} of this store; note_get lists them")
    (note,) = _notes(connection.execute(f"{_SELECT} r.id = n.current WHERE n.id = ?", (found[0],)))
    return int(found[0]), note


def notes_of(
    connection: "sqlite3.Connection",
    lineage: str,
    feature: int | None = None,
    kind: str | None = None,
    status: str | None = None,
    query: str | None = None,
    note_id: str | None = None,
) -> list[Note]:
    """Newest revisions, those written last first; best match first where there is a query.

    Raises:
        UnknownName: there is no note of that id.
    """
    return revisions_at(connection, revisions_of(connection, lineage, feature, kind, status, query, note_id))


def revisions_of(
    connection: "sqlite3.Connection",
    lineage: str,
    feature: int | None = None,
    kind: str | None = None,
    status: str | None = None,
    query: str | None = None,
    note_id: str | None = None,
    history: bool = False,
) -> list[int]:
    """Where the notes of `notes_of` are, for `revisions_at`; with `history` all their revisions, oldest first."""
    if note_id is not None:
        find_note(connection, lineage, note_id)
    columns = ("n.store", "n.feature", "r.kind", "r.status", "n.note_id")
    asked = zip(columns, (lineage, feature, kind, status, note_id), strict=True)
    given = {column: value for column, value in asked if value is not None}
    where = " AND ".join(f"{column} = ?" for column in given)
    current = "SELECT n.id, r.id FROM notes n JOIN note_revisions r ON r.id = n.current"
    rows = connection.execute(f"{current} WHERE {where} ORDER BY r.id DESC", tuple(given.values()))
    found = {int(row): int(revision) for row, revision in rows}
    if query is not None:
        matched = matching(connection, "note", lineage, query)
        found = {row: found[row] for row in matched if row in found}
    if not history:
        return list(found.values())
    ask = "SELECT id FROM note_revisions WHERE note = ? ORDER BY revision"
    return [int(one[0]) for row in found for one in connection.execute(ask, (row,))]


def revisions_at(connection: "sqlite3.Connection", places: Sequence[int]) -> list[Note]:
    """The revisions of notes that are there."""
    ask = f"{_SELECT} r.note = n.id WHERE r.id = ?"
    return [note for place in places for note in _notes(connection.execute(ask, (place,)))]


def history_of(connection: "sqlite3.Connection", lineage: str, note_id: str) -> list[Note]:
    """All revisions of a note, oldest first."""
    ask = f"{_SELECT} r.note = n.id WHERE n.note_id = ? AND n.store = ? ORDER BY r.revision"
    return _notes(connection.execute(ask, (note_id, lineage)))


def revisions_of_feature(connection: "sqlite3.Connection", lineage: str, feature: int) -> list[Note]:
    """All revisions of all notes of a feature, in the order in which they were written."""
    ask = f"{_SELECT} r.note = n.id WHERE n.store = ? AND n.feature = ? ORDER BY r.id"
    return _notes(connection.execute(ask, (lineage, feature)))


def naming(connection: "sqlite3.Connection", lineage: str, note_ids: Sequence[str]) -> dict[str, list[Note]]:
    """Note id to the notes that now speak for or against it, in the order in which they were first written."""
    named = "SELECT 1 FROM json_each(r.{}) WHERE value IN (SELECT value FROM json_each(?))"
    linked = " OR ".join(f"(r.{way} != '[]' AND EXISTS ({named.format(way)}))" for way in LINKS)
    ask = f"{_SELECT} r.id = n.current WHERE n.store = ? AND ({linked}) ORDER BY n.id"
    found = dict[str, list[Note]]((note_id, []) for note_id in note_ids)
    wanted = canonical_json(list(found))
    for note in _notes(connection.execute(ask, (lineage, wanted, wanted))) if found else []:
        for other in (*note.supports, *note.refutes):
            if other in found:
                found[other].append(note)
    return found


def _check_new(changes: Mapping[str, Any]) -> None:
    if missing := [name for name in ("kind", "text") if not changes.get(name)]:
        raise BadInput(f"a new note needs {' and '.join(missing)}; to revise one, give its note_id")


def _check_revisable(old: Note, feature: int, changes: Mapping[str, Any]) -> None:
    if old.feature != feature:
        raise BadInput(f"note {old.note_id} is of feature {old.feature}, not of {feature}")
    if changes.get("kind", old.kind) != old.kind:
        raise BadInput(
            f"note {old.note_id} is of kind {old.kind} and stays so; write a new note of kind {changes['kind']}"
        )


def _check_says_something(note: Note) -> None:
    if not note.text.strip():
        raise BadInput("a note needs text: what is supposed, predicted, seen or decided")
    if len(note.text) > MAX_NOTES:
        raise BadInput(f"a note's text has at most {MAX_NOTES} characters, this one has {len(note.text)}")
    if note.status is not None and note.kind != "hypothesis":
        raise BadInput(f"only a hypothesis has a status; leave it out of this note of kind {note.kind}")


def _check_links(connection: "sqlite3.Connection", lineage: str, note: Note, named: Sequence[str]) -> None:
    for one in dict.fromkeys(named):
        find_note(connection, lineage, one)
    if note.note_id in (*note.supports, *note.refutes):
        raise BadInput(f"note {note.note_id} cannot speak for or against itself")
    if both := set(note.supports) & set(note.refutes):
        raise BadInput(f"a note cannot both support and refute {min(both)}")


def _append(connection: "sqlite3.Connection", lineage: str, row: int | None, note: Note) -> None:
    """Write a revision, inside a transaction; of a new note when `row` is None."""
    if row is None:
        insert = "INSERT INTO notes (note_id, store, feature, current) VALUES (?, ?, ?, 0)"
        row = connection.execute(insert, (note.note_id, lineage, note.feature)).lastrowid
        assert row is not None, "an inserted row has an id"
    values = {name: getattr(note, name) for name in FIELDS}
    values |= {name: canonical_json(list(values[name])) for name in LISTS}
    names, slots = ", ".join(values), ", ".join("?" * len(values))
    written = connection.execute(
        f"INSERT INTO note_revisions (note, {names}) VALUES (?, {slots})", (row, *values.values())
    )
    connection.execute("UPDATE notes SET current = ? WHERE id = ?", (written.lastrowid, row))
    index_words(connection, "note", row, {"text": note.text})


def _notes(rows: Iterable[Sequence[Any]]) -> list[Note]:
    found = []
    for row in rows:
        values = dict(zip(("note_id", "feature", *FIELDS), row, strict=True))
        found.append(Note.model_validate({**values, **{n: tuple(json.loads(values[n])) for n in LISTS}}))
    return found
