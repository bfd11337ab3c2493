"""`build` over sets, against the made-up domain worked out in NumPy."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pipeline.build import build_store
from pipeline.config import Execution
from pipeline.set_config import SetRunConfig, load_run
from pipeline.sources.seed_sae import load_set_sae
from pipeline.sources.set_model import load_set_model
from pipeline.stages.draw_samples import ROW_GROUP
from pipeline.stages.measure_read_out import drawn_vectors, removal_check
from pipeline.stages.set_stages import SET_STAGES, set_stages
from pipeline.verify import verify_store
from saeinterp_mcp.operations.decoder_influence import decoder_influence
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from tests.pipeline.recorded import Recorder
from tests.pipeline.set_world import (
    ADAPTER,
    D_MODEL,
    N_VIEWS,
    TOKENS,
    WEAPONS,
    SetRun,
    World,
    bundle_of,
    make_world,
    write_set_run,
)

ROOT = Path(__file__).parents[2]
N_BUILDS = 80


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(N_BUILDS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, world: World) -> SetRun:
    """A finished run, its store beside it; only to look at."""
    run = write_set_run(tmp_path_factory.mktemp("set"), world)
    run.config()
    said = Recorder()
    build_store(run.folder / "run.yaml", progress=said)
    return SetRun(run.folder, run.sections, said)


@pytest.fixture(scope="module")
def store(built: SetRun) -> Store:
    return open_store(built.folder / "tiny-store")


@pytest.fixture
def run(tmp_path: Path, world: World) -> SetRun:
    """A run of the test's own."""
    return write_set_run(tmp_path, world)


def samples_of(built: SetRun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        built.folder / "tiny.work/write_set_bundle/samples.parquet"
    ).to_pylist()
    return rows


def activations_by_hand(world: World, rows: list[dict[str, Any]]) -> NDArray[np.float64]:
    """(n_samples, 2 * d_model): feature i is axis i above its bias, feature d_model + i the same axis below it."""
    x = np.array([world.vector(row["tokens"], row["weapon"]) for row in rows], dtype=np.float64)
    centred = x - np.linspace(-0.5, 0.5, D_MODEL, dtype=np.float32)
    hidden: NDArray[np.float64] = np.maximum(np.concatenate([centred, -centred], axis=1), 0)
    return hidden


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the store against plain NumPy


def test_activations_are_the_saes_on_the_models_vectors(built: SetRun, store: Store, world: World) -> None:
    rows = samples_of(built)
    expected = activations_by_hand(world, rows)
    assert len(rows) == N_BUILDS * (1 + N_VIEWS) + len(WEAPONS) == store.manifest.n_rows
    for feature in (0, 3, D_MODEL + 3):
        found = np.zeros(len(rows))
        postings = store.activations(feature)
        found[store.source[postings.rows]] = postings.values
        assert 20 < np.count_nonzero(found) < len(rows)
        assert found == pytest.approx(expected[:, feature], abs=2e-5)
    assert store.manifest.n_activations == np.count_nonzero(expected)


def test_tokens_are_counted_over_all_samples(built: SetRun, store: Store) -> None:
    rows = samples_of(built)
    vocabulary = store.backend.table("vocabulary")
    counted = dict(vocabulary.select("token", "samples").iter_rows())
    assert counted == {token: sum(token in row["tokens"] for row in rows) for token in TOKENS}


def test_decoder_influence_is_decoder_times_read_out(built: SetRun, store: Store, world: World) -> None:
    decoder = np.concatenate([np.eye(D_MODEL), -np.eye(D_MODEL)])
    expected = decoder @ world.out
    assert store.output_tokens == TOKENS
    assert np.abs(expected.mean(axis=1)).max() > 0.05, "a mean over outputs, which independent outputs keep"
    table = store.backend.table("decoder_influence").filter(pl.col("direction") == "promoted")
    found = np.full(expected.shape, np.nan)
    for feature, token, effect in table.select("feature", "token", "effect").iter_rows():
        found[feature, TOKENS.index(token)] = effect
    assert found == pytest.approx(expected, abs=1e-5)
    answer = decoder_influence(store, 3, limit=1)
    best = int(expected[3].argmax())
    assert answer.promoted.rows[0][:2] == [TOKENS[best], pytest.approx(expected[3, best], abs=1e-5)]
    assert answer.warnings == []


