"""Results as JSON, and as a part of docs/performance.md between two markers."""

from pathlib import Path

from benchmarks.storage.findings import Finding, Results

BEGIN = "<!-- storage benchmark: begin (python -m benchmarks.storage --write docs/performance.md) -->"
END = "<!-- storage benchmark: end -->"
RESULTS = Path(__file__).parent / "results.json"
BUSY = 1.0
"""A load above this, before anything is measured, is other people's work."""
PAIRED = (12, 13)
"""Targets that are measured on worlds beside those under all targets."""
TARGETS = {
    1: "postings (60 us + 3 x memcpy of their bytes)",
    2: "postings (0.3 ms + 2 x a sequential read)",
    3: "transposed Zarr / ours",
    4: "neuron_acts / ours",
    5: "neuron_acts / ours",
    6: "batch scan / ours",
    7: "neuron_acts / ours",
    8: "rows with tokens and group, neuron_acts and join / ours",
    9: "precomputed entries",
    10: "sweep and heatmap from postings",
    11: "co-activation",
    12: "flat in the number of rows",
    13: "build",
    14: "size",
    15: "open and verify",
    16: "remote",
    17: "summary over stdio",
}


def render(results: Results) -> str:
    """The part of the page that is measured."""
    machine = results.machine
    parts = [
        "## Storage",
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} shared cores, {machine['ram_gib']} GiB, load "
        f"{machine['load_at_start']:.1f} at the start; Python {machine['python']}, numpy {machine['numpy']}, zarr "
        f"{machine['zarr']}. Synthetic worlds drawn by seed (`benchmarks/storage/worlds.py`): S1, 4,096 features on "
        "1.0 million gear builds, 60 million activations; S2, 16,384 features on 2.0 million positions, 100 million; "
        "S2-0.1 a tenth of it, S3 ten times it. Medians of at least 15 calls, all formats by turns in one run. Cold: "
        "out of the page cache and newly opened, the hypervisor's cache and directory entries still warm. Seed formats "
        "are written in their real layouts and read by our rebuilt code; its server was not run, and no figure it "
        "published is compared with."
        + (
            " The machine was busy with other work all along: times are upper bounds, ratios were taken by turns."
            if machine["load_at_start"] > BUSY
            else ""
        ),
        "; ".join(
            f"{world}: memcpy {b['memcpy']:.0f} GB/s, cold sequential read {b['sequential read']:.2f} GB/s"
            for world, b in results.bounds.items()
        )
        + ".",
        "A figure is followed by its target; what is missed stands in bold. How each was taken is in "
        "`benchmarks/storage/results.json`.\n\n" + _targets(results.findings),
        _builds(results),
        _questions(results),
    ]
    return "\n\n".join(part for part in parts if part.strip(". "))


def _targets(findings: list[Finding]) -> str:
    """A row a target and case, a column a world; what needs a pair of worlds, or a build alone, comes last."""
    columns = list(dict.fromkeys(f.world for f in findings if f.target not in PAIRED))
    lines = [f"| # | target | {' | '.join(columns)} | others |", "|---" * (len(columns) + 3) + "|"]
    for target, case in dict.fromkeys((f.target, f.case) for f in sorted(findings, key=lambda f: f.target)):
        mine = [f for f in findings if (f.target, f.case) == (target, case)]
        cells = ["; ".join(_cell(f) for f in mine if f.world == world) for world in columns]
        others = "; ".join(f"{f.world}: {_cell(f)}" for f in mine if f.world not in columns)
        lines.append(f"| {target} | {TARGETS[target]}, {case} | {' | '.join(cells)} | {others} |")
    return "\n".join(lines)


def _cell(finding: Finding) -> str:
    if finding.measured is None:
        return finding.how.split(":")[0]
    measured = number(finding.measured)
    if finding.held is False:
        measured = f"**{measured}**"
    if finding.limit is None:
        return f"{measured} {finding.unit}"
    return f"{measured} ({'>=' if finding.at_least else '<='} {number(finding.limit)} {finding.unit})"


def _builds(results: Results) -> str:
    if not results.builds:
        return ""
    lines = [
        "**Building**, `saeinterp-pipeline import bundle --workers 2 --max-memory 1`, the whole command; anonymous "
        "memory sampled over its processes every 50 ms.",
        "",
        "| world | activations | s | CPU s | M activations/s | largest process MB | all together MB | slowest stages |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for b in results.builds:
        slowest = sorted(b.stages.items(), key=lambda item: -item[1])[:4]
        stages = ", ".join(f"`{name}` {seconds:.1f} s" for name, seconds in slowest)
        rate, memory = b.n_activations / b.seconds / 1e6, (b.peak_anonymous, b.peak_anonymous_total)
        lines.append(
            f"| {b.world} | {b.n_activations:,} | {b.seconds:.1f} | {b.cpu_seconds:.1f} | "
            f"{rate:.2f} | {memory[0] / 2**20:,.0f} | {memory[1] / 2**20:,.0f} | {stages} |"
        )
    return "\n".join(lines)


def _questions(results: Results) -> str:
    if not results.questions:
        return ""
    lines = [
        "**Questions through the server**, with clustered intervals, 60 features of each world, the 10 densest among "
        "them; the SDK's client, on the same two cores, checks each answer against its schema, which is part of the "
        "time.",
        "",
        "| world | activations | question | over | calls | p50 ms | p95 ms | slowest ms | calls/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for q in results.questions:
        rate = "" if q.calls_per_second is None else f"{q.calls_per_second:.0f}"
        lines.append(
            f"| {q.world} | {q.n_activations:,} | {q.question} | {q.transport} | {q.n_calls} | {q.p50:.1f} | "
            f"{q.p95:.1f} | {q.slowest:.1f} | {rate} |"
        )
    return "\n".join(lines)


def number(value: float) -> str:
    """Three significant digits, with thousands set apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def write(results: Results, page: Path | None) -> None:
    """Save the results, and render them into the page between its markers (appended when it has none)."""
    RESULTS.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if page is not None:
        page.write_text(put(page.read_text(encoding="utf-8"), render(results)), encoding="utf-8")


def put(page: str, part: str) -> str:
    """The page with its measured part replaced."""
    block = f"{BEGIN}\n{part}\n{END}"
    if BEGIN not in page:
        return f"{page.rstrip()}\n\n{block}\n"
    before, rest = page.split(BEGIN, 1)
    return before + block + rest.split(END, 1)[1]
