"""Labels as CSV, for spreadsheets: a row for each label in use and each retired one (RFC 4180, UTF-8, CRLF).

A text cell that a spreadsheet would run as a formula (it begins with = + - @, a tab or a line break, after any
apostrophes) gets an apostrophe in front, which reading takes away again. A row that was changed in the spreadsheet is
a new revision of its label if `revision` is still the newest; a row without `label_id` is a new label.
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.labels.exchange.checking import check_label, made
from saeinterp_mcp.labels.exchange.files import MAX_LINE, opened
from saeinterp_mcp.labels.exchange.records import BadLine, Incoming, IncomingLabel, Options, Source, Target
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.revisions import labels_of

COLUMNS = ("feature", *(name for name in Label.model_fields if name != "feature"))
NEEDED = ("feature", "text")
_WHOLE = ("feature", "revision", "window")
_NUMBERS = ("importance", "confidence", "stability", "cost")
_TEXTS = ("text", "explanation", "notes", "category", "author", "source", "reason")
"""Whose blanks count."""
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_YES_NO = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def write(target: Target, options: Options) -> Iterator[bytes]:
    """The rows, header first."""
    nothing: list[Label] = []
    labels = target.database.read(lambda c: labels_of(c, target.lineage, retired=True), nothing)
    options.said.append(f"{len(labels)} labels")
    yield _row(COLUMNS)
    for label in sorted(labels, key=lambda label: (label.feature, label.label_id)):
        values = label.model_dump()
        yield _row([_cell(name, values[name]) for name in COLUMNS])


def read_source(path: Path) -> Source:
    """A table says nothing about its store."""
    return Source()


def read(path: Path, target: Target, options: Options) -> Iterator[Incoming | BadLine]:
    """A label for each row.

    Raises:
        BadInput: it has no header, or one with other columns.
    """
    with opened(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        rows = csv.reader(_bounded(text), strict=True)
        header = _header(path, rows)
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield BadLine(f"line {rows.line_num}", f"not CSV: {error}")
                continue
            except UnicodeDecodeError as error:
                raise _no_utf8(path, error) from error
            if row is None:
                return
            if not any(row):
                continue
            try:
                yield _incoming(f"line {rows.line_num}", header, row, target.n_features)
            except BadLine as error:
                yield error


def _bounded(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        yield line


def _no_utf8(path: Path, error: UnicodeDecodeError) -> BadInput:
    return BadInput(f"{path} is not UTF-8 ({error.reason}); save it as CSV UTF-8")


def _header(path: Path, rows: Any) -> list[str]:
    try:
        header = [name.strip().lower() for name in next(rows, [])]
    except UnicodeDecodeError as error:
        raise _no_utf8(path, error) from error
    except csv.Error as error:
        raise BadInput(f"{path} is no CSV: {error}") from error
    if unknown := [name for name in header if name not in COLUMNS]:
        raise BadInput(f"{path} has a column {unknown[0][:40]!r}; {nearest(unknown[0][:40], COLUMNS)}")
    if missing := [name for name in NEEDED if name not in header]:
        raise BadInput(
            f"{path} has no column {missing[0]!r}; a table of labels has at least {', '.join(NEEDED)}"
        )
    if len(set(header)) < len(header):
        raise BadInput(f"{path} has a column twice: {next(n for n in header if header.count(n) > 1)!r}")
    return header


def _incoming(where: str, header: list[str], row: list[str], n_features: int) -> IncomingLabel:
    if len(row) != len(header):
        raise BadLine(where, f"{len(row)} cells under {len(header)} columns")
    values = {
        name: _value(where, name, cell)
        for name, cell in zip(header, row, strict=True)
        if (cell if name in _TEXTS else cell.strip()) or name == "evidence"
    }
    if "feature" not in values or "text" not in values:
        raise BadLine(where, "a label needs a feature and text")
    known = "label_id" in values
    if known and "revision" not in values:
        raise BadLine(where, "a row with a label_id needs the revision that it was made from")
    values = {"label_id": "", "revision": 1, **values}
    label = made(Label, values if known else {**values, "revision": 1}, where)
    check_label(label, n_features, where)
    return IncomingLabel(where, label, edit_of=label.revision if known else None)


def _value(where: str, name: str, cell: str) -> Any:
    if name in _WHOLE or name in _NUMBERS:
        try:
            return int(cell) if name in _WHOLE else float(cell)
        except ValueError:
            raise BadLine(where, f"{name} is {cell[:40]!r}, expected a number") from None
    if name == "retired":
        if cell.strip().lower() not in _YES_NO:
            raise BadLine(where, f"retired is {cell[:40]!r}, expected true or false")
        return _YES_NO[cell.strip().lower()]
    text = cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
    return tuple(text.split()) if name == "evidence" else text


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "evidence":
        return " ".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    return f"'{value}" if _FORMULA.match(value) else value


def _row(cells: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode("utf-8")
