"""From answers to grades: values by hand, who scores what, and how often an interval holds the truth."""

import math

import numpy as np
import pytest

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.excerpts.records import Excerpt
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.scorers.base import Answer, Grade, Trial
from saeinterp_mcp.scorers.correlation import correlation
from saeinterp_mcp.scorers.grading import (
    grade_choices,
    grade_numbers,
    grade_probabilities,
    grade_ranking,
)


def trials_of(n: int) -> list[Trial]:
    """Half fire; each of a unit of its own, units not in the order of trials."""
    return [
        Trial(
            trial_id=f"t{i + 1}",
            shown="",
            kind="firing" if i % 2 == 0 else "random",
            truth=float(i % 2 == 0),
            excerpts=(Excerpt(i, i, 7 * (n - i), 0, ("a",), (float(i % 2 == 0),)),),
        )
        for i in range(n)
    ]


def numbers_of(n: int, length: int = 4) -> list[Trial]:
    """Half have one activation, of growing strength."""
    found = []
    for i in range(n):
        true = [0.0] * length
        if i % 2 == 0:
            true[i % length] = 10 * (i + 1) / n
        found.append(
            Trial(
                trial_id=f"t{i + 1}",
                shown="",
                kind="firing" if i % 2 == 0 else "random",
                truth=true,
                excerpts=(Excerpt(i, i, i, 0, ("a",) * length, tuple(true)),),
            )
        )
    return found


def choices_of(n: int) -> list[Trial]:
    return [
        Trial(
            trial_id=f"t{i + 1}",
            shown="",
            kind="random",
            truth=float(i % 5 + 1),
            excerpts=tuple(Excerpt(5 * i + k, i, 5 * i + k, 0, ("a",), (1.0,)) for k in range(5)),
        )
        for i in range(n)
    ]


def held(grade: Grade, truth: float) -> bool:
    assert grade.low is not None
    assert grade.high is not None
    return grade.low <= truth <= grade.high


def test_balanced_accuracy_by_hand() -> None:
    """20 and 20: 15 hits and two halves of 20; 10 rejections, one half and 9 false alarms of 20."""
    trials = trials_of(40)
    firing = [t.trial_id for t in trials if t.kind == "firing"]
    silent = [t.trial_id for t in trials if t.kind == "random"]
    answers: dict[str, Answer] = dict(zip(firing, [0.9] * 15 + [0.5] * 2 + [0.1] * 3, strict=True))
    answers |= dict(zip(silent, [0.0] * 10 + [0.5] + [0.51] * 9, strict=True))
    grade = grade_probabilities(trials, answers)
    assert grade.measure == "balanced_accuracy"
    assert grade.score == pytest.approx((16 / 20 + 10.5 / 20) / 2)
    assert grade.by_kind == {
        "firing": {"n": 20, "right": pytest.approx(0.8)},
        "random": {"n": 20, "right": pytest.approx(0.525)},
    }
    assert (grade.n, grade.n_units, grade.n_failed, grade.floor) == (40, 40, 0, 0.5)
    assert grade.score is not None
    # pairs in order: 0.9 above 20 others; 0.5 above 10, ties 1; 0.1 above 10
    assert grade.auroc == pytest.approx((15 * 20 + 2 * 10.5 + 3 * 10) / 400)
    assert grade.low is not None
    assert grade.high is not None
    # the variance of two independent shares of about 20
    reach = 1.96 * math.sqrt((0.8 * 0.2 + 0.525 * 0.475) / 20) / 2
    assert grade.low == pytest.approx(grade.score - reach, abs=0.04)
    assert grade.high == pytest.approx(grade.score + reach, abs=0.04)


def test_a_half_is_half_right_whichever_class() -> None:
    trials = trials_of(40)
    grade = grade_probabilities(trials, {t.trial_id: 0.5 for t in trials})
    assert (grade.score, grade.auroc) == (0.5, 0.5)
    assert held(grade, 0.5)
    assert grade.by_kind["firing"]["right"] == grade.by_kind["random"]["right"] == 0.5


