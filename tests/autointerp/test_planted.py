"""A planted world through the whole run: judges get the scores they must, and requests hold what they may."""

import json
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.scorers.base import Trial
from saeinterp_mcp.store.open import open_store
from tests.autointerp import scripted_model
from tests.autointerp.running import explained, pipeline, report, rows, scored
from tests.autointerp.scripted_model import is_judging
from tests.autointerp.worlds import NAME, splits_in
from tests.providers.behaviour import Answer, Behaviour, Failure, as_text
from tests.providers.fake_server import fake_server
from tests.providers.provider import n_tokens

RULES = {0: " def", 5: " class", 6: " if"}
"""Feature to the token that the scripted explainer finds in it: of 5 it is one of the two that it fires on."""


class Witness:
    """Behaves as another, and remembers what was asked and answered."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self.seen: list[tuple[str, str, Any]] = []

    def __call__(self, system: str, user: str, schema: dict[str, Any]) -> Answer:
        answer = self._behave(system, user, schema)
        assert not hasattr(answer, "seconds")
        self.seen.append((system, user, answer))
        return answer


def balanced(trials: tuple[Trial, ...], says: dict[str, bool]) -> float:
    """Balanced accuracy, by its definition."""
    shares = []
    for kind in (True, False):
        of_kind = [t for t in trials if (t.truth == 1.0) is kind]
        shares.append(sum(says[t.trial_id] is kind for t in of_kind) / len(of_kind))
    return sum(shares) / 2


def by_method(found: dict[str, Any], feature: int) -> dict[str, Any]:
    [row] = [row for row in found["rows"] if row["feature"] == feature]
    return {score["method"]: score for score in row["scores"]}


def test_a_judge_that_knows_the_rule_gets_what_brute_force_over_the_trials_gives(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        done = scored(server, store, "--features", "0,5,6", "--trials", "40", by="detection,fuzzing")
    assert done.code == 0, done.err
    found, opened = report(store), open_store(store)
    for feature, token in RULES.items():
        scores = by_method(found, feature)
        detection = SCORERS["detection"].make(opened, feature, 40, 0)
        fuzzing = SCORERS["fuzzing"].make(opened, feature, 40, 0)
        holding = {t.trial_id: token in t.excerpts[0].tokens for t in detection}
        at_marks = {t.trial_id: token in [t.excerpts[0].tokens[at] for at in t.marked] for t in fuzzing}
        assert scores["detection"]["score"] == pytest.approx(balanced(detection, holding), abs=1e-6)
        assert scores["fuzzing"]["score"] == pytest.approx(balanced(fuzzing, at_marks), abs=1e-6)
        assert (scores["detection"]["n"], scores["detection"]["n_failed"]) == (len(detection), 0)
    assert [by_method(found, 0)[method]["score"] for method in ("detection", "fuzzing")] == [1.0, 1.0]
    assert by_method(found, 0)["detection"]["low"] > 0.5


def test_a_judge_that_always_says_no_gets_the_floor_and_the_report_says_so(store: Path) -> None:
    with fake_server(scripted_model.says_no) as server:
        done = scored(server, store, "--features", "0,6", "--trials", "20", by="detection,fuzzing,simulation")
    assert done.code == 0, done.err
    found = report(store)
    assert [(m["method"], m["mean"], m["floor"], m["n_above_floor"]) for m in found["methods"]] == [
        ("detection", 0.5, 0.5, 0),
        ("fuzzing", 0.5, 0.5, 0),
        ("simulation", 0.0, 0.0, 0),
    ]
    assert "detection: mean 0.500 of 2 labels (floor 0.5, search label 0." in done.out
    assert ", 0 above the floor" in done.out
    page = (store.with_name("store.runs") / found["run"] / "report.md").read_text(encoding="utf-8")
    assert "| detection | balanced accuracy | 2 | 0.500 | 0.500 / 0.500 / 0.500 | 0.500 | 0 |" in page


def test_a_coin_is_no_better_than_the_floor(store: Path) -> None:
    with fake_server(scripted_model.coin) as server:
        assert scored(server, store, "--features", "0,5,6", "--trials", "100").code == 0
    for row in report(store)["rows"]:
        [score] = row["scores"]
        assert score["low"] < 0.5 < score["high"]


def test_every_third_failure_leaves_its_trials_unscored_and_the_totals_right(store: Path) -> None:
    witness = Witness(scripted_model.third_fails())
    with fake_server(witness) as server:
        done = scored(server, store, "--features", "0,5,6", "--trials", "60")
    assert done.code == 0, done.err
    found = report(store)
    scores = [by_method(found, feature)["detection"] for feature in RULES]
    n_failed_requests = sum(isinstance(answer, Failure) for _, _, answer in witness.seen)
    assert (len(witness.seen), n_failed_requests) == (3 + 18, 6)
    assert sum(score["n_failed"] for score in scores) == 10 * n_failed_requests
    assert [score["n"] + score["n_failed"] for score in scores] == [60, 60, 60]
    assert by_method(found, 0)["detection"]["score"] == 1.0, "what was not answered is not wrong"
    answered = [
        (system, user, as_text(answer))
        for system, user, answer in witness.seen
        if isinstance(answer, dict | str)
    ]
    usage = found["usage"]
    assert usage["requests sent"] == server.n_requests == len(witness.seen)
    assert (usage["answered"], usage["failed, by reason"]) == (len(answered), {"bad_request": 6})
    assert usage["output tokens"] == sum(n_tokens(answer) for _, _, answer in answered)
    n_read = sum(usage[name] for name in usage if name.startswith(("input", "tokens read", "tokens written")))
    assert n_read == sum(n_tokens(system) + n_tokens(user) for system, user, _ in answered)


def test_what_was_not_answered_is_asked_again_by_the_next_start_and_nothing_else(store: Path) -> None:
    with fake_server(scripted_model.third_fails()) as server:
        assert scored(server, store, "--features", "0,5,6", "--trials", "60").code == 0
    with fake_server(scripted_model.knows) as server:
        assert scored(server, store, "--features", "0,5,6", "--trials", "60").code == 0
        assert server.n_requests == 6
        assert [by_method(report(store), f)["detection"]["n_failed"] for f in RULES] == [0, 0, 0]
        before = rows(store, "heldout_tests")
        assert scored(server, store, "--features", "0,5,6", "--trials", "60").code == 0
        assert (server.n_requests, rows(store, "heldout_tests")) == (6, before)
    assert {row["n_failed"] for row in before[3:]} == {0}


@pytest.mark.parametrize("judge", ["judge_rubbish", "refuses"])
def test_answers_that_are_none_score_nothing_and_are_counted(store: Path, judge: str) -> None:
    answers = getattr(scripted_model, judge)
    with fake_server(scripted_model.knows) as server:
        assert explained(server, store, "--features", "0,5").code == 0
        server.behave(answers)
        done = scored(server, store, "--features", "0,5", "--trials", "20")
    found = report_of_scores(store)
    assert done.code == 0, done.err
    reason = {"judge_rubbish": "invalid", "refuses": "refused"}[judge]
    assert found["usage"]["failed, by reason"] == {reason: 4}
    for feature in (0, 5):
        score = by_method(found, feature)["detection"]
        assert (score["score"], score["n"], score["n_failed"]) == (None, 0, 20)
    [summary] = found["methods"]
    assert (summary["mean"], summary["n_labels"], summary["n_without"], summary["n_failed"]) == (
        None,
        0,
        2,
        40,
    )


def report_of_scores(store: Path) -> dict[str, Any]:
    """Of the run with scores, where another one explained."""
    folders = sorted(store.with_name("store.runs").iterdir())
    found = [json.loads((folder / "report.json").read_text(encoding="utf-8")) for folder in folders]
    [one] = [content for content in found if "score" in content["config"]]
    return dict(one)


def test_an_explainer_that_refuses_leaves_its_features_out_with_the_reason(store: Path) -> None:
    with fake_server(scripted_model.refuses) as server:
        done = explained(server, store, "--features", "0,5,6,3")
    assert (done.code, report(store)["state"]) == (0, "done")
    assert report(store)["left_out"] == {
        "explainer: refused": 3,
        "a feature never fires in the explain split of store 'documents'": 1,
    }


def texts_of(body: dict[str, Any]) -> tuple[str, str]:
    """System and user text of a request to either API."""
    if "system" in body:
        system = body["system"]
        held = system if isinstance(system, str) else "".join(block["text"] for block in system)
        [message] = body["messages"]
        return held, message["content"]
    system_message, user_message = body["messages"]
    assert (system_message["role"], user_message["role"]) == ("system", "user")
    return system_message["content"], user_message["content"]


def test_requests_are_strict_fence_the_corpus_and_keep_the_splits_apart(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        both = ("--features", "0,1,2,5,6,7", "--trials", "40")
        assert scored(server, store, *both, by="detection,fuzzing,simulation,intruder").code == 0
        assert scored(server, store, *both, "--explainer", "contrastive").code == 0
        told = ("--score", "detection", "--judge", "openai:other", "--model", "anthropic:writer")
        assert pipeline(server, "explain", store, *told, *both).code == 0
        bodies = server.bodies()
    systems: dict[bool, set[str]] = {True: set(), False: set()}
    for body in bodies:
        system, user = texts_of(body)
        systems[is_judging(system)].add(system)
        assert not NAME.search(system), "nothing of the corpus is among the instructions"
        opened, closed = user.index("<excerpts>"), user.rindex("</excerpts>")
        around = user[:opened] + user[closed:]
        if is_judging(system):
            assert splits_in(user[opened:closed]) == {"heldout"}
            claim = around[around.index("<claim>") : around.index("</claim>")] if "<claim>" in around else ""
            assert not NAME.search(around.replace(claim, ""))
        else:
            assert splits_in(user) == {"explain"}
            assert body["model"] == "writer"
            assert "heldout" not in user
        if "system" in body:
            written = body["output_config"]["format"]
            assert (written["type"], written["schema"]["additionalProperties"]) == ("json_schema", False)
            assert isinstance(body["system"], list) == (len(system) >= 4000), "a long system text is cached"
        else:
            written = body["response_format"]["json_schema"]
            assert written["strict"] is True
            assert written["schema"]["additionalProperties"] is False
        assert sorted(written["schema"]["required"]) == sorted(written["schema"]["properties"])
    assert {len(found) for found in systems.values()} == {2, 4}, "the same instructions for every feature"
    assert {body["model"] for body in bodies} == {"writer", "judge", "other"}


def test_scores_on_record_are_those_of_the_report(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        assert (
            scored(server, store, "--features", "0,6", "--trials", "20", by="detection,simulation").code == 0
        )
    on_record = {(row["feature"], row["method"]): row["score"] for row in rows(store, "heldout_tests")}
    told = {
        (row["feature"], score["method"]): score["score"]
        for row in report(store)["rows"]
        for score in row["scores"]
    }
    assert on_record == told
