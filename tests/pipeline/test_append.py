"""Appending: any division of the samples into generations ends as one import of all would."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline.importers.run_compact import compact_store
from pipeline.importers.run_import import import_bundle
from pipeline.verify import verify_store
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.operations.label_get import label_get
from saeinterp_mcp.operations.label_save import label_save
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import MemoryBackend, World, memory_store
from saeinterp_mcp.store.open import open_store
from tests.store.contract import StoreContract, assert_same_store
from tests.worlds import Quiet, builds, has_rows, import_world, texts, worlds, write_bundle


def parts_of(world: World, cuts: list[int]) -> list[World]:
    """The world's samples cut into worlds of their own; each numbers its samples from 0."""
    edges = [0, *sorted(cuts), len(world.samples)]
    parts = []
    for start, stop in pairwise(edges):
        inside = {(f, s - start, p): v for (f, s, p), v in world.activations.items() if start <= s < stop}
        levels = {
            name: {(s - start, p): v for (s, p), v in places.items() if start <= s < stop}
            for name, places in world.position_levels.items()
        }
        parts.append(
            replace(world, samples=world.samples[start:stop], activations=inside, position_levels=levels)
        )
    return parts


def grown(world: World, folder: Path, cuts: list[int]) -> Path:
    """A store of the first part, to which the others were appended one after the other."""
    first, *others = parts_of(world, cuts)
    store = import_world(first, folder / "0")
    for i, part in enumerate(others, 1):
        bundle = write_bundle(part, folder / str(i) / "bundle")
        import_bundle(bundle, folder / str(i) / "store", progress=Quiet(), append_to=store)
        store = folder / str(i) / "store"
    return store


ACTIVATIONS = {
    f"{name}/{array}" for name in ("features", "rows") for array in ("indptr", "rows", "features", "values")
}


def assert_same_answers(found: Store, truth: Store) -> None:
    """Everything but how activations lie on disk is as if all samples had come at once."""
    assert isinstance(truth.backend, MemoryBackend)
    for name in sorted(set(truth.backend._arrays) - ACTIVATIONS):
        np.testing.assert_allclose(
            found.backend.column(name), truth.backend.column(name), rtol=1e-5, atol=1e-6, err_msg=name
        )
    for feature in range(truth.manifest.n_features):
        for mine, true in zip(found.activations(feature), truth.activations(feature), strict=True):
            np.testing.assert_array_equal(mine, true)
    rows = np.arange(truth.n_rows("all"))[::-1].copy()
    for mine, true in zip(found.firing_at(rows), truth.firing_at(rows), strict=True):
        np.testing.assert_array_equal(mine, true)
    skipped = {"files", "provenance", "checks", "dropped", "generation", "segments", "lineage"}
    assert found.manifest.model_dump(exclude=skipped) == truth.manifest.model_dump(exclude=skipped)


class TestGrownStore(StoreContract):
    """A store of three segments answers as one would; made once for all questions."""

    made: dict[str, Store] = {}

    def store(self, world: World, folder: Path) -> Store:
        if world.name not in self.made:
            self.made[world.name] = open_store(grown(world, folder, [5, 9]))
        return self.made[world.name]

    def test_every_array_is_the_one_defined(self, world: World, tmp_path: Path) -> None:
        assert_same_answers(self.store(world, tmp_path), memory_store(world))


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(world=worlds(), data=st.data())
def test_any_division_into_generations_answers_as_one_import(
    world: World, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    n = len(world.samples)
    assume(n > 1)
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), min_size=1, max_size=2)))
    assume(all(has_rows(part) for part in parts_of(world, cuts)))
    store = grown(world, tmp_path_factory.mktemp("grown"), cuts)
    truth = memory_store(world)
    assert_same_answers(open_store(store), truth)
    compact_store(store, store.parent / "compact", progress=Quiet())
    verify_store(store.parent / "compact")
    compact = open_store(store.parent / "compact")
    truth.manifest = truth.manifest.model_copy(update={"generation": len(cuts) + 1})
    assert_same_store(compact, truth)


