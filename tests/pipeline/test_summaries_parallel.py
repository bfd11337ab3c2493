"""Summaries, examples and neighbours: the same bytes whatever the workers and blocks, and those of the definition."""

from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.config import Execution
from pipeline.stages.choose_examples import choose_examples
from pipeline.stages.feature_blocks import Block, joined_blocks
from pipeline.stages.find_neighbours import find_neighbours
from pipeline.stages.order_samples import DRAFT
from pipeline.stages.store_config import open_draft
from pipeline.stages.summarise_features import summarise_features
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from saeinterp_mcp.store.zarr_writer import ZarrWriter

MADE = ("stats/", "top/", "examples/", "neighbours/")
N_FEATURES = 11


def docs() -> World:
    """48 documents of 12 tokens: features 0 to 9 like a token more or less, feature 10 never fires."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(0, 9, (48, 12))
    samples = tuple(
        WorldSample(tuple(f"t{t}" for t in row), unit=f"u{i // 2}") for i, row in enumerate(tokens)
    )
    return World("sequence", N_FEATURES, samples, _firing(tokens, generator), decoder=_decoder(generator))


def sets() -> World:
    """900 builds of a few of 9 tokens, more rows than near misses are scored at a time; two to a unit."""
    generator = np.random.default_rng(2)
    held = generator.random((900, 9)) < 0.3
    samples = tuple(
        WorldSample(tuple(f"t{t}" for t in np.flatnonzero(row)), unit=f"u{i // 2}")
        for i, row in enumerate(held)
    )
    first = np.where(held.any(1), held.argmax(1), 9)[:, None]
    return World("set", N_FEATURES, samples, _firing(first, generator), decoder=_decoder(generator))


def _firing(tokens: np.ndarray, generator: np.random.Generator) -> dict[tuple[int, int, int], float]:
    return {
        (feature, s, p): round(float(generator.lognormal(0, 1)), 2) + 0.01
        for feature in range(N_FEATURES - 1)
        for (s, p), token in np.ndenumerate(tokens)
        if generator.random() < (0.7 if token == feature else 0.02 * feature)
    }


def _decoder(generator: np.random.Generator) -> np.ndarray:
    directions = generator.normal(size=(N_FEATURES, 3)).astype(np.float32)
    directions[4] = 0
    return directions


@pytest.fixture(scope="module", params=[docs, sets], ids=["sequence", "set"])
def truth(request: pytest.FixtureRequest) -> Store:
    world: World = request.param()
    return memory_store(world)


@pytest.fixture(scope="module")
def draft(truth: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The truth as the stages before ours would leave it."""
    folder = tmp_path_factory.mktemp("draft")
    writer = ZarrWriter(folder)
    for name, array in truth.backend._arrays.items():  # type: ignore[attr-defined]
        if not name.startswith(MADE):
            writer.put(name, array)
    writer.table("vocabulary", truth.backend.table("vocabulary"))
    (folder / DRAFT).write_text(truth.manifest.model_dump_json(), encoding="utf-8")
    return folder


def run(draft: Path, out: Path, workers: int, **sizes: int) -> Path:
    execution = Execution(workers=workers)
    block = sizes.get("block", 64)
    summarise_features((draft,), out / "summaries", execution, block=block)
    choose_examples((draft, out / "summaries"), out / "examples", 0, execution, block=block)
    find_neighbours((draft,), out / "neighbours", 0, execution, block=block, piece=sizes.get("piece", 2**30))
    return out


