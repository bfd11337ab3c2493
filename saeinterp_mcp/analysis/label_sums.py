"""What a feature adds up to for each label: the part of `moments.Moments` that depends on the feature.

A unit of one row, as most are where samples are short, is its own sum, so its rows are only counted by label. The
others need their pairs of unit and label, silent ones too. The result is (K, 14), `layout.LABEL_SUMS`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.moments import LabelCounts, UnitTotals, distinct_sorted
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.store.layout import LABEL_SUMS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
BLOCK = 2**15
"""Pairs of unit and label that are summed at a time."""
LONE = np.array([2, 2, 0, 1, 0, 1, 0, 0, 2, 2, 2, 2, 2, 2])
"""`LABEL_SUMS` of a unit of one row: v (0), v^2 (1) or 1 (2)."""
BASE = np.array([i for i, name in enumerate(LABEL_SUMS) if "base" in name])


@dataclass(frozen=True)
class FiringUnits:
    """Firing rows of a slice by unit."""

    units: Ints
    """(u,) units where the feature fires, ascending."""
    index: Ints
    """(n,) which of them each firing row belongs to, ascending."""
    unit_rows: Floats
    """(u,) rows of each of them in the slice."""
    value: Floats
    """(n,) activation of each firing row."""

    @cached_property
    def sums(self) -> tuple[Floats, Floats]:
        """(u,) sum of activations and number of firing rows of each unit."""
        n = len(self.units)
        counts = np.bincount(self.index, minlength=n).astype(np.float64)
        return np.bincount(self.index, self.value, n).astype(np.float64), counts

    @cached_property
    def totals(self) -> UnitTotals:
        """Sums over all units."""
        (s, c), n = self.sums, self.unit_rows
        sums = (s.sum(), (s * s).sum(), (s * n).sum(), c.sum(), (c * c).sum(), (c * n).sum())
        return UnitTotals(float(len(self.units)), *map(float, sums))

    @cached_property
    def is_alone(self) -> NDArray[np.bool_]:
        """(n,) whether the row is its unit's only one."""
        return np.asarray((self.unit_rows == 1)[self.index])

    @cached_property
    def alone(self) -> tuple[Ints, Floats]:
        """Those rows: index, activation."""
        at = np.flatnonzero(self.is_alone)
        return at, self.value[at]

    @cached_property
    def shared(self) -> "SharedUnits":
        """The units of several rows."""
        several = self.unit_rows > 1
        rows = np.flatnonzero(~self.is_alone)
        place = np.cumsum(several, dtype=np.int32) - 1
        s, c = self.sums
        return SharedUnits(
            self.units[several],
            self.unit_rows[several],
            s[several],
            c[several],
            rows,
            place[self.index[rows]],
            self.value[rows],
        )


class SharedUnits(NamedTuple):
    """Firing units of several rows: rows, sum of activations and firing rows of each (u,), then the firing rows."""

    units: Ints
    n: Floats
    s: Floats
    c: Floats
    rows: Ints
    """(m,) index among all firing rows."""
    unit: NDArray[np.int32]
    """(m,) index of their unit, ascending."""
    value: Floats
    """(m,) activation."""


def firing_units(unit: NDArray[Any], value: Floats, unit_rows: NDArray[Any]) -> FiringUnits:
    """Firing rows by unit.

    Args:
        unit: (n,) unit of each firing row, ascending.
        value: (n,) its activation.
        unit_rows: (U,) rows of each unit in the slice.
    """
    units, index = distinct_sorted(unit)
    units = units.astype(np.int64)
    return FiringUnits(units, index, unit_rows[units].astype(np.float64), value)


