"""Does the effect of a family survive when something else is held still?"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.distributions import t_quantile
from saeinterp_mcp.analysis.intervals import MIN_FIRING_UNITS
from saeinterp_mcp.analysis.moments import LabelCounts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class StratifiedEffect(NamedTuple):
    """A difference of means within strata, combined; NaN where it cannot be had."""

    value: float
    low: float
    high: float
    n_strata: int


def stratified_difference(counts: LabelCounts, unit: Ints, cell: Ints, value: Floats) -> StratifiedEffect:
    """Mantel-Haenszel-type difference of present against absent over strata, with a 95 % interval by unit.

    theta = sum_s w_s (m_1s - m_0s) / sum_s w_s, w_s = N_1s N_0s / (N_1s + N_0s) over strata where both were seen
    (Greenland and Robins 1985). The variance is that of the unit sums of its linearisation, the weights held fixed:
    sum_i (sum_k d_k (S_ik - m_k n_ik))^2 U/(U-1), d_k = +-w_s / (W N_k); t with (firing units - 1) degrees.

    Args:
        counts: of cells 2 s + present, over all rows of the slice.
        unit: (n,) unit of each firing row.
        cell: (n,) its cell.
        value: (n,) its activation.
    """
    n_cells = len(counts.n)
    n = counts.n.astype(np.float64)
    s = np.bincount(cell, value, n_cells)
    mean = np.divide(s, n, out=np.zeros(n_cells), where=n > 0)
    n0, n1 = n[0::2], n[1::2]
    both = (n0 > 0) & (n1 > 0)
    weight = np.where(both, n0 * n1 / np.maximum(n0 + n1, 1), 0.0)
    total = weight.sum()
    if total == 0:
        return StratifiedEffect(np.nan, np.nan, np.nan, 0)
    weight /= total
    theta = float((weight * (mean[1::2] - mean[0::2])).sum())
    share = np.zeros(n_cells)
    share[0::2], share[1::2] = -weight, weight
    d = np.divide(share, n, out=np.zeros(n_cells), where=n > 0)
    n_units = len(counts.indptr) - 1
    pair_unit = np.repeat(np.arange(n_units), np.diff(counts.indptr))
    expected = np.bincount(pair_unit, (d * mean)[counts.labels] * counts.pair_n, n_units)
    found = np.bincount(unit, d[cell] * value, n_units)
    used = np.bincount(pair_unit, (d != 0)[counts.labels], n_units) > 0
    firing = int((np.bincount(unit[d[cell] != 0], minlength=n_units) > 0).sum())
    u = int(used.sum())
    if firing < MIN_FIRING_UNITS or u < 2:
        return StratifiedEffect(theta, np.nan, np.nan, int(both.sum()))
    se = float(np.sqrt(((found - expected) ** 2).sum() * u / (u - 1)))
    reach = float(t_quantile(0.975, firing - 1)) * se
    return StratifiedEffect(theta, theta - reach, theta + reach, int(both.sum()))
