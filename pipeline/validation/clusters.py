"""Clusters of directions (spherical k-means on the vectors themselves, not on their picture), how stable these are, and
the words that set a cluster apart."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.sampling import rng

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

N_DRAWN = 8
"""Points tried for each centre to begin with: with one, k-means often ends with two planted clusters as one."""
N_ITERATIONS = 40
CONVERGED = 3e-4
"""Share of the mean distance to the own centre by which a round must improve, for another one to follow."""
KEPT = 0.8
"""Share of the points in a subsample."""
N_NOISE = 3
"""Subsamples of vectors without structure: enough, for they differ little."""
BLOCK = 2**13
"""Points compared with the centres at a time."""
N_TERMS = 10
MOST_WARD = 10_000
"""Points that Ward's method takes: it holds all pairs of them."""


class Stability(NamedTuple):
    """Adjusted Rand indices of clusterings of subsamples with the clustering of all points."""

    mean: float
    low: float
    high: float
    """The smallest and the largest."""
    noise: float
    """The mean for the same vectors with each column shuffled: what this many clusters reach without structure."""


class Clusters(NamedTuple):
    """One clustering."""

    labels: Labels
    """(n,) from 0, the largest cluster first; of equal ones that of the first point."""
    stability: Stability | None
    """None where none was asked for."""


def possible(n_clusters: Sequence[int], n: int) -> tuple[list[int], list[str]]:
    """The numbers of clusters that `n` points allow (two points each on average), ascending; a sentence for others."""
    asked = sorted(set(n_clusters))
    notes = [f"{k} clusters are left out: there are {n} points" for k in asked if 2 * k > n]
    return [k for k in asked if 2 * k <= n], notes


def cluster(vectors: Vectors, k: int, seed: int, n_stability: int) -> Clusters:
    """`k` clusters of (n, d) directions of length 1, and their stability over `n_stability` subsamples."""
    labels = by_size(spherical_k_means(vectors, k, rng(seed, "clusters", k)))
    if not n_stability:
        return Clusters(labels, None)
    found = list(_agreements(vectors, labels, k, seed, n_stability))
    noise = shuffled_columns(vectors, seed)
    of_noise = by_size(spherical_k_means(noise, k, rng(seed, "clusters", k)))
    by_chance = list(_agreements(noise, of_noise, k, seed, min(N_NOISE, n_stability)))
    return Clusters(
        labels, Stability(float(np.mean(found)), min(found), max(found), float(np.mean(by_chance)))
    )


def _agreements(vectors: Vectors, labels: Labels, k: int, seed: int, times: int) -> Iterator[float]:
    n = len(vectors)
    for i in range(times):
        generator = rng(seed, "clusters of a part", k, i)
        part = np.sort(generator.choice(n, max(k, int(KEPT * n)), replace=False))
        yield adjusted_rand(labels[part], spherical_k_means(vectors[part], k, generator))


def spherical_k_means(vectors: Vectors, k: int, generator: np.random.Generator) -> Labels:
    """(n,) cluster of each direction (Dhillon & Modha 2001), begun at far points (k-means++).

    Fewer than `k` clusters only where fewer points differ.
    """
    centres = _far_points(vectors, k, generator)
    before = np.inf
    for _ in range(N_ITERATIONS):
        labels, cosines = _assigned(vectors, centres)
        distance = float(np.mean(1 - cosines.astype(np.float64)))
        if before - distance <= CONVERGED * distance:
            break
        before = distance
        centres = _centres(vectors, labels, cosines, centres)
    return labels


def _far_points(vectors: Vectors, k: int, generator: np.random.Generator) -> Vectors:
    """`k` of the rows, each the best of a few that are drawn by their distance from the nearest before them.

    Greedy k-means++ (Arthur & Vassilvitskii 2007): of N_DRAWN that which leaves the smallest sum of distances.
    """
    n = len(vectors)
    chosen = [int(generator.integers(n))]
    distance = _distances(vectors, chosen)[:, 0]
    while len(chosen) < k:
        total = np.cumsum(distance)
        if total[-1] <= 0:
            break
        drawn = np.searchsorted(total, generator.random(N_DRAWN) * total[-1], side="right")
        left = np.minimum(_distances(vectors, np.minimum(drawn, n - 1).tolist()), distance[:, None])
        best = int(left.sum(axis=0).argmin())
        chosen.append(int(min(drawn[best], n - 1)))
        distance = left[:, best]
    return np.ascontiguousarray(vectors[chosen])


def _distances(vectors: Vectors, chosen: list[int]) -> Floats:
    """(n, len(chosen)) 1 - cosine; 0 where only the last bits differ, so that no point is chosen twice."""
    found = 1 - (vectors @ vectors[chosen].T).astype(np.float64)
    return np.where(found > 1e-6, found, 0)


