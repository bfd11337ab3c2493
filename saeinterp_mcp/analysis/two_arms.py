"""Some values of a group against some others, from counts and sums that are there: no row is looked at twice.

A slice by slice comparison counts the rows of every slice anew; of a group it is enough to know how many rows of each
unit carry each value, so leaving values out is leaving out columns. Results equal those of the slices.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.effects import Effects, tested
from saeinterp_mcp.analysis.intervals import Arm, Cross
from saeinterp_mcp.analysis.label_sums import FiringUnits
from saeinterp_mcp.analysis.moments import LabelCounts, Moments
from saeinterp_mcp.analysis.ranges import expand_ranges

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ValueCounts:
    """Rows of each unit by value of a group, one value a row; the same for every feature."""

    counts: LabelCounts
    """Of K values."""

    @cached_property
    def held(self) -> Any:
        """(U, K) sparse: rows of each unit with each value."""
        from scipy import sparse  # half a second that a server asked its name must not spend

        n_pairs = int(self.counts.indptr[-1])
        columns = (
            self.counts.pair_n[:n_pairs].astype(np.float64),
            self.counts.labels[:n_pairs].astype(np.int32),
        )
        shape = (len(self.counts.indptr) - 1, len(self.counts.n))
        return sparse.csr_array((*columns, self.counts.indptr), shape=shape)

    @cached_property
    def products(self) -> Any:
        """(K, K) sparse: sum over units of the products of their rows."""
        return (self.held.T @ self.held).tocsr()

    @cached_property
    def is_one_value_a_unit(self) -> bool:
        """Whether no unit has rows of several values."""
        return bool((np.diff(self.counts.indptr) <= 1).all())

    def n_units(self, values: Bools) -> float:
        """Units with a row of any of some values."""
        if self.is_one_value_a_unit:
            return float(self.counts.units[values].sum())
        return float((self.held @ values.astype(np.float64) > 0).sum())


def compare_values(
    known: ValueCounts,
    firing: FiringUnits,
    value: Ints,
    some: Bools,
    others: Bools,
    largest: float,
    min_n: int,
) -> Effects:
    """The rows with `some` values against those with `others`, everything else left out: one estimate.

    Args:
        known: counts of the slice.
        firing: the feature's firing rows in it.
        value: (n,) value of each firing row.
        some: (K,) values on one side.
        others: (K,) values on the other.
        largest: the feature's largest activation.
        min_n: rows that an estimate needs.
    """
    counts, sides = known.counts, (some.astype(np.float64), others.astype(np.float64))
    starts = counts.indptr[firing.units]
    lengths = counts.indptr[firing.units + 1] - starts
    pairs = expand_ranges(starts, lengths)
    unit_of_pair = np.repeat(np.arange(len(firing.units)), lengths)
    u = len(firing.units)

    def by_unit(side: Floats, weights: Floats) -> Floats:
        return np.bincount(firing.index, weights * side[value], u).astype(np.float64)

    rows = [
        np.bincount(unit_of_pair, counts.pair_n[pairs] * side[counts.labels[pairs]], u).astype(np.float64)
        for side in sides
    ]
    c = [by_unit(side, np.ones(len(value))) for side in sides]
    moments = []
    for sums in ([by_unit(side, firing.value) for side in sides], c):
        arms = [
            Arm(
                n=_one(counts.n @ side),
                n_units=_one(known.n_units(side > 0)),
                n_firing_units=_one((fires > 0).sum()),
                s=_one(s.sum()),
                ss=_one(s @ s),
                sn=_one(s @ n),
                nn=_one(side @ (known.products @ side)),
            )
            for side, s, n, fires in zip(sides, sums, rows, c, strict=True)
        ]
        cross = Cross(
            ss=_one(sums[0] @ sums[1]),
            sn=_one(sums[0] @ rows[1]),
            ns=_one(rows[0] @ sums[1]),
            nn=_one(sides[0] @ (known.products @ sides[1])),
        )
        moments.append(Moments(arms[0], arms[1], cross))
    return tested(moments[0], moments[1], largest, min_n, first_is_reference=False)


def _one(value: Any) -> Floats:
    return np.array([float(value)])
