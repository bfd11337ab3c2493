"""Operations are scored against what the generator expects, and the scores are right."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.recover.detection import smallest
from benchmarks.recover.draws import drawn_store, null_law
from benchmarks.recover.estimators import Reading
from benchmarks.recover.expected import Expected
from benchmarks.recover.firing import chances, draw_activations
from benchmarks.recover.operations import UNITS, Task, TaskResult, put, run_task, together
from benchmarks.recover.scores import (
    Hit,
    NullAnswer,
    OperationScores,
    exact_interval,
    render,
    score_estimator,
    score_nulls,
    score_power,
)
from benchmarks.recover.trained import match, matches_path
from benchmarks.recover.truth import InGroup, Structure, Term
from benchmarks.recover.worlds import Law, WorldKind, draw_law, truth_path, write_world
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.operations.family_sweep import family_sweep


def reading(estimate: float, low: float | None, high: float | None, **given: object) -> Reading:
    """A reading of expectation 2 in 40 units, unless told otherwise."""
    fields: dict[str, object] = {
        "estimator": "mean",
        "feature": 0,
        "stratum": "or",
        "estimate": estimate,
        "low": low,
        "high": high,
        "expected": 2.0,
        "n_units": 40,
        "n_firing": 12,
        "expected_firing": 12.0,
    }
    return Reading.model_validate({**fields, **given})


def test_coverage_counts_the_rows_that_hold_the_expectation() -> None:
    readings = [
        reading(2.5, 1.5, 3.5),
        reading(1.0, 0.5, 1.9),
        reading(3.0, 2.5, 4.0, expected_firing=30.0),
        reading(2.0, 1.0, 3.0, expected_firing=30.0),
        reading(9.0, None, None),
        reading(9.0, 8.0, 10.0, n_units=29),
        reading(9.0, 8.0, 10.0, n_firing=9),
    ]
    found = score_estimator("mean", readings)
    assert (found.n_estimates, found.n_counted, found.n_typical) == (7, 4, 2)
    assert found.coverage == 0.5
    assert (found.too_low, found.too_high) == (0.25, 0.25)
    assert found.coverage_typical == 0.5
    assert found.bias == pytest.approx((0.5 - 1 + 1 + 0 + 7 + 7 + 7) / 7 / 2)
    assert found.held is False


def test_exact_intervals_are_those_of_the_tables() -> None:
    # Clopper and Pearson: 0 of 10 has 1 - .025^(1/10); 1 of 20 the published .0013 to .2487
    assert exact_interval(0, 10) == pytest.approx((0, 0.308498), abs=1e-6)
    assert exact_interval(1, 20) == pytest.approx((0.001265, 0.248733), abs=1e-6)
    assert exact_interval(20, 20)[1] == 1.0


def test_null_scores_leave_out_what_could_not_be_tested() -> None:
    answers = [NullAnswer(operation="sweep", stratum="noise", q=q) for q in [*58 * [0.4], 0.01, None, None]]
    (found,) = score_nulls(answers)
    assert (found.n_features, found.n_found) == (59, 1)
    # one-sided 95 % bound u of 1 in 59: (1 - u)^59 + 59 u (1 - u)^58 = .05
    u = found.upper
    assert (1 - u) ** 59 + 59 * u * (1 - u) ** 58 == pytest.approx(0.05)


def test_power_is_by_operation_stratum_and_size() -> None:
    hits = [
        Hit(operation="sweep", stratum="or", n_units=100, found=True),
        Hit(operation="sweep", stratum="or", n_units=100, found=False),
        Hit(operation="sweep", stratum="and", n_units=100, found=True),
        Hit(operation="sweep", stratum="or", n_units=200, found=True),
    ]
    assert [(p.stratum, p.n_units, p.n_found, p.n_features) for p in score_power(hits)] == [
        ("or", 100, 1, 2),
        ("or", 200, 1, 1),
        ("and", 100, 1, 1),
    ]


def feature_of(law: Law, stratum: str) -> int:
    return next(i for i, f in enumerate(law.features) if f.stratum == stratum)


@pytest.mark.parametrize("kind", ["set", "sequence"])
def test_expectations_are_the_means_of_a_very_large_draw(kind: WorldKind) -> None:
    law = draw_law(kind, 7, features_per_stratum=1)
    expected = Expected(law, 20_000 if kind == "set" else 2500, seed=7)
    rows = law.rows.draw(40_000 if kind == "set" else 5000, rng(1, "another draw"))
    for stratum in ("dose_response", "gated", "suppressor_rate", "tail_stimulus", "split_twin"):
        feature = feature_of(law, stratum)
        fires, values = draw_activations(law.features[feature], rows, rng(2, stratum))
        value = np.zeros(len(rows))
        value[fires] = values
        rule = law.features[feature].structure
        assert rule is not None
        family = rows.schema.index(rule.terms[0].family)
        levels = [0, *rows.schema.families[family].levels]
        for k, level in enumerate(levels):
            here = rows.levels[:, family] == level
            cells = expected.levels(feature, rule.terms[0].family)
            assert cells.rate[k] == pytest.approx((value[here] > 0).mean(), abs=0.04), (stratum, level)
            assert cells.mean[k] == pytest.approx(value[here].mean(), rel=0.1, abs=0.05), (stratum, level)


def test_expected_contrasts_equal_loops_over_rows() -> None:
    law = draw_law("set", 8, features_per_stratum=1)
    expected = Expected(law, 1500, seed=8)
    rows, feature = expected.rows, feature_of(law, "and")
    rule = law.features[feature].structure
    assert rule is not None
    a, b = rule.terms
    found = chances(law.features[feature], rows)

    def mean(mask: np.ndarray) -> float:
        return float(sum(found.mean[i] for i in np.flatnonzero(mask)) / mask.sum())

    has_a, has_b = rows.has(a), rows.has(b)
    crossed = mean(has_a & has_b) - mean(has_a & ~has_b) - mean(has_b & ~has_a) + mean(~has_a & ~has_b)
    assert expected.interaction(feature, a, b)[0] == pytest.approx(crossed, rel=1e-5)

    some = rows.levels[:, rows.schema.index(a.family)] > 0
    above, weights = 0.0, 0.0
    for value in range(16):
        here = rows.groups["g"] == value
        n1, n0 = (here & some).sum(), (here & ~some).sum()
        above += n1 * n0 / (n1 + n0) * (mean(here & some) - mean(here & ~some))
        weights += n1 * n0 / (n1 + n0)
    assert expected.stratified_effect(feature, a.family, "g") == pytest.approx(above / weights, rel=1e-4)

    n = (np.zeros(16), np.zeros(16))
    n[0][:2], n[1][:2] = (30, 10), (10, 30)  # weights 7.5 and 7.5: the mean of two strata
    first_two = [rows.groups["g"] == value for value in (0, 1)]
    two = [mean(here & some) - mean(here & ~some) for here in first_two]
    assert expected.stratified_effect(feature, a.family, "g", n) == pytest.approx(np.mean(two), rel=1e-4)

    inside = rows.within(InGroup(by="g.a1", value="a1v2"))
    effect = expected.value_effect(feature, InGroup(by="g.a1", value="a1v2"))
    assert effect == pytest.approx(mean(inside) - mean(~inside), rel=1e-4)

    rate = found.rate
    recall, precision, accuracy = expected.of_rule(feature, has_a)
    assert recall == pytest.approx(rate[has_a].sum() / rate.sum(), rel=1e-5)
    assert precision == pytest.approx(rate[has_a].mean(), rel=1e-5)
    kept = (1 - rate[~has_a]).sum() / (1 - rate).sum()
    assert accuracy == pytest.approx((recall + kept) / 2, rel=1e-5)


def test_tokens_of_a_cumulative_level_stand_for_it_and_all_above() -> None:
    law = draw_law("set", 8, features_per_stratum=1)
    expected = Expected(law, 3000, seed=8)
    feature = feature_of(law, "level_threshold")
    mean = chances(law.features[feature], expected.rows).mean
    for family in expected.rows.schema.families[:8]:
        level = family.levels[-2] if len(family.levels) > 1 else 1
        column = expected.rows.levels[:, expected.rows.schema.index(family.name)]
        has = column >= level if family.encoding == "cumulative" else column == level
        wanted = mean[has].mean() - mean[~has].mean()
        assert expected.token_effect(feature, family.token(level)) == pytest.approx(wanted, abs=1e-4)


@pytest.fixture(scope="module")
def small() -> dict[str, TaskResult]:
    """The short version: 34 features in a drawn world, and a world of noise."""
    planted = Task(kind="set", what="estimates", law_seed=11, n_draws=1, per_stratum=2, large=40_000)
    noise = Task(kind="set", what="null", law_seed=12, n_draws=1, per_stratum=2)
    return {"planted": run_task(planted), "noise": run_task(noise)}


def test_intervals_of_operations_hold_the_expectation_and_narrower_ones_do_not(
    small: dict[str, TaskResult],
) -> None:
    readings = [r for r in small["planted"].readings if r.counts]
    assert len(readings) > 200
    inside = np.mean([r.low <= r.expected <= r.high for r in readings])  # type: ignore[operator]
    assert 0.92 < inside < 0.985

    def narrowed(r: Reading) -> bool:
        assert r.low is not None
        assert r.high is not None
        middle, reach = (r.low + r.high) / 2, 0.6 * (r.high - r.low) / 2
        return abs(r.expected - middle) <= reach

    assert np.mean([narrowed(r) for r in readings]) < 0.88


def test_planted_families_and_groups_are_found_in_a_small_world(small: dict[str, TaskResult]) -> None:
    hits = [h for h in small["planted"].hits if h.n_units == UNITS["set"][0]]
    for operation in ("family_sweep", "token_influence family", "group_sweep"):
        found = [h.found for h in hits if h.operation == operation]
        assert np.mean(found) > 0.9, operation


def test_little_is_found_where_nothing_is_planted(small: dict[str, TaskResult]) -> None:
    tested = [a for a in small["noise"].nulls if a.q is not None]
    assert len(tested) > 150
    assert np.mean([a.q < 0.05 for a in tested if a.q is not None]) < 0.1


def test_the_report_names_every_estimator_and_operation(small: dict[str, TaskResult]) -> None:
    scores = OperationScores(kinds=()).with_kind(together("set", 1, list(small.values())))
    text = render(scores)
    for score in scores.kinds[0].estimators:
        assert f"| {score.estimator} |" in text
    assert "| family_sweep (one family), noise features |" in text
    assert "| token_interactions | xor |" in text
    page = put(put("# Page\n", "measured before"), text)
    assert page.startswith("# Page\n")
    assert page.count(text) == 1
    assert "measured before" not in page
    assert OperationScores.model_validate_json(scores.model_dump_json()) == scores


def test_the_smallest_q_of_a_table_without_a_test_is_unknown() -> None:
    with drawn_store(null_law("set", 3, n_noise=1, n_dense=0), 30, 3) as store:
        found = family_sweep(store, 0, next(iter(store.families)), min_n=10_000)
    assert smallest(found) is None


def test_a_truth_gets_the_latent_that_goes_with_it_and_no_two_get_one() -> None:
    generator = rng(0, "test")
    law = null_law("set", 3, n_noise=4, n_dense=0)
    ideal = generator.exponential(size=(500, 4)) * (generator.random((500, 4)) < 0.3)
    ideal[:, 3] = 0
    noisy = ideal[:, 0] + generator.normal(0, 0.4, 500)
    latents = np.stack([generator.random(500), noisy, ideal[:, 1], 2 * ideal[:, 0]], 1)
    found = match(ideal.astype(np.float32), latents.astype(np.float32), law, np.ones(500, bool))
    assert [m.latent for m in found] == [3, 2, None, None]
    assert found[0].correlation == pytest.approx(1)
    assert found[2].correlation is not None
    assert found[2].correlation < 0.3
    assert found[3].correlation is None


def test_a_trained_world_keeps_what_is_planted_in_its_latents(tmp_path: Path) -> None:
    truths = write_world(tmp_path / "bundle", "set", 2, 900, 1, activations="trained")
    assert truth_path(tmp_path / "bundle").exists()
    assert matches_path(tmp_path / "bundle").exists()
    assert len({t.feature for t in truths}) == len(truths)
    # 16 features fire; without training a latent's correlation with any of them stays far under .6
    assert len(truths) >= 10


def test_a_rule_of_the_truth_reads_back() -> None:
    structure = Structure(terms=(Term(family="f01", threshold=3),), gate=InGroup(by="g.a1", value="a1v1"))
    assert structure.rule == '(family:f01>=3) and g.a1="a1v1"'
