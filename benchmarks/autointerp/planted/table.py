"""The results as the section of docs/autointerp.md."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.autointerp.planted.measure import CONTENDERS, EXPLAINED, ORACLE
from benchmarks.autointerp.planted.records import Cell, Line, Part, Results
from benchmarks.recover.truth import STRATA
from saeinterp_mcp.excerpts.records import SILENT_KINDS

BEGIN = (
    "<!-- autointerp planted: begin (python -m benchmarks.autointerp.planted --write docs/autointerp.md) -->"
)
END = "<!-- autointerp planted: end -->"
KINDS = {"set": "Sets", "sequence": "Texts"}
IN_STRATA = ("search label", *list(EXPLAINED)[1:], "oracle, in words", "oracle, the rule itself")


def render(results: Results) -> str:
    """The measured part."""
    seeds = ", ".join(map(str, results.seeds))
    planted = " and ".join(f"{n} ({KINDS[kind].lower()})" for kind, n in results.features_per_stratum.items())
    head = (
        f"Worlds of seeds {seeds}; {planted} features of each stratum; {results.n_trials} trials "
        f"for each label and method; {results.n_requests:,} requests to the fake server in {results.seconds:,.0f} s. "
        f"Measured {results.date}. Brackets are 95 % intervals over features; what no label has is `-`."
    )
    return "\n\n".join([head, *(text for part in results.parts for text in _part(part))])


def _part(part: Part) -> list[str]:
    found = [f"### {KINDS[part.kind]}", _main(part), _kinds(part), _null(part), _strata(part)]
    return [text for text in found if text]


def _main(part: Part) -> str:
    texts = part.kind == "sequence"
    names = [
        "label", "says something", "detection (floor .50)", "of claims", "above the floor", "against random alone",
        *(["fuzzing (floor .50)"] if texts else []), "rule (its floor)", "tokens F1 (floor 0)", "same rows",
    ]  # fmt: skip
    rows = []
    for line in _ordered(part.shown):
        cells = [
            line.contender,
            f"{line.n_claims}/{line.n_features}",
            interval(line.detection),
            number(line.detection_of_claims),
            number(line.above_floor),
            number(line.against_random),
            *([interval(line.fuzzing)] if texts else []),
            f"{number(line.rule)} ({number(line.rule_floor)})" if line.rule.n else "-",
            number(line.tokens_f1),
            interval(line.same_rows),
        ]
        rows.append(cells)
    n = max(line.n_features for line in part.shown)
    about = f"{part.n_worlds} worlds, {n} features whose planted rule can be seen in what is shown."
    return f"{about}\n\n{markdown(names, rows)}"


def _kinds(part: Part) -> str:
    found = next((line.right for line in part.shown if line.contender == ORACLE), {})
    shares = ", ".join(f"{kind.replace('_', ' ')} {number(cell)}" for kind, cell in found.items())
    return (
        f"Share of trials that the planted rule itself answers rightly, by kind: {shares}." if shares else ""
    )


def _null(part: Part) -> str:
    if not part.null:
        return ""
    names = [
        "label", "claims something", "detection of these claims (floor .50)", "above the floor",
        "firing against random alone (floor .50)", "right of firing", *(k.replace("_", " ") for k in SILENT_KINDS),
    ]  # fmt: skip
    rows = [
        [
            line.contender,
            f"{line.n_claims}/{line.n_features} = {line.n_claims / line.n_features:.2f}",
            interval(line.detection_of_claims),
            f"{number(line.above_floor)} of {line.above_floor.n}",
            interval(line.against_random),
            *(number(line.right.get(kind, Cell())) for kind in ("firing", *SILENT_KINDS)),
        ]
        for line in _ordered(part.null)
        if line.contender in EXPLAINED
    ]
    about = "Where nothing is planted (dead, noise, and a world dealt anew), every claim is a false one:"
    return f"{about}\n\n{markdown(names, rows)}"


def _strata(part: Part) -> str:
    order = [name for s in STRATA for name in (s, f"{s}, not in the text") if name in part.by_stratum]
    rows = [
        [
            name,
            str(part.n_of_stratum[name]),
            *(number(part.by_stratum[name].get(c, Cell())) for c in IN_STRATA),
        ]
        for name in order
    ]
    about = "Detection by what is planted (floor .50, unclear counted as that):"
    return f"{about}\n\n{markdown(['planted', 'n', *IN_STRATA], rows)}"


def _ordered(lines: Sequence[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: CONTENDERS.index(line.contender))


def number(cell: Cell) -> str:
    """Two digits."""
    return "-" if cell.value is None else f"{cell.value:.2f}"


def interval(cell: Cell) -> str:
    """With its interval, where there is one."""
    if cell.low is None or cell.high is None:
        return number(cell)
    return f"{number(cell)} [{cell.low:.2f}, {cell.high:.2f}]"


def markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(
        [f"| {' | '.join(names)} |", "|---" * len(names) + "|", *(f"| {' | '.join(r)} |" for r in rows)]
    )


def write_into(page: Path, text: str) -> None:
    """Replace what stands between the markers; both must be there."""
    old = page.read_text(encoding="utf-8")
    before, found, rest = old.partition(BEGIN)
    _, ended, after = rest.partition(END)
    assert found, f"{page} has the marker {BEGIN}"
    assert ended, f"{page} has the marker {END}"
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