def test_families_come_from_names_and_groups_say_what_a_sample_is(store: Store) -> None:
    families = {name: (info.encoding, info.levels) for name, info in store.families.items()}
    assert families == {
        "comeback": ("exclusive", (1,)),
        "ink_saver": ("cumulative", (3, 6)),
        "ninja_squid": ("exclusive", (1,)),
        "swim_speed": ("cumulative", (3, 6, 12)),
    }
    groups = {name: (info.values, info.primary) for name, info in store.groups.items()}
    assert groups == {
        "weapon": (tuple(sorted(WEAPONS)), True),
        "view": (("(none)", "full", "partial"), False),
        "null_sample": (("no", "yes"), False),
    }
    assert store.groups["weapon"].attributes["class"] == ("shooter", "melee", "sniper", "melee")
    assert store.manifest.kind == "set"


def test_the_store_says_that_null_samples_count(built: SetRun, store: Store) -> None:
    notes = [check["note"] for check in store.manifest.checks if check["name"] == "import"]
    assert notes == [
        "samples are the whole set and 3 partial views of each set (tokens removed at random), so a level may be there"
        " without the lower ones; the views of a set are one unit",
        "4 samples are null samples (no tokens, one for each weapon); they are rows like others and count in every"
        " statistic; where `not null_sample=yes` leaves them out, where `null_sample=yes` asks for them alone",
    ]
    assert store.manifest.dataset is not None
    assert store.manifest.dataset["n_null_samples"] == 4
    null = np.flatnonzero(store.group_of_samples("null_sample") == 1)
    assert sorted(store.first_row[i + 1] - store.first_row[i] for i in null) == [1, 1, 1, 1]
    assert all(len(store.tokens_of_sample(int(i))) == 0 for i in null)


def test_the_checks_are_what_numpy_finds(built: SetRun, store: Store, world: World) -> None:
    checks = {check["name"]: check for check in store.manifest.checks}
    assert [check["name"] for check in store.manifest.checks if check["name"] != "import"] == [
        "hook_exists",
        "shapes_agree",
        "vocabulary_fits",
        "l0",
        "explained_variance",
        "dead_fraction",
        "loss_recovered",
        "direct_effect",
    ]
    assert all(check["passed"] for check in checks.values() if check["name"] != "import")
    rows = [row for row in samples_of(built) if row["set"] is not None]
    hidden = activations_by_hand(world, rows)
    assert checks["l0"]["value"] == pytest.approx(np.count_nonzero(hidden) / len(rows), rel=1e-5)
    x = np.array([world.vector(row["tokens"], row["weapon"]) for row in rows], dtype=np.float64)
    held = np.array([[token in world.builds[row["set"]] for token in TOKENS] for row in rows], dtype=float)

    def loss(vectors: NDArray[np.float64]) -> float:
        logits = vectors @ world.out + world.bias
        return float((np.logaddexp(0, logits) - held * logits).sum(axis=1).mean())

    clean, ablated = loss(x), loss(np.tile(x.mean(axis=0), (len(x), 1)))
    assert clean < ablated
    assert checks["loss_recovered"]["note"] == (
        f"nats per sample against the whole set: clean {clean:.4g}, SAE {clean:.4g}, mean {ablated:.4g}"
    )
    assert checks["explained_variance"]["value"] == pytest.approx(1, abs=1e-6)
    verify_store(built.folder / "tiny-store", lambda done, total: None)


