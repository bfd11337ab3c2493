"""Exports in the seed's formats: equal to the matrix they came from, readable by the seed's code, and back again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
import zarr
from numpy.typing import NDArray

from pipeline.__main__ import EXPORTERS, IMPORTERS
from pipeline.exporters.run_export import FORMATS, ExportOptions, export_store
from pipeline.importers import run_import
from pipeline.importers.run_import import import_source
from saeinterp_mcp.errors import BadInput, NotInStore
from saeinterp_mcp.loaders.storage_config import StorageConfig
from saeinterp_mcp.store.open import open_store
from tests.loaders.seed_files import VOCAB, WEAPONS, sparse_matrix, write_batches, write_examples
from tests.pipeline.test_append import grown
from tests.worlds import Quiet, builds, import_world, texts

MATRIX = np.round(sparse_matrix(230, 12, density=0.15), 1)
"""Rounded, so that some activations are equal."""


@pytest.fixture(scope="session")
def seed_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The batch format, with vocabularies beside."""
    folder = tmp_path_factory.mktemp("source")
    write_batches(MATRIX, folder / "batches", (40, 170), chunk_rows=50, metadata=True)
    (folder / "vocab.json").write_text(json.dumps(VOCAB))
    (folder / "weapon_vocab.json").write_text(json.dumps(WEAPONS))
    return folder


