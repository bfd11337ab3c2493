"""Sums by label and unit, from which means, differences and their clustered intervals follow.

A label is a level of a family (0 = none), a value of a group, or a token. What does not depend on a feature
(`LabelCounts`: how many rows of each unit carry a label, and the sums of products of these over all units) is
counted once and stored; what does (`label_moments`) costs the feature's firings, not the corpus.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.intervals import Arm, Cross
from saeinterp_mcp.analysis.ranges import expand_ranges

Reference = Literal["level_0", "rest"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DENSE_CELLS = 4_000_000


@dataclass(frozen=True)
class LabelCounts:
    """How many rows carry each of K labels in a slice of U units."""

    reference: Reference
    """What a label is compared with: rows of label 0, or all rows of the slice without it."""
    n_rows: int
    n_units: int
    unit_nn: float
    """Sum over units of rows^2."""
    n: Ints
    """(K,) rows with the label."""
    units: Ints
    """(K,) units with such a row."""
    rest_units: Ints
    """(K,) units with a row without the label."""
    nn: Floats
    """(K,) sum over units of n^2, n = the unit's rows with the label."""
    n_reference: Floats
    """(K,) sum over units of n * (the unit's rows with label 0), or of n * (all its rows) for `rest`."""
    indptr: Ints
    """(U+1,) where a unit's labels begin."""
    labels: NDArray[Any]
    """(pairs,) labels of a unit, ascending."""
    pair_n: NDArray[Any]
    """(pairs,) its rows with that label."""


def count_labels(
    unit: Ints, label: Ints, unit_rows: Ints, n_labels: int, reference: Reference
) -> LabelCounts:
    """Count labels by unit.

    Args:
        unit: (E,) unit of each entry; a row has one entry for each label it carries.
        label: (E,) label of the entry, 0 <= label < n_labels.
        unit_rows: (U,) rows of each unit in the slice, 0 for units outside it.
        n_labels: K.
        reference: what labels will be compared with.
    """
    keys, pair_n = np.unique(unit.astype(np.int64) * n_labels + label, return_counts=True)
    pair_unit, labels = np.divmod(keys, n_labels)
    return count_pairs(pair_unit, labels, pair_n, unit_rows, n_labels, reference)


def count_pairs(
    pair_unit: Ints, labels: Ints, pair_n: Ints, unit_rows: Ints, n_labels: int, reference: Reference
) -> LabelCounts:
    """The same from pairs of unit and label, sorted by unit then label, with their row counts."""
    inside = unit_rows > 0
    rows_of_pair = unit_rows[pair_unit]
    weights = pair_n.astype(np.float64)
    if reference == "level_0":
        zero = np.zeros(len(unit_rows))
        zero[pair_unit[labels == 0]] = weights[labels == 0]
        other = zero[pair_unit]
    else:
        other = rows_of_pair.astype(np.float64)
    full = np.bincount(labels[pair_n == rows_of_pair], minlength=n_labels)
    return LabelCounts(
        reference=reference,
        n_rows=int(unit_rows.sum()),
        n_units=int(inside.sum()),
        unit_nn=float((unit_rows.astype(np.float64) ** 2).sum()),
        n=np.bincount(labels, weights, n_labels).astype(np.int64),
        units=np.bincount(labels, minlength=n_labels),
        rest_units=int(inside.sum()) - full,
        nn=np.bincount(labels, weights**2, n_labels).astype(np.float64),
        n_reference=np.bincount(labels, weights * other, n_labels).astype(np.float64),
        indptr=np.searchsorted(pair_unit, np.arange(len(unit_rows) + 1)),
        labels=labels,
        pair_n=pair_n,
    )


class Moments(NamedTuple):
    """Each of K labels beside its reference: sums by unit of one quantity (activation, or firing as 0 and 1)."""

    label: Arm
    reference: Arm
    cross: Cross


@dataclass(frozen=True)
class FiringUnits:
    """Firing rows of a slice by unit."""

    units: Ints
    """(u,) units where the feature fires, ascending."""
    index: Ints
    """(n,) which of them each firing row belongs to, ascending."""