def test_an_append_rewrites_no_activation_and_keeps_ids_and_splits(tmp_path: Path) -> None:
    world = texts()
    store = grown(world, tmp_path, [30])
    first = tmp_path / "0" / "store"
    for array in ("features/rows", "features/values", "rows/features", "rows/values"):
        files = [folder / array / "c" / "0" for folder in (first, store)]
        assert files[0].stat().st_ino == files[1].stat().st_ino
    old, new = open_store(first), open_store(store)
    places = {
        s.name + str(i): (row["unit"], row["split"])
        for i, s in enumerate((old, new))
        for row in s.backend.table("samples").to_dicts()
        if row["source_row"] == 7
    }
    assert len(set(places.values())) == 1
    assert new.manifest.generation == 1
    assert [(s.first_sample, s.n_samples) for s in new.manifest.segments] == [(0, 30), (30, 50)]
    assert verify_store(store)
    assert verify_store(first)


def test_the_ninth_segment_is_sorted_in_with_the_others(tmp_path: Path) -> None:
    world = texts()
    cuts = [20, 25, 30, 35, 40, 45, 50]
    store = grown(world, tmp_path, cuts)
    assert len(open_store(store).manifest.segments) == 8
    nine = grown(world, tmp_path / "again", [*cuts, 60])
    found, truth = open_store(nine), memory_store(world)
    assert len(found.manifest.segments) == 1
    truth.manifest = truth.manifest.model_copy(update={"generation": 8})
    assert_same_store(found, truth)


def test_what_does_not_go_with_the_store_is_refused(tmp_path: Path) -> None:
    store = import_world(builds(), tmp_path)
    others = {
        "n_features is 6, but the store 'builds' has 5": replace(
            builds(), n_features=6, decoder=None, unembedding=None
        ),
        "split_seed is 1, but the store 'builds' has 0": replace(builds(), split_seed=1),
        "is not the decoder of store 'builds'": replace(builds(), decoder=np.ones((5, 2), np.float32)),
        "token 'swim_3' is level 4 of 'swim', in the store it is level 3": replace(
            builds(),
            families=(
                builds()
                .families[0]
                .model_copy(update={"levels": (4, 6), "tokens": {"swim_3": 4, "swim_6": 6}}),
            ),
        ),
    }
    for i, (message, world) in enumerate(others.items()):
        bundle = write_bundle(world, tmp_path / f"other{i}")
        with pytest.raises(BadInput, match=re.escape(message)):
            import_bundle(bundle, tmp_path / f"out{i}", progress=Quiet(), append_to=store)
        assert not (tmp_path / f"out{i}").exists()


def test_a_store_of_one_segment_is_not_compacted(tmp_path: Path) -> None:
    store = import_world(builds(), tmp_path)
    with pytest.raises(BadInput, match="has one segment; there is nothing to compact"):
        compact_store(store, tmp_path / "out", progress=Quiet())


def test_labels_and_the_count_of_held_out_tests_go_along(tmp_path: Path) -> None:
    first, second = parts_of(builds(), [9])
    store = import_world(first, tmp_path / "old")
    old = open_store(store)
    saved = label_save(old, 0, "swims")
    assert old.lineage == old.fingerprint
    bundle = write_bundle(second, tmp_path / "more")
    import_bundle(bundle, tmp_path / "new", progress=Quiet(), append_to=store)
    new = open_store(tmp_path / "new")
    assert new.fingerprint != old.fingerprint
    assert new.lineage == old.lineage
    assert [label.label_id for label in label_get(new, 0).labels] == [saved.label_id]
    label_save(new, 0, "of the second generation")
    assert (label_get(old).total, label_get(new).total) == (1, 2)
    compact_store(tmp_path / "new", tmp_path / "one")
    compacted = open_store(tmp_path / "one")
    assert (compacted.lineage, label_get(compacted).total) == (old.lineage, 2)


def test_labels_that_are_there_already_are_not_written_over(tmp_path: Path) -> None:
    first, second = parts_of(builds(), [9])
    store = import_world(first, tmp_path / "old")
    label_save(open_store(store), 0, "swims")
    LabelFile(tmp_path / "new.labels.sqlite").write(lambda connection: None)
    import_bundle(
        write_bundle(second, tmp_path / "more"), tmp_path / "new", progress=Quiet(), append_to=store
    )
    assert label_get(open_store(tmp_path / "new")).total == 0
