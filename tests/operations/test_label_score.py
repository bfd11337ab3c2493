"""Sitting the test oneself: blinded, graded once, and what a grade is good for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.errors import BadInput, NotInStore, UnknownName
from saeinterp_mcp.labels.database import LabelsInMemory
from saeinterp_mcp.labels.evidence import recorded_answer
from saeinterp_mcp.labels.records import HeldoutTest
from saeinterp_mcp.labels.trial_sets import keep_grade
from saeinterp_mcp.operations.evidence_replay import whole_answer
from saeinterp_mcp.operations.label_score import label_score
from saeinterp_mcp.operations.score_records import LabelScore
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import memory_store
from saeinterp_mcp.store.served import ServedStores
from tests.operations.judged import CLAIM, ask, fresh, make
from tests.scorers.planted import builds_to_test, documents

WORLD = documents()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("label_score"))


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return fresh(made, tmp_path)


@pytest.fixture
def texts() -> Store:
    """In memory, with labels of its own."""
    found = memory_store(WORLD)
    found.labels = LabelsInMemory()
    return found


def hand_out(store: Store, **given: Any) -> LabelScore:
    return label_score(store, given.pop("feature", 0), **{"text": CLAIM, "judge": "self", **given})


def shown(handed: LabelScore) -> dict[str, str]:
    assert handed.trials is not None
    return {str(name): str(text) for name, text in handed.trials.rows}


def knows(handed: LabelScore, word: str = "def") -> dict[str, float]:
    """An oracle, by reading: feature 0 fires on `def` and nowhere else."""
    return {name: float(word in text) for name, text in shown(handed).items()}


def sit(store: Store, handed: LabelScore, answers: dict[str, Any]) -> LabelScore:
    return label_score(store, handed.feature, trial_set=handed.trial_set, answers=answers)


# grades


def test_an_oracle_scores_1_and_a_liar_0(texts: Store) -> None:
    handed = hand_out(texts)
    graded = sit(texts, handed, knows(handed))
    assert (graded.score, graded.auroc, graded.n, graded.n_failed) == (1.0, 1.0, 40, 0)
    assert graded.beats_floor is True
    assert (graded.floor, graded.judge, graded.basis, graded.cost) == (0.5, "self", "judged", 0.0)
    handed = hand_out(texts, seed=1)
    lies = sit(texts, handed, {name: 1 - truth for name, truth in knows(handed).items()})
    assert (lies.score, lies.auroc, lies.beats_floor) == (0.0, 0.0, False)


def test_a_coin_is_at_the_floor_within_its_interval(texts: Store) -> None:
    inside = 0
    for seed in range(20):
        handed = hand_out(texts, seed=seed)
        coin = np.random.default_rng(seed).random(len(shown(handed)))
        graded = sit(texts, handed, dict(zip(shown(handed), coin.tolist(), strict=True)))
        assert graded.low is not None
        assert graded.high is not None
        inside += graded.low <= 0.5 <= graded.high
    assert inside >= 17


def test_true_and_false_are_probabilities_and_exactly_one_half_is_half_right(texts: Store) -> None:
    handed = hand_out(texts)
    assert sit(texts, handed, {name: p == 1 for name, p in knows(handed).items()}).score == 1.0
    handed = hand_out(texts, seed=1)
    assert sit(texts, handed, dict.fromkeys(shown(handed), 0.5)).score == 0.5


def test_a_missing_answer_is_unscored_and_counted(texts: Store) -> None:
    handed = hand_out(texts)
    answers = dict(list(knows(handed).items())[:33])
    graded = sit(texts, handed, {**answers, "t40": None})
    assert (graded.score, graded.n, graded.n_failed) == (1.0, 33, 7)
    handed = hand_out(texts, seed=1)
    few = sit(texts, handed, {"t1": 1})
    assert (few.score, few.low, few.beats_floor) == (None, None, None)
    assert "an estimate needs 10 of each" in str(few.reason)


def test_simulation_is_sat_with_a_list_for_each_trial(texts: Store) -> None:
    handed = hand_out(texts, method="simulation")
    answers = {}
    for name, text in shown(handed).items():
        tokens = json.loads(text.partition(": ")[2])
        answers[name] = [10.0 if token == " def" else 0.0 for token in tokens]
    graded = sit(texts, handed, answers)
    assert graded.measure == "correlation"
    assert graded.score is not None
    assert graded.score > 0.7
    assert graded.floor == 0


def test_the_intruder_is_about_the_feature_and_no_words(texts: Store) -> None:
    handed = label_score(texts, 0, method="intruder", judge="self", n=10)
    found = {}
    for name, text in shown(handed).items():
        found[name] = 1 + ["def" in line for line in text.split("\n")].index(False)
    graded = sit(texts, handed, found)
    assert (graded.score, graded.floor, graded.text) == (1.0, 0.2, None)


def test_sets_are_tested_by_their_tokens_and_groups() -> None:
    gear = memory_store(builds_to_test())
    gear.labels = LabelsInMemory()
    handed = hand_out(gear, feature=1, text="weapon brush")
    assert sit(gear, handed, knows(handed, "brush")).score == 1.0


def test_a_rule_is_scored_by_counting_rows_and_goes_on_record_under_this_answer(store: Store) -> None:
    label = ask(store, "label_save", feature=0, text=CLAIM, rule='token:" def"')
    scored = ask(store, feature=0, label_id=label["label_id"], method="rule")
    tested = ask(store, "test_rule", feature=0, rule='token:" def"')
    assert (scored["score"], scored["low"]) == (tested["balanced_accuracy"], tested["low"])
    assert (scored["basis"], scored["judge"], scored["cost"], scored["score"]) == ("observed", None, 0.0, 1.0)
    assert scored["n_tests_on_heldout"] == tested["n_tests_on_heldout"] == 1, "the same test"
    saved = ask(store, "label_save", feature=0, label_id=label["label_id"], status="supported")
    assert scored["evidence"] in [score["evidence"] for score in saved["scores"]]
    assert ask(store, "evidence_replay", evidence=scored["evidence"])["holds"]
    assert ask(store, feature=0, text='token:" def"', method="rule")["score"] == 1.0


# blinded


def test_nothing_that_is_handed_out_tells_the_answers(store: Store) -> None:
    handed = ask(store, feature=0, text=CLAIM, judge="self")
    told = {name for name, value in handed.items() if value not in (None, [], {})}
    assert told == {
        *("operation", "store", "basis", "summary", "evidence", "seed", "split", "feature", "text", "method"),
        *("judge", "n", "n_drawn", "n_seen", "n_tests_on_heldout"),
        *("trial_set", "question", "how_to_answer", "trials"),
    }
    assert handed["trials"]["columns"] == ["trial_id", "text"]
    kept = recorded_answer(store.need_labels, handed["evidence"])
    assert kept is not None
    assert (kept.result["answers"], kept.result["by_kind"]) == (None, {})
    whole = whole_answer(ServedStores([store]), handed["evidence"])["answer"]
    assert whole["trials"] == handed["trials"]
    assert (whole["answers"], whole["by_kind"], whole["score"]) == (None, {}, None)


def test_the_same_set_comes_again_until_it_is_graded(texts: Store) -> None:
    handed = hand_out(texts)
    again = hand_out(texts)
    assert (again.trial_set, again.trials) == (handed.trial_set, handed.trials)
    assert hand_out(texts, text="another claim").trial_set != handed.trial_set
    graded = sit(texts, handed, knows(handed))
    with pytest.raises(BadInput, match=rf"graded already: score 1 \[.*\] \(evidence {graded.evidence}\)"):
        sit(texts, handed, knows(handed))
    with pytest.raises(BadInput, match="another seed"):
        hand_out(texts)


def test_an_answer_that_cannot_be_one_leaves_the_set_open(texts: Store) -> None:
    handed = hand_out(texts)
    for wrong, told in (
        ({"t99": 1}, "'t99', which is none of this test's"),
        ({"t1": 70}, "probability from 0 to 1"),
        ({"t1": "yes"}, "probability from 0 to 1"),
        ({"t1": [1, 2]}, "probability from 0 to 1"),
        ({}, "both trial_set and answers"),
    ):
        with pytest.raises(BadInput, match=told):
            sit(texts, handed, wrong)
    assert sit(texts, handed, knows(handed)).score == 1.0


def test_what_does_not_fit_together_is_refused(texts: Store) -> None:
    handed = hand_out(texts)
    answers = knows(handed)
    name = handed.trial_set
    with pytest.raises(UnknownName, match="not on record"):
        label_score(texts, 0, trial_set="ts-0000000000000000", answers=answers)
    with pytest.raises(BadInput, match="of feature 0, not of feature 1"):
        label_score(texts, 1, trial_set=name, answers=answers)
    with pytest.raises(BadInput, match="answered by you"):
        label_score(texts, 0, trial_set=name, answers=answers, judge="openai:x")
    with pytest.raises(BadInput, match="another claim"):
        label_score(texts, 0, trial_set=name, answers=answers, text="something else")
    with pytest.raises(BadInput, match="both trial_set and answers"):
        label_score(texts, 0, text=CLAIM, answers=answers)
    with pytest.raises(BadInput, match="both trial_set and answers"):
        label_score(texts, 0, trial_set=name)
    with pytest.raises(BadInput, match="label_id of a label, or text"):
        label_score(texts, 0, judge="self")
    with pytest.raises(BadInput, match="nobody sits method embedding"):
        hand_out(texts, method="embedding")
    with pytest.raises(BadInput, match="asks nobody"):
        hand_out(texts, method="rule")
    with pytest.raises(NotInStore, match=r"fires in 0|never fires"):
        hand_out(texts, feature=3)
    with pytest.raises(UnknownName):
        label_score(texts, 0, label_id="lb-000000000000", judge="self")
    assert sit(texts, handed, answers).score == 1.0


def test_a_set_of_an_earlier_generation_is_refused(texts: Store) -> None:
    handed = hand_out(texts)
    later = memory_store(WORLD)
    later.labels = texts.labels
    later.__dict__["lineage"] = texts.lineage
    later.__dict__["fingerprint"] = "0123456789abcdef"
    with pytest.raises(BadInput, match="earlier generation"):
        sit(later, handed, knows(handed))


# looks


def test_an_open_set_counts_as_a_look_and_a_graded_one_once(texts: Store) -> None:
    assert hand_out(texts).n_tests_on_heldout == 1
    handed = hand_out(texts, seed=1)
    assert handed.n_tests_on_heldout == 2
    assert sit(texts, handed, knows(handed)).n_tests_on_heldout == 2


def test_units_that_were_shown_before_are_counted_and_said(texts: Store) -> None:
    first = hand_out(texts)
    assert (first.n_seen, first.warnings) == (0, [])
    second = hand_out(texts, text="written after a look")
    assert second.n_seen == 40
    assert "40 of the trials are of units that an agent was shown before" in second.warnings[0]
    graded = sit(texts, second, knows(second))
    assert graded.n_seen == 40
    other = hand_out(texts, seed=5)
    assert other.n_seen is not None
    assert 0 < other.n_seen < 40
    assert sit(texts, first, knows(first)).n_seen == 0, "nobody had seen them then"
    assert hand_out(texts, feature=6, text="if").n_seen == 0, "looks are counted by feature"


# labels


def test_a_label_is_supported_by_a_test_of_its_very_words(store: Store) -> None:
    label = ask(store, "label_save", feature=0, text=CLAIM, explanation="It fires there and nowhere else.")
    name = label["label_id"]
    with pytest.raises(BadInput, match="label_score"):
        ask(store, "label_save", feature=0, label_id=name, status="supported")
    handed = ask(store, feature=0, label_id=name, judge="self")
    assert handed["text"] == f"{CLAIM}: It fires there and nowhere else."
    answers = {row[0]: float("def" in row[1]) for row in handed["trials"]["rows"]}
    graded = ask(store, feature=0, trial_set=handed["trial_set"], answers=answers)
    saved = ask(store, "label_save", feature=0, label_id=name, status="supported")
    assert saved["status"] == "supported"
    assert graded["evidence"] in saved["evidence_ids"]
    assert any("who wrote it judged it too" in warning for warning in saved["warnings"])
    (score,) = saved["scores"]
    assert (score["method"], score["judge"], score["score"], score["n_failed"]) == (
        "detection",
        "self",
        1.0,
        0,
    )
    assert score["baseline"] == graded["baseline"]["score"] == 1.0
    with pytest.raises(BadInput, match="label_score"):
        ask(store, "label_save", feature=0, label_id=name, text="other words")


def test_a_failed_test_refuses_support(store: Store) -> None:
    label = ask(store, "label_save", feature=0, text="the token class")
    handed = ask(store, feature=0, label_id=label["label_id"], judge="self")
    answers = {row[0]: float("class" in row[1]) for row in handed["trials"]["rows"]}
    assert ask(store, feature=0, trial_set=handed["trial_set"], answers=answers)["score"] < 0.5
    with pytest.raises(BadInput, match=r"low end is not above the floor 0\.5"):
        ask(store, "label_save", feature=0, label_id=label["label_id"], status="supported")


def test_who_had_seen_the_trials_before_supports_nothing_by_sitting_them(store: Store) -> None:
    ask(store, feature=0, text="a first idea", judge="self")
    handed = ask(store, feature=0, text=CLAIM, judge="self")
    answers = {row[0]: float("def" in row[1]) for row in handed["trials"]["rows"]}
    ask(store, feature=0, trial_set=handed["trial_set"], answers=answers)
    with pytest.raises(BadInput, match="had been shown units of 40 of its trials before"):
        ask(store, "label_save", feature=0, text=CLAIM, status="supported")


def test_examples_of_held_out_samples_count_as_seen_until_the_set_is_graded(store: Store) -> None:
    handed = ask(store, feature=0, text=CLAIM, judge="self")
    ask(store, "feature_examples", feature=0, split="explain", limit=50)
    ask(store, "feature_examples", feature=1, split="all", limit=50)
    ask(store, "feature_examples", feature=0, split="all", limit=50)
    answers = {row[0]: float("def" in row[1]) for row in handed["trials"]["rows"]}
    graded = ask(store, feature=0, trial_set=handed["trial_set"], answers=answers)
    looked_up = {row[0] for row in whole_rows(store, "all")} - {
        row[0] for row in whole_rows(store, "explain")
    }
    drawn = SCORERS["detection"].make(store, 0, 40, 0)
    units = store.backend.column("samples/unit")
    places = {int(source): i for i, source in enumerate(store.source)}
    seen = {int(units[places[sample]]) for sample in looked_up}
    assert graded["n_seen"] == sum(t.excerpts[0].unit in seen for t in drawn) > 0
    with pytest.raises(BadInput, match="had been shown units"):
        ask(store, "label_save", feature=0, text=CLAIM, status="supported")


def whole_rows(store: Store, split: str) -> list[list[Any]]:
    answer = ask(store, "feature_examples", feature=0, split=split, limit=50)
    at = answer["columns"].index("sample")
    return [[row[at]] for row in answer["rows"]]


# evidence


def test_a_replay_grades_the_recorded_answers_again_and_is_no_look(store: Store) -> None:
    handed = ask(store, feature=0, text=CLAIM, judge="self")
    answers = {row[0]: 0.9 if "def" in row[1] else 0.2 for row in handed["trials"]["rows"][:35]}
    graded = ask(store, feature=0, trial_set=handed["trial_set"], answers=answers)
    assert graded["answers"] is None, "only the whole record shows them"
    for evidence in (handed["evidence"], graded["evidence"]):
        replayed = ask(store, "evidence_replay", evidence=evidence)
        assert (replayed["holds"], replayed["differs"]) == (True, [])
    whole = whole_answer(ServedStores([store]), graded["evidence"])["answer"]
    assert {name: p for name, p in whole["answers"].items() if p is not None} == answers
    assert len(whole["answers"]) == 40
    assert hand_out(store, seed=9).n_tests_on_heldout == 2, "one graded, one just handed out"


def test_a_replay_sees_a_grade_that_was_not_given(store: Store) -> None:
    handed = ask(store, feature=0, text=CLAIM, judge="self")
    answers = {row[0]: 0.5 for row in handed["trials"]["rows"]}
    graded = ask(store, feature=0, trial_set=handed["trial_set"], answers=answers)
    kept = recorded_answer(store.need_labels, graded["evidence"])
    assert kept is not None
    forged = json.dumps({**kept.result, "score": 1.0})
    import zlib

    store.need_labels.write(
        lambda c: c.execute("UPDATE answers SET result = ?", (zlib.compress(forged.encode()),)) and None
    )
    replayed = ask(store, "evidence_replay", evidence=graded["evidence"])
    assert replayed["holds"] is False
    assert {"field": "score", "then": 1.0, "now": 0.5} in replayed["differs"]


def test_of_two_who_answer_one_set_at_once_one_is_graded(texts: Store) -> None:
    handed = hand_out(texts)
    graded = sit(texts, handed, knows(handed))
    assert handed.trial_set is not None
    late = HeldoutTest(
        store=texts.lineage,
        feature=0,
        test="another",
        where=None,
        scope=None,
        evidence="ev-00000000000000ff",
        arguments="{}",
        result="r",
        score=0.0,
        low=0.0,
        high=0.1,
        floor=0.5,
    )
    with pytest.raises(BadInput, match=f"graded already.*{graded.evidence}"):
        keep_grade(texts.need_labels, handed.trial_set, late)
    assert hand_out(texts, seed=1).n_tests_on_heldout == 2, "the late one left no trace"
