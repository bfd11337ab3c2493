"""`validate` on a data set of the original's size, with every text in the cache of vectors; then queries.

python -m benchmarks.validation [--folder DIR] [--workers 2] [--features 16384]
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.validation.data_set import Size, write_data_set
from benchmarks.validation.measure import Results, measure

RESULTS = Path(__file__).parent / "results.json"


def render(results: Results) -> str:
    """A table of stages and one of queries, in Markdown."""
    machine, targets = results.machine, results.targets
    lines = [
        f"{results.n_features:,} features, {results.n_examples:,} examples, {results.n_explanations:,} explanations, "
        f"{results.workers} workers; {machine['date']}, {machine['cpu']}, {machine['cores']} cores, load "
        f"{machine['load_at_start']:.1f} at the start and {machine['load_at_end']:.1f} at the end.",
        "",
        "| stage | s | CPU s | peak MB |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one.stage} | {one.seconds:.1f} | {one.cpu_seconds:.1f} | {one.peak_bytes / 1e6:,.0f} |"
        for one in results.stages
    ]
    lines += [
        f"| all (target {targets['seconds']:.0f} s, {targets['peak_bytes'] / 1e6:,.0f} MB) | {results.seconds:.1f} | "
        f"{results.cpu_seconds:.1f} | {results.peak_bytes / 1e6:,.0f} |",
        f"| a second run, nothing changed | {results.second_run_seconds:.1f} | | |",
        "",
        f"| question (target {targets['query_seconds']:g} s) | rows | p50 ms | slowest ms |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one.question} | {one.rows:,} | {1000 * one.p50_seconds:.1f} | {1000 * one.slowest_seconds:.1f} |"
        for one in results.queries
    ]
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("build/validation-bench"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--features", type=int, default=Size().n_features)
    parser.add_argument("--dry", action="store_true", help="do not save the results")
    given = parser.parse_args()
    size = Size(n_features=given.features)
    folder = given.folder / f"{size.n_features}"
    config = folder / "validate.yaml"
    if not config.is_file():
        write_data_set(folder, size)
    if not (folder / "filled").is_file():
        fill = [sys.executable, "-m", "benchmarks.validation.fill_cache", str(config), str(given.workers)]
        subprocess.run(fill, check=True)
        (folder / "filled").touch()
    results = measure(config, given.workers)
    if not given.dry:
        RESULTS.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print(render(results))


if __name__ == "__main__":
    main()
