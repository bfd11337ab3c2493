"""The rule of a label from a file, as this store would have kept it."""

from functools import lru_cache

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.operations.known_names import checked_rule
from saeinterp_mcp.operations.slicing import Scoping
from saeinterp_mcp.store.base import Store


def normal_rule(store: Store, label: Label) -> tuple[Label, str | None]:
    """(the label with its rule, scope and window in their normal form, how the rule reads tokens).

    Raises:
        UnknownName, BadInput: the rule cannot be read in this store, or reads the feature's own activation.
    """
    if label.rule is None or not label.rule.strip():
        return label.model_copy(update={"rule": None, "scope": None, "window": None}), None
    canonical, uses_tokens = _checked(store, label.rule)
    if label.scope not in (None, "at", "before", "sample"):
        raise BadInput(f"scope is {label.scope[:40]!r}, expected at, before or sample")
    scope = (label.scope or "at") if store.is_sequence else None
    default = Scoping()
    window = (label.window or default.window) if scope == "before" else None
    scoping = Scoping(scope or "at", window or default.window)  # type: ignore[arg-type]
    if not store.is_sequence and label.scope not in (None, "at"):
        scoping = Scoping(label.scope)  # type: ignore[arg-type]
    scoping.check(store)
    changes = {"rule": canonical, "scope": scope, "window": window}
    return label.model_copy(update=changes), scoping.in_words(store, uses_tokens)


@lru_cache(maxsize=4096)
def _checked(store: Store, rule: str) -> tuple[str, bool]:
    """(normal form, whether it reads tokens): many labels of a file may share a rule."""
    checked = checked_rule(rule, store)
    if checked.needs().uses_feature:
        raise BadInput(f"rule {rule[:80]!r} reads the feature's own activation")
    return checked.canonical(), checked.needs().uses_tokens
