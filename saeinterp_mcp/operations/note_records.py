"""Notes as answers show them, and the arguments that operations on notes share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from saeinterp_mcp.labels.notes import naming
from saeinterp_mcp.labels.records import Note
from saeinterp_mcp.operations.base import Result
from saeinterp_mcp.operations.label_records import shown_text

if TYPE_CHECKING:
    import sqlite3

NoteId = Annotated[str | None, Field(max_length=40, description="Which note")]


class NoteRecord(BaseModel):
    """A revision of a note, as an answer shows it: control and invisible characters spelled out."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    note_id: str
    revision: int
    feature: int
    kind: str
    text: str
    status: str | None
    """Of a hypothesis."""
    evidence: list[str]
    supports: list[str]
    refutes: list[str]
    observations_for: int | None = None
    """Of a hypothesis or prediction: observations that now support it."""
    observations_against: int | None = None
    predictions: int | None = None
    """Of a hypothesis: predictions that name it."""
    author: str | None
    author_kind: str
    made_at: str


class Notes(Result):
    """Notes. `evidence` names this answer; that of an entry names what it cites."""

    total: int
    """Entries that match, before `limit`."""
    entries: list[NoteRecord]


def note_records(connection: "sqlite3.Connection", lineage: str, notes: Sequence[Note]) -> list[NoteRecord]:
    """Notes for an answer, with what others say of them."""
    asked = [note.note_id for note in notes if note.kind in ("hypothesis", "prediction")]
    others = naming(connection, lineage, asked)
    return [note_record(note, others.get(note.note_id)) for note in notes]


def note_record(note: Note, others: Sequence[Note] | None) -> NoteRecord:
    """A note for an answer; `others` are those that name it, None where that does not matter."""
    values = {name: shown_text(value) for name, value in note.model_dump(exclude={"evidence"}).items()}
    if others is not None:
        seen = [one for one in others if one.kind == "observation"]
        values["observations_for"] = sum(note.note_id in one.supports for one in seen)
        values["observations_against"] = sum(note.note_id in one.refutes for one in seen)
    if others is not None and note.kind == "hypothesis":
        values["predictions"] = sum(one.kind == "prediction" for one in others)
    lists = {name: list(values[name]) for name in ("supports", "refutes")}
    return NoteRecord(**{**values, **lists, "evidence": list(note.evidence)})
