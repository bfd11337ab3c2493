"""The report of a run as one HTML page: no script, no outside file, every text escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from pipeline.autointerp.report_markdown import (
    HEAD,
    NOTE,
    flat,
    left_out_tables,
    score_cells,
    scores_in_words,
    short,
    told,
)
from pipeline.autointerp.results import FeatureRow, MethodSummary, RunResults, worst
from saeinterp_mcp.analysis.text import visible

N_WORST, N_SHOWN = 20, 5_000
"""Rows of the worst labels, and of all of them."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
th { font-weight: 600; } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { display: inline-block; margin: .5rem 1.5rem .5rem 0; } figcaption { font-size: .9rem; }
.note { color: #555; max-width: 55rem; } .state { font-weight: 600; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #e6e6e6; } th, td { border-color: #3a3a3a; }
  .note { color: #aaa; } svg text { fill: #e6e6e6; } }
"""


def as_html(found: RunResults) -> str:
    """The whole page."""
    counts = {state: sum(row.state == state for row in found.rows) for state in ("labelled", "unclear")}
    figures = "".join(_figure(m) for m in found.methods if m.n_labels)
    stopped = f" It stopped: {text(found.why)}." if found.why else ""
    body = [
        f"<h1>Run {text(found.run)}</h1>",
        f"<p>Store {text(found.store)}, {found.n_features:,} features: {counts['labelled']:,} labelled, "
        f"{counts['unclear']:,} unclear, {sum(found.left_out.values()):,} left out. "
        f"<span class=state>State: {text(found.state)}.</span>{stopped} Started {text(found.started_at)}, report of "
        f"{text(found.written_at)}.</p>",
        "<h2>Scores</h2>",
        _table(HEAD, [score_cells(m) for m in found.methods])
        if found.methods
        else "<p>Nothing was scored.</p>",
        f'<p class="note">{NOTE}</p>' if found.methods else "",
        figures,
        "<h2>What it cost</h2>",
        _table(("", ""), [[name, told(value)] for name, value in found.usage.items()]),
        "<h2>Worst labels</h2>",
        _labels(worst(found.rows, N_WORST)),
        "<h2>Left out</h2>",
        "".join(
            _table((head, "number"), [[why, f"{n:,}"] for why, n in sorted(counts.items())])
            for head, counts in left_out_tables(found)
        )
        or "<p>Nothing was left out.</p>",
        "<h2>All labels</h2>",
        _all(found.rows),
        "<h2>Made with</h2>",
        _table(("", ""), [[n, told(v)] for n, v in (flat(found.config) | found.versions).items()]),
    ]
    head = f'<meta charset="utf-8"><title>Run {text(found.run)}</title><style>{STYLE}</style>'
    width = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}{width}</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def text(value: object) -> str:
    """Any text as HTML, invisible characters spelled out."""
    return escape(visible(str(value)), quote=True)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{text(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead>\n<tbody>{lines}</tbody></table></div>'


def _cell(value: str) -> str:
    kind = ' class="n"' if value[:1].isdigit() or value[:1] in "–-" else ""
    return f"<td{kind}>{text(value)}</td>"


def _labels(rows: Sequence[FeatureRow]) -> str:
    if not rows:
        return "<p>No label has a score.</p>"
    cells = [
        [str(r.feature), r.label or "", r.explanation or "", scores_in_words(r), short(r.confidence)]
        for r in rows
    ]
    return _table(("feature", "label", "explanation", "held-out scores", "confidence"), cells)


def _all(rows: Sequence[FeatureRow]) -> str:
    labelled = [row for row in rows if row.label is not None]
    more = f"<p>The first {N_SHOWN:,} of {len(labelled):,}.</p>" if len(labelled) > N_SHOWN else ""
    return more + (_labels(labelled[:N_SHOWN]) if labelled else "<p>There are none.</p>")


def _figure(m: MethodSummary) -> str:
    """A histogram of scores with the floor, the search label's mean and the mean marked."""
    width, height, foot = 420, 150, 34
    most, bar = max(m.counts), width / len(m.counts)

    def x(value: float) -> float:
        return width * (value - m.lowest) / (1 - m.lowest)

    bars = "".join(
        f'<rect x="{i * bar + 1:.1f}" y="{height - height * n / most:.1f}" width="{bar - 2:.1f}" '
        f'height="{height * n / most:.1f}" fill="#4477aa"><title>{n} labels from '
        f"{m.lowest + i * (1 - m.lowest) / len(m.counts):.2f}</title></rect>"
        for i, n in enumerate(m.counts)
        if n
    )
    marks = [
        ("floor", m.floor, "#888888"),
        ("search", m.baseline_mean, "#cc6677"),
        ("mean", m.mean, "#117733"),
    ]
    lines = "".join(
        f'<line x1="{x(v):.1f}" x2="{x(v):.1f}" y1="0" y2="{height}" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{"4 3" if name != "mean" else "none"}"/>'
        for name, v, colour in marks
        if v is not None
    )
    ticks = "".join(
        f'<text x="{x(v):.1f}" y="{height + 16}" font-size="12" text-anchor="{anchor}">{v:g}</text>'
        for v, anchor in ((m.lowest, "start"), ((m.lowest + 1) / 2, "middle"), (1.0, "end"))
    )
    told_marks = ", ".join(
        f'<tspan fill="{colour}">{name} {v:.3f}</tspan>' for name, v, colour in marks if v is not None
    )
    key = f'<text x="0" y="{height + 32}" font-size="12">{told_marks}</text>'
    caption = f"{text(m.method)}: {m.n_labels:,} labels by {text(m.measure.replace('_', ' '))}"
    return (
        f'<figure><svg role="img" aria-label="{caption}" viewBox="0 -4 {width} {height + foot + 8}" '
        f'width="{width}" height="{height + foot + 8}">{bars}{lines}{ticks}{key}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
