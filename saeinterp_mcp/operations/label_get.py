"""Which labels are there, what do they rest on, and how did they come about?"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from saeinterp_mcp.labels.heldout import scores_of
from saeinterp_mcp.labels.records import Label, Status
from saeinterp_mcp.labels.revisions import find_label, history_of, labels_of
from saeinterp_mcp.operations.base import Cursor, Result, page, sealed
from saeinterp_mcp.operations.label_records import (
    LabelId,
    LabelRecord,
    Query,
    label_record,
    shown_text,
)
from saeinterp_mcp.operations.label_save import OUTDATED, newest_test, rule_scope, scores_of_label
from saeinterp_mcp.store.base import Store

if TYPE_CHECKING:
    import sqlite3

SHOWN_IN_HISTORY = (
    "revision",
    "text",
    "rule",
    "status",
    "confidence",
    "author",
    "author_kind",
    "retired",
    "reason",
    "made_at",
)


NOTES_IN_LISTS = 300
"""Characters of a label's notes where several labels are shown."""


class LabelGet(Result):
    """Labels: by feature, best first; with a query best match first."""

    total: int
    """Labels that match, before `limit`."""
    n_features: int
    """Features with a label that matches."""
    labels: list[LabelRecord]


def label_get(
    store: Store,
    feature: Annotated[int | None, Field(ge=0, description="Feature index; all when left out")] = None,
    label_id: LabelId = None,
    status: Annotated[Status | None, Field(description="Only these")] = None,
    author: Annotated[
        str | None, Field(description="Only of this author, or kind (human, agent, import)")
    ] = None,
    query: Query = None,
    history: Annotated[bool, Field(description="All revisions, retired labels too")] = False,
    limit: Annotated[int, Field(ge=1, le=100, description="Labels shown")] = 6,
    cursor: Cursor = None,
) -> LabelGet:
    """Read labels with their evidence and held-out scores: of a feature, or of all by status, author or words."""
    if feature is not None:
        store.check_feature(feature)
    asked = {
        "feature": feature,
        "label_id": label_id,
        "status": status,
        "author": author,
        "query": query,
        "history": history,
    }
    empty: list[Label] = []

    def look(connection: "sqlite3.Connection") -> list[Label]:
        if label_id is not None:
            return [find_label(connection, store.lineage, label_id)[1]]
        words = query if query and query.strip() else None
        return labels_of(
            connection, store.lineage, None if feature is None else [feature], words, retired=history
        )

    def fits(label: Label) -> bool:
        return (
            (feature is None or label.feature == feature)
            and (status is None or label.status == status)
            and (author is None or author in (label.author, label.author_kind))
        )

    database = store.labels
    found = [label for label in (database.read(look, empty) if database else empty) if fits(label)]
    shown, next_cursor, more = page(found, limit, cursor, store, ["label_get", asked])

    def complete_records(connection: "sqlite3.Connection") -> list[LabelRecord]:
        return [_record(connection, store, label, history, len(shown) == 1) for label in shown]

    records: list[LabelRecord] = []
    if database and shown:
        records = database.read(complete_records, records)
    outdated = [
        f"label {label.label_id}: {OUTDATED}"
        for label in shown
        if label.status == "supported" and newest_test(store, scores_of_label(store, label)) is None
    ]
    no_place = (
        [] if database else [f"store {store.name} has no place for labels; name a file with --labels FILE"]
    )
    n_features = len({label.feature for label in found})
    about = (
        f" of feature {feature}"
        if feature is not None
        else f" of {n_features} feature{'' if n_features == 1 else 's'}"
    )
    result = LabelGet(
        operation="label_get",
        store=store.name,
        basis="judged",
        summary=f"{len(found)} label{'' if len(found) == 1 else 's'}{about}{_counts(found)}.",
        warnings=[*outdated, *no_place],
        total=len(found),
        n_features=n_features,
        labels=records,
        next_cursor=next_cursor,
        more=more,
    )
    return sealed(result, store, {**asked, "limit": limit, "cursor": cursor})


def _record(
    connection: "sqlite3.Connection", store: Store, label: Label, history: bool, whole: bool
) -> LabelRecord:
    scores = scores_of(connection, store.lineage, label, rule_scope(store, label))
    record = label_record(label, scores)
    if not whole and record.notes and len(record.notes) > NOTES_IN_LISTS:
        cut = f"{record.notes[:NOTES_IN_LISTS]} [+{len(record.notes) - NOTES_IN_LISTS} chars]"
        record = record.model_copy(update={"notes": cut})
    if not history:
        return record
    revisions: list[dict[str, Any]] = [
        {name: shown_text(getattr(one, name)) for name in SHOWN_IN_HISTORY}
        for one in history_of(connection, store.lineage, label.label_id)
    ]
    return record.model_copy(update={"history": revisions})


def _counts(found: list[Label]) -> str:
    kinds: dict[str, int] = {}
    for label in found:
        name = "retired" if label.retired else label.status
        kinds[name] = kinds.get(name, 0) + 1
    return " (" + ", ".join(f"{n} {name}" for name, n in sorted(kinds.items())) + ")" if kinds else ""
