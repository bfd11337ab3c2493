"""Balanced accuracy and AUROC with intervals by unit: against a bootstrap, for coverage, and at their ends."""

from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.analysis.rule_scores import PredictedRows, Prediction, auroc, best_token


def test_rows_repeated_in_their_units_say_nothing_new() -> None:
    generator = np.random.default_rng(8)
    unit, holds = np.arange(150), generator.random(150) < 0.4
    fires = generator.random(150) < 0.3 + 0.4 * holds
    activation = np.where(fires, generator.lognormal(size=150), 0.0)
    once, thrice = (
        (
            PredictedRows.of(np.repeat(unit, k), np.repeat(fires, k)),
            np.repeat(holds, k),
            np.repeat(activation, k),
        )
        for k in (1, 3)
    )
    assert auroc(*thrice) == pytest.approx(auroc(*once))
    first, second = (Prediction(rows, h).balanced_accuracy for rows, h, _ in (once, thrice))
    assert second.value == pytest.approx(first.value)
    assert second.high - second.low == pytest.approx(first.high - first.low, rel=0.1)


def test_the_interval_is_that_of_a_bootstrap_by_unit() -> None:
    generator = np.random.default_rng(1)
    unit = np.repeat(np.arange(120), generator.integers(1, 12, 120))
    tendency = generator.normal(0, 1, 120)[unit]
    holds = generator.random(len(unit)) < 1 / (1 + np.exp(-generator.normal(0, 1, 120)[unit]))
    fires = generator.random(len(unit)) < 1 / (1 + np.exp(1.5 - 2 * holds - tendency))
    other = np.where(generator.random(len(unit)) < 0.8, holds, generator.random(len(unit)) < 0.4)
    activation = np.where(fires, generator.lognormal(size=len(unit)) * (1 + holds), 0.0)
    tested = PredictedRows.of(unit, fires)
    mine, its = Prediction(tested, holds), Prediction(tested, other)
    drawn = []
    for _ in range(1500):
        rows = np.concatenate([np.flatnonzero(unit == u) for u in generator.integers(0, 120, 120)])
        f, h, o, a = fires[rows], holds[rows], other[rows], activation[rows]
        score = [(p[f].mean() + (~p[~f]).mean()) / 2 for p in (h, o)]
        ranks = np.searchsorted(np.sort(a), a, "left") + np.searchsorted(np.sort(a), a, "right") + 1
        above = ranks[h].sum() / 2 - h.sum() * (h.sum() + 1) / 2
        drawn.append([score[0], score[0] - score[1], above / (h.sum() * (~h).sum())])
    found = [mine.balanced_accuracy, mine.better_than(its), auroc(tested, holds, activation)]
    for estimate, column in zip(found, np.array(drawn).T, strict=True):
        low, high = np.quantile(column, [0.025, 0.975])
        width = high - low
        assert abs(estimate.low - low) < 0.2 * width
        assert abs(estimate.high - high) < 0.2 * width


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    """Units of one to nine rows whose tendency to fire differs; the truth is that of 200,000 units."""
    generator = np.random.default_rng(2)

    def draw(n: int) -> tuple[Any, Any, Any, Any]:
        unit = np.repeat(np.arange(n), generator.integers(1, 10, n))
        holds = generator.random(len(unit)) < 0.3
        chance = 1 / (1 + np.exp(2 - 2.5 * holds - generator.normal(0, 1, n)[unit]))
        fires = generator.random(len(unit)) < chance
        return unit, fires, holds, np.where(fires, generator.lognormal(size=len(unit)), 0.0)

    def scores(unit: Any, fires: Any, holds: Any, activation: Any) -> list[Any]:
        tested = PredictedRows.of(unit, fires)
        return [Prediction(tested, holds).balanced_accuracy, auroc(tested, holds, activation)]

    truth = [s.value for s in scores(*draw(200_000))]
    worlds = [scores(*draw(100)) for _ in range(600)]
    for i, true in enumerate(truth):
        held = np.mean([w[i].low <= true <= w[i].high for w in worlds])
        assert 0.93 <= held <= 0.98


def test_a_rule_without_mistakes_has_no_interval_of_width_zero() -> None:
    fires = np.arange(200) % 2 == 0
    tested = PredictedRows.of(np.arange(200) // 2, fires)
    for found in (Prediction(tested, fires).balanced_accuracy, auroc(tested, fires, fires.astype(float))):
        assert found.value == found.high == 1
        assert 0.9 < found.low < 0.99


def test_auroc_is_the_share_of_pairs_of_rows_with_ties_counted_half() -> None:
    rng = np.random.default_rng(7)
    activation = rng.integers(0, 4, 300).astype(
        np.float64
    )  # few values, so that firing rows tie as well as silent ones
    holds = rng.random(300) < 0.2 + 0.1 * activation
    tested = PredictedRows.of(np.repeat(np.arange(100), 3), activation > 0)
    pairs = activation[holds][:, None] - activation[~holds]
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert auroc(tested, holds, activation).value == pytest.approx(expected)


def test_ties_of_the_best_token_go_to_the_one_that_fires_more() -> None:
    n_firing, n = np.array([0.0, 5.0, 10.0, 10.0]), np.array([0.0, 5.0, 20.0, 20.0])
    # token 1: 5/20 and all 20 silent right; tokens 2, 3: 10/20 and half of them
    assert best_token(n_firing, n, 20, 40) == 1
    assert best_token(np.array([4.0, 10.0, 10.0]), np.array([4.0, 16.0, 16.0]), 20, 40) == 1
    assert best_token(np.zeros(2), np.array([3.0, 4.0]), 0, 40) is None
