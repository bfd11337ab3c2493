"""What every backend must do. Subclass `StoreContract`, say how a world becomes a store, and run."""

from pathlib import Path

import numpy as np
import pytest

from saeinterp_mcp.errors import UnknownName
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import ARRAYS
from saeinterp_mcp.store.memory_store import MemoryBackend, World, memory_store
from tests.worlds import builds, texts

FLOATS = (
    "sum",
    "sumsq",
    "unit_ss",
    "unit_sn",
    "effects",
    "norm",
    "scores",
    "decoder",
    "unembedding",
    "quantiles",
    "max",
    "random",
)
SUMS = ("sums/labels", "influence/sums", "influence/q")


def assert_same_arrays(found: Store, truth: Store, prefixes: tuple[str, ...] = ("",)) -> None:
    """Every array whose name begins so is the truth's."""
    assert isinstance(truth.backend, MemoryBackend)
    for name in sorted(n for n in truth.backend._arrays if n.startswith(prefixes)):
        mine, true = found.backend.column(name), truth.backend.column(name)
        assert mine.shape == true.shape == found.backend.shape(name), name
        if name.rsplit("/", 1)[1] in FLOATS or name in SUMS:
            np.testing.assert_allclose(mine, true, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(mine, true, err_msg=name)


def assert_same_store(found: Store, truth: Store) -> None:
    """Every array, table and field is the truth's."""
    assert isinstance(truth.backend, MemoryBackend)
    names = set(truth.backend._arrays)
    for spec in ARRAYS:
        if "*" not in spec.name:
            assert found.backend.has(spec.name) == (spec.name in names), spec.name
    assert_same_arrays(found, truth)
    assert found.tokens == truth.tokens
    assert found.output_tokens == truth.output_tokens
    for frame in ("samples", "vocabulary"):
        for column in truth.backend.table(frame).columns:
            cells, expected = (s.backend.table(frame)[column].to_list() for s in (found, truth))
            assert cells == (pytest.approx(expected) if column == "idf" else expected)
    skipped = {"files", "provenance", "checks", "dropped", "dataset", "model", "sae", "lineage"}
    assert found.manifest.model_dump(exclude=skipped) == truth.manifest.model_dump(exclude=skipped)


class StoreContract:
    """The shared suite."""

    def store(self, world: World, folder: Path) -> Store:
        """The world as a store of this backend."""
        raise NotImplementedError

    @pytest.fixture(params=[builds, texts], ids=["set", "sequence"])
    def world(self, request: pytest.FixtureRequest) -> World:
        made: World = request.param()
        return made

    def test_every_array_is_the_one_defined(self, world: World, tmp_path: Path) -> None:
        assert_same_store(self.store(world, tmp_path), memory_store(world))

    def test_activations_of_a_feature_are_those_of_the_world(self, world: World, tmp_path: Path) -> None:
        store = self.store(world, tmp_path)
        source = store.backend.column("samples/source")
        for feature in range(world.n_features):
            rows, values = store.activations(feature)
            found = {
                (int(source[store.row_sample[r]]), int(store.row_position[r])): float(v)
                for r, v in zip(rows, values, strict=True)
            }
            expected = {
                (s, p): float(np.float32(v))
                for (f, s, p), v in world.activations.items()
                if f == feature and not (world.kind == "sequence" and p in world.excluded_positions)
            }
            assert found == expected

    def test_the_explain_split_is_a_prefix_and_adds_up_with_the_rest(
        self, world: World, tmp_path: Path
    ) -> None:
        store = self.store(world, tmp_path)
        assert 0 < store.n_rows("explain") < store.n_rows("all")
        for feature in range(world.n_features):
            explain, whole = store.activations(feature, "explain"), store.activations(feature)
            n = len(explain.rows)
            assert np.array_equal(whole.rows[:n], explain.rows)
            assert (whole.rows[n:] >= store.n_rows("explain")).all()

    def test_a_unit_lies_on_one_side_of_the_split(self, world: World, tmp_path: Path) -> None:
        store = self.store(world, tmp_path)
        n = store.n_rows("explain")
        assert not set(store.row_unit[:n].tolist()) & set(store.row_unit[n:].tolist())

    def test_what_fires_at_a_row_is_what_fires_by_feature(self, world: World, tmp_path: Path) -> None:
        store = self.store(world, tmp_path)
        rows = np.arange(store.n_rows("all"))
        index, features, values = store.firing_at(rows)
        by_row = {(int(f), int(r)): float(v) for r, f, v in zip(rows[index], features, values, strict=True)}
        by_feature = {
            (f, int(r)): float(v)
            for f in range(world.n_features)
            for r, v in zip(*store.activations(f), strict=True)
        }
        assert by_row == by_feature

    def test_a_span_is_that_part_of_the_column(self, world: World, tmp_path: Path) -> None:
        store = self.store(world, tmp_path)
        for name in ("features/rows", "features/values", "stats/quantiles", "samples/first_token"):
            whole = store.backend.column(name)
            for start, stop in ((0, 0), (0, len(whole)), (1, len(whole) - 1)):
                np.testing.assert_array_equal(store.backend.span(name, start, stop), whole[start:stop])

    def test_an_unknown_feature_is_refused(self, world: World, tmp_path: Path) -> None:
        store = self.store(world, tmp_path)
        with pytest.raises(UnknownName, match=f"feature 99 is not in store '{world.name}', which has 0 to"):
            store.activations(99)
