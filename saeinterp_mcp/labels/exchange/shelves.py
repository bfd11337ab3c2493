"""Labels and notes as one kind of thing: records with an id, revisions, and a place in the database."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from saeinterp_mcp.errors import UnknownName
from saeinterp_mcp.labels import notes, revisions
from saeinterp_mcp.labels.records import Label, Note

if TYPE_CHECKING:
    import sqlite3


@dataclass(frozen=True)
class Shelf:
    """How records of one kind are found and kept."""

    kind: Literal["label", "note"]
    id_field: Literal["label_id", "note_id"]
    prefix: str
    find_newest: Callable[["sqlite3.Connection", str, str], tuple[int, Any]]
    history: Callable[["sqlite3.Connection", str, str], list[Any]]
    append: Callable[["sqlite3.Connection", str, int | None, Any], None]

    def id_of(self, record: Label | Note) -> str:
        """Of a record of this kind."""
        return str(getattr(record, self.id_field))

    def find(self, connection: "sqlite3.Connection", lineage: str, record_id: str) -> tuple[int, Any] | None:
        """(row, newest revision), or None where the store has no such record."""
        try:
            return self.find_newest(connection, lineage, record_id)
        except UnknownName:
            return None

    def is_elsewhere(self, connection: "sqlite3.Connection", record_id: str) -> bool:
        """Whether another store has the id, in the same labels file."""
        ask = f"SELECT 1 FROM {self.kind}s WHERE {self.id_field} = ?"
        return connection.execute(ask, (record_id,)).fetchone() is not None

    def id_from(self, *parts: object) -> str:
        """An id that is the same whenever it is made from the same parts."""
        return f"{self.prefix}-{sha256(chr(0).join(map(str, parts)).encode()).hexdigest()[:12]}"


LABELS = Shelf("label", "label_id", "lb", revisions.find_label, revisions.history_of, revisions.append)
NOTES = Shelf("note", "note_id", "nt", notes.find_note, notes.history_of, notes._append)
