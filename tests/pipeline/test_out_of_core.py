"""Building in little memory, over processes, killed again and again, and where the disk does not play along."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Execution
from pipeline.importers.run_import import import_bundle
from pipeline.runner import sole_use
from pipeline.sorting import Entries, cut_ranges
from pipeline.stages.order_samples import order_samples
from pipeline.stages.write_postings import write_postings
from pipeline.verify import verify_store
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.store.manifest import read_manifest
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.zarr_store import ZarrBackend
from tests.pipeline.big_world import write_big_bundle
from tests.store.test_zarr_store import contents
from tests.worlds import Quiet

KILLS = 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_big_bundle(tmp_path_factory.mktemp("big") / "bundle")


@pytest.fixture(scope="module")
def undisturbed(bundle: Path) -> Path:
    import_bundle(bundle, bundle.parent / "store", progress=Quiet())
    return bundle.parent / "store"


def importing(bundle: Path, out: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "pipeline", "import", "bundle", str(bundle), "--out", str(out)]
    return [*command, *options]


def test_workers_and_little_memory_give_the_same_bytes(
    bundle: Path, undisturbed: Path, tmp_path: Path
) -> None:
    import_bundle(
        bundle,
        tmp_path / "store",
        execution=Execution(workers=2, max_memory_gb=0.41),
        progress=Quiet(),
    )
    assert contents(tmp_path / "store") == contents(undisturbed)


def test_ranges_smaller_than_a_feature_give_the_same_arrays(
    bundle: Path, undisturbed: Path, tmp_path: Path
) -> None:
    order_samples(bundle, tmp_path / "placed")
    manifest = write_postings(bundle, tmp_path / "placed", tmp_path / "out", limit=3_000)
    found, expected = ZarrBackend(tmp_path / "out", draft=manifest), open_store(undisturbed).backend
    for name in ("features/indptr", "features/rows", "features/values", "rows/indptr", "rows/features"):
        np.testing.assert_array_equal(found.column(name), expected.column(name))


def test_an_activation_of_a_feature_cut_in_ranges_goes_to_the_range_of_its_row() -> None:
    ranges = cut_ranges(np.array([10, 100, 0, 5]), 0, n_minors=50, limit=40)
    assert ranges.first_block.tolist() == [0, 1, 1, 1, 2, 4]
    entries = Entries(
        np.array([0, 1, 1, 1, 3], np.uint32), np.array([49, 0, 20, 49, 0], np.uint32), np.ones(5, np.float32)
    )
    assert ranges.of(entries).tolist() == [0, 1, 2, 3, 4]


def test_a_build_killed_at_twenty_moments_ends_with_the_bytes_of_an_undisturbed_one(
    bundle: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """SIGKILL to the parent alone: its workers must end by themselves and not disturb the next run."""
    out = tmp_path / "store"
    command = importing(bundle, out, "--workers", "2", "--max-memory", "0.41")
    generator = np.random.default_rng(20)
    killed = 0
    for _ in range(200):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        work = out.parent / f"{out.name}.work"
        begun = time.monotonic()
        while not work.exists() and process.poll() is None and time.monotonic() - begun < 60:
            time.sleep(0.01)
        try:
            process.wait(float(generator.uniform(0.0, 1.6)) if killed < KILLS else 300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
            assert not out.exists() or read_manifest(out)
            continue
        _, said = process.communicate()
        assert process.returncode == 0, said
        if killed >= KILLS:
            break
        assert contents(out) == contents(undisturbed)
        subprocess.run(["rm", "-rf", str(out)], check=True)
    assert killed == KILLS
    assert contents(out) == contents(undisturbed)
    assert verify_store(out)


def with_children(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        started = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return [pid]
    return [pid, *(p for child in started for p in with_children(int(child)))]


def peak_anonymous_mb(command: list[str]) -> float:
    """The most anonymous memory that a process and its children had together, in MB, sampled.

    Shared pages count once (proportional sizes): between fork and exec a child still has all of its parent's.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        total = 0
        for pid in with_children(process.pid):
            with contextlib.suppress(OSError):
                memory = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
                total += sum(
                    int(line.split()[1]) for line in memory.splitlines() if line.startswith("Pss_Anon:")
                )
        peak = max(peak, total)
        time.sleep(0.005)
    assert process.returncode == 0
    return peak / 1024


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux' /proc")
def test_memory_does_not_grow_with_the_activations(bundle: Path, tmp_path: Path) -> None:
    """Four times the activations of the same samples; at 12 bytes each they alone would add 17 MB, sorted 90 MB."""
    larger = write_big_bundle(tmp_path / "bundle", per_feature=16_000, parts=24)
    peaks = [
        peak_anonymous_mb(importing(source, tmp_path / f"store{i}", "--max-memory", "0.41"))
        for i, source in enumerate((bundle, larger))
    ]
    n = [read_manifest(tmp_path / f"store{i}").n_activations for i in range(2)]
    assert n[1] > 3 * n[0]
    assert peaks[1] < peaks[0] + 30, peaks


