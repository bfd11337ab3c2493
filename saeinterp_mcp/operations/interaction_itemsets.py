"""The table of `token_interactions` for itemsets: which sets are frequent where the feature is strong?"""

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.effects import Q_CUT, enough, p_values
from saeinterp_mcp.analysis.interactions import CellSums, SliceRows, sum_cells
from saeinterp_mcp.analysis.intervals import benjamini_hochberg
from saeinterp_mcp.analysis.itemsets import Frequent, Set, frequent_sets, n_fitting
from saeinterp_mcp.analysis.roles import Difference, mean_difference, surest
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.operations.base import Cell, percent, table_rows
from saeinterp_mcp.operations.influence import rows_of_region
from saeinterp_mcp.operations.interaction_items import ItemRows
from saeinterp_mcp.operations.interaction_tables import Found
from saeinterp_mcp.store.base import Bools, Floats, Ints

MIN_SUPPORT = 0.05
"""Share of the high rows (itemsets) or firing rows (cores) that must hold a set."""
MAX_SETS = 400
"""The most frequent ones are kept."""
ITEMSET_COLUMNS = [
    "set",
    "n",
    "n_units",
    "n_high",
    "support_high",
    "support_base",
    "lift",
    "lift_of_part",
    "firing_rate",
    "mean",
    "effect",
    "effect_low",
    "effect_high",
    "q",
    "reason",
]


def mined(held: ItemRows, rows: Ints, size: int) -> tuple[Frequent, str]:
    """The frequent sets of some rows of the slice, the most frequent MAX_SETS of them; and how they were chosen."""
    items = held.items
    least = max(1, math.ceil(MIN_SUPPORT * len(rows)))
    found = frequent_sets(
        [held.held[i][rows] for i in range(len(items))],
        size,
        least,
        lambda i, j: items[i].fits(items[j]),
        n_fitting([item.family for item in items], size),
    )
    if len(found.sets) > MAX_SETS:
        kept = sorted(sorted(range(len(found.sets)), key=lambda k: -found.counts[k])[:MAX_SETS])
        least = min(found.counts[k] for k in kept)
        found = found._replace(sets=[found.sets[k] for k in kept], counts=[found.counts[k] for k in kept])
    return found, f"in at least {percent(least / max(len(rows), 1))} of them"


def names_of(held: ItemRows, one: Set) -> list[str]:
    """The items of a set as they are shown."""
    return [visible_token(held.items[i].name) for i in one]


def cell_enough(sums: CellSums, cell: int, min_n: int) -> Bools:
    """(T,) whether a cell has rows and units for an estimate."""
    return enough(sums.n[:, cell].astype(np.int64), sums.n_units[:, cell].astype(np.int64), min_n)


