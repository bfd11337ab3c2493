"""Hierarchical clusters of features along known neighbours: average linkage with the cosines that there are.

SAE_vis took a distance of 1 for every pair outside the lists of neighbours, so that no larger cluster could ever merge
below about 1. Here two clusters merge only along a known pair of neighbours, at the true mean cosine between all their
members, which the sums of their directions give: mean = (s_A . s_B) / (|A| |B|).
"""

import heapq
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DIGITS = 6
"""Digits of a cosine that decide what merges first; ties go to the clusters with the lower numbers."""
BLOCK = 2**14
"""Pairs whose cosines are taken at a time."""
SMALL = 0.1
"""Largest share of a cluster that is taken in with bounds: the bounds of its mean cosines rise by as much."""
MARGIN = 0.0003
"""Bounds that lie as near to the first one are worked out with it."""
SLACK = 2 * 10.0**-DIGITS
"""What rounding may take from a bound."""
LATER = 2**62
NOTHING: Ints = np.zeros(0, np.int64)


class Merges(NamedTuple):
    """Merges in their order; cluster n_features + i is that of merge i."""

    a: Ints
    """(m,) the one with the lower number."""
    b: Ints
    cosine: Floats
    """(m,) mean cosine between members of both; of the closest members, without directions."""
    size: Ints
    """(m,) members of both together."""


def edges_of(
    features: NDArray[np.integer], cosines: NDArray[np.floating], n_features: int
) -> tuple[Ints, Floats]:
    """((e, 2) pairs, the lower first and ascending; (e,) their cosines), of lists of neighbours (F, k).

    A pair in two lists is one, with the larger cosine; places without a neighbour (an index from `n_features` on, a
    cosine that is no number, the feature itself) are passed over.
    """
    here = np.repeat(np.arange(len(features)), features.shape[1])
    there = features.ravel().astype(np.int64)
    value = cosines.ravel().astype(np.float64)
    good = np.isfinite(value) & (there >= 0) & (there < n_features) & (there != here)
    pairs = np.stack([np.minimum(here, there), np.maximum(here, there)], axis=1)[good]
    value = value[good]
    order = np.lexsort((-value, pairs[:, 1], pairs[:, 0]))
    pairs, value = pairs[order], value[order]
    new = np.ones(len(pairs), np.bool_)
    new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[new], value[new]


