"""The results as the section of docs/performance.md."""

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from benchmarks.collection.records import Agreement, Results, Trial
from benchmarks.collection.trial import CONTENDERS

BEGIN, END = "<!-- collection:begin -->", "<!-- collection:end -->"
"""Everything between is written by `python -m benchmarks.collection`."""

PEERS = {"delphi": "delphi", "saedashboard": "SAEDashboard"}
Measure = Callable[[Trial], float]


def tokens_per_second(trial: Trial) -> float:
    return trial.report.n_positions / trial.steady.wall_seconds


def tokens_per_cpu_second(trial: Trial) -> float:
    return trial.report.n_positions / trial.steady.cpu_seconds


def whole_process(trial: Trial) -> float:
    return trial.report.n_positions / trial.process.wall_seconds


def whole_process_cpu(trial: Trial) -> float:
    return trial.report.n_positions / trial.process.cpu_seconds


def peak_mb(trial: Trial) -> float:
    return trial.peak_mb


def loaded_mb(trial: Trial) -> float:
    return trial.report.loaded_mb


COLUMNS: dict[str, Measure] = {
    "tokens a second": tokens_per_second,
    "a CPU-second": tokens_per_cpu_second,
    "a second of the whole process": whole_process,
    "a CPU-second of it": whole_process_cpu,
    "peak MB": peak_mb,
    "of it after loading": loaded_mb,
}


def render(results: Results) -> str:
    """The section's text, without the markers."""
    return "\n\n".join(
        [
            "**Collection against peers**. " + setting(results),
            table(results),
            *ratios(results),
            *growth(results),
            agreement(results),
        ]
    )


def setting(results: Results) -> str:
    """What ran, and on what."""
    ours, delphi, dash = (results.versions[name] for name in ("ours", "delphi", "saedashboard"))
    n_tokens = results.n_windows * results.context
    return (
        f"The demo model and SAE, {n_tokens:,} tokens ({results.n_windows} windows of {results.context}, BOS among"
        f" them), float32, no GPU, {results.n_cores} cores shared with other work. Each contender in its own process,"
        f" by turns, {results.repeats} rounds (the dashboards once): median (lowest to highest). delphi"
        f" {delphi['eai-delphi']} and ours with transformers {ours['transformers']}, SAEDashboard"
        f" {dash['sae-dashboard']} with transformer-lens {dash['transformer-lens']}, all with torch {ours['torch']};"
        " what was adapted to run them on a local model is in the heads of `benchmarks/collection/run_delphi.py` and"
        " `run_saedashboard.py`. Memory is anonymous memory (RssAnon), sampled every 10 ms."
        " Measured by `python -m benchmarks.collection`."
    )


def table(results: Results) -> str:
    """A row for each contender and number of threads."""
    lines = [f"| | threads | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, threads, trials in by_contender(results):
        cells = [spread([measure(trial) for trial in trials]) for measure in COLUMNS.values()]
        lines.append(f"| {CONTENDERS[name].title} | {threads} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_contender(results: Results) -> Iterator[tuple[str, int, list[Trial]]]:
    """Trials of each contender and number of threads, in the order of the contenders."""
    for name in CONTENDERS:
        for threads in sorted({trial.threads for trial in results.trials}):
            trials = [t for t in results.trials if (t.contender, t.threads) == (name, threads)]
            if trials:
                yield name, threads, trials


def spread(values: list[float]) -> str:
    """Median, and lowest to highest where there are several."""
    if len(values) == 1:
        return f"{values[0]:,.0f}"
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def ratios(results: Results) -> Iterator[str]:
    """A sentence for each number of threads: ours against the peers, by medians.

    CPU-seconds go first: what others do on the machine moves them least.
    """
    groups = {(name, threads): trials for name, threads, trials in by_contender(results)}
    for threads in sorted({threads for _, threads in groups}):
        parts = []
        for peer, called in PEERS.items():
            wall, cpu, peak = (
                middle(measure, groups["ours", threads]) / middle(measure, groups[peer, threads])
                for measure in (tokens_per_second, tokens_per_cpu_second, peak_mb)
            )
            parts.append(
                f"{cpu:.2f} times {called}'s ({wall:.2f} by the clock) in {peak:.2f} times its memory"
            )
        noun = "thread" if threads == 1 else "threads"
        yield f"With {threads} {noun} our tokens a CPU-second are {' and '.join(parts)}."


def growth(results: Results) -> Iterator[str]:
    """A sentence on memory with more tokens, where that was measured."""
    if results.larger:
        parts = [
            f"{trial.peak_mb:,.0f} MB for {PEERS.get(trial.contender, 'ours')}" for trial in results.larger
        ]
        n_tokens = results.larger[0].report.n_positions
        yield f"At {n_tokens:,} tokens (one run each, one thread) the peaks are {', '.join(parts)}."


def middle(measure: Measure, trials: list[Trial]) -> float:
    return median(measure(trial) for trial in trials)


def agreement(results: Results) -> str:
    """What the activations have in common, and what not."""
    return "Same activations: " + "; ".join(agreement_with(found) for found in results.agreements) + "."


def agreement_with(found: Agreement) -> str:
    text = (
        f"with {PEERS[found.peer]} {found.n_same:,} have the same feature and position and values within 0.001 (largest"
        f" difference {found.largest_difference:.1g}), {found.n_differ} differ by more"
    )
    if lone := found.n_only_ours + found.n_only_theirs:
        text += (
            f", {lone} are found by one of the two only, all within {found.furthest_from_threshold:.1g} of the"
            " threshold where rounding decides"
        )
    return text + f"; it keeps {found.n_at_bos:,} more at BOS, which the SAE was not trained on"


def write_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the markers; add both at the end where they are missing."""
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    if BEGIN not in content:
        content = f"{content.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = content.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    temporary = page.with_name(page.name + ".tmp")
    temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    temporary.replace(page)
