"""Confidence intervals and tests for clustered, zero-inflated, right-skewed rows, from sums alone.

Rows (samples, token positions) belong to units (documents, builds). For a set of rows, unit i has n_i rows
and S_i, the sum of a feature's activation over them (or the number of its firing rows). Everything here is
computed from the sums in `Arm` and `Cross`. Arrays have one shape (k,), one entry per feature, unless a
docstring says otherwise; NaN stands for null. The choice of methods is measured in docs/intervals.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeinterp_mcp.analysis.distributions import beta_quantile, gamma_tails, t_beyond, t_quantile

Array = npt.NDArray[np.float64]

MIN_FIRING_UNITS = 10
_TAIL = 0.975  # two-sided 95 %
_Z = 1.959963984540054
_SKEW = 2.25  # how many times fewer degrees of freedom a mean's upper limit gets (docs/intervals.md)
_RATE_SKEW = 1.5  # the same for the limit of a rate away from the rarer of firing and silent rows
_BORROW = 50.0  # effective firing units at which an arm's own variance counts one half in the test


@dataclass(frozen=True)
class Arm:
    """Sums over the units of one set of rows; every array is float64 of shape (k,)."""

    n: Array  # rows, sum n_i
    n_units: Array  # units with n_i > 0
    n_firing_units: Array  # units with S_i > 0
    s: Array  # sum S_i
    ss: Array  # sum S_i^2
    sn: Array  # sum S_i n_i
    nn: Array  # sum n_i^2


@dataclass(frozen=True)
class Cross:
    """Sums over the units that arms a and b share, 0 where they share none; arrays of shape (k,)."""

    ss: Array  # sum S_ia S_ib
    sn: Array  # sum S_ia n_ib
    ns: Array  # sum n_ia S_ib
    nn: Array  # sum n_ia n_ib


def _divide(a: Array, b: Array) -> Array:
    """Return a / b, NaN where b is not positive."""
    out = np.full(np.broadcast(a, b).shape, np.nan)
    np.divide(a, b, out=out, where=b > 0)
    return out


def _quantile(df: Array, share: Array) -> Array:
    """Return z inflated to Student's t (at least 1 df) for the share of the variance that is estimated."""
    t = t_quantile(_TAIL, np.fmax(df, 1.0))
    return np.sqrt(_Z**2 + share * (t**2 - _Z**2))


def _residual(arm: Arm, m: Array) -> Array:
    """Return sum (S_i - m n_i)^2, the clustered sum of squares about a mean m per row."""
    return np.fmax(arm.ss - 2 * m * arm.sn + m**2 * arm.nn, 0.0)


def mean(arm: Arm) -> Array:
    """Return S/N, the mean per row, NaN without rows."""
    return _divide(arm.s, arm.n)


def standard_error(arm: Arm) -> Array:
    """Return the linearised (Taylor) clustered standard error of S/N, with factor U/(U-1); NaN for U < 2."""
    return np.sqrt(_divide(_residual(arm, mean(arm)) * arm.n_units, arm.n**2 * (arm.n_units - 1)))


def _effective(total: Array, squares: Array) -> Array:
    """Return Kish's effective number of contributors, (sum x)^2 / sum x^2, 0 where nothing contributes."""
    return np.nan_to_num(_divide(total**2, squares))


def _share(arm: Arm) -> Array:
    """Return the share in [0, 1] of the variance that unequal sums of the firing units make.

    (1/E - 1/F)/(se/m)^2 with F firing units and E = S^2/sum S_i^2 effective ones; the rest follows from the
    number of firing units, as for a binomial, and needs no estimate. 0 where a unit is one row and S counts.
    """
    unequal = _divide(arm.ss, arm.s**2) - _divide(np.ones_like(arm.s), arm.n_firing_units)
    relative = _divide(standard_error(arm), mean(arm)) ** 2
    return np.clip(np.nan_to_num(_divide(unequal, relative)), 0.0, 1.0)


