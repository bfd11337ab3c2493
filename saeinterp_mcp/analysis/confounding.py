"""Does the effect of a family survive when something else is held still?"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.intervals import Arm, Cross, contrast, covariance, mean_interval, standard_error
from saeinterp_mcp.analysis.moments import distinct_sorted
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.analysis.two_arms import ValueCounts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class StratifiedEffect(NamedTuple):
    """A difference of means within strata, combined; NaN where it cannot be had."""

    value: float
    low: float
    high: float
    n_strata: int


@dataclass(frozen=True)
class Strata:
    """What a stratified difference takes from the counts alone: the same for every feature."""

    n: Ints
    """(K,) rows of each cell 2 s + present."""
    n_strata: int
    """Strata where both were seen."""
    rows: tuple[float, float]
    """Rows of them: absent, present."""
    weight: Floats
    """(K,) weight of a row of each cell, so that all strata count in its side as they do in the difference."""
    n_units: tuple[float, float]
    """Units with a row of weight: absent, present."""
    indptr: Ints
    """(U+1,) where a unit's cells begin."""
    cells: NDArray[Any]
    """(pairs,) cells of a unit, perhaps finer ones."""
    cell_of: Ints
    """The cell 2 s + present of each of these."""
    pair_n: NDArray[Any]
    """(pairs,) its rows in them."""
    products: Any
    """(K, K) sparse: sum over units of the products of their rows."""


