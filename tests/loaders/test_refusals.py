"""What a loader refuses, message by message: never fewer rows in silence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.loaders.base import ActivationLoader
from saeinterp_mcp.loaders.batches import BatchScanLoader
from saeinterp_mcp.loaders.neuron_acts import NeuronActsLoader
from saeinterp_mcp.loaders.transposed import TransposedLoader
from tests.loaders.seed_files import save_zarr, sparse_matrix, write_batches, write_neurons, write_transposed

MATRIX = sparse_matrix(40, 3, density=0.5)
Change = Callable[[Path], None]
BATCH_1 = "activations/batch_0001.zarr"


class Case(NamedTuple):
    name: str
    change: Change
    message: str
    """The whole message; `HERE` is the folder, `...` what a library says."""


def lost(name: str) -> Change:
    def change(folder: Path) -> None:
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    return change


def says(name: str, **fields: Any) -> Change:
    """Other fields in a record."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def bytes_of(name: str, content: Callable[[bytes], bytes]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content((folder / name).read_bytes()))

    return change


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def replaced(name: str, matrix: Any) -> Change:
    """Another array in the place of a batch."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder / name)
        save_zarr(folder / name, matrix, (10, matrix.shape[1]), "zstd", 3)

    return change


def cell(name: str, value: float, row: int, column: int) -> Change:
    def change(folder: Path) -> None:
        import zarr

        zarr.open_array(str(folder / name), mode="r+")[row, column] = value

    return change


def table(**columns: Any) -> Change:
    """Other columns in the table of batch 1."""

    def change(folder: Path) -> None:
        path = folder / "metadata" / "batch_0001.parquet"
        pl.read_parquet(path).with_columns(**{n: pl.Series(v) for n, v in columns.items()}).write_parquet(
            path
        )

    return change


def shorter(folder: Path) -> None:
    path = folder / "metadata" / "batch_0001.parquet"
    pl.read_parquet(path).head(5).write_parquet(path)


def saved(name: str, array: Any) -> Change:
    return lambda folder: np.save(folder / name, np.asarray(array))


MIXED = "The conversion was interrupted or its files were mixed; convert again."
REPAIR = "Make the file again from its source; what can be read of it is not all of it."
BATCHES = [
    Case(
        "the record is missing",
        lost("conversion_metadata.json"),
        "HERE/conversion_metadata.json: expected the record of a finished conversion; found no such file. "
        "An interrupted conversion cannot be told from silence without it: convert again, or say that the arrays are "
        "whole (trust_arrays; --trust-arrays on the command line).",
    ),
    Case(
        "the record is no JSON",
        bytes_of("conversion_metadata.json", half),
        f"HERE/conversion_metadata.json: expected a JSON object; found .... {REPAIR}",
    ),
    Case(
        "the record names more batches",
        says("conversion_metadata.json", n_batches=4),
        f"HERE/conversion_metadata.json: expected n_batches 4, as it says; found 3 batches. {MIXED}",
    ),
    Case(
        "the record names more rows",
        says("conversion_metadata.json", total_samples=41, batch_stats=[]),
        f"HERE/conversion_metadata.json: expected total_samples 41, as it says; found 40 rows in all batches. {MIXED}",
    ),
    Case(
        "the record names other rows of a batch",
        says(
            "conversion_metadata.json", batch_stats=[{"n_samples": 10}, {"n_samples": 11}, {"n_samples": 19}]
        ),
        f"HERE/{BATCH_1}: expected n_samples 11, as it says; found 10 rows. {MIXED}",
    ),
    Case(
        "a batch between others is missing",
        lost(BATCH_1),
        f"HERE/activations: expected batch_0001.zarr before batch_0002.zarr; found no such file. {MIXED}",
    ),
    Case(
        "the last batch is missing",
        lost("activations/batch_0002.zarr"),
        f"HERE/conversion_metadata.json: expected n_batches 3, as it says; found 2 batches. {MIXED}",
    ),
    Case(
        "a batch has other features",
        replaced(BATCH_1, sparse_matrix(10, 4)),
        f"HERE/{BATCH_1}: expected 3 features, as the others; found 4. {MIXED}",
    ),
    Case(
        "a batch has fewer rows than the record says",
        replaced(BATCH_1, sparse_matrix(9, 3)),
        f"HERE/conversion_metadata.json: expected total_samples 40, as it says; found 39 rows in all batches. {MIXED}",
    ),
    Case(
        "a batch's array is cut",
        bytes_of(f"{BATCH_1}/zarr.json", half),
        f"HERE/{BATCH_1}: expected a Zarr array of version 2 or 3; found .... {REPAIR}",
    ),
    Case(
        "a chunk is cut",
        bytes_of(f"{BATCH_1}/c/0/0", half),
        f"HERE/{BATCH_1}: expected chunks that can be decoded (rows 0 to 9, columns 1); found a damaged one: .... "
        f"{REPAIR}",
    ),
    Case(
        "a table is missing",
        lost("metadata/batch_0002.parquet"),
        f"HERE/metadata: expected 3 tables; found 2. {MIXED}",
    ),
    Case(
        "a table has fewer rows",
        shorter,
        f"HERE/metadata/batch_0001.parquet: expected 10 rows, as batch_0001.zarr; found 5 rows. {MIXED}",
    ),
    Case(
        "a table is cut",
        bytes_of("metadata/batch_0001.parquet", half),
        f"HERE/metadata/batch_0001.parquet: expected a Parquet table; found .... {MIXED}",
    ),
    Case(
        "an activation is NaN",
        cell(BATCH_1, float("nan"), 4, 1),
        f"HERE/{BATCH_1}: expected numbers that are finite in float32; found nan for feature 1 at row 14. {REPAIR}",
    ),
    Case(
        "an activation is negative",
        cell(BATCH_1, -2.0, 4, 1),
        f"HERE/{BATCH_1}: expected activations above 0; found -2.0 for feature 1 at row 14. "
        "Say what to do with negative activations: negatives='drop' or 'abs'.",
    ),
]
TRANSPOSE = "The transposition was interrupted or its files were mixed; transpose again."
TRANSPOSED = [
    Case(
        "the record is missing",
        lost("transposed_metadata.json"),
        "HERE/transposed_metadata.json: expected the record of a finished transposition; found no such file. "
        "An interrupted transposition cannot be told from silence without it: transpose again, or say that the array "
        "is whole (trust_arrays; --trust-arrays on the command line).",
    ),
    Case(
        "the record names more samples",
        says("transposed_metadata.json", n_samples=41),
        "HERE/transposed_metadata.json: expected n_samples 41, as it says; "
        f"found 40 columns in transposed_activations.zarr. {TRANSPOSE}",
    ),
    Case(
        "the record names another shape",
        says("transposed_metadata.json", shape=[3, 41]),
        f"HERE/transposed_metadata.json: expected shape [3, 41], as it says; found [3, 40]. {TRANSPOSE}",
    ),
    Case(
        "a chunk is cut",
        bytes_of("transposed_activations.zarr/c/1/0", half),
        "HERE/transposed_activations.zarr: expected chunks that can be decoded (rows 1, columns 0 to 39); "
        f"found a damaged one: .... {REPAIR}",
    ),
    Case(
        "an activation is infinite",
        cell("transposed_activations.zarr", float("inf"), 1, 7),
        "HERE/transposed_activations.zarr: expected numbers that are finite in float32; "
        f"found inf for feature 1 at row 7. {REPAIR}",
    ),
]
NEURONS = [
    Case(
        "a folder between others is missing",
        lost("neuron_0001"),
        "HERE: expected a folder for each of 3 features; found no neuron_0001. "
        "The extraction was interrupted or files were lost; extract again.",
    ),
    Case(
        "a file is missing",
        lost("neuron_0001/idxs.npy"),
        f"HERE/neuron_0001/idxs.npy: expected a .npy file of numbers; found .... {REPAIR}",
    ),
    Case(
        "a file is cut",
        bytes_of("neuron_0001/acts.npy", half),
        f"HERE/neuron_0001/acts.npy: expected a .npy file of numbers; found .... {REPAIR}",
    ),
    Case(
        "the files are of different lengths",
        saved("neuron_0001/acts.npy", [1.0, 2.0]),
        "HERE/neuron_0001: expected as many integers in idxs.npy as numbers in acts.npy; "
        f"found 2 and {np.count_nonzero(MATRIX[:, 1])} (int64). {REPAIR}",
    ),
    Case(
        "an index is there twice",
        lambda folder: (
            saved("neuron_0001/acts.npy", [1.0, 2.0, 3.0])(folder),
            saved("neuron_0001/idxs.npy", [7, 9, 7])(folder),
        )[0],
        f"HERE/neuron_0001/idxs.npy: expected each row once; found row 7 twice. {REPAIR}",
    ),
    Case(
        "an index is beyond the samples",
        lambda folder: (
            saved("neuron_0001/acts.npy", [1.0])(folder),
            saved("neuron_0001/idxs.npy", [40])(folder),
        )[0],
        f"HERE/neuron_0001/idxs.npy: expected rows 0 to 39; found row 40. {REPAIR}",
    ),
    Case(
        "objects are pickled",
        lambda folder: np.save(folder / "neuron_0001/acts.npy", np.array([{}]), allow_pickle=True),
        f"HERE/neuron_0001/acts.npy: expected a .npy file of numbers; found .... {REPAIR}",
    ),
    Case(
        "an activation is NaN",
        lambda folder: (
            saved("neuron_0001/acts.npy", [float("nan")])(folder),
            saved("neuron_0001/idxs.npy", [4])(folder),
        )[0],
        "HERE/neuron_0001/acts.npy: expected numbers that are finite in float32; "
        f"found nan for feature 1 at row 4. {REPAIR}",
    ),
]


def refused(loader: ActivationLoader, folder: Path, message: str) -> None:
    assert loader.is_available
    with pytest.raises(BadStore) as caught:
        loader.load(1)
    said = str(caught.value).replace(str(folder), "HERE")
    start, dots, end = message.partition("...")
    assert said == message if not dots else said.startswith(start) and said.endswith(end), said


@pytest.mark.parametrize("case", BATCHES, ids=lambda case: case.name)
def test_a_scan_of_batches_refuses(case: Case, tmp_path: Path) -> None:
    folder = write_batches(MATRIX, tmp_path / "b", (10, 20), chunk_rows=10, metadata=True)
    case.change(folder)
    refused(BatchScanLoader(folder), folder, case.message)


@pytest.mark.parametrize("case", TRANSPOSED, ids=lambda case: case.name)
def test_a_transposed_array_is_refused(case: Case, tmp_path: Path) -> None:
    folder = write_transposed(MATRIX, tmp_path / "t")
    case.change(folder)
    refused(TransposedLoader(folder), folder, case.message)


@pytest.mark.parametrize("case", NEURONS, ids=lambda case: case.name)
def test_neuron_files_are_refused(case: Case, tmp_path: Path) -> None:
    folder = write_neurons(MATRIX, tmp_path / "n")
    case.change(folder)
    refused(NeuronActsLoader(folder, n_samples=40), folder, case.message)


def test_an_unrecorded_conversion_is_read_when_its_arrays_are_trusted(tmp_path: Path) -> None:
    batches = write_batches(MATRIX, tmp_path / "b", (10,), record=False)
    transposed = write_transposed(MATRIX, tmp_path / "t")
    (transposed / "transposed_metadata.json").unlink()
    loaders = BatchScanLoader(batches, trust_arrays=True), TransposedLoader(transposed, trust_arrays=True)
    for loader in loaders:
        found = loader.load(1)
        assert found is not None
        assert found.indices.tolist() == np.flatnonzero(MATRIX[:, 1]).tolist()


def test_a_chunk_that_is_not_there_is_zeros_where_the_record_is_whole(tmp_path: Path) -> None:
    matrix = MATRIX.copy()
    matrix[10:20] = 0
    folder = write_batches(matrix, tmp_path / "b", chunk_rows=10)
    assert not (folder / "activations" / "batch_0000.zarr" / "c" / "1").exists()
    found = BatchScanLoader(folder).load(1)
    assert found is not None
    assert found.indices.tolist() == np.flatnonzero(matrix[:, 1]).tolist()


def test_a_feature_beyond_those_that_were_extracted_is_refused(tmp_path: Path) -> None:
    folder = write_neurons(MATRIX, tmp_path / "n")
    with pytest.raises(BadStore, match="expected a folder for each of 5 features; found no neuron_0003"):
        NeuronActsLoader(folder, n_features=5).load(0)
