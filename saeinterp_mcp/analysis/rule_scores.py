"""How well a rule says where a feature fires: confusion counts by unit, and the intervals that follow from them.

The predictor is the rule, the target is that the feature fires (above 0). Everything is summed by unit first, so that
rows of one unit count as one observation. Arrays over rows are (n,), over units (U,).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.distributions import t_quantile
from saeinterp_mcp.analysis.intervals import MIN_FIRING_UNITS, Arm, contrast, rate_interval
from saeinterp_mcp.analysis.moments import distinct_sorted

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RULE_OF_THREE = 3.0


class Interval(NamedTuple):
    """An estimate and its 95 % interval by unit; NaN is null."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PredictedRows:
    """Rows on which a feature is predicted."""

    unit: Ints
    """(n,) index of each row's unit, 0 .. U-1, ascending."""
    n_units: int
    fires: Bools
    """(n,) whether the feature fires."""

    @classmethod
    def of(cls, unit: NDArray[Any], fires: Bools) -> "PredictedRows":
        """From any ascending numbers of units."""
        units, index = distinct_sorted(np.asarray(unit, np.int64))
        return cls(index, len(units), fires)

    def by_unit(self, rows: Bools) -> Floats:
        """(U,) how many of some rows each unit has."""
        return np.bincount(self.unit[rows], minlength=self.n_units).astype(np.float64)

    @cached_property
    def firing(self) -> Floats:
        """(U,) firing rows of each unit."""
        return self.by_unit(self.fires)

    @cached_property
    def silent(self) -> Floats:
        """(U,) silent rows of each unit."""
        return self.by_unit(~self.fires)


@dataclass(frozen=True)
class Prediction:
    """A predictor on tested rows, summed by unit."""

    tested: PredictedRows
    holds: Bools
    """(n,) where it says that the feature fires."""

    @cached_property
    def hits(self) -> Floats:
        """(U,) firing rows where it holds."""
        return self.tested.by_unit(self.tested.fires & self.holds)

    @cached_property
    def rejections(self) -> Floats:
        """(U,) silent rows where it does not hold."""
        return self.tested.by_unit(~self.tested.fires & ~self.holds)

    @cached_property
    def held(self) -> Floats:
        """(U,) rows where it holds."""
        return self.tested.by_unit(self.holds)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """tp, fp, tn, fn."""
        tp, tn = int(self.hits.sum()), int(self.rejections.sum())
        return tp, int(self.tested.silent.sum()) - tn, tn, int(self.tested.firing.sum()) - tp

    @property
    def precision(self) -> Interval:
        """Share of the rows where it holds that fire."""
        return _rate(self.hits, self.held)

    @property
    def recall(self) -> Interval:
        """Share of the firing rows where it holds."""
        return _rate(self.hits, self.tested.firing)

    @property
    def balanced_accuracy(self) -> Interval:
        """(recall + share of the silent rows where it does not hold) / 2."""
        parts = [(self.hits, self.tested.firing), (self.rejections, self.tested.silent)]
        return _combined(parts, np.array([0.5, 0.5]))

    def better_than(self, other: "Prediction") -> Interval:
        """Balanced accuracy less that of another predictor of the same rows, paired: only rows they differ on count.

        Linearised, with Student's t by the effective number of units that differ; with few of those, MOVER on the
        shares of rows that one predictor has right and the other wrong.
        """
        tested, parts = self.tested, []
        for kind, rows, right in ((tested.fires, tested.firing, True), (~tested.fires, tested.silent, False)):
            mine, its = kind & (self.holds == right), kind & (other.holds == right)
            parts += [(tested.by_unit(mine & ~its), rows), (tested.by_unit(its & ~mine), rows)]
        weights = np.array([0.5, -0.5, 0.5, -0.5])
        differ = np.count_nonzero(sum(s for s, _ in parts))
        if differ < MIN_FIRING_UNITS:
            return _combined(parts, weights)
        value = sum(w * s.sum() / n.sum() for w, (s, n) in zip(weights, parts, strict=True))
        influence = sum(
            w * (s - s.sum() / n.sum() * n) / n.sum() for w, (s, n) in zip(weights, parts, strict=True)
        )
        reach = _reach(np.asarray(influence))
        return Interval(float(value), float(value) - reach, float(value) + reach)


def _arm(s: Floats, n: Floats) -> Arm:
    sums = (n.sum(), (n > 0).sum(), (s > 0).sum(), s.sum(), (s * s).sum(), (s * n).sum(), (n * n).sum())
    return Arm(*(np.array([float(x)]) for x in sums))