def _assigned(vectors: Vectors, centres: Vectors) -> tuple[Labels, Vectors]:
    """The nearest centre of each point (the first of equal ones), and its cosine."""
    labels = np.empty(len(vectors), np.int64)
    cosines = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK] @ centres.T
        labels[start : start + BLOCK] = best = part.argmax(axis=1)
        cosines[start : start + BLOCK] = part[np.arange(len(part)), best]
    return labels, cosines


def _centres(vectors: Vectors, labels: Labels, cosines: Vectors, before: Vectors) -> Vectors:
    """Directions of the sums of clusters; an empty one begins anew at the point farthest from its centre."""
    from scipy import sparse

    n, k = len(vectors), len(before)
    membership = sparse.csr_array(
        (np.ones(n, np.float32), labels, np.arange(n + 1)), shape=(n, k)
    )  # a row a point
    sums = np.asarray(membership.T.tocsr() @ vectors)
    empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
    sums[empty] = vectors[np.argsort(cosines, kind="stable")[: len(empty)]]
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(length > 0, sums / np.maximum(length, 1e-12), before).astype(np.float32)


def by_size(labels: NDArray[np.integer]) -> Labels:
    """The clusters numbered anew: the largest is 0; of equal ones that of the first point comes first."""
    names, first, inverse, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(names), np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(names))
    return np.asarray(rank[inverse])


def shuffled_columns(vectors: Vectors, seed: int) -> Vectors:
    """Directions with the same numbers in each column, in another order in each: no structure is left."""
    generator = rng(seed, "shuffled columns")
    noise = np.empty(vectors.shape, np.float32)
    for column in range(vectors.shape[1]):
        noise[:, column] = vectors[generator.permutation(len(vectors)), column]
    length = np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(np.divide(noise, length, out=noise, where=length > 0))


def adjusted_rand(a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
    """Agreement of two clusterings: 1 the same, 0 by chance (Hubert & Arabie 1985); 1 where both have one cluster, or
    one a point."""
    pairs = np.unique(np.stack([a, b]), axis=1, return_counts=True)[1]
    together = _pairs(pairs)
    in_a, in_b = (_pairs(np.unique(one, return_counts=True)[1]) for one in (a, b))
    expected = in_a * in_b / max(1.0, _pairs(np.array([len(a)])))
    most = (in_a + in_b) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def _pairs(counts: NDArray[np.integer]) -> float:
    return float(np.sum(counts.astype(np.float64) * (counts - 1) / 2))


def ward(places: Floats, k: int) -> Labels:
    """`k` clusters of (n, 2) places of a picture, by Ward's method: what SAE_vis did, with its labels."""
    from sklearn.cluster import AgglomerativeClustering

    found = AgglomerativeClustering(n_clusters=k, linkage="ward").fit_predict(places)
    return np.asarray(found, np.int64)


def names_of(labels: Labels, terms: Sequence[Sequence[str]]) -> dict[int, list[str]]:
    """The terms that set each cluster apart, the strongest first, at most N_TERMS.

    Class-based TF-IDF (Grootendorst 2022): how often a term is in a cluster, times log(1 + mean terms of a cluster /
    how often it is in all). A term counts once in a text.
    """
    of_cluster: dict[int, Counter[str]] = {}
    for label, words in zip(labels.tolist(), terms, strict=True):
        of_cluster.setdefault(label, Counter()).update(sorted(set(words)))
    everywhere = sum(of_cluster.values(), Counter[str]())
    mean = everywhere.total() / max(1, len(of_cluster))
    names = {}
    for label, counts in sorted(of_cluster.items()):
        weight = {term: n * np.log1p(mean / everywhere[term]) for term, n in counts.items()}
        names[label] = sorted(weight, key=lambda term: (-weight[term], term))[:N_TERMS]
    return names


def statistics_of(labels: Labels, places: Floats | None) -> list[dict[str, object]]:
    """For each cluster its size, and where it lies on the picture (null without one)."""
    found = []
    for label in range(int(labels.max(initial=-1)) + 1):
        mine = labels == label
        record: dict[str, object] = {"cluster_id": label, "size": int(mine.sum())}
        here = None if places is None else places[mine]
        record["centroid"] = None if here is None else _xy(here.mean(axis=0))
        record["std"] = None if here is None else _xy(here.std(axis=0))
        record["bounds"] = (
            None if here is None else {"min": _xy(here.min(axis=0)), "max": _xy(here.max(axis=0))}
        )
        found.append(record)
    return found


def _xy(pair: Floats) -> list[float]:
    return [round(float(value), 6) + 0.0 for value in pair]
