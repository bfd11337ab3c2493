"""How near phrases come to the windows of one feature, and to those of random ones."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.patterns.baseline import nested_order
from saeinterp_mcp.patterns.records import Floats, Group, Vectors

TOP = 3
"""Closest windows whose mean cosine is a phrase's `semantic`."""


class SemanticBaseline:
    """Directions of the windows of random features.

    All products are worked out in float64 and rounded to float32: what is left does not hang on how many phrases go
    through at once, or on how a library cuts the work.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        """Take the directions; every group has them."""
        self._n = np.array([len(group.windows) for group in groups], np.int64)
        first = groups[0].vectors
        assert first is not None, "groups with vectors"
        self._turns = np.zeros((int(self._n.max()), len(groups), first.shape[1]))
        """(K, G, d) the j-th window of each group in nested order; zeros where there is none."""
        for g, group in enumerate(groups):
            assert group.vectors is not None, "groups with vectors"
            self._turns[: self._n[g], g] = group.vectors[nested_order(group.windows)]
        self._flat = self._turns.reshape(-1, first.shape[1]).T

    def near(self, phrases: Vectors, n: int, without: int | None) -> Floats:
        """(p, G) mean cosine of each phrase with the TOP closest of the first `n` windows of each random feature."""
        k = min(n, len(self._turns))
        cosines = (np.asarray(phrases, np.float64) @ self._flat[:, : k * len(self._n)]).reshape(
            len(phrases), k, -1
        )
        for turn in range(int(self._n.min()), k):
            cosines[:, turn, self._n <= turn] = -np.inf
        near = mean_of_largest((cosines[:, turn] for turn in range(k)), np.minimum(self._n, n))
        return near if without is None else np.delete(near, without, axis=1)


def nearness(phrases: Vectors, windows: Vectors) -> Floats:
    """(p,) mean cosine of each phrase with its TOP closest windows."""
    cosines = np.asarray(phrases, np.float64) @ np.asarray(windows, np.float64).T
    return mean_of_largest((cosines[:, j : j + 1] for j in range(len(windows))), np.array([len(windows)]))[
        :, 0
    ]


def mean_of_largest(values: Iterable[Floats], n: NDArray[np.int64]) -> Floats:
    """(p, G) mean of the min(TOP, n) largest of some (p, G) arrays, place by place; -inf is no value."""
    largest: list[Floats] = []
    for one in values:
        rest = one
        for i, best in enumerate(largest):
            largest[i], rest = np.maximum(best, rest), np.minimum(best, rest)
        if len(largest) < TOP:
            largest.append(rest)
    total = sum(np.where(n > i, best, 0.0) for i, best in enumerate(largest))
    return np.asarray(total / np.minimum(n, TOP), np.float32).astype(np.float64)
