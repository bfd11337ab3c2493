"""The page's table is made from the results alone; no peer is needed."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.collection.__main__ import RESULTS
from benchmarks.collection.agreement import compare
from benchmarks.collection.records import Agreement, Lap, Report, Results, Trial
from benchmarks.collection.table import render, write_between_markers
from tests.conftest import ROOT


def lap(wall: float, cpu: float) -> Lap:
    return Lap(wall_seconds=wall, cpu_seconds=cpu)


def trial(contender: str, peak_mb: float, process: Lap, **laps: Lap) -> Trial:
    report = Report(
        n_positions=8192, n_activations=270_000, loaded_mb=200.0, laps={"load": lap(3, 2), **laps}
    )
    return Trial(contender=contender, threads=1, process=process, peak_mb=peak_mb, report=report)


RESULTS_BY_HAND = Results(
    n_windows=32,
    context=256,
    n_cores=2,
    repeats=2,
    versions={
        "ours": {"torch": "2.13.0+cpu", "transformers": "5.23.0"},
        "delphi": {"eai-delphi": "0.1.3"},
        "saedashboard": {"sae-dashboard": "0.8.0", "transformer-lens": "2.17.0"},
    },
    trials=(
        trial("ours", 500.0, lap(4, 4), collect=lap(1, 0.8)),
        trial("ours", 510.0, lap(8, 2), collect=lap(2, 0.8)),
        trial("delphi", 1000.0, lap(8, 8), collect=lap(2, 1), save=lap(1, 1)),
        trial("saedashboard", 250.0, lap(8, 8), collect=lap(4, 4)),
        trial("saedashboard whole", 600.0, lap(16, 16), collect=lap(4, 4), whole=lap(8, 8)),
    ),
    larger=(
        trial("ours", 520.0, lap(9, 9), collect=lap(4, 4)),
        trial("delphi", 2000.0, lap(9, 9), collect=lap(4, 4)),
    ),
    agreements=(
        Agreement(
            peer="delphi",
            n_same=269_000,
            n_differ=0,
            n_only_ours=1,
            n_only_theirs=2,
            largest_difference=2.4e-6,
            furthest_from_threshold=1.2e-6,
            n_at_bos=96,
        ),
    ),
)


def test_a_row_counts_what_is_written_to_disk_and_leaves_loading_out() -> None:
    rows = [line for line in render(RESULTS_BY_HAND).splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        # 8,192 tokens in 1 and 2 s; in 0.8 CPU-s both times; in 4 and 8 s with the loading
        "| saeinterp, Parquet written | 1 | 6,144 (4,096 to 8,192) | 10,240 (10,240 to 10,240)"
        " | 1,536 (1,024 to 2,048) | 3,072 (2,048 to 4,096) | 505 (500 to 510) | 200 (200 to 200) |",
        "| delphi, safetensors written | 1 | 2,731 | 4,096 | 1,024 | 1,024 | 1,000 | 200 |",
        "| SAEDashboard, activations only | 1 | 2,048 | 2,048 | 1,024 | 1,024 | 250 | 200 |",
        "| SAEDashboard, with its dashboards | 1 | 1,024 | 1,024 | 512 | 512 | 600 | 200 |",
    ]


def test_the_ratios_are_those_of_the_medians_and_say_where_ours_is_worse() -> None:
    assert (
        "With 1 thread our tokens a CPU-second are 2.50 times delphi's (2.25 by the clock) in 0.51 times its memory"
        " and 5.00 times SAEDashboard's (3.00 by the clock) in 2.02 times its memory."
    ) in render(RESULTS_BY_HAND)


def test_the_memory_of_the_larger_runs_is_said() -> None:
    assert (
        "At 8,192 tokens (one run each, one thread) the peaks are 520 MB for ours, 2,000 MB for delphi."
        in render(RESULTS_BY_HAND)
    )


def test_what_only_one_of_the_two_finds_is_said() -> None:
    assert (
        "Same activations: with delphi 269,000 have the same feature and position and values within 0.001 (largest"
        " difference 2e-06), 0 differ by more, 3 are found by one of the two only, all within 1e-06 of the threshold"
        " where rounding decides; it keeps 96 more at BOS, which the SAE was not trained on."
    ) in render(RESULTS_BY_HAND)


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nText.\n", encoding="utf-8")
    write_between_markers(page, "first")
    page.write_text(page.read_text(encoding="utf-8") + "\nMore.\n", encoding="utf-8")
    write_between_markers(page, "second")
    assert page.read_text(encoding="utf-8") == (
        "# Title\n\nText.\n\n<!-- collection:begin -->\nsecond\n<!-- collection:end -->\n\nMore.\n"
    )


def test_the_page_shows_the_results_that_are_kept() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert render(Results.model_validate_json(RESULTS.read_text(encoding="utf-8"))) in page


@pytest.fixture
def sae(tmp_path: Path) -> Path:
    """Three features with thresholds 1, 1 and 2."""
    save_file({"threshold": np.array([1, 1, 2], np.float16)}, tmp_path / "sae_weights.safetensors")
    return tmp_path


def kept(path: Path, *activations: tuple[int, int, int, float]) -> Path:
    """Rows of (row, position, feature, value)."""
    row, position, feature, value = zip(*activations, strict=True)
    np.savez(path, row=row, position=position, feature=feature, value=value)
    return path


def test_activations_are_compared_by_row_position_and_feature(tmp_path: Path, sae: Path) -> None:
    ours = kept(tmp_path / "a.npz", (0, 1, 0, 3.0), (0, 2, 1, 4.0), (1, 1, 2, 2.5), (1, 2, 2, 2.25))
    theirs = kept(
        tmp_path / "b.npz", (1, 1, 2, 2.5), (0, 0, 0, 9.0), (0, 2, 1, 4.5), (0, 1, 0, 3.0), (1, 2, 1, 1.125)
    )
    assert compare("delphi", ours, theirs, sae) == Agreement(
        peer="delphi",
        n_same=2,
        n_differ=1,
        n_only_ours=1,
        n_only_theirs=1,
        largest_difference=0.5,
        furthest_from_threshold=0.25,
        n_at_bos=1,
    )
