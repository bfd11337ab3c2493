"""Take a label out of use, or bring it back."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.revisions import retire_label
from saeinterp_mcp.operations.base import sealed
from saeinterp_mcp.operations.label_records import Author, AuthorKindArgument, OneLabel, Reason, label_fields
from saeinterp_mcp.operations.label_save import scores_of_label
from saeinterp_mcp.store.base import Store

if TYPE_CHECKING:
    pass


def label_delete(
    store: Store,
    label_id: Annotated[str, Field(max_length=40, description="Which label")],
    reason: Reason = None,
    restore: Annotated[bool, Field(description="Bring it back")] = False,
    author: Author = None,
    author_kind: AuthorKindArgument = None,
) -> OneLabel:
    """Retire a label, with the reason, or restore it. Nothing is erased: label_get with history shows it."""
    if not restore and not (reason and reason.strip()):
        raise BadInput("to retire a label needs a reason, for those who find it gone")
    who = {"author": author, "author_kind": author_kind or "agent"}
    by = {name: value for name, value in who.items() if value is not None}
    label = retire_label(store.need_labels, store.lineage, label_id, reason, restore, by)

    result = OneLabel(
        operation="label_delete",
        store=store.name,
        basis="judged",
        summary=f"Label {label.label_id} of feature {label.feature} is {'retired' if label.retired else 'in use'} "
        f"(revision {label.revision}).",
        **label_fields(label, scores_of_label(store, label)),
    )
    return sealed(result, store, {"label_id": label_id, "revision": label.revision})
