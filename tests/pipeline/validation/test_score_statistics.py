"""From answers to a row of scores: every number by hand or by another formula."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.importers.results.records import Answer, Method, ScoreFile, Simulated
from pipeline.validation.score_statistics import (
    MIN_RANKED,
    balanced_accuracy,
    chance_of_counts,
    chance_of_ranking,
    of_choices,
    of_ranking,
    of_simulation,
    of_yes_and_no,
    statistics_of,
    wilson,
)
from pipeline.validation.score_summaries import as_sae_vis


def said(fires: bool, prediction: bool | None, distance: float = 0.0, value: float | None = None) -> Answer:
    correct = None if prediction is None else prediction == fires
    return Answer(fires, prediction, correct, distance if fires else -1.0, value)


def answers(tp: int, fp: int, tn: int, fn: int) -> list[Answer]:
    return [
        *[said(True, True)] * tp,
        *[said(False, True)] * fp,
        *[said(False, False)] * tn,
        *[said(True, False)] * fn,
    ]


def ranked(distances: list[float], values: list[float | None]) -> list[Answer]:
    """As the reader of embedding files makes them, of a file without integers: the sign says what fires."""
    return [Answer(d >= 0, None, None, d, v) for d, v in zip(distances, values, strict=True)]


def file_of(method: Method, content: list[Answer]) -> ScoreFile:
    return ScoreFile(3, method, method, tuple(content), (), "delphi", Path("x"), "")


def test_counts_and_what_follows_from_them() -> None:
    found = of_yes_and_no(answers(tp=8, fp=4, tn=16, fn=2))
    assert (found.tp, found.fp, found.tn, found.fn, found.n, found.n_failed) == (8, 4, 16, 2, 30, 0)
    assert found.accuracy == 24 / 30
    assert found.balanced_accuracy == found.score == pytest.approx((0.8 + 0.8) / 2)
    assert found.f1 == pytest.approx(2 * 8 / (16 + 4 + 2))
    assert found.reason is None


def test_balanced_accuracy_is_not_moved_by_the_mix_of_classes_and_plain_accuracy_is() -> None:
    few, many = of_yes_and_no(answers(9, 5, 5, 1)), of_yes_and_no(answers(90, 5, 5, 10))
    assert few.score == many.score == pytest.approx(0.7)
    assert few.accuracy == 0.7
    assert many.accuracy == pytest.approx(95 / 110)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (50, 100)])
def test_wilson_is_that_of_scipy(k: int, n: int) -> None:
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    found = wilson(k, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_perfect_scorer_is_open_to_one_side() -> None:
    found = balanced_accuracy(10, 0, 10, 0)
    assert found.value == found.high == 1
    # both limits are Wilson's .7225, so MOVER gives 1 - .2775 / sqrt 2
    assert found.low == pytest.approx(1 - (1 - 10 / (10 + 1.959964**2)) / math.sqrt(2), abs=1e-6)


def test_the_interval_of_balanced_accuracy_covers() -> None:
    generator = np.random.default_rng(0)
    hits, rejections = generator.binomial(20, 0.8, 4000), generator.binomial(20, 0.6, 4000)
    intervals = [balanced_accuracy(h, 20 - r, r, 20 - h) for h, r in zip(hits, rejections, strict=True)]
    covered = np.mean([found.low <= 0.7 <= found.high for found in intervals])
    assert 0.93 < covered < 0.98


@pytest.mark.parametrize(("tp", "fp", "tn", "fn"), [(4, 0, 0, 2), (0, 1, 5, 0)])
def test_with_one_class_missing_the_score_is_null_and_says_why(tp: int, fp: int, tn: int, fn: int) -> None:
    found = of_yes_and_no(answers(tp, fp, tn, fn))
    assert (found.score, found.low, found.high, found.balanced_accuracy) == (None,) * 4
    assert found.accuracy is not None
    assert found.reason == f"answers to {tp + fn} texts that fire and {fp + tn} silent ones: both are needed"


def test_without_an_answer_everything_is_null_and_nothing_is_zero() -> None:
    found = of_yes_and_no([said(True, None)] * 5)
    assert (found.score, found.accuracy, found.f1, found.reason) == (
        None,
        None,
        None,
        "no answer could be read",
    )
    assert (found.n, found.n_failed, found.n_batches_failed) == (0, 5, 1)
    assert of_yes_and_no([]).reason == "no answer could be read"


def test_failed_answers_are_counted_and_never_wrong() -> None:
    found = of_yes_and_no([*answers(4, 1, 4, 1), *[said(True, None)] * 5])
    assert (found.n, found.n_failed, found.accuracy) == (10, 5, 0.8)


@pytest.mark.parametrize(
    ("unread", "expected"),
    [
        ([0, 1, 2, 3, 4], 1),
        ([3, 4, 5, 6, 7], 0),  # of two requests, neither of which failed as a whole
        (list(range(10)), 2),
        ([10, 11], 1),  # the last, short one
        ([], 0),
    ],
)
def test_failed_requests_are_those_of_five_without_any_answer(unread: list[int], expected: int) -> None:
    trials = [said(True, None if i in unread else True) for i in range(12)]
    assert of_yes_and_no(trials).n_batches_failed == expected


def test_hits_are_kept_by_quantile_the_strongest_first() -> None:
    trials = [said(True, True, 0), said(True, False, 0), said(True, True, 9), said(False, True)]
    expected = ({"quantile": 0, "n": 2, "value": 0.5}, {"quantile": 9, "n": 1, "value": 1.0})
    assert of_yes_and_no(trials).quantiles == expected
    old = [answer._replace(distance=answer.distance + 1) for answer in trials]
    assert of_yes_and_no(old, first=1).quantiles == expected


def test_probabilities_are_ranked_only_where_all_are_known() -> None:
    trials = [said(i < 6, i < 6, value=1.0 - i / 10) for i in range(12)]
    found = of_yes_and_no(trials)
    assert found.auroc == 1
    assert found.auroc_low is not None
    assert of_yes_and_no([trials[0]._replace(value=None), *trials[1:]]).auroc is None


def test_chance_of_counts_is_that_of_dealing_the_answers_anew() -> None:
    fires, said_yes = np.arange(40) < 10, np.arange(40) % 3 == 0
    generator = np.random.default_rng(0)
    dealt = [generator.permutation(said_yes) for _ in range(4000)]
    scores = [(one[fires].mean() + (~one[~fires]).mean()) / 2 for one in dealt]
    tp = int((fires & said_yes).sum())
    found = chance_of_counts(tp, int(said_yes.sum()) - tp, int((~fires & ~said_yes).sum()), 10 - tp)
    deviation = (found.high - found.low) / 2 / 1.959964
    assert deviation == pytest.approx(np.std(scores), rel=0.05)
    assert (found.low + found.high) / 2 == pytest.approx(np.mean(scores), abs=0.01)


def test_chance_of_a_ranking_is_what_the_reference_says() -> None:
    assert chance_of_ranking(50, 50).high == pytest.approx(0.5 + 1.96 * 0.058, abs=1e-3)
    assert chance_of_ranking(40, 40).low == pytest.approx(0.5 - 1.96 * 0.065, abs=1e-3)


def brute_force(positive: list[float], negative: list[float]) -> float:
    return float(np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative]))


values = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(values, values)
def test_auroc_is_the_share_of_pairs_in_order(positive: list[float], negative: list[float]) -> None:
    found = of_ranking(ranked([0.0] * len(positive) + [-1.0] * len(negative), [*positive, *negative]))
    assert found.score == found.auroc == pytest.approx(brute_force(positive, negative))
    assert (found.low is not None) == (min(len(positive), len(negative)) >= MIN_RANKED)
    if found.low is not None and found.high is not None and found.score is not None:
        assert 0 <= found.low <= found.score <= found.high <= 1


def test_the_interval_of_a_ranking_is_delongs_on_the_logit_scale() -> None:
    generator = np.random.default_rng(1)
    positive, negative = generator.normal(0.5, 1, 60), generator.normal(0, 1, 60)
    found = of_ranking(ranked([0.0] * 60 + [-1.0] * 60, [*positive, *negative]))
    # DeLong, DeLong and Clarke-Pearson 1988: variances of the two kinds of placement values
    over = (positive[:, None] > negative).astype(float)
    area, variance = over.mean(), over.mean(1).var(ddof=1) / 60 + over.mean(0).var(ddof=1) / 60
    reach = 1.98 * math.sqrt(variance) / (area * (1 - area))
    middle = math.log(area / (1 - area))
    expected = [1 / (1 + math.exp(-middle + reach)), 1 / (1 + math.exp(-middle - reach))]
    assert [found.low, found.high] == pytest.approx(expected, abs=5e-3)


def test_a_neighbours_text_is_silent_whatever_the_sign_of_its_distance() -> None:
    # a neighbour with likeness -.25 has distance .25, one with likeness 0 has -0.0; nan is an unknown one
    trials = ranked([0.0, 1.0, -0.5, 0.25, -0.0, math.nan], [0.9, 0.8, 0.1, 0.2, 0.3, 0.4])
    found = of_ranking(trials)
    assert (found.score, found.n) == (1.0, 6)
    assert [entry["quantile"] for entry in found.quantiles] == [0, 1]
    wrong = as_sae_vis(file_of("embedding", trials))
    assert wrong["average_score"] == pytest.approx(brute_force([0.9, 0.8, 0.2, 0.3], [0.1]))


def test_a_quantile_of_a_ranking_is_compared_with_all_silent_texts() -> None:
    found = of_ranking(ranked([0.0, 0.0, 3.0, -1.0, -1.0], [0.9, 0.2, 0.1, 0.5, 0.0]))
    assert found.quantiles == (
        {"quantile": 0, "n": 2, "value": 0.75},
        {"quantile": 3, "n": 1, "value": 0.5},
    )


def test_similarities_that_are_missing_fail() -> None:
    found = of_ranking(ranked([0.0, 0.0, -1.0], [0.9, None, 0.1]))
    assert (found.n, found.n_failed, found.score) == (2, 1, 1.0)
    assert (
        of_ranking(ranked([0.0], [0.9])).reason
        == "answers to 1 texts that fire and 0 silent ones: both are needed"
    )


def test_an_intruder_is_found_by_chance_once_in_so_many() -> None:
    trials = [Answer(True, i < 9, i < 9, 2.0, n_choices=5) for i in range(12)]
    found = of_choices([*trials, Answer(True, None, None, math.nan)])
    assert (found.score, found.n, found.n_failed) == (0.75, 12, 1)
    reach = 1.959964 * math.sqrt(0.2 * 0.8 / 12)
    assert (found.chance_low, found.chance_high) == pytest.approx((max(0, 0.2 - reach), 0.2 + reach))
    assert found.quantiles == ({"quantile": 2, "n": 12, "value": 0.75},)
    assert of_choices([]).reason == "no answer could be read"


def test_a_simulation_is_its_overall_group_and_the_quantiles_stay_apart() -> None:
    groups = [Simulated(2, 0.2, 30), Simulated(0, 0.6, 100), Simulated(1, None, 30)]
    found = of_simulation(groups)
    assert (found.score, found.n, found.n_failed) == (0.6, 100, 1)
    assert found.quantiles == (
        {"quantile": 0, "n": 30, "value": None},
        {"quantile": 1, "n": 30, "value": 0.2},
    )
    file = file_of("simulation", [])._replace(simulated=tuple(groups))
    assert as_sae_vis(file) == {
        "average_score": pytest.approx(0.4),  # the mean of the overall group and one quantile
        "total_examples": 3,
        "failure_count": 1,
        "success_count": 2,
        "variance": pytest.approx(0.08),
    }


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([Simulated(1, 0.5, 9)], "no group over all texts: delphi leaves it out where it has no silent ones"),
        ([Simulated(0, None, 9)], "nan: what was simulated, or the activations, are the same everywhere"),
        ([], "the file is empty"),
    ],
)
def test_a_simulation_without_an_overall_number_says_why(groups: list[Simulated], reason: str) -> None:
    found = of_simulation(groups)
    assert (found.score, found.reason) == (None, reason)


def test_an_oracle_scores_one_a_liar_zero_and_a_coin_lies_in_the_band_of_chance() -> None:
    fires = [True, False] * 25
    generator = np.random.default_rng(0)
    coin = [of_yes_and_no([said(f, bool(generator.integers(2))) for f in fires]) for _ in range(400)]
    inside = [(c.chance_low or 0) <= (c.score or 0) <= (c.chance_high or 0) for c in coin]
    assert of_yes_and_no([said(f, f) for f in fires]).score == 1
    assert of_yes_and_no([said(f, not f) for f in fires]).score == 0
    assert 0.92 < np.mean(inside) < 0.99


def test_sae_vis_called_plain_accuracy_the_score_and_took_only_truth_values() -> None:
    trials = [*answers(9, 0, 1, 0), *[said(True, None)] * 5]
    assert as_sae_vis(file_of("fuzz", trials)) == {
        "average_score": 1.0,
        "total_examples": 15,
        "failure_count": 5,
        "success_count": 10,
        "variance": None,
    }
    assert as_sae_vis(file_of("detection", [said(True, None)]))["average_score"] is None
    assert as_sae_vis(file_of("embedding", ranked([0.0, 1.0], [0.1, 0.2])))["average_score"] is None


def test_every_method_has_a_row_and_the_old_generation_counts_quantiles_from_one() -> None:
    for method in ("fuzz", "detection", "embedding", "surprisal", "intruder", "simulation"):
        assert statistics_of(file_of(method, [])).score is None
    old = file_of("fuzz", [said(True, True, 1.0), said(False, False)])._replace(generation="article_version")
    assert statistics_of(old).quantiles == ({"quantile": 0, "n": 1, "value": 1.0},)


def test_more_agreement_is_never_scored_lower() -> None:
    for (a, b), (c, d) in combinations([(0, 0), (3, 3), (5, 8), (9, 9), (10, 10)], 2):
        less, more = (
            of_yes_and_no(answers(a, 10 - b, b, 10 - a)),
            of_yes_and_no(answers(c, 10 - d, d, 10 - c)),
        )
        assert less.score is not None
        assert more.score is not None
        assert less.score <= more.score
        assert (less.low or 0) <= (more.low or 0)
