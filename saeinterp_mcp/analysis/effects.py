"""Labels beside their reference: the estimates that sweeps over levels, groups and tokens have in common."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis import intervals
from saeinterp_mcp.analysis.intervals import MIN_FIRING_UNITS, Arm, Cross, benjamini_hochberg
from saeinterp_mcp.analysis.moments import Moments

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Sums = TypeVar("Sums", Arm, Cross)
MIN_N = 20
"""Rows below which there is no estimate, unless asked otherwise (design 5.4)."""
Q_CUT = 0.05


@dataclass(frozen=True)
class Effects:
    """Estimates for each of K labels, worked out when asked for; NaN is null."""

    strength: Moments
    firing: Moments
    largest: float
    """The feature's largest activation."""
    min_n: int
    first_is_reference: bool
    q: Floats
    """Benjamini-Hochberg over all labels tested."""

    @cached_property
    def n(self) -> Ints:
        """Rows with the label."""
        return self.strength.label.n.astype(np.int64)

    @cached_property
    def n_units(self) -> Ints:
        """Units with such a row."""
        return self.strength.label.n_units.astype(np.int64)

    @cached_property
    def n_firing(self) -> Ints:
        """Such rows where the feature fires."""
        return self.firing.label.s.astype(np.int64)

    @cached_property
    def n_firing_units(self) -> Ints:
        """Units with such a row."""
        return self.strength.label.n_firing_units.astype(np.int64)

    @cached_property
    def shown(self) -> Bools:
        """Enough rows and units for an estimate."""
        return enough(self.n, self.n_units, self.min_n)

    @cached_property
    def compared(self) -> Bools:
        """Enough on both sides for a comparison."""
        return _compared(self.strength, self.min_n, self.first_is_reference)

    def _if(self, shown: Bools, values: Floats) -> Floats:
        return np.where(shown, values, np.nan)

    @cached_property
    def firing_rate(self) -> Floats:
        """Share of rows with the label where the feature fires."""
        return self._if(self.shown, intervals.mean(self.firing.label))

    @cached_property
    def mean(self) -> Floats:
        """Mean activation of rows with the label, silent ones included."""
        return self._if(self.shown, intervals.mean(self.strength.label))

    @cached_property
    def mean_when_firing(self) -> Floats:
        """Mean activation where it fires."""
        sums, n = self.strength.label.s, self.firing.label.s
        return self._if(self.shown, np.divide(sums, n, out=np.full(len(n), np.nan), where=n > 0))

    @cached_property
    def _rate_interval(self) -> tuple[Floats, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return intervals.rate_interval(self.firing.label)

    @cached_property
    def _difference(self) -> tuple[Floats, Floats, Floats, Floats]:
        largest = np.full(len(self.n), self.largest)
        with np.errstate(invalid="ignore", divide="ignore"):
            return intervals.difference(
                self.strength.label, self.strength.reference, self.strength.cross, largest
            )

    @cached_property
    def _mean_interval(self) -> tuple[Floats, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return intervals.mean_interval(self.strength.label, np.full(len(self.n), self.largest))

    @cached_property
    def _odds(self) -> tuple[Floats, Floats]:
        a, b = self.firing.label, self.firing.reference
        return intervals.log_odds_shrunken(a.s, a.n, b.s, b.n)

    @property
    def rate_low(self) -> Floats:
        """Of the 95 % interval of the firing rate; 0 where it is nearer to 0 than anyone could count."""
        low = self._rate_interval[0]
        return self._if(self.shown, np.where(low < 1e-6, 0.0, low))

    @property
    def rate_high(self) -> Floats:
        """Of the 95 % interval of the firing rate."""
        return self._if(self.shown, self._rate_interval[1])

    @property
    def ci_low(self) -> Floats:
        """Of the 95 % interval of the mean."""
        return self._if(self.shown, self._mean_interval[0])

    @property
    def ci_high(self) -> Floats:
        """Of the 95 % interval of the mean."""
        return self._if(self.shown, self._mean_interval[1])

    @cached_property
    def effect(self) -> Floats:
        """Mean with the label less mean of the reference."""
        difference = intervals.mean(self.strength.label) - intervals.mean(self.strength.reference)
        return self._if(self.compared, difference)

    @property
    def effect_low(self) -> Floats:
        """Of the 95 % interval of the effect."""
        return self._if(self.compared, self._difference[1])

    @property
    def effect_high(self) -> Floats:
        """Of the 95 % interval of the effect."""
        return self._if(self.compared, self._difference[2])

    @property
    def log_odds(self) -> Floats:
        """Shrunken log-odds of firing against the reference."""
        return self._if(self.compared, self._odds[0])

    @property
    def rate_ratio(self) -> Floats:
        """Ratio of the shrunken firing rates."""
        return self._if(self.compared, self._odds[1])

    @cached_property
    def sure_effect(self) -> Floats:
        """The part of the effect that the interval leaves: its end nearer to 0, or 0 where it holds 0 or is null."""
        low, high = np.nan_to_num(self.effect_low), np.nan_to_num(self.effect_high)
        return np.where(low > 0, low, np.where(high < 0, high, 0.0))

    def ranked(self) -> Ints:
        """Labels that were compared, surest effect first, then the largest."""
        order = np.lexsort(
            (np.arange(len(self.n)), -np.abs(np.nan_to_num(self.effect)), -np.abs(self.sure_effect))
        )
        return order[~np.isnan(self.effect[order])]

    def outstanding(self) -> tuple[Ints, Ints]:
        """Labels with which rate and mean are both higher than elsewhere, and both lower; q under 0.05, best first."""
        sure = np.flatnonzero((self.q < Q_CUT) & ~np.isnan(self.log_odds))
        up = sure[(self.log_odds[sure] > 0) & (self.effect[sure] > 0)]
        down = sure[(self.log_odds[sure] < 0) & (self.effect[sure] < 0)]
        strength = self.log_odds[up] * np.sqrt(self.n_firing[up])
        return up[np.lexsort((up, -strength))], down[np.lexsort((down, self.effect[down]))]

    def only(self, pick: Ints) -> "Effects":
        """The same for some labels; their q stays that of all."""

        return replace(
            self,
            strength=cut(self.strength, pick),
            firing=cut(self.firing, pick),
            first_is_reference=False,
            q=self.q[pick],
        )

    def reason(self, k: int) -> str | None:
        """Why estimates of a label are null."""
        needed = f"fewer than {self.min_n} rows or {min(self.min_n, 10)} units"
        if self.n[k] == 0:
            return "never observed"
        if not self.shown[k]:
            return needed
        if np.isnan(self.ci_low[k]):
            if self.n_units[k] < 2:
                return "fewer than 2 units"
            return f"interval: {self.n_firing_units[k]} firing units, {MIN_FIRING_UNITS} needed"
        if np.isnan(self.effect[k]):
            return f"effect: the reference has {needed}"
        if np.isnan(self.effect_low[k]):
            return f"effect interval: the reference has under {MIN_FIRING_UNITS} firing units"
        return None


def _picked(part: Sums, pick: Ints) -> Sums:
    return type(part)(**{f.name: getattr(part, f.name)[pick] for f in fields(part)})


def enough(n: Ints, n_units: Ints, min_n: int) -> Bools:
    """The rule of design 5.4: n >= min_n and n_units >= min(min_n, 10)."""
    return (n >= min_n) & (n_units >= min(min_n, 10))


def _compared(moments: Moments, min_n: int, first_is_reference: bool) -> Bools:
    sides = (moments.label, moments.reference)
    both = np.logical_and(*(enough(a.n.astype(np.int64), a.n_units.astype(np.int64), min_n) for a in sides))
    if first_is_reference:
        both[0] = False
    return both


def p_values(strength: Moments, firing: Moments) -> Floats:
    """(K,) p of no difference between label and reference.

    Where both have enough firing units for an interval, the test on the interval's own scale. A label that hardly
    fires, and more seldom than its reference, is judged by its rarity; else the score test. Sizes: docs/intervals.md.
    """
    many = [side.n_firing_units >= MIN_FIRING_UNITS for side in (firing.label, firing.reference)]
    with np.errstate(invalid="ignore", divide="ignore"):
        seldom = ~many[0] & many[1] & (intervals.mean(firing.label) < intervals.mean(firing.reference))
        silent = firing.label.s == 0
        p = np.full(len(seldom), np.nan)
        pick = np.flatnonzero(many[0] & many[1])
        p[pick] = intervals.ratio_test(*_sides(cut(strength, pick)))
        pick = np.flatnonzero(~(many[0] & many[1]) & ~(seldom & silent))
        p[pick] = intervals.score_test(*_sides(cut(strength, pick)))
        pick = np.flatnonzero(seldom)
        rare = intervals.rare_firing_p(*_sides(cut(firing, pick))[:2])
        p[pick] = np.where(silent[pick], rare, np.fmax(p[pick], rare))
    return p


def _sides(moments: Moments) -> tuple[Arm, Arm, Cross]:
    return moments.label, moments.reference, moments.cross


def cut(moments: Moments, pick: Ints) -> Moments:
    """The moments of some labels."""
    return Moments(
        label=_picked(moments.label, pick),
        reference=_picked(moments.reference, pick),
        cross=_picked(moments.cross, pick),
    )


def tested(
    strength: Moments, firing: Moments, largest: float, min_n: int, first_is_reference: bool
) -> Effects:
    """Estimates of all labels, with q over those that can be compared."""
    compared = _compared(strength, min_n, first_is_reference)
    p = np.where(compared, p_values(strength, firing), np.nan)
    return Effects(strength, firing, largest, min_n, first_is_reference, benjamini_hochberg(p))
