"""Every loader agrees with a scan of the matrix itself, whatever the batches, types and versions of Zarr."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saeinterp_mcp.errors import UnknownName
from saeinterp_mcp.loaders.base import ActivationLoader, Loaded
from saeinterp_mcp.loaders.batches import BatchScanLoader
from saeinterp_mcp.loaders.neuron_acts import NeuronActsLoader
from saeinterp_mcp.loaders.transposed import TransposedLoader
from tests.loaders.seed_files import sparse_matrix, write_batches, write_neurons, write_transposed


def scan(matrix: NDArray[Any], feature: int) -> tuple[list[int], list[float]]:
    """Row by row, as anyone would."""
    rows = [row for row in range(len(matrix)) if matrix[row, feature] != 0]
    return rows, [float(np.float32(matrix[row, feature])) for row in rows]


def loaders(
    matrix: NDArray[Any], folder: Path, cuts: list[int], version: int = 3, chunk: int = 1000
) -> dict[str, ActivationLoader]:
    return {
        "batches": BatchScanLoader(write_batches(matrix, folder / "b", cuts, version, chunk_rows=chunk)),
        "transposed": TransposedLoader(write_transposed(matrix, folder / "t", version, chunk=chunk)),
        "neurons": NeuronActsLoader(write_neurons(matrix, folder / "n")),
    }


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(1, 40),
    n_features=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    version=st.sampled_from([2, 3]),
    chunk=st.sampled_from([3, 1000]),
    kind=st.sampled_from(["f4", "f8", "f2", "u1"]),
)
def test_every_loader_agrees_with_a_scan(
    seed: int,
    n: int,
    n_features: int,
    cuts: list[int],
    version: int,
    chunk: int,
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    matrix = (sparse_matrix(n, n_features, seed, density=0.4) * 3).astype(kind)
    made = loaders(matrix, tmp_path_factory.mktemp("drawn"), cuts, version, chunk)
    for name, loader in made.items():
        assert loader.is_available, name
        assert loader.n_features == n_features, name
        assert loader.n_samples in (n, None), name
        for feature in range(n_features):
            found = loader.load(feature)
            assert found is not None, name
            assert found.indices.dtype == np.int64, name
            assert found.activations.dtype == np.float32, name
            assert (found.indices.tolist(), found.activations.tolist()) == scan(matrix, feature), name


def test_features_above_9999_have_five_digits(tmp_path: Path) -> None:
    matrix = np.zeros((3, 10_003), np.float32)
    matrix[1, 10_001] = 2.5
    matrix[2, 999] = 1.5
    for feature in range(10_003):
        place = tmp_path / f"neuron_{feature:04d}"
        place.mkdir()
        if feature in (999, 9_999, 10_001):
            at = np.flatnonzero(matrix[:, feature])
            np.save(place / "acts.npy", matrix[at, feature])
            np.save(place / "idxs.npy", at)
    loader = NeuronActsLoader(tmp_path)
    assert loader.n_features == 10_003
    assert pairs(loader.load(10_001)) == [(1, 2.5)]
    assert pairs(loader.load(999)) == [(2, 1.5)]
    assert pairs(loader.load(9_999)) == []
    wide = BatchScanLoader(write_batches(matrix, tmp_path / "wide"))
    assert pairs(wide.load(10_001)) == [(1, 2.5)]


def pairs(found: Loaded | None) -> list[tuple[int, float]]:
    assert found is not None
    return list(zip(found.indices.tolist(), found.activations.tolist(), strict=True))


def test_more_than_ten_thousand_batches_would_still_be_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    # batch_10 of a folder without leading zeros comes after batch_9, not after batch_1
    matrix = np.arange(1, 12, dtype=np.float32).reshape(11, 1)
    folder = write_batches(matrix, tmp_path / "b", range(1, 11))
    for path in sorted((folder / "activations").iterdir()):
        path.rename(path.with_name(path.name.replace("batch_000", "batch_").replace("batch_00", "batch_")))
    found = BatchScanLoader(folder).load(0)
    assert found is not None
    assert found.activations.tolist() == list(range(1, 12))


def test_indices_that_are_not_ascending_are_put_in_order(tmp_path: Path) -> None:
    place = tmp_path / "neuron_0000"
    place.mkdir()
    np.save(place / "acts.npy", np.array([3, 1, 0, 2], np.float16))
    np.save(place / "idxs.npy", np.array([30, 10, 5, 20], np.int32))
    assert pairs(NeuronActsLoader(tmp_path).load(0)) == [(10, 1.0), (20, 2.0), (30, 3.0)]


def test_what_is_too_small_for_float32_is_silence(tmp_path: Path) -> None:
    matrix = np.array([[1e-60], [1.0], [-0.0]])
    for name, loader in loaders(matrix, tmp_path, []).items():
        assert pairs(loader.load(0)) == [(1, 1.0)], name


@pytest.mark.parametrize(("negatives", "left"), [("drop", [(0, 1.0)]), ("abs", [(0, 1.0), (2, 2.0)])])
def test_negative_activations_are_dropped_or_turned_as_asked(
    negatives: Any, left: list[tuple[int, float]], tmp_path: Path
) -> None:
    matrix = np.array([[1.0], [0.0], [-2.0]], np.float32)
    made: list[ActivationLoader] = [
        BatchScanLoader(write_batches(matrix, tmp_path / "b"), negatives=negatives),
        TransposedLoader(write_transposed(matrix, tmp_path / "t"), negatives=negatives),
        NeuronActsLoader(write_neurons(matrix, tmp_path / "n"), negatives=negatives),
    ]
    for loader in made:
        assert pairs(loader.load(0)) == left


@pytest.mark.parametrize("feature", [-1, 3])
def test_a_feature_that_is_not_there_is_refused(feature: int, tmp_path: Path) -> None:
    folders = {"batches": "b", "transposed": "t", "neurons": "n"}
    for name, loader in loaders(sparse_matrix(4, 3), tmp_path, []).items():
        with pytest.raises(UnknownName) as caught:
            loader.load(feature)
        where = tmp_path / folders[name]
        assert str(caught.value) == f"feature {feature} is not in {where}, which has 0 to 2"


def test_a_loader_without_files_is_not_available_and_loads_nothing(tmp_path: Path) -> None:
    kinds: list[Any] = [BatchScanLoader, TransposedLoader, NeuronActsLoader]
    for kind in kinds:
        for place in (None, tmp_path / "nowhere", tmp_path):
            assert not kind(place).is_available
            assert kind(place).load(0) is None
