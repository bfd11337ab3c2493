"""A store that leaves activations in the seed's files answers as one that imported them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.exporters.run_export import ExportOptions, export_store
from pipeline.importers.run_import import import_source
from pipeline.verify import verify_store
from saeinterp_mcp.analysis.summaries import SUMMARY_SHAPES
from saeinterp_mcp.errors import BadInput, BadStore, NotInStore
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.feature_examples import feature_examples
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.similar_features import similar_features
from saeinterp_mcp.operations.store_status import store_status
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.served import ServedStores
from tests.worlds import Quiet, builds, import_world, texts

FORMATS = ("batch-zarr", "transposed-zarr", "neuron-acts")


def both(world: World, format: str, folder: Path) -> tuple[Store, Store]:
    """The world exported in a format, then imported, and served straight."""
    store = import_world(world, folder)
    options = ExportOptions(batch_size=7, zarr_format=3)
    export_store(format, store, folder / "source", options, progress=Quiet())
    export_store("batch-zarr", store, folder / "tables", options, progress=Quiet())
    given: dict[str, Any] = {"vocab": folder / "tables" / "vocab.json"}
    if format != "batch-zarr":
        given["metadata"] = folder / "tables" / "metadata"
    for name, straight in (("full", False), ("straight", True)):
        import_source(format, folder / "source", folder / name, progress=Quiet(), straight=straight, **given)
    return open_store(folder / "full"), open_store(folder / "straight")


@pytest.fixture(
    scope="module",
    params=[(w, f) for w in (builds, texts) for f in FORMATS],
    ids=lambda p: f"{p[0].__name__} {p[1]}",
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    make, format = request.param
    return both(make(), format, tmp_path_factory.mktemp("pair"))


def test_activations_and_summaries_are_those_of_a_full_import(pair: tuple[Store, Store]) -> None:
    full, straight = pair
    assert full.manifest.n_activations > 0
    for feature in range(full.manifest.n_features):
        for mine, true in zip(straight.activations(feature), full.activations(feature), strict=True):
            np.testing.assert_array_equal(mine, true)
        for name in SUMMARY_SHAPES:
            np.testing.assert_array_equal(
                straight.per_feature(name, feature), full.per_feature(name, feature), err_msg=name
            )


def test_answers_are_those_of_a_full_import(pair: tuple[Store, Store]) -> None:
    family, group = (next(iter(names)) for names in (pair[0].families, pair[0].groups))
    calls: list[tuple[Any, dict[str, Any]]] = [
        (feature_overview, {}),
        (feature_overview, {"split": "all", "where": f"family:{family}=0"}),
        (family_sweep, {"family": family, "min_n": 1}),
        (group_sweep, {"by": group, "min_n": 1}),
        *((feature_examples, {"pick": pick}) for pick in ("top", "spread", "core", "near_miss", "silent")),
    ]
    not_told = {"store", "evidence", "neighbours", "importance_percentile", "next_cursor"}
    for operation, arguments in calls:
        for feature in range(3):
            full, straight = (operation(s, feature, **arguments).model_dump(exclude=not_told) for s in pair)
            assert straight == full, (operation.__name__, arguments, feature)


def test_what_needs_every_feature_is_refused_with_the_way_to_a_full_store(pair: tuple[Store, Store]) -> None:
    straight = pair[1]
    with pytest.raises(
        NotInStore, match=r"a search over all features .* Import it without --straight: saeinterp-"
    ):
        features_search(straight)
    with pytest.raises(NotInStore, match="holds no coactivation neighbours"):
        similar_features(straight, 0)


def test_status_says_that_it_is_slow_and_verify_reads_the_files(pair: tuple[Store, Store]) -> None:
    straight = pair[1]
    status = store_status(ServedStores([straight]))
    assert status.stores[0].n_activations is None
    assert str(status.stores[0].served_from).endswith("source")
    assert any("served straight from" in warning for warning in status.warnings)
    checked = verify_store(straight.backend.path)  # type: ignore[attr-defined]
    assert checked[-1].endswith("features were read")


def test_files_that_have_changed_since_are_refused(tmp_path: Path) -> None:
    both(builds(), "neuron-acts", tmp_path)
    victim = tmp_path / "source" / "neuron_0000" / "acts.npy"
    np.save(victim, np.zeros(2, np.float32))
    with pytest.raises(
        BadStore, match="expected the files that were there when the store was made; found others"
    ):
        open_store(tmp_path / "straight")
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(
        BadStore, match="expected the neuron-acts files of the activations; found no such folder"
    ):
        open_store(tmp_path / "straight")


def test_activations_where_nothing_counts_are_left_out(tmp_path: Path) -> None:
    """Other people's files hold activations at BOS: row 0 of the source is position 0 of sample 0."""
    store = import_world(texts(), tmp_path)
    for format in ("neuron-acts", "batch-zarr"):
        export_store(format, store, tmp_path / format, progress=Quiet())
    neuron = tmp_path / "neuron-acts" / "neuron_0000"
    for name, first in (("idxs.npy", np.int64(0)), ("acts.npy", np.float32(50))):
        stored = np.load(neuron / name, allow_pickle=False)
        np.save(neuron / name, np.concatenate([[first], stored]).astype(stored.dtype))
    for record in (tmp_path / "neuron-acts").glob("*.json"):
        record.unlink()
    import_source(
        "neuron-acts", tmp_path / "neuron-acts", tmp_path / "straight", progress=Quiet(), straight=True,
        metadata=tmp_path / "batch-zarr" / "metadata", n_features=4,
    )  # fmt: skip
    found, true = open_store(tmp_path / "straight").activations(0), open_store(store).activations(0)
    np.testing.assert_array_equal(found.rows, true.rows)
    np.testing.assert_array_equal(found.values, true.values)


def test_a_format_without_a_loader_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "activations.npy", np.ones((4, 2), np.float32))
    with pytest.raises(
        BadInput, match="--straight serves batch-zarr, transposed-zarr, neuron-acts; npz must be"
    ):
        import_source("npz", tmp_path / "activations.npy", tmp_path / "out", progress=Quiet(), straight=True)
    assert not (tmp_path / "out").exists()
