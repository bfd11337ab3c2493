"""Imports of the storage guide's formats: one world in all of them gives one store; what does not fit is refused."""

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
import scipy.sparse
import yaml
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.importers import hdf5_source, numpy_sources, pieces, zarr_sources
from pipeline.importers.convert_source import open_source
from pipeline.importers.run_import import import_source
from pipeline.importers.source import Format, SourceSection
from pipeline.importers.token_families import Encodings, levels_by_name
from pipeline.verify import verify_store
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from tests.loaders.seed_files import (
    VOCAB,
    WEAPONS,
    save_zarr,
    sparse_matrix,
    write_batches,
    write_examples,
    write_neurons,
    write_transposed,
)
from tests.worlds import Quiet

MATRIX = sparse_matrix(230, 12, density=0.15)
CUTS = (40, 40, 170)


class Seed:
    """One world in every format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches = write_batches(MATRIX, folder / "batches", CUTS, chunk_rows=50, metadata=True)
        self.metadata = self.batches / "metadata"
        self.transposed = write_transposed(MATRIX, folder / "transposed", chunk=100)
        self.neurons = write_neurons(MATRIX, folder / "neurons")
        self.examples = write_examples(MATRIX, self.batches, folder / "examples")
        self.chunks = folder / "chunks"
        self.chunks.mkdir()
        for i, (start, stop) in enumerate([(0, 100), (100, 101), (101, 230)]):
            np.savez(
                self.chunks / f"chunk_{i:04d}.npz",
                hidden_activations=MATRIX[start:stop],
                num_records=stop - start,
            )
        np.save(folder / "dense.npy", MATRIX)
        np.save(folder / "fortran.npy", np.asfortranarray(MATRIX))
        np.savez_compressed(folder / "fortran.npz", hidden_activations=np.asfortranarray(MATRIX))
        for kind in ("csr", "csc", "coo"):
            scipy.sparse.save_npz(folder / f"{kind}.npz", scipy.sparse.coo_array(MATRIX).asformat(kind))
        self.vocab, self.weapons = folder / "vocab.json", folder / "weapon_vocab.json"
        self.vocab.write_text(json.dumps(VOCAB))
        self.weapons.write_text(json.dumps(WEAPONS))

    def load(self, format: str, source: Path, out: Path, **options: Any) -> Store:
        """Import with the vocabularies, and with the tables where the format has none of its own."""
        given: dict[str, Any] = {"vocab": self.vocab, "weapon_vocab": self.weapons, "name": "gear"}
        if format not in ("batch-zarr", "examples"):
            given["metadata"] = self.metadata
        import_source(format, source, out, progress=Quiet(), **(given | options))
        return open_store(out)


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    return Seed(tmp_path_factory.mktemp("seed"))


@pytest.fixture(scope="session")
def reference(seed: Seed, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the batch format."""
    return seed.load("batch-zarr", seed.batches, tmp_path_factory.mktemp("reference") / "store")


def dense(store: Store) -> NDArray[np.float32]:
    """What a store holds, row by row of its source."""
    source = store.backend.column("samples/source")
    matrix = np.zeros((len(source), store.manifest.n_features), np.float32)
    for feature in range(store.manifest.n_features):
        found = store.activations(feature)
        matrix[source[store.row_sample[found.rows]], feature] = found.values
    return matrix


def content(store: Store) -> dict[str, str]:
    """The hash of every file but the tables' (Parquet holds no order of its own that matters here)."""
    return {name: entry.sha256 for name, entry in store.manifest.files.items()}


