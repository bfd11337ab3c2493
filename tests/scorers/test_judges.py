"""Planted judges sit the tests through the requests: who knows the rule, who does not, who fails, who talks rubbish."""

import json
import re
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.clients.base import Reply
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.scorers.base import Answer, InvalidAnswer, Trial
from saeinterp_mcp.store.base import Store
from tests.scorers.sitting import reply_of, sit

VALUE = {
    "detection": "probability",
    "fuzzing": "probability",
    "simulation": "numbers",
    "intruder": "intruder",
}
"""Judged scorer to the name of the value in an answer."""


def tokens_in(shown: str) -> list[str]:
    n, _, held = shown.partition(" tokens: ")
    tokens: list[str] = json.loads(held)
    assert len(tokens) == int(n)
    return tokens


def knows(name: str, shown: str) -> Any:
    """The rule of feature 0: it fires on ` def`."""
    if name == "detection":
        return 100 * (" def" in shown)
    if name == "fuzzing":
        return 100 * any(" def" in mark for mark in re.findall("<<(.*?)>>", shown))
    if name == "simulation":
        return [10 * (token == " def") for token in tokens_in(shown)]
    return next(i for i, line in enumerate(shown.split("\n"), 1) if " def" not in line)


def n_of(name: str) -> int:
    return 10 if name == "intruder" else 40


@pytest.mark.parametrize("name", VALUE)
def test_a_judge_that_knows_the_rule_gets_what_it_must(texts: Store, name: str) -> None:
    scorer = SCORERS[name]
    trials = scorer.make(texts, 0, n_of(name), 4)
    answers, _ = sit(scorer, trials, VALUE[name], lambda shown: knows(name, shown))
    grade = scorer.grade(trials, answers)
    assert (grade.n, grade.n_failed) == (len(trials), 0)
    if name == "simulation":
        # the strengths are drawn apart from the rule: as well as knowing where can do
        true = [a for t in trials for a in t.excerpts[0].activations]
        where = [float(a > 0) for a in true]
        assert grade.score == pytest.approx(np.corrcoef(true, where)[0, 1])
        assert grade.score is not None
        assert grade.score > 0.6
    else:
        assert grade.score == 1.0
    assert grade.low is not None
    assert grade.low > grade.floor


@pytest.mark.parametrize(("name", "no"), [("detection", 0), ("fuzzing", 0), ("detection", 100)])
def test_a_judge_that_always_says_one_thing_gets_the_floor(texts: Store, name: str, no: int) -> None:
    scorer = SCORERS[name]
    trials = scorer.make(texts, 0, 40, 4)
    answers, _ = sit(scorer, trials, "probability", lambda shown: no)
    grade = scorer.grade(trials, answers)
    assert grade.score == grade.floor == grade.auroc == 0.5
    assert grade.low is not None
    assert grade.low < grade.floor


@pytest.mark.parametrize("name", VALUE)
def test_every_third_request_that_fails_leaves_its_trials_unscored(texts: Store, name: str) -> None:
    scorer = SCORERS[name]
    trials = scorer.make(texts, 0, 11 if name == "intruder" else 60, 4)
    answers, n_lost = sit(scorer, trials, VALUE[name], lambda shown: knows(name, shown), fails_each=3)
    assert 0 < n_lost < len(trials)
    grade = scorer.grade(trials, answers)
    assert (grade.n, grade.n_failed) == (len(trials) - n_lost, n_lost)
    assert sum(int(kind["n"] or 0) for kind in grade.by_kind.values()) == grade.n
    if name in ("detection", "fuzzing"):
        assert grade.score == 1.0
    if name == "simulation":
        # no zeros take the place of what failed
        scored = [t for t in trials if t.trial_id in answers]
        true = [a for t in scored for a in t.excerpts[0].activations]
        assert grade.score == pytest.approx(np.corrcoef(true, [float(a > 0) for a in true])[0, 1])


def test_a_simulation_of_the_wrong_length_is_left_out_alone(texts: Store) -> None:
    scorer = SCORERS["simulation"]
    trials = scorer.make(texts, 0, 40, 4)
    wrong = {t.shown for t in trials[::7]}

    def judge(shown: str) -> list[int]:
        return knows("simulation", shown) + [0] * (shown in wrong)  # type: ignore[no-any-return]

    answers, _ = sit(scorer, trials, "numbers", judge)
    assert set(answers) == {t.trial_id for t in trials if t.shown not in wrong}
    assert scorer.grade(trials, answers).n_failed == len(trials[::7])


def test_requests_hold_every_trial_once_in_order(texts: Store) -> None:
    for name in VALUE:
        trials = SCORERS[name].make(texts, 0, n_of(name), 0)
        asked = SCORERS[name].requests("a claim", trials)
        assert [t for _, part in asked for t in part] == list(trials)
        assert max(len(part) for _, part in asked) == (10 if VALUE[name] == "probability" else 5)
        assert len({request.system for request, _ in asked}) == 1
        assert SCORERS[name].requests("a claim", []) == []


