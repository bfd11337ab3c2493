"""Claims beside the planted truth: exact on structure, part by part, and as a rule on held-out rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.recover.truth import NOT_RECOVERABLE, NULL, Claim, Stratum, Structure, Truth
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.operations.slicing import Scoping, StoreRows
from saeinterp_mcp.rules import evaluate, parse_rule
from saeinterp_mcp.store.base import Store


class Grade(Frozen):
    """One claim, graded."""

    feature: int
    stratum: Stratum
    planted: str
    claimed: str
    exact: bool
    """Everything that is scored is right; nothing claimed where nothing is planted is right too."""
    polarity: bool | None
    """This and the next five: null where nothing is planted or nothing claimed."""
    families_f1: float | None
    """F1 of the families of the terms; of a group, 1 when it is the one."""
    thresholds: float | None
    """Share of the families in both whose threshold is right; null with a dose."""
    combine: bool | None
    gate: bool | None
    tail: bool | None
    balanced_accuracy: float | None
    """Of the claim as a rule, on the held-out split; null where a class is empty."""
    oracle_accuracy: float | None
    """Of the planted rule, there."""
    confidence: float
    n_calls: int

    @property
    def made_claim(self) -> bool:
        """Whether it says anything but `unclear`."""
        return self.claimed != NOTHING

    @property
    def null(self) -> bool:
        """Whether nothing is planted, so that every claim is a false one."""
        return self.stratum in NULL

    @property
    def false_claim(self) -> bool:
        """Something claimed where nothing is planted."""
        return self.null and self.made_claim

    @property
    def recoverable(self) -> bool:
        """Whether it counts in the recovery rate."""
        return self.stratum not in NOT_RECOVERABLE


NOTHING = "nothing"


def in_words(structure: Structure | None) -> str:
    """A structure on one line: its rule, then what a rule cannot say."""
    if structure is None:
        return NOTHING
    text = structure.rule
    if structure.dose:
        text += ", with dose"
    if structure.tail is not None:
        text += f", tail {structure.tail.rule}"
    return text


def same(claimed: Structure | None, planted: Structure | None) -> bool:
    """Whether the claim is right in everything scored: a dose's threshold is not."""
    if claimed is None or planted is None:
        return claimed is planted
    return _scored(claimed) == _scored(planted)


def _scored(structure: Structure) -> Structure:
    if not structure.dose:
        return structure
    terms = tuple(term.model_copy(update={"threshold": 1}) for term in structure.terms)
    return structure.model_copy(update={"terms": terms})


def families_f1(claimed: Structure, planted: Structure) -> float:
    """F1 of the families, or of the group where that is what is planted or claimed."""
    mine, theirs = (_named(structure) for structure in (claimed, planted))
    return 2 * len(mine & theirs) / (len(mine) + len(theirs))


def _named(structure: Structure) -> set[str]:
    return {term.family for term in structure.terms} or {structure.rule}


def thresholds_right(claimed: Structure, planted: Structure) -> float | None:
    """Share right among the families that both name."""
    mine = {term.family: term.threshold for term in claimed.terms}
    both = [term for term in planted.terms if term.family in mine]
    if not both or planted.dose:
        return None
    return sum(mine[term.family] == term.threshold for term in both) / len(both)


def grade(
    claim: Claim, truth: Truth, accuracy: float | None = None, oracle_accuracy: float | None = None
) -> Grade:
    """Compare one claim with what is planted."""
    assert claim.feature == truth.feature, f"claim of {claim.feature}, truth of {truth.feature}"
    mine, theirs = claim.structure, truth.structure
    both = mine is not None and theirs is not None
    return Grade(
        feature=truth.feature,
        stratum=truth.stratum,
        planted=in_words(theirs),
        claimed=in_words(mine),
        exact=same(mine, theirs),
        polarity=mine.polarity == theirs.polarity if mine and theirs else None,
        families_f1=families_f1(mine, theirs) if mine and theirs else None,
        thresholds=thresholds_right(mine, theirs) if mine and theirs else None,
        combine=(mine.combine, mine.dose) == (theirs.combine, theirs.dose) if mine and theirs else None,
        gate=mine.gate == theirs.gate if mine and theirs else None,
        tail=mine.tail == theirs.tail if mine and theirs else None,
        balanced_accuracy=accuracy,
        oracle_accuracy=oracle_accuracy if both or theirs is not None else None,
        confidence=claim.confidence,
        n_calls=claim.n_calls,
    )


