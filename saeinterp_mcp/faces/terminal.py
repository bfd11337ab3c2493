"""An answer on a terminal: rounded numbers, tables that fit its width. Data are never read as markup."""

from collections.abc import Mapping
from itertools import pairwise
from typing import IO, Any, Self

from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from saeinterp_mcp.faces.render import Facts, Grid, about_the_call, parts, with_its_blanks

WIDE = 10_000
"""Columns when the output is no terminal, so that nothing is cut for a reader who pipes it on."""
MIN_TEXT = 24
"""Columns of text are narrowed to this before whole columns are left out."""
GAP = 2
BETWEEN = 3
"""Between columns of a table: the gap and the box's own blank."""
PAIRS_IN_A_COLUMN = 4


def console(file: IO[str]) -> Console:
    """A console that prints what it is given as it is."""
    made = Console(file=file, markup=False, highlight=False, emoji=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = WIDE
    return made


def show(body: Mapping[str, Any], to: Console, max_rows: int | None = None) -> None:
    """Print an answer: the summary, warnings, then facts and tables, each of at most `max_rows` rows."""
    to.print(Text(str(body["summary"]), style="bold"))
    for warning in body["warnings"]:
        to.print(Text(f"Warning: {warning}", style="yellow"))
    for part in parts(body):
        if isinstance(part, Facts):
            _show_facts(part, to)
        else:
            _show_grid(Grid(part.name, part.columns, part.rows[:max_rows]), to)
            if hidden := len(part.rows[max_rows:]) if max_rows else 0:
                to.print(Text(f"... and {hidden} more rows", style="dim"))
    to.print(Text(_joined(about_the_call(body)), style="dim"))


class ProgressLine:
    """How far a question is, on stderr; begun when there is something to tell, and gone at the end."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def show(self, n_done: int, n_total: int) -> None:
        """So many steps of so many are done."""
        if self._progress is None or self._task is None:
            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("asking", total=n_total)
            self._progress.start()
        self._progress.update(self._task, completed=n_done, total=n_total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def rounded(value: Any) -> str:
    """A value to four significant digits, integers whole."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(rounded(v) for v in value)
    if isinstance(value, Mapping):
        return _joined(value)
    return with_its_blanks(str(value))


def _joined(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {rounded(value)}" for name, value in values.items())


def _title(name: str) -> Text:
    return Text(name.replace("_", " "), style="bold cyan")


def _show_facts(facts: Facts, to: Console) -> None:
    """Names and values, three pairs a line where there are many; long values have a line of their own."""
    if facts.name:
        to.print()
        to.print(_title(facts.name))
    shown = [(name, rounded(value)) for name, value in facts.values.items()]
    short = [(name, value) for name, value in shown if len(value) <= MIN_TEXT]
    pairs = 3 if len(short) > PAIRS_IN_A_COLUMN else 1
    table = Table.grid(padding=(0, GAP))
    for _ in range(pairs):
        table.add_column(no_wrap=True, style="dim")
        table.add_column(no_wrap=True)
    for start in range(0, len(short), pairs):
        table.add_row(*(Text(part) for pair in short[start : start + pairs] for part in pair))
    if short:
        to.print(table, soft_wrap=False)
    for name, value in shown:
        if len(value) > MIN_TEXT:
            to.print(Text.assemble((name, "dim"), "  ", value), soft_wrap=False)


def _show_grid(grid: Grid, to: Console) -> None:
    to.print()
    if grid.name:
        to.print(_title(grid.name))
    if not grid.rows:
        to.print(Text("no rows", style="dim"))
        return
    cells = [[rounded(cell) for cell in row] for row in grid.rows]
    numeric = [all(not isinstance(row[i], str | list) for row in grid.rows) for i in range(len(grid.columns))]
    widths = _fit(grid.columns, cells, numeric, to.width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP, 0, 0), pad_edge=False)
    for i, width in widths.items():
        table.add_column(
            Text(grid.columns[i]),
            justify="right" if numeric[i] else "left",
            width=width,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in cells:
        table.add_row(*(Text(row[i]) for i in widths))
    to.print(table, soft_wrap=False)
    if hidden := [name for i, name in enumerate(grid.columns) if i not in widths]:
        to.print(Text(f"(no room for {', '.join(hidden)}; widen the terminal or use --json)", style="dim"))


def _fit(columns: list[str], cells: list[list[str]], numeric: list[bool], room: int) -> dict[int, int]:
    """Column to its width: text narrowed first, then columns left out from the right."""
    natural = [
        max(Text(c).cell_len for c in (columns[i], *(row[i] for row in cells))) for i in range(len(columns))
    ]
    widths = dict(enumerate(natural))
    texts = sorted((i for i in widths if not numeric[i] and natural[i] > MIN_TEXT), key=lambda i: -natural[i])
    for i in texts:
        too_much = sum(widths.values()) + BETWEEN * len(widths) - room
        widths[i] = max(MIN_TEXT, widths[i] - max(0, too_much))
    while len(widths) > 1 and sum(widths.values()) + BETWEEN * len(widths) > room:
        del widths[max(widths)]
    assert all(a < b for a, b in pairwise(widths)), "columns keep their order"
    return widths
