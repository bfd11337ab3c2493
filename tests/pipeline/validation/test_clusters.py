"""Clusters of directions: planted ones are found, noise is told as noise, and the number of one says its size."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from pipeline.validation.clusters import (
    adjusted_rand,
    by_size,
    cluster,
    names_of,
    possible,
    shuffled_columns,
    spherical_k_means,
    statistics_of,
    ward,
)

Vectors = NDArray[np.float32]
PLANTED = np.repeat(np.arange(4), [60, 50, 40, 30])


def unit(vectors: NDArray[np.float64]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def planted() -> Vectors:
    """180 directions around four topics of 32 dimensions."""
    generator = np.random.default_rng(0)
    return unit(generator.normal(size=(4, 32))[PLANTED] + 0.4 * generator.normal(size=(180, 32)))


def test_planted_clusters_are_found_and_are_stable(planted: Vectors) -> None:
    found = cluster(planted, 4, seed=0, n_stability=5)
    assert found.labels.tolist() == PLANTED.tolist()
    assert found.stability is not None
    assert (found.stability.mean, found.stability.low, found.stability.high) == (1, 1, 1)
    assert found.stability.noise < 0.3


def test_points_are_in_the_cluster_whose_middle_is_nearest() -> None:
    """On a cloud without gaps, where the first centres are not the last; near a border a last round is left out."""
    vectors = unit(np.random.default_rng(1).normal(size=(600, 3)))
    labels = spherical_k_means(vectors, 8, np.random.default_rng(0))
    middles = unit(np.array([vectors[labels == k].sum(axis=0) for k in range(8)]))
    assert np.mean((vectors @ middles.T).argmax(axis=1) == labels) > 0.98


def test_clusters_of_noise_are_no_stabler_than_noise(planted: Vectors) -> None:
    noise = cluster(shuffled_columns(planted, 1), 4, seed=0, n_stability=5).stability
    assert noise is not None
    assert abs(noise.mean - noise.noise) < 0.2
    assert noise.mean < 0.4


def test_shuffled_columns_hold_the_same_numbers_and_no_structure(planted: Vectors) -> None:
    noise = shuffled_columns(planted, 0)
    within = [planted[k == PLANTED] @ planted[k == PLANTED].T for k in range(4)]
    shuffled = [noise[k == PLANTED] @ noise[k == PLANTED].T for k in range(4)]
    assert min(one.mean() for one in within) > 0.7
    assert max(one.mean() for one in shuffled) < 0.4
    np.testing.assert_allclose(np.linalg.norm(noise, axis=1), 1, atol=1e-6)


def test_points_on_the_same_places_make_no_more_clusters_than_places() -> None:
    vectors = unit(np.repeat(np.eye(3), [5, 3, 4], axis=0))
    labels = by_size(spherical_k_means(vectors, 6, np.random.default_rng(0)))
    assert labels.tolist() == [0] * 5 + [2] * 3 + [1] * 4


def test_the_largest_cluster_is_0_and_of_equal_ones_the_first() -> None:
    assert by_size(np.array([7, 3, 3, 9, 9, 9, 5])).tolist() == [2, 1, 1, 0, 0, 0, 3]


@pytest.mark.parametrize("seed", range(5))
def test_agreement_is_that_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 5, 60), generator.integers(0, 4, 60)
    b[:30] = a[:30]
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)


def test_agreement_of_one_cluster_or_of_single_points_is_1() -> None:
    assert adjusted_rand(np.zeros(5, np.int64), np.zeros(5, np.int64)) == 1
    assert adjusted_rand(np.arange(5), np.arange(5)) == 1


def test_ward_on_places_gives_the_labels_that_the_original_gave() -> None:
    places = np.random.default_rng(0).normal(size=(50, 2))
    expected = AgglomerativeClustering(n_clusters=7, linkage="ward").fit_predict(places)
    assert ward(places, 7).tolist() == expected.tolist()


def test_numbers_of_clusters_that_the_points_do_not_allow_are_told() -> None:
    assert possible((90, 10, 30), 100) == ([10, 30], ["90 clusters are left out: there are 100 points"])


def test_statistics_are_of_the_picture() -> None:
    places = np.array([[0.0, 0.0], [2.0, 4.0], [5.0, 5.0]])
    assert statistics_of(np.array([0, 0, 1]), places) == [
        {
            "cluster_id": 0,
            "size": 2,
            "centroid": [1.0, 2.0],
            "std": [1.0, 2.0],
            "bounds": {"min": [0.0, 0.0], "max": [2.0, 4.0]},
        },
        {
            "cluster_id": 1,
            "size": 1,
            "centroid": [5.0, 5.0],
            "std": [0.0, 0.0],
            "bounds": {"min": [5.0, 5.0], "max": [5.0, 5.0]},
        },
    ]
    assert statistics_of(np.array([0, 0]), None) == [
        {"cluster_id": 0, "size": 2, "centroid": None, "std": None, "bounds": None}
    ]


def test_names_are_terms_that_set_a_cluster_apart() -> None:
    """`token` is in all texts: 5 of 10 terms. In cluster 0, 3 log(1 + 5 / 3) for `quote`, 3 log(1 + 5 / 5) for it."""
    terms = [
        ("quote", "token"),
        ("token", "quote", "quote"),
        ("quote", "token"),
        ("self", "token"),
        ("token", "self"),
    ]
    assert names_of(np.array([0, 0, 0, 1, 1]), terms) == {0: ["quote", "token"], 1: ["self", "token"]}
