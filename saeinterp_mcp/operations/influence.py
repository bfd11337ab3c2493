"""Every token, or every family, present against absent: what `token_influence` shows and others choose from."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, zip_longest
from typing import Literal, NamedTuple

import numpy as np

from saeinterp_mcp.analysis.effects import Q_CUT, Effects, cut, enough, p_values
from saeinterp_mcp.analysis.firing import region_of
from saeinterp_mcp.analysis.intervals import benjamini_hochberg
from saeinterp_mcp.analysis.label_sums import firing_units, label_sums
from saeinterp_mcp.analysis.moments import Moments, count_labels, moments_of
from saeinterp_mcp.analysis.roles import (
    TAIL_MARKER_COVERAGE,
    Difference,
    RegionRows,
    Role,
    among,
    mean_difference,
    p_when_firing,
    rate_difference,
    roles,
    share_moments,
    surest,
)
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.operations.effects import presence_moments
from saeinterp_mcp.operations.slicing import Slice
from saeinterp_mcp.store.base import Bools, Floats, Ints
from saeinterp_mcp.store.layout import REGIONS

By = Literal["token", "family"]
Region = Literal["all", "core", "tail"]


@dataclass(frozen=True)
class RegionSlice(Slice):
    """A slice whose quantity is being in a region: 1 there, 0 elsewhere."""

    region: str = "core"

    @cached_property
    def firing(self) -> tuple[Ints, Floats]:
        """(rows, ones) of the region."""
        whole = Slice(self.store, self.feature, self.split, self.scoping, self.mask)
        inside = rows_of_region(whole, self.region)
        if inside is None:
            raise BadInput(
                f"feature {self.feature} has no regions: it fires under 20 times in the explain split, so its "
                "effective maximum is unknown; ask with region all"
            )
        return inside, np.ones(len(inside))

    @cached_property
    def stored_sums(self) -> None:
        """None: sums are stored of activations."""
        return

    @cached_property
    def largest(self) -> float:
        """1."""
        return 1.0


def rows_of_region(part: Slice, region: str) -> Ints | None:
    """Rows of the slice in a region; None where the feature has none."""
    rows, values = part.firing
    maximum = float(part.store.per_feature("stats/effective_max", part.feature))
    if not np.isfinite(maximum):
        return None
    return np.asarray(rows[region_of(values, maximum) == REGIONS.index(region)])


def _moments(part: Slice, by: By) -> tuple[Moments, Moments]:
    return (
        part.labels("tokens").moments()
        if by == "token"
        else presence_moments(part, list(part.store.families))
    )


def _moments_when_firing(part: Slice, by: By) -> tuple[Moments, Moments]:
    """The same among firing rows alone, where everything fires; what it costs does not depend on the silent ones."""
    rows, values = part.firing
    unit = part.firing_units.index
    n_rows = np.bincount(unit)
    entry, label = _carried_by_rows(part, rows, by)
    k = len(part.store.tokens) if by == "token" else len(part.store.families)
    counts = count_labels(unit[entry], label, n_rows, k, "rest")
    firing = firing_units(unit, values, n_rows)
    first = np.searchsorted(entry, np.arange(len(rows) + 1))
    return moments_of(counts, label_sums(counts, firing, label, first), firing.totals)


def _carried_by_rows(part: Slice, rows: Ints, by: By) -> tuple[Ints, Ints]:
    """(index into `rows`, token or family) of what rows carry, row by row."""
    if by == "token":
        return part.labels("tokens").of_rows(rows)
    codes = [part.labels(f"family.{name}").labels_of(rows)[0] > 0 for name in part.store.families]
    entry, label = np.nonzero(np.stack(codes, 1))
    return entry, label


def _carried(part: Slice, rows: Ints, by: By) -> RegionRows:
    entry, label = _carried_by_rows(part, rows, by)
    return RegionRows(part.store.row_unit[rows].astype(np.int64), entry, label)


class Coverage(NamedTuple):
    """Shares of core rows and tail rows that carry each of K labels; NaN where there are too few rows."""

    n_core: int
    n_tail: int
    core: Floats
    tail: Floats
    q: Floats
    """Of no difference between the two."""
    marks_tail: Bools
    """In the tail surely more often than in the core, where under 30 % of rows carry it."""
    warnings: list[str]


def coverage_of(part: Slice, by: By, compared: Ints, k: int, min_n: int) -> Coverage | None:
    """Core and tail of the slice; None for a feature without regions."""
    core, tail = (rows_of_region(part, name) for name in ("core", "tail"))
    if core is None or tail is None:
        return None
    held = [_carried(part, rows, by) for rows in (core, tail)]
    n_units = [len(np.unique(region.unit)) for region in held]
    shown = [
        bool(enough(np.array(len(region.unit)), np.array(units), min_n))
        for region, units in zip(held, n_units, strict=True)
    ]
    shares = [h.shares(k) if s else np.full(k, np.nan) for h, s in zip(held, shown, strict=True)]
    warnings = [
        f"coverage_{name} is null: {len(region.unit)} {name} rows in {units} units, "
        f"{min_n} and {min(min_n, 10)} needed (min_n)"
        for name, region, units, here in zip(("core", "tail"), held, n_units, shown, strict=True)
        if not here
    ]
    q, marks = np.full(k, np.nan), np.zeros(k, bool)
    if all(shown) and k:
        moments = share_moments(held[1], held[0], k)
        ours = cut(moments, compared)
        q[compared] = benjamini_hochberg(p_values(ours, ours))
        asked = np.flatnonzero((q < Q_CUT) & (shares[0] < TAIL_MARKER_COVERAGE))
        marks[asked] = rate_difference(cut(moments, asked)).sign > 0
    return Coverage(len(core), len(tail), shares[0], shares[1], q, marks, warnings)


@dataclass(frozen=True)
class Influence:
    """Estimates of each of K tokens or families beside the rows without it."""

    effects: Effects
    """Its q is of the surest of the tests of a row."""
    effect: Difference
    """Of the means, or of the shares in a region."""
    rate: Difference
    strength: Difference | None
    """Where it fires; None with a region."""
    coverage: Coverage | None
    roles: list[Role | None]

    def acts_on(self, k: int) -> str | None:
        """`rate` and `strength`, with + or -, where their interval is off zero; None without a role of its own."""
        if self.strength is None or self.roles[k] in (None, "neutral"):
            return None
        parts = (("rate", self.rate), ("strength", self.strength))
        signs = [(name, int(difference.sign[k])) for name, difference in parts]
        return " ".join(f"{name}{'+' if sign > 0 else '-'}" for name, sign in signs if sign) or None

    def reason(self, k: int) -> str | None:
        """Why an estimate is null."""
        if np.isnan(self.effect.low[k]):
            return self.effects.reason(k)
        return "q: the feature never fires here" if np.isnan(self.effects.q[k]) else None

    def order(self) -> Ints:
        """Enhancers and suppressors by turns, surest first; then neutral ones, by q; then what was not compared."""
        low, high = np.nan_to_num(self.effect.low), np.nan_to_num(self.effect.high)
        sure = np.where(low > 0, low, np.where(high < 0, -high, 0.0))
        size = np.abs(np.nan_to_num(self.effect.value))
        q = np.nan_to_num(self.effects.q, nan=2.0)
        best = np.lexsort((-self.effects.n, -size, q, -sure)).tolist()
        up = [k for k in best if self.roles[k] in ("enhancer", "tail_marker")]
        down = [k for k in best if self.roles[k] == "suppressor"]
        turns = [k for k in chain(*zip_longest(up, down)) if k is not None]
        rest = [k for k in best if self.roles[k] == "neutral"]
        rest += [k for k in best if self.roles[k] is None]
        return np.array([*turns, *rest], np.int64)


def influence_of(part: Slice, by: By, region: Region, min_n: int) -> Influence:
    """Every token of the vocabulary, or every family, present against absent in a slice."""
    asked = part
    if region != "all":
        asked = RegionSlice(part.store, part.feature, part.split, part.scoping, part.mask, region=region)
    strength, firing = _moments(asked, by)
    k = len(strength.label.n)
    effects = Effects(strength, firing, asked.largest, min_n, False, np.full(k, np.nan))
    pick = np.flatnonzero(effects.compared)
    strength, firing = cut(strength, pick), cut(firing, pick)
    rate = rate_difference(firing)
    p, effect = [p_values(firing, firing)], rate
    when_firing: Difference | None = None
    if region == "all":
        effect = mean_difference(strength, part.largest)
        where_it_fires = [cut(moments, pick) for moments in _moments_when_firing(part, by)]
        when_firing = mean_difference(where_it_fires[0], part.largest)
        p += [p_values(strength, firing), p_when_firing(*where_it_fires)]
    q = among(benjamini_hochberg(surest(p)), pick, k)
    coverage = coverage_of(part, by, pick, k, min_n)
    effect, rate = effect.among(pick, k), rate.among(pick, k)
    signs = [effect.sign, rate.sign]
    if when_firing:
        when_firing = when_firing.among(pick, k)
        signs.append(when_firing.sign)
    marks = coverage.marks_tail if coverage else np.zeros(k, bool)
    return Influence(replace(effects, q=q), effect, rate, when_firing, coverage, roles(q, signs, marks))
