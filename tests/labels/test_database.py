"""The labels file and its record of held-out tests: counted by what is different, never replaced."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.labels.database import LabelDatabase, LabelFile, LabelsInMemory, labels_beside
from saeinterp_mcp.labels.heldout import n_tests, record_test
from saeinterp_mcp.labels.records import HeldoutTest
from saeinterp_mcp.labels.schema import APPLICATION_ID, MIGRATIONS
from tests.conftest import ROOT


def one(test: str = "a", feature: int = 3, store: str = "s", evidence: str = "ev-1") -> HeldoutTest:
    return HeldoutTest(
        store=store,
        feature=feature,
        test=test,
        rule="token:x",
        where=None,
        scope="at",
        evidence=evidence,
        arguments="{}",
        result="r",
        score=0.75,
        low=0.7,
        high=0.8,
        floor=0.5,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.labels.sqlite"


@pytest.fixture(params=["file", "memory"])
def labels(request: pytest.FixtureRequest, path: Path) -> LabelDatabase:
    return LabelFile(path) if request.param == "file" else LabelsInMemory()


def test_a_test_that_is_asked_again_is_counted_once(labels: LabelDatabase) -> None:
    assert [record_test(labels, one(test)) for test in ("a", "b", "a", "a", "c", "b")] == [1, 2, 2, 2, 3, 3]


def test_another_call_of_the_same_test_is_kept_but_not_counted(path: Path) -> None:
    labels = LabelFile(path)
    assert [record_test(labels, one(evidence=e)) for e in ("ev-1", "ev-2", "ev-1")] == [1, 1, 1]
    assert rows(path, "SELECT evidence FROM heldout_tests ORDER BY id") == [("ev-1",), ("ev-2",)]


def test_tests_are_counted_by_feature_and_by_store(labels: LabelDatabase) -> None:
    record_test(labels, one())
    assert record_test(labels, one("b", feature=4)) == 1
    assert record_test(labels, one("b", store="other")) == 1
    assert [n_tests(labels, "s", 3), n_tests(labels, "s", 5), n_tests(labels, "none", 3)] == [1, 0, 0]


def test_everything_about_a_test_is_kept(path: Path) -> None:
    record_test(LabelFile(path), one())
    columns = 'store, feature, rule, "where", scope, evidence, score, low, high, floor'
    assert rows(path, f"SELECT {columns} FROM heldout_tests") == [
        ("s", 3, "token:x", None, "at", "ev-1", 0.75, 0.7, 0.8, 0.5)
    ]
    assert rows(path, "SELECT count(*) FROM heldout_tests WHERE made_at LIKE '20__-__-__T%Z'") == [(1,)]


def test_asking_how_many_there_were_makes_no_file(path: Path) -> None:
    assert n_tests(LabelFile(path), "s", 3) == 0
    assert not path.exists()


def test_the_file_lies_beside_the_store_and_is_named_like_it(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "demo.store").symlink_to(tmp_path / "made")
    assert labels_beside(tmp_path / "made").path == tmp_path / "made.labels.sqlite"
    assert labels_beside(tmp_path / "demo.store").path == tmp_path / "made.labels.sqlite"


def test_an_empty_file_becomes_one_of_ours_in_the_write_ahead_mode(path: Path) -> None:
    path.touch()
    assert n_tests(LabelFile(path), "s", 3) == 0
    assert record_test(LabelFile(path), one()) == 1
    asked = [
        rows(path, f"PRAGMA {name}")[0][0] for name in ("user_version", "application_id", "journal_mode")
    ]
    assert asked == [len(MIGRATIONS), APPLICATION_ID, "wal"]


def test_a_newer_file_is_refused_and_left_alone(path: Path) -> None:
    record_test(LabelFile(path), one())
    rows(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(BadStore, match=r"found schema 99\. A newer saeinterp wrote it"):
        record_test(LabelFile(path), one("b"))
    with pytest.raises(BadStore, match=r"found schema 99\. A newer saeinterp wrote it"):
        n_tests(LabelFile(path), "s", 3)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    rows(path, "CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(BadStore, match="found another program's database"):
        record_test(LabelFile(path), one())
    with pytest.raises(BadStore, match="found another program's database"):
        n_tests(LabelFile(path), "s", 3)
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", [0, 4096])
def test_a_damaged_file_is_refused_and_left_alone(path: Path, where: int) -> None:
    for i in range(10):
        record_test(LabelFile(path), one(str(i)))
    damaged = bytearray(path.read_bytes())
    damaged[where : where + 4000] = b"\xa5" * 4000
    path.write_bytes(damaged)
    with pytest.raises(BadStore, match=r"expected a labels file; found .*Restore it from a copy"):
        record_test(LabelFile(path), one("new"))
    assert path.read_bytes() == bytes(damaged)


def test_a_text_file_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("my notes\n" * 100, encoding="utf-8")
    with pytest.raises(BadStore, match="found file is not a database"):
        record_test(LabelFile(path), one())
    assert path.read_text(encoding="utf-8").startswith("my notes")


def test_a_place_that_cannot_be_written_is_a_wrong_call(tmp_path: Path) -> None:
    labels = LabelFile(tmp_path / "missing" / "x.labels.sqlite")
    with pytest.raises(
        BadInput, match=r"cannot be used: .*name a file that can be written with --labels FILE"
    ):
        record_test(labels, one())
    (tmp_path / "folder").mkdir()
    assert n_tests(LabelFile(tmp_path / "folder"), "s", 3) is None


def test_reading_and_writing_leave_nothing_else_behind(path: Path) -> None:
    record_test(LabelFile(path), one())
    n_tests(LabelFile(path), "s", 3)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


WRITER = """
import sys
from pathlib import Path
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.heldout import record_test
from saeinterp_mcp.labels.records import HeldoutTest
test = HeldoutTest.model_validate_json(sys.argv[2])
labels = LabelFile(Path(sys.argv[1]))
sys.stdin.readline()
for i in range(int(sys.argv[3])):
    record_test(labels, test.model_copy(update={"test": f"{test.test}-{i}"}))
    print(i, flush=True)
"""


def writer(path: Path, who: int, n: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(path), one(str(who), who % 2).model_dump_json(), str(n)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def test_eight_processes_that_record_at_once_lose_nothing(path: Path) -> None:
    writers = [writer(path, who, 12) for who in range(8)]
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in writers:
        _, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (0, "")
    assert [n_tests(LabelFile(path), "s", feature) for feature in (0, 1)] == [48, 48]


def test_a_process_that_is_killed_leaves_a_file_that_holds_what_it_had_recorded(path: Path) -> None:
    with writer(path, 0, 100_000) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        for _ in range(20):
            told = process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    found = n_tests(LabelFile(path), "s", 0)
    assert found is not None
    assert found >= int(told) + 1
    assert record_test(LabelFile(path), one("after", feature=0)) == found + 1
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def rows(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()
