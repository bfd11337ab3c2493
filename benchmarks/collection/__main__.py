"""Collection against delphi's cache and SAEDashboard's runner: the demo model, the same tokens, no GPU.

python -m benchmarks.collection [--tokens 65536] [--repeats 5] [--envs .bench-envs]
python -m benchmarks.collection --render    # writes the table of docs/performance.md from results.json again
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.collection.agreement import compare
from benchmarks.collection.environments import ENVIRONMENTS, python_of, versions
from benchmarks.collection.records import Agreement, Results, Trial
from benchmarks.collection.table import render, write_between_markers
from benchmarks.collection.trial import CONTENDERS, our_python, run_trial
from benchmarks.collection.workload import CONTEXT, EXAMPLE, Workload, write_workload

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "performance.md"
THREADS = (1, 2)
LARGER = 4
"""How many times the tokens the runs for the memory get."""
OURS_SHOWN = ("torch", "transformers")


def measure(envs: Path, n_tokens: int, repeats: int) -> Results:
    """Make the environments and the workload, run everyone by turns, compare what they found."""
    pythons = {name: python_of(name, envs) for name in ENVIRONMENTS}
    shutil.rmtree(envs / "work", ignore_errors=True)
    workload = write_workload(envs / "work", n_tokens)
    trials = list(run_trials(pythons, workload, repeats))
    shown = {name: versions(pythons[name], spec.shown) for name, spec in ENVIRONMENTS.items()}
    return Results(
        n_windows=workload.n_windows,
        context=CONTEXT,
        n_cores=len(os.sched_getaffinity(0)),
        repeats=repeats,
        versions={"ours": versions(our_python(), OURS_SHOWN), **shown},
        trials=tuple(trials),
        larger=tuple(run_larger(pythons, envs / "work" / "larger", LARGER * n_tokens)),
        agreements=tuple(agreements(pythons, workload)),
    )


def run_trials(pythons: dict[str, Path], workload: Workload, repeats: int) -> Iterator[Trial]:
    """Everyone in turn, round after round; every round begins with another, and every second goes backwards."""
    entries = [
        (name, threads) for name, c in CONTENDERS.items() for threads in (THREADS[:1] if c.once else THREADS)
    ]
    for index in range(repeats):
        turn = entries[index % len(entries) :] + entries[: index % len(entries)]
        for name, threads in turn if index % 2 == 0 else reversed(turn):
            if index == 0 or not CONTENDERS[name].once:
                yield run_one(name, pythons, workload, threads)


def run_larger(pythons: dict[str, Path], folder: Path, n_tokens: int) -> Iterator[Trial]:
    """Everyone once, with one thread, on a larger workload; its documents are repeated where they run out."""
    workload = write_workload(folder, n_tokens)
    for name, contender in CONTENDERS.items():
        if not contender.once:
            yield run_one(name, pythons, workload, threads=1)


def run_one(name: str, pythons: dict[str, Path], workload: Workload, threads: int) -> Trial:
    """A trial, and a line that says how it went."""
    environment = CONTENDERS[name].environment
    python = pythons[environment] if environment else our_python()
    trial = run_trial(name, python, workload, threads, workload.folder / "out")
    steady = trial.steady
    print(
        f"{name}, {threads} threads, {trial.report.n_positions:,} tokens: {steady.wall_seconds:.1f} s,"
        f" {steady.cpu_seconds:.1f} CPU-s, {trial.peak_mb:.0f} MB",
        file=sys.stderr,
    )
    return trial


def agreements(pythons: dict[str, Path], workload: Workload) -> Iterator[Agreement]:
    """Ours against each peer, in runs that are not timed."""
    ours = workload.folder / "kept-ours"
    run_trial("ours", our_python(), workload, 1, ours, extra=("--keep",))
    for peer, python in pythons.items():
        theirs = workload.folder / f"kept-{peer}"
        run_trial(peer, python, workload, 1, theirs, extra=("--keep",))
        yield compare(peer, ours / "kept.npz", theirs / "kept.npz", EXAMPLE / "sae")


def main() -> None:
    """Measure and write, or only write again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--envs", type=Path, default=ROOT / ".bench-envs")
    parser.add_argument("--render", action="store_true", help="no measuring: results.json to the page again")
    arguments = parser.parse_args()
    if not arguments.render:
        results = measure(arguments.envs.resolve(), arguments.tokens, arguments.repeats)
        RESULTS.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    text = render(Results.model_validate_json(RESULTS.read_text(encoding="utf-8")))
    write_between_markers(PAGE, text)
    print(text)


if __name__ == "__main__":
    main()
