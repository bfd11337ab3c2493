"""What was supposed, predicted, seen and decided so far?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, get_args

from pydantic import Field

from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.labels.notes import revisions_at, revisions_of
from saeinterp_mcp.labels.records import HypothesisStatus, NoteKind
from saeinterp_mcp.operations.base import Cursor, Limit, page, sealed
from saeinterp_mcp.operations.label_records import Query
from saeinterp_mcp.operations.note_records import NoteId, NoteRecord, Notes, note_records
from saeinterp_mcp.store.base import Store

if TYPE_CHECKING:
    import sqlite3

ROOM = 4_200
"""Bytes of entries in one answer, about 1,200 tokens; at least one is shown, whole."""


def note_get(
    store: Store,
    feature: Annotated[int | None, Field(ge=0, description="Feature index; all when left out")] = None,
    kind: Annotated[str | None, Field(description="Only these")] = None,
    status: Annotated[str | None, Field(description="Of hypotheses")] = None,
    query: Query = None,
    note_id: NoteId = None,
    history: Annotated[bool, Field(description="All revisions")] = False,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Notes:
    """Read notes, newest first, or best match first: what was supposed, predicted, seen, decided."""
    if feature is not None:
        store.check_feature(feature)
    _check_known("kind", kind, get_args(NoteKind))
    _check_known("status", status, get_args(HypothesisStatus))
    asked = {
        "feature": feature,
        "kind": kind,
        "status": status,
        "query": query if query and query.strip() else None,
        "note_id": note_id,
    }

    def find(connection: "sqlite3.Connection") -> tuple[list[int], list[NoteRecord]]:
        found = revisions_of(connection, store.lineage, **asked, history=history)  # type: ignore[arg-type]
        first = page(found, limit, cursor, store, call)[0]
        return found, note_records(connection, store.lineage, revisions_at(connection, first))

    call = ["note_get", asked, history]
    nothing: tuple[list[int], list[NoteRecord]] = ([], [])
    found, records = store.labels.read(find, nothing) if store.labels else nothing
    records = _fitting(records)
    _, next_cursor, more = page(found, min(limit, max(1, len(records))), cursor, store, call)
    about = f" of feature {feature}" if feature is not None else ""
    result = Notes(
        operation="note_get",
        store=store.name,
        basis="judged",
        summary=f"{_counted(len(found), 'revision' if history else 'note')}{about}, {len(records)} shown.",
        warnings=[]
        if store.labels
        else [f"store {store.name} has no place for notes; name a file with --labels FILE"],
        total=len(found),
        entries=records,
        next_cursor=next_cursor,
        more=more,
    )
    return sealed(result, store, {**asked, "history": history, "limit": limit, "cursor": cursor})


def _check_known(name: str, value: str | None, known: Sequence[str]) -> None:
    """Words that are listed once for all, at `note_save`."""
    if value is not None and value not in known:
        raise BadInput(f"there are no notes of {name} {value[:40]!r}; {nearest(value, known)}")


def _fitting(records: Sequence[NoteRecord]) -> list[NoteRecord]:
    """The first records that fit in the room of an answer."""
    sizes = [len(record.model_dump_json().encode("utf-8")) for record in records]
    n = next((i for i in range(len(sizes)) if sum(sizes[: i + 1]) > ROOM), len(sizes))
    return list(records[: max(n, 1)])


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
