"""The storage benchmark: seventeen targets, questions through the server, growth; seed formats beside ours.

python -m benchmarks.storage --world S1 --world S2 [--growth] [--folder DIR] [--write docs/performance.md]
python -m benchmarks.storage --render docs/performance.md
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.storage import postings, questions, remote, served, whole_store
from benchmarks.storage.bench import Bench
from benchmarks.storage.findings import Finding, QuestionTimes, Results, load, machine
from benchmarks.storage.report import RESULTS, number, render, write
from benchmarks.storage.worlds import WORLDS

GROWTH = ("S2-0.01", "S2-0.1")
"""From one million activations to a hundred, where S2 itself is the last."""
OF_ONE_WORLD: dict[int, Callable[[Bench], list[Finding]]] = {
    1: postings.target_1,
    2: postings.target_2,
    3: postings.target_3,
    4: postings.target_4,
    5: postings.target_5,
    6: postings.target_6,
    7: postings.target_7,
    8: postings.target_8,
    9: questions.target_9,
    10: questions.target_10,
    11: questions.target_11,
    14: whole_store.target_14,
    15: whole_store.target_15,
    16: remote.target_16,
}
"""The others need more than one world (12, 13) or the server's times (17)."""
LARGE_ONLY = ("S3",)
"""Worlds for building, size and flatness; the seed's formats are not written for them."""


def bench_of(name: str, folder: Path) -> Bench:
    """A world by name, `S2`, or by name and scale, `S2-0.1`."""
    kind, _, scale = name.partition("-")
    return Bench(WORLDS[kind].model_copy(update={"scale": float(scale or 1)}), folder)


def run(benches: Sequence[Bench], small: Sequence[Bench], targets: Sequence[int]) -> Results:
    """Measure everything.

    Args:
        benches: worlds under all targets.
        small: worlds for growth, linearity and flatness alone, or too large for the seed's formats.
        targets: which of the seventeen.
    """
    facts = machine()
    for bench in (*small, *benches):
        bench.prepare(with_seed=bench in benches)
    everything = sorted([*small, *benches], key=lambda b: b.world.expected_activations)
    findings: list[Finding] = []
    times: list[QuestionTimes] = []
    for bench in benches:
        for target, measure in OF_ONE_WORLD.items():
            if target in targets:
                findings += _told(measure(bench))
    for bench in everything:
        if 17 in targets:
            times += served.time_questions(bench)
            times += [t for n in (1, served.N_READERS) for t in served.time_readers(bench, n)]
    for bench in benches:
        if 17 in targets:
            findings += _told(served.target_17(bench, times))
    if 12 in targets:
        findings += [f for pair in tenfold(everything) for f in _told(postings.target_12(*pair))]
    if 13 in targets:
        findings += _told(whole_store.target_13(everything))
    return Results(
        machine={**facts, "load_at_end": load()},
        findings=findings,
        questions=times,
        builds=[b.build for b in everything if b.build is not None],
        bounds={b.name: postings.bounds(b) for b in benches},
    )


def tenfold(benches: Sequence[Bench]) -> list[tuple[Bench, Bench]]:
    """Pairs of a sequence world and the same with ten times the rows."""
    sequences = [b for b in benches if b.world.kind == "sequence"]
    return [(a, b) for a in sequences for b in sequences if 9 < b.world.n_rows / a.world.n_rows < 11]


def _told(findings: list[Finding]) -> list[Finding]:
    for f in findings:
        verdict = {True: "held", False: "MISSED", None: "-"}[f.held]
        measured = "none" if f.measured is None else f"{number(f.measured)} {f.unit}"
        print(f"{f.target:2d} {f.world} {f.case}: {measured} {verdict}", file=sys.stderr, flush=True)
    return findings


def main() -> None:
    """Measure, save, render."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", action="append", default=[], help="S1, S2, S3, or scaled: S2-0.1")
    parser.add_argument("--growth", action="store_true", help=f"also {' and '.join(GROWTH)}")
    parser.add_argument("--target", action="append", type=int, help="only this one; may be repeated")
    parser.add_argument("--folder", type=Path, default=Path("build/storage-bench"))
    parser.add_argument("--write", type=Path, help="page to render the results into")
    parser.add_argument("--render", type=Path, help="render the saved results into a page; measure nothing")
    given = parser.parse_args()
    if given.render:
        write(Results.model_validate_json(RESULTS.read_text(encoding="utf-8")), given.render)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    under_all = [bench_of(n, given.folder) for n in given.world if n not in LARGE_ONLY]
    beside = [
        bench_of(n, given.folder)
        for n in (*(GROWTH if given.growth else ()), *(n for n in given.world if n in LARGE_ONLY))
    ]
    results = run(under_all, beside, given.target or range(1, 18))
    print(render(results))
    if given.write:
        write(results, given.write)


if __name__ == "__main__":
    main()
