"""Trend and stratified difference: equal to a second way of computing them, and their intervals cover.

Coverage: 2,000 seeded worlds each, of 40 units or more, looked at where 10 units or more fire. The truth is the value
in a very large sample of the same generator.
"""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from saeinterp_mcp.analysis import intervals
from saeinterp_mcp.analysis.confounding import StratifiedEffect, strata_of, stratified_difference
from saeinterp_mcp.analysis.moments import count_labels
from saeinterp_mcp.analysis.trend import N_FOLDS, Trend, monotone, spearman_by_unit
from saeinterp_mcp.analysis.two_arms import ValueCounts
from tests.operations.brute import arms

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
N_WORLDS = 2000


class Rows(NamedTuple):
    """Rows of a world: the unit of each, its level (or cell), its activation."""

    unit: Ints
    label: Ints
    value: Floats


def trend_of(rows: Rows, n_levels: int) -> Trend:
    fold = rows.unit % N_FOLDS
    counts = np.bincount(fold * n_levels + rows.label, minlength=N_FOLDS * n_levels).reshape(
        N_FOLDS, n_levels
    )
    fires = rows.value > 0
    return spearman_by_unit(counts.sum(0), counts, fold[fires], rows.label[fires], rows.value[fires])


def stratified_of(rows: Rows, n_strata: int, largest: float | None = None) -> StratifiedEffect:
    unit_rows = np.bincount(rows.unit)
    counts = count_labels(rows.unit, rows.label, unit_rows, 2 * n_strata, "rest")
    fires = np.flatnonzero(rows.value > 0)
    fires = fires[np.argsort(rows.unit[fires], kind="stable")]
    top = float(rows.value.max()) if largest is None else largest
    return stratified_difference(
        strata_of(ValueCounts(counts)), rows.unit[fires], rows.label[fires], rows.value[fires], top
    )


# --- the same, computed another way


@st.composite
def small_rows(draw: st.DrawFn, n_labels: int) -> Rows:
    n = draw(st.integers(3, 40))
    unit = draw(st.lists(st.integers(0, 30), min_size=n, max_size=n))
    label = draw(st.lists(st.integers(0, n_labels - 1), min_size=n, max_size=n))
    value = draw(st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 7.0]), min_size=n, max_size=n))
    return Rows(np.array(unit), np.array(label), np.array(value))


@given(small_rows(4))
def test_spearman_is_that_of_scipy_with_ties_and_silent_rows(rows: Rows) -> None:
    found = trend_of(rows, 4)
    assert found.n == len(rows.value)
    if len(set(rows.label)) < 2 or len(set(rows.value)) < 2 or not rows.value.any():
        assert np.isnan(found.spearman)
        return
    assert found.spearman == pytest.approx(stats.spearmanr(rows.label, rows.value).statistic, abs=1e-12)


def test_spearman_of_many_rows_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    level = rng.integers(0, 5, 20_000)
    value = np.where(rng.random(20_000) < 0.1 + 0.05 * level, rng.lognormal(size=20_000).round(1), 0.0)
    found = trend_of(Rows(np.arange(20_000) // 3, level, value), 5)
    assert found.spearman == pytest.approx(stats.spearmanr(level, value).statistic, abs=1e-12)


def test_the_interval_of_spearman_is_that_of_leaving_folds_out() -> None:
    rng = np.random.default_rng(2)
    rows = Rows(
        np.arange(120) // 2, rng.integers(0, 3, 120), np.where(rng.random(120) < 0.5, rng.random(120), 0)
    )
    z = []
    for fold in range(N_FOLDS):
        keep = rows.unit % N_FOLDS != fold
        z.append(np.arctanh(stats.spearmanr(rows.label[keep], rows.value[keep]).statistic))
    d = np.array(z) - np.mean(z)
    se = np.sqrt(39 / 40 * (d**2).sum())
    df = min(39.0, 3 * (d**2).sum() ** 2 / (d**4).sum() - 1)
    centre = np.arctanh(stats.spearmanr(rows.label, rows.value).statistic)
    reach = stats.t.ppf(0.975, df) * se
    found = trend_of(rows, 3)
    assert found[1:3] == pytest.approx((np.tanh(centre - reach), np.tanh(centre + reach)), abs=1e-9)


def test_a_trend_in_few_units_has_no_interval() -> None:
    rows = Rows(np.repeat(np.arange(9), 4), np.tile([0, 1, 2, 3], 9), np.tile([0.0, 1.0, 2.0, 3.0], 9))
    found = trend_of(rows, 4)
    assert found.spearman == pytest.approx(1.0)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_a_silent_feature_and_a_single_level_have_no_trend() -> None:
    unit = np.arange(20)
    assert np.isnan(trend_of(Rows(unit, unit % 2, np.zeros(20)), 2).spearman)
    assert np.isnan(trend_of(Rows(unit, np.zeros(20, np.int64), np.ones(20)), 2).spearman)


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([1.0, 1.0, 2.0], True),
        ([3.0, None, 1.0], True),
        ([1.0, 2.0, 1.5], False),
        ([1.0, None], None),
        ([], None),
    ],
)
def test_monotone_looks_at_known_means_only(means: list[float | None], expected: bool | None) -> None:
    assert monotone(means) is expected


