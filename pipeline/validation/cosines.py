"""Cosines of explanations of a feature by two explainers, beside those of different features."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.sampling import rng

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]
N_RANDOM = 50_000
"""Pairs of different features at most."""
MIN_FEATURES = 20
"""Features of either explainer, under which there is nothing to compare with."""
BLOCK = 4_096
"""Pairs multiplied at a time."""


class Explained(NamedTuple):
    """The explanations of one explainer that have a vector."""

    features: Ints
    """(n,) ascending."""
    rows: Ints
    """(n,) of the vectors."""


class Pair(NamedTuple):
    """Two explainers on the features that both explain."""

    features: Ints
    """(m,) ascending."""
    cosines: Floats
    """(m,) of one explainer's text with the other's."""
    random: Floats
    """Ascending: of texts of different features; empty where there are too few."""

    @property
    def percentiles(self) -> Floats | None:
        """(m,) 0 to 100: the share of random pairs with a lower cosine, ties half."""
        if not len(self.random):
            return None
        below = np.searchsorted(self.random, self.cosines, "left")
        upto = np.searchsorted(self.random, self.cosines, "right")
        return np.asarray(50.0 * (below + upto) / len(self.random))


def compare(vectors: Vectors, a: Explained, b: Explained, seed: int, names: Sequence[str]) -> Pair:
    """Cosines of two explainers, and the random ones: every pair of different features, or N_RANDOM drawn of them.

    The order of the two does not matter where `names` is the same.
    """
    features, at_a, at_b = np.intersect1d(a.features, b.features, assume_unique=True, return_indices=True)
    cosines = _cosines(vectors, a.rows[at_a], b.rows[at_b])
    if min(len(a.features), len(b.features)) < MIN_FEATURES:
        return Pair(features, cosines, np.zeros(0))
    i, j = _different(a.features, b.features, seed, names)
    return Pair(features, cosines, np.sort(_cosines(vectors, a.rows[i], b.rows[j])))


def _different(a: Ints, b: Ints, seed: int, names: Sequence[str]) -> tuple[Ints, Ints]:
    """Indices of pairs of different features."""
    n_pairs = len(a) * len(b)
    if n_pairs <= N_RANDOM:
        flat = np.arange(n_pairs)
    else:
        # a fifth more than wanted: few of them are of one feature
        generator = rng(seed, "explanations of different features", *names)
        flat = generator.integers(0, n_pairs, N_RANDOM * 6 // 5)
    i, j = np.divmod(flat, len(b))
    different = np.flatnonzero(a[i] != b[j])[:N_RANDOM]
    return i[different], j[different]


def _cosines(vectors: Vectors, i: Ints, j: Ints) -> Floats:
    """Of vectors of length 1."""
    found = np.empty(len(i))
    for start in range(0, len(i), BLOCK):
        part = slice(start, start + BLOCK)
        mine, other = vectors[i[part]].astype(np.float64), vectors[j[part]].astype(np.float64)
        found[part] = np.einsum("nd,nd->n", mine, other)
    return np.clip(found, -1.0, 1.0)