def _rate(s: Floats, n: Floats) -> Interval:
    """The share sum s / sum n, with the interval of a firing rate."""
    if not n.sum():
        return Interval(np.nan, np.nan, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = rate_interval(_arm(s, n))
    return Interval(float(s.sum() / n.sum()), float(low[0]), float(high[0]))


def _combined(parts: list[tuple[Floats, Floats]], weights: Floats) -> Interval:
    """A weighted sum of shares: MOVER on the shares' own intervals, with their linearised clustered covariance.

    A share r = sum s / sum n varies by unit as (s_i - r n_i) / sum n (Taylor). MOVER (`intervals.contrast`) keeps the
    interval of a rule that made no mistake from closing: it has the shares' own limits, never [1, 1].
    """
    shares = [_rate(s, n) for s, n in parts]
    if any(np.isnan(share.value) for share in shares):
        return Interval(np.nan, np.nan, np.nan)
    means, lows, highs = (np.array(column) for column in zip(*shares, strict=True))
    influence = np.stack([(s - m * n) / n.sum() * _factor(n) for (s, n), m in zip(parts, means, strict=True)])
    low, high = contrast(means, lows, highs, influence @ influence.T, weights)
    return Interval(float(means @ weights), float(low), float(high))


def _factor(n: Floats) -> float:
    """sqrt(U/(U-1)) over the units that have rows."""
    units = float((n > 0).sum())
    return float(np.sqrt(units / (units - 1))) if units > 1 else float("nan")


def auroc(tested: PredictedRows, holds: Bools, activation: Floats) -> Interval:
    """P(activation at a row with the rule > at a row without), ties half, over all pairs of rows.

    Placement values (DeLong 1988) with their sums by unit (Obuchowski 1997); the interval is made on the logit scale.
    Ranks are exact; silent rows tie at 0. Where nothing varies the limit is the rule of three, by units of the
    smaller side.

    Args:
        tested: the rows.
        holds: (n,) where the rule holds.
        activation: (n,) of the feature, 0 where it is silent.
    """
    n_with, n_without = int(holds.sum()), int((~holds).sum())
    if not n_with or not n_without:
        return Interval(np.nan, np.nan, np.nan)
    mine, others = activation[holds], activation[~holds]
    place = np.empty(len(activation))
    place[holds] = _share_below(mine, others)
    place[~holds] = 1 - _share_below(others, mine)
    value = float(place[holds].mean())
    weight = np.where(holds, 1 / n_with, 1 / n_without)
    influence = np.bincount(tested.unit, (place - value) * weight, tested.n_units).astype(np.float64)
    sides = [float((tested.by_unit(rows) > 0).sum()) for rows in (holds, ~holds)]
    return _on_logit_scale(value, influence, min(sides))


def _share_below(values: Floats, others: Floats) -> Floats:
    """Share of `others` under each value, ties half; only what fires is sorted."""
    firing = np.sort(others[others > 0])
    n_silent, fires = len(others) - len(firing), values > 0
    twice = np.full(len(values), float(n_silent))
    above = values[fires]
    twice[fires] = (
        2 * n_silent + np.searchsorted(firing, above, "left") + np.searchsorted(firing, above, "right")
    )
    return twice / (2 * len(others))


def _on_logit_scale(value: float, influence: Floats, n_units: float) -> Interval:
    if n_units < 2:
        return Interval(value, np.nan, np.nan)
    three, inside = min(1.0, RULE_OF_THREE / n_units), value * (1 - value)
    if inside < 1e-12 or not (influence**2).sum() > 1e-24:
        return Interval(value, max(0.0, value - three), min(1.0, value + three))
    reach = _reach(influence) / inside
    middle = np.log(value / (1 - value))
    low, high = (1 / (1 + np.exp(-np.clip(middle + sign * reach, -700, 700))) for sign in (-1, 1))
    return Interval(value, float(low), float(high))


def _reach(influence: Floats) -> float:
    """Half a 95 % interval: t se, the degrees of freedom by how many units make up the variance (Kish)."""
    n, squares = len(influence), float((influence**2).sum())
    effective = float(np.abs(influence).sum()) ** 2 / squares
    quantile = float(t_quantile(0.975, np.array([max(1.0, effective - 1)]))[0])
    return quantile * float(np.sqrt(squares * n / (n - 1)))


def best_token(n_firing: Floats, n: Floats, all_firing: int, all_rows: int) -> int | None:
    """The token whose presence alone has the best balanced accuracy; on ties the one firing more, then the first.

    Args:
        n_firing: (K,) firing rows with each token.
        n: (K,) rows with it.
        all_firing: firing rows.
        all_rows: rows.
    """
    seen = np.flatnonzero(n)
    silent = all_rows - all_firing
    if not len(seen) or not all_firing or not silent:
        return None
    accuracy = (n_firing[seen] / all_firing + 1 - (n[seen] - n_firing[seen]) / silent) / 2
    order = np.lexsort((seen, -n_firing[seen], -np.round(accuracy, 12)))
    return int(seen[order[0]])
