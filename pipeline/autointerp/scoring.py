"""One label, one method: trials, what a judge is asked, and the grade on record, as `label_score` makes it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.autointerp.config import Method, ScoreConfig
from pipeline.autointerp.evidence import keep_answer
from pipeline.autointerp.results import MethodScore
from saeinterp_mcp.asking.ledger import Ledger
from saeinterp_mcp.clients.base import Reply
from saeinterp_mcp.labels.heldout import judged_test, tests_of
from saeinterp_mcp.labels.records import HeldoutTest, Label
from saeinterp_mcp.operations.judged_tests import Drawn, drawn_for, graded, put_on_record
from saeinterp_mcp.operations.judging import Judged, Part, read_replies
from saeinterp_mcp.operations.label_save import rule_scope
from saeinterp_mcp.operations.label_score import label_score
from saeinterp_mcp.operations.score_records import Claim, LabelScore, Test
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.scorers.base import Grade
from saeinterp_mcp.store.base import Store


class Sitting(NamedTuple):
    """A test of a label by a judge, before it is answered."""

    test: Test
    claim: Claim
    drawn: Drawn
    parts: tuple[Part, ...]


def needs_judge(method: Method) -> bool:
    """Whether somebody has to answer its trials."""
    return method != "rule" and SCORERS[method].needs == "judge"


def prepare(store: Store, label: Label, method: Method, config: ScoreConfig) -> Sitting:
    """Trials and requests of a label's test.

    Raises:
        NotInStore: the feature cannot be tested so.
        BadInput: all trials were shown to an agent before the label was written.
    """
    test = Test(label.feature, method, config.n_trials, config.seed)
    claim = Claim(label.claim if test.scorer.reads_claim else None, label)
    drawn = drawn_for(store, test, claim)
    asked = test.scorer.requests(label.claim, drawn.trials)
    parts = tuple((request.with_room(config.think_tokens), trials) for request, trials in asked)
    return Sitting(test, claim, drawn, parts)


def finish(
    store: Store, sitting: Sitting, replies: Sequence[Reply], judge: str, cost: float | None
) -> MethodScore:
    """Grade the replies, and keep the test and its answer."""
    test, claim, drawn, parts = sitting
    answers, failures = read_replies(test.scorer, parts, replies)
    judged = Judged.of(judge, answers, cost, drawn.trials, failures)
    return _kept(store, sitting, put_on_record(store, test, claim, drawn, judged, _call(sitting, judge)))


def grade_alone(sitting: Sitting, replies: Sequence[Reply], judge: str) -> Grade:
    """The grade of a control, which is a test of no label and goes on no record."""
    answers, failures = read_replies(sitting.test.scorer, sitting.parts, replies)
    judged = Judged.of(judge, answers, None, sitting.drawn.trials, failures)
    return graded(sitting.test, sitting.drawn, judged)


def score_without_judge(store: Store, label: Label, method: Method, config: ScoreConfig) -> MethodScore:
    """By rule, embedding or surprisal: as the operation does it.

    Raises:
        SaeInterpError: it cannot be done here, or not with this label.
    """
    given: dict[str, Any] = {"label_id": label.label_id, "method": method, "seed": config.seed}
    if method != "rule":
        given["n"] = config.n_trials
    if method == "surprisal":
        given["judge"] = config.text_model
    answer = label_score(store, label.feature, **given)
    keep_answer(store, label_score, answer, feature=label.feature, **given)
    return score_of(answer)


def known_scores(
    store: Store, label: Label, config: ScoreConfig, judge: str | None
) -> dict[str, MethodScore]:
    """Method to the score of this very test, where it is on record already."""
    found: dict[str, MethodScore] = {}
    scope = rule_scope(store, label)
    for test in tests_of(store.need_labels, store.lineage, label.feature):
        if test.fingerprint == store.fingerprint and _is_of(test, label, scope, config, judge):
            found[test.method] = _recorded(test)
    return found


def n_answered(sitting: Sitting, ledger: Ledger, judge: str) -> int | None:
    """Trials that have an answer on record; None where a question has no reply yet, and can be asked again."""
    replies = [ledger.reply(request.key(judge)) for request, _ in sitting.parts]
    known = [reply for reply in replies if reply is not None]
    if len(known) < len(replies):
        return None
    return len(read_replies(sitting.test.scorer, sitting.parts, known)[0])


def _is_of(
    test: HeldoutTest, label: Label, scope: str | None, config: ScoreConfig, judge: str | None
) -> bool:
    if test.method == "rule":
        return (
            label.rule is not None and test.rule == label.rule and test.scope == scope and test.where is None
        )
    reads = SCORERS[test.method].reads_claim if test.method in SCORERS else True
    text = label.claim if reads else None
    if test.text != text:
        return False
    by = judge if test.method in SCORERS and SCORERS[test.method].needs == "judge" else test.judge
    return test.test == judged_test(test.method, text or "", by or "", config.n_trials, config.seed)


def _call(sitting: Sitting, judge: str) -> dict[str, Any]:
    """The call of `label_score` that this test is."""
    return {
        "feature": sitting.test.feature,
        "label_id": sitting.claim.label_id,
        "method": sitting.test.method,
        "judge": judge,
        "n": sitting.test.n,
        "seed": sitting.test.seed,
    }


def _kept(store: Store, sitting: Sitting, answer: LabelScore) -> MethodScore:
    called = _call(sitting, answer.judge or "")
    keep_answer(store, label_score, answer, **called)
    return score_of(answer)


def score_of(answer: LabelScore) -> MethodScore:
    """What a report tells of it."""
    return MethodScore(
        method=answer.method,
        measure=answer.measure or "balanced_accuracy",
        score=answer.score,
        low=answer.low,
        high=answer.high,
        floor=answer.floor or 0.0,
        low_without_near_misses=answer.low_without_near_misses,
        baseline=answer.baseline.score if answer.baseline else None,
        n=answer.n,
        n_failed=answer.n_failed or 0,
        judge=answer.judge,
        reason=answer.reason,
    )


def _recorded(test: HeldoutTest) -> MethodScore:
    return MethodScore(
        method=test.method,
        measure=MEASURES.get(test.method, "balanced_accuracy"),
        score=test.score,
        low=test.low,
        high=test.high,
        floor=test.floor or 0.0,
        low_without_near_misses=test.low if test.method == "rule" else test.low_without_near_misses,
        baseline=test.baseline,
        n=test.n or 0,
        n_failed=test.n_failed or 0,
        judge=test.judge,
    )


MEASURES = {"simulation": "correlation", "embedding": "auroc", "surprisal": "auroc", "intruder": "accuracy"}
"""What the score of a method is, where it is not balanced accuracy."""
