"""How does activation move with the level of a family?"""

from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from saeinterp_mcp.analysis.effects import Effects
from saeinterp_mcp.analysis.trend import N_FOLDS, monotone, spearman_by_unit
from saeinterp_mcp.operations.adjustment import Adjustment, Confounding, Target, strongest_families
from saeinterp_mcp.operations.base import (
    Feature,
    Given,
    MinN,
    ScopeArgument,
    Seed,
    SplitArgument,
    TableResult,
    Where,
    Window,
    digits,
    number,
    percent,
    sealed,
    table_rows,
)
from saeinterp_mcp.operations.effects import effects_of, presence_effects
from saeinterp_mcp.operations.explained import resolve_group
from saeinterp_mcp.operations.slicing import Labels, Scoping, Slice, make_slice
from saeinterp_mcp.store.base import Ints, Store
from saeinterp_mcp.store.manifest import Split


class Baseline(BaseModel):
    """Rows of the slice with no level of the family."""

    model_config = ConfigDict(extra="forbid")
    n: int
    n_units: int
    n_firing: int
    firing_rate: float | None
    mean: float | None
    ci_low: float | None
    ci_high: float | None


class TrendResult(BaseModel):
    """Rank correlation over rows with a level, silent ones included."""

    model_config = ConfigDict(extra="forbid")
    spearman: float | None
    low: float | None
    high: float | None
    n: int
    monotone: bool | None


class Stratified(BaseModel):
    """Any level against none, within the values of a group, combined."""

    model_config = ConfigDict(extra="forbid")
    group: str
    value: float | None
    low: float | None
    high: float | None
    n_strata: int


class FamilySweep(TableResult):
    """Levels of a family beside the rows that have none."""

    family: str
    scope: str | None
    given: str | None
    baseline: Baseline
    trend: TrendResult
    stratified_effect: Stratified | None
    confounding: Confounding | None


COLUMNS = [
    "level",
    "n",
    "n_units",
    "n_firing",
    "firing_rate",
    "rate_low",
    "rate_high",
    "mean",
    "ci_low",
    "ci_high",
    "effect",
    "effect_low",
    "effect_high",
    "mean_when_firing",
    "rate_ratio",
    "q",
    "reason",
]