@pytest.mark.parametrize(("name", "factor"), [("decoder", 1.001), ("unembedding", 0.9), ("decoder", 1.0)])
def test_the_written_weights_are_held_against_removing_features(
    built: SetRun, name: str, factor: float, tmp_path: Path
) -> None:
    work = built.folder / "tiny.work"
    shutil.copytree(work / "measure_read_out", tmp_path / "out")
    weights = np.load(tmp_path / "out" / f"{name}.npy", allow_pickle=False)
    np.save(tmp_path / "out" / f"{name}.npy", weights * np.float32(factor))
    run = load_run(built.folder / "run.yaml")
    assert isinstance(run, SetRunConfig)
    model = load_set_model(run.model, Execution(device="cpu"))
    sae, read_out = load_set_sae(run.sae, None, model.device), model.read_out()
    assert read_out is not None
    vectors = drawn_vectors(work / "capture_vectors", run.checks)
    check = removal_check(tmp_path / "out", vectors, sae, read_out, run.outputs, lambda done, total: None)
    assert check.passed == (factor == 1.0)


# --- runs, reruns and kills


def test_a_second_run_does_nothing_and_new_families_repeat_no_capture(run: SetRun) -> None:
    run.build()
    run.build()
    assert all(": skipped" in line for line in run.said.lines)
    run.build(families=[{"name": "swim", "match": r"swim_speed_(?P<level>\d+)", "level": "number"}])
    reran = [line.split(":")[0] for line in run.said.lines if ": runs," in line]
    assert reran[0] == "write_set_bundle"
    assert "encode_vectors" not in reran
    store_families = [
        f["name"]
        for f in bundle_of({"write_set_bundle": run.folder / "tiny.work/write_set_bundle"})["families"]
    ]
    assert store_families == ["swim"]


def test_the_size_of_batches_changes_nothing_but_rounding(run: SetRun) -> None:
    first = np.load(
        run.build("capture_vectors")["capture_vectors"] / "vectors.npy", allow_pickle=False
    ).copy()
    second = np.load(
        run.build("capture_vectors", collect={"batch_samples": 7})["capture_vectors"] / "vectors.npy",
        allow_pickle=False,
    )
    assert second == pytest.approx(first, abs=1e-5)


