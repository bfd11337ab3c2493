"""Scores of operations from what was asked, and the part of the report that shows them."""

from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np
from scipy.stats import beta

from benchmarks.recover.estimators import TYPICAL, Estimator, Reading
from benchmarks.recover.truth import NULL, STRATA, Stratum
from benchmarks.recover.worlds import WorldKind
from saeinterp_mcp.frozen import Frozen

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
Q_CUT = 0.05
COVERAGE_TARGET = (0.93, 0.97)
NULL_TARGET = 0.07
WORLDS_TARGET = 2000


class Hit(Frozen):
    """Whether an operation found what is planted in a feature."""

    operation: str
    stratum: Stratum
    n_units: int
    found: bool


class NullAnswer(Frozen):
    """The smallest q of an operation about a feature where nothing is planted."""

    operation: str
    stratum: Stratum
    q: float | None
    """None where nothing could be tested."""


class EstimatorScore(Frozen):
    """One estimator against the generator's expectation."""

    estimator: Estimator
    n_estimates: int
    """Rows with an estimate: what the bias is over."""
    bias: float
    """Mean of estimate less expectation, over the mean size of the expectation; of logs where it is a ratio."""
    bias_error: float
    """Its standard error."""
    n_counted: int
    """Rows with an interval, 30 units and 10 firing units: a feature of a drawn world each."""
    coverage: float | None
    coverage_low: float | None
    coverage_high: float | None
    """Clopper-Pearson, 95 %."""
    too_low: float | None
    """Share of intervals that lie under the expectation."""
    too_high: float | None
    n_typical: int
    """Of the counted ones, rows that were expected to fire often enough for an interval."""
    coverage_typical: float | None

    @property
    def held(self) -> bool | None:
        """Whether coverage is within the target; None without intervals."""
        return None if self.coverage is None else COVERAGE_TARGET[0] <= self.coverage <= COVERAGE_TARGET[1]


class NullScore(Frozen):
    """How often an operation finds something where nothing is."""

    operation: str
    stratum: Stratum
    n_features: int
    """Features about which something could be tested."""
    n_found: int
    """With any q < .05."""
    upper: float
    """One-sided 95 % upper bound of the share (Clopper-Pearson)."""

    @property
    def held(self) -> bool:
        """Whether the target is met; dense features, too few to say, only stand beside."""
        return self.upper <= NULL_TARGET or self.stratum not in NULL


class PowerScore(Frozen):
    """How often an operation finds what is planted, by stratum and number of units."""

    operation: str
    stratum: Stratum
    n_units: int
    n_features: int
    n_found: int


class KindScores(Frozen):
    """All scores of one kind of world."""

    kind: WorldKind
    n_laws: int
    n_draws: int
    """Drawn worlds with planted features, of all laws together."""
    estimators: tuple[EstimatorScore, ...]
    nulls: tuple[NullScore, ...]
    power: tuple[PowerScore, ...]


class OperationScores(Frozen):
    """All scores."""

    kinds: tuple[KindScores, ...]

    def with_kind(self, found: KindScores) -> "OperationScores":
        """The same with one kind measured anew, in the order set, sequence."""
        kinds = [found, *(k for k in self.kinds if k.kind != found.kind)]
        return OperationScores(kinds=tuple(sorted(kinds, key=lambda k: k.kind != "set")))


