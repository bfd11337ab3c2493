"""A result as text and as terminal tables."""

import io
import json
import re
from pathlib import Path

import pytest

from saeinterp_mcp.faces.answering import answer
from saeinterp_mcp.faces.arguments import entries
from saeinterp_mcp.faces.render import MAX_CHARACTERS, Facts, Grid, as_text, parts
from saeinterp_mcp.faces.terminal import console, rounded, show
from saeinterp_mcp.store.served import ServedStores
from tests.faces.test_transports import CALLS

BODY = {
    "operation": "x",
    "store": "s",
    "basis": "observed",
    "summary": "Sum.",
    "warnings": ["Careful."],
    "evidence": "ev-1",
    "seed": 0,
    "split": None,
    "next_cursor": None,
    "feature": 3,
    "baseline": {"n": 12, "mean": 0.25, "monotone": True, "none": None},
    "promoted": {"columns": ["token", "effect"], "rows": [["a", 1.5]]},
    "stores": [{"name": "p", "groups": [{"name": "g", "n": 2}]}, {"name": "q", "groups": []}],
    "columns": ["level", "mean", "reason"],
    "rows": [[1, 0.123456, None], [2, None, None]],
}


def test_an_answer_falls_into_facts_and_tables_with_the_main_table_last() -> None:
    assert parts(BODY) == [
        Facts("", {"feature": 3}),
        Facts("baseline", {"n": 12, "mean": 0.25, "monotone": True}),
        Grid("promoted", ["token", "effect"], [["a", 1.5]]),
        Facts("stores.p", {"name": "p"}),
        Facts("stores.p.groups", {"name": "g", "n": 2}),
        Facts("stores.q", {"name": "q"}),
        Grid("", ["level", "mean"], [[1, 0.123456], [2, None]]),
    ]


def test_the_text_is_short_and_whole() -> None:
    assert as_text(BODY) == (
        "Sum.\nWarning: Careful.\nfeature 3\nbaseline: n 12; mean 0.25; monotone yes\n"
        "promoted: token | effect\na | 1.5\n"
        "stores.p: name p\nstores.p.groups: name g; n 2\nstores.q: name q\nlevel | mean\n1 | 0.123456\n2 | -\n"
        "store s; basis observed; seed 0; evidence ev-1"
    )


def test_too_long_a_text_is_cut_at_a_line_and_says_where_the_rest_is() -> None:
    long = {**BODY, "rows": [[i, 0.5, None] for i in range(5000)]}
    text = as_text(long)
    assert len(text) <= MAX_CHARACTERS
    end = " | 0.5\n(the rest is in the structured content)\nstore s; basis observed; seed 0; evidence ev-1"
    assert text.endswith(end)


@pytest.mark.parametrize("tool", CALLS)
def test_every_number_in_the_text_is_in_the_structure(tool: str, seq: Path) -> None:
    entry = next(e for e in entries() if e.name == tool)
    body = answer(entry, ServedStores.open([str(seq)]), CALLS[tool]).body
    known = set(re.findall(r"[-+.\w]*\d[-+.\w]*", json.dumps(body, ensure_ascii=False)))
    assert set(re.findall(r"[-+.\w]*\d[-+.\w]*", as_text(body))) <= known


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (123456, "123456"),
        (1e-9, "1e-09"),
        (None, "-"),
        (True, "yes"),
        ([1, " if"], "1, ' if'"),
    ],
)
def test_a_terminal_shows_four_digits_and_whole_integers(value: object, text: str) -> None:
    assert rounded(value) == text


def shown(body: dict[str, object], width: int) -> str:
    out = io.StringIO()
    to = console(out)
    to.width = width
    show(body, to)
    return out.getvalue()


def test_a_narrow_terminal_leaves_columns_out_and_names_them() -> None:
    wide = {**BODY, "columns": ["text", *"abcdefgh"], "rows": [[" ".join(["word"] * 20), *[0.123456] * 8]]}
    text = shown(wide, 60)
    assert max(len(line) for line in text.splitlines() if "0.1235" in line) <= 60
    assert "word word word word wor…" in text
    assert "(no room for d, e, f, g, h; widen the terminal or use --json)" in text
    assert "no room" not in shown(wide, 300)


def test_data_are_not_read_as_markup() -> None:
    text = shown({**BODY, "summary": "[bold]x[/red]", "rows": [["[/red]:smile:", 1, None]]}, 100)
    assert "[bold]x[/red]" in text
    assert "[/red]:smile:" in text
