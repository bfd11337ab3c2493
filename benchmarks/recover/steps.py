"""Asking operations and reading their answers: what the scripted investigator does between its decisions.

Everything comes from the functions that agents call; no array of the store is read here, and no truth.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import xlogy

from benchmarks.recover.truth import InGroup, Structure, Term
from saeinterp_mcp.operations import OPERATIONS
from saeinterp_mcp.operations.store_status import StoreStatus, store_status
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.served import ServedStores

FUNCTIONS = {operation.name: operation.function for operation in OPERATIONS}
Row = dict[str, Any]


class Desk:
    """One feature under investigation: asks, and counts what it asks."""

    def __init__(self, store: Store, feature: int) -> None:
        self.store, self.feature = store, feature
        self.n_calls = 0
        self._answers: dict[tuple[Any, ...], Any] = {}

    def ask(self, name: str, **arguments: Any) -> Any:
        """The answer of an operation; what was asked before is not asked again."""
        key = (name, *sorted((k, str(v)) for k, v in arguments.items()))
        if key not in self._answers:
            self.n_calls += 1
            self._answers[key] = FUNCTIONS[name](self.store, self.feature, **arguments)
        return self._answers[key]

    def status(self) -> StoreStatus:
        """What families and groups there are. Asked once a store, so it is no call of a feature."""
        served = ServedStores([self.store])
        return store_status(served).stores[0]


def rows_of(result: Any) -> list[Row]:
    """A table as dictionaries."""
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


class Counts(NamedTuple):
    """Rows and firing rows where something holds, and where it does not."""

    n: int
    fires: int
    n_rest: int
    fires_rest: int

    @property
    def rate(self) -> float:
        """Where it holds."""
        return self.fires / max(self.n, 1)

    @property
    def rate_rest(self) -> float:
        """Where it does not."""
        return self.fires_rest / max(self.n_rest, 1)

    @property
    def difference(self) -> float:
        """Of the rates."""
        return self.rate - self.rate_rest

    @property
    def evidence(self) -> float:
        """G = 2 x log likelihood ratio of two rates against one (Wilks 1938): how much it says about firing."""
        two = _likelihood(self.n, self.fires) + _likelihood(self.n_rest, self.fires_rest)
        return float(max(2 * (two - _likelihood(self.n + self.n_rest, self.fires + self.fires_rest)), 0.0))


def _likelihood(n: float, k: float) -> float:
    p = k / n if n > 0 else 0.0
    return float(xlogy(k, p) + xlogy(n - k, 1 - p))


class Found(NamedTuple):
    """One thing that goes with firing: a term or a group."""

    what: Term | InGroup
    counts: Counts

    @property
    def rule(self) -> str:
        """In the rule grammar."""
        return self.what.rule


class Step(NamedTuple):
    """The split of a family's levels that says most."""

    threshold: int
    counts: Counts
    next_best: float
    """Evidence of the second best split; 0 with a single level."""


def rate_step(baseline_n: int, baseline_fires: int, rows: Sequence[Row]) -> Step | None:
    """Where along the levels the firing rate steps: the split into lower and higher levels of largest evidence.

    Args:
        baseline_n: rows without a level.
        baseline_fires: firing ones among them.
        rows: of a family sweep.
    """
    seen = [(int(r["level"]), int(r["n"]), int(r["n_firing"])) for r in rows if r["n"]]
    if not seen or not baseline_n:
        return None
    n = np.array([baseline_n, *(s[1] for s in seen)])
    k = np.array([baseline_fires, *(s[2] for s in seen)])
    splits = []
    for i in range(1, len(n)):
        above = Counts(int(n[i:].sum()), int(k[i:].sum()), int(n[:i].sum()), int(k[:i].sum()))
        splits.append((above.evidence, seen[i - 1][0], above))
    splits.sort(key=lambda s: -s[0])
    best = splits[0]
    return Step(best[1], best[2], splits[1][0] if len(splits) > 1 else 0.0)