def test_a_batch_import_holds_the_matrix_and_the_builds(reference: Store, seed: Seed) -> None:
    assert np.array_equal(dense(reference), MATRIX)
    manifest = reference.manifest
    assert (manifest.name, manifest.kind, manifest.n_samples, manifest.n_features) == ("gear", "set", 230, 12)
    assert {f.name: (f.encoding, f.levels) for f in manifest.families} == {
        "comeback": ("exclusive", (1,)),
        "ninja": ("exclusive", (1,)),
        "swim": ("cumulative", (3, 6)),
    }
    assert [(g.name, g.primary) for g in manifest.groups] == [("weapon", True), ("null_sample", False)]
    assert reference.group("weapon").values == ("weapon_id_10", "weapon_id_1010", "weapon_id_20")
    said = pl.concat([pl.read_parquet(p) for p in sorted(seed.metadata.glob("*"))])
    weapon = {v: k for k, v in WEAPONS.items()}
    token = {v: k for k, v in VOCAB.items()}
    tables = zip(
        reference.backend.column("samples/source").tolist(),
        reference.group_of_samples("weapon").tolist(),
        reference.group_of_samples("null_sample").tolist(),
        strict=True,
    )
    for sample, (row, code, null) in enumerate(tables):
        there = said.row(row, named=True)
        assert reference.group("weapon").values[code] == weapon[there["weapon_id_token"]]
        assert reference.group("null_sample").values[null] == ("yes" if there["is_null_token"] else "no")
        words = {reference.tokens[t] for t in reference.tokens_of_sample(sample)}
        assert words == {token[i] for i in there["ability_tokens"]} - {"<NULL>", "<PAD>"}


@pytest.mark.parametrize(
    ("format", "source"),
    [
        ("transposed-zarr", "transposed"),
        ("neuron-acts", "neurons"),
        ("npz", "chunks"),
        ("npz", "dense.npy"),
        ("npz", "fortran.npy"),
        ("npz", "fortran.npz"),
        ("npz", "csr.npz"),
        ("npz", "csc.npz"),
        ("npz", "coo.npz"),
    ],
)
def test_every_format_of_one_world_gives_the_same_arrays(
    format: str, source: str, seed: Seed, reference: Store, tmp_path: Path
) -> None:
    store = seed.load(format, seed.folder / source, tmp_path / "store")
    assert content(store) == content(reference)
    verify_store(tmp_path / "store")


def test_hdf5_gives_the_same_arrays(seed: Seed, reference: Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "activations", data=MATRIX, chunks=(60, 12), compression="gzip", compression_opts=1
        )
    assert content(seed.load("hdf5", tmp_path / "a.h5", tmp_path / "store")) == content(reference)


def test_hdf5_without_its_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    refused("hdf5 needs h5py: pip install 'saeinterp-mcp[pipeline]'", "hdf5", tmp_path / "a.h5")


def test_a_file_that_is_no_hdf5_or_has_no_such_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("other", data=MATRIX)
    refused(
        f"{path}: expected a dataset 'activations'; found other. Give the file of the chunked collection.",
        "hdf5",
        path,
        BadStore,
    )
    path.write_bytes(path.read_bytes()[:2000])
    refused(f"{path}: expected a whole HDF5 file; found ...", "hdf5", path, BadStore)


def test_workers_change_nothing(seed: Seed, reference: Store, tmp_path: Path) -> None:
    execution = Execution(workers=2)
    store = seed.load("batch-zarr", seed.batches, tmp_path / "store", execution=execution)
    assert content(store) == content(reference)


def pieced(section: SourceSection) -> tuple[NDArray[np.float32], int]:
    """A source read piece by piece, and how many pieces it has."""
    source = open_source(section)
    matrix = np.zeros((source.n_rows, source.n_features), np.float32)
    for piece in source.pieces:
        for entries in piece.entries():
            assert not matrix[entries.row, entries.feature].any(), "an activation is read twice"
            matrix[entries.row, entries.feature] = entries.value
    return matrix, len(source.pieces)


