"""A result as short text, for a reader with little room; and its parts, from which the terminal makes its tables."""

from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_CHARACTERS = 5_000
"""About 1,500 tokens."""
WHOLE = ("trials",)
"""Tables that are of no use in part: an answer that has one is never cut."""
ABOUT_THE_CALL = ("store", "basis", "split", "where", "seed", "more", "next_cursor", "evidence")
OURS = ("Warning:", "Error:", "store ", "(the rest ")
"""What lines of ours begin with."""
_NO_PART = ("operation", "summary", "warnings", "columns", "rows", *ABOUT_THE_CALL)


class Facts(NamedTuple):
    """Names and plain values."""

    name: str
    values: dict[str, Any]


class Grid(NamedTuple):
    """A table. Columns without any value are left out."""

    name: str
    columns: list[str]
    rows: list[list[Any]]


def parts(body: Mapping[str, Any]) -> list[Facts | Grid]:
    """The answer beside its summary and warnings: its own plain fields, named facts and tables, the main table last."""
    own: dict[str, Any] = {}
    found: list[Facts | Grid] = []
    for name, value in body.items():
        if name not in _NO_PART:
            found += _split(name, value, own)
    if body.get("columns"):
        found.append(_without_empty(Grid("", body["columns"], body["rows"])))
    return [Facts("", own), *found] if own else found


def about_the_call(body: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of what, and how to cite the answer."""
    return {name: body[name] for name in ABOUT_THE_CALL if body.get(name) is not None}


def as_text(body: Mapping[str, Any]) -> str:
    """Summary, warnings, facts, tables. Every number is written as it stands in the structure."""
    lines = [str(body["summary"]), *(f"Warning: {warning}" for warning in body["warnings"])]
    for part in parts(body):
        if isinstance(part, Facts):
            lines.append((f"{part.name}: " if part.name else "") + _facts(part.values))
        elif part.rows:
            lines.append((f"{part.name}: " if part.name else "") + " | ".join(part.columns))
            lines += [" | ".join(plain(cell) for cell in row) for row in part.rows]
    last = _facts(about_the_call(body))
    room = MAX_CHARACTERS - len(last) - 60
    text = "\n".join(lines)
    if len(text) > room and not any(body.get(name) for name in WHOLE):
        text = text[: text.rfind("\n", 0, room)] if "\n" in text[:room] else text[:room]
        text += "\n(the rest is in the structured content)"
    return f"{text}\n{last}"


def plain(value: Any) -> str:
    """A value as it stands in the structure."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(plain(v) for v in value)
    if isinstance(value, Mapping):
        return "{" + _facts(value) + "}"
    return with_its_blanks(str(value).replace("\n", "⏎"))


def with_its_blanks(text: str) -> str:
    """Text in quotes where blanks at its ends would not be seen (tokens differ in nothing else), or where it looks
    like a line or a cell of ours."""
    unlike = text == text.strip() and " | " not in text and not f"{text} ".startswith(OURS)
    return text if unlike else f"'{text}'"


def _facts(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {plain(value)}" for name, value in values.items())


def _split(name: str, value: Any, own: dict[str, Any]) -> list[Facts | Grid]:
    """The parts that one field makes; plain values go to `own`."""
    if isinstance(value, dict) and {"columns", "rows"} <= value.keys():
        return [_without_empty(Grid(name, value["columns"], value["rows"]))]
    if isinstance(value, dict) and value:
        inner: dict[str, Any] = {}
        nested = [part for key, v in value.items() for part in _split(f"{name}.{key}", v, inner)]
        shown = {key.removeprefix(f"{name}."): v for key, v in inner.items()}
        return ([Facts(name, shown)] if shown else []) + nested
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        if len(value) == 1:
            return _split(name, value[0], own)
        if any(_nested(v) for entry in value for v in entry.values()):
            named = [(f"{name}.{entry.get('name', i)}", entry) for i, entry in enumerate(value)]
            return [part for label, entry in named for part in _split(label, entry, own)]
        columns = list(dict.fromkeys(key for entry in value for key in entry))
        return [_without_empty(Grid(name, columns, [[entry.get(c) for c in columns] for entry in value]))]
    if value is not None and value != [] and value != {}:
        own[name] = value
    return []


def _nested(value: Any) -> bool:
    """Whether a value is too much for a cell of a table."""
    return bool(value) and (
        isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict | list))
    )


def _without_empty(grid: Grid) -> Grid:
    kept = [i for i, _ in enumerate(grid.columns) if any(row[i] not in (None, []) for row in grid.rows)]
    return Grid(grid.name, [grid.columns[i] for i in kept], [[row[i] for i in kept] for row in grid.rows])
