"""The summary of one feature: counts, sums by unit, quantiles, regions, histogram and strongest rows, per split.

Everything follows from one sort of the activations and one pass over the firing rows, in blocks of fixed size, so
that sums have one order and the densest feature needs little memory. Nothing here opens a store.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.firing import (
    EFFECTIVE_MAX_MIN_FIRINGS,
    EFFECTIVE_MAX_QUANTILE,
    histogram_bin,
    region_of,
    strongest,
)
from saeinterp_mcp.store.layout import HISTOGRAM_BINS, NO_INDEX, QUANTILES, REGION_UPPER_EDGES, REGIONS, TOP

Firing = tuple[NDArray[Any], NDArray[np.float32]]
Floats = NDArray[np.float64]
BLOCK = 2**17
"""Firing rows of a block of sums: fixed, so that sums have one order."""

SUMMARY_SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    **{f"stats/{name}": ((2,), "i8") for name in ("n_firing", "n_firing_units")},
    **{
        f"stats/{name}": ((2,), "f8") for name in ("sum", "sumsq", "unit_ss", "unit_sn", "unit_cc", "unit_cn")
    },
    "stats/max": ((2,), "f4"),
    "stats/quantiles": ((2, len(QUANTILES)), "f4"),
    "stats/effective_max": ((), "f4"),
    "stats/regions": ((2, len(REGIONS)), "i8"),
    "stats/histogram": ((2, HISTOGRAM_BINS), "u4"),
    "top/rows": ((2, TOP), "u4"),
    "top/values": ((2, TOP), "f4"),
}
"""Array of the layout to its shape (without the axis of features) and dtype."""


def summarise(
    explain: Firing, whole: Firing, row_unit: NDArray[Any], unit_rows: NDArray[Any], block: int = BLOCK
) -> dict[str, NDArray[Any]]:
    """One feature's entry of every array in `SUMMARY_SHAPES`, padding included.

    Args:
        explain: (rows, values) where it fires in the split `explain`: the first entries of `whole`.
        whole: (n,) rows, ascending, and (n,) float32 activations above 0.
        row_unit: (R,) unit of each row; ascending.
        unit_rows: (U,) rows of each unit.
        block: firing rows of a block of sums; another size moves sums at the last digit.
    """
    out = {name: np.zeros(shape, dtype) for name, (shape, dtype) in SUMMARY_SHAPES.items()}
    out["top/rows"][:] = NO_INDEX
    for name in ("top/values", "stats/quantiles", "stats/effective_max"):
        out[name][...] = np.nan
    rows, values = whole
    n = len(explain[0])
    sums = np.zeros((2, len(_Sums._fields)))
    sums[0] = _sums(rows[:n], values[:n], row_unit, unit_rows, block)
    # a unit lies on one side of the split, so the rest only adds to it
    sums[1] = sums[0] + _sums(rows[n:], values[n:], row_unit, unit_rows, block)
    for name, column in zip(_Sums._fields, sums.T, strict=True):
        out[f"stats/{name}"][:] = column
    out["stats/n_firing"][:] = n, len(rows)
    for split, (of_rows, of_values) in enumerate(((rows[:n], values[:n]), (rows, values))):
        if len(of_rows):
            _distribution(out, split, of_rows, of_values)
    return out


def _distribution(
    out: dict[str, NDArray[Any]], split: int, rows: NDArray[Any], values: NDArray[np.float32]
) -> None:
    """What depends on the order of the activations; `explain` goes first, since it gives the effective maximum."""
    ordered = np.sort(values)
    if split == 0 and len(values) >= EFFECTIVE_MAX_MIN_FIRINGS:
        out["stats/effective_max"][...] = quantiles_of_sorted(ordered, np.array([EFFECTIVE_MAX_QUANTILE]))[0]
    out["stats/max"][split] = ordered[-1]
    out["stats/quantiles"][split] = quantiles_of_sorted(ordered, np.array(QUANTILES))
    out["stats/histogram"][split] = _count_between(ordered, _histogram_starts(), "left")
    maximum = float(out["stats/effective_max"])
    if np.isfinite(maximum):
        out["stats/regions"][split] = _count_between(ordered, _region_ends(maximum), "right")
    best = strongest(rows, values, TOP)
    out["top/rows"][split, : len(best)] = rows[best]
    out["top/values"][split, : len(best)] = values[best]


class _Sums(NamedTuple):
    """Sums over firing rows and over the units that hold them."""

    sum: float
    sumsq: float
    n_firing_units: float
    unit_ss: float
    unit_sn: float
    unit_cc: float
    unit_cn: float


def _sums(
    rows: NDArray[Any],
    values: NDArray[np.float32],
    row_unit: NDArray[Any],
    unit_rows: NDArray[Any],
    block: int,
) -> Floats:
    total = np.zeros(len(_Sums._fields))
    start = 0
    while start < len(rows):
        stop = min(start + block, len(rows))
        units = row_unit[rows[start:stop]]
        while stop < len(rows) and row_unit[rows[stop]] == units[0]:
            stop = min(2 * stop - start, len(rows))
            units = row_unit[rows[start:stop]]
        if stop < len(rows) and row_unit[rows[stop]] == units[-1]:
            # the last unit goes on: it belongs to the next block, whole
            units = units[: np.searchsorted(units, units[-1])]
            stop = start + len(units)
        total += _block_sums(units, values[start:stop].astype(np.float64), unit_rows)
        start = stop
    return total


def _block_sums(units: NDArray[Any], exact: Floats, unit_rows: NDArray[Any]) -> _Sums:
    ends = np.append(np.flatnonzero(units[1:] != units[:-1]) + 1, len(units))
    starts = np.append(0, ends[:-1])
    n = unit_rows[units[starts]].astype(np.float64)
    s = exact if len(starts) == len(exact) else np.add.reduceat(exact, starts)
    c = (ends - starts).astype(np.float64)
    return _Sums(
        sum=exact.sum(),
        sumsq=(exact * exact).sum(),
        n_firing_units=len(starts),
        unit_ss=(s * s).sum(),
        unit_sn=(s * n).sum(),
        unit_cc=(c * c).sum(),
        unit_cn=(c * n).sum(),
    )


def quantiles_of_sorted(ordered: NDArray[np.float32], quantiles: Floats) -> Floats:
    """As `np.quantile(ordered, quantiles)` in float64, bit by bit, without a second sort."""
    place = (len(ordered) - 1) * quantiles
    below = np.floor(place).astype(np.int64)
    low = ordered[below].astype(np.float64)
    high = ordered[np.minimum(below + 1, len(ordered) - 1)].astype(np.float64)
    share = place - below
    return np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


def _count_between(ordered: NDArray[np.float32], cuts: NDArray[np.float32], side: Any) -> NDArray[np.int64]:
    """How many sorted values lie between one cut and the next; one more class than cuts."""
    bounds = np.empty(len(cuts) + 2, np.int64)
    bounds[0], bounds[-1] = 0, len(ordered)
    bounds[1:-1] = np.searchsorted(ordered, cuts, side=side)
    return bounds[1:] - bounds[:-1]


@cache
def _histogram_starts() -> NDArray[np.float32]:
    """(255,) the smallest float32 of each shared bin but the first, so that sorted values are counted by search."""
    # the bits of positive floats are ordered as they are: bisect them with the definition of the bin
    low = np.zeros(HISTOGRAM_BINS - 1, np.int64)
    high = np.full(HISTOGRAM_BINS - 1, np.array(np.inf, np.float32).view(np.int32), np.int64)
    wanted = np.arange(1, HISTOGRAM_BINS)
    while (high - low > 1).any():
        middle = (low + high) // 2
        inside = histogram_bin(middle.astype(np.int32).view(np.float32)) >= wanted
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    return high.astype(np.int32).view(np.float32)


def _region_ends(maximum: float) -> NDArray[np.float32]:
    """(5,) the largest float32 of each region but the last."""
    near = (np.array(REGION_UPPER_EDGES) * maximum).astype(np.float32)
    steps = np.stack([np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(np.inf))])
    inside = region_of(steps.ravel(), maximum).reshape(steps.shape) <= np.arange(len(near))
    return np.asarray(steps[inside.sum(0) - 1, np.arange(len(near))])
