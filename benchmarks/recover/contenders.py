"""Who is scored: investigators and floors by name, on worlds of one kind."""

import time
from collections.abc import Callable, Sequence

from benchmarks.recover.follower import follow_seed_rules
from benchmarks.recover.investigator import TOOLSETS, Toolset, investigate
from benchmarks.recover.oracle import always_nothing, best_single_token, oracle
from benchmarks.recover.scoring import Calibration, Grade, calibration, grade_all, mean, share
from benchmarks.recover.truth import STRATA, Claim, Stratum, Truth
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.base import Store

Contender = Callable[[Store, Sequence[int]], list[Claim]]
"""Claims of features of a store; the oracle alone is told more."""


def scripted(tools: Toolset) -> Contender:
    """The scripted investigator with a set of tools."""
    return lambda store, features: [investigate(store, feature, tools) for feature in features]


CONTENDERS: dict[str, Contender] = {
    "scripted investigator": scripted("rules"),
    **{f"... up to {tools}": scripted(tools) for tools in reversed(TOOLSETS) if tools != "rules"},
    "seed-rule follower": follow_seed_rules,
    "best single token": best_single_token,
    "always nothing": always_nothing,
}
ORACLE = "oracle"
NAMES = (ORACLE, *CONTENDERS)
SCRIPTED, FOLLOWER = "scripted investigator", "seed-rule follower"


class Tally(Frozen):
    """k of n."""

    k: int
    n: int


class Estimate(Frozen):
    """A mean with its interval; null where there is nothing to average."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0


class Score(Frozen):
    """One contender on worlds of one kind."""

    contender: str
    recovered: dict[Stratum, Tally]
    """Exactly right, by stratum; the null strata too, where claiming nothing is right."""
    false_claims: Tally
    """On features where nothing is planted: dead and noise."""
    families_f1: Estimate
    """The partial scores are over claims about features that have a structure, recoverable strata only."""
    polarity: Estimate
    thresholds: Estimate
    combine: Estimate
    gate: Estimate
    tail: Estimate
    balanced_accuracy: Estimate
    """On held-out rows, recoverable strata; nothing claimed counts as always no."""
    calibration: Calibration
    calls: float
    """Operations asked per feature."""
    seconds: float
    """Per feature; on whatever else the machine was doing."""

    def recovery(self, strata: Sequence[Stratum]) -> Tally:
        """Over several strata."""
        mine = [self.recovered[s] for s in strata if s in self.recovered]
        return Tally(k=sum(t.k for t in mine), n=sum(t.n for t in mine))


def run_contender(name: str, worlds: Sequence[tuple[Store, Sequence[Truth]]]) -> tuple[Score, list[Grade]]:
    """Score one contender over some worlds."""
    grades: list[Grade] = []
    started = time.perf_counter()
    if name == ORACLE:
        claimed = [oracle(truths) for _, truths in worlds]
    else:
        claimed = [CONTENDERS[name](store, [t.feature for t in truths]) for store, truths in worlds]
    seconds = time.perf_counter() - started
    for (store, truths), claims in zip(worlds, claimed, strict=True):
        grades += grade_all(store, claims, truths)
    return score(name, grades, seconds / max(len(grades), 1)), grades


def score(name: str, grades: Sequence[Grade], seconds: float = 0.0) -> Score:
    """Add up grades."""
    real = [g for g in grades if g.recoverable]
    nulls = [g for g in grades if g.null]
    how_sure = calibration(grades)
    assert how_sure is not None, "there are grades"
    return Score(
        contender=name,
        recovered={s: _tally([g.exact for g in grades if g.stratum == s]) for s in STRATA if _has(grades, s)},
        false_claims=_tally([g.false_claim for g in nulls]),
        families_f1=_estimate([g.families_f1 for g in real]),
        polarity=_estimate([g.polarity for g in real]),
        thresholds=_estimate([g.thresholds for g in real]),
        combine=_estimate([g.combine for g in real]),
        gate=_estimate([g.gate for g in real]),
        tail=_estimate([g.tail for g in real]),
        balanced_accuracy=_estimate([g.balanced_accuracy for g in real]),
        calibration=how_sure,
        calls=sum(g.n_calls for g in grades) / len(grades),
        seconds=seconds,
    )


def _has(grades: Sequence[Grade], stratum: Stratum) -> bool:
    return any(g.stratum == stratum for g in grades)


def _tally(flags: Sequence[bool]) -> Tally:
    found = share(flags)
    return Tally(k=found.k, n=found.n) if found else Tally(k=0, n=0)


def _estimate(values: Sequence[float | bool | None]) -> Estimate:
    found = mean([None if v is None else float(v) for v in values])
    if found is None:
        return Estimate(value=None)
    low, high = (found.low, found.high) if found.n > 1 else (None, None)
    return Estimate(value=found.value, low=low, high=high, n=found.n)
