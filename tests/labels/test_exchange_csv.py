"""Labels as a table: any text there and back, formulas defused, and edits of a spreadsheet taken in."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.comma_separated import COLUMNS
from saeinterp_mcp.labels.revisions import retire_label
from tests.labels.exchanging import (
    ANY_TEXT,
    LINEAGE,
    SOME_TEXT,
    current,
    exported,
    heldout,
    imported,
    saved,
    target,
    texts,
)

FORMULA_LIKE = st.text(alphabet="'=+-@\t\r\n;,\" a", min_size=1, max_size=8)


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))


def table(*rows: str) -> str:
    return "\r\n".join(rows) + "\r\n"


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {"text": SOME_TEXT | FORMULA_LIKE.filter(str.strip)},
            optional={
                "notes": ANY_TEXT | FORMULA_LIKE,
                "author": ANY_TEXT | FORMULA_LIKE,
                "rule": SOME_TEXT,
                "importance": st.floats(0, 100),
                "stability": st.floats(-1, 1),
                "evidence": st.just(("ev-0123456789abcdef", "ev-fedcba9876543210")),
            },
        ),
        max_size=4,
    )
)
def test_what_is_exported_reads_back_to_the_same_bytes(tmp_path: Path, labels: list[dict[str, Any]]) -> None:
    here, there = target(), target()
    for i, values in enumerate(labels):
        label = saved(here, feature=i, **values)
        if i == 1:
            retire_label(here.database, LINEAGE, label.label_id, "=no", False, {})
    content = exported(here, "csv")
    assert imported(there, content, tmp_path, "csv").labels.added == len(labels)
    assert exported(there, "csv") == content
    assert imported(here, content, tmp_path, "csv").labels.unchanged == len(labels)
    assert [row["feature"] for row in rows(content)] == [str(i) for i in range(len(labels))]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\tx", "\rx", "'=1", "''=1", '=cmd|"/c calc"!A0'])
def test_a_cell_that_a_spreadsheet_would_run_is_defused(text: str) -> None:
    here = target()
    saved(here, text="x", notes=text, stability=-0.5)
    (row,) = rows(exported(here, "csv"))
    assert row["notes"] == f"'{text}"
    assert row["stability"] == "-0.5"


@pytest.mark.parametrize("text", ["'quoted'", "a=b", "1-2", "' =1"])
def test_other_cells_are_left_alone(text: str) -> None:
    here = target()
    saved(here, text=text)
    assert [row["text"] for row in rows(exported(here, "csv"))] == [text]


def test_the_table_has_a_column_for_every_field_and_crlf() -> None:
    here = target()
    saved(here, text='says "x", then y', notes="two\nlines")
    head, first, second, end = exported(here, "csv").split(b"\n")
    assert head.decode() == ",".join(COLUMNS) + "\r"
    assert head.startswith(
        b"feature,label_id,revision,text,explanation,rule,scope,window,category,status,importance"
    )
    assert b'"says ""x"", then y"' in first
    assert (b'"two' in first, second.startswith(b'lines",'), end) == (True, True, b"")


def test_a_row_edited_in_a_spreadsheet_is_a_new_revision(tmp_path: Path) -> None:
    here = target()
    label = saved(here, text="first", author="ann")
    saved(here, feature=8, text="other")
    content = exported(here, "csv").replace(b"first", b"second")
    report = imported(here, content, tmp_path, "csv")
    assert (report.labels.revised, report.labels.unchanged, texts(here)) == (1, 1, ["other", "second"])
    revised = next(one for one in current(here) if one.label_id == label.label_id)
    assert (revised.revision, revised.author) == (2, "ann")
    again = imported(here, content, tmp_path, "csv")
    assert (again.labels.revised, again.labels.unchanged) == (0, 2)


def test_an_edited_row_that_somebody_revised_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    here = target()
    label = saved(here, text="first")
    content = exported(here, "csv")
    saved(here, 7, label.label_id, text="by somebody")
    assert imported(here, content, tmp_path, "csv").labels.unchanged == 1
    report = imported(here, content.replace(b"first", b"second"), tmp_path, "csv")
    assert [(c.ours["text"], c.theirs["text"]) for c in report.conflicts] == [("by somebody", "second")]
    assert texts(here) == ["by somebody", "second"]


def test_rows_without_an_id_are_new_labels_once(tmp_path: Path) -> None:
    here = target()
    content = table("Feature, Text ,author_kind", "3,loops,human", '4,"a, b",human', ",,", "3,loops,human")
    report = imported(here, content, tmp_path, "csv")
    assert (report.labels.added, report.labels.unchanged) == (2, 1)
    assert [(one.feature, one.text, one.author_kind, one.importance) for one in current(here)] == [
        (3, "loops", "human", 3.0),
        (4, "a, b", "human", 4.0),
    ]
    assert imported(here, "\ufeff" + content, tmp_path, "csv").labels.added == 0


def test_a_row_that_came_in_as_it_is_has_no_earlier_version(tmp_path: Path) -> None:
    here = target()
    imported(here, table("feature,text,importance", "3,loops,50"), tmp_path, "csv")
    assert b"based_on" not in exported(here)


def test_supported_in_a_table_needs_the_test_on_record_here(tmp_path: Path) -> None:
    here = target()
    content = table("feature,text,rule,scope,status", "7,loops,token:for,at,supported")
    report = imported(here, content, tmp_path, "csv", dry_run=True)
    assert report.n_demoted == 1
    heldout(here, "token:for", low=0.8)
    assert imported(here, content, tmp_path, "csv").n_demoted == 0
    assert [label.status for label in current(here)] == ["supported"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (table("feature,label", "1,x"), "has a column 'label'; nearest: 'label_id'"),
        (table("feature,notes", "1,x"), "has no column 'text'; a table of labels has at least feature, text"),
        (table("feature,text,text", "1,x,y"), "has a column twice: 'text'"),
        ("", "has no column 'feature'"),
        (b"feature,text\r\n1,\xe9\r\n", "is not UTF-8"),
        (b"\xff\xfef\x00", "is not UTF-8"),
    ],
)
def test_a_table_with_other_columns_is_refused(tmp_path: Path, content: str | bytes, why: str) -> None:
    with pytest.raises(BadInput) as refused:
        imported(target(), content, tmp_path, "csv")
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("x,loops,,", "feature is 'x', expected a number"),
        ("100,loops,,", "feature 100 is not in the store"),
        ("7,,,", "a label needs a feature and text"),
        ("7,loops,,,", "5 cells under 4 columns"),
        ("7,loops,maybe,", "retired is 'maybe', expected true or false"),
        ("7,loops,,lb-0123456789ab", "a row with a label_id needs the revision that it was made from"),
        (f"7,{'x' * 501},,", "text has 501 characters"),
        ('7,"loops"x,,', "not CSV"),
    ],
)
def test_a_bad_row_stops_the_import_with_its_line_or_is_left_out(tmp_path: Path, row: str, why: str) -> None:
    here, content = target(), table("feature,text,retired,label_id", "1,good,,", row, "2,also good,,")
    with pytest.raises(BadInput) as refused:
        imported(here, content, tmp_path, "csv")
    assert "line 3: " in str(refused.value)
    assert why in str(refused.value)
    report = imported(here, content, tmp_path, "csv", on_bad="skip")
    assert (report.n_skipped, texts(here)) == (1, ["also good", "good"])
