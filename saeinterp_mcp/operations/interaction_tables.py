"""The table of `token_interactions` for pairs: four cells, and what the two do together beyond each alone."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.effects import Q_CUT, enough
from saeinterp_mcp.analysis.interactions import CellSums, Contrast, Means, contrast_of, means_of, sum_cells
from saeinterp_mcp.analysis.intervals import MIN_FIRING_UNITS, benjamini_hochberg
from saeinterp_mcp.analysis.roles import surest
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.operations.base import Cell, Table, table_rows
from saeinterp_mcp.operations.interaction_items import ItemRows, fitting
from saeinterp_mcp.store.base import Bools, Floats, Ints

CELLS = ("00", "10", "01", "11")
SHOWN_CELLS = ("11", "10", "01", "00")
PAIR_COLUMNS = [
    "set",
    *(f"n_{cell}" for cell in SHOWN_CELLS),
    *(f"rate_{cell}" for cell in SHOWN_CELLS),
    *(f"mean_{cell}" for cell in SHOWN_CELLS),
    "support",
    "lift",
    "effect",
    "effect_low",
    "effect_high",
    "interaction",
    "interaction_low",
    "interaction_high",
    "rate_interaction",
    "rate_interaction_low",
    "rate_interaction_high",
    "q",
    "reason",
]


@dataclass(frozen=True)
class Found:
    """A table, best first, that makes only the rows that are shown."""

    columns: list[str]
    order: list[int]
    rows: Callable[[Ints], list[list[Cell]]]
    n_tested: int
    summary: str
    n_pruned: int = 0
    warnings: list[str] = field(default_factory=list)
    more: Callable[[Ints], Table | None] = lambda _: None
    """A second table for the rows that are shown."""


@dataclass(frozen=True)
class _Pairs:
    """Estimates of every pair."""

    strength: CellSums
    mean: Means
    rate: Means
    enough: Bools
    """(P, 4) cells with rows for an estimate."""
    interaction: Contrast
    rate_interaction: Contrast
    effect: Contrast
    q: Floats

    def sign(self, k: int) -> int:
        """Of the rate interaction where its interval leaves out 0, else of the interaction, else 0."""
        for one in (self.rate_interaction, self.interaction):
            if found := int(one.low[k] > 0) - int(one.high[k] < 0):
                return found
        return 0

    def reason(self, k: int) -> str | None:
        """Why an estimate is null."""
        n, units = self.strength.n[k], self.strength.n_firing_units[k]
        for cell in (3, 1, 2, 0):
            if n[cell] == 0:
                return f"{CELLS[cell]} never observed"
        few = [CELLS[cell] for cell in (3, 1, 2, 0) if not self.enough[k, cell]]
        if few:
            return f"too few rows or units: {', '.join(few)}"
        if np.isnan(self.interaction.low[k]):
            short = [CELLS[c] for c in (3, 1, 2, 0) if 0 < units[c] < MIN_FIRING_UNITS]
            return f"interval of means: under {MIN_FIRING_UNITS} firing units in {', '.join(short)}"
        return None


def pairs(held: ItemRows, min_n: int) -> Found:
    """Every pair of items that may go together."""
    places = fitting(held.items, 2)
    cells = (held.held[i].astype(np.int8) + 2 * held.held[j].astype(np.int8) for i, j in places)
    found = _estimates(held, cells, min_n)
    n = found.strength.n
    total = np.fmax(n.sum(1), 1)
    expected = (n[:, 1] + n[:, 3]) * (n[:, 2] + n[:, 3]) / total
    q, effects = found.q, (found.effect, found.interaction, found.rate_interaction)
    size = np.fmax.reduce([np.abs(np.nan_to_num(one.value)) for one in effects[1:]])
    order = np.lexsort((-n[:, 3], -size, np.nan_to_num(q, nan=2.0)))

    def rows(pick: Ints) -> list[list[Cell]]:
        shown = [CELLS.index(cell) for cell in SHOWN_CELLS]
        rate, mean = (
            np.where(found.enough, part.value, np.nan)[pick][:, shown] for part in (found.rate, found.mean)
        )
        return table_rows(
            [[visible_token(held.items[i].name) for i in places[k]] for k in pick],
            *n[pick][:, shown].astype(np.int64).T,
            *rate.T,
            *mean.T,
            (n[:, 3] / total)[pick],
            ((n[:, 3] + 0.5) / (expected + 0.5))[pick],
            *(part[pick] for one in effects for part in one[:3]),
            q[pick],
            [found.reason(k) for k in pick],
        )

    signs = [found.sign(int(k)) for k in np.flatnonzero(q < Q_CUT)]
    tested = int((~np.isnan(q)).sum())
    summary = (
        f"{len(held.items)} tokens or families make {len(places)} pairs, {tested} with enough rows in all four cells. "
        f"q under 0.05: {signs.count(1)} fire more together than the two alone add up to, {signs.count(-1)} less."
    )
    warnings = ["lift compares how often the two occur together with chance; it ignores the activation"]
    if len(n) and not (n[:, 3] > 0).any():
        warnings.append("no pair was ever observed together; in sequences try scope before or sample")
    return Found(PAIR_COLUMNS, order.tolist(), rows, tested, summary, warnings=warnings)


def _estimates(held: ItemRows, cells: Iterable[NDArray[np.int8]], min_n: int) -> _Pairs:
    strength, firing = sum_cells(held.rows, cells, 4)
    mean, rate = means_of(strength, held.part.largest), means_of(firing, None)
    there = enough(strength.n.astype(np.int64), strength.n_units.astype(np.int64), min_n)
    all_four, ends = np.all(there, axis=1), there[:, 0] & there[:, 3]
    interaction = contrast_of(mean, (1, -1, -1, 1), all_four)
    rate_interaction = contrast_of(rate, (1, -1, -1, 1), all_four)
    return _Pairs(
        strength=strength,
        mean=mean,
        rate=rate,
        enough=there,
        interaction=interaction,
        rate_interaction=rate_interaction,
        effect=contrast_of(mean, (-1, 0, 0, 1), ends),
        q=benjamini_hochberg(surest([interaction.p, rate_interaction.p])),
    )
