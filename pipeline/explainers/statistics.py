"""Statistics beside excerpts: with which tokens and groups does the feature fire more often, or less, than without?

Counted on the whole explain split with the arithmetic of the operations: silent rows count and chance is kept out.
"""

from collections.abc import Iterable
from typing import Any

from pipeline.explainers.wording import filled, template
from saeinterp_mcp.analysis.effects import Effects
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.excerpts.show import fenced
from saeinterp_mcp.operations.effects import effects_of
from saeinterp_mcp.operations.slicing import Labels, Scoping, make_slice
from saeinterp_mcp.operations.token_influence import TokenInfluence, token_influence
from saeinterp_mcp.store.base import Store

N_TOKENS, N_VALUES = 12, 4
"""Lines about tokens, and about the values of each group and attribute."""
MIN_N = 20
"""Samples with a value that are compared with the others."""
SURE = 0.05
"""Largest q that is shown."""


def statistics(store: Store, feature: int, seed: int, wanted: bool | None) -> str:
    """The part of a request about them; empty where they are not wanted.

    Args:
        store: where it is counted.
        feature: which.
        seed: of the operations.
        wanted: None: in sets, where no token of an excerpt is marked; not in a store of chosen examples.

    Raises:
        NotInStore: they are wanted, and the store holds only chosen examples.
    """
    if wanted is None:
        wanted = not store.is_sequence and store.manifest.coverage == "full"
    if not wanted:
        return ""
    tokens = token_influence(store, feature, limit=N_TOKENS, seed=seed)
    groups = {by: _effects(store, feature, by) for by in _groups(store)}
    compared = bool(tokens.n_compared) or any(effects.compared.any() for _, effects in groups.values())
    lines = [
        *_token_lines(tokens),
        *(line for by, found in groups.items() for line in _group_lines(by, *found)),
    ]
    if lines:
        return f"\n{filled(template(f'statistics_{store.manifest.kind}'), table=fenced(lines))}\n"
    return f"\n{template('statistics_none')}\n" if compared else ""


def _token_lines(table: TokenInfluence) -> Iterable[str]:
    for cells in table.rows:
        row: dict[str, Any] = dict(zip(table.columns, cells, strict=True))
        if row["role"] not in (None, "neutral"):
            yield (
                f'token "{_quoted(row["token"])}": fires on {_percent(row["firing_rate"])} of {row["n"]} with it, '
                f"{_percent(row['rate_without'])} without; mean activation {row['effect']:+.3g} with it"
            )


def _effects(store: Store, feature: int, by: str) -> tuple[Labels, Effects]:
    """Each value of a group or attribute against all others; `group_sweep` would look for confounders too."""
    labels = make_slice(store, feature, "explain", None, Scoping()).labels(f"group.{by}")
    return labels, effects_of(labels, MIN_N)


def _group_lines(by: str, labels: Labels, effects: Effects) -> Iterable[str]:
    for k in effects.ranked()[:N_VALUES]:
        if effects.q[k] < SURE:
            yield (
                f'{by}="{_quoted(visible_token(str(labels.names[k])))}": fires on '
                f"{_percent(effects.firing_rate[k])} of {effects.n[k]} there, "
                f"mean activation {effects.effect[k]:+.3g} against all others"
            )


def _groups(store: Store) -> list[str]:
    """The primary group and its attributes: what excerpts of sets show."""
    return [
        name
        for group in store.manifest.groups
        if group.primary
        for name in (group.name, *(f"{group.name}.{attribute}" for attribute in group.attributes))
    ]


def _quoted(text: Any) -> str:
    return str(text).replace('"', "'")


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100 * share:.3g} %"
