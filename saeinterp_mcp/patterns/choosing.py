"""Which examples stand for a feature, and the windows around their strongest tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.sampling import seeded_hash
from saeinterp_mcp.patterns.records import WIDTH


class Chosen(NamedTuple):
    """Examples by quantile."""

    places: NDArray[np.int64]
    """(k,) which of the given ones; quantile by quantile, weakest quantile first."""
    quantile: NDArray[np.int64]
    """(k,) 0 the weakest."""


def choose_by_quantile(
    strength: NDArray[np.floating],
    tie: NDArray[np.integer],
    n_quantiles: int,
    per_quantile: int,
    seed: int,
    feature: int,
) -> Chosen:
    """Examples spread over equal bins by rank of strength, and spread inside each bin.

    Ties are ordered by a seeded hash of `tie` (prompt ids), so bins differ in size by one at most whatever is tied.
    Fewer examples than quantiles: one a bin, from the weakest on. The first m of each quantile are the same whatever
    `per_quantile` >= m is, so that a smaller choice is part of a larger one.

    Args:
        strength: (n,) the largest activation in each prompt where the feature fires.
        tie: (n,) what names the prompts, all different.
        n_quantiles: bins.
        per_quantile: examples of each.
        seed: of ties and of where in a bin the first is taken.
        feature: which.
    """
    n = len(strength)
    order = np.lexsort((seeded_hash(tie.astype(np.int64), seed, "ties", feature), strength))
    n_bins = min(n, n_quantiles)
    starts = seeded_hash(np.arange(n_bins), seed, "start in a bin", feature).tolist()
    places: list[int] = []
    quantile: list[int] = []
    for i in range(n_bins):
        first, stop = i * n // n_bins, (i + 1) * n // n_bins
        ranks = _spread(stop - first, per_quantile, starts[i])
        places += [first + rank for rank in ranks]
        quantile += [i] * len(ranks)
    return Chosen(order[places] if places else np.zeros(0, np.int64), np.array(quantile, np.int64))


def _spread(size: int, wanted: int, start: int) -> list[int]:
    """Up to `wanted` different numbers below `size` in van der Corput's order, moved round by `start`: wherever it is
    cut off, they lie nearly evenly."""
    bits = max(0, size - 1).bit_length()
    cells = 1 << bits  # at least `size`, so every number has a cell
    taken: dict[int, None] = {}
    for j in range(cells):
        if len(taken) >= wanted:
            break
        reversed_bits = int(f"{j:0{bits}b}"[::-1], 2) if bits else 0
        taken[(reversed_bits + start) % cells * size // cells] = None
    return list(taken)


def choose_by_quantile_compat(strength: NDArray[np.floating], n_quantiles: int, per_quantile: int) -> Chosen:
    """As SAE_vis chose: bins by interpolated quantiles of the values (ties can empty bins), the strongest of each;
    all examples where there are fewer than `n_quantiles`."""
    if len(strength) < n_quantiles:
        weakest_first = np.argsort(strength, kind="stable")
        return Chosen(weakest_first, np.arange(len(strength)))
    # a value on a boundary is in the bin below it
    bins = np.searchsorted(boundaries(strength, n_quantiles), strength.astype(np.float64), side="left")
    strongest_first = np.argsort(-strength.astype(np.float64), kind="stable")
    places = [strongest_first[bins[strongest_first] == i][:per_quantile] for i in range(n_quantiles)]
    quantile = np.repeat(np.arange(n_quantiles), [len(one) for one in places])
    return Chosen(np.concatenate(places), quantile)


def boundaries(strength: NDArray[np.floating], n_quantiles: int) -> NDArray[np.float64]:
    """(n_quantiles - 1,) linearly interpolated quantiles of all strengths; empty under `n_quantiles` of them."""
    if len(strength) < n_quantiles:
        return np.zeros(0)
    shares = np.arange(1, n_quantiles) / n_quantiles
    return np.asarray(np.quantile(strength.astype(np.float64), shares), np.float64)


def window_bounds(length: int, at: int, width: int = WIDTH) -> tuple[int, int]:
    """(start, stop) of the `width` tokens around token `at`: at the ends of the prompt it is shifted, not cut.

    The middle is `at`: (width - 1) // 2 tokens after it, the rest before. A prompt of at most `width` tokens is whole.
    """
    if length <= width:
        return 0, length
    start = min(max(0, at - width // 2), length - width)
    return start, start + width


def window_bounds_compat(length: int, at: int, width: int = WIDTH) -> tuple[int, int]:
    """As SAE_vis cut: [max(0, at - width // 2), min(length, at + width // 2)), so an odd width loses a token."""
    return max(0, at - width // 2), min(length, at + width // 2)


def strongest_position(positions: Sequence[int], values: Sequence[float]) -> int:
    """The position of the largest value, the first of equal ones."""
    assert positions, "a prompt where a feature fires has a strongest token"
    best = max(range(len(values)), key=lambda i: (values[i], -i))
    return positions[best]