def test_a_test_that_asks_nobody_has_no_requests(texts: Store) -> None:
    for name in ("embedding", "surprisal"):
        trials = SCORERS[name].make(texts, 0, 40, 0)
        assert SCORERS[name].requests("a claim", trials) == []
        with pytest.raises(InvalidAnswer, match=f"{name} asks no judge"):
            SCORERS[name].read(trials, reply_of({"answers": []}))


RUBBISH: list[tuple[str, Any, str]] = [
    ("detection", None, "no list of answers"),
    ("detection", {}, "no list of answers"),
    ("detection", {"answers": {"t1": 70}}, "no list of answers"),
    ("detection", {"answers": [70]}, "an entry without id and probability"),
    ("detection", {"answers": [{"id": 1, "probability": 70}]}, "an entry without id and probability"),
    ("detection", {"answers": [{"id": "t1"}]}, "an entry without id and probability"),
    ("detection", {"answers": [{"id": "t40", "probability": 1}]}, "a trial that was not asked for"),
    ("detection", {"answers": [{"id": "t1", "probability": 1}] * 2}, "two answers to one trial"),
    ("detection", {"answers": [{"id": "t1", "probability": 101}]}, "no number from 0 to 100"),
    ("detection", {"answers": [{"id": "t1", "probability": -1}]}, "no number from 0 to 100"),
    ("detection", {"answers": [{"id": "t1", "probability": "70"}]}, "no number from 0 to 100"),
    ("detection", {"answers": [{"id": "t1", "probability": True}]}, "no number from 0 to 100"),
    ("detection", {"answers": [{"id": "t1", "probability": None}]}, "no number from 0 to 100"),
    ("detection", {"answers": [{"id": "t1", "probability": float("nan")}]}, "no number from 0 to 100"),
    ("fuzzing", {"answers": [{"id": "t1", "probability": [1]}]}, "no number from 0 to 100"),
    ("simulation", {"answers": [{"id": "t1", "numbers": 3}]}, "no list of numbers from 0 to 10"),
    ("simulation", {"answers": [{"id": "t1", "numbers": [0, 11]}]}, "no list of numbers from 0 to 10"),
    ("simulation", {"answers": [{"id": "t1", "numbers": [0, None]}]}, "no list of numbers from 0 to 10"),
    ("intruder", {"answers": [{"id": "t1", "intruder": 0}]}, "no whole number from 1 to 5"),
    ("intruder", {"answers": [{"id": "t1", "intruder": 2.5}]}, "no whole number from 1 to 5"),
]


@pytest.mark.parametrize(("name", "value", "said"), RUBBISH)
def test_rubbish_is_no_answer_and_the_reason_can_be_counted(
    texts: Store, name: str, value: Any, said: str
) -> None:
    trials = SCORERS[name].make(texts, 0, n_of(name), 0)[:5]
    with pytest.raises(InvalidAnswer, match=said) as caught:
        SCORERS[name].read(trials, Reply(outcome="answered", value=value))
    assert len(str(caught.value)) < 60


def test_a_reply_that_was_cut_short_is_not_read(texts: Store) -> None:
    trials = SCORERS["detection"].make(texts, 0, 40, 0)[:5]
    value = {"answers": [{"id": "t1", "probability": 1}]}
    with pytest.raises(InvalidAnswer, match="no list of answers"):
        SCORERS["detection"].read(trials, Reply(outcome="truncated", value=value))


def test_what_a_reply_leaves_out_is_left_out(texts: Store) -> None:
    trials = SCORERS["detection"].make(texts, 0, 40, 0)[:5]
    read = SCORERS["detection"].read(trials, reply_of({"answers": [{"id": "t3", "probability": 25}]}))
    assert read == {"t3": 0.25}


@pytest.mark.parametrize("name", list(SCORERS))
def test_an_oracle_scores_one_and_a_liar_the_opposite_on_drawn_trials(texts: Store, name: str) -> None:
    scorer = SCORERS[name]
    trials = scorer.make(texts, 1, n_of(name), 7)
    oracle = scorer.grade(trials, {t.trial_id: t.truth for t in trials})
    liar = scorer.grade(trials, {t.trial_id: lie(name, t) for t in trials})
    assert oracle.score == pytest.approx(1)
    assert liar.score == pytest.approx(-1 if name == "simulation" else 0)
    assert oracle.low is not None
    assert liar.high is not None
    assert oracle.floor < oracle.low
    assert liar.high < oracle.low


def lie(name: str, trial: Trial) -> Answer:
    if isinstance(trial.truth, list):
        return [10 - number for number in trial.truth]
    return trial.truth % 5 + 1 if name == "intruder" else 1 - trial.truth


def test_sets_are_judged_too(sets: Store) -> None:
    detection, simulation = SCORERS["detection"], SCORERS["simulation"]
    trials = detection.make(sets, 0, 40, 0)
    answers, _ = sit(detection, trials, "probability", lambda shown: 100 * ("swim_2" in shown))
    assert detection.grade(trials, answers).score == 1.0
    trials = simulation.make(sets, 0, 40, 0)

    def levels(shown: str) -> list[int]:
        level = shown.count("swim_")
        return [level if level >= 2 else 0]

    answers, _ = sit(simulation, trials, "numbers", levels)
    score = simulation.grade(trials, answers).score
    assert score is not None
    assert score > 0.9
