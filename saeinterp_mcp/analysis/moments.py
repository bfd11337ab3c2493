"""Sums by label and unit, from which means, differences and their clustered intervals follow.

A label is a level of a family (0 = none), a value of a group, or a token. What does not depend on a feature
(`LabelCounts`: how many rows of each unit carry a label, and the sums of products of these over all units) is
counted once and stored; what does (`label_moments`) costs the feature's firings, not the corpus.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.intervals import Arm, Cross

Reference = Literal["level_0", "rest"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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

    n_firing: Ints
    """(K,) firing rows with the label."""
    label: Arm
    reference: Arm
    cross: Cross


def label_moments(
    counts: LabelCounts,
    unit_rows: Ints,
    row_unit: Ints,
    row_value: Floats,
    entry_unit: Ints,
    entry_label: Ints,
    entry_value: Floats,
) -> Moments:
    """Sums by label over the units where a feature fires; silent units come from `counts`.

    Args:
        counts: labels of the slice.
        unit_rows: (U,) rows of each unit in the slice.
        row_unit: (n,) ascending, unit of each firing row of the slice.
        row_value: (n,) its activation (or 1).
        entry_unit: (E,) the same with one entry for each label of a firing row.
        entry_label: (E,) label of the entry.
        entry_value: (E,) activation (or 1) of its row.
    """
    from saeinterp_mcp.store.base import expand_ranges

    n_labels = len(counts.n)
    firing, row_index = np.unique(row_unit, return_inverse=True)
    starts = counts.indptr[firing]
    lengths = counts.indptr[firing + 1] - starts
    pairs = expand_ranges(starts, lengths)
    pair_unit = np.repeat(np.arange(len(firing)), lengths)
    label = counts.labels[pairs].astype(np.int64)
    n = counts.pair_n[pairs].astype(np.float64)
    keys = pair_unit * n_labels + label
    at = np.searchsorted(keys, np.searchsorted(firing, entry_unit) * n_labels + entry_label)
    s = np.bincount(at, entry_value, len(keys)) if len(keys) else np.zeros(0)
    c = np.bincount(at, minlength=len(keys)) if len(keys) else np.zeros(0, np.int64)
    unit_s = np.bincount(row_index, row_value, len(firing))
    unit_c = np.bincount(row_index, minlength=len(firing))
    unit_n = unit_rows[firing].astype(np.float64)

    def total(weights: Any) -> Floats:
        return np.bincount(label, weights, n_labels).astype(np.float64)

    arm = Arm(
        n=counts.n.astype(np.float64),
        n_units=counts.units.astype(np.float64),
        n_firing_units=total((c > 0).astype(np.float64)),
        s=total(s),
        ss=total(s * s),
        sn=total(s * n),
        nn=counts.nn,
    )
    n_firing = total(c.astype(np.float64)).astype(np.int64)
    if counts.reference == "level_0":
        s0, n0 = np.zeros(len(firing)), np.zeros(len(firing))
        s0[pair_unit[label == 0]], n0[pair_unit[label == 0]] = s[label == 0], n[label == 0]
        reference = Arm(*(np.full(n_labels, field[0]) for field in _fields(arm)))
        cross = Cross(
            ss=total(s * s0[pair_unit]),
            sn=total(s * n0[pair_unit]),
            ns=total(n * s0[pair_unit]),
            nn=counts.n_reference,
        )
        return Moments(n_firing, arm, reference, cross)
    # the rest of a unit is its total less the label: every product expands into sums already at hand
    st, nt = unit_s[pair_unit], unit_n[pair_unit]
    ss_t, sn_t, ns_t, nn_t = total(s * st), total(s * nt), total(n * st), counts.n_reference
    only = total(((c > 0) & (c == unit_c[pair_unit])).astype(np.float64))
    reference = Arm(
        n=counts.n_rows - arm.n,
        n_units=counts.rest_units.astype(np.float64),
        n_firing_units=len(firing) - only,
        s=unit_s.sum() - arm.s,
        ss=(unit_s**2).sum() - 2 * ss_t + arm.ss,
        sn=(unit_s * unit_n).sum() - sn_t - ns_t + arm.sn,
        nn=counts.unit_nn - 2 * nn_t + arm.nn,
    )
    cross = Cross(ss=ss_t - arm.ss, sn=sn_t - arm.sn, ns=ns_t - arm.sn, nn=nn_t - arm.nn)
    return Moments(n_firing, arm, reference, cross)


def _fields(arm: Arm) -> tuple[Floats, ...]:
    return (arm.n, arm.n_units, arm.n_firing_units, arm.s, arm.ss, arm.sn, arm.nn)
