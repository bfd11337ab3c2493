"""Faults that an acceptance review found, each with the experiment that showed it."""

from pathlib import Path

from pipeline.autointerp.config import Execution, ExplainConfig, RunConfig, ScoreConfig
from pipeline.autointerp.controls import wrong_labels
from pipeline.autointerp.drafts import save_draft, source_of
from pipeline.autointerp.results import FeatureRow, MethodScore, summarise
from pipeline.autointerp.run import Outcome
from pipeline.autointerp.selection import Selection
from pipeline.autointerp.start import start_run, unanswered
from pipeline.explainers.base import Explanation
from saeinterp_mcp.operations.label_save import label_save
from saeinterp_mcp.operations.label_score import label_score
from saeinterp_mcp.operations.test_rule import test_rule as rule_test
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.store.open import open_store
from tests.autointerp import scripted_model
from tests.autointerp.running import labels, pipeline, report, scored
from tests.providers.fake_server import fake_server

SAID = Explanation(
    label="def", explanation="Fires on def.", granularity="token", polarity="present", confidence=0.5
)


def test_the_rule_of_a_label_is_tested_with_the_labels_own_scope(store: Path) -> None:
    opened = open_store(store)
    rule_test(opened, 0, 'token:" def"')
    saved = label_save(opened, 0, text="after def", rule='token:" def"', scope="before", window=3)
    config = RunConfig(score=ScoreConfig(methods=("rule",)), selection=Selection(features="0"))
    results = start_run(store, config, Execution()).results
    [score] = results.rows[0].scores
    alone = label_score(opened, 0, label_id=saved.label_id, method="rule")
    assert score.score == alone.score
    at = rule_test(opened, 0, 'token:" def"', split="explain")
    assert at.balanced_accuracy is not None
    assert score.score is not None
    assert abs(score.score - at.balanced_accuracy) > 0.05, "the other scope is another test"


def test_two_runs_at_once_write_one_draft(store: Path) -> None:
    opened = open_store(store)
    source = source_of(opened, ExplainConfig(model="openai:writer"))
    first = save_draft(opened, 0, SAID, source, "openai:writer", 0.1, "by one run")
    second = save_draft(opened, 0, SAID, source, "openai:writer", 0.1, "by another")
    assert second == first
    assert len(labels(store)[0]) == 1


def test_the_floor_of_rules_is_the_mean_of_their_own_floors() -> None:
    scores = [
        MethodScore(
            method="rule", measure="balanced_accuracy", score=0.7, low=0.6, high=0.8, floor=floor, baseline=None, n=9,
            n_failed=0, judge=None,
        )
        for floor in (0.5, 0.6)
    ]  # fmt: skip
    rows = [FeatureRow(feature=i, state="labelled", scores=(score,)) for i, score in enumerate(scores)]
    [summary] = summarise(rows, {})
    assert summary.floor == 0.55


def test_a_draft_that_was_written_before_a_ceiling_is_told_of(store: Path) -> None:
    with fake_server(scripted_model.eager) as server:
        done = scored(server, store, "--features", "0,5", "--max-calls", "2", "--concurrency", "1")
    assert done.code == 2
    found = report(store)
    assert [row["state"] for row in found["rows"]] == ["labelled"]
    assert found["untested"] == {"all methods: the run ended before": 1}
    assert found["left_out"] == {"not reached before the run ended": 1}


def test_a_run_whose_questions_have_no_answer_is_not_done(store: Path) -> None:
    done = pipeline(None, "explain", store, "--features", "0,5", "--model", "openai:m@http://127.0.0.1:1/v1")
    assert done.code == 2
    assert "2 of the explainer's questions have no answer; start again to ask them" in done.out
    paid = [
        FeatureRow(feature=0, state="left out", reason=why)
        for why in ("explainer: refused", "explainer: invalid answer: no label", "never fires")
    ]
    assert unanswered(Outcome(paid, {}, {}, None)) is None  # type: ignore[arg-type]


def test_the_labels_of_two_features_of_one_meaning_are_no_wrong_labels() -> None:
    claims = ("a", "a", "b")
    rows = [FeatureRow(feature=i, state="labelled", label=text) for i, text in enumerate(claims)]
    config = ScoreConfig(methods=("detection",), judge="openai:j", n_controls=3)
    for _, wrong in wrong_labels(rows, config):
        assert wrong.text != claims[wrong.feature]


def test_an_intruder_test_leaves_units_for_the_intruders(store: Path) -> None:
    opened = open_store(store)
    n_units = opened.n_units("all") - opened.n_units("explain")
    trials = SCORERS["intruder"].make(opened, 0, 200, 0)
    assert 10 <= len(trials) <= n_units // 5


def test_a_labels_file_that_cannot_be_is_the_callers_mistake(store: Path) -> None:
    done = pipeline(
        None, "explain", store, "--features", "0", "--explainer", "search", "--labels", "/proc/none/l.sqlite"
    )
    assert done.code == 2
    assert "Traceback" not in done.err
