"""What a runner measures of itself, and the arguments all runners take.

Standard library and numpy only: this is imported in the peers' environments, which do not have ours.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Stopwatch:
    """Wall and CPU seconds of named laps; a lap that is run again adds to the first."""

    def __init__(self) -> None:
        self.laps: dict[str, dict[str, float]] = {}
        self.loaded_mb = 0.0

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        yield
        lap = self.laps.setdefault(name, {"wall_seconds": 0.0, "cpu_seconds": 0.0})
        lap["wall_seconds"] += time.perf_counter() - wall
        lap["cpu_seconds"] += _cpu_seconds() - cpu
        if name == "load":
            self.loaded_mb = anonymous_mb("self")

    def report(self, out: Path, n_positions: int, n_activations: int) -> None:
        """Write `report.json`, which the parent reads."""
        content = {
            "n_positions": n_positions,
            "n_activations": n_activations,
            "loaded_mb": self.loaded_mb,
            "laps": self.laps,
        }
        (out / "report.json").write_text(json.dumps(content), encoding="utf-8")


def anonymous_mb(process: int | str) -> float:
    """Anonymous memory of a process that is in RAM: what it allocated, without mapped files."""
    with open(f"/proc/{process}/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1000
    return 0.0  # a process that has ended has no memory


def keep(
    out: Path,
    row: NDArray[np.integer],
    position: NDArray[np.integer],
    feature: NDArray[np.integer],
    value: NDArray[np.floating],
) -> None:
    """Write all activations, for the comparison; never in a run that is timed."""
    np.savez(out / "kept.npz", row=row, position=position, feature=feature, value=value)


def read_arguments() -> argparse.Namespace:
    """`--work` (tokens.npy, tokenised/), `--model`, `--sae`, `--out`, `--threads`, `--keep`, `--whole`."""
    parser = argparse.ArgumentParser()
    for name in ("work", "model", "sae", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="write all activations to OUT/kept.npz")
    parser.add_argument("--whole", action="store_true", help="SAEDashboard: make the dashboards as well")
    return parser.parse_args()


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
