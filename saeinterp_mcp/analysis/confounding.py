"""Does the effect of a family survive when something else is held still?"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.intervals import Arm, Cross, contrast, covariance, mean_interval, standard_error
from saeinterp_mcp.analysis.moments import LabelCounts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class StratifiedEffect(NamedTuple):
    """A difference of means within strata, combined; NaN where it cannot be had."""

    value: float
    low: float
    high: float
    n_strata: int


class _Side(NamedTuple):
    """Present or absent rows as one arm: rows weighted so that all strata count as they do in the difference."""

    arm: Arm
    s: Floats
    """(U,) weighted sum of each unit."""
    n: Floats
    """(U,) weighted rows of each unit, as far as they are expected to fire."""


def stratified_difference(
    counts: LabelCounts, unit: Ints, cell: Ints, value: Floats, largest: float
) -> StratifiedEffect:
    """Mantel-Haenszel-type difference of present against absent over strata, with a 95 % interval by unit.

    theta = sum_s w_s (m_1s - m_0s) / sum_s w_s, w_s = N_1s N_0s / (N_1s + N_0s) over strata where both were seen
    (Greenland and Robins 1985). With the weights held fixed theta is the difference of two weighted means, so its
    interval is that of a difference (MOVER on `intervals.mean_interval`), from sums by unit of the linearisation:
    unit i deviates by sum_k d_k (S_ik - m_k n_ik), d_k = w_s / (W N_k). Null where a
    side has 1 to 9 firing units or fewer than 2 units, as for any difference.

    Args:
        counts: of cells 2 s + present, over all rows of the slice.
        unit: (n,) unit of each firing row.
        cell: (n,) its cell.
        value: (n,) its activation.
        largest: the feature's largest activation, the scale of the upper limit of a side that never fires.
    """
    n = counts.n.astype(np.float64)
    n0, n1 = n[0::2], n[1::2]
    both = (n0 > 0) & (n1 > 0)
    if not both.any():
        return StratifiedEffect(np.nan, np.nan, np.nan, 0)
    weight = np.where(both, n0 * n1 / np.fmax(n0 + n1, 1), 0.0)
    weight /= weight.sum()
    present, absent = (_side(counts, unit, cell, value, weight, first) for first in (1, 0))
    cross = Cross(
        ss=_sum(present.s * absent.s),
        sn=_sum(present.s * absent.n),
        ns=_sum(present.n * absent.s),
        nn=_sum(present.n * absent.n),
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
    return StratifiedEffect(float(means[0, 0] - means[0, 1]), float(low[0]), float(high[0]), int(both.sum()))


def _side(counts: LabelCounts, unit: Ints, cell: Ints, value: Floats, weight: Floats, first: int) -> _Side:
    """One side's rows: sums by unit such that S/N is its weighted mean and S_i - (S/N) n_i unit i's deviation."""
    n_cells, n_units = len(counts.n), len(counts.indptr) - 1
    n = counts.n[first::2].astype(np.float64)
    rows = n[weight > 0].sum()
    d = np.zeros(n_cells)
    d[first::2] = rows * np.divide(weight, n, out=np.zeros(len(n)), where=n > 0)
    pair_unit = np.repeat(np.arange(n_units), np.diff(counts.indptr))
    pairs = len(pair_unit)
    label, held = counts.labels[:pairs], counts.pair_n[:pairs]
    n_used = int((np.bincount(pair_unit, d[label] * held, n_units) > 0).sum())
    cell_sum = np.bincount(cell, value, n_cells)
    s = np.bincount(unit, d[cell] * value, n_units).astype(np.float64)
    mean = float(s.sum() / rows)
    if mean > 0:
        expected = np.divide(cell_sum, counts.n, out=np.zeros(n_cells), where=counts.n > 0) / mean
    else:
        expected = np.ones(n_cells)
    weighted = np.bincount(pair_unit, (d * expected)[label] * held, n_units).astype(np.float64)
    arm = Arm(
        n=np.array([rows]),
        n_units=np.array([float(n_used)]),
        n_firing_units=_sum((s > 0).astype(np.float64)),
        s=_sum(s),
        ss=_sum(s * s),
        sn=_sum(s * weighted),
        nn=_sum(weighted * weighted),
    )
    return _Side(arm, s, weighted)


def _sum(values: Floats) -> Floats:
    return np.array([values.sum()])