def average_merges(
    pairs: Ints,
    vectors: NDArray[np.floating],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merges:
    """Average linkage of the (n, d) directions of length 1, along the pairs alone."""
    n = len(vectors)
    merged: list[tuple[int, int, float, int]] = []
    with threadpool_limits(1):
        links = _Links(pairs, vectors)
        while (best := links.pop()) is not None:
            slot, other, cosine = best
            a, b = sorted((links.number[slot], links.number[other]))
            merged.append((a, b, cosine, links.size[slot] + links.size[other]))
            links.merge(slot, other, n + len(merged) - 1)
            if len(merged) % 256 == 0:
                progress(len(merged), n)
    return _merges(merged)


def single_merges(pairs: Ints, cosines: Floats, n: int) -> Merges:
    """Single linkage along the pairs: what can be said where only cosines of neighbours are known."""
    found = _Forest(n)
    merged: list[tuple[int, int, float, int]] = []
    for i in np.lexsort((pairs[:, 1], pairs[:, 0], -np.round(cosines, DIGITS))).tolist():
        a, b = sorted((found.top(int(pairs[i, 0])), found.top(int(pairs[i, 1]))))
        if a != b:
            found.join(a, b)
            merged.append((a, b, float(cosines[i]), found.size[-1]))
    return _merges(merged)


def clusters_at(a: Ints, b: Ints, cosines: NDArray[np.floating], n_features: int, at: float) -> Ints:
    """(n_features,) cluster of each feature when merges stop below the cosine `at`, numbered by their first feature.

    A merge above it that needs one below it is not made. (Along known pairs a later merge may have a larger cosine.)
    """
    m = len(a)
    reached = np.concatenate([np.full(n_features, np.inf), np.asarray(cosines, np.float64)])
    top = np.arange(n_features + m)
    for i in range(m):
        reached[n_features + i] = min(reached[n_features + i], reached[a[i]], reached[b[i]])
    for i in range(m - 1, -1, -1):
        if reached[n_features + i] >= at:
            top[a[i]] = top[b[i]] = top[n_features + i]
    _, first, labels = np.unique(top[:n_features], return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[labels], np.int64)


def _merges(merged: list[tuple[int, int, float, int]]) -> Merges:
    a, b, cosine, size = zip(*merged, strict=True) if merged else ((), (), (), ())
    return Merges(np.array(a, np.int64), np.array(b, np.int64), np.array(cosine), np.array(size, np.int64))


class _Forest:
    """Which cluster each feature is in, while clusters join."""

    def __init__(self, n: int) -> None:
        self._above = list(range(n))
        self.size = [1] * n

    def top(self, one: int) -> int:
        while self._above[one] != one:
            self._above[one] = self._above[self._above[one]]
            one = self._above[one]
        return one

    def join(self, a: int, b: int) -> None:
        new = len(self._above)
        self._above[a] = self._above[b] = new
        self._above.append(new)
        self.size.append(self.size[a] + self.size[b])


class _Links:
    """Clusters, and the mean cosines of each with its neighbours, worked out when they matter.

    A cluster has the slot of its largest part. A large one that takes in a small one hardly changes its mean cosines,
    so they are bounded from above and worked out only when a bound comes first; all others at once. What a slot knows
    of a neighbour holds until that one changes; then the neighbour knows.
    """

    def __init__(self, pairs: Ints, vectors: NDArray[np.floating]) -> None:
        n = len(vectors)
        self._sums = np.array(vectors, np.float32)
        self.size = [1] * n
        self.number = list(range(n))
        """Name of the cluster in a slot: a feature, or n + merge."""
        self._sizes, self._numbers = np.ones(n), np.arange(n)
        self._changed = np.zeros(n, np.int64)
        """Merge that made the cluster in a slot, from 1; LATER for a slot that is part of another."""
        self._part_of = np.arange(n)
        self._n_merges = 0
        both = np.concatenate([pairs, pairs[:, ::-1]])
        cosines = np.tile(_pair_cosines(self._sums, pairs), 2)
        order = np.lexsort((both[:, 1], both[:, 0]))
        starts = np.searchsorted(both[order, 0], np.arange(n + 1))
        ids, values = both[order, 1], cosines[order]
        self._near = [ids[i:j] for i, j in pairwise(starts.tolist())]
        self._most = [values[i:j].copy() for i, j in pairwise(starts.tolist())]
        """Mean cosine with each neighbour, or an upper bound; -inf where the neighbour knows."""
        self._exact = [np.ones(len(one), np.bool_) for one in self._near]
        self._waiting = [key for slot in range(n) if (key := self._best(slot)) is not None]
        heapq.heapify(self._waiting)

    def pop(self) -> tuple[int, int, float] | None:
        """The two clusters with the largest mean cosine (of equal ones those with the lowest numbers), and it."""
        while self._waiting:
            key = heapq.heappop(self._waiting)
            slot = key.slot
            if self._changed[slot] != key.changed:
                continue
            best = self._best(slot)
            if best is not None and best == key:
                if best.exact:
                    return slot, best.other, -best.minus_cosine
                self._work_out(slot, -best.minus_cosine)
                best = self._best(slot)
            if best is not None:
                heapq.heappush(self._waiting, best)
        return None

    def merge(self, a: int, b: int, number: int) -> None:
        """Put the clusters of two slots together."""
        big, small = (a, b) if (self.size[a], -a) > (self.size[b], -b) else (b, a)
        known, most = self._known(big)
        near = self._slots_of(np.concatenate([self._near[big], self._near[small]]))
        near = near[(near != big) & (near != small)]
        self._part_of[small] = big
        self._sums[big] += self._sums[small]
        share = self.size[small] / (self.size[big] + self.size[small])
        self._set(big, self.size[big] + self.size[small], number)
        self._changed[small] = LATER
        self._near[small] = NOTHING
        bounds = np.full(len(near), np.inf)
        if share <= SMALL:
            others = known != small  # all of them are still there, so they are in `near`
            bounds[np.searchsorted(near, known[others])] = (1 - share) * most[others] + share + SLACK
        self._near[big], self._most[big] = near, bounds
        self._exact[big] = np.zeros(len(near), np.bool_)
        self._work_out(big, np.inf)
        best = self._best(big)
        if best is not None:
            heapq.heappush(self._waiting, best)

    def _known(self, slot: int) -> tuple[Ints, Floats]:
        """Neighbours whose mean cosine or bound this slot holds, ascending."""
        holds = self._changed[self._near[slot]] <= self._changed[slot]
        return self._near[slot][holds], self._most[slot][holds]

    def _slots_of(self, slots: Ints) -> Ints:
        """The slots that some are part of by now, ascending, each once."""
        found = self._part_of[slots]
        while (found != (above := self._part_of[found])).any():
            found = above
        self._part_of[slots] = found
        return np.unique(found)

    def _set(self, slot: int, size: int, number: int) -> None:
        self._n_merges += 1
        self._changed[slot] = self._n_merges
        self.size[slot] = size
        self.number[slot] = number
        self._sizes[slot], self._numbers[slot] = size, number

    def _best(self, slot: int) -> "_Key | None":
        """The neighbour with the largest mean cosine or bound."""
        near, most = self._near[slot], self._most[slot]
        most[self._changed[near] > self._changed[slot]] = -np.inf
        value = most.max(initial=-np.inf)
        if value == -np.inf:
            return None
        first = np.flatnonzero(most == value)
        exact = bool(self._exact[slot][first].all())
        other = int(near[first[np.argmin(self._numbers[near[first]])]])
        a, b = sorted((self.number[slot], self.number[other]))
        return _Key(-float(value), exact, a, b, slot, other, int(self._changed[slot]))

    def _work_out(self, slot: int, bound: float) -> None:
        """Put mean cosines in place of bounds, of those about as large as this one."""
        at = np.flatnonzero(~self._exact[slot] & (self._most[slot] >= bound - MARGIN))
        others = self._near[slot][at]
        products = self._sums[others] @ self._sums[slot]
        self._most[slot][at] = np.round(products / (self._sizes[others] * self._sizes[slot]), DIGITS)
        self._exact[slot][at] = True


class _Key(NamedTuple):
    """A pair of clusters that may be next; at equal cosines bounds come first, then lower numbers."""

    minus_cosine: float
    exact: bool
    a: int
    b: int
    slot: int
    other: int
    changed: int


def _pair_cosines(vectors: NDArray[np.float32], pairs: Ints) -> Floats:
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        a, b = pairs[start : start + BLOCK].T
        found[start : start + BLOCK] = np.einsum("ed,ed->e", vectors[a], vectors[b])
    return np.round(found, DIGITS)
