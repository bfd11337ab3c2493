"""Masked partial views of a set: what a set-completion model is trained on, and what its SAE sees."""

from functools import cache

import numpy as np
from numpy.typing import NDArray


def draw_view(n_tokens: int, generator: np.random.Generator, exponent: float) -> NDArray[np.int64]:
    """Which tokens of a set stay in one partial view.

    k of them are removed, k in 1 to max(1, n_tokens - 1) with P(k) proportional to k ** exponent; which ones is
    uniform. Tokens are masked one by one, so a thermometer may lose level 3 and keep level 12. The view of a single
    token is empty, as is that of an empty set.

    Returns:
        (n_kept,) int64, ascending indices of the tokens that stay.
    """
    if n_tokens == 0:
        return np.zeros(0, np.int64)
    n_removed = 1 + int(np.searchsorted(_cumulative(n_tokens, exponent), generator.random(), side="right"))
    kept: NDArray[np.int64] = generator.permutation(n_tokens)[n_removed:]
    kept.sort()
    return kept


def removal_probabilities(n_tokens: int, exponent: float) -> NDArray[np.float64]:
    """(max(1, n_tokens - 1),): the probability that k = 1, 2, ... tokens are removed."""
    weights = np.arange(1, max(1, n_tokens - 1) + 1, dtype=np.float64) ** exponent
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def view_generator(seed: int, row: int) -> np.random.Generator:
    """The generator of all views of one set: a set keeps its views whatever batch it is in."""
    return np.random.default_rng((seed, row))


@cache
def _cumulative(n_tokens: int, exponent: float) -> NDArray[np.float64]:
    """Where each k but the last ends on [0, 1); the last takes the rest, so rounding cannot pass it."""
    ends: NDArray[np.float64] = np.cumsum(removal_probabilities(n_tokens, exponent))[:-1]
    return ends