@pytest.fixture(scope="module")
def made(draft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(draft, tmp_path_factory.mktemp("made"), workers=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_array_is_the_one_defined(truth: Store, draft: Path, made: Path) -> None:
    found = open_draft(draft, *(made / name for name in ("summaries", "examples", "neighbours")))
    names = [name for name in truth.backend._arrays if name.startswith(MADE)]  # type: ignore[attr-defined]
    assert len(names) == 25
    for name in names:
        mine, true = found.backend.column(name), truth.backend.column(name)
        assert mine.dtype == true.dtype, name
        if mine.dtype.kind == "f":
            np.testing.assert_allclose(mine, true, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(mine, true, err_msg=name)


@pytest.mark.parametrize(
    ("workers", "sizes"),
    [(2, {"block": 4}), (1, {"block": 1}), (1, {"block": 3, "piece": 40}), (1, {"block": 500})],
)
def test_workers_and_blocks_leave_the_same_bytes(
    workers: int, sizes: dict[str, int], draft: Path, made: Path, tmp_path: Path
) -> None:
    found, expected = contents(run(draft, tmp_path, workers, **sizes)), contents(made)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_the_nearest_of_many_are_those_of_a_full_sort(truth: Store, draft: Path, tmp_path: Path) -> None:
    n, few = 512, truth.manifest.n_features
    many = tmp_path / "many"
    writer = ZarrWriter(many)
    directions = np.random.default_rng(3).normal(size=(n, 4)).astype(np.float32)
    directions[::2] = np.round(directions[::2])  # ties, and some of length 0
    indptr = truth.backend.column("features/indptr")
    writer.put("weights/decoder", directions)
    writer.put("features/indptr", np.concatenate([indptr, np.full(n - few, indptr[-1])]))
    manifest = truth.manifest.model_copy(update={"n_features": n})
    (many / DRAFT).write_text(manifest.model_dump_json(), encoding="utf-8")
    find_neighbours((many, draft), tmp_path / "out", 0, Execution())
    fires = np.zeros((truth.n_rows("explain"), n))
    for feature in range(few):
        fires[truth.activations(feature, "explain").rows, feature] = 1
    lengths = np.linalg.norm(directions.astype(np.float64), axis=1, keepdims=True)
    unit = directions / np.where(lengths > 0, lengths, 1)
    covariance, spread = np.cov(fires.T, ddof=0), np.outer(fires.std(0), fires.std(0))
    phi = np.where(spread > 0, covariance / np.where(spread > 0, spread, 1), 0)
    for by, scores in (("coactivation", phi), ("decoder", unit @ unit.T)):
        found = open_draft(many, tmp_path / "out").backend.column(f"neighbours/{by}/features")
        scores = np.round(scores, 9)
        np.fill_diagonal(scores, -np.inf)
        np.testing.assert_array_equal(found, np.argsort(-scores, axis=1, kind="stable")[:, :64])


def test_the_table_of_examples_lists_the_arrays_by_feature_pick_and_rank(truth: Store, made: Path) -> None:
    table = pl.read_parquet(made / "examples" / "tables" / "examples.parquet")
    expected = [
        (feature, pick, rank + 1, int(truth.source[truth.row_sample[row]]), int(truth.row_position[row]))
        for feature in range(N_FEATURES)
        for pick in ("core", "near_miss", "silent", "spread")
        for rank, row in enumerate(truth.list_of_feature(f"examples/{pick}", feature).tolist())
    ]
    assert table.rows() == expected


def test_a_sampled_store_gets_no_silent_rows(draft: Path, made: Path, tmp_path: Path) -> None:
    sampled = open_draft(draft).manifest.model_copy(update={"coverage": "sampled"})
    folder = tmp_path / "sampled"
    folder.mkdir()
    (folder / DRAFT).write_text(sampled.model_dump_json(), encoding="utf-8")
    folders = (folder, draft, made / "summaries")
    choose_examples(folders, tmp_path / "out", 0, Execution())
    found, full = (open_draft(draft, place).backend.column for place in (tmp_path / "out", made / "examples"))
    for pick in ("near_miss", "silent"):
        assert (found(f"examples/{pick}") == 2**32 - 1).all()
    for pick in ("core", "spread"):
        np.testing.assert_array_equal(found(f"examples/{pick}"), full(f"examples/{pick}"))


def test_progress_goes_up_to_the_end(draft: Path, made: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    summarise_features((draft,), tmp_path / "s", Execution(), note, block=4)
    assert seen == [(4, 11), (8, 11), (11, 11)]
    seen.clear()
    choose_examples((draft, made / "summaries"), tmp_path / "e", 0, Execution(), note, block=4)
    assert seen == [(4, 11), (8, 11), (11, 11)]
    seen.clear()
    find_neighbours((draft,), tmp_path / "n", 0, Execution(), note, block=4)
    assert seen == [(4, 22), (8, 22), (11, 22), (22, 22)]


def _numbered(size: int, n: int, first: int) -> Block:
    return {"number": np.arange(first, min(first + size, n))}


@pytest.mark.parametrize("size", [1000, 4096, 5000, 20_000])
def test_blocks_are_joined_in_order_some_thousands_at_a_time(size: int) -> None:
    n = 10_000
    joined = list(joined_blocks(partial(_numbered, size, n), n, size, 1, lambda done, total: None))
    assert np.concatenate([block["number"] for _, block in joined]).tolist() == list(range(n))
    assert [first for first, _ in joined] == [int(block["number"][0]) for _, block in joined]
    assert len(joined) == {1000: 2, 4096: 3, 5000: 2, 20_000: 1}[size]
