"""What do tokens or families do together that they do not do alone?"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.operations.base import (
    Cursor,
    Feature,
    Given,
    Limit,
    MinN,
    ScopeArgument,
    Seed,
    SplitArgument,
    Table,
    TableResult,
    Where,
    Window,
    page,
    sealed,
)
from saeinterp_mcp.operations.interaction_cores import minimal_cores
from saeinterp_mcp.operations.interaction_items import ItemRows, candidates, fitting, named_items
from saeinterp_mcp.operations.interaction_itemsets import itemsets
from saeinterp_mcp.operations.interaction_levels import family_to_split, within_family
from saeinterp_mcp.operations.interaction_tables import Found, pairs
from saeinterp_mcp.operations.slicing import Scoping, Slice, make_slice
from saeinterp_mcp.store.base import Store

Method = Literal["pairs", "itemsets", "minimal_cores", "within_family"]


class TokenInteractions(TableResult):
    """Sets of tokens or families. A family stands for any of its levels, `family>=12` for those from 12.

    pairs, surest first: cells 11 (both), 10 (first alone), 01, 00; interaction is 11 - 10 - 01 + 00, effect 11 - 00.
    itemsets, first what adds to its parts: support_high among core and stronger rows, support_base among all; effect is
    rows with the set less rows without. minimal_cores, cores first: kept is the share of the mean that is left without
    the member that is missed least; member is the item that speaks against. within_family: rows with the high level.
    """

    method: Method
    scope: str | None
    given: str | None
    n: int
    n_units: int
    n_firing: int
    items: list[str]
    """Tokens and families that sets were made of."""
    n_tested: int
    """Sets with an estimate: what q is over."""
    n_pruned: int
    """Sets left out unseen, since a part of them is too rare."""
    details: Table | None


def token_interactions(
    store: Store,
    feature: Feature,
    tokens: Annotated[list[str] | None, Field(description="Tokens; none: the surest")] = None,
    families: Annotated[list[str] | None, Field(description="name or name>=level")] = None,
    method: Annotated[Method, Field(description="What is compared")] = "pairs",
    size: Annotated[int, Field(ge=2, le=4, description="Largest set")] = 2,
    given: Given = None,
    where: Where = None,
    scope: ScopeArgument = "at",
    window: Window = 16,
    min_n: MinN = 20,
    limit: Limit = 8,
    cursor: Cursor = None,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> TokenInteractions:
    """Tokens or families together against each alone (none named: the surest).

    itemsets: sets frequent in strong rows. minimal_cores: smallest sets that keep the activation. within_family: a high
    level with and without a lower one.
    """
    store.need_full_coverage("token_interactions")
    part = make_slice(store, feature, split, where, Scoping(scope, window), given)
    held, found = _found(part, tokens, families, method, size, min_n)
    arguments: dict[str, Any] = {
        "feature": feature,
        "tokens": tokens,
        "families": families,
        "method": method,
        "size": size,
        "given": given,
        "where": where,
        "scope": scope,
        "window": window,
        "min_n": min_n,
        "split": split,
        "seed": seed,
    }
    shown, next_cursor, more = page(found.order, limit, cursor, store, ["token_interactions", arguments])
    pick = np.array(shown, np.int64)
    result = TokenInteractions(
        operation="token_interactions",
        store=store.name,
        basis="observed",
        summary=found.summary,
        warnings=[*part.warnings, *found.warnings],
        seed=seed,
        split=split,
        where=where,
        feature=feature,
        method=method,
        scope=scope if store.is_sequence else None,
        given=given,
        n=part.n_rows,
        n_units=part.n_units,
        n_firing=len(part.firing[0]),
        items=[visible_token(item.name) for item in held.items],
        n_tested=found.n_tested,
        n_pruned=found.n_pruned,
        columns=found.columns,
        rows=found.rows(pick),
        details=found.more(pick),
        next_cursor=next_cursor,
        more=more,
    )
    return sealed(result, store, {**arguments, "limit": limit, "cursor": cursor})


def _found(
    part: Slice, tokens: list[str] | None, families: list[str] | None, method: Method, size: int, min_n: int
) -> tuple[ItemRows, Found]:
    """The rows with their items, and the table of the method."""
    if method == "within_family":
        info = family_to_split(part.store, tokens, families)
        held = ItemRows(part, [])
        return held, within_family(held, info, min_n)
    if tokens is None and families is None:
        items = candidates(part, min_n)
    else:
        items = named_items(part.store, tokens, families)
        if len(items) < 2:
            raise BadInput("an interaction needs two tokens or families; name more, or none for the surest")
        if not fitting(items, 2):
            raise BadInput("all that is named is of one family, and two levels are no set; try within_family")
    held = ItemRows(part, items)
    if method == "pairs":
        if size != 2:
            raise BadInput(f"size {size}: pairs are of 2; itemsets and minimal_cores go up to 4")
        return held, pairs(held, min_n)
    return held, (itemsets if method == "itemsets" else minimal_cores)(held, size, min_n)
