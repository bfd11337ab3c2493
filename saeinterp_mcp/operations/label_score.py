"""Does a label say where a feature fires, on samples that were kept back? Judged by a model, or by the agent itself."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import rounded
from saeinterp_mcp.labels.database import LabelsInMemory
from saeinterp_mcp.labels.evidence import came_in_a_file
from saeinterp_mcp.labels.heldout import n_tests, record_test
from saeinterp_mcp.labels.records import Label, RecordedAnswer, TrialSetRecord
from saeinterp_mcp.labels.revisions import find_label
from saeinterp_mcp.labels.trial_sets import keep_grade
from saeinterp_mcp.operations.asked_rule import AskedRule
from saeinterp_mcp.operations.base import Feature, Seed, sealed
from saeinterp_mcp.operations.judged_tests import (
    Drawn,
    blinded_result,
    drawn_for,
    graded_result,
    heldout_test_of,
    put_on_record,
    told,
)
from saeinterp_mcp.operations.judging import SELF, Judged, ask_judge
from saeinterp_mcp.operations.label_records import LabelId
from saeinterp_mcp.operations.score_records import Claim, LabelScore, Method, Test
from saeinterp_mcp.operations.slicing import Scope, Scoping
from saeinterp_mcp.operations.test_rule import as_heldout_test, floor_to_beat, test_rule
from saeinterp_mcp.operations.trial_sets import found_set, handed_out
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.store.base import Store

MAX_CLAIM = 1_600
"""Characters of text and explanation together."""


def _read_answers(value: Any) -> Any:
    """An object that came as text, from the shell or from a host that writes it so."""
    import json

    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError('expected a JSON object of trial ids and answers, as in {"t1": 0.9}') from None


Answers = Annotated[dict[str, Any] | None, BeforeValidator(_read_answers)]


def label_score(
    store: Store,
    feature: Feature,
    text: Annotated[
        str | None, Field(max_length=MAX_CLAIM, description="Claim, where no label has it")
    ] = None,
    label_id: LabelId = None,
    method: Annotated[Method, Field(description="How it is tested")] = "detection",
    judge: Annotated[
        str | None, Field(max_length=300, description="self, or a configured model (default)")
    ] = None,
    trial_set: Annotated[
        str | None, Field(max_length=40, description="Set to be graded, as the first call named it")
    ] = None,
    answers: Annotated[
        Answers, Field(description="Object of trial id to answer; at the shell JSON, or @FILE")
    ] = None,
    n: Annotated[int, Field(ge=10, le=200, description="Trials to draw")] = 40,
    seed: Seed = 0,
) -> LabelScore:
    """Test a label on held-out samples: can a model, or you (judge self), tell from its words where it fires?

    self: the first call gives trials, the second sends trial_set and answers.
    """
    store.check_feature(feature)
    arguments = {
        "feature": feature,
        "text": text,
        "label_id": label_id,
        "method": method,
        "judge": judge,
        "trial_set": trial_set,
        "answers": answers,
        "n": n,
        "seed": seed,
    }
    store.need_labels  # noqa: B018  # a held-out test that cannot be recorded is not made
    if trial_set is not None or answers is not None:
        return _sat(store, feature, trial_set, answers, arguments)
    claim = _claim(store, feature, text, label_id, method)
    if method == "rule":
        return _rule_test(store, feature, claim, judge, seed, arguments)
    test = Test(feature, method, n, seed)
    if judge == SELF:
        return _hand_out(store, test, claim, arguments)
    return _judge(store, test, claim, judge, arguments)


def score_again(store: Store, recorded: RecordedAnswer) -> LabelScore:
    """A recorded answer worked out anew: trials drawn, the recorded answers graded. Nobody is asked, nothing is a look.

    Raises:
        BadInput: the answers of its judge are not on record.
    """
    if came_in_a_file(recorded):
        raise BadInput(
            f"{recorded.evidence}: it came in a label file, without the answers of its judge, so it cannot be graded "
            "again; test the label anew with label_score"
        )
    then = recorded.result
    label = _label_as_tested(then)
    claim = Claim(then["text"], label)
    if then["method"] == "rule":
        quiet = Store(store.backend, store.name, LabelsInMemory())
        return _rule_test(quiet, then["feature"], claim, None, then["seed"], recorded.arguments)
    test = Test(then["feature"], then["method"], then["n_drawn"], then["seed"])
    sheet = then["answers"]
    ids = sheet or {row[0] for row in then["trials"]["rows"]}
    kept = tuple(t for t in test.trials(store) if t.trial_id in ids)
    if sheet is None:
        return sealed(blinded_result(store, test, claim, then["trial_set"], kept), store, recorded.arguments)
    known = {t.trial_id: answer for t in kept if (answer := sheet[t.trial_id]) is not None}
    judged = Judged(then["judge"], known, then["cost"], then["failures"])
    result = graded_result(store, test, claim, Drawn(kept), judged, then["trial_set"])
    return sealed(result, store, recorded.arguments)


# what is tested


def _claim(store: Store, feature: int, text: str | None, label_id: str | None, method: str) -> Claim:
    label = None
    if label_id is not None:
        label = store.need_labels.read(lambda c: find_label(c, store.lineage, label_id)[1], None)
        if label is None:
            raise BadInput(f"label {label_id!r} is not on record; label_get shows those there are")
        if label.feature != feature:
            raise BadInput(f"label {label_id} is of feature {label.feature}, not of feature {feature}")
    said = None if text is None else " ".join(text.split())
    if said is not None and label is not None and said != label.claim:
        raise BadInput(
            f"text and label {label_id} say different things; leave text out to test the label, or label_id to test "
            "these words"
        )
    if method != "rule" and not SCORERS[method].reads_claim:
        return Claim(None, label)
    if not (said or label):
        raise BadInput("say what is to be tested: label_id of a label, or text with the words of a claim")
    return Claim(label.claim if label else said, label)


def _label_as_tested(then: Mapping[str, Any]) -> Label | None:
    """The label of a recorded test, in what of it was tested: it may read otherwise by now."""
    if then["label_id"] is None and then["rule"] is None:
        return None
    read = {name: then[name] for name in ("feature", "rule", "scope", "window")}
    return Label(label_id=then["label_id"] or "", revision=1, text=then["text"] or "", **read)


# the rule of a label


def _rule_test(
    store: Store, feature: int, claim: Claim, judge: str | None, seed: int, arguments: Mapping[str, Any]
) -> LabelScore:
    if judge is not None:
        raise BadInput("method rule asks nobody: it counts rows; leave judge out")
    label, rule = claim.label, claim.label.rule if claim.label else claim.text
    if rule is None:
        raise BadInput(
            f"label {claim.label_id} has no rule to test; give it one with label_save, or have its words judged with "
            "another method"
        )
    scope: Scope = (label.scope if label else None) or "at"  # type: ignore[assignment]
    window = (label.window if label else None) or Scoping().window
    # asked of a store without labels, so that the test goes on record once, under the evidence of this answer
    quiet = Store(store.backend, store.name, LabelsInMemory())
    found = test_rule(quiet, feature, rule, scope=scope, window=window, limit=0, seed=seed)
    floor = floor_to_beat(found.floors)
    result = LabelScore(
        operation="label_score",
        store=store.name,
        basis="observed",
        summary=found.summary,
        warnings=found.warnings,
        seed=seed,
        split="heldout",
        feature=feature,
        text=None,
        label_id=claim.label_id,
        rule=found.rule,
        scope=found.scope,
        window=window if found.scope == "before" else None,
        method="rule",
        judge=None,
        measure="balanced_accuracy",
        score=found.balanced_accuracy,
        low=found.low,
        high=found.high,
        floor=floor,
        low_without_near_misses=found.low,
        beats_floor=None if found.low is None else found.low > floor,
        auroc=found.auroc,
        auroc_low=found.auroc_low,
        auroc_high=found.auroc_high,
        n=found.n,
        n_units=found.n_units,
        n_failed=0,
        reason=found.reason,
        cost=0.0,
    )
    answer = sealed(result, store, dict(arguments))
    asked = AskedRule(store, feature, rule, None, "heldout", Scoping(scope, window).check(store))
    called = {"feature": feature, "rule": found.rule, "min_n": 20, "seed": seed}
    test = as_heldout_test(asked, found, answer.evidence, called)
    return answer.model_copy(update={"n_tests_on_heldout": record_test(store.need_labels, test)})


# judged by somebody else


def _judge(
    store: Store, test: Test, claim: Claim, judge: str | None, arguments: Mapping[str, Any]
) -> LabelScore:
    drawn = drawn_for(store, test, claim)
    judged = ask_judge(store, test.scorer, test.feature, claim.text or "", drawn.trials, judge)
    return put_on_record(store, test, claim, drawn, judged, arguments)


# judged by whoever asks


def _hand_out(store: Store, test: Test, claim: Claim, arguments: Mapping[str, Any]) -> LabelScore:
    if test.scorer.needs != "judge":
        raise BadInput(f"nobody sits method {test.method}: its answers are worked out; leave judge out")
    record = handed_out(store, test, claim)
    drawn = drawn_for(store, test, claim, record)
    result = blinded_result(store, test, claim, record.trial_set, drawn.trials)
    n_so_far = n_tests(store.need_labels, store.lineage, test.feature) or 0
    return told(sealed(result, store, dict(arguments)), store, claim, n_so_far, drawn)


def _sat(
    store: Store,
    feature: int,
    trial_set: str | None,
    answers: Mapping[str, Any] | None,
    arguments: Mapping[str, Any],
) -> LabelScore:
    """Grade the answers of whoever was given a set, once."""
    if trial_set is None or not answers:
        raise BadInput(
            "to have answers graded give both trial_set and answers, an object of trial id to answer; without both, "
            "judge self hands out trials"
        )
    if arguments["judge"] not in (None, SELF):
        raise BadInput(f"trial set {trial_set[:40]} is answered by you: judge is self, or left out")
    record = found_set(store, feature, trial_set)
    _check_same(store, record, arguments)
    test = Test(feature, record.method, record.n, record.seed)
    label = None
    if record.label_id is not None:
        label = Label(label_id=record.label_id, feature=feature, revision=1, text=record.claim)
    claim = Claim(record.claim or None, label)
    drawn = drawn_for(store, test, claim, record)
    given = {name: _plain(test, answer) for name, answer in answers.items() if answer is not None}
    result = graded_result(store, test, claim, drawn, Judged(SELF, given, 0.0, {}), trial_set)
    answer = sealed(result, store, dict(arguments))
    kept = heldout_test_of(store, test, answer, drawn)
    return told(answer, store, claim, keep_grade(store.need_labels, trial_set, kept), drawn)


def _check_same(store: Store, record: TrialSetRecord, arguments: Mapping[str, Any]) -> None:
    """Refuse answers that somebody means for another test."""
    text, label_id = arguments["text"], arguments["label_id"]
    other_words = text is not None and " ".join(text.split()) != record.claim
    if other_words or (label_id is not None and label_id != record.label_id):
        raise BadInput(
            f"trial set {record.trial_set} was handed out to test another claim; leave text and label_id out to have "
            "it graded, or ask for a set of this claim"
        )


def _plain(test: Test, answer: Any) -> Any:
    """True and false are the probabilities 1 and 0 where a probability is asked for; numbers as evidence keeps them."""
    if isinstance(answer, bool) and test.method in ("detection", "fuzzing"):
        return float(answer)
    return rounded(answer)
