"""How fast is the harness itself? A fake provider in a process of its own answers at once, so no model time is in it.

    python -m benchmarks.autointerp.throughput [--store STORE] [--features 300] [--write]

Explains features of a copy of the store, then scores them by the real command; `--write` keeps what was measured in
`throughput.json` beside this file. Without `--store` the store of the demo is imported from its bundle.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.importers.run_import import import_bundle
from tests.autointerp.running import JUDGE, WRITER, finished
from tests.providers.fake_server import FakeProcess, fake_process
from tests.worlds import Quiet

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("throughput.json")
CONCURRENCY = 16


def measure(store: Path, n_features: int, n_trials: int) -> dict[str, Any]:
    """Explain and then score; seconds of either command, its start and its report included."""
    with fake_process("tests.autointerp.scripted_model:eager") as server:
        many = ("--limit", n_features, "--concurrency", CONCURRENCY)
        explaining = _timed(server, "explain", store, "--model", WRITER, *many)
        found = [_scoring(server, store, method, n_trials) for method in ("detection", "fuzzing")]
    return {
        "features": n_features,
        "concurrency": CONCURRENCY,
        "explain": {**explaining, "features_per_second": round(n_features / explaining["seconds"], 1)},
        "score": found,
    }


def _scoring(server: FakeProcess, store: Path, method: str, n_trials: int) -> dict[str, Any]:
    told = ("--methods", method, "--judge", JUDGE, "--trials", n_trials, "--concurrency", CONCURRENCY)
    taken = _timed(server, "score", store, *told)
    with closing(sqlite3.connect(store.with_name(f"{store.name}.labels.sqlite"))) as connection:
        ask = "SELECT count(*), total(n) FROM heldout_tests WHERE method = ?"
        n_labels, n = connection.execute(ask, (method,)).fetchone()
    return {
        "method": method,
        "trials_of_a_label": n_trials,
        "labels": n_labels,
        "trials": int(n),
        **taken,
        "trials_per_second": round(n / taken["seconds"], 1),
        "trials_per_cpu_second": round(n / taken["cpu_seconds"], 1),
    }


def _timed(server: FakeProcess, *command: object) -> dict[str, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = finished(server, *command)
    assert done.code == 0, done.err
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.monotonic() - began, 2), "cpu_seconds": round(cpu, 2)}


def main() -> None:
    """Measure, print, and keep it if told to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path)
    parser.add_argument("--features", type=int, default=300)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        if given.store is None:
            import_bundle(ROOT / "examples" / "pycode" / "bundle", store, progress=Quiet())
        else:
            shutil.copytree(given.store, store)
        found = {
            "cores": os.cpu_count(),
            "load_before": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            **measure(store, given.features, given.trials),
        }
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    if given.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
