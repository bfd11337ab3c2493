"""The table of `token_interactions` within a family: a high level with and without the token of a low one."""

import numpy as np

from saeinterp_mcp.analysis.effects import Q_CUT, p_values
from saeinterp_mcp.analysis.interactions import sum_cells
from saeinterp_mcp.analysis.intervals import benjamini_hochberg
from saeinterp_mcp.analysis.roles import Difference, mean_difference, rate_difference, surest
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.operations.base import Cell, table_rows
from saeinterp_mcp.operations.interaction_items import ItemRows
from saeinterp_mcp.operations.interaction_itemsets import cell_enough, cell_mean
from saeinterp_mcp.operations.interaction_tables import Found
from saeinterp_mcp.operations.slicing import Slice, StoreRows
from saeinterp_mcp.store.base import Bools, Ints, Store
from saeinterp_mcp.store.manifest import FamilyInfo

COLUMNS = [
    "high",
    "low",
    "n_with",
    "n_without",
    "rate_with",
    "rate_without",
    "rate_difference",
    "rate_difference_low",
    "rate_difference_high",
    "mean_with",
    "mean_without",
    "effect",
    "effect_low",
    "effect_high",
    "q",
    "reason",
]


def family_to_split(store: Store, tokens: list[str] | None, families: list[str] | None) -> FamilyInfo:
    """The one cumulative family that is asked about.

    Raises:
        UnknownName, BadInput: no such family, not one, or an exclusive one.
    """
    if tokens or families is None or len(families) != 1:
        raise BadInput(
            "within_family is about the levels of one family: give families one name, and no tokens"
        )
    info = store.family(families[0])
    if info.encoding == "exclusive":
        cumulative = [f.name for f in store.families.values() if f.encoding == "cumulative"]
        raise BadInput(
            f"family {info.name!r} is exclusive: a sample carries one of its levels, so a low one is never seen "
            f"beside a high one. Cumulative families: {', '.join(cumulative) or 'none in this store'}"
        )
    return info


def within_family(held: ItemRows, info: FamilyInfo, min_n: int) -> Found:
    """For every two levels, rows with the high one's token: with the low one's token against without it."""
    levels = info.levels
    present = _level_rows(held.part, info)
    pairs = [(h, low) for h in range(len(levels)) for low in range(h)]
    cells = (np.where(present[h], np.where(present[low], 1, 2), 0).astype(np.int8) for h, low in pairs)
    strength, firing = sum_cells(held.rows, cells, 3)
    with_low, without = (cell_enough(strength, cell, min_n) for cell in (1, 2))
    compared = with_low & without
    moments = [sums.moments(1, 2) for sums in (strength, firing)]
    rate, effect = (
        Difference(*(np.where(compared, part, np.nan) for part in difference))
        for difference in (rate_difference(moments[1]), mean_difference(moments[0], held.part.largest))
    )
    p = surest([p_values(moments[0], moments[1]), p_values(moments[1], moments[1])])
    q = benjamini_hochberg(np.where(compared, p, np.nan))
    n = strength.n[:, 1:].astype(np.int64)

    def reason(k: int) -> str | None:
        for cell, word in enumerate(("with", "without")):
            if n[k, cell] == 0:
                return f"{word} the low level: never observed"
        if not compared[k]:
            return f"fewer than {min_n} rows or {min(min_n, 10)} units"
        return "effect interval: few firing units" if np.isnan(effect.low[k]) else None

    def rows(pick: Ints) -> list[list[Cell]]:
        rates, means = (
            [cell_mean(sums, cell, shown)[pick] for cell, shown in ((1, with_low), (2, without))]
            for sums in (firing, strength)
        )
        return table_rows(
            [levels[pairs[k][0]] for k in pick],
            [levels[pairs[k][1]] for k in pick],
            *n[pick].T,
            *rates,
            *(part[pick] for part in rate),
            *means,
            *(part[pick] for part in effect),
            q[pick],
            [reason(int(k)) for k in pick],
        )

    order = np.lexsort((-np.abs(np.nan_to_num(effect.value)), np.nan_to_num(q, nan=2.0)))
    sure = np.flatnonzero(q < Q_CUT)
    sign = np.where(effect.sign[sure] != 0, effect.sign[sure], rate.sign[sure])
    tested = int((~np.isnan(q)).sum())
    summary = (
        f"{info.name}: {tested} of {len(pairs)} pairs of levels seen both ways with enough rows. q under 0.05: "
        f"{int((sign > 0).sum())} with more activation where the low level's token is there too, "
        f"{int((sign < 0).sum())} with less."
    )
    warnings = [
        "a level implies those below it, so a low one can only be missing where a view was masked or cut: "
        "the rows without it are that artefact"
    ]
    return Found(COLUMNS, order.tolist(), rows, tested, summary, warnings=warnings)


def _level_rows(part: Slice, info: FamilyInfo) -> list[Bools]:
    """For each level, (R,) whether a row holds a token of just that level."""
    rows = StoreRows(part.store, part.split, part.scoping, part.feature)
    found = []
    for level in info.levels:
        here = np.zeros(rows.n_rows, bool)
        for token, its in info.tokens.items():
            if its == level and token in part.store.token_ids:
                here |= rows.has_token(token)
        found.append(here if part.mask is None else here[part.mask])
    return found