def test_answering_one_thing_always_gives_the_floor() -> None:
    trials = trials_of(40)
    for said in (0.0, 0.2, 0.8, 1.0):
        grade = grade_probabilities(trials, {t.trial_id: said for t in trials})
        assert (grade.score, grade.auroc) == (0.5, 0.5)


def test_a_missing_answer_is_neither_wrong_nor_right() -> None:
    trials = trials_of(60)
    kept = {t.trial_id: t.truth for t in trials if int(t.trial_id[1:]) % 3}
    grade = grade_probabilities(trials, kept)
    assert (grade.score, grade.n, grade.n_failed, grade.n_units) == (1.0, 40, 20, 40)
    assert sum(int(kind["n"] or 0) for kind in grade.by_kind.values()) == 40
    correlated = grade_numbers(numbers_of(60), {t.trial_id: t.truth for t in numbers_of(60)[:40]})
    assert (correlated.n, correlated.n_failed) == (40, 20)


def test_nothing_is_estimated_from_under_ten_trials_of_a_class() -> None:
    trials = trials_of(40)
    few = {t.trial_id: t.truth for t in trials if t.kind == "random"} | {
        t.trial_id: t.truth for t in trials[:18] if t.kind == "firing"
    }
    said = "9 trials where it fires and 20 where it is silent have an answer; an estimate needs 10 of each"
    for grade in (grade_probabilities(trials, few), grade_ranking(trials, few)):
        assert (grade.score, grade.low, grade.high, grade.auroc) == (None, None, None, None)
        assert (grade.reason, grade.n, grade.n_failed) == (said, 29, 11)
    assert grade_probabilities(trials, {}).by_kind["firing"] == {"n": 0, "right": None}
    numbers = grade_numbers(numbers_of(18), {t.trial_id: t.truth for t in numbers_of(18)})
    assert numbers.score is None
    assert "an estimate needs 10 of each" in str(numbers.reason)
    choices = grade_choices(choices_of(9), {t.trial_id: t.truth for t in choices_of(9)}, 5)
    assert (choices.score, choices.reason) == (None, "9 trials have an answer; an estimate needs 10")
    ten = grade_probabilities(trials_of(20), {t.trial_id: t.truth for t in trials_of(20)})
    assert (ten.score, ten.reason) == (1.0, None)


def test_an_oracle_scores_one_and_a_liar_the_opposite() -> None:
    trials = trials_of(40)
    for grader in (grade_probabilities, grade_ranking):
        oracle = grader(trials, {t.trial_id: t.truth for t in trials})
        liar = grader(trials, {t.trial_id: 1 - t.truth for t in trials if not isinstance(t.truth, list)})
        assert (oracle.score, oracle.auroc, oracle.high) == (1.0, 1.0, 1.0)
        assert [kind["right"] for kind in oracle.by_kind.values()] == [1.0, 1.0]
        assert [kind["right"] for kind in liar.by_kind.values()] == [0.0, 0.0]
        assert (liar.score, liar.auroc, liar.low) == (0.0, 0.0, 0.0)
        # 20 of 20 right: the rule of three says what else there may be
        assert oracle.low == pytest.approx(1 - 3 / 20, abs=0.05)
        assert liar.high == pytest.approx(3 / 20, abs=0.05)
    numbers = numbers_of(40)
    true = {t.trial_id: list(t.excerpts[0].activations) for t in numbers}
    oracle = grade_numbers(numbers, true)
    liar = grade_numbers(numbers, {name: [10 - a for a in part] for name, part in true.items()})
    assert [oracle.score, liar.score] == pytest.approx([1, -1])
    assert [oracle.low, liar.high] == pytest.approx([1 - 3 / 40, -1 + 3 / 40])
    choices = choices_of(30)
    found = grade_choices(choices, {t.trial_id: t.truth for t in choices}, 5)
    lost = grade_choices(
        choices, {t.trial_id: t.truth % 5 + 1 for t in choices if not isinstance(t.truth, list)}, 5
    )
    assert (found.score, found.high, lost.score, lost.low) == (1.0, 1.0, 0.0, 0.0)
    # Clopper-Pearson with no failure: low = 0.025 ** (1 / n)
    assert [found.low, lost.high] == pytest.approx([0.025 ** (1 / 30), 1 - 0.025 ** (1 / 30)])


