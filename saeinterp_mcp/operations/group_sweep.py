"""In which groups does the feature fire more than their share?"""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from saeinterp_mcp.analysis.effects import Effects
from saeinterp_mcp.analysis.firing import region_of
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.operations.adjustment import Adjustment, Confounding, Target, strongest_families
from saeinterp_mcp.operations.base import (
    Cursor,
    Feature,
    Given,
    Limit,
    MinN,
    ScopeArgument,
    Seed,
    SplitArgument,
    Table,
    TableResult,
    Where,
    Window,
    digits,
    page,
    percent,
    sealed,
    table_rows,
)
from saeinterp_mcp.operations.effects import effects_of
from saeinterp_mcp.operations.explained import (
    CarriedBy,
    ExplainedBy,
    carried_by,
    dominant_value,
    explained_by,
    resolve_group,
)
from saeinterp_mcp.operations.slicing import Labels, Scoping, Slice, make_slice
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import REGIONS

N_FAMILIES = 3
"""Families, of largest effect, that the dominant value is stratified by."""


class GroupConfounding(Confounding):
    """Of the dominant value."""

    value: str


class GroupSweep(TableResult):
    """Values of a group, each beside all the others."""

    by: str
    given: str | None
    n_values: int
    explained_by: ExplainedBy | None
    """Groups: the attribute that accounts for the dominant value, if one does."""
    attributes: Table | None
    """Groups with attributes: every attribute of the dominant value, with its peers' effect."""
    carried_by: CarriedBy | None
    """Attributes: the single member that the dominant value owes its effect to, if one does."""
    confounding: GroupConfounding | None
    """What takes most of the dominant value's effect away: a family, another group, another attribute."""


COLUMNS = [
    "value",
    "n",
    "n_units",
    "n_firing",
    "firing_rate",
    "mean",
    "ci_low",
    "ci_high",
    "effect",
    "effect_low",
    "effect_high",
    "share_core",
    "share_tail",
    "base_share",
    "rate_ratio",
    "q",
    "reason",
]