@pytest.mark.parametrize("cells", [1, 30, 700])
def test_blocks_and_pieces_of_any_size_read_the_same(
    cells: int, seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pieces, zarr_sources, numpy_sources, hdf5_source):
        monkeypatch.setattr(module, "BAND_CELLS", cells)
    monkeypatch.setattr(pieces, "BLOCK_CELLS", cells // 2 + 1)
    monkeypatch.setattr(pieces, "PIECE_CELLS", 2 * cells)
    (tmp_path / "sparse").mkdir()
    parts = (
        scipy.sparse.csr_array(MATRIX[:70]),
        scipy.sparse.csc_array(MATRIX[70:140]),
        scipy.sparse.coo_array(MATRIX[140:]),
    )
    for i, part in enumerate(parts):
        scipy.sparse.save_npz(tmp_path / "sparse" / f"part{i}.npz", part)
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    save_zarr(narrow / "transposed_activations.zarr", MATRIX.T, (5, 9), "blosc", 2)
    sources: list[tuple[Format, Path]] = [
        ("batch-zarr", seed.batches),
        ("transposed-zarr", seed.transposed),
        ("transposed-zarr", narrow),
        ("neuron-acts", seed.neurons),
        ("npz", seed.chunks),
        ("npz", tmp_path / "sparse"),
        *(("npz", seed.folder / name) for name in ("dense.npy", "fortran.npy", "fortran.npz", "coo.npz")),
    ]
    for format, path in sources:
        n_samples = 230 if format == "neuron-acts" else None
        section = SourceSection(format=format, path=path, name="x", n_samples=n_samples, trust_arrays=True)
        matrix, n_pieces = pieced(section)
        assert np.array_equal(matrix, MATRIX), path
        assert n_pieces > 1 or cells == 700 or path.suffix == ".npz" or format == "neuron-acts", path


def test_sampled_examples_are_a_sampled_store(seed: Seed, tmp_path: Path) -> None:
    store = seed.load("examples", seed.examples, tmp_path / "store")
    manifest = store.manifest
    assert (manifest.coverage, manifest.n_features) == ("sampled", 12)
    said = pl.read_parquet(seed.examples / "all_examples.parquet")
    assert manifest.n_samples == said["global_index"].n_unique()
    places = sorted(set(said["global_index"].to_list()))
    source = store.backend.column("samples/source")
    for feature in range(12):
        found = store.activations(feature)
        rows = [places[source[store.row_sample[r]]] for r in found.rows.tolist()]
        here = said.filter(pl.col("feature_id") == feature)
        assert dict(zip(rows, found.values.tolist(), strict=True)) == dict(
            zip(here["global_index"].to_list(), here["activation"].to_list(), strict=True)
        )


def test_samples_of_examples_are_told_apart_by_batch_and_not_by_global_index(
    seed: Seed, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(seed.examples, tmp_path / "examples"))
    path = folder / "all_examples.parquet"
    pl.read_parquet(path).with_columns(global_index=pl.lit(7, pl.Int64)).write_parquet(path)
    store = seed.load("examples", folder, tmp_path / "store")
    whole = seed.load("examples", seed.examples, tmp_path / "whole")
    assert content(store) == content(whole)


def test_arrays_without_metadata_are_rows_of_their_own_units(seed: Seed, tmp_path: Path) -> None:
    store = seed.load(
        "npz", seed.folder / "dense.npy", tmp_path / "store", metadata=None, vocab=None, weapon_vocab=None
    )
    assert np.array_equal(dense(store), MATRIX)
    assert (store.manifest.n_units, store.tokens, store.manifest.groups) == (230, [], ())
    assert [c["note"] for c in store.manifest.checks] == [
        "no metadata was given: samples have no tokens and no groups, and each row is a unit of its own"
    ]


def test_without_a_vocabulary_tokens_and_weapons_are_their_ids(seed: Seed, tmp_path: Path) -> None:
    store = seed.load("batch-zarr", seed.batches, tmp_path / "store", vocab=None, weapon_vocab=None)
    assert store.tokens == ["0", "1", "2", "3", "4"]
    assert store.group("weapon").values == ("0", "1", "2")
    assert store.manifest.families == ()


def test_families_of_a_file_win(seed: Seed, tmp_path: Path) -> None:
    listed = [{"name": "main", "encoding": "exclusive", "levels": {"comeback": 1, "ninja": 2}}]
    (tmp_path / "families.yaml").write_text(yaml.safe_dump(listed))
    store = seed.load("batch-zarr", seed.batches, tmp_path / "store", families=tmp_path / "families.yaml")
    assert [(f.name, f.levels) for f in store.manifest.families] == [("main", (1, 2))]


def test_a_global_index_that_collides_is_counted_and_not_believed(seed: Seed, tmp_path: Path) -> None:
    # the seed's converter numbers the rows of a batch from its number times its own size
    folder = Path(shutil.copytree(seed.batches, tmp_path / "batches"))
    for number, path in enumerate(sorted((folder / "metadata").glob("*"))):
        table = pl.read_parquet(path)
        said = pl.Series(range(number * len(table), (number + 1) * len(table)), dtype=pl.Int64)
        table.with_columns(global_index=said).write_parquet(path)
    store = seed.load("batch-zarr", folder, tmp_path / "store")
    assert np.array_equal(dense(store), MATRIX)
    # batches of 40, 0, 130 and 60 rows: the third begins at 260 instead of 40, the fourth at 180 instead of 170
    [note] = [c["note"] for c in store.manifest.checks]
    assert note == (
        "global_index is not the row in 190 of 230 rows (batches differ in size); rows are numbered by their place"
    )


def test_explained_variance_comes_from_inputs_and_reconstructions(seed: Seed, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(seed.batches, tmp_path / "batches"))
    generator = np.random.default_rng(1)
    inputs = (generator.normal(size=(230, 5)) + 100).astype(np.float32)
    outputs = (inputs + generator.normal(size=(230, 5)) * 0.4).astype(np.float32)
    for name, matrix in (("sae_input", inputs), ("sae_recon", outputs)):
        save_zarr(folder / "embeddings" / f"{name}.zarr", matrix, (60, 5), "zstd", 3)
    store = seed.load("batch-zarr", folder, tmp_path / "store")
    [check] = [c for c in store.manifest.checks if c["name"] == "explained_variance"]
    x, r = inputs.astype(np.float64), outputs.astype(np.float64)
    expected = 1 - ((x - r) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert check["value"] == pytest.approx(expected, rel=1e-5)
    assert (check["passed"], 0.8 < expected < 0.9) == (True, True)
    notes = [c["note"] for c in store.manifest.checks if c["name"] == "import"]
    assert notes == ["embeddings are not kept; the explained variance was computed from them"]


@pytest.mark.parametrize(("negatives", "left"), [("drop", 0.0), ("abs", 2.0)])
@pytest.mark.parametrize("format", ["batch-zarr", "transposed-zarr", "neuron-acts", "npz"])
def test_negatives_are_handled_as_asked_and_counted(
    format: str, negatives: Any, left: float, seed: Seed, tmp_path: Path
) -> None:
    matrix = MATRIX.copy()
    matrix[3, 4] = -2.0
    source = {
        "batch-zarr": lambda: write_batches(matrix, tmp_path / "s"),
        "transposed-zarr": lambda: write_transposed(matrix, tmp_path / "s"),
        "neuron-acts": lambda: write_neurons(matrix, tmp_path / "s"),
        "npz": lambda: saved(tmp_path / "s.npy", matrix),
    }[format]()
    n_samples = 230 if format == "neuron-acts" else None
    with pytest.raises((BadInput, BadStore), match=r"-2\.0"):
        import_source(format, source, tmp_path / "store", progress=Quiet(), n_samples=n_samples)
    assert not (tmp_path / "store").exists()
    import_source(
        format, source, tmp_path / "store", progress=Quiet(), negatives=negatives, n_samples=n_samples
    )
    store = open_store(tmp_path / "store")
    matrix[3, 4] = left
    assert np.array_equal(dense(store), matrix)
    assert store.manifest.dropped == {"negative" if negatives == "drop" else "negative_made_positive": 1}


def saved(path: Path, matrix: Any) -> Path:
    np.save(path, matrix)
    return path


def refused(
    message: str, format: str, source: Path, kind: type[Exception] = BadInput, **options: Any
) -> None:
    """The whole message (`...` is what a library says), and nothing published."""
    out = source.parent / "refused-store"
    with pytest.raises(kind) as caught:
        import_source(format, source, out, progress=Quiet(), **options)
    start, dots, end = message.partition("...")
    said = str(caught.value)
    assert said == message if not dots else said.startswith(start) and said.endswith(end), said
    assert not out.exists()


def test_pickles_are_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    for name in ("a.joblib", "a.pkl", "a.pth"):
        (tmp_path / name).write_bytes(pickle.dumps([1]))
        with pytest.raises(BadInput) as caught:
            import_source("npz", tmp_path / name, tmp_path / "store", progress=Quiet())
        said = str(caught.value)
        assert said.startswith(
            f"{tmp_path / name} is a pickle: a pickle runs whatever code its author put there"
        )
        assert f"records = joblib.load('{name}')" in said
        assert 'np.save("activations.npy"' in said
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "batch_0.joblib").write_bytes(pickle.dumps([1]))
    with pytest.raises(BadInput, match=r"raw/batch_0\.joblib is a pickle"):
        import_source("npz", raw, tmp_path / "store", progress=Quiet())
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    message = f"{tmp_path / 'objects.npy'} holds pickled objects, which are never opened; save its numbers as float32"
    refused(message, "npz", tmp_path / "objects.npy")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, "nan is not finite in float32"),
        (np.inf, "inf is not finite in float32"),
        (-1.5, "-1.5 is negative (--negatives drop|abs handles negative ones)"),
    ],
)
def test_what_is_no_activation_is_refused_by_row_and_feature(
    value: float, reason: str, tmp_path: Path
) -> None:
    matrix = MATRIX.copy()
    matrix[101, 3] = value
    batches = write_batches(matrix, tmp_path / "b", (100,))
    path = batches / "activations" / "batch_0001.zarr"
    refused(f"{path}: row 101, feature 3: {reason}", "batch-zarr", batches)
    transposed = write_transposed(matrix, tmp_path / "t")
    path = transposed / "transposed_activations.zarr"
    refused(f"{path}: row 101, feature 3: {reason}", "transposed-zarr", transposed)
    dense_file = saved(tmp_path / "a.npy", matrix)
    refused(f"{dense_file}: row 101, feature 3: {reason}", "npz", dense_file)
    sparse = tmp_path / "a.npz"
    scipy.sparse.save_npz(sparse, scipy.sparse.csc_array(matrix))
    refused(f"{sparse}: row 101, feature 3: {reason}", "npz", sparse)


