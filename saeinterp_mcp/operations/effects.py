"""Tables of labels beside their reference: what sweeps over levels, groups and tokens have in common."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.intervals import (
    MIN_FIRING_UNITS,
    benjamini_hochberg,
    difference,
    log_odds_shrunken,
    mean_interval,
    rate_interval,
)
from saeinterp_mcp.operations.slicing import Labels, Slice

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Effects:
    """Estimates for each of K labels; NaN is null."""

    n: NDArray[np.int64]
    n_units: NDArray[np.int64]
    n_firing: NDArray[np.int64]
    n_firing_units: NDArray[np.int64]
    shown: Bools
    """Enough rows and units for an estimate."""
    firing_rate: Floats
    rate_low: Floats
    rate_high: Floats
    mean: Floats
    ci_low: Floats
    ci_high: Floats
    mean_when_firing: Floats
    effect: Floats
    effect_low: Floats
    effect_high: Floats
    log_odds: Floats
    rate_ratio: Floats
    p: Floats
    """Of no difference to the reference; NaN where nothing was tested."""

    @cached_property
    def q(self) -> Floats:
        """Benjamini-Hochberg over all rows tested."""
        return benjamini_hochberg(self.p)

    def reason(self, k: int, min_n: int) -> str | None:
        """Why estimates of a label are null."""
        if self.n[k] == 0:
            return "never observed"
        if not self.shown[k]:
            return f"fewer than {min_n} rows or {min(min_n, 10)} units"
        if np.isnan(self.ci_low[k]):
            fires = int(self.n_firing_units[k])
            return "fewer than 2 units" if self.n_units[k] < 2 else f"interval: {fires} firing units, {MIN_FIRING_UNITS} needed"
        if np.isnan(self.effect[k]):
            return f"effect: the reference has fewer than {min_n} rows or {min(min_n, 10)} units"
        if np.isnan(self.effect_low[k]):
            return f"effect interval: the reference has under {MIN_FIRING_UNITS} firing units"
        return None


def enough(n: NDArray[np.int64], n_units: NDArray[np.int64], min_n: int) -> Bools:
    """The rule of design 5.4: n >= min_n and n_units >= min(min_n, 10)."""
    return (n >= min_n) & (n_units >= min(min_n, 10))


def effects_of(labels: Labels, min_n: int) -> Effects:
    """Every label of a slice against its reference (level 0, or all the rest)."""
    part: Slice = labels.slice
    strength, firing = labels.moments("activation"), labels.moments("firing")
    arm, rest = strength.label, strength.reference
    n, n_units = arm.n.astype(np.int64), arm.n_units.astype(np.int64)
    shown = enough(n, n_units, min_n)
    rest_shown = enough(rest.n.astype(np.int64), rest.n_units.astype(np.int64), min_n)
    largest = np.full(len(n), part.largest)
    with np.errstate(invalid="ignore", divide="ignore"):
        ci_low, ci_high = mean_interval(arm, largest)
        rate_low, rate_high = rate_interval(firing.label)
        effect, effect_low, effect_high, p = difference(arm, rest, strength.cross, largest)
        log_odds, rate_ratio = log_odds_shrunken(firing.label.s, firing.label.n, firing.reference.s, firing.reference.n)
        mean = arm.s / arm.n
        rate = firing.label.s / firing.label.n
        when_firing = arm.s / firing.label.s
    compared = shown & rest_shown
    if labels.reference == "level_0":
        compared[0] = False

    def given(values: Floats, where: Bools) -> Floats:
        return np.where(where, values, np.nan)

    return Effects(
        n=n,
        n_units=n_units,
        n_firing=strength.n_firing,
        n_firing_units=arm.n_firing_units.astype(np.int64),
        shown=shown,
        firing_rate=given(rate, shown),
        rate_low=given(rate_low, shown),
        rate_high=given(rate_high, shown),
        mean=given(mean, shown),
        ci_low=given(ci_low, shown),
        ci_high=given(ci_high, shown),
        mean_when_firing=given(when_firing, shown & (strength.n_firing > 0)),
        effect=given(effect, compared),
        effect_low=given(effect_low, compared),
        effect_high=given(effect_high, compared),
        log_odds=given(log_odds, compared),
        rate_ratio=given(rate_ratio, compared),
        p=given(p, compared),
    )