def _binomial_low(arm: Arm) -> Array:
    """Return Jeffreys' lower limit of the share of units that fire, over that share; 1 for many rows each."""
    firing, units = arm.n_firing_units, arm.n_units
    low = beta_quantile(1 - _TAIL, firing + 0.5, np.fmax(units - firing, 0.0) + 0.5)
    return 1 - (1 - _divide(low * units, firing)) * _divide(arm.n, arm.nn)


def mean_interval(arm: Arm, largest: Array) -> tuple[Array, Array]:
    """Return the 95 % interval (low, high) of the mean; `largest` is the feature's largest activation.

    On the log scale (delta method): m exp(-q se/m) to m exp(q' se/m). q lies between z and t for the share
    of the variance that is estimated, with E-1 degrees of freedom, E = S^2/sum S_i^2 the effective number of
    firing units; q' with (E-1)/_SKEW, because too low a mean comes with too small a variance. low is at most
    what the number of firing units alone allows if a unit is a row (dense features of even strength).
    Without firing, 0 to largest min(1, 3/U). Null for U < 2 or 1..9 firing units.
    """
    m, share = mean(arm), _share(arm)
    df = _effective(arm.s, arm.ss) - 1
    relative = np.nan_to_num(_divide(standard_error(arm), m))
    low = m * np.fmin(np.exp(-_quantile(df, np.ones_like(m)) * relative), _binomial_low(arm))
    high = m * np.exp(np.fmin(_quantile(df / _SKEW, share) * relative, 500.0))
    return _finish(arm, low, np.fmax(np.fmin(high, largest), m), largest, MIN_FIRING_UNITS)


def rate_interval(arm: Arm) -> tuple[Array, Array]:
    """Return the 95 % interval (low, high) of the firing rate; S_i is the number of firing rows of unit i.

    From MIN_FIRING_UNITS firing units on, Jeffreys' beta interval with the effective sample size
    m(1-m)/se^2, lowered by (z/q)^2 for the share 1 - n/sum n_i^2 of the variance that is estimated; q as for
    the mean, at each limit the stricter of firing rows and, mirrored, of silent rows. Below, Korn and
    Graubard (1998): Clopper-Pearson with an effective sample size of at most the units. Without firing, 0 to
    min(1, 3/U), and mirrored where all rows fire. Null for U < 2 only.
    """
    m, se, units, share = mean(arm), standard_error(arm), arm.n_units, 1 - _divide(arm.n, arm.nn)
    silent = arm.n - arm.s
    fires = _effective(arm.s, arm.ss) - 1
    rests = _effective(silent, np.fmax(arm.nn - 2 * arm.sn + arm.ss, 0.0)) - 1
    size = _divide(m * (1 - m) * units, se**2 * (units - 1))
    size = np.fmin(np.where(np.isnan(size), units, size), arm.n)
    few, tiny = np.fmin(size, units), 1e-300

    def jeffreys(df: Array, q: float) -> Array:
        k = size * (_Z / _quantile(df, share)) ** 2
        return beta_quantile(q, m * k + 0.5, (1 - m) * k + 0.5)

    many = arm.n_firing_units >= MIN_FIRING_UNITS
    exact_low = beta_quantile(1 - _TAIL, np.fmax(m * few, tiny), (1 - m) * few + 1)
    exact_high = beta_quantile(_TAIL, m * few + 1, np.fmax((1 - m) * few, tiny))
    low = np.where(many, jeffreys(np.fmin(fires, rests / _RATE_SKEW), 1 - _TAIL), exact_low)
    high = np.where(many, jeffreys(np.fmin(fires / _RATE_SKEW, rests), _TAIL), exact_high)
    all_fire = silent <= 0
    low = np.where(all_fire, np.fmax(1 - 3 / np.fmax(units, 1.0), 0.0), np.fmin(low, m))
    return _finish(arm, low, np.where(all_fire, 1.0, np.fmax(high, m)), np.ones_like(m), 1)


