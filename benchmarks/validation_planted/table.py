"""The results in Markdown."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.validation_planted.measure import Interval, Line, Part, Results

BEGIN = (
    "<!-- validation planted: begin (python -m benchmarks.validation_planted --write docs/validation.md) -->"
)
END = "<!-- validation planted: end -->"
NAMES = (
    "explanations", "n", "phrases", "matched", "by words", "by meaning", "quoted or sign", "by chance",
    "percentile: mean (quartiles)", "at or above 95", "AUROC by rate", "AUROC by percentile",
)  # fmt: skip


def render(results: Results) -> str:
    """A table a part, one of the true explanations of smaller parts, and the row worked out another way."""
    model = results.embedder or "no text model: words only"
    head = f"Measured {results.date}; texts compared with {model}; seed {results.seed}."
    whole = [part for part in results.parts if ", in " not in part.name]
    smaller = [part for part in results.parts if ", in " in part.name]
    by_hand = results.by_hand
    checked = (
        f"Worked out another way: the rows of {by_hand.n_features} features, {by_hand.n_phrases} phrases. Every "
        f"verdict is the same, and of {by_hand.n_numbers:,} numbers the largest difference is "
        f"{by_hand.largest_difference:.0e}."
    )
    return "\n\n".join([head, *map(_part, whole), _smaller(smaller), checked])


def _part(part: Part) -> str:
    return (
        f"**{part.name}**, {part.n_features} features\n\n{_table(NAMES, [_row(line) for line in part.lines])}"
    )


def _smaller(parts: Sequence[Part]) -> str:
    names = ("planted", "features", "true phrases matched", "percentile", "AUROC by rate against `other`")
    rows = []
    for part in parts:
        lines = {line.kind: line for line in part.lines}
        true, other = lines["true"], lines["other"]
        rows.append(
            [
                part.name.removeprefix("planted, "),
                str(part.n_features),
                _with(true.share_matched, true.share_interval),
                f"{true.percentile:.0f}",
                _with(other.auroc_rate, other.auroc_rate_interval),
            ]
        )
    return _table(names, rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        [f"| {' | '.join(names)} |", "|---" * len(names) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def _row(line: Line) -> list[str]:
    quarter, half, three = line.quartiles
    untested = f" ({line.n_untested} untested)" if line.n_untested else ""
    return [
        line.kind,
        f"{line.n_explanations}{untested}",
        str(line.n_phrases),
        _with(line.share_matched, line.share_interval),
        f"{line.by_words:.2f}",
        f"{line.by_meaning:.2f}",
        f"{line.literal[0]}/{line.literal[1]}" if line.literal[1] else "-",
        f"{line.by_chance:.2f}",
        f"{line.percentile:.0f} ({quarter:.0f}, {half:.0f}, {three:.0f})",
        _with(line.top, line.top_interval),
        _with(line.auroc_rate, line.auroc_rate_interval),
        _with(line.auroc_percentile, line.auroc_percentile_interval),
    ]


def _with(value: float | None, interval: Interval | None) -> str:
    if value is None or interval is None:
        return "-"
    return f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def write_into(page: Path, text: str) -> None:
    """Replace what stands between the markers; both must be there."""
    old = page.read_text(encoding="utf-8")
    before, found, rest = old.partition(BEGIN)
    _, ended, after = rest.partition(END)
    assert found, f"{page} has the marker {BEGIN}"
    assert ended, f"{page} has the marker {END}"
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