@pytest.fixture(scope="session")
def gear(seed_source: Path) -> Path:
    """Its store."""
    out = seed_source / "store"
    vocabularies: dict[str, Any] = {name: seed_source / f"{name}.json" for name in ("vocab", "weapon_vocab")}
    import_source("batch-zarr", seed_source / "batches", out, progress=Quiet(), **vocabularies)
    return out


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence store with excluded positions and a family of positions."""
    return import_world(texts(), tmp_path_factory.mktemp("words"))


def export(format: str, store: Path, out: Path, **options: Any) -> Path:
    export_store(format, store, out, ExportOptions(**options), progress=Quiet())
    return out


def contents(store: Path) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in open_store(store).manifest.files.items()}


def batch_matrix(folder: Path) -> NDArray[Any]:
    """As the seed reads it: every batch whole, one after the other."""
    paths = sorted((folder / "activations").glob("batch_*.zarr"))
    return np.concatenate([np.asarray(zarr.open(str(path), mode="r")[:]) for path in paths])


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_goes_back_to_batches_bit_for_bit(version: int, gear: Path, tmp_path: Path) -> None:
    out = export("batch-zarr", gear, tmp_path / "out", batch_size=100, zarr_format=version)
    matrix = batch_matrix(out)
    assert matrix.dtype == np.float32
    assert matrix.tobytes() == MATRIX.tobytes()
    array = zarr.open_array(str(out / "activations" / "batch_0002.zarr"), mode="r")
    assert (array.metadata.zarr_format, array.shape, array.chunks) == (version, (30, 12), (1000, 12))
    assert dict(array.attrs) == {"batch_index": 2, "n_samples": 30, "n_features": 12}
    assert "zstd" in str(array.compressors).lower()
    record = json.loads((out / "conversion_metadata.json").read_text())
    said = {name: record[name] for name in ("n_batches", "total_samples", "n_features", "n_activations")}
    assert said == {
        "n_batches": 3,
        "total_samples": 230,
        "n_features": 12,
        "n_activations": np.count_nonzero(MATRIX),
    }
    assert [s["n_samples"] for s in record["batch_stats"]] == [100, 100, 30]


def test_the_tables_of_an_export_are_those_of_the_source(
    gear: Path, seed_source: Path, tmp_path: Path
) -> None:
    out = export("batch-zarr", gear, tmp_path / "out", batch_size=100)
    names = {i: t for t, i in json.loads((out / "vocab.json").read_text()).items()}
    weapons = {i: w for w, i in json.loads((out / "weapon_vocab.json").read_text()).items()}
    made = pl.concat([pl.read_parquet(p) for p in sorted((out / "metadata").glob("*.parquet"))])
    said = pl.concat(
        [pl.read_parquet(p) for p in sorted((seed_source / "batches/metadata").glob("*.parquet"))]
    )
    assert dict(made.schema) | {} == {
        "batch_id": pl.Int64,
        "sample_id": pl.Int64,
        "ability_tokens": pl.List(pl.Int64),
        "weapon_id_token": pl.Int64,
        "is_null_token": pl.Boolean,
        "weapon_name": pl.String,
        "global_index": pl.Int64,
        "unit": pl.String,
    }
    assert made["global_index"].to_list() == list(range(230))
    assert made["batch_id"].to_list() == [0] * 100 + [1] * 100 + [2] * 30
    assert made["sample_id"].to_list() == [*range(100), *range(100), *range(30)]
    token, weapon = {v: k for k, v in VOCAB.items()}, {v: k for k, v in WEAPONS.items()}
    for ours, theirs in zip(made.rows(named=True), said.rows(named=True), strict=True):
        assert {names[i] for i in ours["ability_tokens"]} == {token[i] for i in theirs["ability_tokens"]}
        assert weapons[ours["weapon_id_token"]] == weapon[theirs["weapon_id_token"]]
        assert ours["is_null_token"] == theirs["is_null_token"]
        assert ours["weapon_name"] == (weapons[ours["weapon_id_token"]] if ours["is_null_token"] else "")
    assert list(json.loads((out / "vocab.json").read_text()))[-2:] == ["<NULL>", "<PAD>"]


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_goes_back_to_a_transposed_array_bit_for_bit(
    version: int, gear: Path, tmp_path: Path
) -> None:
    out = export("transposed-zarr", gear, tmp_path / "out", zarr_format=version)
    array = zarr.open_array(str(out / "transposed_activations.zarr"), mode="r")
    assert (array.metadata.zarr_format, array.chunks, str(array.dtype)) == (version, (1, 10000), "float32")
    assert "shuffle" in str(array.compressors).lower()
    assert np.asarray(array[:]).tobytes() == np.ascontiguousarray(MATRIX.T).tobytes()
    record = json.loads((out / "transposed_metadata.json").read_text())
    assert (record["n_features"], record["n_samples"], record["shape"]) == (12, 230, [12, 230])


def test_a_store_goes_back_to_neuron_files_bit_for_bit(gear: Path, tmp_path: Path) -> None:
    out = export("neuron-acts", gear, tmp_path / "out")
    for feature in range(12):
        values, rows = (
            np.load(out / f"neuron_{feature:04d}" / name, allow_pickle=False)
            for name in ("acts.npy", "idxs.npy")
        )
        assert (values.dtype, rows.dtype) == (np.float32, np.int64)
        assert rows.tolist() == np.flatnonzero(MATRIX[:, feature]).tolist()
        assert values.tobytes() == MATRIX[rows, feature].tobytes()


@pytest.mark.parametrize("store", ["gear", "words"])
@pytest.mark.parametrize("format", ["batch-zarr", "transposed-zarr", "neuron-acts"])
def test_an_export_imported_again_is_the_same_store(
    format: str, store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(store)
    out = export(format, source, tmp_path / "out", batch_size=97)
    options: dict[str, Any] = {"vocab": out / "vocab.json", "families": out / "families.yaml"}
    if format != "batch-zarr":
        options["metadata"] = out
    if store == "gear":
        options["weapon_vocab"] = out / "weapon_vocab.json"
    import_source(format, out, tmp_path / "store", progress=Quiet(), **options)
    assert same_but_weights(tmp_path / "store", source)


def same_but_weights(made: Path, expected: Path) -> bool:
    """All arrays but those from the decoder, and the tables of samples, tokens, families and groups."""
    left = {n: h for n, h in contents(expected).items() if not from_weights(n)}
    return left == {n: h for n, h in contents(made).items() if not from_weights(n)}


def from_weights(name: str) -> bool:
    starts = ("weights/", "outputs/", "neighbours/decoder", "tables/outputs", "tables/decoder_influence")
    return name.startswith(starts) or name in ("tables/features.parquet", "zarr.json")


@pytest.mark.parametrize("world", [builds, texts])
def test_a_bundle_exported_and_imported_is_the_same_store(world: Any, tmp_path: Path) -> None:
    source = import_world(world(), tmp_path / "world")
    out = export("bundle", source, tmp_path / "bundle")
    import_source("bundle", out, tmp_path / "store", progress=Quiet())
    assert same_but_weights(tmp_path / "store", source)
    made, expected = open_store(tmp_path / "store"), open_store(source)
    assert made.manifest.groups == expected.manifest.groups
    assert made.manifest.families == expected.manifest.families
    for name in ("weights/decoder", "weights/unembedding"):
        assert np.allclose(made.backend.column(name), expected.backend.column(name), atol=1e-6)
    assert contents(tmp_path / "store").keys() == contents(source).keys()


def test_the_loaders_read_what_the_store_holds(gear: Path, tmp_path: Path) -> None:
    config = StorageConfig(
        model_type="gear",
        data_dir=export("batch-zarr", gear, tmp_path / "b", batch_size=64),
        transposed_dir=export("transposed-zarr", gear, tmp_path / "t"),
        neuron_acts_dir=export("neuron-acts", gear, tmp_path / "n"),
    )
    for _, _, loader in config.loaders():
        for feature in range(12):
            found = loader.load(feature)
            assert found is not None
            assert found.indices.tolist() == np.flatnonzero(MATRIX[:, feature]).tolist()
            assert found.activations.tobytes() == MATRIX[found.indices, feature].tobytes()


def test_workers_write_the_same_export(gear: Path, tmp_path: Path) -> None:
    one = export("neuron-acts", gear, tmp_path / "one")
    two = export("neuron-acts", gear, tmp_path / "two", workers=2)
    files = sorted(p.relative_to(one) for p in one.rglob("*.npy"))
    assert len(files) == 24
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


def test_examples_are_those_of_the_seed(gear: Path, seed_source: Path, tmp_path: Path) -> None:
    theirs = write_examples(MATRIX, seed_source / "batches", tmp_path / "theirs", top_k=7, threshold=0.5)
    ours = export("examples", gear, tmp_path / "ours", top_k=7, threshold=0.5, batch_size=1000)
    made, said = (pl.read_parquet(folder / "all_examples.parquet") for folder in (ours, theirs))
    assert made.columns == said.columns
    for name in ("feature_id", "activation", "global_index", "is_null"):
        assert made[name].to_list() == said[name].to_list(), name
    for name in ("feature_index.parquet", "storage_metadata.json"):
        if name.endswith("json"):
            assert json.loads((ours / name).read_text()) == json.loads((theirs / name).read_text())
        else:
            index, expected = pl.read_parquet(ours / name), pl.read_parquet(theirs / name)
            assert index.columns == expected.columns
            assert np.allclose(index.to_numpy(), expected.to_numpy())


def test_histograms_and_statistics_are_those_of_the_matrix(gear: Path, tmp_path: Path) -> None:
    out = export("histograms", gear, tmp_path / "out", bins=10)
    assert sorted(p.name for p in out.iterdir()) == [
        "feature_stats.json", "feature_stats.parquet", "histograms.json", "histograms.parquet",
    ]  # fmt: skip
    histograms = pl.read_parquet(out / "histograms.parquet").rows(named=True)
    stats = pl.read_parquet(out / "feature_stats.parquet").rows(named=True)
    for feature in range(12):
        values = MATRIX[MATRIX[:, feature] > 0, feature].astype(np.float64)
        found = stats[feature]
        assert (found["feature_id"], found["n_non_zero"], found["n_total"]) == (feature, len(values), 230)
        assert found["sparsity"] == (230 - len(values)) / 230
        assert sum(histograms[feature]["counts"]) == len(values)
        if len(values):
            counts, edges = np.histogram(values, bins=10)
            assert histograms[feature]["counts"] == counts.tolist()
            assert np.allclose(histograms[feature]["lower_bounds"], edges[:-1])
            assert np.allclose(histograms[feature]["upper_bounds"], edges[1:])
            assert np.allclose(
                [found["mean"], found["std"], found["max"]], [values.mean(), values.std(), values.max()]
            )
    assert stats[11] | {"feature_id": 0} == {
        "feature_id": 0, "min": 0.0, "max": 0.0, "mean": 0.0, "std": 0.0, "n_non_zero": 0, "n_total": 230,
        "sparsity": 1.0,
    }  # fmt: skip
    as_json = json.loads((out / "histograms.json").read_text())
    assert {int(f): h for f, h in as_json.items()} == {
        h["feature_id"]: {n: h[n] for n in ("counts", "lower_bounds", "upper_bounds")} for h in histograms
    }


def test_idf_counts_builds_and_not_special_tokens(gear: Path, seed_source: Path, tmp_path: Path) -> None:
    out = export("idf", gear, tmp_path / "out")
    tokens = {i: t for t, i in json.loads((out / "vocab.json").read_text()).items()}
    names = {v: k for k, v in VOCAB.items()}
    said = pl.concat(
        [pl.read_parquet(p) for p in sorted((seed_source / "batches/metadata").glob("*.parquet"))]
    )
    held = [{names[i] for i in row} for row in said["ability_tokens"].to_list()]
    made = pl.read_parquet(out / "idf.parquet")
    assert made.columns == ["ability_input_tokens", "doc_freq", "idf"]
    for token, df, idf in made.rows():
        count = sum(tokens[token] in words for words in held)
        assert df == count
        assert idf == pytest.approx(np.log(231) - np.log(count + 1))
    assert {tokens[t] for t in made["ability_input_tokens"]} == {"swim_3", "swim_6", "comeback", "ninja"}
    summary = json.loads((out / "idf.json").read_text())
    assert (summary["total_documents"], summary["unique_tokens"], summary["n_batches"]) == (230, 4, 1)


def test_influences_are_the_centred_effects_in_wide_columns(tmp_path: Path) -> None:
    # builds(): decoder (1,0) (0,1) (1,1) (0,0) (-1,0), unembedding a = (3,0), b = (0,0), c = (0,3)
    store = import_world(builds(), tmp_path / "world")
    made = pl.read_parquet(export("influences", store, tmp_path / "out", top_k=2) / "influences.parquet")
    assert made.columns == [
        "feature_id", "feature_label", "+1_tok", "+1_val", "+2_tok", "+2_val", "-1_tok", "-1_val", "-2_tok", "-2_val",
    ]  # fmt: skip
    assert made.rows() == [
        (0, "", "a", 2.0, "b", -1.0, "b", -1.0, "c", -1.0),
        (1, "", "c", 2.0, "a", -1.0, "a", -1.0, "b", -1.0),
        (2, "", "a", 1.0, "c", 1.0, "b", -2.0, "a", 1.0),
        (3, "", "a", 0.0, "b", 0.0, "a", 0.0, "b", 0.0),
        (4, "", "b", 1.0, "c", 1.0, "a", -2.0, "b", 1.0),
    ]


def test_influences_need_a_decoder(gear: Path, tmp_path: Path) -> None:
    with pytest.raises(NotInStore) as caught:
        export("influences", gear, tmp_path / "out")
    assert str(caught.value) == (
        f"{gear} holds no decoder, which influences are computed from; import with --decoder, --unembedding and "
        "--output-tokens"
    )
    assert not (tmp_path / "out").exists()


def test_rows_of_a_sequence_store_are_its_positions(words: Path, tmp_path: Path) -> None:
    world = texts()
    out = export("batch-zarr", words, tmp_path / "out", batch_size=100)
    made = pl.concat([pl.read_parquet(p) for p in sorted((out / "metadata").glob("*.parquet"))])
    tokens = {i: t for t, i in json.loads((out / "vocab.json").read_text()).items()}
    said = [(s, p, t) for s, sample in enumerate(world.samples) for p, t in enumerate(sample.tokens)]
    found = made.select("sample", "position", "ability_tokens").rows()
    assert [(s, p, tokens[ids[0]]) for s, p, ids in found] == said
    assert made["excluded"].to_list() == [p == 0 for _, p, _ in said]
    assert made["weapon_id_token"].unique().to_list() == [-1]
    assert made["level_depth"].to_list() == [
        world.position_levels["depth"].get((s, p), 0) if p else 0 for s, p, _ in said
    ]
    expected = np.zeros((len(said), 4), np.float32)
    row = {(s, p): i for i, (s, p, _) in enumerate(said)}
    for (f, s, p), value in world.activations.items():
        if p:  # what fires at an excluded position is not stored
            expected[row[s, p], f] = value
    assert batch_matrix(out).tobytes() == expected.tobytes()


@pytest.mark.parametrize("world", [builds, texts])
def test_a_store_that_was_appended_to_is_exported_whole(world: Any, tmp_path: Path) -> None:
    whole = import_world(world(), tmp_path / "whole")
    store = grown(world(), tmp_path / "grown", [3, 7])
    for format in ("batch-zarr", "transposed-zarr", "bundle"):
        made, expected = (
            export(format, source, tmp_path / f"{format}-{i}") for i, source in enumerate((store, whole))
        )
        if format == "batch-zarr":
            assert batch_matrix(made).tobytes() == batch_matrix(expected).tobytes()
            assert batch_matrix(made).any()
        if format == "bundle":
            left, right = (pl.read_parquet(f / "activations" / "*.parquet") for f in (made, expected))
            keys = ["feature", "sample", "position"]
            assert left.sort(keys).equals(right.sort(keys))


def test_a_sampled_store_is_not_exported_as_if_it_were_whole(seed_source: Path, tmp_path: Path) -> None:
    examples = write_examples(MATRIX, seed_source / "batches", tmp_path / "examples")
    import_source(
        "examples", examples, tmp_path / "store", progress=Quiet(), vocab=seed_source / "vocab.json"
    )
    for format in ("batch-zarr", "transposed-zarr", "neuron-acts", "histograms", "idf"):
        with pytest.raises(NotInStore, match=f"^the export {format} needs every activation"):
            export(format, tmp_path / "store", tmp_path / "out")
    again = export("examples", tmp_path / "store", tmp_path / "again")
    said, made = (pl.read_parquet(f / "all_examples.parquet") for f in (examples, again))
    assert made.select("feature_id", "activation").equals(said.select("feature_id", "activation"))


def test_an_export_is_never_written_over_and_a_failed_one_leaves_nothing(gear: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput) as caught:
        export("idf", gear, tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path / 'out'} exists; an export is never written over. Name another folder or remove it."
    )
    with pytest.raises(BadInput, match=r"^no exporter for 'batch'; nearest: 'batch-zarr'"):
        export("batch", gear, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_command_names_every_format() -> None:
    assert EXPORTERS == FORMATS
    assert IMPORTERS == run_import.FORMATS


def test_the_families_of_an_export_are_those_that_an_import_takes(gear: Path, tmp_path: Path) -> None:
    out = export("batch-zarr", gear, tmp_path / "out")
    assert yaml.safe_load((out / "families.yaml").read_text(encoding="utf-8")) == [
        {"name": "comeback", "encoding": "exclusive", "levels": {"comeback": 1}},
        {"name": "ninja", "encoding": "exclusive", "levels": {"ninja": 1}},
        {"name": "swim", "encoding": "cumulative", "levels": {"swim_3": 3, "swim_6": 6}},
    ]
