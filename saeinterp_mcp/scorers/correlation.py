"""Pearson's correlation over tokens, with an interval by unit. Arrays in, an interval out."""

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.distributions import t_quantile
from saeinterp_mcp.analysis.rule_scores import RULE_OF_THREE, Interval

Floats = NDArray[np.float64]
_PERFECT = 1e-9


def correlation(given: Floats, true: Floats, unit: NDArray[np.int64]) -> Interval:
    """Pearson's r of two numbers a token and its 95 % interval; NaN where either number is always the same.

    On Fisher's z scale, with the jackknife over units (Efron and Tibshirani 1993, 11.5) and Student's t by the
    effective number of units that make up the variance (Kish). The standard error is at least that of as many
    independent tokens, 1/sqrt(N - 3): with hardly any token where both are above 0, the jackknife sees nothing vary.
    Where r is 1 or -1 nothing varies either, and the other limit is the rule of three by units.

    Args:
        given: (N,) predicted.
        true: (N,) measured.
        unit: (N,) of each token.
    """
    units, index = np.unique(unit, return_inverse=True)
    sums = np.stack(
        [
            np.bincount(index, column, len(units))
            for column in (np.ones_like(given), given, true, given * given, true * true, given * true)
        ]
    )
    total = sums.sum(1)
    value = float(_pearson(total[:, None])[0])
    if np.isnan(value):
        return Interval(np.nan, np.nan, np.nan)
    n = len(units)
    if n < 2:
        return Interval(value, np.nan, np.nan)
    if 1 - abs(value) < _PERFECT:
        reach = min(2.0, RULE_OF_THREE / n)
        return Interval(value, value - reach, 1.0) if value > 0 else Interval(value, -1.0, value + reach)
    without = _pearson(total[:, None] - sums)
    without = np.where(np.isnan(without), 0.0, without)  # one unit holds all that varies
    moved = np.arctanh(np.clip(without, -1 + 1e-12, 1 - 1e-12))
    moved -= moved.mean()
    squares = float((moved**2).sum())
    effective = float(np.abs(moved).sum()) ** 2 / squares if squares else 1.0
    se = np.sqrt(max((n - 1) / n * squares, 1 / max(1.0, float(total[0]) - 3)))
    reach = float(t_quantile(0.975, np.array([max(1.0, effective - 1)]))[0]) * float(se)
    middle = np.arctanh(value)
    return Interval(value, float(np.tanh(middle - reach)), float(np.tanh(middle + reach)))


def _pearson(sums: Floats) -> Floats:
    """(k,) r from (6, k) sums of 1, x, y, xx, yy, xy; NaN where x or y does not vary."""
    n, x, y, xx, yy, xy = sums
    n = np.fmax(n, 1.0)
    of_x, of_y = xx - x * x / n, yy - y * y / n
    varies = (of_x > 1e-12 * np.fmax(xx, 1e-300)) & (of_y > 1e-12 * np.fmax(yy, 1e-300))
    r = (xy - x * y / n) / np.sqrt(np.where(varies, of_x * of_y, 1.0))
    return np.where(varies, np.clip(r, -1.0, 1.0), np.nan)
