"""Which attribute accounts for a group that stands out, and which member for an attribute value (the kit question)."""

from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from saeinterp_mcp.analysis.effects import Effects
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.analysis.two_arms import ValueCounts, compare_values
from saeinterp_mcp.errors import UnknownName, nearest
from saeinterp_mcp.operations.base import Table, number, table_rows
from saeinterp_mcp.operations.effects import effects_of
from saeinterp_mcp.operations.slicing import Labels, Slice
from saeinterp_mcp.store.base import Bools, Store
from saeinterp_mcp.store.labels import stored_counts
from saeinterp_mcp.store.manifest import Split

DOMINANT_SHARE = 0.5
"""Share of core rows above which a value is dominant, whatever its effect."""
SHARE_OF_PEERS = 0.5
"""Share of the dominant value's effect that its peers must show without it."""


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
    beyond_peers: float | None
    """Mean of the dominant value less that of its peers: about 0 where the attribute accounts for all of it."""
    beyond_low: float | None
    beyond_high: float | None


class CarriedBy(BaseModel):
    """A single member of an attribute value without which its effect is gone."""

    model_config = ConfigDict(extra="forbid")
    value: str
    """The dominant attribute value."""
    member: str
    effect_without: float | None
    """Effect of the attribute value when the member's rows are left out."""
    low: float | None
    high: float | None
    n: int


KIT_COLUMNS = [
    "attribute",
    "attribute_value",
    "n_peers",
    "n",
    "effect_of_peers",
    "low",
    "high",
    "beyond_peers",
    "beyond_low",
    "beyond_high",
    "accounts",
]


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


def dominant_value(effects: Effects, core: Any) -> int | None:
    """The value with most of the core rows, or else the one whose effect is surely above 0 and surest."""
    if np.isfinite(core).any():
        most = int(np.nanargmax(core))
        if core[most] > DOMINANT_SHARE and np.isfinite(effects.effect[most]):
            return most
    best = int(np.argmax(effects.sure_effect))
    return best if effects.sure_effect[best] > 0 and effects.q[best] < 0.05 else None


class GroupArms:
    """Some values of a group against some others, in a slice."""

    def __init__(self, part: Slice, group: str, min_n: int) -> None:
        self.part, self.min_n = part, min_n
        labels = part.labels(f"group.{group}")
        if part.mask is None:
            self.known = _whole_values(part.store, group, part.split)
        else:
            self.known = ValueCounts(labels.counts)
        self.value = labels.labels_of(part.firing[0])[0].astype(np.int64)

    def compare(self, some: Bools, others: Bools) -> Effects:
        """One estimate; rows with neither are left out."""
        part = self.part
        return compare_values(
            self.known, part.firing_units, self.value, some, others, part.largest, self.min_n
        )


def explained_by(
    part: Slice, group: str, dominant: int, own: Effects, min_n: int
) -> tuple[ExplainedBy | None, Table]:
    """Does an attribute account for a dominant value? Its peers, without it, must show half of its effect.

    The table has every attribute that was tried; `explained_by` is the one whose peers show most.
    """
    info, arms = part.store.group(group), GroupArms(part, group, min_n)
    it = np.arange(len(info.values)) == dominant
    rows: list[list[Any]] = []
    for attribute, column in info.attributes.items():
        same = np.array([value == column[dominant] for value in column])
        if same.sum() < 2:
            continue
        peers, beyond = arms.compare(same & ~it, ~same), arms.compare(it, same & ~it)
        accounts = peers.effect_low[0] > 0 and peers.effect[0] >= SHARE_OF_PEERS * own.effect[dominant]
        rows.append(
            [
                attribute,
                visible_token(column[dominant]),
                int(same.sum()) - 1,
                int(peers.n[0]),
                *(peers.effect[0], peers.effect_low[0], peers.effect_high[0]),
                *(beyond.effect[0], beyond.effect_low[0], beyond.effect_high[0]),
                bool(accounts),
            ]
        )
    table = Table(columns=KIT_COLUMNS, rows=table_rows(*zip(*rows, strict=True)) if rows else [])
    accounting = [row for row in rows if row[-1]]
    if not accounting:
        return None, table
    attribute, value, _, n, *numbers, _ = max(accounting, key=lambda row: float(row[4]))
    names = ("effect_of_peers", "low", "high", "beyond_peers", "beyond_low", "beyond_high")
    found = {name: number(v) for name, v in zip(names, numbers, strict=True)}
    name = visible_token(info.values[dominant])
    return ExplainedBy(value=name, attribute=attribute, attribute_value=value, n=n, **found), table


def carried_by(part: Slice, labels: Labels, group: str, dominant: int, min_n: int) -> CarriedBy | None:
    """Is a dominant attribute value one member's doing? Without it, less than half of the effect is left.

    The member is the one of largest sure effect among the value's members.
    """
    store, attribute = part.store, labels.label_set.split(".", 2)[2]
    info = store.group(group)
    members = np.array([value == labels.names[dominant] for value in info.attributes[attribute]])
    if members.sum() < 2:
        return None
    own = effects_of(labels, min_n)
    of_members = effects_of(part.labels(f"group.{group}"), min_n)
    sure = np.where(members, of_members.sure_effect, -np.inf)
    member = int(np.argmax(sure))
    if sure[member] <= 0:
        return None
    it = np.arange(len(members)) == member
    without = GroupArms(part, group, min_n).compare(members & ~it, ~members)
    effect = float(without.effect[0])
    if not np.isfinite(effect) or effect >= SHARE_OF_PEERS * own.effect[dominant]:
        return None
    return CarriedBy(
        value=visible_token(str(labels.names[dominant])),
        member=visible_token(info.values[member]),
        effect_without=number(effect),
        low=number(without.effect_low[0]),
        high=number(without.effect_high[0]),
        n=int(without.n[0]),
    )


@lru_cache(maxsize=16)
def _whole_values(store: Store, group: str, split: Split) -> ValueCounts:
    return ValueCounts(stored_counts(store, f"group.{group}", split))
