"""From answers to a grade: probabilities, rankings, numbers for tokens, choices. No reading or writing.

Every interval is by unit. A set of trials has one trial a unit, so a unit is a trial, and the intervals are those that
rules are graded with (`analysis.rule_scores`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.distributions import beta_quantile
from saeinterp_mcp.analysis.rule_scores import Interval, PredictedRows, Prediction, auroc
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.scorers.base import Answer, Grade, Trial
from saeinterp_mcp.scorers.correlation import correlation

Floats = NDArray[np.float64]
MIN_PER_CLASS = 10
"""Scored trials of a class, under which nothing is estimated."""
MIN_WITHOUT = 5
"""The same where near misses are left out."""
NEAR_MISS = "near_miss"
HIGHEST = 10.0
"""The largest number that a simulation gives to a token."""


def grade_probabilities(trials: Sequence[Trial], answers: Mapping[str, Answer]) -> Grade:
    """Balanced accuracy of probabilities from 0 to 1: over one half is a yes, exactly one half is half right.

    Raises:
        BadInput: an answer to none of the trials, or out of range.
    """
    scored = _scored(trials, answers, _probability)
    shares = _Answered.of(scored, answers)
    right = {t.trial_id: _right(float(_number(answers[t.trial_id])), float(_number(t.truth))) for t in scored}
    kinds = _by_kind(trials, scored, right)
    reason = _too_few(scored)
    n_failed = len(trials) - len(scored)
    if reason is not None:
        return _null("balanced_accuracy", 0.5, scored, n_failed, kinds, reason)
    accuracy, ranking = shares.balanced_accuracy, _auroc(shares.tested, shares.probability)
    rest = _without_near_misses(scored)
    return Grade(
        measure="balanced_accuracy",
        **_estimate(accuracy),
        floor=0.5,
        low_without_near_misses=_or_none(_Answered.of(rest, answers).balanced_accuracy.low) if rest else None,
        auroc=_or_none(ranking.value),
        auroc_low=_or_none(ranking.low),
        auroc_high=_or_none(ranking.high),
        n=len(scored),
        n_units=_n_units(scored),
        n_failed=n_failed,
        by_kind=kinds,
    )


def grade_ranking(trials: Sequence[Trial], answers: Mapping[str, Answer]) -> Grade:
    """AUROC of answers whose order alone means something (similarities); no number of them is a yes.

    `right` of a kind is the share of its pairs with trials of the other class that are in the right order.

    Raises:
        BadInput: an answer to none of the trials, or out of range.
    """
    scored = _scored(trials, answers, _probability)
    kinds = _by_kind(trials, scored, _placements(scored, answers))
    reason, n_failed = _too_few(scored), len(trials) - len(scored)
    if reason is not None:
        return _null("auroc", 0.5, scored, n_failed, kinds, reason)
    shares = _Answered.of(scored, answers)
    ranking = _auroc(shares.tested, shares.probability)
    rest = _without_near_misses(scored)
    apart = _Answered.of(rest, answers)
    return Grade(
        measure="auroc",
        **_estimate(ranking),
        floor=0.5,
        low_without_near_misses=_or_none(_auroc(apart.tested, apart.probability).low) if rest else None,
        auroc=_or_none(ranking.value),
        auroc_low=_or_none(ranking.low),
        auroc_high=_or_none(ranking.high),
        n=len(scored),
        n_units=_n_units(scored),
        n_failed=n_failed,
        by_kind=kinds,
    )


def grade_numbers(trials: Sequence[Trial], answers: Mapping[str, Answer]) -> Grade:
    """Pearson correlation of a number for each token with the activation, over all tokens of answered trials.

    Numbers that are all the same predict nothing: the score is 0, the floor, and not null, or else a judge that says
    "silent everywhere" of a bad claim would take that claim out of every mean; no interval is defined then.

    Raises:
        BadInput: an answer to none of the trials, of another length than its excerpt, or out of range.
    """
    scored = _scored(trials, answers, _numbers)
    kinds = _by_kind(trials, scored, {})
    for kind, entry in kinds.items():
        of_kind = [n for t in scored if t.kind == kind for n in _list(answers[t.trial_id])]
        entry["mean_answer"] = float(np.mean(of_kind)) if of_kind else None
    reason, n_failed = _too_few(scored), len(trials) - len(scored)
    if reason is not None:
        return _null("correlation", 0.0, scored, n_failed, kinds, reason)
    found = _correlation(scored, answers)
    rest = _without_near_misses(scored)
    constant = math.isnan(found.value)
    return Grade(
        measure="correlation",
        score=0.0 if constant else found.value,
        low=_or_none(found.low),
        high=_or_none(found.high),
        floor=0.0,
        low_without_near_misses=_or_none(_correlation(rest, answers).low) if rest else None,
        n=len(scored),
        n_units=_n_units(scored),
        n_failed=n_failed,
        by_kind=kinds,
        reason="all answers are the same number: they predict nothing, and no interval is defined"
        if constant
        else None,
    )


def grade_choices(trials: Sequence[Trial], answers: Mapping[str, Answer], n_choices: int) -> Grade:
    """Share of right choices, with the exact (Clopper-Pearson) interval.

    Raises:
        BadInput: an answer to none of the trials, or no whole number from 1 to `n_choices`.
    """
    scored = _scored(trials, answers, lambda trial, answer: _choice(answer, n_choices))
    right = {t.trial_id: float(answers[t.trial_id] == t.truth) for t in scored}
    kinds = _by_kind(trials, scored, right)
    n, n_failed = len(scored), len(trials) - len(scored)
    if n < MIN_PER_CLASS:
        reason = f"{n} trials have an answer; an estimate needs {MIN_PER_CLASS}"
        return _null("accuracy", 1 / n_choices, scored, n_failed, kinds, reason)
    k = sum(right.values())
    low = float(beta_quantile(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta_quantile(0.975, k + 1, n - k)) if k < n else 1.0
    return Grade(
        measure="accuracy",
        score=k / n,
        low=low,
        high=high,
        low_without_near_misses=low,
        floor=1 / n_choices,
        n=n,
        n_units=_n_units(scored),
        n_failed=n_failed,
        by_kind=kinds,
    )


def _correlation(scored: Sequence[Trial], answers: Mapping[str, Answer]) -> Interval:
    given = [np.array(_list(answers[t.trial_id])) for t in scored]
    true = [np.array(_list(t.truth)) for t in scored]
    unit = np.repeat([_unit(t) for t in scored], [len(part) for part in true])
    return correlation(np.concatenate(given), np.concatenate(true), unit)


def _without_near_misses(scored: Sequence[Trial]) -> list[Trial]:
    """The other trials; none where they are too few."""
    rest = [t for t in scored if t.kind != NEAR_MISS]
    firing = sum(t.kind == "firing" for t in rest)
    return rest if min(firing, len(rest) - firing) >= MIN_WITHOUT else []


@dataclass(frozen=True)
class _Answered(Prediction):
    """Trials as rows: a probability of exactly one half counts as half a hit or half a rejection."""

    probability: Floats
    """(n,) answered."""

    @classmethod
    def of(cls, scored: Sequence[Trial], answers: Mapping[str, Answer]) -> "_Answered":
        in_order = sorted(scored, key=_unit)
        tested = PredictedRows.of(
            np.array([_unit(t) for t in in_order], np.int64), np.array([t.truth == 1 for t in in_order], bool)
        )
        probability = np.array([_number(answers[t.trial_id]) for t in in_order], np.float64)
        return cls(tested, probability > 0.5, probability)

    @cached_property
    def hits(self) -> Floats:
        return self._right(self.tested.fires, self.probability)

    @cached_property
    def rejections(self) -> Floats:
        return self._right(~self.tested.fires, 1 - self.probability)

    def _right(self, rows: NDArray[np.bool_], towards: Floats) -> Floats:
        share = np.where(rows, (np.sign(towards - 0.5) + 1) / 2, 0.0)
        return np.bincount(self.tested.unit, share, self.tested.n_units).astype(np.float64)


def _auroc(tested: PredictedRows, probability: Floats) -> Interval:
    return auroc(tested, tested.fires, probability)


def _placements(scored: Sequence[Trial], answers: Mapping[str, Answer]) -> dict[str, float]:
    """For each trial the share of trials of the other class that it is in the right order with, ties half."""
    value = {t.trial_id: _number(answers[t.trial_id]) for t in scored}
    sides = {truth: np.array([value[t.trial_id] for t in scored if t.truth == truth]) for truth in (0, 1)}
    found = {}
    for t in scored:
        others = sides[0 if t.truth == 1 else 1]
        if len(others):
            below = float(np.mean((value[t.trial_id] > others) + (value[t.trial_id] == others) / 2))
            found[t.trial_id] = below if t.truth == 1 else 1 - below
    return found


def _scored(
    trials: Sequence[Trial], answers: Mapping[str, Answer], check: Callable[[Trial, Answer], str | None]
) -> list[Trial]:
    """The trials with an answer; refuses answers that cannot be one."""
    known = {t.trial_id: t for t in trials}
    for name, answer in answers.items():
        if name not in known:
            raise BadInput(
                f"there is an answer to trial {name!r}, which is none of this test's: "
                f"they are {trials[0].trial_id} to {trials[-1].trial_id}"
                if trials
                else f"there is an answer to trial {name!r}, and this test has no trials"
            )
        wrong = check(known[name], answer)
        if wrong is not None:
            raise BadInput(f"the answer to trial {name!r} is {wrong}; leave out a trial that has no answer")
    return [t for t in trials if t.trial_id in answers]


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether it is a number between two others, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _probability(trial: Trial, answer: Answer) -> str | None:
    return None if is_number(answer, 0, 1) else f"{_shown(answer)}, and has to be a probability from 0 to 1"


def _choice(answer: Answer, n_choices: int) -> str | None:
    fits = is_number(answer, 1, n_choices) and answer == int(_number(answer))
    return None if fits else f"{_shown(answer)}, and has to be a whole number from 1 to {n_choices}"


def _numbers(trial: Trial, answer: Answer) -> str | None:
    expected = len(_list(trial.truth))
    if not isinstance(answer, list):
        return f"{_shown(answer)}, and has to be a list of {expected} numbers, one for each token"
    if len(answer) != expected:
        return f"a list of {len(answer)} numbers, and has to hold {expected}, one for each token"
    wrong = [n for n in answer if not is_number(n, 0, HIGHEST)]
    return f"a list with {_shown(wrong[0])}; its numbers are from 0 to {HIGHEST:g}" if wrong else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _number(answer: Answer) -> float:
    assert not isinstance(answer, list), "a list was checked for where numbers are graded"
    return float(answer)


def _list(answer: Answer) -> list[float]:
    assert isinstance(answer, list), "a number was checked for where lists are graded"
    return answer


def _right(probability: float, truth: float) -> float:
    return 0.5 if probability == 0.5 else float((probability > 0.5) == (truth == 1))


def _unit(trial: Trial) -> int:
    return trial.excerpts[0].unit


def _n_units(scored: Sequence[Trial]) -> int:
    return len({e.unit for t in scored for e in t.excerpts})


def _too_few(scored: Sequence[Trial]) -> str | None:
    firing = sum(t.kind == "firing" for t in scored)
    fewest = min(firing, len(scored) - firing)
    if fewest >= MIN_PER_CLASS:
        return None
    return (
        f"{firing} trials where it fires and {len(scored) - firing} where it is silent have an answer; "
        f"an estimate needs {MIN_PER_CLASS} of each"
    )


def _by_kind(
    trials: Sequence[Trial], scored: Sequence[Trial], right: Mapping[str, float]
) -> dict[str, dict[str, float | int | None]]:
    kinds: dict[str, dict[str, float | int | None]] = {}
    for kind in sorted({t.kind for t in trials}, key=lambda k: (k != "firing", k)):
        mine = [t for t in scored if t.kind == kind]
        shares = [right[t.trial_id] for t in mine if t.trial_id in right]
        kinds[kind] = {"n": len(mine), "right": float(np.mean(shares)) if shares else None}
    return kinds


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _estimate(found: Interval) -> dict[str, Any]:
    return {"score": _or_none(found.value), "low": _or_none(found.low), "high": _or_none(found.high)}


def _null(
    measure: Literal["balanced_accuracy", "correlation", "auroc", "accuracy"],
    floor: float,
    scored: Sequence[Trial],
    n_failed: int,
    kinds: dict[str, dict[str, float | int | None]],
    reason: str,
) -> Grade:
    return Grade(
        measure=measure,
        score=None,
        low=None,
        high=None,
        floor=floor,
        n=len(scored),
        n_units=_n_units(scored),
        n_failed=n_failed,
        by_kind=kinds,
        reason=reason,
    )
