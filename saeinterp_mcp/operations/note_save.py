"""What was supposed, predicted, seen, decided on the way to a label? Written down as it happens."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from saeinterp_mcp.labels.notes import save_note
from saeinterp_mcp.labels.records import HypothesisStatus, NoteKind
from saeinterp_mcp.operations.base import Feature, sealed
from saeinterp_mcp.operations.label_records import Author, AuthorKindArgument, EvidenceIds
from saeinterp_mcp.operations.note_records import NoteId, NoteRecord, Notes, note_records
from saeinterp_mcp.store.base import Store

if TYPE_CHECKING:
    import sqlite3

NoteIds = Annotated[list[str] | None, Field(description="Notes it speaks for")]


def note_save(
    store: Store,
    feature: Feature,
    kind: Annotated[NoteKind | None, Field(description="If new")] = None,
    text: Annotated[str | None, Field(description="What it says")] = None,
    note_id: NoteId = None,
    status: Annotated[HypothesisStatus | None, Field(description="Of a hypothesis")] = None,
    evidence: EvidenceIds = None,
    supports: NoteIds = None,
    refutes: Annotated[list[str] | None, Field(description="And against")] = None,
    author: Author = None,
    author_kind: AuthorKindArgument = None,
) -> Notes:
    """Write a note on a feature, or revise one (what is left out stays). Predict before you test."""
    store.check_feature(feature)
    given = {
        "kind": kind,
        "text": text,
        "status": status,
        "evidence": _once(evidence),
        "supports": _once(supports),
        "refutes": _once(refutes),
        "author": author,
        "author_kind": author_kind,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    database = store.need_labels
    note = save_note(database, store.lineage, feature, changes, note_id)

    def look(connection: "sqlite3.Connection") -> list[NoteRecord]:
        return note_records(connection, store.lineage, [note])

    nothing: list[NoteRecord] = []
    entries = database.read(look, nothing)
    stands = f", status {note.status}" if note.status else ""
    result = Notes(
        operation="note_save",
        store=store.name,
        basis="judged",
        summary=f"{note.kind.capitalize()} {note.note_id} of feature {feature} is at revision {note.revision}{stands}.",
        total=1,
        entries=entries,
    )
    return sealed(result, store, {"feature": feature, "note_id": note.note_id, "revision": note.revision})


def _once(ids: list[str] | None) -> tuple[str, ...] | None:
    return None if ids is None else tuple(dict.fromkeys(ids))
