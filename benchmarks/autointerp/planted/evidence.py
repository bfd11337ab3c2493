"""What an explainer's request shows, read as text and nothing else."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.autointerp.planted.claims import Sample

_NUMBERED = re.compile(r"t?\d+: (.*)")
_FIRES = re.compile(r'\("([^"]*)", \d+\)')
_RATE = re.compile(r"fires on (\d+) of the (\d+) ")
_TOKEN = re.compile(r'token "\s*([^"]+)": fires on ([\d.e-]+) % of (\d+) with it, ([\d.e-]+) % without')
_VALUE = re.compile(r'(\w[\w.]*)="([^"]+)": fires on ([\d.e-]+) % of (\d+) there')
_LEVEL = re.compile(r"(f\d+)_(\d+)")
SILENT, COUNTED, NOTHING = "Excerpts where it is silent", "Counted over all", "no token and no group surely"


class Evidence(NamedTuple):
    """One request. In texts a row is a token, in sets a set."""

    in_text: bool
    firing: list[Sample]
    silent: list[Sample]
    shares: dict[str, tuple[float, float]]
    """Item to its share of firing and of silent rows of the data set, by the statistics shown."""
    nothing_goes: bool
    """The statistics say that nothing goes with it."""


def read_evidence(user: str) -> Evidence:
    """Everything that a request says."""
    in_text = "activations: (" in user
    firing: list[Sample] = []
    silent: list[Sample] = []
    shares: dict[str, tuple[float, float]] = {}
    for heading, lines in _fences(user):
        if heading.startswith(SILENT):
            silent += [row for line in lines for row in rows_of(_shown(line), in_text)]
        elif heading.startswith(COUNTED):
            shares = _shares(lines, user)
        elif in_text:
            for line, below in zip(lines[::2], lines[1::2], strict=True):
                fires, rests = _split(_shown(line), _FIRES.findall(below))
                firing, silent = firing + fires, silent + rests
        else:
            firing += [row for line in lines[::2] for row in rows_of(_shown(line), in_text)]
    return Evidence(in_text, firing, silent, shares, NOTHING in user)


def rows_of(shown: str, in_text: bool) -> list[Sample]:
    """Tokens of a text (marks left out); a set as one row, its groups among its names."""
    if in_text:
        return [Sample([word]) for word in shown.replace("<<", "").replace(">>", "").split()]
    names: list[str] = []
    for part in shown.split("; "):
        name, _, rest = part.partition(": ")
        names += rest.split(", ") if name == "tokens" else [f"{name}={rest}"]
    return [Sample(names)]


def _split(shown: str, listed: list[str]) -> tuple[list[Sample], list[Sample]]:
    """Tokens that fire, as listed, and the other ones."""
    fires = Counter(token.strip() for token in listed)
    rests = Counter(name for row in rows_of(shown, True) for name in row.names) - fires
    return [Sample([token]) for token in fires.elements()], [Sample([token]) for token in rests.elements()]


def _shares(lines: list[str], user: str) -> dict[str, tuple[float, float]]:
    found = _RATE.search(user)
    assert found is not None, "a request says how often the feature fires"
    n_firing, n_rows = int(found[1]), int(found[2])
    shares = {}
    for line in lines:
        if token := _TOKEN.search(line):
            item, rate, n = token[1], float(token[2]) / 100, int(token[3])
        elif value := _VALUE.search(line):
            item, rate, n = f"{value[1]}={value[2]}", float(value[3]) / 100, int(value[4])
        else:
            continue
        shares[item] = (n * rate / n_firing, n * (1 - rate) / (n_rows - n_firing))
    return shares


def by_level(evidence: Evidence) -> dict[str, tuple[float, float]]:
    """Shares of items, those of levels added up where a family's levels are never seen together."""
    together = {family for row in evidence.firing for family, n in _levels_in(row).items() if n > 1}
    found = {item: share for item, share in evidence.shares.items() if not _LEVEL.fullmatch(item)}
    for item, share in evidence.shares.items():
        if level := _LEVEL.fullmatch(item):
            family, least = level[1], int(level[2])
            above = [
                s
                for other, s in evidence.shares.items()
                if (o := _LEVEL.fullmatch(other)) and o[1] == family and int(o[2]) >= least
            ]
            parts = [share] if family in together else above
            found[f"{family}>={least}"] = (sum(p for p, _ in parts), sum(q for _, q in parts))
    return found


def _levels_in(row: Sample) -> Counter[str]:
    return Counter(found[1] for found in map(_LEVEL.fullmatch, row.names) if found)


def _shown(line: str) -> str:
    found = _NUMBERED.match(line)
    assert found is not None, "a line of excerpts has a number"
    return found[1]


def _fences(user: str) -> Iterator[tuple[str, list[str]]]:
    """(the line above it, its lines) of every fence."""
    heading, inside, held = "", False, list[str]()
    for line in user.split("\n"):
        if line == "<excerpts>":
            inside, held = True, []
        elif line == "</excerpts>":
            inside = False
            yield heading, held
        elif inside:
            held.append(line)
        elif line.strip():
            heading = line
