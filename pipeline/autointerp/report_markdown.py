"""The report of a run as Markdown, for a terminal, a pull request or an agent."""

from collections.abc import Iterable, Sequence

from pipeline.autointerp.results import FeatureRow, MethodSummary, RunResults, worst
from saeinterp_mcp.analysis.text import visible

N_WORST = 20
HEAD = (
    "method", "measure", "labels", "mean", "quartiles", "floor", "above floor", "search label", "better than it",
    "wrong labels", "trials", "unanswered",
)  # fmt: skip
NOTE = (
    "Scores are of held-out trials, none of which an explainer saw. Floor: reached without any knowledge; above floor: "
    "labels whose 95 % interval lies above it, without the near misses too. Search label: the words that go with the "
    "feature, found without a model, on the same trials. Wrong labels: labels of other features on these trials. "
    "Unanswered trials are in no score. Nothing is corrected for the number of features."
)
"""What the columns mean."""


def as_markdown(found: RunResults) -> str:
    """The whole report."""
    parts = [
        f"# Run {found.run}",
        _facts(found),
        "## What it cost",
        cost_table(found),
        "## Scores",
        scores_text(found),
        *[_distribution(m) for m in found.methods if m.n_labels],
        "## Worst labels",
        _worst(found.rows),
        "## Left out",
        _left_out(found),
        "## Made with",
        _pairs(flat(found.config) | found.versions | {"store fingerprint": found.store_fingerprint}),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(found: RunResults) -> str:
    n_labelled = sum(row.state == "labelled" for row in found.rows)
    n_unclear = sum(row.state == "unclear" for row in found.rows)
    stopped = f" It stopped: {found.why}." if found.why else ""
    return (
        f"Store {cell(found.store)}, {found.n_features:,} features: {n_labelled:,} labelled, {n_unclear:,} unclear, "
        f"{sum(found.left_out.values()):,} left out. State: {found.state}.{stopped} Started {found.started_at}, report "
        f"of {found.written_at}."
    )


def cost_table(found: RunResults) -> str:
    """What the ledger counts, as a table."""
    return _pairs(found.usage)


def scores_text(found: RunResults) -> str:
    """A row a method; what the columns mean below."""
    if not found.methods:
        return "Nothing was scored in this run."
    rows = [score_cells(m) for m in found.methods]
    return table(HEAD, rows) + "\n\n" + NOTE


def score_cells(m: MethodSummary) -> list[str]:
    """The cells of one method's row."""
    quartiles = " / ".join(short(q) for q in m.quartiles) if m.quartiles else "–"
    without = f" (+{m.n_without} without)" if m.n_without else ""
    controls = f"{short(m.control_mean)} (n {m.n_controls})" if m.n_controls else "–"
    return [
        m.method, m.measure.replace("_", " "), f"{m.n_labels:,}{without}", short(m.mean), quartiles, short(m.floor),
        f"{m.n_above_floor:,}", short(m.baseline_mean), f"{m.n_above_baseline:,}", controls, f"{m.n_trials:,}",
        f"{m.n_failed:,}",
    ]  # fmt: skip


def _distribution(m: MethodSummary) -> str:
    step = (1 - m.lowest) / len(m.counts)
    most = max(m.counts)
    lines = [
        f"{m.lowest + i * step:5.2f} {'█' * round(30 * n / most)}{' ' if n else ''}{n or ''}".rstrip()
        for i, n in enumerate(m.counts)
    ]
    return f"{m.method}: labels by {m.measure.replace('_', ' ')}\n\n```text\n" + "\n".join(lines) + "\n```"


def _worst(rows: Sequence[FeatureRow]) -> str:
    found = worst(rows, N_WORST)
    if not found:
        return "No label has a score."
    lines = [[str(r.feature), cell(r.label or ""), scores_in_words(r)] for r in found]
    return table(("feature", "label", "scores"), lines)


def scores_in_words(row: FeatureRow) -> str:
    """`detection .71 [.55, .85]`, for each method."""
    said = []
    for s in row.scores:
        interval = f" [{short(s.low)}, {short(s.high)}]" if s.low is not None else ""
        failed = f", {s.n_failed} unanswered" if s.n_failed else ""
        said.append(f"{s.method} {short(s.score)}{interval}{failed}")
    return "; ".join(said)


def _left_out(found: RunResults) -> str:
    parts = [
        table((head, "number"), [[cell(why), f"{n:,}"] for why, n in sorted(counts.items())])
        for head, counts in left_out_tables(found)
    ]
    return "\n\n".join(parts) or "Nothing was left out."


def left_out_tables(found: RunResults) -> list[tuple[str, dict[str, int]]]:
    """Features without a label, and labels without a score, by reason; those there are."""
    tables = [("features left out", found.left_out), ("labels without a score", found.untested)]
    return [(head, counts) for head, counts in tables if counts]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells are already escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(text: str) -> str:
    """Corpus or model text for a table cell: nothing in it acts as Markdown, HTML or a line break."""
    plain = visible(text)
    for mark in "\\`*_[]<>|#~$":
        plain = plain.replace(mark, f"\\{mark}")
    return plain


def short(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def _pairs(values: dict[str, object]) -> str:
    return table(("", ""), [[cell(str(name)), cell(told(value))] for name, value in values.items()])


def told(value: object) -> str:
    """A value in words."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {told(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(told(part) for part in value)
    return str(value)


def flat(config: dict[str, object], within: str = "") -> dict[str, object]:
    """A nested config in one level, fields that are not set left out."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{within}{name}.")
        elif value is not None:
            found[f"{within}{name}"] = value
    return found


def summary_lines(found: RunResults) -> list[str]:
    """The end of a run, for a terminal."""
    counts = {state: sum(row.state == state for row in found.rows) for state in ("labelled", "unclear")}
    usd = found.usage["US dollars"]
    lines = [
        f"{found.run} {found.state}{f': {found.why}' if found.why else ''}",
        f"{counts['labelled']:,} labelled, {counts['unclear']:,} unclear, {sum(found.left_out.values()):,} left out; "
        f"{found.usage['requests sent']:,} requests sent, {'price unknown' if usd is None else f'${usd:,.4f}'}",
    ]
    lines += [f"  {n:,} {visible(why)}" for why, n in sorted(found.left_out.items())]
    lines += [f"  no score for {n:,}: {visible(why)}" for why, n in sorted(found.untested.items())]
    for m in found.methods:
        beside = "" if m.baseline_mean is None else f", search label {m.baseline_mean:.3f}"
        wrong = f", wrong labels {m.control_mean:.3f}" if m.control_mean is not None else ""
        failed = f", {m.n_failed:,} trials unanswered" if m.n_failed else ""
        lines.append(
            f"{m.method}: mean {short(m.mean)} of {m.n_labels:,} labels (floor {m.floor:g}{beside}{wrong}), "
            f"{m.n_above_floor:,} above the floor{failed}"
        )
    return lines