def label_moments(
    counts: LabelCounts, unit_rows: Ints, firing: FiringUnits, value: Floats, entry: Ints, label: Ints
) -> tuple[Moments, Moments]:
    """Sums by label over the units where a feature fires, of activation and of firing; silent units are in `counts`.

    Args:
        counts: labels of the slice.
        unit_rows: (U,) rows of each unit in the slice.
        firing: units of the firing rows.
        value: (n,) activation of each firing row.
        entry: (E,) index of a firing row, once for each label it carries.
        label: (E,) that label.
    """
    k, units = len(counts.n), firing.units
    starts = counts.indptr[units]
    lengths = counts.indptr[units + 1] - starts
    pairs = expand_ranges(starts, lengths)
    pair_unit = np.repeat(np.arange(len(units)), lengths)
    pair_label = counts.labels[pairs].astype(np.int64)
    n = counts.pair_n[pairs].astype(np.float64)
    cell = firing.index[entry] * k + label
    keys = pair_unit * k + pair_label
    if len(units) * k <= DENSE_CELLS:
        s, c = (
            np.bincount(cell, value[entry], len(units) * k)[keys],
            np.bincount(cell, minlength=len(units) * k)[keys],
        )
    else:
        at = np.searchsorted(keys, cell)
        s, c = np.bincount(at, value[entry], len(keys)), np.bincount(at, minlength=len(keys))
    joined = _Joined(counts, pair_unit, pair_label, n, unit_rows[units].astype(np.float64), c)
    unit_s = np.bincount(firing.index, value, len(units)).astype(np.float64)
    unit_c = np.bincount(firing.index, minlength=len(units))
    return joined.moments(s, unit_s, unit_c), joined.moments(
        c.astype(np.float64), unit_c.astype(np.float64), unit_c
    )


class _Joined(NamedTuple):
    """Pairs of firing unit and label."""

    counts: LabelCounts
    unit: Ints
    label: Ints
    n: Floats
    unit_n: Floats
    c: Ints
    """Firing rows of the pair."""

    def total(self, weights: Any) -> Floats:
        """(K,) sum over units."""
        return np.bincount(self.label, weights, len(self.counts.n)).astype(np.float64)

    def moments(self, s: Floats, unit_s: Floats, unit_c: Ints) -> Moments:
        counts, n, total = self.counts, self.n, self.total
        arm = Arm(
            n=counts.n.astype(np.float64),
            n_units=counts.units.astype(np.float64),
            n_firing_units=total((self.c > 0).astype(np.float64)),
            s=total(s),
            ss=total(s * s),
            sn=total(s * n),
            nn=counts.nn,
        )
        if counts.reference == "level_0":
            none = self.label == 0
            s0, n0 = np.zeros(len(unit_s)), np.zeros(len(unit_s))
            s0[self.unit[none]], n0[self.unit[none]] = s[none], n[none]
            reference = Arm(**{f.name: np.full(len(counts.n), getattr(arm, f.name)[0]) for f in fields(Arm)})
            products = {"ss": s * s0[self.unit], "sn": s * n0[self.unit], "ns": n * s0[self.unit]}
            return Moments(
                arm, reference, Cross(**{k: total(v) for k, v in products.items()}, nn=counts.n_reference)
            )
        # the rest of a unit is its total less the label: every product expands into sums already at hand
        st, nt = unit_s[self.unit], self.unit_n[self.unit]
        ss_t, sn_t, ns_t, nn_t = total(s * st), total(s * nt), total(n * st), counts.n_reference
        only = total(((self.c > 0) & (self.c == unit_c[self.unit])).astype(np.float64))
        rest = Arm(
            n=counts.n_rows - arm.n,
            n_units=counts.rest_units.astype(np.float64),
            n_firing_units=len(unit_s) - only,
            s=unit_s.sum() - arm.s,
            ss=(unit_s**2).sum() - 2 * ss_t + arm.ss,
            sn=(unit_s * self.unit_n).sum() - sn_t - ns_t + arm.sn,
            nn=counts.unit_nn - 2 * nn_t + arm.nn,
        )
        return Moments(
            arm, rest, Cross(ss=ss_t - arm.ss, sn=sn_t - arm.sn, ns=ns_t - arm.sn, nn=nn_t - arm.nn)
        )


def distinct_sorted(values: Ints) -> tuple[Ints, Ints]:
    """(distinct values, index of each value in them) of an ascending array."""
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    return values[new], np.cumsum(new) - 1


def distinct(values: Ints) -> Ints:
    """The distinct values, ascending: np.unique by sorting, which for long arrays is many times its hashing."""
    return distinct_sorted(np.sort(values))[0]