def test_metadata_of_another_number_of_rows_are_refused(seed: Seed, tmp_path: Path) -> None:
    refused(
        f"{seed.metadata}: expected 100 rows of metadata, as the activations have; found 230. "
        "Give the tables that were written with these activations.",
        "npz",
        saved(tmp_path / "a.npy", MATRIX[:100]),
        BadStore,
        metadata=seed.metadata,
    )


def test_tables_whose_rows_were_sorted_are_refused(seed: Seed, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(seed.batches, tmp_path / "batches"))
    path = folder / "metadata" / "batch_0002.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    refused(
        f"{path}: expected sample_id 0 in row 0, so that its rows are those of the array; found 129. Tables and arrays "
        "of different conversions are mixed, or the rows were sorted; convert again.",
        "batch-zarr",
        folder,
        BadStore,
    )


def test_a_token_that_the_vocabulary_does_not_name_is_refused(seed: Seed, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    source = Path(shutil.copytree(seed.batches, tmp_path / "batches"))
    refused(
        f"{source / 'metadata' / 'batch_0000.parquet'} holds the token 2, which the vocabulary (ids 0 to 1) does not "
        "name; give the vocabulary that the data were made with",
        "batch-zarr",
        source,
        vocab=tmp_path / "vocab.json",
    )
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 0}))
    refused(
        f"{tmp_path / 'vocab.json'}: 'a' and 'b' share the id 0",
        "batch-zarr",
        source,
        vocab=tmp_path / "vocab.json",
    )


