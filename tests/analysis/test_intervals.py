"""Intervals and tests from sums: by hand, against direct computation, and coverage over seeded worlds."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from saeinterp_mcp.analysis.intervals import (
    Arm,
    Cross,
    benjamini_hochberg,
    contrast,
    covariance,
    difference,
    log_odds_shrunken,
    mean,
    mean_interval,
    rate_difference,
    rate_interval,
    score_test,
    standard_error,
)

Array = npt.NDArray[np.float64]
Random = np.random.Generator
Strength = Callable[[Random, int], Array]  # mean 1


def arm(s: Array, n: Array) -> Arm:
    """Sum over units, the last axis."""
    sums = (n, n > 0, s > 0, s, s * s, s * n, n * n)
    return Arm(*(np.asarray(x, dtype=np.float64).sum(axis=-1) for x in sums))


def cross(s_a: Array, n_a: Array, s_b: Array, n_b: Array) -> Cross:
    return Cross(*((x * y).sum(axis=-1) for x in (s_a, n_a) for y in (s_b, n_b)))


def apart(a: Arm) -> Cross:
    return Cross(*(np.zeros_like(a.n) for _ in fields(Cross)))


def v(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


# Three units: rows and sums of arm a, and of arm b, which is absent from the second unit.
N_A, S_A = v(1, 2, 3), v(3, 1, 2)
N_B, S_B = v(2, 0, 1), v(0, 0, 3)
A, B, AB = (
    arm(S_A[None], N_A[None]),
    arm(S_B[None], N_B[None]),
    cross(S_A[None], N_A[None], S_B[None], N_B[None]),
)


def test_sums_by_hand() -> None:
    assert [getattr(A, f.name).item() for f in fields(Arm)] == [6, 3, 3, 6, 14, 11, 14]
    assert [getattr(B, f.name).item() for f in fields(Arm)] == [3, 2, 1, 3, 9, 3, 5]
    assert [getattr(AB, f.name).item() for f in fields(Cross)] == [6, 8, 9, 5]


def test_mean_variance_and_covariance_by_hand() -> None:
    assert mean(A) == 1
    assert mean(B) == 1
    # residuals S_i - n_i: a 2, -1, -1 with sum of squares 6; b -2, -, 2 with 8; products -4, -, -2
    np.testing.assert_allclose(standard_error(A), np.sqrt(6 / 36 * 3 / 2))
    np.testing.assert_allclose(standard_error(B), np.sqrt(8 / 9 * 2 / 1))
    np.testing.assert_allclose(covariance(A, B, AB), -6 / (6 * 3) * np.sqrt(3 / 2 * 2))


def counts(firing: float, units: float, strength: float = 1.0) -> Arm:
    """One row a unit, every firing one equally strong."""
    s = strength * firing
    return Arm(v(units), v(units), v(firing), v(s), v(s * strength), v(s), v(units))


def test_mean_interval_by_hand() -> None:
    # m = 10/40 x 4 = 1; (se/m)^2 = (10 x 0.75^2 + 30 x 0.25^2)/(40 x 0.25)^2 x 40/39 = 1/13; E = 10.
    # t with 9 df is 2.2621572; equal sums, so nothing is estimated above and z = 1.9599640 serves.
    low, high = mean_interval(counts(10, 40, 4.0), v(4))
    np.testing.assert_allclose(low, np.exp(-2.2621572 * np.sqrt(1 / 13)), rtol=1e-6)
    np.testing.assert_allclose(high, np.exp(1.9599640 * np.sqrt(1 / 13)), rtol=1e-6)


def test_mean_interval_of_unequal_sums_by_hand() -> None:
    # 10 of 1000 units fire, nine with 1 and one with 3: S = 12, sum S^2 = 18, E = 144/18 = 8
    a = Arm(v(1000), v(1000), v(10), v(12), v(18), v(12), v(1000))
    relative = np.sqrt((1 / 8 - 1 / 1000) * 1000 / 999)
    share = (1 / 8 - 1 / 10) / relative**2
    t = float(stats.t.ppf(0.975, 28 / 9))  # (8 - 1)/2.25 degrees of freedom above, 7 below
    q = np.sqrt(1.959964**2 + share * (t**2 - 1.959964**2))
    low, high = mean_interval(a, v(3))
    np.testing.assert_allclose(low, 0.012 * np.exp(-2.3646243 * relative), rtol=1e-6)
    np.testing.assert_allclose(high, 0.012 * np.exp(q * relative), rtol=1e-6)


def test_many_rows_a_unit_make_a_dense_mean_sure() -> None:
    # 60 units of 100 rows that all fire, with sums 95 and 105: se/m = 0.05/sqrt(59) = 0.0065
    s = np.where(np.arange(60) % 2, 95.0, 105.0)
    low, high = mean_interval(arm(s[None], np.full((1, 60), 100.0)), v(2))
    assert 0.985 < low < 0.988
    assert 1.012 < high < 1.015


def test_mean_is_at_most_the_largest_activation() -> None:
    # nine units with 1 and one with 91: E = 100^2/8290 = 1.2, hardly one degree of freedom
    _, high = mean_interval(Arm(v(12), v(12), v(10), v(100), v(8290), v(100), v(12)), v(91))
    assert high == 91


def test_no_firing_is_the_rule_of_three_by_units() -> None:
    a = Arm(
        v(900, 12, 900), v(60, 2, 1), v(0, 0, 0), v(0, 0, 0), v(0, 0, 0), v(0, 0, 0), v(20000, 80, 810000)
    )
    np.testing.assert_allclose(mean_interval(a, v(8, 8, 8)), [[0, 0, np.nan], [0.4, 8, np.nan]])
    np.testing.assert_allclose(rate_interval(a), [[0, 0, np.nan], [0.05, 1, np.nan]])


@pytest.mark.parametrize("firing", [1, 9])
def test_few_firing_units_have_no_interval_of_the_mean_but_one_of_the_rate(firing: int) -> None:
    a = counts(firing, 50)
    assert np.isnan(mean_interval(a, v(1))).all()
    exact = stats.binomtest(firing, 50).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(np.ravel(rate_interval(a)), [exact.low, exact.high], rtol=1e-3)


def test_rate_interval_of_single_rows_is_jeffreys() -> None:
    low, high = rate_interval(counts(30, 100))
    np.testing.assert_allclose(low, stats.beta.ppf(0.025, 30.5, 70.5), rtol=1e-9)
    np.testing.assert_allclose(high, stats.beta.ppf(0.975, 30.5, 70.5), rtol=1e-9)


def test_all_rows_firing_mirrors_the_rule_of_three() -> None:
    np.testing.assert_allclose(np.ravel(rate_interval(counts(60, 60))), [0.95, 1])
    np.testing.assert_allclose(np.ravel(rate_interval(counts(6, 6))), [0.5, 1])


def test_contrast_by_hand() -> None:
    # 3 (2 to 5) less 1 (0.5 to 2), correlated 0.5: down 1 and 1, up 2 and 0.5
    c = np.array([[[4.0, 1.0], [1.0, 1.0]]])
    low, high = contrast(v(3, 1)[None], v(2, 0.5)[None], v(5, 2)[None], c, v(1, -1))
    np.testing.assert_allclose(low, 2 - np.sqrt(1 + 1 - 2 * 0.5 * 1 * 1))
    np.testing.assert_allclose(high, 2 + np.sqrt(4 + 0.25 - 2 * 0.5 * 2 * 0.5))


def test_difference_is_null_where_an_arm_has_no_interval() -> None:
    few, many, silent = counts(9, 50), counts(20, 50), counts(0, 50)
    effect, low, high, p = difference(few, many, apart(few), v(1))
    assert effect == pytest.approx(9 / 50 - 20 / 50)
    assert np.isnan([low, high]).all()
    assert 0 < p.item() < 0.05
    _, low, high, p = difference(silent, many, apart(silent), v(1))
    assert low.item() < -0.4 < high.item() < 0
    assert p.item() < 1e-4
    assert np.isnan(difference(silent, silent, apart(silent), v(1))[3])
    one = counts(1, 1)
    assert np.isnan(difference(one, many, apart(one), v(1))[3])
    assert not np.isnan(rate_difference(few, many, apart(few))[1])


def test_score_test_by_hand() -> None:
    # a: 2 of 100 units fire with 1; b: 38 of 300. m0 = 0.1; squares 2.6 and 33.4, of all 36 by rows 9 and 27;
    # own squares count 2/52 and 38/88; no spread of the firing units, so the skewness is var/(m0 sd)
    w_a, w_b = 2 / 52, 38 / 88
    v_a = (w_a * 2.6 + (1 - w_a) * 9) / 100**2 * 100 / 99
    v_b = (w_b * 33.4 + (1 - w_b) * 27) / 300**2 * 300 / 299
    sd = np.sqrt(v_a + v_b)
    skewness = (v_a * (1 - 3 * w_a) - v_b * (1 - 3 * w_b)) / (0.1 * sd)
    p = score_test(counts(2, 100), counts(38, 300), apart(counts(0, 100)))
    np.testing.assert_allclose(p, 2 * stats.pearson3.cdf((0.02 - 38 / 300) / sd, skewness), rtol=1e-9)


def test_score_test_keeps_own_squares_that_rows_and_squares_bracket() -> None:
    # a: 60 units of 2 rows, 20 with S = 2; b: 60 of 4 rows, 15 with S = 4; m0 = 100/360. By rows a has 1/3
    # of the squares, by squared rows 1/5, and indeed 0.23 of them.
    a = Arm(v(120), v(60), v(20), v(40), v(80), v(80), v(240))
    b = Arm(v(240), v(60), v(15), v(60), v(240), v(240), v(960))
    m0 = 100 / 360
    q_a, q_b = 20 * (2 - 2 * m0) ** 2 + 40 * (2 * m0) ** 2, 15 * (4 - 4 * m0) ** 2 + 45 * (4 * m0) ** 2
    assert 0.2 < q_a / (q_a + q_b) < 1 / 3
    v_a, v_b = q_a / 120**2 * 60 / 59, q_b / 240**2 * 60 / 59
    sd = np.sqrt(v_a + v_b)
    shape = 2 - 100**2 / ((80 + 240) * 35)  # unequal sums of the firing units
    skewness = shape * (v_a * (1 - 3 * 20 / 70) - v_b * (1 - 3 * 15 / 65)) / (m0 * sd)
    p = score_test(a, b, apart(a))
    np.testing.assert_allclose(p, 2 * stats.pearson3.sf((1 / 3 - 1 / 4) / sd, skewness), rtol=1e-9)


def test_score_test_of_a_silent_arm_and_of_a_single_firing_unit() -> None:
    silent = score_test(counts(0, 100), counts(30, 300), apart(counts(0, 100)))
    np.testing.assert_allclose(silent, 2 * 0.75**30)
    for strength in (1.0, 50.0):  # strength is no evidence
        single = score_test(counts(1, 20, strength), counts(10, 2000), apart(counts(1, 20)))
        np.testing.assert_allclose(single, 1 - (2000 / 2020) ** 11)


@pytest.mark.parametrize(
    ("a", "n_a", "b", "n_b"), [(0, 100, 30, 300), (4, 40, 20, 1000), (1, 20, 10, 2000), (25, 60, 90, 300)]
)
def test_score_test_is_near_fishers_exact_test_on_counts(a: int, n_a: int, b: int, n_b: int) -> None:
    one, other = counts(a, n_a), counts(b, n_b)
    p = score_test(one, other, apart(one)).item()
    assert score_test(other, one, apart(one)).item() == pytest.approx(p)
    exact = stats.fisher_exact(np.array([[a, n_a - a], [b, n_b - b]])).pvalue
    assert 0.4 < p / exact < 2.2


units = hnp.arrays(
    np.float64, st.tuples(st.just(4), st.integers(2, 8)), elements=st.integers(0, 9).map(float)
)


@settings(max_examples=60, deadline=None)
@given(units)
def test_sums_form_is_the_direct_computation(x: Array) -> None:
    s_a, n_a, s_b, n_b = x[0] * (x[1] > 0) / 3, x[1], x[2] * (x[3] > 0) / 3, x[3]
    a, b, ab = (
        arm(s_a[None], n_a[None]),
        arm(s_b[None], n_b[None]),
        cross(s_a[None], n_a[None], s_b[None], n_b[None]),
    )
    if min((n_a > 0).sum(), (n_b > 0).sum()) < 2:
        return
    r_a, r_b = s_a - s_a.sum() / n_a.sum() * n_a, s_b - s_b.sum() / n_b.sum() * n_b
    f_a, f_b = ((n > 0).sum() / ((n > 0).sum() - 1) for n in (n_a, n_b))
    np.testing.assert_allclose(mean(a), s_a.sum() / n_a.sum())
    np.testing.assert_allclose(standard_error(a) ** 2, (r_a**2).sum() / n_a.sum() ** 2 * f_a, atol=1e-12)
    direct = (r_a * r_b).sum() / (n_a.sum() * n_b.sum()) * np.sqrt(f_a * f_b)
    np.testing.assert_allclose(covariance(a, b, ab), direct, atol=1e-12)
    p = score_test(a, b, ab)
    assert np.isnan(p) if s_a.sum() + s_b.sum() == 0 else 0 <= p <= 1
    for low, high in (mean_interval(a, v(3)), rate_interval(arm(np.minimum(x[0], n_a)[None], n_a[None]))):
        assert np.isnan(low) == np.isnan(high)
        assert np.isnan(low) or 0 <= low <= high


def test_identical_arms_in_the_same_units_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    s, n = rng.exponential(size=(1, 40)), np.ones((1, 40))
    effect, low, high, p = difference(arm(s, n), arm(s, n), cross(s, n, s, n), s.max(1))
    assert effect == 0
    assert p == pytest.approx(1)
    assert low <= 0 <= high
    disjoint = difference(arm(s, n), arm(s, n), apart(arm(s, n)), s.max(1))
    assert high - low < 0.6 * (disjoint[2] - disjoint[1])  # the covariance counts


# Worlds


WORLDS = 4000


def lognormal(sigma: float) -> Strength:
    return lambda rng, size: rng.lognormal(-(sigma**2) / 2, sigma, size)


def exponential(rng: Random, size: int) -> Array:
    return rng.exponential(1.0, size)


def sums(rng: Random, firing: npt.NDArray[np.int64], strength: Strength) -> Array:
    """Return the sum of `firing` strengths for every unit."""
    total = np.concatenate([v(0), np.cumsum(strength(rng, int(firing.sum())))])
    end = np.cumsum(firing.ravel())
    s = total[end] - total[end - firing.ravel()]
    return np.where(firing > 0, s.reshape(firing.shape), 0.0)


def rows(rng: Random, n_units: int, rate: float, strength: Strength) -> tuple[Array, Array]:
    """A unit is one row."""
    firing = rng.binomial(1, rate, (WORLDS, n_units))
    return sums(rng, firing, strength), np.ones(firing.shape)


class Documents:
    """Units of 1 to 100 rows with their own rate (beta) and strength (log-normal), shared by the arms."""

    def __init__(self, rng: Random, n_units: int, rate: float, rho: float, tau: float) -> None:
        self.rng, self.shape = rng, (WORLDS, n_units)
        k = (1 - rho) / rho
        self.rate = rng.beta(rate * k, (1 - rate) * k, self.shape)
        self.strength = rng.lognormal(-(tau**2) / 2, tau, self.shape)

    def arm(self, strength: Strength, thinned: float = 1.0) -> tuple[Array, Array, Array]:
        """Return sums, rows and firing rows; `thinned` multiplies the rate."""
        n = np.exp(self.rng.uniform(0, np.log(101), self.shape)).astype(np.int64)
        firing = self.rng.binomial(n, self.rate * thinned)
        s = sums(self.rng, firing, strength) * self.strength
        return s, n.astype(np.float64), firing.astype(np.float64)


def covered(low: Array, high: Array, truth: float, shown: npt.NDArray[np.bool_]) -> float:
    """Return the share in per cent of the worlds with an interval, at least 2,000, that holds the truth."""
    assert shown.sum() >= 2000
    assert not np.isnan(low[shown]).any()
    return float(100 * ((low <= truth) & (truth <= high))[shown].mean())


SKEWED = [
    (30, 0.6, exponential),
    (60, 0.4, lognormal(0.6)),
    (60, 0.4, lognormal(1.0)),
    (30, 0.9, lognormal(1.0)),
    (30, 0.9, lognormal(0.3)),
    (30, 0.9, lognormal(0.1)),
    (300, 0.1, lognormal(1.0)),
]


@pytest.mark.parametrize(("n_units", "rate", "strength"), SKEWED)
def test_coverage_of_the_mean_of_rows(n_units: int, rate: float, strength: Strength) -> None:
    s, n = rows(np.random.default_rng(1), n_units, rate, strength)
    a = arm(s, n)
    low, high = mean_interval(a, s.max(1))
    assert 93 <= covered(low, high, rate, a.n_firing_units >= 10) <= 97


@pytest.mark.parametrize(("n_units", "rate"), [(30, 0.4), (45, 0.3), (60, 0.2)])
@pytest.mark.parametrize("strength", [lognormal(0.3), exponential, lognormal(1.0)])
def test_coverage_of_the_mean_at_the_threshold(n_units: int, rate: float, strength: Strength) -> None:
    s, n = rows(np.random.default_rng(2), n_units, rate, strength)
    low, high = mean_interval(arm(s, n), s.max(1))
    assert covered(low, high, rate, ~np.isnan(low)) >= 93


@pytest.mark.parametrize(
    ("n_units", "rate", "rho", "tau"),
    [
        (30, 0.5, 0.3, 0.5),
        (60, 0.1, 0.05, 0.3),
        (60, 0.9, 0.05, 0.0),
        (60, 0.9, 0.3, 0.5),
        (60, 0.9, 0.01, 0.0),
    ],
)
def test_coverage_of_the_mean_and_the_rate_in_documents(
    n_units: int, rate: float, rho: float, tau: float
) -> None:
    s, n, firing = Documents(np.random.default_rng(3), n_units, rate, rho, tau).arm(exponential)
    low, high = mean_interval(arm(s, n), s.max(1))
    assert 93 <= covered(low, high, rate, ~np.isnan(low)) <= 97
    a = arm(firing, n)
    assert 93 <= covered(*rate_interval(a), rate, a.n_firing_units >= 10) <= 97


@pytest.mark.parametrize(("n_units", "rate"), [(30, 0.6), (60, 0.35), (60, 0.9), (300, 0.1)])
def test_coverage_of_the_rate_of_rows(n_units: int, rate: float) -> None:
    rng = np.random.default_rng(4)
    truth = rng.uniform(0.95, 1.05, WORLDS) * rate  # a single rate meets the lattice of counts
    firing = rng.binomial(n_units, truth).astype(np.float64)
    n = np.full(WORLDS, float(n_units))
    low, high = rate_interval(Arm(n, n, firing, firing, firing, firing, n))
    assert 93 <= 100 * np.mean((low <= truth) & (truth <= high)) <= 97


def test_coverage_of_the_rate_with_few_firing_units() -> None:
    _, n, firing = Documents(np.random.default_rng(5), 40, 0.01, 0.05, 0.0).arm(exponential)
    a = arm(firing, n)
    assert covered(*rate_interval(a), 0.01, a.n_firing_units < 10) >= 93


DIFFERENCES = [(60, 0.4, 300, 0.4), (60, 0.9, 300, 0.9), (400, 0.05, 400, 0.5), (300, 0.1, 2000, 0.1)]


@pytest.mark.parametrize(("n_a", "rate_a", "n_b", "rate_b"), DIFFERENCES)
@pytest.mark.parametrize("strength", [lognormal(0.3), lognormal(1.0)])
def test_coverage_of_the_difference_of_rows(
    n_a: int, rate_a: float, n_b: int, rate_b: float, strength: Strength
) -> None:
    rng = np.random.default_rng(6)
    (s, n), b = rows(rng, n_a, rate_a, strength), rows(rng, n_b, rate_b, strength)
    a = arm(s, n)
    _, low, high, _ = difference(a, arm(*b), apart(a), np.fmax(s.max(1), b[0].max(1)))
    assert 93 <= covered(low, high, rate_a - rate_b, a.n_firing_units >= 10) <= 97


@pytest.mark.parametrize(("n_units", "rate", "thinned"), [(60, 0.3, 1.0), (60, 0.6, 0.5), (300, 0.4, 0.1)])
def test_coverage_of_differences_within_documents(n_units: int, rate: float, thinned: float) -> None:
    documents = Documents(np.random.default_rng(7), n_units, rate, 0.1, 0.5)
    (s, n, f), (s_b, n_b, f_b) = documents.arm(exponential, thinned), documents.arm(exponential)
    a, b, truth = arm(s, n), arm(s_b, n_b), rate * thinned - rate
    shared, largest = cross(s, n, s_b, n_b), np.fmax(s.max(1), s_b.max(1))
    _, low, high, _ = difference(a, b, shared, largest)
    assert 93 <= covered(low, high, truth, a.n_firing_units >= 10) <= 97
    _, low, high, _ = rate_difference(arm(f, n), arm(f_b, n_b), cross(f, n, f_b, n_b))
    assert 93 <= covered(low, high, truth, a.n_firing_units >= 10) <= 97
    if thinned == 1:
        _, low, high, _ = difference(a, b, apart(a), largest)
        assert covered(low, high, truth, a.n_firing_units >= 10) > 98  # without the shared units


def test_coverage_of_one_against_the_rest() -> None:
    rng = np.random.default_rng(8)
    s, n, _ = Documents(rng, 300, 0.3, 0.1, 0.3).arm(lognormal(0.6))
    here = rng.random(s.shape) < 0.15
    a = arm(s * here, n * here)
    _, low, high, p = difference(a, arm(s * ~here, n * ~here), apart(a), s.max(1))
    assert 93 <= covered(low, high, 0.0, a.n_firing_units >= 10) <= 97
    assert 0.03 <= np.mean(p < 0.05) <= 0.06


@pytest.mark.parametrize("within", [False, True])
def test_coverage_of_an_interaction(within: bool) -> None:
    rng = np.random.default_rng(9)
    if within:
        documents = Documents(rng, 80, 0.6, 0.05, 0.3)
        parts = [documents.arm(lognormal(0.6))[:2] for _ in range(4)]
    else:
        parts = [rows(rng, 80, rate, lognormal(0.6)) for rate in (0.8, 0.6, 0.7, 0.6)]
    arms = [arm(*part) for part in parts]
    c = np.zeros((WORLDS, 4, 4))
    for i, a in enumerate(arms):
        for j, b in enumerate(arms):
            c[:, i, j] = (
                standard_error(a) ** 2 if i == j else within * covariance(a, b, cross(*parts[i], *parts[j]))
            )
    limits = [mean_interval(a, part[0].max(1)) for a, part in zip(arms, parts, strict=True)]
    lows, highs = (np.stack([x[i] for x in limits], -1) for i in (0, 1))
    low, high = contrast(np.stack([mean(a) for a in arms], -1), lows, highs, c, v(1, -1, -1, 1))
    assert 93 <= covered(low, high, 0.0 if within else 0.1, ~np.isnan(low)) <= 97


NULLS = [  # units of the level, of the rest, firing rate, strength, least size at 0.05
    (100, 2000, 0.05, exponential, 0.04),  # 2 to 9 firing units
    (40, 2000, 0.05, lognormal(1.0), 0.03),  # 0 to 5: a single one does not count for its strength
    (60, 300, 0.4, exponential, 0.04),
    (120, 1000, 0.1, lognormal(0.3), 0.04),
    (300, 1000, 0.2, lognormal(1.0), 0.04),
]


@pytest.mark.parametrize(("n_a", "n_b", "rate", "strength", "least"), NULLS)
def test_p_of_no_difference_is_calibrated_in_rows(
    n_a: int, n_b: int, rate: float, strength: Strength, least: float
) -> None:
    rng = np.random.default_rng(10)
    a, b = (arm(*rows(rng, n, rate, strength)) for n in (n_a, n_b))
    p = score_test(a, b, apart(a))
    assert not np.isnan(p).any()
    assert least <= np.mean(p < 0.05) <= 0.06
    assert np.mean(p < 0.005) <= 0.008
    assert 3 * least <= np.mean(p < 0.2) <= 0.22


@pytest.mark.parametrize(("n_units", "rate", "rho"), [(60, 0.5, 0.1), (60, 0.1, 0.05), (300, 0.02, 0.05)])
def test_p_of_no_difference_is_calibrated_within_documents(n_units: int, rate: float, rho: float) -> None:
    documents = Documents(np.random.default_rng(11), n_units, rate, rho, 0.3)
    (s, n, _), (s_b, n_b, _) = documents.arm(lognormal(0.6)), documents.arm(lognormal(0.6))
    p = score_test(arm(s, n), arm(s_b, n_b), cross(s, n, s_b, n_b))
    assert 0.04 <= np.mean(p < 0.05) <= 0.06
    assert np.mean(p < 0.005) <= 0.008


@pytest.mark.parametrize(("n_a", "rate", "power"), [(400, 0.05, 0.85), (100, 0.5, 0.97)])
def test_power_on_a_suppressor(n_a: int, rate: float, power: float) -> None:
    rng = np.random.default_rng(12)
    a, b = arm(*rows(rng, n_a, rate / 10, exponential)), arm(*rows(rng, 1000, rate, exponential))
    assert np.mean(score_test(a, b, apart(a)) < 0.01) > power


# Odds and many tests


def test_log_odds_by_hand() -> None:
    # 9 of 90 and 0 of 9: pooled (9 + 0.5)/(99 + 1) = 0.095, so 0.5/0.095 pseudo-rows, half a row firing
    rows_ = 0.5 / 0.095
    log_odds, ratio = log_odds_shrunken(v(9), v(90), v(0), v(9))
    np.testing.assert_allclose(ratio, (9.5 / (90 + rows_)) / (0.5 / (9 + rows_)))
    silent = (90 + rows_ - 9.5, 9 + rows_ - 0.5)
    np.testing.assert_allclose(log_odds, np.log(9.5 / silent[0]) - np.log(0.5 / silent[1]))


def test_log_odds_are_finite_and_shrink() -> None:
    log_odds, ratio = log_odds_shrunken(v(0, 5, 0, 7), v(5, 5, 9, 7), v(0, 5, 3, 0), v(7, 5, 9, 7))
    assert np.isfinite([log_odds, ratio]).all()
    np.testing.assert_allclose(log_odds[1], 0, atol=1e-12)
    assert log_odds[2] < 0 < log_odds[3]
    strong = log_odds_shrunken(v(8), v(10), v(10), v(100))[0]
    assert 0 < log_odds_shrunken(v(8), v(10), v(10), v(100), prior=5.0)[0] < strong < np.log(4 * 9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
def test_benjamini_hochberg_is_scipys_and_leaves_nulls_out(p: list[float], nulls: int) -> None:
    mixed = np.concatenate([np.full(nulls, np.nan), p])
    q = benjamini_hochberg(mixed)
    assert np.isnan(q[:nulls]).all()
    np.testing.assert_allclose(q[nulls:], stats.false_discovery_control(p), rtol=1e-12)


def test_benjamini_hochberg_of_nothing() -> None:
    assert benjamini_hochberg(np.empty(0)).shape == (0,)
    assert np.isnan(benjamini_hochberg(v(np.nan, np.nan))).all()
