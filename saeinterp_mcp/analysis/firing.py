"""How often and how strongly a feature fires: quantiles, regions, effective maximum, histogram."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.store.layout import (
    HISTOGRAM_BINS,
    HISTOGRAM_FIRST_LOG2,
    HISTOGRAM_PER_OCTAVE,
    REGION_UPPER_EDGES,
    REGIONS,
)

EFFECTIVE_MAX_QUANTILE = 0.995
EFFECTIVE_MAX_MIN_FIRINGS = 20


def effective_max(explain_values: NDArray[Any]) -> float:
    """99.5th percentile (linear interpolation) of activations in the `explain` split; NaN under 20 firings."""
    if len(explain_values) < EFFECTIVE_MAX_MIN_FIRINGS:
        return float("nan")
    return float(np.quantile(explain_values.astype(np.float64), EFFECTIVE_MAX_QUANTILE))


def region_of(values: NDArray[Any], maximum: float) -> NDArray[np.int8]:
    """Index into `layout.REGIONS` of each activation above 0, by its share of the effective maximum.

    A region holds its upper edge: (0, 1 %], (1 %, 10 %], (10 %, 25 %], (25 %, 75 %], (75 %, 90 %], (90 %, inf).
    """
    shares = values.astype(np.float64) / maximum
    return np.searchsorted(np.array(REGION_UPPER_EDGES), shares, side="left").astype(np.int8)


def count_regions(values: NDArray[Any], maximum: float) -> NDArray[np.int64]:
    """Firing rows by region; zeros when the effective maximum is unknown."""
    if not np.isfinite(maximum):
        return np.zeros(len(REGIONS), np.int64)
    return np.bincount(region_of(values, maximum), minlength=len(REGIONS))


def histogram_bin(values: NDArray[Any]) -> NDArray[np.int64]:
    """Shared log2 bin of each activation: 8 to an octave from 2^-16, the ends take what lies outside."""
    bins = np.floor((np.log2(values.astype(np.float64)) - HISTOGRAM_FIRST_LOG2) * HISTOGRAM_PER_OCTAVE)
    return np.clip(bins, 0, HISTOGRAM_BINS - 1).astype(np.int64)


def histogram_edges() -> NDArray[np.float64]:
    """(257,) edges of the shared bins."""
    return np.asarray(2.0 ** (HISTOGRAM_FIRST_LOG2 + np.arange(HISTOGRAM_BINS + 1) / HISTOGRAM_PER_OCTAVE))


def strongest(rows: NDArray[Any], values: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Indices of the k strongest activations by (-activation, row): a total order, so ties never move."""
    if len(values) > k:
        cut = np.partition(values, len(values) - k)[len(values) - k]
        candidates = np.flatnonzero(values >= cut)
    else:
        candidates = np.arange(len(values))
    order = np.lexsort((rows[candidates], -values[candidates]))
    return candidates[order[:k]]
