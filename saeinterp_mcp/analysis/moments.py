"""Labels counted by unit, and the moments from which means, differences and their clustered intervals follow.

A label is a level of a family (0 = none), a value of a group, or a token. What does not depend on a feature
(`LabelCounts`: how many rows of each unit carry a label, and the sums of products of these over all units) is
counted once and stored. What does is summed in `label_sums`, at the cost of the feature's firings and not of the
corpus, or read where the store holds it; `moments_of` is the one place where the two are put together.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.intervals import Arm, Cross
from saeinterp_mcp.store.layout import LABEL_SUMS

Reference = Literal["level_0", "rest"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabelTotals:
    """How many rows carry each of K labels in a slice of U units, summed over units."""

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

    def only(self, pick: Ints) -> "LabelTotals":
        """The same for some labels."""
        columns = ("n", "units", "rest_units", "nn", "n_reference")
        picked = {name: getattr(self, name)[pick] for name in columns}
        return LabelTotals(self.reference, self.n_rows, self.n_units, self.unit_nn, **picked)

    def presence(self) -> "LabelTotals":
        """Labels 0 (no level) and 1 (any level) of a family; sums of integers, so nothing is lost."""
        n_any, product = self.n[1:].sum(), self.n_reference[1:].sum()
        return LabelTotals(
            self.reference,
            self.n_rows,
            self.n_units,
            self.unit_nn,
            n=np.array([self.n[0], n_any]),
            units=np.array([self.units[0], self.rest_units[0]]),
            rest_units=np.array([self.rest_units[0], self.units[0]]),
            nn=np.array([self.nn[0], self.unit_nn - self.nn[0] - 2 * product]),
            n_reference=np.array([self.n_reference[0], product]),
        )


@dataclass(frozen=True)
class LabelCounts(LabelTotals):
    """The same with the pairs of unit and label that they are sums over."""

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


class UnitTotals(NamedTuple):
    """Sums over the units of a slice: S the activation of a unit, c its firing rows, n all its rows."""

    n_firing_units: float
    s: float
    ss: float
    sn: float
    c: float
    cc: float
    cn: float


def moments_of(totals: LabelTotals, sums: Floats, units: UnitTotals) -> tuple[Moments, Moments]:
    """Moments of the activation, and of firing as 0 and 1.

    Args:
        totals: of K labels.
        sums: (K, 14) of the feature, `layout.LABEL_SUMS`.
        units: of the feature, labels aside.
    """
    column = dict(zip(LABEL_SUMS, np.ascontiguousarray(sums.T), strict=True))
    return tuple(_moments(totals, column, units, kind) for kind in ("s", "c"))  # type: ignore[return-value]


def _moments(totals: LabelTotals, column: dict[str, Floats], units: UnitTotals, kind: str) -> Moments:
    s, ss, sn = (column[name] for name in (kind, 2 * kind, f"{kind}n"))
    base = {name: column[f"{kind}_base_{name}"] for name in ("ss", "sn", "ns")}
    arm = Arm(
        n=totals.n.astype(np.float64),
        n_units=totals.units.astype(np.float64),
        n_firing_units=column["firing_units"],
        s=s,
        ss=ss,
        sn=sn,
        nn=totals.nn,
    )
    if totals.reference == "level_0":
        none = Arm(**{f.name: np.full(len(s), getattr(arm, f.name)[0]) for f in fields(Arm)})
        return Moments(arm, none, Cross(**base, nn=totals.n_reference))
    # the rest of a unit is its total less the label: every product expands into sums already at hand
    unit_s, unit_ss, unit_sn = (getattr(units, name) for name in (kind, 2 * kind, f"{kind}n"))
    rest = Arm(
        n=totals.n_rows - arm.n,
        n_units=totals.rest_units.astype(np.float64),
        n_firing_units=units.n_firing_units - column["only"],
        s=unit_s - s,
        ss=unit_ss - 2 * base["ss"] + ss,
        sn=unit_sn - base["sn"] - base["ns"] + sn,
        nn=totals.unit_nn - 2 * totals.n_reference + totals.nn,
    )
    cross = Cross(
        ss=base["ss"] - ss, sn=base["sn"] - sn, ns=base["ns"] - sn, nn=totals.n_reference - totals.nn
    )
    return Moments(arm, rest, cross)


def stacked(moments: list[Moments], k: int) -> Moments:
    """Label k of each, as labels of one."""

    def joined(parts: list[Any]) -> Any:
        return type(parts[0])(
            **{f.name: np.array([getattr(p, f.name)[k] for p in parts]) for f in fields(parts[0])}
        )

    return Moments(*(joined([m[i] for m in moments]) for i in range(3)))


def distinct_sorted(values: Ints) -> tuple[Ints, Ints]:
    """(distinct values, index of each value in them) of an ascending array."""
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    return values[new], np.cumsum(new) - 1


def distinct(values: Ints) -> Ints:
    """The distinct values, ascending: np.unique by sorting, which for long arrays is many times its hashing."""
    return distinct_sorted(np.sort(values))[0]