def label_sums(
    counts: LabelCounts, firing: FiringUnits, label: NDArray[Any], first: NDArray[Any] | None = None
) -> Floats:
    """(K, 14) sums by label over the units where a feature fires; silent units are in `counts`.

    Of levels (reference level 0) one more entry is the last: any level.

    Args:
        counts: labels of the slice.
        firing: the firing rows.
        label: (n,) label of each firing row; or (E,) of all, row by row, where a row may carry several or none.
        first: (n+1,) where a row's labels begin; None for one label a row.
    """
    k, is_level = len(counts.n), counts.reference == "level_0"
    assert first is None or not is_level, "a row has one level"
    sums = no_sums(counts)
    _add_lone_rows(sums, k, *_taken(label, first, firing.alone[0]), firing.alone[1])
    shared = firing.shared
    lengths = counts.indptr[shared.units + 1] - counts.indptr[shared.units]
    for units in _blocks(lengths, max(BLOCK, 8 * k)):
        part = _part(shared, units)
        entries = _entries(part, *_taken(label, first, part.rows))
        pairs = _pairs(counts, part.units, lengths[units], entries)
        whole = _Sides(part.s, part.c, part.n)
        if is_level:
            _add_levels(sums, pairs, whole)
        else:
            sums += _by_label(pairs.label, _products(pairs.own, whole.at(pairs.unit), part.c[pairs.unit]), k)
    return sums


def no_sums(counts: LabelCounts) -> Floats:
    """The sums of a feature that never fires."""
    return np.zeros((len(counts.n) + (counts.reference == "level_0"), len(LABEL_SUMS)))


class _Sides(NamedTuple):
    """Of each unit, or each pair of unit and label: activation, firing rows, rows."""

    s: Floats
    c: Floats
    n: Floats

    def at(self, index: NDArray[Any]) -> "_Sides":
        """Those of some."""
        return _Sides(self.s[index], self.c[index], self.n[index])


class _Entries(NamedTuple):
    """Firing rows of a block, once for each label: index of the unit in the block, ascending."""

    unit: NDArray[np.int32]
    label: NDArray[Any]
    value: Floats


class _Pairs(NamedTuple):
    """Pairs of unit (its index in the block) and label, by unit."""

    unit: NDArray[np.int32]
    label: NDArray[Any]
    own: _Sides


def _blocks(lengths: Ints, size: int) -> Iterator[slice]:
    """Units with about `size` pairs at a time: what a processor's cache holds."""
    ends, start = np.cumsum(lengths), 0
    while start < len(ends):
        limit = (int(ends[start - 1]) if start else 0) + size
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield slice(start, stop)
        start = stop


def _part(shared: SharedUnits, units: slice) -> SharedUnits:
    rows = slice(*np.searchsorted(shared.unit, (units.start, units.stop)).tolist())
    unit = shared.unit[rows] - np.int32(units.start)
    ids, n, s, c = shared.units[units], shared.n[units], shared.s[units], shared.c[units]
    return SharedUnits(ids, n, s, c, shared.rows[rows], unit, shared.value[rows])


def _taken(label: NDArray[Any], first: NDArray[Any] | None, rows: Ints) -> tuple[NDArray[Any], NDArray[Any]]:
    """Labels of some firing rows, and (rows + 1,) where those of a row begin."""
    if first is None:
        return label[rows], np.arange(len(rows) + 1, dtype=np.int32)
    lengths = first[rows + 1] - first[rows]
    begin = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return label[expand_ranges(first[rows], lengths)], begin


def _entries(part: SharedUnits, label: NDArray[Any], begin: NDArray[Any]) -> _Entries:
    if len(label) == len(part.rows) == begin[-1] and (np.diff(begin) == 1).all():
        return _Entries(part.unit, label, part.value)
    lengths = np.diff(begin)
    return _Entries(np.repeat(part.unit, lengths), label, np.repeat(part.value, lengths))


