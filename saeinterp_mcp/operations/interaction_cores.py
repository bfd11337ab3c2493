"""The table of `token_interactions` for minimal cores: the smallest sets whose rows keep most of the feature."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.effects import Q_CUT, p_values
from saeinterp_mcp.analysis.interactions import sum_cells
from saeinterp_mcp.analysis.intervals import benjamini_hochberg, rate_interval
from saeinterp_mcp.analysis.itemsets import Set
from saeinterp_mcp.analysis.roles import Difference, rate_difference, surest
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.operations.base import Cell, Table, table_rows
from saeinterp_mcp.operations.interaction_items import ItemRows
from saeinterp_mcp.operations.interaction_itemsets import cell_enough, cell_mean, mined, names_of
from saeinterp_mcp.operations.interaction_tables import Found
from saeinterp_mcp.store.base import Bools, Floats, Ints

RETAINED = 0.8
"""A member is needed if without it less than this share of the mean is left (the loadout seed's share)."""
COLUMNS = [
    "set",
    "core",
    "n",
    "n_units",
    "n_firing",
    "firing_rate",
    "rate_low",
    "rate_high",
    "mean",
    "coverage",
    "kept",
    "member",
    "reason",
]
DROP_COLUMNS = ["set", "dropped", "n", "firing_rate", "mean", "loss", "loss_low", "loss_high", "kept", "q"]


def minimal_cores(held: ItemRows, size: int, min_n: int) -> Found:
    """Sets frequent among firing rows of which every member is needed, and to which no other need be added."""
    found, chosen = mined(held, held.rows.fires, size)
    drops = _Drops(held, found.sets, min_n)
    verdicts = [_verdict(drops, one) for one in found.sets]
    is_core = np.array([verdict.core is True for verdict in verdicts], bool)
    count = np.array(found.counts, np.int64)
    order = np.lexsort((-count, ~is_core)).tolist()

    names = [visible_token(item.name) for item in held.items]

    def rows(pick: Ints) -> list[list[Cell]]:
        own = drops.own(pick)
        return table_rows(
            [names_of(held, found.sets[k]) for k in pick],
            [verdicts[k].core for k in pick],
            own.n,
            own.n_units,
            own.n_firing,
            own.rate,
            own.rate_low,
            own.rate_high,
            own.mean,
            count[pick] / max(len(held.rows.fires), 1),
            [drops.kept[drops.of(found.sets[k])].max() for k in pick],
            [None if (i := verdicts[k].member) is None else names[i] for k in pick],
            [verdicts[k].reason for k in pick],
        )

    summary = (
        f"{int(is_core.sum())} minimal cores among {len(found.sets)} sets of 1 to {size} frequent ({chosen}) in "
        f"{len(held.rows.fires)} firing rows; {found.n_counted} sets were counted, {found.n_pruned} pruned. "
        f"In a core every member is needed: without it less than {RETAINED:.0%} of the mean is left, q under 0.05."
    )
    warnings = [
        "observed rows only: nothing was taken away; what a core's absent tokens do is not asked, "
        f"and sets above {size} are not tried"
    ]
    return Found(
        COLUMNS,
        order,
        rows,
        drops.n_tested,
        summary,
        found.n_pruned,
        warnings,
        lambda pick: drops.table(held, [found.sets[k] for k in pick if is_core[k]]),
    )


class _Verdict(NamedTuple):
    """Whether a set is a minimal core, None where it cannot be told; else why not, and for which item."""

    core: bool | None
    reason: str | None = None
    member: int | None = None


def _verdict(drops: "_Drops", one: Set) -> _Verdict:
    for place, member in zip(drops.of(one), one, strict=True):
        if np.isnan(drops.q[place]):
            return _Verdict(None, "too few rows with or without the member", member)
        if not drops.needed[place]:
            return _Verdict(False, "the member is not needed", member)
    for place, added in drops.above(one):
        if drops.needed[place]:
            return _Verdict(False, "the member is needed too", added)
    return _Verdict(True)


@dataclass(frozen=True)
class _Own:
    """Rows that hold a set."""

    n: Ints
    n_units: Ints
    n_firing: Ints
    rate: Floats
    rate_low: Floats
    rate_high: Floats
    mean: Floats


class _Drops:
    """Each set against the rows that hold all of it but one member; a comparison for every set and member."""

    def __init__(self, held: ItemRows, sets: Sequence[Set], min_n: int) -> None:
        self.pairs = [(one, i) for one in sets for i in one]
        self._place: dict[Set, list[int]] = {}
        self._above: dict[Set, list[tuple[int, int]]] = {}
        for k, (one, i) in enumerate(self.pairs):
            self._place.setdefault(one, []).append(k)
            self._above.setdefault(tuple(j for j in one if j != i), []).append((k, i))
        self._sets = list(sets)
        self.strength, self.firing = sum_cells(held.rows, self._cells(held), 3)
        self.shown = cell_enough(self.strength, 1, min_n)
        compared = self.shown & cell_enough(self.strength, 2, min_n)
        moments = [sums.moments(1, 2) for sums in (self.strength, self.firing)]
        self.loss = Difference(*(np.where(compared, part, np.nan) for part in rate_difference(moments[1])))
        p = surest([p_values(moments[0], moments[1]), p_values(moments[1], moments[1])])
        self.q = benjamini_hochberg(np.where(compared, p, np.nan))
        self.n_tested = int((~np.isnan(self.q)).sum())
        mean, without = cell_mean(self.strength, 1, compared), cell_mean(self.strength, 2, compared)
        self.kept = np.divide(without, mean, out=np.full(len(mean), np.nan), where=mean > 0)
        self.needed: Bools = (self.q < Q_CUT) & (self.kept < RETAINED)

    def _cells(self, held: ItemRows) -> Iterator[NDArray[np.int8]]:
        """1: all of the set; 2: all but the member; 0: any other row."""
        for one, i in self.pairs:
            rest = held.all_of(tuple(j for j in one if j != i))
            yield np.where(rest, np.where(held.held[i], 1, 2), 0).astype(np.int8)

    def of(self, one: Set) -> list[int]:
        """The comparisons of a set, in the order of its members."""
        return self._place[one]

    def above(self, one: Set) -> list[tuple[int, int]]:
        """Comparisons of sets with one member more against this one without it, and that member."""
        return self._above.get(one, [])

    def own(self, pick: Ints) -> _Own:
        """Estimates of some sets, by their places among all."""
        at = np.array([self.of(self._sets[k])[0] for k in pick], np.int64)
        arm, shown = self.firing.arm(1), self.shown[at]
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = (np.where(shown, limit[at], np.nan) for limit in rate_interval(arm))
        n, units, firing = (part[at].astype(np.int64) for part in (arm.n, arm.n_units, arm.s))
        rate, mean = (cell_mean(sums, 1, self.shown)[at] for sums in (self.firing, self.strength))
        return _Own(n, units, firing, rate, low, high, mean)

    def table(self, held: ItemRows, sets: Sequence[Set]) -> Table:
        """What is lost with each member of some sets."""
        at = np.array([k for one in sets for k in self.of(one)], np.int64)
        n, every = self.strength.n[at, 2].astype(np.int64), np.ones(len(self.pairs), bool)
        rate, mean = (cell_mean(sums, 2, every)[at] for sums in (self.firing, self.strength))
        return Table(
            columns=DROP_COLUMNS,
            rows=table_rows(
                [names_of(held, self.pairs[k][0]) for k in at],
                [visible_token(held.items[self.pairs[k][1]].name) for k in at],
                n,
                rate,
                mean,
                *(part[at] for part in self.loss),
                self.kept[at],
                self.q[at],
            ),
        )