def grade_all(store: Store, claims: Sequence[Claim], truths: Sequence[Truth]) -> list[Grade]:
    """Grade the claims of one store, in the order of the truths; what was not claimed counts as nothing."""
    held_out = HeldOut(store)
    by_feature = {claim.feature: claim for claim in claims}
    grades = []
    for truth in truths:
        claim = by_feature.get(truth.feature)
        if claim is None:
            claim = Claim(feature=truth.feature, structure=None, confidence=0.0, note="no claim")
        accuracy = held_out.accuracy(truth.feature, claim.structure)
        grades.append(grade(claim, truth, accuracy, held_out.accuracy(truth.feature, truth.structure)))
    return grades


class HeldOut:
    """Structures as rules on the held-out rows of a store. The scorer's own: it records no test."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.first = store.n_rows("explain")

    def accuracy(self, feature: int, structure: Structure | None) -> float | None:
        """Balanced accuracy of "fires where the rule holds"; of nothing, that of always no."""
        rows, _ = self.store.activations(feature, "all")
        fires = np.zeros(self.store.n_rows("all"), bool)
        fires[rows] = True
        fires = fires[self.first :]
        if structure is None:
            return balanced_accuracy(np.zeros(len(fires), bool), fires)
        everything = StoreRows(self.store, "all", Scoping(), feature)
        return balanced_accuracy(evaluate(parse_rule(structure.rule), everything)[self.first :], fires)


def balanced_accuracy(said: NDArray[np.bool_], fires: NDArray[np.bool_]) -> float | None:
    """Mean of the shares right among firing and silent rows; None without one of them."""
    if fires.all() or not fires.any():
        return None
    return float((said[fires].mean() + (~said[~fires]).mean()) / 2)


class Share(NamedTuple):
    """k of n, with the exact 95 % interval (Clopper and Pearson 1934)."""

    k: int
    n: int
    value: float
    low: float
    high: float


def share(flags: Sequence[bool]) -> Share | None:
    """Of the flags that are true; None of none."""
    from scipy.stats import beta

    k, n = int(sum(flags)), len(flags)
    if not n:
        return None
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(0.975, k + 1, n - k))
    return Share(k, n, k / n, low, high)


class Mean(NamedTuple):
    """A mean over features with its 95 % interval (Student's t; features as independent)."""

    n: int
    value: float
    low: float
    high: float


def mean(values: Sequence[float | None]) -> Mean | None:
    """Of those that are there; None of none, and an interval of nan under two."""
    from scipy.stats import t

    known = np.array([v for v in values if v is not None], np.float64)
    if not len(known):
        return None
    half = t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / len(known) ** 0.5 if len(known) > 1 else np.nan
    return Mean(len(known), float(known.mean()), float(known.mean() - half), float(known.mean() + half))


class CalibrationBin(NamedTuple):
    """Claims whose confidence lies in [low, high), the last one closed."""

    low: float
    high: float
    n: int
    confidence: float
    right: float


EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)


class Calibration(NamedTuple):
    """Confidence against being exactly right."""

    bins: list[CalibrationBin]
    brier: float
    brier_trivial: float
    """Of always saying the share that is right, which no investigator knows beforehand."""


def calibration(grades: Sequence[Grade]) -> Calibration | None:
    """Of all claims, those of nothing too; None of none."""
    if not grades:
        return None
    confidence = np.array([g.confidence for g in grades])
    right = np.array([g.exact for g in grades], np.float64)
    place = np.minimum(np.searchsorted(EDGES, confidence, side="right") - 1, len(EDGES) - 2)
    bins = [
        CalibrationBin(
            EDGES[k], EDGES[k + 1], int((m := place == k).sum()), confidence[m].mean(), right[m].mean()
        )
        for k in range(len(EDGES) - 1)
        if (place == k).any()
    ]
    return Calibration(
        bins, float(((confidence - right) ** 2).mean()), float(((right.mean() - right) ** 2).mean())
    )
