"""A labels file of an earlier version is brought up to date and loses nothing, whoever else opens it, whatever dies."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.heldout import n_tests, record_test, scores_of
from saeinterp_mcp.labels.notes import notes_of, save_note
from saeinterp_mcp.labels.records import HeldoutTest, Label, Score
from saeinterp_mcp.labels.revisions import current_labels, save_label
from saeinterp_mcp.labels.schema import APPLICATION_ID, MIGRATIONS
from tests.conftest import ROOT

N_OLD = 30
"""Held-out tests in the old file, of features 0 to 2."""
V1_COLUMNS = (
    'store, feature, test, rule, "where", scope, evidence, arguments, result, balanced_accuracy, low, high, floor, '
    "made_at"
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file as version 1 left it: its own statements, nothing of ours."""
    path = tmp_path / "store.labels.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        with connection:
            for statement in MIGRATIONS[0]:
                connection.execute(statement)
            slots = ", ".join("?" * (V1_COLUMNS.count(",") + 1))
            for i in range(N_OLD):
                row = (
                    "s",
                    i % 3,
                    f"test {i}",
                    "token:x",
                    None,
                    "at",
                    f"ev-{i:016x}",
                    "{}",
                    "r",
                    0.75,
                    0.7,
                    0.8,
                    0.5,
                )
                values = (*row, "2026-11-20T10:00:00Z")
                connection.execute(f"INSERT INTO heldout_tests ({V1_COLUMNS}) VALUES ({slots})", values)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("PRAGMA user_version = 1")
    return path


def test_the_first_version_is_what_was_released() -> None:
    # files of users hold exactly this; a change here would lose them
    assert [" ".join(statement.split()) for statement in MIGRATIONS[0]] == [
        "CREATE TABLE heldout_tests ( id INTEGER PRIMARY KEY, store TEXT NOT NULL, feature INTEGER NOT NULL, "
        'test TEXT NOT NULL, rule TEXT NOT NULL, "where" TEXT, scope TEXT, evidence TEXT NOT NULL, '
        "arguments TEXT NOT NULL, result TEXT NOT NULL, balanced_accuracy REAL, low REAL, high REAL, floor REAL, "
        "made_at TEXT NOT NULL, UNIQUE (store, feature, test, evidence) )"
    ]


def test_reading_an_old_file_brings_it_up_to_date_and_loses_nothing(old: Path) -> None:
    before = rows(old, f"SELECT {V1_COLUMNS} FROM heldout_tests ORDER BY id")
    assert [n_tests(LabelFile(old), "s", feature) for feature in (0, 1, 2, 3)] == [10, 10, 10, 0]
    assert rows(old, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert rows(old, "PRAGMA integrity_check") == [("ok",)]
    renamed = V1_COLUMNS.replace("balanced_accuracy", "score")
    assert rows(old, f"SELECT {renamed} FROM heldout_tests ORDER BY id") == before


def test_an_old_test_counts_for_the_gate_as_a_test_of_its_rule(old: Path) -> None:
    nothing: tuple[Score, ...] = ()
    label = Label(label_id="", feature=1, revision=1, text="some text", rule="token:x")
    found = LabelFile(old).read(lambda c: scores_of(c, "s", label, "at"), nothing)
    assert len(found) == 10
    assert (found[0].method, found[0].score, found[0].low, found[0].floor) == ("rule", 0.75, 0.7, 0.5)
    assert found[0].evidence == f"ev-{1:016x}"


def test_an_old_file_takes_labels_notes_and_new_tests(old: Path) -> None:
    database = LabelFile(old)
    label = save_label(database, "s", 1, {"text": "fires on x"})
    note = save_note(database, "s", 1, {"kind": "hypothesis", "text": "it is x"})
    assert current_labels(database, "s", query="fires") == [label]
    assert database.read(lambda c: [n.note_id for n in notes_of(c, "s", 1)], [""]) == [note.note_id]
    assert record_test(database, a_test("test 1")) == 10, "that one was on record"
    assert record_test(database, a_test("another")) == 11


OPENER = """
import sys
from pathlib import Path
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.heldout import n_tests
from saeinterp_mcp.labels.revisions import save_label
print("ready", flush=True)
sys.stdin.readline()
database, who = LabelFile(Path(sys.argv[1])), sys.argv[2]
print(n_tests(database, "s", 0) if who == "reads" else save_label(database, "s", 7, {"text": who}).label_id)
"""
HANGING = """
import sys
from pathlib import Path
from saeinterp_mcp.labels import database
from saeinterp_mcp.labels.heldout import n_tests

def hanging():
    yield from real[-1]
    print("all statements have run", flush=True)
    yield "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

real = database.MIGRATIONS
database.MIGRATIONS = (*real[:-1], hanging())
n_tests(database.LabelFile(Path(sys.argv[1])), "s", 0)
"""


def test_several_processes_that_open_an_old_file_at_once_bring_it_up_to_date_once(old: Path) -> None:
    openers = [start(OPENER, old, who) for who in ("reads", "first", "second", "reads")]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    said = []
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    for opener in openers:
        out, errors = opener.communicate(timeout=300)
        assert (opener.returncode, errors) == (0, "")
        said.append(out.strip())
    assert (said[0], said[3]) == ("10", "10")
    found = current_labels(LabelFile(old), "s")
    assert sorted(label.label_id for label in found) == sorted(said[1:3])
    assert rows(old, "PRAGMA user_version") == [(len(MIGRATIONS),)]


def test_a_process_killed_in_the_middle_of_it_leaves_the_old_file_whole(old: Path) -> None:
    before = rows(old, f"SELECT {V1_COLUMNS} FROM heldout_tests ORDER BY id")
    with start(HANGING, old) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "all statements have run\n"
        assert rows(old, "PRAGMA user_version") == [(1,)], "nothing of it is seen before all of it is"
        os.kill(process.pid, signal.SIGKILL)
    assert rows(old, "PRAGMA user_version") == [(1,)]
    assert rows(old, "SELECT name FROM sqlite_master WHERE name IN ('labels', 'notes', 'queue')") == []
    assert rows(old, f"SELECT {V1_COLUMNS} FROM heldout_tests ORDER BY id") == before
    assert n_tests(LabelFile(old), "s", 0) == 10
    assert rows(old, "PRAGMA integrity_check") == [("ok",)]


def start(script: str, *arguments: Any) -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def a_test(name: str) -> HeldoutTest:
    return HeldoutTest(
        store="s",
        feature=1,
        test=name,
        rule="token:x",
        where=None,
        scope="at",
        evidence="ev-new",
        arguments="{}",
        result="r",
        score=0.75,
        low=0.7,
        high=0.8,
        floor=0.5,
    )


def rows(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """What another program of SQLite's reads in the file."""
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        return connection.execute(statement).fetchall()
