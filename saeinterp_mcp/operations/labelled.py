"""Labels in answers about features: filled in when an answer is sealed, because they are no part of its evidence.

What an answer says of a feature's activations stays true when somebody names the feature, so its evidence must too.
"""

from typing import Any, TypeVar

from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.labels.revisions import current_labels
from saeinterp_mcp.operations.base import Result
from saeinterp_mcp.store.base import Store

R = TypeVar("R", bound=Result)
SHOWN_LABELS = 3
SHOWN = 80
"""Characters of a label beside a feature's number."""


def labelled(result: R, store: Store) -> R:
    """The answer with the names of its features: in `label`, `labels`, and columns `label` beside `feature`."""
    body = result.model_dump(mode="json")
    tables = [table for table in [body, *body.values()] if _names_features(table)]
    own = body.get("feature") if "label" in body else None
    features = {row[table["columns"].index("feature")] for table in tables for row in table["rows"]}
    if not (features or own is not None):
        return result
    wanted = sorted(features | ({own} if own is not None else set()))
    found = current_labels(store.labels, store.lineage, wanted)
    if not found:
        return result
    names: dict[int, str] = {}
    for label in found:
        if label.status != "refuted":
            names.setdefault(label.feature, _short(label.text))
    for table in tables:
        at, of = table["columns"].index("label"), table["columns"].index("feature")
        for row in table["rows"]:
            row[at] = names.get(row[of])
    if own is not None:
        body["label"] = names.get(own)
        body["labels"] = [
            {
                "label_id": label.label_id,
                "text": visible(label.text),
                "status": label.status,
                "author_kind": label.author_kind,
                "revision": label.revision,
            }
            for label in found
            if label.feature == own
        ]
        if (n_more := len(body["labels"]) - SHOWN_LABELS) > 0:
            del body["labels"][SHOWN_LABELS:]
            body["warnings"].append(f"{n_more} more labels of this feature: label_get shows them")
    named = type(result).model_validate(body)
    named._bare = result.bare
    return named


def _names_features(table: Any) -> bool:
    return (
        isinstance(table, dict)
        and isinstance(table.get("columns"), list)
        and {"feature", "label"} <= set(table["columns"])
    )


def _short(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