def test_neuron_files_need_the_number_of_samples(seed: Seed, tmp_path: Path) -> None:
    source = Path(shutil.copytree(seed.neurons, tmp_path / "neurons"))
    refused(
        f"{source}: neuron files do not say how many samples there are, and silent ones count; give --metadata DIR or "
        "--n-samples N",
        "neuron-acts",
        source,
    )
    refused(
        f"{source / 'neuron_0000' / 'idxs.npy'}: expected rows 0 to 99; found row ...",
        "neuron-acts",
        source,
        BadStore,
        n_samples=100,
    )


def test_chunks_that_do_not_follow_one_another_are_refused(tmp_path: Path) -> None:
    chunks = tmp_path / "chunks"
    chunks.mkdir()
    for i in (0, 2):
        np.savez(chunks / f"chunk_{i:04d}.npz", hidden_activations=MATRIX[:5], num_records=5)
    refused(f"{chunks} lacks number 1 of chunk_*; a file is missing, so rows would be lost", "npz", chunks)
    (chunks / "chunk_0002.npz").unlink()
    np.savez(chunks / "chunk_0001.npz", hidden_activations=MATRIX[:5], num_records=6)
    message = f"{chunks / 'chunk_0001.npz'}: expected 6 rows, as num_records says; found 5. ..."
    refused(message, "npz", chunks, BadStore)
    whole = (chunks / "chunk_0000.npz").read_bytes()
    (chunks / "chunk_0001.npz").write_bytes(whole[: len(whole) // 2])
    refused(f"{chunks / 'chunk_0001.npz'}: expected an .npz file; found ...", "npz", chunks, BadStore)


def test_a_damaged_chunk_of_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, hidden_activations=MATRIX)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    refused(f"{path}: expected a readable array 'hidden_activations'; found ...", "npz", path, BadStore)


def test_an_index_that_is_not_of_these_examples_is_refused(seed: Seed, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(seed.examples, tmp_path / "examples"))
    index = folder / "feature_index.parquet"
    pl.read_parquet(index).with_columns(pl.col("end_idx") + 1).write_parquet(index)
    mixed = "The files of different conversions are mixed, or one was cut; make the examples again."
    refused(
        f"{index}: expected the places of the examples in all_examples.parquet; found feature 0 elsewhere. {mixed}",
        "examples",
        folder,
        BadStore,
    )
    table = folder / "all_examples.parquet"
    pl.read_parquet(table).head(10).write_parquet(table)
    n = json.loads((folder / "storage_metadata.json").read_text())["total_examples"]
    refused(
        f"{folder / 'storage_metadata.json'}: expected total_examples {n}, as it says; found 10 examples. {mixed}",
        "examples",
        folder,
        BadStore,
    )


def test_a_chunk_lost_after_our_own_export_is_noticed(seed: Seed, tmp_path: Path) -> None:
    folder = write_batches(MATRIX, tmp_path / "b", chunk_rows=50)
    record = folder / "conversion_metadata.json"
    said = json.loads(record.read_text()) | {"n_activations": int(np.count_nonzero(MATRIX))}
    record.write_text(json.dumps(said))
    shutil.rmtree(folder / "activations" / "batch_0000.zarr" / "c" / "1")
    found = np.count_nonzero(MATRIX) - np.count_nonzero(MATRIX[50:100])
    refused(
        f"{folder}: expected {np.count_nonzero(MATRIX)} activations, as its record says; found {found}. Chunks were "
        "lost or changed after the conversion; convert again.",
        "batch-zarr",
        folder,
        BadStore,
    )


def test_options_that_a_format_has_no_use_for_are_refused(seed: Seed, tmp_path: Path) -> None:
    source = saved(tmp_path / "a.npy", MATRIX)
    message = "--vocab names what only metadata hold; give --metadata DIR too"
    refused(message, "npz", source, vocab=seed.vocab)
    message = "--vocab has no meaning for a bundle, which says everything in bundle.yaml"
    refused(message, "bundle", tmp_path, vocab=seed.vocab)
    refused(
        "batch-zarr has metadata of its own; leave --metadata out",
        "batch-zarr",
        seed.batches,
        metadata=seed.metadata,
    )
    refused("no importer for 'batch'; nearest: 'batch-zarr'", "batch", source)
    refused(f"{source} has 12 features, not 13", "npz", source, n_features=13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"position": [0, 1, 1]},
            "row 2: sample 0, position 1; expected position 2. Rows of a sequence come sample by sample, each from "
            "position 0 on without a gap",
        ),
        (
            {"sample": [1, 1, 0], "position": [0, 1, 0]},
            "row 2: sample 0, position 0; expected position 0. Rows of a sequence come sample by sample, each from "
            "position 0 on without a gap",
        ),
    ],
)
def test_rows_of_a_sequence_that_are_out_of_order_are_refused(
    change: dict[str, list[int]], message: str, tmp_path: Path
) -> None:
    columns = {"ability_tokens": [[0], [1], [0]], "sample": [0, 0, 0], "position": [0, 1, 2]} | change
    (tmp_path / "m").mkdir()
    pl.DataFrame(columns).write_parquet(tmp_path / "m" / "batch_0000.parquet")
    source = saved(tmp_path / "a.npy", MATRIX[:3])
    path = tmp_path / "m" / "batch_0000.parquet"
    refused(f"{path}, row{message.removeprefix('row')}", "npz", source, metadata=tmp_path / "m")