def family_sweep(
    store: Store,
    feature: Feature,
    family: Annotated[str, Field(description="Family to sweep")],
    scope: ScopeArgument = "at",
    window: Window = 16,
    given: Given = None,
    group: Annotated[str | None, Field(description="Group or attribute to adjust for")] = None,
    where: Where = None,
    min_n: MinN = 20,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> FamilySweep:
    """How a feature's firing rate and mean activation move with a family's level, against rows with no level.

    Looks for confounding by group and by the strongest other family.
    """
    store.need_full_coverage("family_sweep")
    info = store.family(family)
    scoping = Scoping(scope, window)
    part = make_slice(store, feature, split, where, scoping, given)
    labels = part.labels(f"family.{family}")
    effects = effects_of(labels, min_n)
    shown = slice(1, None)
    levels = np.array(info.levels)
    warnings = list(part.warnings)
    trend = _trend(labels)
    adjusted = _Adjusted(part, family, group)
    stratified, confounding = adjusted.stratified(), adjusted.confounding()
    if confounding:
        warnings += confounding.warnings()
    absent = [int(level) for level, n in zip(levels, effects.n[shown], strict=True) if n == 0]
    if absent:
        warnings.append(
            f"never observed in this slice (missing data, not zero): level {', '.join(map(str, absent[:12]))}"
        )
    result = FamilySweep(
        operation="family_sweep",
        store=store.name,
        basis="observed",
        summary=_summary(family, effects, info.levels),
        warnings=warnings,
        seed=seed,
        split=split,
        where=where,
        feature=feature,
        family=family,
        scope=scope if store.is_sequence else None,
        given=given,
        baseline=_baseline(effects),
        columns=COLUMNS,
        rows=table_rows(
            levels,
            *(getattr(effects, name)[shown] for name in COLUMNS[1:-1]),
            [effects.reason(k) for k in range(1, len(levels) + 1)],
        ),
        trend=TrendResult(
            spearman=number(trend.spearman),
            low=number(trend.low),
            high=number(trend.high),
            n=trend.n,
            monotone=monotone([number(m) for m in effects.mean[shown]]),
        ),
        stratified_effect=stratified,
        confounding=confounding,
    )
    arguments: dict[str, Any] = {
        "feature": feature,
        "family": family,
        "scope": scope,
        "window": window,
        "given": given,
        "group": group,
        "where": where,
        "min_n": min_n,
        "split": split,
        "seed": seed,
    }
    return sealed(result, store, arguments)


def _baseline(effects: Effects) -> Baseline:
    return Baseline(
        n=int(effects.n[0]),
        n_units=int(effects.n_units[0]),
        n_firing=int(effects.n_firing[0]),
        firing_rate=number(effects.firing_rate[0]),
        mean=number(effects.mean[0]),
        ci_low=number(effects.ci_low[0]),
        ci_high=number(effects.ci_high[0]),
    )


def _summary(family: str, effects: Effects, levels: tuple[int, ...]) -> str:
    known = [k for k in range(1, len(levels) + 1) if not np.isnan(effects.effect[k])]
    if not known:
        return f"No level of {family} has enough rows for an estimate beside rows without it."
    best = int(effects.ranked()[0])
    word = "more" if effects.effect[best] > 0 else "less"
    q = effects.q[best]
    return (
        f"{family}={levels[best - 1]} goes with {word} activation than no {family}: mean {digits(effects.mean[best])} "
        f"[{digits(effects.ci_low[best])}, {digits(effects.ci_high[best])}] against {digits(effects.mean[0])} "
        f"(firing rate {percent(effects.firing_rate[best])} against {percent(effects.firing_rate[0])}; "
        f"n {effects.n[best]} in {effects.n_units[best]} units, q {digits(q, 2)})."
    )


def _trend(labels: Labels) -> Any:
    """Spearman over rows with a level; folds are units in hash order, modulo 40."""
    part = labels.slice
    by_fold = (
        _whole_folds(part.store, labels.label_set, part.split, part.scoping)
        if part.mask is None
        else _folds(labels)
    )
    rows, values = part.firing
    code, _ = labels.labels_of(rows)
    with_level = np.flatnonzero(code)
    unit_of = part.firing_units
    fold = (unit_of.units % N_FOLDS)[unit_of.index[with_level]]
    return spearman_by_unit(
        by_fold.sum(0)[1:], by_fold[:, 1:], fold, code[with_level].astype(np.int64) - 1, values[with_level]
    )


def _folds(labels: Labels) -> Ints:
    """(40, levels) rows of the slice by fold of their unit and level, 0 first."""
    counts, n_levels = labels.counts, len(labels.names)
    pairs = int(counts.indptr[-1])
    unit = np.repeat(np.arange(len(counts.indptr) - 1), np.diff(counts.indptr))
    cell = unit % N_FOLDS * n_levels + counts.labels[:pairs]
    rows = np.bincount(cell.astype(np.int64), counts.pair_n[:pairs], N_FOLDS * n_levels)
    return rows.reshape(N_FOLDS, -1).astype(np.int64)


@lru_cache(maxsize=256)
def _whole_folds(store: Store, label_set: str, split: Split, scoping: Scoping) -> Ints:
    return _folds(Slice(store, 0, split, scoping, None).labels(label_set))


class _Adjusted:
    """Any level of a family against none, within strata."""

    def __init__(self, part: Slice, family: str, group: str | None) -> None:
        primary = next((g.name for g in part.store.manifest.groups if g.primary), None)
        self.group = f"group.{primary}" if group is None and primary else None
        if group is not None:
            self.group, _ = resolve_group(part.store, group)
        crude = presence_effects(part, [family], 2)
        sure = float(crude.sure_effect[0]) != 0
        self.adjustment = Adjustment(part, Target(f"presence.{family}", 1), float(crude.effect[0]), sure)
        others = [name for name in part.store.families if name != family]
        self.candidates = [*([self.group] if self.group else []), *strongest_families(part, others, 1)]

    def stratified(self) -> Stratified | None:
        """Within the group."""
        if self.group is None:
            return None
        found = self.adjustment.within(self.group)
        value, low, high = (number(v) for v in found[:3])
        return Stratified(
            group=self.group.removeprefix("group."), value=value, low=low, high=high, n_strata=found.n_strata
        )

    def confounding(self) -> Confounding | None:
        """The group, or the strongest other family, whichever takes more of the effect away."""
        return self.adjustment.confounding(self.candidates)