def itemsets(held: ItemRows, size: int, min_n: int) -> Found:
    """Sets frequent among core and stronger rows, beside all rows of the slice, silent ones included."""
    part = held.part
    regions = [rows_of_region(part, name) for name in ("core", "high", "tail")]
    if any(rows is None for rows in regions):
        raise BadInput(
            f"feature {part.feature} fires under 20 times in the explain split, so it has no core rows to mine"
        )
    fires = held.rows.fires
    at = np.isin(part.firing[0], np.concatenate([rows for rows in regions if rows is not None]))
    high = fires[at]
    found, chosen = mined(held, high, size)
    sets = [k for k, one in enumerate(found.sets) if len(one) > 1]
    estimates = _Itemsets(held, [found.sets[k] for k in sets], high, min_n)
    lift_of = {one: _lift(held, one, found.counts[k], high) for k, one in enumerate(found.sets)}

    def of_part(one: Set) -> float:
        return max(lift_of[part] for part in combinations(one, len(one) - 1))

    def rows(pick: Ints) -> list[list[Cell]]:
        mine = [estimates.sets[k] for k in pick]
        n_high = np.array([found.counts[sets[k]] for k in pick], np.int64)
        n = estimates.strength.n[pick, 1]
        return table_rows(
            [names_of(held, one) for one in mine],
            n.astype(np.int64),
            estimates.strength.n_units[pick, 1].astype(np.int64),
            n_high,
            n_high / max(len(high), 1),
            n / max(part.n_rows, 1),
            [lift_of[one] for one in mine],
            [of_part(one) for one in mine],
            estimates.rate[pick],
            estimates.mean[pick],
            *(column[pick] for column in estimates.effect),
            estimates.q[pick],
            [estimates.reason(k) for k in pick],
        )

    # first what adds to its best part: a set that only inherits a lift says nothing new
    gain = [
        math.log(lift_of[one] / of_part(one)) * math.sqrt(found.counts[k])
        for k, one in zip(sets, estimates.sets, strict=True)
    ]
    order = np.lexsort((-np.array(gain), ~(estimates.q < Q_CUT), np.isnan(estimates.q))).tolist()
    sure = [estimates.sets[k] for k in np.flatnonzero(estimates.q < Q_CUT)]
    summary = (
        f"{len(sets)} sets of 2 to {size} are frequent ({chosen}) among {len(high)} rows of core and stronger "
        f"activation; {found.n_counted} sets were counted, {found.n_pruned} pruned. q under 0.05: {len(sure)}, of them "
        f"{sum(lift_of[one] > 1 for one in sure)} are more frequent there than in all {part.n_rows} rows."
    )
    tested = int((~np.isnan(estimates.q)).sum())
    return Found(ITEMSET_COLUMNS, order, rows, tested, summary, n_pruned=found.n_pruned)


def _lift(held: ItemRows, one: Set, n_high: int, high: Ints) -> float:
    """Rows of the set among the high ones over what its share of all rows makes one expect; both and a half."""
    everywhere = held.all_of(one)
    return (n_high + 0.5) / (len(high) * float(everywhere.mean()) + 0.5)


class _Itemsets:
    """Rows with each set against all rows without it."""

    def __init__(self, held: ItemRows, sets: list[Set], high: Ints, min_n: int) -> None:
        self.sets, self.min_n = sets, min_n
        self.strength, firing = sum_cells(held.rows, self._cells(held), 2)
        is_high = SliceRows(held.rows.unit, held.rows.n_units, high, np.ones(len(high)))
        member, _ = sum_cells(is_high, self._cells(held), 2)
        shown = cell_enough(self.strength, 1, min_n)
        compared = shown & cell_enough(self.strength, 0, min_n)
        moments = [sums.moments(1, 0) for sums in (self.strength, firing, member)]
        self.rate, self.mean = (cell_mean(sums, 1, shown) for sums in (firing, self.strength))
        effect = mean_difference(moments[0], held.part.largest)
        self.effect = Difference(*(np.where(compared, part, np.nan) for part in effect))
        p = surest([p_values(moments[0], moments[1]), *(p_values(one, one) for one in moments[1:])])
        self.q = benjamini_hochberg(np.where(compared, p, np.nan))

    def _cells(self, held: ItemRows) -> Iterator[NDArray[np.int8]]:
        return (held.all_of(one).astype(np.int8) for one in self.sets)

    def reason(self, k: int) -> str | None:
        """Why estimates are null."""
        if np.isnan(self.mean[k]):
            return f"fewer than {self.min_n} rows or {min(self.min_n, 10)} units with it"
        if np.isnan(self.q[k]):
            return f"fewer than {self.min_n} rows or {min(self.min_n, 10)} units without it"
        return "effect interval: few firing units" if np.isnan(self.effect.low[k]) else None


def cell_mean(sums: CellSums, cell: int, shown: Bools) -> Floats:
    """(T,) mean of a cell, NaN where it is not to be shown."""
    n = sums.n[:, cell]
    return np.asarray(np.divide(sums.s[:, cell], n, out=np.full(len(n), np.nan), where=shown & (n > 0)))
