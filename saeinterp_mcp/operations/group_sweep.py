"""In which groups does the feature fire more than their share?"""

from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from saeinterp_mcp.analysis.effects import Effects
from saeinterp_mcp.analysis.firing import region_of
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.errors import UnknownName, nearest
from saeinterp_mcp.operations.base import (
    Cursor,
    Feature,
    Limit,
    MinN,
    ScopeArgument,
    Seed,
    SplitArgument,
    TableResult,
    Where,
    Window,
    digits,
    number,
    page,
    percent,
    sealed,
    table_rows,
)
from saeinterp_mcp.operations.effects import effects_of
from saeinterp_mcp.operations.slicing import Labels, Scoping, Slice, make_slice
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import REGIONS

DOMINANT_SHARE = 0.5


class ExplainedBy(BaseModel):
    """An attribute whose other members show the dominant value's effect too."""

    model_config = ConfigDict(extra="forbid")
    value: str
    """The dominant value."""
    attribute: str
    attribute_value: str
    effect_of_peers: float | None
    """Mean of the other values that share the attribute, less the mean of all values that do not."""
    low: float | None
    high: float | None
    n: int


class GroupSweep(TableResult):
    """Values of a group, each beside all the others."""

    by: str
    n_values: int
    explained_by: ExplainedBy | None


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

    Beside each: its share of core rows, of tail rows and of the population. Surest effects first.
    """
    store.need_full_coverage("group_sweep")
    label_set, group = resolve_group(store, by)
    part = make_slice(store, feature, split, where, Scoping(scope, window))
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
    explained = (
        _explained_by(part, group, labels, share["core"], min_n) if label_set.count(".") == 1 else None
    )
    if explained:
        warnings.append(
            f"the dominant value may stand for its {explained.attribute} (explained_by): "
            "the other values that share it show the effect too"
        )
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
        explained_by=explained,
        next_cursor=next_cursor,
        more=more,
    )
    return sealed(result, store, {**arguments, "limit": limit, "cursor": cursor})


def resolve_group(store: Store, by: str) -> tuple[str, str]:
    """(label set, group) of a group, of `group.attribute`, or of an attribute's bare name.

    Raises:
        UnknownName: no such group or attribute, or several groups have the attribute.
    """
    if by in store.groups:
        return f"group.{by}", by
    paths = {f"{g.name}.{a}": g.name for g in store.manifest.groups for a in g.attributes}
    if by in paths:
        return f"group.{by}", paths[by]
    owners = [path for path in paths if path.split(".", 1)[1] == by]
    if len(owners) == 1:
        return f"group.{owners[0]}", paths[owners[0]]
    if owners:
        raise UnknownName(f"{by!r} is an attribute of several groups; say {' or '.join(owners)}")
    known = [*store.groups, *paths]
    raise UnknownName(f"no group or attribute {by!r} in store {store.name!r}; {nearest(by, known)}")


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


def _explained_by(part: Slice, group: str, labels: Labels, core: Any, min_n: int) -> ExplainedBy | None:
    """Does an attribute account for a dominant value? Its peers, without it, must show half of its effect."""
    if not np.isfinite(core).any():
        return None
    dominant = int(np.nanargmax(core))
    own = effects_of(labels, min_n)
    if core[dominant] <= DOMINANT_SHARE or np.isnan(own.effect[dominant]):
        return None
    info = part.store.group(group)
    codes = part.store.group_of_samples(group)[part.store.row_sample[: part.store.n_rows(part.split)]]
    others = codes != dominant
    mask = others if part.mask is None else others & part.mask
    rest = Slice(part.store, part.feature, part.split, part.scoping, mask)
    best: ExplainedBy | None = None
    for attribute, column in info.attributes.items():
        peers = rest.labels(f"group.{group}.{attribute}")
        effects = effects_of(peers, min_n)
        k = peers.names.index(column[dominant])
        effect, low = float(effects.effect[k]), float(effects.effect_low[k])
        if (
            low > 0
            and effect >= 0.5 * own.effect[dominant]
            and (best is None or effect > (best.effect_of_peers or 0))
        ):
            best = ExplainedBy(
                value=visible_token(info.values[dominant]),
                attribute=attribute,
                attribute_value=visible_token(column[dominant]),
                effect_of_peers=number(effect),
                low=number(low),
                high=number(effects.effect_high[k]),
                n=int(effects.n[k]),
            )
    return best
