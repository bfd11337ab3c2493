"""Does an effect survive when something else is held still? One kind of rows against the rest, within strata."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from pydantic import BaseModel, ConfigDict

from saeinterp_mcp.analysis.confounding import Strata, StratifiedEffect, strata_of, stratified_difference
from saeinterp_mcp.analysis.effects import Q_CUT
from saeinterp_mcp.analysis.moments import count_labels
from saeinterp_mcp.analysis.two_arms import ValueCounts
from saeinterp_mcp.operations.base import number, percent
from saeinterp_mcp.operations.effects import presence_effects
from saeinterp_mcp.operations.slicing import Scoping, Slice
from saeinterp_mcp.store.base import Ints, Store
from saeinterp_mcp.store.manifest import Split

SURVIVES = 0.5
"""Share of a crude effect that must be left within strata, or the answer warns (design 5.6)."""


class Confounding(BaseModel):
    """The stratum that takes most of the crude effect away."""

    model_config = ConfigDict(extra="forbid")
    group: str
    crude: float | None
    adjusted: float | None
    share_surviving: float | None
    """adjusted / crude; null when the crude effect itself may be zero."""

    def warnings(self) -> list[str]:
        """What a reader must know."""
        if self.share_surviving is None or self.share_surviving >= SURVIVES:
            return []
        share = percent(self.share_surviving)
        return [f"confounded: held within {self.group}, {share} of the crude effect survives"]


@dataclass(frozen=True)
class Target:
    """The rows whose effect is asked for: with any level of a family, or with one value of a group or attribute."""

    label_set: str
    """`presence.FAMILY`, `group.NAME` or `group.NAME.ATTRIBUTE`."""
    value: int
    """Which of its labels; 1 for any level of a family."""


class Adjustment:
    """Rows of a target against all others of the slice, within strata."""

    def __init__(self, part: Slice, target: Target, crude: float, crude_is_sure: bool) -> None:
        self.part, self.target, self.crude, self.crude_is_sure = part, target, crude, crude_is_sure
        self._found: dict[str, StratifiedEffect] = {}

    def within(self, stratifier: str) -> StratifiedEffect:
        """Adjusted by the labels `group.NAME`, `group.NAME.ATTRIBUTE` or `family.NAME`."""
        if stratifier not in self._found:
            self._found[stratifier] = self._within(stratifier)
        return self._found[stratifier]

    def _within(self, stratifier: str) -> StratifiedEffect:
        part = self.part
        n_values = len(part.labels(self.target.label_set).names)
        if part.mask is None:
            strata = _whole_strata(part.store, self.target, stratifier, part.split, part.scoping)
        else:
            known = _count_cells(part, self.target.label_set, stratifier, np.flatnonzero(part.mask))
            strata = strata_of(known, _is_target(self.target, n_values, len(known.counts.n)))
        rows, values = part.firing
        unit = part.firing_units.units[part.firing_units.index]
        cells = _cells(part, self.target.label_set, stratifier, rows)
        cell = _is_target(self.target, n_values, len(strata.cell_of))[cells]
        return stratified_difference(strata, unit, cell, values, part.largest)

    def confounding(self, stratifiers: Sequence[str]) -> Confounding | None:
        """Whichever of some strata takes most of the effect away; None where nothing can be said."""
        if not np.isfinite(self.crude):
            return None
        found = {name: self.within(name).value for name in stratifiers}
        usable = {name: value for name, value in found.items() if np.isfinite(value)}
        if not usable:
            return None
        name = min(usable, key=lambda c: usable[c] * np.sign(self.crude))
        share = usable[name] / self.crude if self.crude_is_sure else None
        return Confounding(
            group=name.removeprefix("group.").replace("family.", "family:"),
            crude=number(self.crude),
            adjusted=number(usable[name]),
            share_surviving=None if share is None else number(share),
        )


def strongest_families(part: Slice, names: Sequence[str], n: int) -> list[str]:
    """Label sets of the families of largest effect, among those whose own effect is beyond chance (q < 0.05)."""
    if not names:
        return []
    presence = presence_effects(part, names, 2)
    effect = np.where(presence.q < Q_CUT, np.abs(presence.effect), np.nan)
    order = np.argsort(-effect, kind="stable")
    return [f"family.{names[k]}" for k in order[:n] if np.isfinite(effect[k])]


def _cells(part: Slice, label_set: str, stratifier: str, rows: Ints) -> Ints:
    """Stratum times values, plus value."""
    labels = part.labels(label_set)
    value, _ = labels.labels_of(rows)
    stratum, _ = part.labels(stratifier).labels_of(rows)
    return np.asarray(stratum.astype(np.int64) * len(labels.names) + value)


def _is_target(target: Target, n_values: int, n_cells: int) -> Ints:
    """(cells,) 2 x stratum + whether it is the target."""
    stratum, value = np.divmod(np.arange(n_cells), n_values)
    return np.asarray(2 * stratum + (value == target.value))


def _count_cells(part: Slice, label_set: str, stratifier: str, rows: Ints) -> ValueCounts:
    n_cells = len(part.labels(label_set).names) * len(part.labels(stratifier).names)
    unit = part.store.row_unit[rows].astype(np.int64)
    cells = _cells(part, label_set, stratifier, rows)
    return ValueCounts(count_labels(unit, cells, part.unit_rows, n_cells, "rest"))


@lru_cache(maxsize=48)
def _whole_cells(
    store: Store, label_set: str, stratifier: str, split: Split, scoping: Scoping
) -> ValueCounts:
    part = Slice(store, 0, split, scoping, None)
    return _count_cells(part, label_set, stratifier, np.arange(store.n_rows(split)))


@lru_cache(maxsize=512)
def _whole_strata(store: Store, target: Target, stratifier: str, split: Split, scoping: Scoping) -> Strata:
    """Of a target; it shares what is long with every other value of its group."""
    known = _whole_cells(store, target.label_set, stratifier, split, scoping)
    n_values = len(Slice(store, 0, split, scoping, None).labels(target.label_set).names)
    return strata_of(known, _is_target(target, n_values, len(known.counts.n)))
