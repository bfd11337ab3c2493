"""How far scorers and explainers agree: RV coefficients, correlations, and spreads of scores. Pure functions.

NaN is null, in and out. Rows of two matrices are the same features in the same order.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.rule_scores import Interval

Floats = NDArray[np.float64]
Z = 1.959963984540054
MIN_COMMON = 10
"""Features that two must have in common, under which their agreement is null."""


class Agreement(NamedTuple):
    """An RV coefficient beside those of shuffled rows."""

    rv: float
    p: float
    """(1 + shuffles with an RV as large) / (1 + shuffles)."""
    shuffled: float
    """Mean RV of shuffled rows: what no agreement gives with as many rows."""


def rv_coefficient(x: Floats, y: Floats) -> float:
    """||X'Y||^2 / (||X'X|| ||Y'Y||) of centred columns (Robert and Escoufier 1976): 0 unrelated, 1 alike up to rotation
    and scale; with one column the square of Pearson's r. NaN where a matrix does not vary.

    Args:
        x: (n, p) float.
        y: (n, q) float.
    """
    x, y = _centred(x), _centred(y)
    return _ratio(_squares(_cross(x, y)), _norm(_cross(x, x)) * _norm(_cross(y, y)))


def rv_of_shapes(x: Floats, y: Floats) -> float:
    """What SAE_vis called RV: ||XY'||^2 in the numerator, rows cut to the shorter matrix.

    It compares the shapes of two covariances and does not see which row is which: shuffled rows give the same.
    """
    n = min(len(x), len(y))
    x, y = _centred(x[:n]), _centred(y[:n])
    of_x, of_y = _cross(x, x), _cross(y, y)
    return _ratio(float((of_x * of_y).sum()), _norm(of_x) * _norm(of_y))


def agreement(x: Floats, y: Floats, n_permutations: int, generator: np.random.Generator) -> Agreement:
    """The RV coefficient and how often shuffled rows reach it."""
    x, y = _centred(x), _centred(y)
    scale = _norm(_cross(x, x)) * _norm(_cross(y, y))
    rv = _ratio(_squares(_cross(x, y)), scale)
    if math.isnan(rv):
        return Agreement(rv, math.nan, math.nan)
    shuffled = np.array(
        [_squares(_cross(x, y[generator.permutation(len(y))])) / scale for _ in range(n_permutations)]
    )
    # as large but for rounding
    reached = int((shuffled >= rv * (1 - 1e-12)).sum())
    return Agreement(rv, (1 + reached) / (1 + n_permutations), float(shuffled.mean()))


def pearson(x: Floats, y: Floats) -> Interval:
    """Pearson's r and its 95 % interval on Fisher's z scale; NaN where one does not vary, no interval under 4 pairs."""
    x, y = x - x.mean(), y - y.mean()
    r = _ratio(float((x * y).sum()), math.sqrt(_squares(x) * _squares(y)))
    if math.isnan(r) or len(x) < 4 or abs(r) >= 1 - 1e-12:
        return Interval(r, math.nan, math.nan)
    reach = Z / math.sqrt(len(x) - 3)
    return Interval(r, math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach))


def z_scores(values: Floats) -> Floats:
    """(n,) less their mean, over their standard deviation (n - 1), of those that are known."""
    known = values[~np.isnan(values)]
    if len(known) < 2 or not np.ptp(known):
        return np.full(len(values), np.nan)
    return np.asarray((values - known.mean()) / known.std(ddof=1))


def mean_of_known(values: Floats) -> Floats:
    """(n,) mean of each row's known values."""
    known = ~np.isnan(values)
    n = known.sum(1)
    total = np.where(known, values, 0.0).sum(1)
    return _divide(total, n, n > 0)


def spread(values: Floats) -> Floats:
    """(n,) standard deviation (n - 1) of each row's known values; NaN under two of them."""
    known = ~np.isnan(values)
    n = known.sum(1)
    off = np.where(known, values - mean_of_known(values)[:, None], 0.0)
    return np.asarray(np.sqrt(_divide((off * off).sum(1), n - 1, n > 1)))


def largest_spread(k: Floats | int) -> Floats:
    """The largest standard deviation (n - 1) that k numbers from 0 to 1 can have: half of them 0, half 1."""
    k = np.asarray(k, np.float64)
    half = np.floor(k / 2)
    return np.asarray(np.sqrt(_divide(half * (k - half), k * (k - 1), k > 1)))


def consistency(values: Floats) -> Floats:
    """(n,) 1 less the spread over the largest there can be: 1 where all k agree, whatever other features do.

    Args:
        values: (n, k) from 0 to 1.
    """
    return np.clip(1 - spread(values) / largest_spread((~np.isnan(values)).sum(1)), 0.0, 1.0)


def consistency_of_sae_vis(values: Floats) -> Floats:
    """The same over the largest spread *observed*, rounded to 3 places: a value depends on which features are there."""
    found = spread(values)
    if not len(found):
        return found
    largest = np.nanmax(found) if not np.isnan(found).all() else 0.0
    if largest <= 0:
        return np.where(np.isnan(found), np.nan, 1.0)
    return np.asarray(np.round(np.clip(1 - found / largest, 0.0, 1.0), 3))


def _divide(above: Floats, below: NDArray[Any], where: NDArray[np.bool_]) -> Floats:
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), np.nan), where=where))


def _cross(x: Floats, y: Floats) -> Floats:
    """X'Y, summed in one order on every machine with whatever threads."""
    return np.asarray(np.einsum("np,nq->pq", x, y, optimize=False))


def _centred(x: Floats) -> Floats:
    return np.asarray(x - x.mean(axis=0)) if len(x) else x


def _squares(m: Floats) -> float:
    return float((m * m).sum())


def _norm(m: Floats) -> float:
    return math.sqrt(_squares(m))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 1e-24 else math.nan