@given(small_rows(6))
def test_the_stratified_difference_is_the_weighted_sum_over_strata(rows: Rows) -> None:
    weights, differences = [], []
    for stratum in range(3):
        absent, present = (rows.value[rows.label == 2 * stratum + p] for p in (0, 1))
        if len(absent) and len(present):
            weights.append(len(absent) * len(present) / (len(absent) + len(present)))
            differences.append(present.mean() - absent.mean())
    found = stratified_of(rows, 3)
    assert found.n_strata == len(weights)
    if weights:
        assert found.value == pytest.approx(np.average(differences, weights=weights), abs=1e-12)
    else:
        assert np.isnan(found.value)


@settings(max_examples=50)
@given(small_rows(2))
def test_with_one_stratum_it_is_the_plain_difference(rows: Rows) -> None:
    present = rows.label == 1
    assume(present.any() and not present.all())
    a, b, cross = arms(rows.value, rows.unit, present, ~present, np.ones(len(present), bool))
    with np.errstate(invalid="ignore", divide="ignore"):
        effect, low, high, _ = intervals.difference(a, b, cross, np.array([7.0]))
    found = stratified_of(rows, 1, largest=7.0)
    assert found[:3] == pytest.approx((effect[0], low[0], high[0]), rel=1e-9, abs=1e-9, nan_ok=True)