class StrengthStep(NamedTuple):
    """The split of a family's levels that says most about strength."""

    threshold: int
    ratio: float
    """Mean at and above it over the mean below."""
    z: float
    """Of the difference, by the intervals of the levels."""


def strength_step(baseline: Any, rows: Sequence[Row]) -> StrengthStep | None:
    """Where the mean steps among firing rows: weighted least squares of two means on the levels' intervals.

    Args:
        baseline: of a family sweep over firing rows.
        rows: its table.
    """
    cells = [(0, baseline.mean, baseline.ci_low, baseline.ci_high)]
    cells += [(int(r["level"]), r["mean"], r["ci_low"], r["ci_high"]) for r in rows]
    known = [c for c in cells if None not in c and c[3] > c[2]]
    if len(known) < 2 or known[0][0] != 0:
        return None
    level = [c[0] for c in known]
    mean = np.array([c[1] for c in known])
    weight = np.array([(3.92 / (c[3] - c[2])) ** 2 for c in known])
    best: tuple[float, StrengthStep] | None = None
    for i in range(1, len(level)):
        low, high = np.average(mean[:i], weights=weight[:i]), np.average(mean[i:], weights=weight[i:])
        z = (high - low) / np.sqrt(1 / weight[:i].sum() + 1 / weight[i:].sum())
        fitted = np.where(np.arange(len(level)) < i, low, high)
        misfit = float((weight * (mean - fitted) ** 2).sum())
        if best is None or misfit < best[0]:
            best = (misfit, StrengthStep(level[i], float(high / low), float(z)))
    return best[1] if best else None


FIRES = 0.25
"""Of the way from the baseline's firing rate to the highest level's: from there a level is one that fires."""


def levels_that_fire(baseline: Any, rows: Sequence[Row]) -> set[int]:
    """Levels of a family sweep whose firing rate is well above the baseline's; a level of a threshold is not."""
    known = {int(r["level"]): r["firing_rate"] for r in rows if r["firing_rate"] is not None}
    if baseline.firing_rate is None or not known:
        return set()
    cut = baseline.firing_rate + FIRES * (max(known.values()) - baseline.firing_rate)
    return {level for level, rate in known.items() if rate > cut}


def climbs(rows: Iterable[Row]) -> tuple[float, float, bool]:
    """(z, ratio, rising) of the highest against the lowest level with an interval, among levels given.

    Rising: the middle levels do not fall by more than their intervals.
    """
    known = [
        r for r in rows if r["mean"] is not None and r["ci_low"] is not None and r["ci_high"] > r["ci_low"]
    ]
    if len(known) < 2:
        return 0.0, 1.0, False
    first, last = known[0], known[-1]
    error = np.hypot(*((r["ci_high"] - r["ci_low"]) / 3.92 for r in (first, last)))
    rising = all(b["ci_high"] >= a["ci_low"] for a, b in pairwise(known))
    ratio = last["mean"] / first["mean"] if first["mean"] > 0 else np.inf
    return float((last["mean"] - first["mean"]) / error), float(ratio), rising


def within(*rules: str | None) -> str | None:
    """All of the rules at once; None of none."""
    given = [f"({rule})" for rule in rules if rule]
    return " and ".join(given) or None


def but(rule: str) -> str:
    """Its negation."""
    return f"not ({rule})"


def single(found: Found) -> Structure:
    """A structure of one thing, its polarity by its rates."""
    polarity: Literal["increases", "decreases"] = "increases" if found.counts.difference > 0 else "decreases"
    if isinstance(found.what, Term):
        return Structure(polarity=polarity, terms=(found.what,))
    return Structure(polarity=polarity, group=found.what)


def two(
    a: Term, b: Term, combine: Literal["one", "or", "and", "xor"], gate: InGroup | None = None
) -> Structure:
    """A structure of two terms."""
    terms = tuple(sorted((a, b), key=lambda term: term.family))
    return Structure(terms=terms, combine=combine, gate=gate)