def strata_of(known: ValueCounts, cell_of: Ints | None = None) -> Strata:
    """Weights, and sums over units, from counts of cells over all rows of the slice.

    Args:
        known: of cells 2 s + present, or of finer ones.
        cell_of: (K,) the cell 2 s + present of each finer one.
    """
    from scipy import sparse  # half a second that a server asked its name must not spend

    counts = known.counts
    cell_of = np.arange(len(counts.n)) if cell_of is None else cell_of
    n_cells = 2 * (int(cell_of.max(initial=-1)) // 2 + 1)
    n = np.bincount(cell_of, counts.n, n_cells).astype(np.float64)
    n0, n1 = n[0::2], n[1::2]
    both = (n0 > 0) & (n1 > 0)
    of_stratum = np.where(both, n0 * n1 / np.fmax(n0 + n1, 1), 0.0)
    of_stratum /= max(of_stratum.sum(), 1e-300)
    rows = (float(n0[both].sum()), float(n1[both].sum()))
    weight = np.zeros(n_cells)
    for side, of_side in enumerate((n0, n1)):
        weight[side::2] = rows[side] * np.divide(
            of_stratum, of_side, out=np.zeros(len(both)), where=of_side > 0
        )
    used = [((weight > 0) & (np.arange(n_cells) % 2 == side))[cell_of] for side in (0, 1)]
    shape = (len(cell_of), n_cells)
    joined = sparse.csr_array((np.ones(len(cell_of)), (np.arange(len(cell_of)), cell_of)), shape=shape)
    return Strata(
        n=n.astype(np.int64),
        n_strata=int(both.sum()),
        rows=rows,
        weight=weight,
        n_units=(known.n_units(used[0]), known.n_units(used[1])),
        indptr=counts.indptr,
        cells=counts.labels,
        cell_of=cell_of,
        pair_n=counts.pair_n,
        products=(joined.T @ known.products @ joined).tocsr(),
    )


def stratified_difference(
    strata: Strata, unit: Ints, cell: Ints, value: Floats, largest: float
) -> StratifiedEffect:
    """Mantel-Haenszel-type difference of present against absent over strata, with a 95 % interval by unit.

    theta = sum_s w_s (m_1s - m_0s) / sum_s w_s, w_s = N_1s N_0s / (N_1s + N_0s) over strata where both were seen
    (Greenland and Robins 1985). With the weights held fixed theta is the difference of two weighted means, so its
    interval is that of a difference (MOVER on `intervals.mean_interval`), from sums by unit of the linearisation:
    unit i deviates by sum_k d_k (S_ik - m_k n_ik), d_k = w_s / (W N_k). Null where a
    side has 1 to 9 firing units or fewer than 2 units, as for any difference.

    Args:
        strata: of cells 2 s + present.
        unit: (n,) unit of each firing row, ascending.
        cell: (n,) its cell.
        value: (n,) its activation.
        largest: the feature's largest activation, the scale of the upper limit of a side that never fires.
    """
    if not strata.n_strata:
        return StratifiedEffect(np.nan, np.nan, np.nan, 0)
    absent, present = _sides(strata, unit, cell, value)
    cross = Cross(
        ss=_sum(present.s * absent.s),
        sn=_sum(present.s * absent.n),
        ns=_sum(present.n * absent.s),
        nn=np.array([present.per_cell @ (strata.products @ absent.per_cell)]),
    )
    sides = (present.arm, absent.arm)
    means = np.stack([arm.s / arm.n for arm in sides], -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        limits = [mean_interval(arm, np.array([largest])) for arm in sides]
        shared = covariance(*sides, cross)
        variances = [standard_error(arm) ** 2 for arm in sides]
        matrix = np.stack([np.stack([variances[0], shared], -1), np.stack([shared, variances[1]], -1)], -2)
        lows, highs = (np.stack([of_side[i] for of_side in limits], -1) for i in (0, 1))
        low, high = contrast(means, lows, highs, matrix, np.array([1.0, -1.0]))
    return StratifiedEffect(float(means[0, 0] - means[0, 1]), float(low[0]), float(high[0]), strata.n_strata)


class _Side(NamedTuple):
    """Present or absent rows as one arm: rows weighted so that all strata count as they do in the difference."""

    arm: Arm
    per_cell: Floats
    """(K,) what a row of a cell is expected to add, over the mean: 0 in cells of the other side."""
    s: Floats
    """(u,) weighted sum of each firing unit."""
    n: Floats
    """(u,) weighted rows of each firing unit, as far as they are expected to fire."""


def _sides(strata: Strata, unit: Ints, cell: Ints, value: Floats) -> list[_Side]:
    """Absent and present rows: sums by unit such that S/N is a weighted mean and S_i - (S/N) n_i unit i's deviation."""
    units, index = distinct_sorted(unit)
    starts = strata.indptr[units]
    lengths = strata.indptr[units + 1] - starts
    pairs = expand_ranges(starts, lengths)
    held, held_n = strata.cell_of[strata.cells[pairs]], strata.pair_n[pairs]
    begin = np.cumsum(lengths) - lengths
    n_cells = len(strata.n)
    weighted = strata.weight[cell] * value
    cell_sum = np.bincount(cell, value, n_cells)
    sides = []
    for side in (0, 1):
        is_side = np.arange(n_cells) % 2 == side
        s = np.bincount(index, weighted * is_side[cell], len(units)).astype(np.float64)
        rows = strata.rows[side]
        mean = float(s.sum() / rows)
        expected = np.ones(n_cells)
        if mean > 0:
            expected = np.divide(cell_sum, strata.n, out=np.zeros(n_cells), where=strata.n > 0) / mean
        per_cell = np.where(is_side, strata.weight * expected, 0.0)
        n = np.add.reduceat(per_cell[held] * held_n, begin) if len(units) else np.zeros(0)
        arm = Arm(
            n=np.array([rows]),
            n_units=np.array([strata.n_units[side]]),
            n_firing_units=_sum((s > 0).astype(np.float64)),
            s=_sum(s),
            ss=_sum(s * s),
            sn=_sum(s * n),
            nn=np.array([per_cell @ (strata.products @ per_cell)]),
        )
        sides.append(_Side(arm, per_cell, s, n))
    return sides


def _sum(values: Floats) -> Floats:
    return np.array([values.sum()])
