"""One world: explained and scored by the runs themselves, graded against what is planted."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.autointerp.planted.claims import Formula, read_claim, rule_of, tokens_named
from benchmarks.autointerp.planted.evidence import rows_of
from benchmarks.autointerp.planted.records import Graded, Seen
from benchmarks.autointerp.planted.worlds import Quiet, exclusive_families, planted
from benchmarks.recover.truth import NOT_RECOVERABLE, NULL, Truth
from pipeline.autointerp.config import Execution, ExplainConfig, LabelChoice, RunConfig, ScoreConfig
from pipeline.autointerp.results import FeatureRow
from pipeline.autointerp.selection import Selection
from pipeline.autointerp.start import start_run
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.labels.records import above_floor
from saeinterp_mcp.labels.revisions import save_label
from saeinterp_mcp.operations.known_names import checked_rule
from saeinterp_mcp.operations.slicing import Scoping, StoreRows
from saeinterp_mcp.rules import evaluate, parse_rule
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.scorers.base import Grade, Trial
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store

WRITER, JUDGE = "openai:scripted-reader", "anthropic:scripted-judge"
ORACLE, IN_WORDS, WRONG, NO = (
    "oracle, the rule itself",
    "oracle, in words",
    "label of another feature",
    "always no",
)
BASELINE = "search label, as the baseline"
EXPLAINED: Final[dict[str, ExplainConfig]] = {
    "search label": ExplainConfig(explainer="search"),
    "max_activating": ExplainConfig(explainer="max_activating", model=WRITER, statistics=False),
    "contrastive": ExplainConfig(explainer="contrastive", model=WRITER, statistics=False),
    "max_activating, statistics": ExplainConfig(explainer="max_activating", model=WRITER, statistics=True),
    "contrastive, statistics": ExplainConfig(explainer="contrastive", model=WRITER, statistics=True),
}
CONTENDERS: Final = (NO, WRONG, BASELINE, *EXPLAINED, IN_WORDS, ORACLE)
UNSAYABLE = ("suppressor_strength", *(s for s in NOT_RECOVERABLE if s not in NULL))
"""Of which no claim about where a feature fires is right: half of the rule's rows are silent, or all fire as often."""
Mask = NDArray[np.bool_]


class Planted(NamedTuple):
    """A store, and what is planted in it."""

    location: Path
    store: Store
    truths: Sequence[Truth]
    formulas: Mapping[int, Formula]
    """Of features whose rule a reader can see."""

    def seen(self, truth: Truth) -> Seen | None:
        """None of dense features, of which nothing can be said and which are not null either."""
        if truth.stratum in NULL:
            return "null"
        if truth.structure is None:
            return None
        if truth.feature not in self.formulas:
            return "hidden"
        return "unsayable" if truth.stratum in UNSAYABLE else "shown"


def measure(
    location: Path,
    truths: Sequence[Truth],
    n_trials: int,
    explained: Mapping[str, ExplainConfig] = EXPLAINED,
) -> Iterator[Graded]:
    """Every contender on every feature of a world; nothing planted, only the explainers."""
    store = open_store(location)
    formulas = {t.feature: f for t in truths if (f := planted(store, t)) is not None}
    world = Planted(location, store, [t for t in truths if t.stratum != "dense"], formulas)
    methods: tuple[Any, ...] = (
        ("detection", "fuzzing", "rule") if store.is_sequence else ("detection", "rule")
    )
    scoring = ScoreConfig(methods=methods, judge=JUDGE, n_trials=n_trials)
    for contender, explaining in explained.items():
        features = ",".join(str(t.feature) for t in world.truths)
        config = RunConfig(explain=explaining, score=scoring, selection=Selection(features=features))
        rows = run(world, config)
        yield from graded_rows(world, contender, rows, n_trials)
        if contender == "search label":
            yield from graded_rows(
                world, BASELINE, [_as_baseline(row) for row in rows], n_trials, claims=False
            )
    if formulas:
        yield from _given(world, IN_WORDS, formulas, scoring)
        yield from _given(world, WRONG, _of_others(formulas), scoring)
        yield from _given(world, NO, dict.fromkeys(formulas, Formula("never")), scoring)
        yield from _by_the_rule(world, n_trials)


def run(world: Planted, config: RunConfig) -> list[FeatureRow]:
    """What the run has about each feature or label."""
    return list(start_run(world.location, config, Execution(concurrency=8), reporter=Quiet()).results.rows)


def graded_rows(
    world: Planted, contender: str, rows: Sequence[FeatureRow], n_trials: int, claims: bool = True
) -> Iterator[Graded]:
    """Rows of a run against what is planted; `claims`: what the labels say is compared with it too."""
    truths = {t.feature: t for t in world.truths}
    for row in rows:
        truth = truths[row.feature]
        seen = world.seen(truth)
        if seen is None:
            continue
        scores = {score.method: score for score in row.scores}
        detection, fuzzing, rule = (scores.get(name) for name in ("detection", "fuzzing", "rule"))
        said = row.state != "left out" and row.state != "unclear"
        one = Graded(
            contender=contender,
            feature=row.feature,
            stratum=truth.stratum,
            seen=seen,
            claims=said,
            detection=detection.score if detection else None,
            above_floor=detection.beats_floor if detection else None,
            fuzzing=fuzzing.score if fuzzing else None,
            rule=rule.score if rule else None,
            rule_floor=rule.floor if rule else None,
        )
        if claims and said and seen == "shown":
            one = one.model_copy(update=_compared(world, row))
        if said and contender != BASELINE:
            one = one.model_copy(update={"right": _by_its_word(world, row, n_trials)})
        yield one