def test_the_size_of_parts_and_chunks_changes_nothing(
    run: SetRun, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stages.encode_vectors.PART_ROWS", 150)
    monkeypatch.setattr("pipeline.sources.sae.ENCODE_ELEMENTS", 40 * 2 * D_MODEL)
    folders = run.build("encode_vectors")
    parts = sorted((folders["encode_vectors"] / "activations").iterdir())
    assert [path.name for path in parts] == [f"part-0000{i}.parquet" for i in range(3)]
    rows = pq.read_table(folders["draw_samples"] / "samples.parquet").to_pylist()
    found = np.zeros((len(rows), 2 * D_MODEL))
    for path in parts:
        table = pq.read_table(path)
        sample, feature = table["sample"].to_numpy(), table["feature"].to_numpy()
        assert (np.diff(sample.astype(np.int64) * 2 * D_MODEL + feature) > 0).all(), "sorted, none twice"
        assert not table["position"].to_numpy().any()
        found[sample, feature] = table["value"].to_numpy()
    assert found == pytest.approx(activations_by_hand(world, rows), abs=2e-5)


def test_activations_at_or_below_the_minimum_are_counted_and_left_out(run: SetRun, world: World) -> None:
    folders = run.build(collect={"min_activation": 0.5}, split_seed=3, search_floor={"firing_rate": 0.01})
    rows = pq.read_table(folders["draw_samples"] / "samples.parquet").to_pylist()
    expected = activations_by_hand(world, rows)
    n_below = int(((expected > 0) & (expected <= 0.5)).sum())
    assert pq.read_table(folders["encode_vectors"] / "activations").num_rows == (expected > 0.5).sum()
    bundle = bundle_of(folders)
    assert bundle["checks"][-1]["note"] == f"{n_below:,} activations at or below 0.5 were left out"
    assert bundle["dataset"]["min_activation"] == 0.5
    assert (bundle["split_seed"], bundle["search_floor"]) == (3, {"firing_rate": 0.01})


SLOW = ADAPTER.replace("        rows = []", "        import time; time.sleep(0.02)\n        rows = []")
CHILD = """
import sys
from pathlib import Path
from pipeline.build import build_store
from pipeline.progress import LogReporter
build_store(Path(sys.argv[1]), progress=LogReporter(interval_seconds=0))
"""


def test_a_capture_that_is_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    large = make_world(n_builds=4 * ROW_GROUP // (1 + N_VIEWS))
    folders = []
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
        folders.append(write_set_run(tmp_path / name, large, adapter=SLOW))
    killed, whole = folders
    whole.build("capture_vectors")
    killed.config()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", CHILD, str(killed.folder / "run.yaml")]
    vectors = killed.folder / "tiny.work/capture_vectors.partial/vectors.npy"
    row_group = ROW_GROUP * D_MODEL * 4
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=environment, cwd=ROOT) as child:
        while child.poll() is None and not (vectors.is_file() and vectors.stat().st_size > 2 * row_group):
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    with vectors.open("ab") as file:
        file.write(b"half a row")
    before = vectors.read_bytes()

    artifacts = killed.build("capture_vectors")

    assert "capture_vectors: goes on from an unfinished artifact" in killed.said.lines
    assert killed.said.steps["capture_vectors"][0] == (
        (len(before) - 128) // row_group * ROW_GROUP,
        4 * ROW_GROUP + len(WEAPONS),
    )
    for stage, folder in artifacts.items():
        assert content(folder) == content(whole.folder / "tiny.work" / stage), stage


def test_a_run_can_train_its_own_sae(run: SetRun) -> None:
    train = {
        "architecture": "topk",
        "expansion_factor": 2,
        "k": 6,
        "tokens": 20_000,
        "batch_size": 128,
        "lr": 0.01,
    }
    allowed = {"allow": ["explained_variance", "loss_recovered"]}
    folders = run.build(sae={"train": train}, checks=allowed)
    bundle = bundle_of(folders)
    assert bundle["n_features"] == 2 * D_MODEL
    assert bundle["sae"]["trained"]["k"] == 6
    assert set(bundle["sae"]["files"]) == {"sae/cfg.json", "sae/sae_weights.safetensors"}
    assert bundle["sae"]["metadata"]["hook_name"] == "masked_mean"
    (variance,) = [c["value"] for c in bundle["checks"] if c["name"] == "explained_variance"]
    assert variance > 0.5
    run.build(sae={"train": train | {"seed": 1}}, checks=allowed)
    assert "train_sae: runs, config changed: sae.seed 0 -> 1" in run.said.lines
    assert (
        "encode_vectors: runs, config changed: sae.train.seed 0 -> 1; input changed: train_sae"
        in run.said.lines
    )


# --- the list of stages


def test_training_is_a_stage_only_where_it_is_asked_for() -> None:
    names = [stage.name for stage in SET_STAGES]
    assert names[:7] == [
        "draw_samples",
        "capture_vectors",
        "train_sae",
        "check_vectors",
        "encode_vectors",
        "measure_read_out",
        "write_set_bundle",
    ]
    assert [stage.name for stage in set_stages(trains=False)] == [n for n in names if n != "train_sae"]


def test_every_module_that_a_stage_uses_is_in_its_fingerprint() -> None:
    # These only hold settings, which are hashed by value, or decide how a run is organised.
    organising = {"config", "set_config", "source_config", "stage", "artifact", "fingerprint", "progress"}
    # Language models, which a set's adapter does not load; they share a module with the choice of a device.
    apart = {
        "pipeline.sources.huggingface_model",
        "pipeline.sources.bridge_model",
        "pipeline.training.config",
    }
    mine = [s for s in set_stages(trains=False) if s.name not in ("write_postings", "order_samples")][:6]
    for stage in mine:
        for module in stage.modules:
            source = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
            lines = [
                line.split() for line in source.splitlines() if line.strip().startswith("from pipeline.")
            ]
            used = {words[1] for words in lines} - {f"pipeline.{name}" for name in organising} - apart
            assert used <= set(stage.modules), f"{stage.name}: {module}"
