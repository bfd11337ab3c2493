"""What a run found, as records: a row for each feature, and summaries by method."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.labels.records import above_floor

N_BINS = 20


class MethodScore(Frozen):
    """How a label fared in one kind of held-out test."""

    method: str
    measure: str
    """What `score` is: balanced_accuracy, correlation, auroc, accuracy."""
    score: float | None
    low: float | None
    high: float | None
    floor: float
    low_without_near_misses: float | None = None
    baseline: float | None
    """The search label's score on the same trials."""
    n: int
    n_failed: int
    judge: str | None
    reason: str | None = None
    """Why there is no score."""

    @property
    def beats_floor(self) -> bool | None:
        """Whether the low end of the interval is above the floor, without near misses too."""
        if self.low is None:
            return None
        return above_floor(self.low, self.low_without_near_misses, self.floor)


class FeatureRow(Frozen):
    """What a run has about one feature."""

    feature: int
    state: str
    """labelled, unclear, or left out."""
    reason: str | None = None
    """Why it was left out."""
    label_id: str | None = None
    label: str | None = None
    explanation: str | None = None
    confidence: float | None = None
    scores: tuple[MethodScore, ...] = ()
    usd: float | None = None
    """Paid for it in this run; None where a price is unknown."""


class MethodSummary(Frozen):
    """One method over all labels of a run."""

    method: str
    measure: str
    floor: float
    """The mean where each label has its own (rule: its best token)."""
    n_labels: int
    """With a score."""
    n_without: int
    """Whose score is null."""
    n_trials: int
    n_failed: int
    """Trials without an answer."""
    mean: float | None
    quartiles: tuple[float, float, float] | None
    n_above_floor: int
    """Labels whose interval's low end is above the floor."""
    baseline_mean: float | None
    """Of the search label on the same trials."""
    n_above_baseline: int
    """Labels with a higher score than the search label's."""
    control_mean: float | None = None
    """Of labels of other features on these trials: what a wrong label gets."""
    n_controls: int = 0
    counts: tuple[int, ...] = ()
    """Labels by score, in N_BINS equal bins from `lowest` to 1."""
    lowest: float = 0.0


class RunResults(Frozen):
    """Everything a report shows."""

    run: str
    store: str
    store_fingerprint: str
    kind: str
    state: str
    why: str | None
    """Why it stopped."""
    started_at: str
    written_at: str
    seconds: float | None
    config: dict[str, Any]
    n_features: int
    rows: tuple[FeatureRow, ...]
    methods: tuple[MethodSummary, ...]
    left_out: dict[str, int]
    """Reason to number of features."""
    untested: dict[str, int] = {}
    """Method and reason to number of labels that have no such score."""
    usage: dict[str, Any]
    """Calls, tokens, dollars, failures by reason, uncertain ones: as the ledger counts them for this run."""
    versions: dict[str, str]


def summarise(rows: Sequence[FeatureRow], controls: dict[str, list[float]]) -> tuple[MethodSummary, ...]:
    """One summary a method, in the order the methods first occur.

    Args:
        rows: of all features.
        controls: method to the scores of labels of other features.
    """
    by_method: dict[str, list[MethodScore]] = {}
    for row in rows:
        for score in row.scores:
            by_method.setdefault(score.method, []).append(score)
    return tuple(_summary(method, scores, controls.get(method, [])) for method, scores in by_method.items())


def _summary(method: str, scores: list[MethodScore], controls: list[float]) -> MethodSummary:
    known = [s for s in scores if s.score is not None]
    values = np.array([s.score for s in known], float)
    with_baseline = [s for s in known if s.baseline is not None]
    lowest = -1.0 if scores[0].measure == "correlation" else 0.0
    counts = np.histogram(np.minimum(values + 1e-9, 1.0), N_BINS, (lowest, 1.0))[0]
    low, middle, high = (
        (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])) if known else (0.0, 0.0, 0.0)
    )
    return MethodSummary(
        method=method,
        measure=scores[0].measure,
        floor=float(np.mean([s.floor for s in scores])),
        n_labels=len(known),
        n_without=len(scores) - len(known),
        n_trials=sum(s.n for s in scores),
        n_failed=sum(s.n_failed for s in scores),
        mean=float(values.mean()) if known else None,
        quartiles=(low, middle, high) if known else None,
        n_above_floor=sum(s.beats_floor is True for s in known),
        baseline_mean=float(np.mean([s.baseline for s in with_baseline])) if with_baseline else None,
        n_above_baseline=sum((s.score or 0) > (s.baseline or 0) for s in with_baseline),
        control_mean=float(np.mean(controls)) if controls else None,
        n_controls=len(controls),
        counts=tuple(int(c) for c in counts),
        lowest=lowest,
    )


def worst(rows: Sequence[FeatureRow], n: int) -> list[FeatureRow]:
    """The labels with the lowest scores (of a label's several methods the lowest above its floor), worst first."""

    def key(row: FeatureRow) -> tuple[float, int]:
        return (min(_over_floor(row)), row.feature)

    scored = [row for row in rows if _over_floor(row)]
    return sorted(scored, key=key)[:n]


def _over_floor(row: FeatureRow) -> list[float]:
    """Of the scores that are about the label; an intruder's is about the feature."""
    return [s.score - s.floor for s in row.scores if s.score is not None and s.method != "intruder"]
