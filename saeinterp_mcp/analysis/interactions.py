"""Cells of rows compared with one another: interactions of two labels, and a label present against absent.

Rows of a slice fall into k cells (for a pair of labels 00, 10, 01, 11). Everything follows from the sums over units
of their rows and of a quantity (activation, or firing as 0 and 1), so intervals are clustered by unit. Nothing here
opens a store.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.distributions import t_beyond, t_quantile
from saeinterp_mcp.analysis.intervals import Arm, Cross, contrast, mean_interval, rate_interval
from saeinterp_mcp.analysis.moments import Moments

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class SliceRows(NamedTuple):
    """Rows of a slice with their units and a feature's firings."""

    unit: Ints
    """(R,) unit of each row, 0 to n_units - 1."""
    n_units: int
    fires: Ints
    """(F,) which rows fire."""
    value: Floats
    """(F,) their activations."""


@dataclass(frozen=True)
class CellSums:
    """Sums over units, n the unit's rows in a cell, S the quantity there; of T tables of k cells."""

    n: Floats
    """(T, k) rows."""
    n_units: Floats
    """(T, k) units with such a row."""
    n_firing_units: Floats
    """(T, k) units with S above 0."""
    s: Floats
    """(T, k)."""
    ss: Floats
    """(T, k, k) S_i S_j."""
    sn: Floats
    """(T, k, k) S_i n_j."""
    nn: Floats
    """(T, k, k) n_i n_j."""

    def arm(self, cell: int) -> Arm:
        """One cell of every table."""
        return Arm(
            self.n[:, cell],
            self.n_units[:, cell],
            self.n_firing_units[:, cell],
            self.s[:, cell],
            self.ss[:, cell, cell],
            self.sn[:, cell, cell],
            self.nn[:, cell, cell],
        )

    def moments(self, first: int, second: int) -> Moments:
        """Two cells of every table, to be compared."""
        a, b = first, second
        cross = Cross(self.ss[:, a, b], self.sn[:, a, b], self.sn[:, b, a], self.nn[:, a, b])
        return Moments(self.arm(a), self.arm(b), cross)


def sum_cells(rows: SliceRows, cells: Iterable[NDArray[np.int8]], k: int) -> tuple[CellSums, CellSums]:
    """Sums of the activation, and of firing as 0 and 1.

    Args:
        rows: of the slice.
        cells: for each table, (R,) the cell of each row, 0 to k - 1; taken one at a time.
        k: cells of a table.
    """
    units, index = np.unique(rows.unit[rows.fires], return_inverse=True)
    found = [_sum_table(rows, cell.astype(np.int64), k, units, index) for cell in cells]
    return _stacked([pair[0] for pair in found], k), _stacked([pair[1] for pair in found], k)


def _sum_table(rows: SliceRows, cell: Ints, k: int, units: Ints, index: Ints) -> tuple[CellSums, CellSums]:
    n = np.bincount(rows.unit * k + cell, minlength=rows.n_units * k).reshape(-1, k).astype(np.float64)
    beside, nn = n[units], n.T @ n
    place, size = index * k + cell[rows.fires], len(units) * k
    both = (np.bincount(place, rows.value, size), np.bincount(place, minlength=size))
    found = []
    for s in (part.reshape(-1, k).astype(np.float64) for part in both):
        found.append(CellSums(n.sum(0), (n > 0).sum(0), (s > 0).sum(0), s.sum(0), s.T @ s, s.T @ beside, nn))
    return found[0], found[1]


def _stacked(tables: list[CellSums], k: int) -> CellSums:
    def joined(name: str) -> Floats:
        shape = (0, k, k) if name in ("ss", "sn", "nn") else (0, k)
        parts = [np.asarray(getattr(table, name), np.float64)[None] for table in tables]
        return np.concatenate([np.zeros(shape), *parts])

    return CellSums(**{field.name: joined(field.name) for field in fields(CellSums)})


class Means(NamedTuple):
    """Means of every cell with what a contrast of them needs."""

    value: Floats
    """(T, k)."""
    low: Floats
    high: Floats
    covariance: Floats
    """(T, k, k) clustered."""
    df: Floats
    """(T, k) degrees of freedom: effective firing units less 1, of a silent cell its units less 1."""


def means_of(sums: CellSums, largest: float | None) -> Means:
    """Means with their intervals; `largest` is the feature's largest activation, None for shares of firing rows."""
    tables, k = sums.n.shape
    flat = Arm(
        *(part.reshape(-1) for part in (sums.n, sums.n_units, sums.n_firing_units, sums.s)),
        *(np.diagonal(part, axis1=1, axis2=2).reshape(-1) for part in (sums.ss, sums.sn, sums.nn)),
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        limits = rate_interval(flat) if largest is None else mean_interval(flat, np.full(tables * k, largest))
        mean = sums.s / sums.n
        m = np.nan_to_num(mean)
        by_mean = sums.sn * m[:, None, :]
        gram = sums.ss - by_mean - by_mean.swapaxes(1, 2) + sums.nn * m[:, :, None] * m[:, None, :]
        scale = np.sqrt(np.nan_to_num(sums.n_units / (sums.n_units - 1), posinf=0.0, neginf=0.0))
        scale = np.nan_to_num(scale / sums.n, posinf=0.0)
        effective = np.where(flat.s > 0, flat.s**2 / flat.ss, flat.n_units).reshape(tables, k)
    covariance = gram * scale[:, :, None] * scale[:, None, :]
    low, high = (part.reshape(tables, k) for part in limits)
    return Means(mean, low, high, covariance, np.fmax(effective - 1, 1.0))


class Contrast(NamedTuple):
    """A sum of weighted means of each table; NaN is null."""

    value: Floats
    low: Floats
    high: Floats
    p: Floats


def contrast_of(means: Means, weights: Sequence[float], shown: Bools) -> Contrast:
    """The contrast with its 95 % interval (MOVER, `intervals.contrast`) and p; null where not `shown` (T,).

    p is of Student's t: the estimate over its distance to the limit that lies towards 0, times the quantile that made
    that limit, with Satterthwaite's degrees of freedom over the cells. So p is under 0.05 where the interval leaves
    out 0.
    """
    w = np.asarray(weights)
    tables = len(means.value)
    value, low, high, p = (np.full(tables, np.nan) for _ in range(4))
    if not shown.any():
        return Contrast(value, low, high, p)
    used = w != 0
    m, lows, highs = (part[shown][:, used] for part in means[:3])
    covariance = means.covariance[shown][:, used][:, :, used]
    w = w[used]
    estimate = m @ w
    with np.errstate(invalid="ignore", divide="ignore"):
        limits = contrast(m, lows, highs, covariance, w)
        reach = np.where(estimate > 0, estimate - limits[0], limits[1] - estimate)
        # each mean's own distance to the limit that counts
        squares = np.where((w > 0) == (estimate > 0)[:, None], m - lows, highs - m) ** 2 * w**2
        df = squares.sum(1) ** 2 / (squares**2 / means.df[shown][:, used]).sum(1)
        df = np.fmax(np.nan_to_num(df, nan=1.0), 1.0)
        t = np.abs(estimate) / reach * t_quantile(0.975, df)
    value[shown], (low[shown], high[shown]) = estimate, limits
    p[shown] = np.where(np.isnan(reach), np.nan, t_beyond(np.nan_to_num(t), df))
    return Contrast(value, low, high, p)