def _finish(arm: Arm, low: Array, high: Array, largest: Array, least: int) -> tuple[Array, Array]:
    """Put in the rule of three by units where nothing fires, and null where there is no interval."""
    silent = arm.n_firing_units == 0
    three = largest * np.fmin(1.0, 3 / np.fmax(arm.n_units, 1.0))
    null = (arm.n_units < 2) | (~silent & (arm.n_firing_units < least))
    low, high = np.where(silent, 0.0, low), np.where(silent, three, high)
    return np.where(null, np.nan, low), np.where(null, np.nan, high)


def covariance(a: Arm, b: Arm, cross: Cross) -> Array:
    """Return the clustered covariance of the two arms' means over the units that they share."""
    m_a, m_b = mean(a), mean(b)
    total = cross.ss - m_a * cross.ns - m_b * cross.sn + m_a * m_b * cross.nn
    return _divide(total * _factor(a) * _factor(b), a.n * b.n)


def _factor(arm: Arm) -> Array:
    """Return sqrt(U/(U-1))."""
    return np.sqrt(_divide(arm.n_units, arm.n_units - 1))


def difference(a: Arm, b: Arm, cross: Cross, largest: Array) -> tuple[Array, Array, Array, Array]:
    """Return (effect, low, high, p) of m_a - m_b: MOVER on `mean_interval`, and the score test's p."""
    return _difference(a, b, cross, mean_interval(a, largest), mean_interval(b, largest))


def rate_difference(a: Arm, b: Arm, cross: Cross) -> tuple[Array, Array, Array, Array]:
    """Return (effect, low, high, p) of the difference of firing rates: MOVER on `rate_interval`."""
    return _difference(a, b, cross, rate_interval(a), rate_interval(b))


def _difference(
    a: Arm, b: Arm, cross: Cross, of_a: tuple[Array, Array], of_b: tuple[Array, Array]
) -> tuple[Array, Array, Array, Array]:
    m = np.stack([mean(a), mean(b)], axis=-1)
    var_a, var_b, cov = standard_error(a) ** 2, standard_error(b) ** 2, covariance(a, b, cross)
    matrix = np.stack([np.stack([var_a, cov], -1), np.stack([cov, var_b], -1)], -2)
    lows, highs = np.stack([of_a[0], of_b[0]], -1), np.stack([of_a[1], of_b[1]], -1)
    low, high = contrast(m, lows, highs, matrix, np.array([1.0, -1.0]))
    return m[..., 0] - m[..., 1], low, high, score_test(a, b, cross)


def contrast(
    means: Array, lows: Array, highs: Array, covariance: Array, weights: Array
) -> tuple[Array, Array]:
    """Return the 95 % interval of sum_j w_j m_j from the means' own intervals: MOVER.

    Zou and Donner (2008), Zou (2008) for dependent means: each mean's distance to the limit that pulls the
    same way stands in for t se, and the covariances enter as correlations. Shapes (..., j), (..., j, j) for
    the covariance and (j,) for the weights.
    """
    se = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    scale = se[..., :, None] * se[..., None, :]
    rho = np.clip(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0), -1.0, 1.0)
    rho = np.where(np.eye(len(weights), dtype=bool), 1.0, rho)
    below, above = means - lows, highs - means
    down = weights * np.where(weights > 0, below, above)
    up = weights * np.where(weights > 0, above, below)
    middle = np.einsum("...j,j->...", means, weights)

    def length(v: Array) -> Array:
        return np.asarray(np.sqrt(np.maximum(np.einsum("...i,...ij,...j->...", v, rho, v), 0.0)))

    return middle - length(down), middle + length(up)


