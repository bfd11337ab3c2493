"""Held-out tests by a judge: which words they are tests of, when they support a label, and what a file may bring."""

import json
from typing import Any

import pytest

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.database import LabelsInMemory
from saeinterp_mcp.labels.exchange.checking import check_test
from saeinterp_mcp.labels.exchange.records import BadLine
from saeinterp_mcp.labels.gate import supported_by
from saeinterp_mcp.labels.heldout import judged_test, record_test, scores_of
from saeinterp_mcp.labels.records import HeldoutTest, Label, Score
from saeinterp_mcp.labels.revisions import labels_of, save_label

LABEL = Label(label_id="lb-0123456789ab", feature=3, revision=1, text="imports", explanation="After import.")


def judged(low: float, evidence: str = "ev-0000000000000001", **changes: Any) -> HeldoutTest:
    values = {
        "store": "s", "fingerprint": "now", "feature": 3, "method": "detection", "text": "imports: After import.",
        "where": None, "scope": None, "evidence": evidence, "arguments": json.dumps({"n": 40, "seed": 0}),
        "result": "r", "score": low + 0.1, "low": low, "high": low + 0.2, "floor": 0.5, "n": 40,
        "judge": "openai:some", "auroc": 0.9, "n_failed": 2, "cost": 0.01, "low_without_near_misses": max(low, 0),
        **changes,
    }  # fmt: skip
    named = judged_test(values["method"], values["text"] or "", values["judge"], 40, 0)
    return HeldoutTest(**{"test": named, **values})


def recorded(*tests: HeldoutTest) -> LabelsInMemory:
    database = LabelsInMemory()
    for test in tests:
        record_test(database, test)
    return database


def gate(database: LabelsInMemory, label: Label = LABEL) -> Score:
    return database.write(lambda c: supported_by(c, "s", label, None, "now"))


def test_a_judged_test_supports_the_words_that_were_judged_and_no_others() -> None:
    database = recorded(judged(0.6))
    assert gate(database).n_failed == 2
    for changed in (
        {"explanation": "After from."},
        {"explanation": None},
        {"text": "exports"},
        {"feature": 4},
    ):
        with pytest.raises(BadInput, match="label_score"):
            gate(database, LABEL.model_copy(update=changed))
    same_words = LABEL.model_copy(update={"text": "imports: After import.", "explanation": None})
    assert gate(database, same_words).low == 0.6, "text and explanation are read as one claim"


def test_the_newest_judgement_decides_but_likeness_of_words_does_not_overrule_it() -> None:
    passed, failed = judged(0.6), judged(0.4, "ev-0000000000000002", method="fuzzing")
    likeness = judged(0.9, "ev-0000000000000003", method="embedding")
    with pytest.raises(BadInput, match="low end is not above the floor"):
        gate(recorded(passed, failed))
    assert gate(recorded(failed, passed)).method == "detection"
    with pytest.raises(BadInput, match="low end is not above the floor"):
        gate(recorded(failed, likeness))
    assert gate(recorded(likeness)).method == "embedding"


def test_a_test_about_the_feature_alone_supports_no_label() -> None:
    nobodys = judged(0.9, method="intruder", text=None, test="t")
    with pytest.raises(BadInput, match="no held-out test of this very text"):
        gate(recorded(nobodys))


def test_scores_tell_what_failed_and_what_it_cost() -> None:
    database = recorded(judged(0.6))
    nothing: tuple[Score, ...] = ()
    (score,) = database.read(lambda c: scores_of(c, "s", LABEL, None), nothing)
    assert (score.auroc, score.n_failed, score.cost, score.judge, score.n) == (
        0.9,
        2,
        0.01,
        "openai:some",
        40,
    )


def test_an_explanation_is_kept_found_by_its_words_and_revised() -> None:
    database = LabelsInMemory()
    changes = {"text": "imports", "explanation": "The name after the keyword.", "cost": 0.002}
    label = save_label(database, "s", 3, changes)
    assert (label.claim, label.cost) == ("imports: The name after the keyword.", 0.002)
    found = database.write(lambda c: labels_of(c, "s", query="keyword"))
    assert found == [label]
    second = save_label(database, "s", 3, {"explanation": None}, label.label_id)
    assert (second.revision, second.claim) == (2, "imports")
    assert database.write(lambda c: labels_of(c, "s", query="keyword")) == []


def test_a_file_may_bring_a_judged_test_that_names_what_it_tested() -> None:
    check_test(judged(0.6), 4, "line 2")
    check_test(judged(-0.2, method="simulation"), 4, "line 2")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "guess"}, "expected rule or detection"),
        ({"judge": "another", "test": judged(0.6).test}, "fingerprint of its method, text, judge, n and seed"),
        ({"text": "other words", "test": judged(0.6).test}, "not the fingerprint"),
        ({"arguments": "{}"}, "do not tell n and seed"),
        ({"arguments": "7"}, "do not tell n and seed"),
        ({"floor": -0.2}, "floor is -0.2, expected 0 to 1"),
        ({"auroc": 1.2}, "auroc is 1.2"),
        ({"n_failed": -1}, "n_failed is -1"),
        ({"cost": -1.0}, "cost is -1.0"),
        ({"where": "module=json"}, "not the fingerprint"),
    ],
)  # fmt: skip
def test_a_judged_test_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadLine, match=said):
        check_test(judged(0.6, **changes), 4, "line 2")


def test_a_test_that_beats_its_floor_only_by_near_misses_supports_nothing() -> None:
    by_near_misses = judged(0.6, low_without_near_misses=0.48)
    with pytest.raises(BadInput, match=r"only with the near misses.*low end is 0.48, not above 0.5"):
        gate(recorded(by_near_misses))
    with pytest.raises(BadInput, match="without them too few trials are left"):
        gate(recorded(judged(0.6, low_without_near_misses=None)))
    assert gate(recorded(judged(0.6, low_without_near_misses=0.55))).low == 0.6