def test_a_second_build_into_the_same_place_is_refused(bundle: Path, tmp_path: Path) -> None:
    work = tmp_path / "store.work"
    work.mkdir()
    with sole_use(work):
        second = subprocess.run(
            importing(bundle, tmp_path / "store"), capture_output=True, text=True, check=False
        )
    assert second.returncode == 2
    assert f"another build is running in {work}" in second.stderr
    assert not (tmp_path / "store").exists()


def test_a_disk_that_is_full_is_said_and_publishes_nothing(bundle: Path, tmp_path: Path) -> None:
    """A limit of the size of files stands for a full disk: the write fails in a worker."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    failed = _run(importing(bundle, tmp_path / "store", "--workers", "2"), limited)
    assert failed.returncode == 2
    assert "File too large" in failed.stderr
    assert "what is done is kept" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "store").exists()
    again = _run(importing(bundle, tmp_path / "store"))
    assert again.returncode == 0, again.stderr


def test_a_folder_that_cannot_be_written_is_said(bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir()
    place.chmod(0o555)
    if os.access(place, os.W_OK):  # root may write anywhere but in the kernel's own file systems
        place = Path("/sys/kernel")
    failed = _run(importing(bundle, place / "store"))
    assert failed.returncode == 2
    assert f"{place}" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_bit_that_flips_between_two_runs_is_found(bundle: Path, tmp_path: Path) -> None:
    class Dies(Quiet):
        def say(self, text: str) -> None:
            if text.startswith("find_neighbours: runs"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_bundle(bundle, tmp_path / "store", progress=Dies())
    victim = tmp_path / "store.work" / "write_postings" / "features" / "values" / "c" / "0"
    content = bytearray(victim.read_bytes())
    content[5] ^= 4
    victim.write_bytes(content)
    with pytest.raises(BadStore, match=r"features/values/c/0: expected sha256 .* the disk changed it"):
        import_bundle(bundle, tmp_path / "store", progress=Quiet())
    assert not (tmp_path / "store").exists()


def test_samples_cut_short_are_refused(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bundle"
    subprocess.run(["cp", "-r", str(bundle), str(broken)], check=True)
    samples = broken / "samples.parquet"
    samples.write_bytes(samples.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"samples\.parquet is not a Parquet file"):
        import_bundle(broken, tmp_path / "store", progress=Quiet())
    assert not (tmp_path / "store").exists()


def test_a_feature_that_fires_on_everything_is_cut_over_ranges_and_whole_again(undisturbed: Path) -> None:
    store = open_store(undisturbed)
    assert np.array_equal(store.activations(0).rows, np.arange(20_000))
    log = json.loads((undisturbed / "build_log.json").read_text(encoding="utf-8"))
    assert [entry["stage"] for entry in log["stages"]][:2] == ["order_samples", "write_postings"]


def _run(command: list[str], before: Callable[[], None] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=before)
