"""Statistics beside excerpts: with which tokens and groups does the feature fire more often, or less, than without?

Counted on the whole explain split by the operations that agents ask, so silent rows count and chance is kept out.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.explainers.wording import filled, template
from saeinterp_mcp.excerpts.show import fenced
from saeinterp_mcp.operations.base import TableResult
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.token_influence import token_influence
from saeinterp_mcp.store.base import Store

N_TOKENS, N_VALUES = 12, 4
"""Lines about tokens, and about the values of each group and attribute."""
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
    groups = {by: group_sweep(store, feature, by, limit=N_VALUES, seed=seed) for by in _groups(store)}
    compared = any(row["q"] is not None for table in (tokens, *groups.values()) for row in _rows(table))
    lines = [
        *_token_lines(tokens),
        *(line for by, table in groups.items() for line in _group_lines(by, table)),
    ]
    if lines:
        return f"\n{filled(template(f'statistics_{store.manifest.kind}'), table=fenced(lines))}\n"
    return f"\n{template('statistics_none')}\n" if compared else ""


def _token_lines(table: TableResult) -> Iterable[str]:
    for row in _rows(table):
        if row["role"] not in (None, "neutral"):
            yield (
                f'token "{_quoted(row["token"])}": fires on {_percent(row["firing_rate"])} of {row["n"]} with it, '
                f"{_percent(row['rate_without'])} without; mean activation {row['effect']:+.3g} with it"
            )


def _group_lines(by: str, table: TableResult) -> Iterable[str]:
    for row in _rows(table):
        if row["q"] is not None and row["q"] < SURE:
            yield (
                f'{by}="{_quoted(row["value"])}": fires on {_percent(row["firing_rate"])} of {row["n"]} there, '
                f"mean activation {row['effect']:+.3g} against all others"
            )


def _rows(table: TableResult) -> Iterable[Mapping[str, Any]]:
    return (dict(zip(table.columns, row, strict=True)) for row in table.rows)


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