def score_test(a: Arm, b: Arm, cross: Cross) -> Array:
    """Return the two-sided p of no difference of the means: a clustered score test with a skewed reference.

    Residuals are about the pooled mean m0 = (S_a + S_b)/(N_a + N_b): A_i = S_ia - m0 n_ia, B_i alike, and
    the variance is that of sum (A_i/N_a - B_i/N_b). An arm's own sum of squares counts with weight
    w = E/(E + _BORROW), E its effective number of firing units; the rest is its share of both arms' sum
    (by n or by n^2, whichever brackets it), so that an arm hardly firing does not vouch for itself. The
    reference is Pearson's type III with the skewness of a compound Poisson sum of gamma values,
    (1 + 2 c^2)/(1 + c^2) times the coefficient of variation, c that of the firing units' sums; 1 - 3 w for
    what studentising turns round. p is twice the tail, or the tail alone where the other one, bounded
    because no sum is negative, cannot be as small (Blaker 2000). The chance that all firing units lie in the
    other arm bounds the tail of a silent arm; the chance that any lies in this one bounds the p of a single
    firing unit, which counts for its rarity and not for its strength. Null where an arm has fewer than 2
    units or nothing fires.
    """
    s, m0 = a.s + b.s, _divide(a.s + b.s, a.n + b.n)
    q_a, q_b = _residual(a, m0), _residual(b, m0)
    by_rows, by_squares = _divide(a.n, a.n + b.n), _divide(a.nn, a.nn + b.nn)
    shared = (q_a + q_b) * np.stack([np.fmin(by_rows, by_squares), np.fmax(by_rows, by_squares)])
    pooled_a = np.clip(q_a, shared[0], shared[1])
    e_a, e_b = _effective(a.s, a.ss), _effective(b.s, b.ss)
    w_a, w_b = e_a / (e_a + _BORROW), e_b / (e_b + _BORROW)
    v_a = (w_a * q_a + (1 - w_a) * pooled_a) * _divide(_factor(a), a.n) ** 2
    v_b = (w_b * q_b + (1 - w_b) * (q_a + q_b - pooled_a)) * _divide(_factor(b), b.n) ** 2
    both = cross.ss - m0 * (cross.sn + cross.ns) + m0**2 * cross.nn
    rho = np.clip(np.nan_to_num(_divide(both, np.sqrt(q_a * q_b))), -1.0, 1.0)
    sd = np.sqrt(np.fmax(v_a + v_b - 2 * rho * np.sqrt(v_a * v_b), 0.0))
    z = np.nan_to_num(_divide(mean(a) - mean(b), sd))

    firing = a.n_firing_units + b.n_firing_units
    shape = 2 - _divide(s**2, (a.ss + b.ss) * firing)  # (1 + 2 c^2)/(1 + c^2)
    skewness = _divide(shape * (v_a * (1 - 3 * w_a) - v_b * (1 - 3 * w_b)), m0 * sd)
    upper, lower = _tails(z, skewness)
    tail, alone = np.where(z > 0, upper, lower), np.zeros_like(z)
    by_units = _divide(a.n_units, a.n_units + b.n_units)
    least, most = np.fmin(by_rows, by_units), np.fmax(by_rows, by_units)
    for arm, sign, small, large in ((a, 1, least, most), (b, -1, 1 - most, 1 - least)):
        silent = (arm.n_firing_units == 0) & (sign * z < 0)
        tail = np.where(silent, np.fmax(tail, (1 - small) ** firing), tail)
        single = (arm.n_firing_units == 1) & (sign * z > 0)
        alone = np.where(single, 1 - (1 - large) ** firing, alone)
    bound = _divide(np.where(z > 0, -_divide(s, b.n), _divide(s, a.n)), sd)
    upper, lower = _tails(bound, skewness)
    p = np.where(tail < np.where(z > 0, lower, upper), tail, np.fmin(2 * tail, 1.0))
    p = np.fmax(p, alone)
    p = np.where(sd > 0, p, 1.0)
    return np.where((s > 0) & (np.fmin(a.n_units, b.n_units) >= 2), p, np.nan)


