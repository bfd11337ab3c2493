"""Which tokens or families go with a feature, and which against it?"""

from collections.abc import Sequence
from typing import Annotated, Any, get_args

import numpy as np
from pydantic import Field

from saeinterp_mcp.analysis.intervals import mean
from saeinterp_mcp.analysis.roles import Role
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.operations.base import (
    Cell,
    Cursor,
    Feature,
    Given,
    Limit,
    MinN,
    ScopeArgument,
    Seed,
    SplitArgument,
    TableResult,
    Where,
    Window,
    page,
    sealed,
    table_rows,
)
from saeinterp_mcp.operations.influence import By, Influence, Region, influence_of
from saeinterp_mcp.operations.slicing import Scoping, make_slice
from saeinterp_mcp.store.base import Ints, Store

ROLES = get_args(Role)
COLUMNS = [
    "n",
    "n_units",
    "n_firing",
    "firing_rate",
    "rate_without",
    "rate_ratio",
    "log_odds",
    "effect",
    "effect_low",
    "effect_high",
    "coverage_core",
    "coverage_tail",
    "coverage_base",
    "role",
    "acts_on",
    "q",
    "tail_q",
    "reason",
]


class TokenInfluence(TableResult):
    """Tokens, or any level of a family, present against absent; enhancers and suppressors share the rows.

    q is of the surest of three tests (mean, firing rate, strength when firing; p times their number) over all rows
    compared. tail_q is of coverage_tail above coverage_core. acts_on names what an interval puts off zero.
    """

    by: By
    region: Region
    """all: effect is a difference of mean activation. core, tail: of the share of rows in that region; so are rates."""
    scope: str | None
    given: str | None
    n: int
    n_units: int
    n_firing: int
    """Rows of the slice that fire, or lie in the region."""
    n_core: int | None
    n_tail: int | None
    n_compared: int
    """Rows of the table with enough data on both sides: what q is over."""
    n_roles: dict[str, int]
    """Of all rows, shown or not."""


def token_influence(
    store: Store,
    feature: Feature,
    by: Annotated[By, Field(description="Or families")] = "token",
    region: Annotated[Region, Field(description="core, tail: share of rows there")] = "all",
    given: Given = None,
    where: Where = None,
    scope: ScopeArgument = "at",
    window: Window = 16,
    min_n: MinN = 20,
    limit: Limit = 16,
    cursor: Cursor = None,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> TokenInfluence:
    """Tokens (or families, any level) that go with a feature or against it: rows with one against all without."""
    store.need_full_coverage("token_influence")
    part = make_slice(store, feature, split, where, Scoping(scope, window), given)
    if by == "family" and not store.families:
        raise NotInStore(f"store {store.name!r} has no families; ask by token")
    found = influence_of(part, by, region, min_n)
    arguments: dict[str, Any] = {
        "feature": feature,
        "by": by,
        "region": region,
        "given": given,
        "where": where,
        "scope": scope,
        "window": window,
        "min_n": min_n,
        "split": split,
        "seed": seed,
    }
    names = store.tokens if by == "token" else list(store.families)
    order = found.order()
    if by == "token":
        order = order[found.effects.n[order] > 0]
    shown, next_cursor, more = page(order.tolist(), limit, cursor, store, ["token_influence", arguments])
    result = TokenInfluence(
        operation="token_influence",
        store=store.name,
        basis="observed",
        summary=_summary(found, by, region),
        warnings=[*part.warnings, *_warnings(found, region)],
        seed=seed,
        split=split,
        where=where,
        feature=feature,
        by=by,
        region=region,
        scope=scope if store.is_sequence else None,
        given=given,
        n=part.n_rows,
        n_units=part.n_units,
        n_firing=len(part.firing[0]),
        n_core=found.coverage.n_core if found.coverage else None,
        n_tail=found.coverage.n_tail if found.coverage else None,
        n_compared=int(found.effects.compared.sum()),
        n_roles={role: found.roles.count(role) for role in ROLES},
        columns=[by, *COLUMNS],
        rows=_rows(found, names, _by_role(found, shown), part.n_rows),
        next_cursor=next_cursor,
        more=more,
    )
    return sealed(result, store, {**arguments, "limit": limit, "cursor": cursor})


def _by_role(found: Influence, shown: Sequence[int]) -> Ints:
    """A page with its suppressors after the enhancers."""
    last = {"suppressor": 1, "neutral": 2, None: 3}
    return np.array(sorted(shown, key=lambda k: last.get(found.roles[k], 0)), np.int64)


def _rows(found: Influence, names: list[str], pick: Ints, n_rows: int) -> list[list[Cell]]:
    few, nothing = found.effects.only(pick), np.full(len(pick), np.nan)
    without = mean(few.firing.reference)
    core, tail, tail_q = (
        (c.core[pick], c.tail[pick], c.q[pick]) if (c := found.coverage) else (nothing, nothing, nothing)
    )
    return table_rows(
        [visible_token(names[k]) for k in pick],
        few.n,
        few.n_units,
        few.n_firing,
        few.firing_rate,
        np.where(few.compared, without, np.nan),
        few.rate_ratio,
        few.log_odds,
        *(part[pick] for part in found.effect),
        core,
        tail,
        few.n / max(n_rows, 1),
        [found.roles[k] for k in pick],
        [found.acts_on(k) for k in pick],
        few.q,
        tail_q,
        [found.reason(k) for k in pick],
    )


def _warnings(found: Influence, region: Region) -> list[str]:
    warnings = list(found.coverage.warnings) if found.coverage else []
    if found.coverage is None:
        warnings.append("coverage is null: under 20 firings in the explain split, so there are no regions")
    if region != "all":
        warnings.append(f"effect and rates are of being in the {region} region, not of activation")
    return warnings


def _summary(found: Influence, by: By, region: Region) -> str:
    n_compared = int(found.effects.compared.sum())
    kind = {"token": "tokens", "family": "families"}[by]
    if not n_compared:
        return f"None of the {kind} has enough rows with it and without it for a comparison."
    counts = ", ".join(f"{found.roles.count(role)} {role}" for role in ROLES)
    what = "mean activation" if region == "all" else f"the share of rows in the {region} region"
    return (
        f"Of {n_compared} {kind} compared: {counts}. effect is the difference of {what}, with less without."
    )