def test_the_interval_over_strata_is_that_of_weighted_units() -> None:
    rows = strata(np.random.default_rng(5), 150, 6, 3, 0.1, 1.0, 0.6, 0.5, False)
    cells = [rows.label == k for k in range(6)]
    n = [int(cell.sum()) for cell in cells]
    weights = [n[2 * s] * n[2 * s + 1] / (n[2 * s] + n[2 * s + 1]) for s in range(3)]
    sides = []
    for side in (1, 0):
        mine = [2 * s + side for s in range(3)]
        rows_of_side = sum(n[k] for k in mine)
        d = {k: rows_of_side * weights[k // 2] / sum(weights) / n[k] for k in mine}
        mean = sum(d[k] * rows.value[cells[k]].sum() for k in mine) / rows_of_side
        s_u, n_u, held = (np.zeros(150) for _ in range(3))
        for u in range(150):
            for k in mine:
                here = cells[k] & (rows.unit == u)
                s_u[u] += d[k] * rows.value[here].sum()
                n_u[u] += d[k] * here.sum() * rows.value[cells[k]].mean() / mean
                held[u] += here.sum()
        sums = (rows_of_side, (held > 0).sum(), (s_u > 0).sum(), s_u.sum(), s_u @ s_u, s_u @ n_u, n_u @ n_u)
        sides.append((intervals.Arm(*(np.array([float(v)]) for v in sums)), s_u, n_u))
    (a, s_a, n_a), (b, s_b, n_b) = sides
    cross = intervals.Cross(*(np.array([v]) for v in (s_a @ s_b, s_a @ n_b, n_a @ s_b, n_a @ n_b)))
    effect, low, high, _ = intervals.difference(a, b, cross, np.array([rows.value.max()]))
    assert stratified_of(rows, 3)[:3] == pytest.approx((effect[0], low[0], high[0]), rel=1e-9)


def test_the_unit_of_activation_only_scales_it() -> None:
    rows = strata(np.random.default_rng(3), 80, 5, 3, 0.1, 1.0, 0.6, 0.5, False)
    once, thrice = stratified_of(rows, 3), stratified_of(rows._replace(value=3 * rows.value), 3)
    assert np.isfinite(once).all()
    assert thrice[:3] == pytest.approx([3 * v for v in once[:3]], rel=1e-9)


def test_a_side_with_few_firing_units_has_no_interval() -> None:
    unit = np.arange(200)
    value = np.where((unit % 2 == 0) | (unit < 18), 1.0, 0.0)  # 9 firing units with label 1
    found = stratified_of(Rows(unit, unit % 2, value), 1)
    assert found.value == pytest.approx(9 / 100 - 1)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_a_side_that_never_fires_has_the_rule_of_three() -> None:
    unit = np.arange(200)
    found = stratified_of(Rows(unit, unit % 2, np.where(unit % 2 == 0, 1.0 + unit % 3, 0.0)), 1, largest=10.0)
    assert found.value == pytest.approx(-1.99)
    # above by 10 x 3 / 100 at least, and not more than both limits together
    assert found.value + 0.3 < found.high < found.value + 0.3 + 0.2
    assert found.low < found.value


# --- coverage


def levels(
    rng: np.random.Generator,
    n_units: int,
    most_rows: int,
    rates: tuple[float, ...],
    slope: float,
    unit_effect: float,
    unit_has_level: bool,
) -> Rows:
    """Units of 1 to `most_rows` rows; rate and log strength rise with the level, and vary from unit to unit."""
    unit = np.repeat(np.arange(n_units), rng.integers(1, most_rows + 1, n_units))
    n, n_levels = len(unit), len(rates)
    level = rng.integers(0, n_levels, n_units)[unit] if unit_has_level else rng.integers(0, n_levels, n)
    own = rng.normal(size=n_units)[unit] * unit_effect
    odds = np.log(np.array(rates) / (1 - np.array(rates)))[level] + own
    fires = rng.random(n) < 1 / (1 + np.exp(-odds))
    strength = np.exp(slope * level / (n_levels - 1) + 0.5 * rng.normal(size=n) + 0.5 * own)
    return Rows(unit, level, strength * fires)


def strata(
    rng: np.random.Generator,
    n_units: int,
    most_rows: int,
    n_strata: int,
    rate: float,
    lift: float,
    spread: float,
    unit_effect: float,
    unit_has_stratum: bool,
) -> Rows:
    """Presence and firing both go with the stratum; presence multiplies the firing rate by 1 + lift."""
    unit = np.repeat(np.arange(n_units), rng.integers(1, most_rows + 1, n_units))
    n = len(unit)
    stratum = rng.integers(0, n_strata, n_units)[unit] if unit_has_stratum else rng.integers(0, n_strata, n)
    present = rng.random(n) < 0.3 * (0.5 + stratum / (n_strata - 1))
    own = rng.normal(size=n_units)[unit] * unit_effect
    p = np.minimum(rate * (1 + stratum) * (1 + lift * present), 0.95)
    fires = rng.random(n) < 1 / (1 + np.exp(-(np.log(p / (1 - p)) + own)))
    return Rows(unit, 2 * stratum + present, np.exp(spread * rng.normal(size=n) + 0.5 * own) * fires)


def coverage(found: list[tuple[float, float]], truth: float) -> float:
    """Percent of intervals that hold the truth; most worlds must show one, or it is their choice that is tested."""
    assert len(found) > 0.95 * N_WORLDS
    return 100 * float(np.mean([low <= truth <= high for low, high in found]))


@pytest.mark.parametrize(
    ("n_units", "most_rows", "rates", "slope", "unit_effect", "unit_has_level"),
    [
        (40, 1, (0.4, 0.5, 0.6), 0.5, 0.0, False),
        (60, 8, (0.1, 0.2, 0.4), 0.5, 0.7, True),
        (60, 4, (0.02, 0.5, 0.98), 4.0, 0.0, False),
    ],
    ids=["rows", "documents", "a strong trend"],
)
def test_the_interval_of_spearman_covers(
    n_units: int,
    most_rows: int,
    rates: tuple[float, ...],
    slope: float,
    unit_effect: float,
    unit_has_level: bool,
) -> None:
    shape = (most_rows, rates, slope, unit_effect, unit_has_level)
    truth = trend_of(levels(np.random.default_rng(99), 120_000, *shape), len(rates)).spearman
    found = []
    for seed in range(N_WORLDS):
        rows = levels(np.random.default_rng([7, seed]), n_units, *shape)
        trend = trend_of(rows, len(rates))
        if len(set(rows.unit[rows.value > 0].tolist())) >= 10:
            found.append((trend.low, trend.high))
    assert 93 <= coverage(found, truth) <= 97


@pytest.mark.parametrize(
    ("n_units", "most_rows", "n_strata", "rate", "lift", "spread", "unit_effect", "unit_has_stratum"),
    [
        (80, 1, 2, 0.3, 0.5, 0.5, 0.0, True),
        (400, 1, 4, 0.05, 1.0, 1.0, 0.0, True),
        (100, 20, 4, 0.03, 0.0, 0.6, 0.7, True),
        (300, 20, 5, 0.01, 1.0, 1.0, 0.7, False),
    ],
    ids=["rows", "skewed rows", "no effect", "rare in many strata"],
)
def test_the_interval_of_the_stratified_difference_covers(
    n_units: int,
    most_rows: int,
    n_strata: int,
    rate: float,
    lift: float,
    spread: float,
    unit_effect: float,
    unit_has_stratum: bool,
) -> None:
    shape = (most_rows, n_strata, rate, lift, spread, unit_effect, unit_has_stratum)
    large = 300_000 if most_rows == 1 else 50_000
    truth = stratified_of(strata(np.random.default_rng(99), large, *shape), n_strata).value
    found = []
    for seed in range(N_WORLDS):
        effect = stratified_of(strata(np.random.default_rng([8, seed]), n_units, *shape), n_strata)
        if np.isfinite(effect.low):
            found.append((effect.low, effect.high))
    assert 93 <= coverage(found, truth) <= 97
