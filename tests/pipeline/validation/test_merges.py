"""Clusters that merge along known neighbours, beside SciPy's linkage and a slow one that follows the definition."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from pipeline.validation.merges import Merges, average_merges, clusters_at, edges_of, single_merges
from saeinterp_mcp.store.layout import NO_INDEX

Vectors = NDArray[np.float32]


def directions(n: int, d: int, seed: int, common: float = 0.0) -> Vectors:
    """Random ones; `common` draws some of them towards one direction, so that one cluster takes in the others."""
    generator = np.random.default_rng(seed)
    share = common * generator.random((n, 1))
    vectors = share * generator.normal(size=(1, d)) + (1 - share) * generator.normal(size=(n, d))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def all_pairs(n: int) -> NDArray[np.int64]:
    return np.array(list(combinations(range(n), 2)), np.int64)


def nearest_pairs(vectors: Vectors, k: int) -> NDArray[np.int64]:
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    near = np.argsort(-cosines, axis=1)[:, :k]
    return edges_of(near, np.take_along_axis(cosines, near, axis=1), len(vectors))[0]


def by_definition(pairs: NDArray[np.int64], vectors: Vectors) -> list[tuple[int, int, float, int]]:
    """Every round: of all pairs of clusters with a known pair between them, the one of the largest mean cosine."""
    cosines = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    members = {i: [i] for i in range(len(vectors))}
    known = {frozenset(pair) for pair in pairs.tolist()}
    merged: list[tuple[int, int, float, int]] = []
    while known:
        found = []
        for pair in known:
            a, b = sorted(pair)
            found.append((-round(float(cosines[np.ix_(members[a], members[b])].mean()), 6), a, b))
        distance, a, b = min(found)
        new = len(vectors) + len(merged)
        members[new] = members.pop(a) + members.pop(b)
        renamed = {frozenset(new if one in (a, b) else one for one in pair) for pair in known}
        known = {pair for pair in renamed if len(pair) == 2}
        merged.append((a, b, -distance, len(members[new])))
    return merged


def listed(merges: Merges) -> list[tuple[int, int, float, int]]:
    return list(zip(*(column.tolist() for column in merges), strict=True))


def test_all_pairs_known_is_average_linkage() -> None:
    vectors = directions(80, 6, 0)
    merges = average_merges(all_pairs(80), vectors)
    expected = linkage(squareform(1 - vectors @ vectors.T, checks=False), "average")
    pairs = np.sort(expected[:, :2], axis=1)
    np.testing.assert_array_equal(np.stack([merges.a, merges.b], axis=1), pairs)
    np.testing.assert_allclose(merges.cosine, 1 - expected[:, 2], atol=2e-6)
    np.testing.assert_array_equal(merges.size, expected[:, 3])


@pytest.mark.parametrize(("common", "n", "k"), [(0.0, 70, 4), (1.0, 90, 3), (1.5, 90, 8)])
def test_few_pairs_known_is_the_definition_followed_slowly(common: float, n: int, k: int) -> None:
    """With a common direction one cluster takes in hundreds, one by one: where bounds stand for mean cosines."""
    vectors = directions(n, 12, 3, common)
    pairs = nearest_pairs(vectors, k)
    merges = listed(average_merges(pairs, vectors))
    expected = by_definition(pairs, vectors)
    assert [one[:2] for one in merges] == [one[:2] for one in expected]
    assert [one[3] for one in merges] == [one[3] for one in expected]
    np.testing.assert_allclose([one[2] for one in merges], [one[2] for one in expected], atol=3e-6)


def test_nothing_merges_without_a_known_pair() -> None:
    """Two triangles of equal directions, with no neighbour in common, and a feature without any."""
    vectors = np.tile(np.array([[0.6, 0.8]], np.float32), (7, 1))
    pairs = np.array([[0, 1], [1, 2], [0, 2], [3, 4], [4, 5]], np.int64)
    merges = average_merges(pairs, vectors)
    assert listed(merges) == [(0, 1, 1.0, 2), (2, 7, 1.0, 3), (3, 4, 1.0, 2), (5, 9, 1.0, 3)]
    assert clusters_at(merges.a, merges.b, merges.cosine, 7, -1).tolist() == [0, 0, 0, 1, 1, 1, 2]
    nothing = average_merges(np.zeros((0, 2), np.int64), vectors)
    assert listed(nothing) == []
    assert clusters_at(nothing.a, nothing.b, nothing.cosine, 7, 0).tolist() == list(range(7))


def test_a_mean_cosine_counts_pairs_that_are_in_no_list() -> None:
    """0 and 1 merge at .8; with 2 only 1 is a neighbour (.6), yet 0 is a member too: (.6 + 0) / 2."""
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    merges = average_merges(np.array([[0, 1], [1, 2]], np.int64), vectors)
    assert listed(merges) == [(0, 1, 0.8, 2), (2, 3, 0.3, 3)]


def test_single_linkage_is_what_neighbours_alone_allow() -> None:
    vectors = directions(60, 6, 1)
    pairs = all_pairs(60)
    cosines = np.array([vectors[a] @ vectors[b] for a, b in pairs.tolist()], np.float64)
    merges = single_merges(pairs, cosines, 60)
    expected = linkage(squareform(1 - vectors @ vectors.T, checks=False), "single")
    np.testing.assert_array_equal(np.stack([merges.a, merges.b], axis=1), np.sort(expected[:, :2], axis=1))
    np.testing.assert_allclose(merges.cosine, 1 - expected[:, 2], atol=1e-6)


def test_clusters_at_a_cosine_are_those_of_scipy() -> None:
    vectors = directions(80, 6, 2)
    merges = average_merges(all_pairs(80), vectors)
    tree = linkage(squareform(1 - vectors @ vectors.T, checks=False), "average")
    for cosine in (0.9, 0.6, 0.3, 0.0):
        mine = clusters_at(merges.a, merges.b, merges.cosine, 80, cosine)
        theirs = fcluster(tree, 1 - cosine, "distance")
        same = {(int(a), int(b)) for a, b in zip(mine, theirs, strict=True)}
        assert len(same) == mine.max() + 1 == theirs.max()


def test_a_merge_that_needs_a_lower_one_waits_for_it() -> None:
    """(0, 1) at .2 is cluster 4; 2 joins it at .5, then 3 at .5: at .4 none of them is made, not even (2, 3)."""
    a, b, cosine = np.array([0, 2, 3]), np.array([1, 4, 5]), np.array([0.2, 0.5, 0.5])
    assert clusters_at(a, b, cosine, 4, 0.4).tolist() == [0, 1, 2, 3]
    assert clusters_at(a, b, cosine, 4, 0.1).tolist() == [0, 0, 0, 0]


def test_lists_of_neighbours_become_pairs() -> None:
    features = np.array([[1, NO_INDEX], [0, 2], [2, NO_INDEX]], np.uint32)
    cosines = np.array([[0.5, np.nan], [0.5, 0.25], [1.0, np.nan]], np.float32)
    pairs, values = edges_of(features, cosines, 3)
    assert pairs.tolist() == [[0, 1], [1, 2]]
    assert values.tolist() == [0.5, 0.25]
    pairs, values = edges_of(np.zeros((4, 0), np.uint32), np.zeros((4, 0), np.float32), 4)
    assert (pairs.tolist(), values.tolist()) == ([], [])