@pytest.mark.parametrize("name", ["probabilities", "shades", "ranking", "numbers", "choices"])
def test_a_coin_is_at_the_floor_within_its_interval(name: str) -> None:
    """In 95 % of seeds; of 300 at least 92.5 % (three standard errors less would be 91.2 %)."""
    generator = np.random.default_rng(11)
    n_held = 0
    for _ in range(300):
        if name == "numbers":
            numbers = numbers_of(40)
            said = {t.trial_id: generator.integers(0, 11, 4).astype(float).tolist() for t in numbers}
            grade = grade_numbers(numbers, said)
        elif name == "choices":
            choices = choices_of(40)
            grade = grade_choices(choices, {t.trial_id: float(generator.integers(1, 6)) for t in choices}, 5)
        else:
            trials = trials_of(40)
            drawn = generator.random(40) if name != "probabilities" else generator.integers(0, 2, 40)
            answers = {t.trial_id: float(p) for t, p in zip(trials, drawn, strict=True)}
            grade = (grade_ranking if name == "ranking" else grade_probabilities)(trials, answers)
        n_held += held(grade, grade.floor)
    assert n_held / 300 >= 0.925
    assert n_held < 300, "an interval that is never wrong is too wide"


def test_the_interval_of_balanced_accuracy_holds_the_truth_at_40_trials() -> None:
    generator, trials = np.random.default_rng(12), trials_of(40)
    fires = np.array([t.kind == "firing" for t in trials])
    for recall, specificity in ((0.9, 0.9), (0.6, 0.9)):
        n_held = 0
        for _ in range(400):
            right = generator.random(40) < np.where(fires, recall, specificity)
            said = np.where(right == fires, 0.8, 0.3)
            grade = grade_probabilities(
                trials, {t.trial_id: float(p) for t, p in zip(trials, said, strict=True)}
            )
            n_held += held(grade, (recall + specificity) / 2)
        assert 0.925 <= n_held / 400 <= 0.99


def test_a_correlation_is_that_of_all_tokens() -> None:
    generator = np.random.default_rng(1)
    unit = np.repeat(np.arange(30), 8)
    true = np.where(generator.random(240) < 0.2, generator.lognormal(size=240), 0)
    given = true + generator.normal(size=240)
    found = correlation(given, true, unit)
    assert found.value == pytest.approx(np.corrcoef(given, true)[0, 1])
    assert found.low < found.value < found.high
    mixed = generator.permutation(240)
    again = correlation(given[mixed], true[mixed], unit[mixed])
    assert again == pytest.approx(found)
    moved = correlation(3 * given + 7, 0.01 * true, unit)
    assert moved == pytest.approx(found)


def test_the_interval_of_a_correlation_is_by_unit() -> None:
    """A predictor that is right or wrong for whole excerpts: as many tokens again say nothing more."""
    generator = np.random.default_rng(2)
    true = np.where(np.arange(40) % 2, generator.lognormal(size=40), 0)
    given = np.where(generator.random(40) < 0.6, true, 0)
    once = correlation(given, true, np.arange(40))
    twice = correlation(np.repeat(given, 10), np.repeat(true, 10), np.repeat(np.arange(40), 10))
    assert twice == pytest.approx(once, abs=0.02)
    as_if_independent = correlation(np.repeat(given, 10), np.repeat(true, 10), np.arange(400))
    assert as_if_independent.high - as_if_independent.low < 0.5 * (once.high - once.low)


def test_numbers_that_do_not_vary_score_the_floor_and_have_no_interval() -> None:
    trials = numbers_of(40)
    for said in (0.0, 3.0):
        grade = grade_numbers(trials, {t.trial_id: [said] * 4 for t in trials})
        assert (grade.score, grade.low, grade.high) == (0.0, None, None)
        assert "all answers are the same number" in str(grade.reason)