def group_sweep(
    store: Store,
    feature: Feature,
    by: Annotated[str, Field(description="Group or attribute, e.g. module, weapon, class")],
    given: Given = None,
    where: Where = None,
    scope: ScopeArgument = "at",
    window: Window = 16,
    min_n: MinN = 20,
    limit: Limit = 15,
    cursor: Cursor = None,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> GroupSweep:
    """Firing rate and mean activation by value of a group (or attribute), each value against all others.

    Beside each its share of core rows, tail rows and population; surest effects first. Of the dominant value: what
    explains it (attribute, family, another group).
    """
    store.need_full_coverage("group_sweep")
    label_set, group = resolve_group(store, by)
    part = make_slice(store, feature, split, where, Scoping(scope, window), given)
    labels = part.labels(label_set)
    effects = effects_of(labels, min_n)
    share = {name: _share_of_region(labels, name) for name in ("core", "tail")}
    # what was compared, surest first, then the rest by size
    compared = effects.ranked()
    rest = np.setdiff1d(np.argsort(-effects.n, kind="stable"), compared)
    order = np.concatenate([compared, rest[np.argsort(-effects.n[rest], kind="stable")]])
    arguments: dict[str, Any] = {
        "feature": feature,
        "by": by,
        "given": given,
        "where": where,
        "scope": scope,
        "window": window,
        "min_n": min_n,
        "split": split,
        "seed": seed,
    }
    shown, next_cursor, more = page(order.tolist(), limit, cursor, store, ["group_sweep", arguments])
    pick = np.array(shown, np.int64)
    few = effects.only(pick)
    warnings = list(part.warnings)
    about = _Dominant(part, label_set, group, effects, share["core"], min_n)
    warnings += about.warnings()
    if len(effects.n) == 1:
        warnings.append(f"{by} has a single value, so there is nothing to compare")
    result = GroupSweep(
        operation="group_sweep",
        store=store.name,
        basis="observed",
        summary=_summary(by, labels, effects, share["core"], order),
        warnings=warnings,
        seed=seed,
        split=split,
        where=where,
        feature=feature,
        by=by,
        given=given,
        n_values=len(effects.n),
        columns=COLUMNS,
        rows=table_rows(
            [visible_token(str(labels.names[k])) for k in shown],
            *(getattr(few, name) for name in COLUMNS[1:11]),
            share["core"][pick],
            share["tail"][pick],
            few.n / max(part.n_rows, 1),
            few.rate_ratio,
            few.q,
            [few.reason(k) for k in range(len(shown))],
        ),
        explained_by=about.explained,
        attributes=about.attributes,
        carried_by=about.carried,
        confounding=about.confounding,
        next_cursor=next_cursor,
        more=more,
    )
    return sealed(result, store, {**arguments, "limit": limit, "cursor": cursor})


class _Dominant:
    """The value that stands out, and what else could stand behind it."""

    def __init__(
        self, part: Slice, label_set: str, group: str, effects: Effects, core: Any, min_n: int
    ) -> None:
        self.explained: ExplainedBy | None = None
        self.attributes: Table | None = None
        self.carried: CarriedBy | None = None
        self.confounding: GroupConfounding | None = None
        k = dominant_value(effects, core)
        if k is None:
            return
        labels = part.labels(label_set)
        if label_set.count(".") == 1:
            if part.store.group(group).attributes:
                self.explained, self.attributes = explained_by(part, group, k, effects, min_n)
        else:
            self.carried = carried_by(part, labels, group, k, min_n)
        sure = bool(effects.sure_effect[k] != 0)
        adjustment = Adjustment(part, Target(label_set, k), float(effects.effect[k]), sure)
        if found := adjustment.confounding(_stratifiers(part, label_set, group)):
            value = visible_token(str(labels.names[k]))
            self.confounding = GroupConfounding(value=value, **found.model_dump())

    def warnings(self) -> list[str]:
        """What a reader must know."""
        found = []
        if self.explained:
            found.append(
                f"the dominant value may stand for its {self.explained.attribute} (explained_by): "
                "the other values that share it show the effect too"
            )
        if self.carried:
            found.append("the dominant value's effect is that of a single member (carried_by)")
        if self.confounding:
            found += self.confounding.warnings()
        return found


def _stratifiers(part: Slice, label_set: str, group: str) -> list[str]:
    """What a value may be confounded with: the strongest families, other groups, other attributes of its group."""
    groups = [f"group.{name}" for name in part.store.groups if name != group]
    if label_set.count(".") == 2:
        paths = [f"group.{group}.{name}" for name in part.store.group(group).attributes]
        groups += [path for path in paths if path != label_set]
    return [*strongest_families(part, list(part.store.families), N_FAMILIES), *groups]


def _share_of_region(labels: Labels, region: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Share of each label among the slice's firing rows of a region; NaN when there are none."""
    part = labels.slice
    rows, values = part.firing
    maximum = float(part.store.per_feature("stats/effective_max", part.feature))
    if not np.isfinite(maximum):
        return np.full(len(labels.names), np.nan)
    inside = rows[region_of(values, maximum) == REGIONS.index(region)]
    if not len(inside):
        return np.full(len(labels.names), np.nan)
    _, label = labels.of_rows(inside)
    return np.bincount(label, minlength=len(labels.names)) / len(inside)


def _summary(by: str, labels: Labels, effects: Effects, core: Any, order: Any) -> str:
    top = next((int(k) for k in order if not np.isnan(effects.effect[k])), None)
    if top is None:
        return f"No value of {by} has enough rows for an estimate."
    one = effects.only(np.array([top]))
    share = f", {percent(core[top])} of core rows" if np.isfinite(core[top]) else ""
    return (
        f"The value of {by} that differs most surely (first row) has mean {digits(one.mean[0])} "
        f"[{digits(one.ci_low[0])}, {digits(one.ci_high[0])}], {digits(one.effect[0])} "
        f"[{digits(one.effect_low[0])}, {digits(one.effect_high[0])}] against all others "
        f"(n {one.n[0]} in {one.n_units[0]} units{share}; q {digits(one.q[0], 2)})."
    )
