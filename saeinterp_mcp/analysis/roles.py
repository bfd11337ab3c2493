"""What goes with a label: more firing or less, stronger or weaker firing, or the strongest rows more than core ones."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis import intervals
from saeinterp_mcp.analysis.effects import Q_CUT, p_values
from saeinterp_mcp.analysis.intervals import MIN_FIRING_UNITS, Arm, Cross
from saeinterp_mcp.analysis.moments import Moments

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Role = Literal["enhancer", "suppressor", "neutral", "tail_marker"]
TAIL_MARKER_COVERAGE = 0.3
"""Share of core rows under which a token of the tail is a tail marker (the loadout seed's rule)."""


class Difference(NamedTuple):
    """Label less reference, each (K,), with the 95 % interval by unit; NaN is null."""

    value: Floats
    low: Floats
    high: Floats

    @property
    def sign(self) -> Ints:
        """1 above 0, -1 below it, 0 where the interval holds 0 or is null."""
        return (self.low > 0).astype(np.int64) - (self.high < 0)

    def among(self, pick: Ints, k: int) -> "Difference":
        """As those of k labels of which `pick` were compared; null for the others."""
        return Difference(*(among(part, pick, k) for part in self))


def among(values: Floats, pick: Ints, k: int) -> Floats:
    """(k,) the values at `pick`, NaN elsewhere."""
    out = np.full(k, np.nan)
    out[pick] = values
    return out


def rate_difference(firing: Moments) -> Difference:
    """Difference of the shares of firing rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return Difference(*intervals.rate_difference(firing.label, firing.reference, firing.cross)[:3])


def mean_difference(strength: Moments, largest: float) -> Difference:
    """Difference of the means; `largest` is the feature's largest activation."""
    most = np.full(len(strength.label.n), largest)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Difference(*intervals.difference(strength.label, strength.reference, strength.cross, most)[:3])


def p_when_firing(strength: Moments, firing: Moments) -> Floats:
    """(K,) p of no difference of strength, from moments of firing rows only; NaN where a side has few units."""
    sides = (strength.label, strength.reference)
    many = np.logical_and(*(side.n_firing_units >= MIN_FIRING_UNITS for side in sides))
    return np.where(many, p_values(strength, firing), np.nan)


def surest(p: list[Floats]) -> Floats:
    """(K,) p of any of a row's tests: the smallest times how many there are (Bonferroni); NaN without one."""
    made = np.sum([~np.isnan(one) for one in p], 0)
    smallest = np.fmin.reduce(p)
    return np.where(made > 0, np.fmin(smallest * made, 1.0), np.nan)


def roles(q: Floats, signs: list[Ints], tail_marker: Bools) -> list[Role | None]:
    """Enhancer or suppressor where q is under 0.05 and an interval is off zero: the first of `signs` that is.

    A suppressor stays one in the tail. None where nothing was tested.
    """
    sign = np.zeros(len(q), np.int64)
    for one in signs:
        sign = np.where(sign == 0, one, sign)
    sign[~(q < Q_CUT)] = 0
    found = np.where(np.isnan(q), None, "neutral")  # type: ignore[call-overload]
    found[sign > 0] = "enhancer"
    found[tail_marker] = "tail_marker"
    found[sign < 0] = "suppressor"
    return found.tolist()  # type: ignore[no-any-return]


class RegionRows(NamedTuple):
    """Rows of a region, and the labels they carry."""

    unit: Ints
    """(n,) unit of each row."""
    entry: Ints
    """(E,) index of the row of each entry."""
    label: Ints
    """(E,) its label; a row carries a label once."""

    def shares(self, k: int) -> Floats:
        """(k,) share of the rows that carry each label."""
        return np.bincount(self.label, minlength=k) / max(len(self.unit), 1)


def share_moments(first: RegionRows, second: RegionRows, k: int) -> Moments:
    """Sums by unit of the rows with each of k labels, in two sets of rows: their shares are compared as rates are."""
    from scipy import sparse  # half a second that a server asked its name must not spend

    units, index = np.unique(np.concatenate([first.unit, second.unit]), return_inverse=True)
    u, cut = len(units), len(first.unit)
    held: list[Any] = []
    rows: list[Floats] = []
    for part, at in ((first, index[:cut]), (second, index[cut:])):
        places = (at[part.entry], part.label)
        held.append(sparse.coo_array((np.ones(len(part.label)), places), (u, k)).tocsr())
        rows.append(np.bincount(at, minlength=u).astype(np.float64))
    arms = [_arm(carried, n, k) for carried, n in zip(held, rows, strict=True)]
    cross = Cross(
        ss=_total(held[0].multiply(held[1])),
        sn=held[0].T @ rows[1],
        ns=held[1].T @ rows[0],
        nn=np.full(k, rows[0] @ rows[1]),
    )
    return Moments(arms[0], arms[1], cross)


def _arm(carried: Any, n: Floats, k: int) -> Arm:
    return Arm(
        n=np.full(k, n.sum()),
        n_units=np.full(k, float((n > 0).sum())),
        n_firing_units=np.bincount(carried.indices, minlength=k).astype(np.float64),
        s=_total(carried),
        ss=_total(carried.multiply(carried)),
        sn=carried.T @ n,
        nn=np.full(k, (n * n).sum()),
    )


def _total(matrix: Any) -> Floats:
    return np.asarray(matrix.sum(0), np.float64).ravel()