def test_predictions_that_never_meet_an_activation_do_not_prove_a_negative_correlation() -> None:
    trials = numbers_of(40, 16)
    said: dict[str, Answer] = {t.trial_id: [0.0] * 15 + [9.0 if t.kind == "random" else 0.0] for t in trials}
    grade = grade_numbers(trials, said)
    assert grade.score is not None
    assert -0.1 < grade.score < 0
    assert held(grade, 0)


def test_kinds_of_a_simulation_say_how_much_was_predicted_on_them() -> None:
    trials = numbers_of(40)
    said: dict[str, Answer] = {
        t.trial_id: [8.0, 0, 0, 0] if t.kind == "firing" else [0.0, 0, 0, 2] for t in trials
    }
    kinds = grade_numbers(trials, said).by_kind
    assert kinds["firing"] == {"n": 20, "right": None, "mean_answer": 2.0}
    assert kinds["random"] == {"n": 20, "right": None, "mean_answer": 0.5}


@pytest.mark.parametrize(
    ("name", "answers", "said"),
    [
        ("detection", {"t99": 0.5}, "trial 't99', which is none of this test's: they are t1 to t40"),
        (
            "detection",
            {"t1": 1.2},
            "the answer to trial 't1' is 1.2, and has to be a probability from 0 to 1",
        ),
        ("detection", {"t1": float("nan")}, "is nan, and has to be"),
        ("detection", {"t1": True}, "is True, and has to be"),
        ("detection", {"t1": [0.5]}, r"is \[0.5\], and has to be"),
        ("embedding", {"t1": -0.1}, "is -0.1, and has to be"),
        ("simulation", {"t1": 0.5}, "is 0.5, and has to be a list of 4 numbers, one for each token"),
        ("simulation", {"t1": [0.0] * 5}, "is a list of 5 numbers, and has to hold 4"),
        ("simulation", {"t1": [0.0, 11.0, 0, 0]}, "is a list with 11.0; its numbers are from 0 to 10"),
        ("intruder", {"t1": 0}, "is 0, and has to be a whole number from 1 to 5"),
        ("intruder", {"t1": 6}, "is 6, and has to be a whole number from 1 to 5"),
        ("intruder", {"t1": 2.5}, "is 2.5, and has to be a whole number"),
    ],
)
def test_an_answer_that_cannot_be_one_is_refused_by_name(
    name: str, answers: dict[str, Answer], said: str
) -> None:
    trials = {"simulation": numbers_of(40), "intruder": choices_of(40)}.get(name, trials_of(40))
    with pytest.raises(BadInput, match=said):
        SCORERS[name].grade(trials, answers)


def test_a_claim_that_tells_only_near_misses_apart_is_seen_to() -> None:
    """20 firing, 7 random, 7 near misses, 6 similar: yes to all but the near misses."""
    kinds = ["firing"] * 20 + ["random"] * 7 + ["near_miss"] * 7 + ["similar"] * 6
    trials = [
        one.model_copy(update={"kind": kind, "truth": float(kind == "firing")})
        for one, kind in zip(trials_of(40), kinds, strict=True)
    ]
    grade = grade_probabilities(trials, {t.trial_id: float(t.kind != "near_miss") for t in trials})
    assert grade.score == (1 + 7 / 20) / 2
    assert grade.low is not None
    assert grade.low > 0.5
    assert grade.low_without_near_misses is not None
    assert grade.low_without_near_misses < 0.5, "all the others got a yes: firing 1, silent 0"
    few = [t for t in trials if t.kind in ("firing", "near_miss")] + trials[20:23]
    assert grade_probabilities(few, {t.trial_id: t.truth for t in few}).low_without_near_misses is None
    none = [t for t in trials if t.kind != "near_miss"]
    whole = grade_probabilities(none, {t.trial_id: t.truth for t in none})
    assert whole.low_without_near_misses == whole.low
