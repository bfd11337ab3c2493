"""A claim tested by somebody who reads it: trials drawn, answers graded, the test put on record.

`label_score` and the runs of `saeinterp-pipeline score` test in the same way, and leave the same record.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.fingerprint import canonical_json, fingerprint, rounded
from saeinterp_mcp.labels.heldout import judged_test, record_test
from saeinterp_mcp.labels.records import HeldoutTest, Label, TrialSetRecord, above_floor
from saeinterp_mcp.labels.revisions import labels_of
from saeinterp_mcp.operations.base import Table, digits, sealed
from saeinterp_mcp.operations.judging import SELF, Judged
from saeinterp_mcp.operations.label_save import MANY_TESTS
from saeinterp_mcp.operations.score_records import Baseline, Claim, LabelScore, Test
from saeinterp_mcp.operations.trial_sets import n_seen
from saeinterp_mcp.scorers.base import Answer, Grade, Trial
from saeinterp_mcp.store.base import Store

TRIAL_COLUMNS = ["trial_id", "text"]
WORDS_OF_MEASURE = {
    "balanced_accuracy": "balanced accuracy",
    "correlation": "correlation",
    "auroc": "AUROC",
    "accuracy": "accuracy",
}


class Drawn(NamedTuple):
    """The trials of a test."""

    trials: tuple[Trial, ...]
    n_seen: int = 0
    """Those of units that an agent was shown before the claim came on record."""


def drawn_for(store: Store, test: Test, claim: Claim, sitting: TrialSetRecord | None = None) -> Drawn:
    """The trials of a test; of one that an agent sits itself those that it was handed.

    Raises:
        NotInStore: the feature cannot be tested so.
    """
    trials = test.trials(store)
    if sitting is not None:
        trials = tuple(t for t in trials if t.trial_id in sitting.shown)
    if sitting is None and not test.scorer.reads_claim:
        return Drawn(trials)  # nobody has learnt a claim from a look
    return Drawn(trials, n_seen(store, test.feature, claim.text or "", trials, sitting))


def graded(test: Test, drawn: Drawn, judged: Judged) -> Grade:
    """How the answers fared, as evidence keeps them: to six digits.

    Raises:
        BadInput: an answer to none of the trials, or out of range.
    """
    return test.scorer.grade(drawn.trials, _kept(judged.answers))


def put_on_record(
    store: Store,
    test: Test,
    claim: Claim,
    drawn: Drawn,
    judged: Judged,
    call: Mapping[str, Any],
) -> LabelScore:
    """Grade a judge's answers and keep the test; `call`: the arguments of `label_score` that this answers.

    The answer itself goes on record with whoever gives it (a face, a run).
    """
    answer = sealed(graded_result(store, test, claim, drawn, judged), store, dict(call))
    n_so_far = record_test(store.need_labels, heldout_test_of(store, test, answer, drawn))
    return told(answer, store, claim, n_so_far, drawn)


def blinded_result(
    store: Store, test: Test, claim: Claim, trial_set: str, trials: Sequence[Trial]
) -> LabelScore:
    """A set as it is handed out: nothing in it tells an answer."""
    from saeinterp_mcp.scorers.blinded import blinded

    shown = blinded(test.scorer, trial_set, trials)
    n = len(trials)
    return LabelScore(
        **_about(store, test, claim, SELF),
        summary=f"{n} trials of held-out units, {_by_what(claim)}: "
        f"{shown.how_to_answer}. Then call label_score again with trial_set {trial_set} and answers, an object of "
        "trial id to answer; it is graded once, and a trial left out stays unscored. These samples are seen now: a "
        "label written after them is not tested by them.",
        measure=None,
        score=None,
        low=None,
        high=None,
        floor=None,
        beats_floor=None,
        n=n,
        trial_set=trial_set,
        question=shown.question,
        how_to_answer=shown.how_to_answer,
        trials=Table(columns=TRIAL_COLUMNS, rows=[[t.trial_id, t.shown] for t in shown.trials]),
    )


def graded_result(
    store: Store, test: Test, claim: Claim, drawn: Drawn, judged: Judged, trial_set: str | None = None
) -> LabelScore:
    """Answers compared with the truth, and the search label's on the same trials.

    Raises:
        BadInput: an answer to none of the trials, or out of range.
    """
    from saeinterp_mcp.scorers.baseline import baseline_answers

    given, trials = _kept(judged.answers), drawn.trials
    grade = graded(test, drawn, judged)
    theirs = test.scorer.grade(trials, baseline_answers(store, test.feature, test.scorer, trials))
    values = grade.model_dump()
    # compared as they are kept: to six digits
    low, floor, beside, apart = rounded([grade.low, grade.floor, theirs.score, grade.low_without_near_misses])
    return LabelScore(
        **_about(store, test, claim, judged.judge),
        summary=_summary(grade, theirs, claim, _who(test, judged)),
        **values,
        beats_floor=None if low is None else above_floor(low, apart, floor),
        baseline=Baseline(score=theirs.score, low=theirs.low, high=theirs.high),
        beats_baseline=None if low is None or beside is None else low > beside,
        failures=dict(sorted(judged.failures.items())),
        cost=judged.cost,
        trial_set=trial_set,
        answers={t.trial_id: given.get(t.trial_id) for t in trials},
    )


def _by_what(claim: Claim) -> str:
    return (
        "to be answered from the words of the claim alone"
        if claim.text
        else "to be answered without any claim"
    )


def _kept(answers: Mapping[str, Answer]) -> dict[str, Answer]:
    return {name: rounded(answer) for name, answer in answers.items()}


def _about(store: Store, test: Test, claim: Claim, judge: str) -> dict[str, Any]:
    return {
        "operation": "label_score",
        "store": store.name,
        "basis": "judged",
        "seed": test.seed,
        "split": "heldout",
        "feature": test.feature,
        "text": claim.text,
        "label_id": claim.label_id,
        "method": test.method,
        "judge": judge,
        "n_drawn": test.n,
    }


def _who(test: Test, judged: Judged) -> str:
    """Who answered, as the subject of a sentence."""
    by_needs = {
        "judge": "you" if judged.judge == SELF else "the judge",
        "embedder": "likeness of words",
        "text_model": "a model that was told the claim",
    }
    return by_needs[test.scorer.needs]


def _summary(grade: Grade, theirs: Grade, claim: Claim, who: str) -> str:
    missing = f", {grade.n_failed} without an answer" if grade.n_failed else ""
    if grade.score is None:
        return f"Too little for a score: {grade.reason}{missing}."
    told = "from the claim" if claim.text is not None else "without any claim"
    interval = "" if grade.low is None else f" [{digits(grade.low)}, {digits(grade.high)}]"
    return (
        f"On {grade.n} held-out trials{missing}, {who} told {told} where the feature fires with "
        f"{WORDS_OF_MEASURE[grade.measure]} {digits(grade.score)}{interval} (floor {digits(grade.floor)}; the search "
        f"label, words counted without any model, reaches {digits(theirs.score)})."
    )


def heldout_test_of(store: Store, test: Test, answer: LabelScore, drawn: Drawn) -> HeldoutTest:
    """The record of a judged test."""
    called = {"feature": test.feature, "method": test.method, "n": test.n, "seed": test.seed}
    return HeldoutTest(
        store=store.lineage,
        fingerprint=store.fingerprint,
        feature=test.feature,
        test=judged_test(test.method, answer.text or "", answer.judge or "", test.n, test.seed),
        method=test.method,
        text=answer.text,
        where=None,
        scope=None,
        evidence=answer.evidence,
        arguments=canonical_json(called),
        result=fingerprint(answer.bare),
        score=answer.score,
        low=answer.low,
        high=answer.high,
        floor=answer.floor,
        n=answer.n,
        judge=answer.judge,
        auroc=answer.auroc,
        n_failed=answer.n_failed,
        cost=answer.cost,
        baseline=answer.baseline.score if answer.baseline else None,
        low_without_near_misses=answer.low_without_near_misses,
        n_seen=drawn.n_seen,
    )


def told(answer: LabelScore, store: Store, claim: Claim, n_so_far: int, drawn: Drawn) -> LabelScore:
    """The answer as it is shown: what depends on the record of labels and tests is no part of the evidence."""
    warnings = [*answer.warnings, *_doubts(answer, store, claim, n_so_far, drawn)]
    changes = {"n_tests_on_heldout": n_so_far, "n_seen": drawn.n_seen, "warnings": warnings, "answers": None}
    return answer.model_copy(update=changes)


def _doubts(answer: LabelScore, store: Store, claim: Claim, n_so_far: int, drawn: Drawn) -> list[str]:
    found = []
    if answer.failures:
        counted = ", ".join(f"{visible(why)} {n}" for why, n in answer.failures.items())
        found.append(f"trials without an answer stay unscored: {counted}")
    if drawn.n_seen:
        when = "before" if answer.judge == SELF else "before this claim came on record"
        found.append(
            f"{drawn.n_seen} of the trials are of units that an agent was shown {when}: of what was learnt from them "
            "this is no test"
        )
    names = {answer.judge, (answer.judge or "").partition(":")[2].partition("@")[0]}
    if claim.text is not None and names & _authors(store, answer.feature, claim.text):
        found.append("the judge wrote this claim itself: another judge is a better test")
    if n_so_far > MANY_TESTS:
        found.append(
            f"{n_so_far} different tests of this feature were made on the held-out units: the best of so many looks "
            "better than it is"
        )
    return found


def _authors(store: Store, feature: int, claim: str) -> set[str]:
    """Who wrote a claim."""
    nobody: list[Label] = []
    labels = store.need_labels.read(lambda c: labels_of(c, store.lineage, [feature]), nobody)
    return {label.author for label in labels if label.claim == claim and label.author}
