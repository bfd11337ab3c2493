"""Does a rule say where a feature fires, on data that were kept back?"""

# ruff: noqa: PT028  # the operation is called test_rule, but it is no test

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from saeinterp_mcp.analysis.rule_scores import Interval, Prediction, auroc
from saeinterp_mcp.analysis.sampling import one_per_unit, seeded_hash
from saeinterp_mcp.fingerprint import canonical_json, fingerprint
from saeinterp_mcp.labels.heldout import n_tests, record_test
from saeinterp_mcp.labels.records import HeldoutTest
from saeinterp_mcp.operations.asked_rule import AskedRule, TestedSplit
from saeinterp_mcp.operations.base import (
    Feature,
    FeatureResult,
    MinN,
    ScopeArgument,
    Seed,
    Table,
    Where,
    Window,
    digits,
    number,
    sealed,
)
from saeinterp_mcp.operations.feature_examples import example_table
from saeinterp_mcp.operations.rule_floors import Floors, TokenFloor, floors_of, too_few
from saeinterp_mcp.operations.slicing import Scoping
from saeinterp_mcp.store.base import Floats, Store


class RuleTest(FeatureResult):
    """A rule as a predictor of firing. Null estimates have their reason."""

    rule: str
    """In its normal form."""
    scope: str | None
    n: int
    n_units: int
    n_firing: int
    n_rule: int
    """Rows where the rule holds."""
    tp: int
    fp: int
    tn: int
    fn: int
    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    balanced_accuracy: float | None
    low: float | None
    """Of the 95 % interval of the balanced accuracy, by unit."""
    high: float | None
    auroc: float | None
    """P(activation at a row with the rule > at a row without), ties half."""
    auroc_low: float | None
    auroc_high: float | None
    reason: str | None
    """Why estimates are null."""
    floors: Floors
    beats_floor: bool | None
    """Whether `low` is above every floor's balanced accuracy."""
    n_tests_on_heldout: int | None
    """Different tests of this feature on the store's held-out split so far, this one included, and trial sets that were
    handed out and never graded; not in the evidence."""
    counter_examples: Table
    """Rows of the explain split: missed firings, strongest first, and false alarms, drawn by the seed."""


def test_rule(
    store: Store,
    feature: Feature,
    rule: Annotated[str, Field(description="e.g. family:swim>=12")],
    split: Annotated[TestedSplit, Field(description="Data tested on")] = "heldout",
    where: Where = None,
    scope: ScopeArgument = "at",
    window: Window = 16,
    limit: Annotated[int, Field(ge=0, le=50, description="Counter-examples")] = 6,
    min_n: MinN = 20,
    seed: Seed = 0,
) -> RuleTest:
    """Does a rule say where the feature fires? Balanced accuracy and AUROC beside trivial floors.

    Develop rules on explain, whence the counter-examples; held-out tests are counted.
    """
    store.need_full_coverage("test_rule")
    store.check_feature(feature)
    asked = AskedRule(store, feature, rule, where, split, Scoping(scope, window).check(store))
    asked.need_a_record()
    prediction, activation = asked.prediction(), asked.activation
    floors = floors_of(asked, prediction, min_n)
    estimates = _estimates(prediction, activation, min_n)
    best = max([0.5, *_known(floors.best_single_token)])
    low = estimates["low"]
    result = RuleTest(
        operation="test_rule",
        store=store.name,
        basis="observed",
        summary=_summary(asked, estimates, floors),
        warnings=asked.warnings(),
        seed=seed,
        split=split,
        where=where,
        feature=feature,
        rule=asked.rule.canonical(),
        scope=scope if store.is_sequence else None,
        floors=floors,
        beats_floor=None if low is None else low > best,
        n_tests_on_heldout=None,
        counter_examples=_counter_examples(asked, limit, seed),
        **estimates,
    )
    arguments: dict[str, Any] = {
        "feature": feature,
        "rule": rule,
        "split": split,
        "where": where,
        "scope": scope,
        "window": window,
        "limit": limit,
        "min_n": min_n,
        "seed": seed,
    }
    return _recorded(asked, sealed(result, store, arguments), arguments)


test_rule.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def _estimates(prediction: Prediction, activation: Floats, min_n: int) -> dict[str, Any]:
    """Counts, and estimates where there are rows and units enough."""
    tested, holds = prediction.tested, prediction.holds
    short = {
        "firing": too_few(tested.firing, min_n),
        "silent": too_few(tested.silent, min_n),
        "rule": too_few(prediction.held, min_n),
        "other": too_few(tested.by_unit(~holds), min_n),
    }
    null = Interval(np.nan, np.nan, np.nan)
    both = short["firing"] or short["silent"]
    estimates = {
        "precision": null if short["rule"] else prediction.precision,
        "recall": null if short["firing"] else prediction.recall,
        "balanced_accuracy": null if both else prediction.balanced_accuracy,
        "auroc": null if short["rule"] or short["other"] else auroc(tested, holds, activation),
    }
    found: dict[str, Any] = {}
    for name, estimate in estimates.items():
        bounds = ("low", "high") if name == "balanced_accuracy" else (f"{name}_low", f"{name}_high")
        found |= dict(zip((name, *bounds), map(number, estimate), strict=True))
    words = {
        "firing": "firing rows",
        "silent": "silent rows",
        "rule": "rows with the rule",
        "other": "rows without",
    }
    few = [words[name] for name, is_short in short.items() if is_short]
    reason = f"{', '.join(few)}: fewer than {min_n} or of fewer than {min(min_n, 10)} units" if few else None
    counts = dict(zip(("tp", "fp", "tn", "fn"), prediction.counts, strict=True))
    sizes = {
        "n": len(holds),
        "n_units": tested.n_units,
        "n_firing": int(tested.fires.sum()),
        "n_rule": int(holds.sum()),
    }
    return {**sizes, **counts, **found, "reason": reason}