def ratio_test(a: Arm, b: Arm, cross: Cross) -> Array:
    """Return the two-sided p of no difference of the means, on the scale of the intervals: the log.

    t = ln(m_a/m_b) / sqrt(v_a + v_b - 2 c), v = (se/m)^2 and c the clustered covariance over m_a m_b (delta
    method); Satterthwaite's (v_a + v_b)^2/(v_a^2/(E_a - 1) + v_b^2/(E_b - 1)) degrees of freedom, E the
    effective number of firing units. For arms of MIN_FIRING_UNITS firing units and more. NaN where an arm is
    silent.
    """
    m_a, m_b = mean(a), mean(b)
    v_a, v_b = _divide(standard_error(a), m_a) ** 2, _divide(standard_error(b), m_b) ** 2
    variance = v_a + v_b - 2 * _divide(covariance(a, b, cross), m_a * m_b)
    spread = v_a**2 / np.fmax(_effective(a.s, a.ss) - 1, 1.0) + v_b**2 / np.fmax(
        _effective(b.s, b.ss) - 1, 1.0
    )
    df = np.fmax(_divide((v_a + v_b) ** 2, spread), 1.0)
    return t_beyond(np.log(_divide(m_a, m_b)) / np.sqrt(np.fmax(variance, 1e-300)), df)


def rare_firing_p(a: Arm, b: Arm) -> Array:
    """Return the two-sided p of arm a firing as seldom as it does, if it fired at arm b's rate.

    For an arm with hardly any firing, whose own variance says nothing. S counts firing rows. Rows count for as
    much as the clustering of b lets them: with design effect D_b = se^2 n/(m (1 - m)) of b's rate, intra-unit
    correlation rho = (D_b - 1)/(sum n^2/n - 1), and D_a = 1 + (sum n_a^2/n_a - 1) rho (Kish 1965, 5.4),
    p = 2 P(Poisson(n_a m_b/D_a) <= S_a/D_a), the Poisson made continuous by the gamma function.
    """
    m = mean(b)
    inflation = _divide(standard_error(b) ** 2 * b.n, m * (1 - m))
    rho = np.clip(np.nan_to_num(_divide(inflation - 1, _divide(b.nn, b.n) - 1)), 0.0, 1.0)
    effect = 1 + np.fmax(_divide(a.nn, a.n) - 1, 0.0) * rho
    _, above = gamma_tails(_divide(a.s, effect) + 1, _divide(a.n * m, effect))
    return np.fmin(2 * above, 1.0)


def _tails(z: Array, skewness: Array) -> tuple[Array, Array]:
    """Return (P(Z >= z), P(Z <= z)) for Pearson's type III (shifted gamma), mean 0 and variance 1."""
    g = np.clip(np.nan_to_num(skewness), -1e3, 1e3)
    g = np.where(np.abs(g) < 1e-3, 1e-3, g)
    alpha = 4 / g**2
    x = np.fmax(alpha + np.sign(g) * z * np.sqrt(alpha), 0.0)
    below, above = gamma_tails(alpha, x)
    return np.where(g > 0, above, below), np.where(g > 0, below, above)


def log_odds_shrunken(
    firing_a: Array, n_a: Array, firing_b: Array, n_b: Array, prior: float = 0.5
) -> tuple[Array, Array]:
    """Return (log_odds, rate_ratio) of a against b, shrunken towards no difference, always finite.

    Monroe et al. (2008), informative Dirichlet prior: to both arms' firing and silent rows are added
    pseudo-rows in the proportion of the pooled rate, so many that the rarer of the two gets `prior`.
    """
    pooled = (firing_a + firing_b + prior) / (n_a + n_b + 2 * prior)
    rows = prior / np.fmin(pooled, 1 - pooled)
    rate_a, rate_b = ((f + rows * pooled) / (n + rows) for f, n in ((firing_a, n_a), (firing_b, n_b)))
    return np.log(rate_a / (1 - rate_a)) - np.log(rate_b / (1 - rate_b)), rate_a / rate_b


def benjamini_hochberg(p: Array) -> Array:
    """Return the q values of p, shape (k,); NaN rows are not tested and stay NaN."""
    q = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    ranked = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.fmin(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return q