def _pairs(counts: LabelCounts, units: Ints, lengths: Ints, entries: _Entries) -> _Pairs:
    """Every label of the units, and what fires with it; an entry finds its pair in a table of units by labels."""
    k = len(counts.n)
    stored = expand_ranges(counts.indptr[units], lengths)
    label = counts.labels[stored].astype(np.int32)
    unit = np.repeat(np.arange(len(units), dtype=np.int32), lengths)
    pair = np.empty(len(units) * k, np.int32)
    pair[unit * k + label] = np.arange(len(label), dtype=np.int32)
    at = pair[entries.unit * k + entries.label]
    own = _Sides(
        np.bincount(at, entries.value, len(label)).astype(np.float64, copy=False),
        np.bincount(at, minlength=len(label)).astype(np.float64),
        counts.pair_n[stored].astype(np.float64),
    )
    return _Pairs(unit, label, own)


def _add_lone_rows(sums: Floats, k: int, label: NDArray[Any], begin: NDArray[Any], value: Floats) -> None:
    """Add units of one row: S = v and n = 1, and the unit's total, or its level 0, is the row itself."""
    weights = np.stack([value, value * value, np.ones(len(value))], 1)
    own = _by_label(label, weights, k, begin)[:, LONE]
    if len(sums) == k:
        sums += own
        return
    own[1:, BASE] = 0
    sums[:k] += own
    sums[k] += own[1:].sum(0)


def _add_levels(sums: Floats, pairs: _Pairs, whole: _Sides) -> None:
    """Add the levels of a block's units beside their level 0, and any level as the last."""
    u, is_level = len(whole.s), pairs.label > 0
    none, some = np.flatnonzero(~is_level), np.flatnonzero(is_level)
    base = _Sides(np.zeros(u), np.zeros(u), np.zeros(u))
    at = pairs.unit[none]
    for side, own in zip(base, pairs.own.at(none), strict=True):
        side[at] = own
    sums[0] += _summed(base, base, whole.c)
    at = pairs.unit[some]
    beside = _products(pairs.own.at(some), base.at(at), whole.c[at])
    sums[:-1] += _by_label(pairs.label[some], beside, len(sums) - 1)
    held = np.flatnonzero(whole.n > base.n)
    s_any = np.bincount(at, pairs.own.s[some], u).astype(np.float64, copy=False)[held]
    any_level = _Sides(s_any, whole.c[held] - base.c[held], whole.n[held] - base.n[held])
    sums[-1] += _summed(any_level, base.at(held), whole.c[held])


def _columns(own: _Sides, base: _Sides, unit_c: Floats) -> Iterator[NDArray[Any]]:
    """The columns of `LABEL_SUMS` before they are summed, one after the other."""
    fires = own.c > 0
    yield fires
    yield fires & (own.c == unit_c)
    for mine, its in ((own.s, base.s), (own.c, base.c)):
        yield mine
        yield mine * mine
        yield mine * own.n
        yield mine * its
        yield mine * base.n
        yield own.n * its


def _summed(own: _Sides, base: _Sides, unit_c: Floats) -> Floats:
    """(14,) sums over everything."""
    return np.array([column.sum() for column in _columns(own, base, unit_c)], np.float64)


def _products(own: _Sides, base: _Sides, unit_c: Floats) -> Floats:
    """(pairs, 14) to be summed by label."""
    out = np.empty((len(own.s), len(LABEL_SUMS)))
    for i, column in enumerate(_columns(own, base, unit_c)):
        out[:, i] = column
    return out


def _by_label(label: NDArray[Any], weights: Floats, k: int, begin: NDArray[Any] | None = None) -> Floats:
    """(k, columns) sums by label of the rows of `weights`, which carry one label each, or those from `begin` on."""
    from scipy import sparse  # half a second that a server asked its name must not spend

    n = len(weights)
    begin = np.arange(n + 1, dtype=np.int32) if begin is None else begin
    columns = (np.ones(len(label)), label.astype(np.int32, copy=False), begin)
    return np.asarray(sparse.csc_array(columns, shape=(max(k, 1), n)) @ weights)[:k]