def _known(floor: TokenFloor | None) -> list[float]:
    return [] if floor is None or floor.balanced_accuracy is None else [floor.balanced_accuracy]


def _counter_examples(asked: AskedRule, limit: int, seed: int) -> Table:
    """Missed firings, strongest first, and false alarms, of the explain split alone, one of a unit; half of each."""
    store, n = asked.store, asked.n_explain
    holds, inside, dense = asked.holds[:n], asked.inside[:n], asked.dense[:n]
    missed, false = (np.flatnonzero(inside & wrong) for wrong in (~holds & (dense > 0), holds & (dense == 0)))
    order = np.lexsort((seeded_hash(missed, seed, "missed", asked.feature), -dense[missed]))
    drawn = np.argsort(seeded_hash(false, seed, "false alarm", asked.feature), kind="stable")
    shown = [
        one_per_unit(rows, store.row_unit, limit) if limit else rows[:0]
        for rows in (missed[order], false[drawn])
    ]
    n_false = min(len(shown[1]), limit // 2)
    n_missed = min(len(shown[0]), limit - n_false)
    n_false = min(len(shown[1]), limit - n_missed)
    rows = np.concatenate([shown[0][:n_missed], shown[1][:n_false]])
    columns, cells = example_table(store, rows, dense[rows])
    kinds = ["missed"] * n_missed + ["false_alarm"] * n_false
    table = [[kind, *row] for kind, row in zip(kinds, cells, strict=True)]
    return Table(columns=["error", *columns], rows=table)


def _summary(asked: AskedRule, found: dict[str, Any], floors: Floors) -> str:
    value, low, high = found["balanced_accuracy"], found["low"], found["high"]
    if value is None:
        return f"Too little data for a balanced accuracy ({found['reason']})."
    token = floors.best_single_token
    same = token is not None and token.same_rows
    beside = f", {digits(token.balanced_accuracy)} for the best single token" if token else ""
    return (
        f"On the {asked.split} split the rule predicts firing with balanced accuracy {digits(value)} "
        f"[{digits(low)}, {digits(high)}] (0.5 without any knowledge{beside}); precision "
        f"{digits(found['precision'])}, recall {digits(found['recall'])} (n {found['n']} in {found['n_units']} units)."
        + (" It holds exactly where its best single token is present and says no more." if same else "")
    )


def _recorded(asked: AskedRule, result: RuleTest, arguments: dict[str, Any]) -> RuleTest:
    """The result with the number of held-out tests, this one among them."""
    store = asked.store
    if asked.split == "explain":
        n_so_far = n_tests(store.labels, store.lineage, asked.feature) if store.labels else None
        return result.model_copy(update={"n_tests_on_heldout": n_so_far})
    test = as_heldout_test(asked, result, result.evidence, arguments)
    return result.model_copy(update={"n_tests_on_heldout": record_test(store.need_labels, test)})


def as_heldout_test(
    asked: AskedRule, result: RuleTest, evidence: str, arguments: dict[str, Any]
) -> HeldoutTest:
    """The record of a rule's test; `evidence` names the answer that tells of it."""
    store = asked.store
    where = asked.where.canonical() if asked.where else None
    scope = asked.scoping.in_words(store, asked.reads_tokens)
    body = result.model_dump(mode="json", exclude={"evidence", "n_tests_on_heldout"})
    return HeldoutTest(
        store=store.lineage,
        fingerprint=store.fingerprint,
        feature=asked.feature,
        test=fingerprint([asked.rule.canonical(), where, scope]),
        rule=asked.rule.canonical(),
        where=where,
        scope=scope,
        evidence=evidence,
        arguments=canonical_json(arguments),
        result=fingerprint(body),
        score=result.balanced_accuracy,
        low=result.low,
        high=result.high,
        floor=floor_to_beat(result.floors),
        precision=result.precision,
        recall=result.recall,
        n=result.n,
    )


def floor_to_beat(floors: Floors) -> float:
    """Of a label with this rule: chance alone where the rule claims no more than the best token, else that token."""
    token = floors.best_single_token
    return 0.5 if token is not None and token.same_rows else max([0.5, *_known(token)])