def _by_its_word(world: Planted, row: FeatureRow, n_trials: int) -> dict[str, float | None]:
    """Kind of trial to the share that the claim answers rightly: the judge's work done again without the judge.

    It must come to the score of the run.
    """
    trials = _trials(world.store, "detection", row.feature, n_trials)
    if trials is None:
        return {}
    claim = read_claim(f"{row.label}: {row.explanation}")
    answers: dict[str, Any] = {
        t.trial_id: float(any(claim.holds(shown) for shown in rows_of(t.shown, world.store.is_sequence)))
        for t in trials
    }
    grade = SCORERS["detection"].grade(trials, answers)
    (judged,) = (score for score in row.scores if score.method == "detection")
    assert judged.score is not None, f"feature {row.feature} has a score"
    assert abs(judged.score - (grade.score or 0)) < 1e-6, (
        f"feature {row.feature}: {judged.score}, {grade.score}"
    )
    return {kind: one["right"] for kind, one in grade.by_kind.items()}


def _trials(store: Store, name: str, feature: int, n: int) -> tuple[Trial, ...] | None:
    """Those of the runs; None where it cannot be tested."""
    try:
        return SCORERS[name].make(store, feature, n, 0)
    except NotInStore:
        return None


def _as_baseline(row: FeatureRow) -> FeatureRow:
    """The search label's own answers to the trials, by its log-odds, which every score has beside it."""
    scores = tuple(
        s.model_copy(update={"score": s.baseline, "low": None}) for s in row.scores if s.method != "rule"
    )
    return row.model_copy(update={"scores": scores})


def _compared(world: Planted, row: FeatureRow) -> dict[str, Any]:
    claim = read_claim(f"{row.label}: {row.explanation}")
    truth = world.formulas[row.feature]
    families = exclusive_families(world.store)
    mine, theirs = tokens_named(claim, families), tokens_named(truth, families)
    same = claim.form != "never" and np.array_equal(holds(world.store, claim), holds(world.store, truth))
    return {
        "tokens_f1": 2 * len(mine & theirs) / max(1, len(mine) + len(theirs)),
        "same_rows": bool(same),
    }


def holds(store: Store, formula: Formula) -> Mask:
    """(n rows,) where a claim holds."""
    return evaluate(parse_rule(rule_of(formula, store.is_sequence)), StoreRows(store, "all", Scoping(), None))


def _given(
    world: Planted, contender: str, formulas: Mapping[int, Formula], scoring: ScoreConfig
) -> Iterator[Graded]:
    """Labels that nobody had to find, scored as a person's are."""
    if not formulas:
        return
    store, source = world.store, f"planted: {contender}"
    for feature, formula in formulas.items():
        rule = None
        if formula.form != "never":
            rule = checked_rule(rule_of(formula, store.is_sequence), store).canonical()
        changes = {
            "text": formula.label,
            "explanation": formula.said,
            "rule": rule,
            "scope": "at" if rule and store.is_sequence else None,
            "author": contender,
            "source": source,
        }
        save_label(store.need_labels, store.lineage, feature, changes)
    features = ",".join(map(str, formulas))
    config = RunConfig(
        score=scoring, selection=Selection(features=features), labels=LabelChoice(source=source)
    )
    yield from graded_rows(
        world, contender, run(world, config), scoring.n_trials, claims=contender == IN_WORDS
    )


def _of_others(formulas: Mapping[int, Formula]) -> dict[int, Formula]:
    """Each feature with the rule of another one that is not the same."""
    order = rng(0, "labels of others").permutation(list(formulas)).tolist()
    found = {}
    for i, feature in enumerate(order):
        others = (order[(i + step) % len(order)] for step in range(1, len(order)))
        other = next((formulas[o] for o in others if formulas[o] != formulas[feature]), None)
        if other is not None:
            found[feature] = other
    return found


def _by_the_rule(world: Planted, n_trials: int) -> Iterator[Graded]:
    """The planted rule answers the trials by the rows of their excerpts: depth and groups too, whoever sees them."""
    store = world.store
    for truth in world.truths:
        seen = world.seen(truth)
        if truth.structure is None or seen is None:
            continue
        where = evaluate(parse_rule(truth.structure.rule), StoreRows(store, "all", Scoping(), None))
        found = {
            name: _sat(store, name, truth.feature, n_trials, where)
            for name in (("detection", "fuzzing") if store.is_sequence else ("detection",))
        }
        detection, fuzzing = found["detection"], found.get("fuzzing")
        yield Graded(
            contender=ORACLE,
            feature=truth.feature,
            stratum=truth.stratum,
            seen=seen,
            claims=detection is not None,
            detection=detection.score if detection else None,
            above_floor=above_floor(detection.low, detection.low_without_near_misses, detection.floor)
            if detection and detection.low is not None
            else None,
            fuzzing=fuzzing.score if fuzzing else None,
            right={kind: one["right"] for kind, one in detection.by_kind.items()} if detection else {},
        )


def _sat(store: Store, name: str, feature: int, n_trials: int, where: Mask) -> Grade | None:
    trials = _trials(store, name, feature, n_trials)
    if trials is None:
        return None
    answers: dict[str, Any] = {}
    for trial in trials:
        (excerpt,) = trial.excerpts
        first = excerpt.row - excerpt.at
        rows = [first + i for i in trial.marked or range(len(excerpt.activations))]
        answers[trial.trial_id] = float(where[rows].mean() if trial.marked else where[rows].any())
    return SCORERS[name].grade(trials, answers)
