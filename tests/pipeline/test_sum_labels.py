"""Stored sums by label: those of the definition, the same bytes whatever the workers, and of dense features only."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from pipeline.config import Execution
from pipeline.stages.order_samples import DRAFT
from pipeline.stages.sum_labels import sum_labels, whole_units
from pipeline.verify import _verify_sums
from saeinterp_mcp.store.base import Postings, Store
from saeinterp_mcp.store.layout import LABEL_SUMS, NO_INDEX
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from saeinterp_mcp.store.sums import places_of_labels, stored_influence, stored_sums
from saeinterp_mcp.store.zarr_store import ZarrBackend
from saeinterp_mcp.store.zarr_writer import ZarrWriter
from tests.store.contract import assert_same_arrays
from tests.worlds import builds, has_rows, texts, worlds

MADE = ("sums/", "influence/")
ONE = Execution(workers=1)


def draft_of(truth: Store, folder: Path) -> Path:
    """The truth as the stages before ours would leave it."""
    writer = ZarrWriter(folder)
    for name, array in truth.backend._arrays.items():  # type: ignore[attr-defined]
        if not name.startswith(MADE):
            writer.put(name, array)
    writer.table("vocabulary", truth.backend.table("vocabulary"))
    (folder / DRAFT).write_text(truth.manifest.model_dump_json(), encoding="utf-8")
    return folder


def summed(truth: Store, folder: Path, summed_from: int = 1) -> Store:
    draft = draft_of(truth, folder / "draft")
    sum_labels((draft,), folder / "out", ONE, summed_from=summed_from)
    return Store(ZarrBackend(draft, folder / "out", draft=truth.manifest))


def crowd() -> World:
    """600 documents of three places with one to four tokens, so that tokens stand out; feature 2 is rare."""
    generator = np.random.default_rng(4)
    samples, activations = [], {}
    for s in range(600):
        tokens = generator.choice(["a", "b", "c", "d"], int(generator.integers(1, 5))).tolist()
        samples.append(WorldSample(tuple(tokens), f"u{s // 2 if s % 3 else s}", {"place": "xyz"[s % 3]}))
        for p, token in enumerate(tokens):
            for feature, liked in enumerate("ab"):
                if generator.random() < (0.8 if token == liked else 0.3 if token == "c" else 0.1):
                    activations[feature, s, p] = round(float(generator.lognormal()), 3)
    activations |= {(2, s, 0): 1.0 for s in range(9)}
    return World("sequence", 3, tuple(samples), activations, families=texts().families)


@pytest.mark.parametrize("world", [builds, texts, crowd])
def test_sums_are_those_of_the_definition(world: object, tmp_path: Path) -> None:
    truth = memory_store(world(), summed_from=1)  # type: ignore[operator]
    assert_same_arrays(summed(truth, tmp_path), truth, MADE)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(world=worlds())
def test_sums_of_any_world_are_those_of_the_definition(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(has_rows(world))
    truth = memory_store(world, summed_from=1)
    assert_same_arrays(summed(truth, tmp_path_factory.mktemp("any")), truth, MADE)


def test_only_features_that_fire_often_have_sums(tmp_path: Path) -> None:
    store = summed(memory_store(crowd()), tmp_path, summed_from=10)
    assert store.backend.column("sums/place").tolist() == [0, 1, NO_INDEX]
    assert store.backend.shape("sums/labels")[0] == 2
    assert stored_sums(store, 2, "all") is None
    assert stored_influence(store, 2) is None
    found = stored_sums(store, 1, "all")
    assert found is not None
    assert found.of("tokens") is None
    sums = found.of("group.place")
    assert sums is not None
    assert sums[:, LABEL_SUMS.index("c")].sum() == found.totals.c == len(store.activations(1).rows)


def test_tokens_that_stand_out_are_kept(tmp_path: Path) -> None:
    store = summed(memory_store(crowd()), tmp_path)
    found = stored_influence(store, 0)
    assert found is not None
    assert [[store.tokens[k] for k in side.tokens] for side in found] == [["a"], ["b", "d"]]
    assert all((side.q < 0.05).all() for side in found)


def test_labels_lie_one_set_after_the_other() -> None:
    assert places_of_labels(memory_store(builds()).manifest) == {
        "family.swim": slice(0, 4),
        "family.comeback": slice(4, 7),
        "family.ninja": slice(7, 10),
        "group.weapon": slice(10, 15),
        "group.season": slice(15, 17),
    }


@pytest.mark.parametrize(("workers", "block"), [(2, 1), (1, 1), (1, 2)])
def test_workers_and_blocks_leave_the_same_bytes(workers: int, block: int, tmp_path: Path) -> None:
    draft = draft_of(memory_store(crowd()), tmp_path / "draft")
    sum_labels((draft,), tmp_path / "first", ONE, summed_from=1)
    sum_labels((draft,), tmp_path / "second", Execution(workers=workers), block=block, summed_from=1)
    first, second = (
        {p.relative_to(f).as_posix(): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in (tmp_path / "first", tmp_path / "second")
    )
    assert first == second


def test_a_sampled_store_gets_no_sums(tmp_path: Path) -> None:
    truth = memory_store(builds())
    draft = draft_of(truth, tmp_path / "draft")
    manifest = truth.manifest.model_copy(update={"coverage": "sampled"})
    (draft / DRAFT).write_text(manifest.model_dump_json(), encoding="utf-8")
    assert sum_labels((draft,), tmp_path / "out", ONE, summed_from=1) == 0


def test_verify_computes_sums_again_and_finds_wrong_ones(tmp_path: Path) -> None:
    store = summed(memory_store(crowd()), tmp_path)
    asked: list[tuple[str, bool]] = []

    def note(what: str, expected: object, found: object) -> None:
        asked.append((what, expected == found))

    assert _verify_sums(store, [0, 2, 1], note) == 3
    assert all(holds for _, holds in asked)
    asked.clear()
    wrong = tmp_path / "out" / "sums" / "labels" / "c" / "0" / "0" / "0" / "0"
    content = np.fromfile(wrong, "<f8")
    content[LABEL_SUMS.index("ss")] += 1e-3
    content.tofile(wrong)
    assert _verify_sums(store, [0, 2, 1], note) == 3
    assert [what for what, holds in asked if not holds] == ["sums/labels"]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_rows_are_summed_some_at_a_time_with_their_units_whole(size: int) -> None:
    row_unit = np.repeat(np.arange(5), [1, 3, 2, 4, 1])
    rows = np.array([0, 1, 2, 3, 5, 6, 8, 9, 10])
    parts = [p.rows.tolist() for p in whole_units(row_unit, Postings(rows, np.ones(9, np.float32)), size)]
    assert [row for part in parts for row in part] == rows.tolist()
    units = [set(row_unit[part].tolist()) for part in parts]
    assert sum(map(len, units)) == 5
    assert len(parts) == {1: 5, 2: 5, 3: 5, 4: 3, 100: 1}[size]