def test_an_import_that_was_killed_keeps_the_parts_that_are_done(
    seed: Seed, reference: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    original = pieces.write_part

    def dies_at_the_third(part: pieces.Part) -> int:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part.out)
        return original(part)

    monkeypatch.setattr("pipeline.importers.convert_source.write_part", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        seed.load("batch-zarr", seed.batches, tmp_path / "store")
    partial = tmp_path / "store.work" / "convert_source.partial" / "activations"
    assert sorted(p.name for p in partial.iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    kept = {p: p.stat().st_mtime_ns for p in partial.iterdir()}
    monkeypatch.setattr("pipeline.importers.convert_source.write_part", original)
    again: list[Path] = []

    def watched(part: pieces.Part) -> int:
        if part.out.exists():
            again.append(part.out)
            assert part.out.stat().st_mtime_ns == kept[part.out]
        n = original(part)
        assert part.out not in kept or part.out.stat().st_mtime_ns == kept[part.out]
        return n

    monkeypatch.setattr("pipeline.importers.convert_source.write_part", watched)
    store = seed.load("batch-zarr", seed.batches, tmp_path / "store")
    assert content(store) == content(reference)
    assert sorted(again) == sorted(kept)
    assert not (tmp_path / "store.work").exists()


def test_levels_are_found_by_name_and_main_only_abilities_are_families_of_level_1() -> None:
    tokens = [
        "swim_3",
        "swim_12",
        "comeback",
        "alone_7",
        "ink_saver_main_3",
        "ink_saver_main_6",
        "a b",
        "x_0",
        "swim",
    ]
    assert levels_by_name(tokens) == {
        "alone_7": {"alone_7": 1},
        "comeback": {"comeback": 1},
        "ink_saver_main": {"ink_saver_main_3": 3, "ink_saver_main_6": 6},
        "swim": {"swim_3": 3, "swim_12": 12},
        "x_0": {"x_0": 1},
    }
    assert levels_by_name([f"w{i}w" for i in range(300)]) == {}


@pytest.mark.parametrize(
    ("samples", "encoding", "notes"),
    [
        ([[0], [0, 1], [0, 1, 2], []], "cumulative", []),
        ([[0], [1], [2], []], "exclusive", []),
        (
            [[0, 1, 2], [0, 2], [1], [2]],
            "cumulative",
            ["family a: 2 samples hold two levels and 3 hold one without a lower one; taken for a thermometer with "
             "masked tokens"],
        ),
    ],
)  # fmt: skip
def test_a_family_is_cumulative_where_samples_hold_several_levels(
    samples: list[list[int]], encoding: str, notes: list[str]
) -> None:
    levels = {"a": {"a_1": 1, "a_2": 2, "a_3": 3}}
    found = Encodings(levels, ["a_1", "a_2", "a_3"])
    half = len(samples) // 2
    for first, part in ((0, samples[:half]), (half, samples[half:])):
        row = [first + i for i, tokens in enumerate(part) for _ in tokens]
        found.add(np.array(row, np.int64), np.array([t for tokens in part for t in tokens], np.int64))
    assert [f["encoding"] for f in found.families(levels)] == [encoding]
    assert found.notes() == notes
