"""What a value is compared with: percentiles among those of random features, ties counting half."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.patterns.records import Floats, Group, Window

MIN_RANDOM = 20
"""Random ones from which on a percentile is given."""


def percentile_among(values: Floats, value: float) -> float | None:
    """Percent of `values` below `value`, equal ones counting half; None under MIN_RANDOM of them."""
    if len(values) < MIN_RANDOM:
        return None
    below = np.count_nonzero(values < value) + np.count_nonzero(values == value) / 2
    return float(100 * below / len(values))


def percentiles_among(values: Floats, value: Floats) -> Floats | None:
    """(n,) `percentile_among` of each row of `values` (n, m)."""
    if values.shape[1] < MIN_RANDOM:
        return None
    mine = value[:, None]
    below = (values < mine).sum(axis=1) + (values == mine).sum(axis=1) / 2
    return np.asarray(100 * below / values.shape[1])


def percentile_sorted(ascending: Floats, value: float) -> float | None:
    """`percentile_among` of values in ascending order."""
    if len(ascending) < MIN_RANDOM:
        return None
    first, last = np.searchsorted(ascending, value, "left"), np.searchsorted(ascending, value, "right")
    return float(50 * (first + last) / len(ascending))


def above_by_chance(values: NDArray[np.floating], percentile: float) -> NDArray[np.bool_]:
    """(n, m) which of m random features lie above `percentile` of the m - 1 others, for each of n measures."""
    m = values.shape[1]
    if m - 1 < MIN_RANDOM:
        return np.zeros(values.shape, bool)
    # in ascending order, the first place from which on a value without equals is above; equal ones have the middle of
    # their places
    least = percentile / 100 * (m - 1)
    place = min(m - 1, int(least) + 1)
    edge = np.partition(values, place, axis=1)[:, place : place + 1]
    below, equal = (values < edge).sum(1, keepdims=True), (values == edge).sum(1, keepdims=True)
    edge_is_above = below + (equal - 1) / 2 > least
    return np.asarray((values > edge) | ((values == edge) & edge_is_above))


def nested_order(windows: Sequence[Window]) -> list[int]:
    """Windows so ordered that the first k are spread over quantiles, whatever k: the first one of each quantile from
    the weakest on, then the second ones."""
    seen: dict[int, int] = {}
    turn = []
    for i, window in enumerate(windows):
        seen[window.quantile] = seen.get(window.quantile, -1) + 1
        turn.append((seen[window.quantile], window.quantile, i))
    return [i for _, _, i in sorted(turn)]


def cut_group(group: Group, k: int) -> Group:
    """The group with the first k windows of `nested_order`, as they stood."""
    if len(group.windows) <= k:
        return group
    kept = sorted(nested_order(group.windows)[:k])
    vectors = None if group.vectors is None else group.vectors[kept]
    return Group(group.feature, tuple(group.windows[i] for i in kept), vectors)