def exact_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share."""
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k else 0.0
    return low, float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0


def score_estimator(estimator: Estimator, readings: Sequence[Reading]) -> EstimatorScore:
    """Bias over all estimates; coverage over the rows that count."""
    error = np.array([r.estimate - r.expected for r in readings])
    size = 1.0 if estimator == "rate ratio" else float(np.mean([abs(r.expected) for r in readings]))
    counted = [r for r in readings if r.counts]
    typical = [r for r in counted if r.expected_firing >= TYPICAL]
    inside = sum(_holds(r) for r in counted)
    low, high = exact_interval(inside, len(counted)) if counted else (None, None)
    return EstimatorScore(
        estimator=estimator,
        n_estimates=len(readings),
        bias=float(error.mean() / size),
        bias_error=float(error.std() / np.sqrt(len(error)) / size),
        n_counted=len(counted),
        coverage=_share(inside, counted),
        coverage_low=low,
        coverage_high=high,
        too_low=_share(sum(r.high is not None and r.high < r.expected for r in counted), counted),
        too_high=_share(sum(r.low is not None and r.low > r.expected for r in counted), counted),
        n_typical=len(typical),
        coverage_typical=_share(sum(_holds(r) for r in typical), typical),
    )


def _holds(reading: Reading) -> bool:
    assert reading.low is not None
    assert reading.high is not None
    return reading.low <= reading.expected <= reading.high


def _share(k: int, of: Sequence[Reading]) -> float | None:
    return k / len(of) if of else None


def score_nulls(answers: Iterable[NullAnswer]) -> tuple[NullScore, ...]:
    """By operation and stratum, over features about which something could be tested."""
    tested = [a for a in answers if a.q is not None]
    found = []
    for operation, stratum in dict.fromkeys((a.operation, a.stratum) for a in tested):
        q = [a.q for a in tested if (a.operation, a.stratum) == (operation, stratum) and a.q is not None]
        k = sum(value < Q_CUT for value in q)
        upper = exact_interval(k, len(q), 0.9)[1]
        found.append(
            NullScore(operation=operation, stratum=stratum, n_features=len(q), n_found=k, upper=upper)
        )
    return tuple(found)


def score_power(hits: Sequence[Hit]) -> tuple[PowerScore, ...]:
    """By operation, stratum and size of the world."""
    keys = sorted({(h.operation, STRATA.index(h.stratum), h.n_units) for h in hits})
    found = []
    for operation, stratum, n_units in keys:
        mine = [
            h for h in hits if (h.operation, h.stratum, h.n_units) == (operation, STRATA[stratum], n_units)
        ]
        found.append(
            PowerScore(
                operation=operation,
                stratum=STRATA[stratum],
                n_units=n_units,
                n_features=len(mine),
                n_found=sum(h.found for h in mine),
            )
        )
    return tuple(found)


def score(
    kind: WorldKind,
    n_laws: int,
    n_draws: int,
    readings: Sequence[Reading],
    hits: Sequence[Hit],
    nulls: Sequence[NullAnswer],
) -> KindScores:
    """All scores of one kind of world."""
    by_estimator = {name: [r for r in readings if r.estimator == name] for name in ESTIMATORS}
    return KindScores(
        kind=kind,
        n_laws=n_laws,
        n_draws=n_draws,
        estimators=tuple(score_estimator(name, mine) for name, mine in by_estimator.items() if mine),
        nulls=score_nulls(nulls),
        power=score_power(hits),
    )


def render(scores: OperationScores) -> str:
    """The part of the report about single operations, as Markdown."""
    parts = [
        "Single operations against what the generator expects (a closed form over a very large sample of rows). A law "
        "is the names, habits and rules of a world; each draw of it has new units and new activations, is imported "
        "into a store of its own and asked through the operations. Rows of an answer are chosen by seed, before it is "
        "seen. A figure that misses its target stands in bold."
    ]
    for kind in scores.kinds:
        drawn = f"{kind.n_draws} drawn worlds of {kind.n_laws} laws"
        parts += [
            f"### Operations, {kind.kind} worlds ({drawn})",
            _estimators(kind),
            _nulls(kind),
            _power(kind),
        ]
    return "\n\n".join(parts)


def _estimators(kind: KindScores) -> str:
    lines = [
        "Coverage of 95 % intervals (target 93 to 97 %, at least 2,000 features of drawn worlds), of rows with 30 "
        "units and 10 firing units; *typical* rows were expected to fire 20 times or more. Bias is relative to the "
        "mean size of what is expected (of a rate ratio: the mean difference of logs), over all rows with an "
        "estimate, with its standard error.\n",
        "| estimator | features | coverage % | 95 % interval | under / over the expectation % | typical: features, % "
        "| bias % |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in kind.estimators:
        bias = f"{100 * e.bias:+.1f} ± {100 * e.bias_error:.1f}"
        if e.coverage is None or e.coverage_low is None or e.coverage_high is None:
            lines.append(f"| {e.estimator} | {e.n_estimates} estimates | no interval | | | | {bias} |")
            continue
        coverage = _bold(f"{100 * e.coverage:.1f}", bool(e.held))
        count = _bold(f"{e.n_counted:,}", e.n_counted >= WORLDS_TARGET)
        sides = f"{_percent(e.too_low)} / {_percent(e.too_high)}"
        typical = f"{e.n_typical:,}, {_percent(e.coverage_typical)}"
        interval = f"{100 * e.coverage_low:.1f} to {100 * e.coverage_high:.1f}"
        lines.append(f"| {e.estimator} | {count} | {coverage} | {interval} | {sides} | {typical} | {bias} |")
    return "\n".join(lines)


def _nulls(kind: KindScores) -> str:
    lines = [
        "Features where nothing is planted: share with any q < .05 in one answer, and its one-sided 95 % upper bound "
        "(target for noise features: at most 7 %).\n",
        "| operation | features | found % | upper bound % |",
        "|---|---|---|---|",
    ]
    for n in kind.nulls:
        share, upper = 100 * n.n_found / n.n_features, _bold(f"{100 * n.upper:.1f}", n.held)
        lines.append(f"| {n.operation}, {n.stratum} features | {n.n_features:,} | {share:.1f} | {upper} |")
    return "\n".join(lines)


def _power(kind: KindScores) -> str:
    """A row an operation and stratum, a column a size."""
    sizes = sorted({p.n_units for p in kind.power})
    lines = [
        "Power: share of planted features that the operation finds at q < .05, in the right direction (of a "
        "heatmap: its interaction's interval lies on the right side of 0), by units of the world (70 % of them are "
        "asked).\n",
        f"| operation | stratum | {' | '.join(f'{n:,} units' for n in sizes)} |",
        "|---" * (2 + len(sizes)) + "|",
    ]
    found = {(p.operation, p.stratum, p.n_units): p for p in kind.power}
    for operation, stratum in dict.fromkeys((p.operation, p.stratum) for p in kind.power):
        cells = []
        for n in sizes:
            p = found.get((operation, stratum, n))
            cells.append(f"{100 * p.n_found / p.n_features:.0f} % of {p.n_features}" if p else "")
        lines.append(f"| {operation} | {stratum} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _bold(text: str, held: bool) -> str:
    return text if held else f"**{text}**"
