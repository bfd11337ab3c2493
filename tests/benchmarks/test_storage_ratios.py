"""Reading a store beside the seed's formats, as ratios on a tiny world: generous, so that only a lost order shows.

Figures for machines are in docs/performance.md; here nothing is compared with a clock, everything by turns in one run.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.storage.bench import Bench
from benchmarks.storage.clock import Cold, cold, warm
from benchmarks.storage.findings import Finding, Results
from benchmarks.storage.postings import POSTINGS, check_same, rows_with_tokens
from benchmarks.storage.questions import sums_by_code
from benchmarks.storage.report import BEGIN, END, put, render
from benchmarks.storage.seed_layouts import write_seed_layouts
from benchmarks.storage.worlds import SEQUENCE_WORLD
from benchmarks.storage.write_world import write_world
from pipeline.importers.run_import import import_bundle
from tests.worlds import Quiet

ROWS = 128 * 4800
TINY = SEQUENCE_WORLD.model_copy(
    update={"name": "tiny", "n_features": 48, "full_rows": ROWS, "mean_firing": 1.5}
)


def made(folder: Path, scale: float, with_seed: bool) -> Bench:
    bench = Bench(TINY.model_copy(update={"scale": scale}), folder)
    write_world(bench.world, bench.bundle)
    if with_seed:
        write_seed_layouts(bench.world, bench.bundle, bench.seed_folder)
    import_bundle(bench.bundle, bench.store_folder, progress=Quiet())
    return bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return made(tmp_path_factory.mktemp("bench"), 1.0, True)


@pytest.fixture(scope="module")
def tenth(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return made(tmp_path_factory.mktemp("tenth"), 0.1, False)


def densest(bench: Bench) -> int:
    return int(np.argmax(bench.store.backend.column("stats/n_firing")[:, 1]))


def rarest(bench: Bench) -> int:
    n_firing = bench.store.backend.column("stats/n_firing")[:, 1]
    return int(np.argmin(np.where(n_firing > 0, n_firing, 2**62)))


def test_seed_formats_and_store_hold_the_same_activations(bench: Bench) -> None:
    for feature in bench.chosen.by_size.values():
        check_same(bench, feature)


def test_a_difference_between_the_formats_is_found(bench: Bench) -> None:
    feature = bench.chosen.by_size["1K"]
    path = bench.seed.files_of_neuron(feature)[0]
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(AssertionError, match=f"feature {feature} has other values in a seed format"):
            check_same(bench, feature)
    finally:
        path.write_bytes(kept)


def test_loading_a_feature_beats_the_transposed_zarr_by_far(bench: Bench) -> None:
    f = bench.chosen.by_size["500K"]
    store, seed = bench.store, bench.seed
    array = seed.open_transposed()
    ms = warm({"ours": lambda: store.activations(f), "transposed": lambda: seed.transposed(array, f)})
    assert ms["transposed"] > 10 * ms["ours"], ms


def test_reading_spans_is_not_slower_than_a_file_for_each_feature(bench: Bench) -> None:
    f = bench.chosen.by_size["500K"]
    backend, seed = bench.store.backend, bench.seed
    start, stop = (int(i) for i in backend.column("features/indptr")[f : f + 2])
    ms = warm(
        {
            "ours": lambda: [backend.span(name, start, stop) for name in POSTINGS],
            "neuron": lambda: seed.neuron(f),
        }
    )
    assert ms["ours"] < 2 * ms["neuron"], ms


def test_rows_with_tokens_and_group_beat_the_metadata_join(bench: Bench) -> None:
    f = bench.chosen.by_size["500K"]
    seed, metadata = bench.seed, bench.seed.metadata()
    ms = warm(
        {"ours": lambda: rows_with_tokens(bench, f), "join": lambda: seed.join(metadata, *seed.neuron(f))}
    )
    assert ms["ours"] < ms["join"], ms


def test_the_same_firings_cost_the_same_in_ten_times_the_rows(bench: Bench, tenth: Bench) -> None:
    assert bench.world.n_rows == 10 * tenth.world.n_rows
    few = tenth.store.backend.column("stats/n_firing")[:, 1]
    many = bench.store.backend.column("stats/n_firing")[:, 1]
    small, family = int(np.argmax(few)), ("tone",)
    large = int(np.argmin(np.abs(many - few[small])))
    assert many[large] == pytest.approx(few[small], rel=0.3)
    ms = warm(
        {
            "load in few": lambda: tenth.store.activations(small),
            "load in many": lambda: bench.store.activations(large),
            "sweep in few": lambda: sums_by_code(tenth.store, small, family),
            "sweep in many": lambda: sums_by_code(bench.store, large, family),
        }
    )
    assert ms["load in many"] < 3 * ms["load in few"], ms
    assert ms["sweep in many"] < 3 * ms["sweep in few"], ms


def test_a_rare_feature_costs_neither_the_corpus_nor_the_other_features(bench: Bench) -> None:
    store, f = bench.store, rarest(bench)
    n_rows, n_activations = bench.world.n_rows, store.manifest.n_activations
    ms = warm(
        {
            "rare": lambda: store.activations(f),
            "every activation": lambda: [store.backend.span(name, 0, n_activations) for name in POSTINGS],
            "every row": lambda: np.flatnonzero(np.zeros(n_rows, np.float32) != 0),
        }
    )
    assert 2 * ms["rare"] < ms["every activation"], ms
    assert ms["rare"] < ms["every row"], ms


def test_what_is_precomputed_does_not_cost_the_firings(bench: Bench) -> None:
    n_firing = bench.store.backend.column("stats/n_firing")[:, 1]
    dense, rare = densest(bench), rarest(bench)
    assert n_firing[dense] > 100 * n_firing[rare]
    ms = warm(
        {
            name: lambda f=f: [bench.store.backend.span(a, f, f + 1) for a in ("stats/histogram", "top/rows")]  # type: ignore[misc]
            for name, f in (("dense", dense), ("rare", rare))
        }
    )
    assert ms["dense"] < 3 * ms["rare"], ms


def test_sums_by_level_are_those_of_the_activations(bench: Bench) -> None:
    f = densest(bench)
    n, s = sums_by_code(bench.store, f, bench.heatmap_families)
    rows, values = bench.store.activations(f)
    depth, tone = bench.store.codes("depth")[rows], bench.store.codes("tone")[rows]
    here = (tone == 2) & (depth == 3)
    assert n[2 * 11 + 3] == here.sum()
    assert s[2 * 11 + 3] == pytest.approx(values[here].sum(dtype=np.float64))
    assert n.sum() == len(rows)


def test_timing_cold_leaves_the_descriptors_of_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4096)
    with path.open("rb") as ours:
        before = len(os.listdir("/proc/self/fd"))

        def prepare() -> object:
            return lambda: os.open(path, os.O_RDONLY)

        assert cold({"left open": Cold([path], prepare)}, rounds=3)["left open"] > 0  # type: ignore[arg-type]
        assert len(os.listdir("/proc/self/fd")) == before
        assert ours.read(1) == b"x"


def finding(measured: float | None, limit: float | None, at_least: bool = False) -> Finding:
    return Finding(
        target=3,
        world="S1",
        case="warm, 1K",
        measured=measured,
        limit=limit,
        unit="x",
        at_least=at_least,
        how="",
    )


def test_a_target_is_held_or_missed_or_neither() -> None:
    assert finding(2.0, 1.0, at_least=True).held is True
    assert finding(2.0, 1.0).held is False
    assert finding(1.0, 1.0).held is True
    assert finding(None, 1.0).held is None
    assert finding(2.0, None).held is None


def test_results_are_rendered_between_their_markers_and_the_rest_is_kept() -> None:
    facts = {"date": "2026-11-21", "cpu": "a kind", "cores": 2, "ram_gib": 24, "load_at_start": 0.5}
    results = Results(
        machine={**facts, "python": "3.11", "numpy": "2", "zarr": "3"},
        findings=[finding(412.0, 300.0, at_least=True), finding(120.0, 300.0, at_least=True)],
        questions=[],
        builds=[],
        bounds={"S1": {"memcpy": 14.0, "sequential read": 1.5}},
    )
    part = render(results)
    assert "| 3 | transposed Zarr / ours, warm, 1K |" in part
    assert "412 (>= 300 x)" in part
    assert "**120** (>= 300 x)" in part, "a missed target is set in bold"
    page = put("# Performance\n\nbefore\n", part)
    assert page.startswith("# Performance\n\nbefore\n\n" + BEGIN)
    again = put(page.replace("412", "413") + "after\n", part)
    assert again == page + "after\n"
    assert again.count(BEGIN) == again.count(END) == 1
