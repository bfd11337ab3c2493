"""Many processes write into one labels file at once, or are killed while they do: nothing is lost, nothing torn."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.labels import notes, queue, revisions
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.records import Label, Note
from tests.conftest import ROOT
from tests.labels.worker import LINEAGE, QUEUED, SHARED

WRITERS, EACH = 8, 250
KILLS = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.labels.sqlite"


@contextmanager
def processes(what: str, path: Path, n: int, each: int) -> "Iterator[list[subprocess.Popen[str]]]":
    """Workers that are ready and wait for their line."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    words = [sys.executable, "-m", "tests.labels.worker", what, str(path)]
    started: list[subprocess.Popen[str]] = [
        subprocess.Popen([*words, str(who), str(each)], cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload]
        for who in range(n)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def told(process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    """What a worker said it kept, once it is done."""
    assert process.stdout is not None
    assert process.stderr is not None
    found = [json.loads(line) for line in process.stdout]
    assert (process.stderr.read(), process.wait()) == ("", 0)
    return found


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def shared_ones(path: Path) -> None:
    """Labels and notes under ids that every worker knows."""

    def write(connection: sqlite3.Connection) -> None:
        for i in range(SHARED):
            label = Label(label_id=f"lb-{i:012x}", feature=i, revision=1, text="count 0")
            revisions.append(connection, LINEAGE, None, label)
            note = Note(note_id=f"nt-{i:012x}", feature=i, revision=1, kind="observation", text="none yet")
            notes._append(connection, LINEAGE, None, note)

    LabelFile(path).write(write)


def test_eight_processes_write_two_thousand_labels_and_notes_and_nothing_is_lost(path: Path) -> None:
    shared_ones(path)
    with processes("mixed", path, WRITERS, EACH) as workers:
        for worker in workers:
            go(worker)
        kept, seen = watched_while_it_writes(path, workers[0])
        kept += [one for worker in workers for one in told(worker)]
    assert len(kept) == WRITERS * EACH == 2000
    assert seen == sorted(seen)
    assert len(set(seen)) > 5, "it was read while it was written"
    stored = {
        (kind, row[0], row[1]): row[2] for kind in ("label", "note") for row in all_revisions(path, kind)
    }
    assert len(stored) == 2000 + 2 * SHARED
    for one in kept:
        assert stored[one["kind"], one["id"], one["revision"]] == one["text"]
    said = Counter((one["kind"], one["id"], one["revision"]) for one in kept)
    assert set(said.values()) == {1}, "no revision was given to two writers"
    assert_whole(path)
    assert_counted_by_one(path, kept)
    assert_found_by_their_newest_words(path)


def watched_while_it_writes(
    path: Path, worker: "subprocess.Popen[str]"
) -> tuple[list[dict[str, Any]], list[int]]:
    """Half of what a worker said, and revisions of the first shared label meanwhile; no half of a write is read."""
    assert worker.stdout is not None
    kept, seen = [], []
    for i in range(EACH // 2):
        kept.append(json.loads(worker.stdout.readline()))
        if i % 5 == 0:
            labels = revisions.current_labels(LabelFile(path), LINEAGE, range(SHARED))
            assert [label.text for label in labels] == [f"count {label.revision - 1}" for label in labels]
            seen.append(labels[0].revision)
    return kept, seen


def assert_whole(path: Path) -> None:
    """Revisions are 1 to n in the order of writing, the newest is the current one, the file and its index are sound."""
    for kind in ("label", "note"):
        owner = dict[int, list[tuple[int, int]]]()
        for row, revision, place in rows(
            path, f"SELECT {kind}, revision, id FROM {kind}_revisions ORDER BY id"
        ):
            owner.setdefault(row, []).append((revision, place))
        current = dict(rows(path, f"SELECT id, current FROM {kind}s"))
        assert current == {row: of[-1][1] for row, of in owner.items()}
        assert all([revision for revision, _ in of] == list(range(1, len(of) + 1)) for of in owner.values())
        ids = [row[0] for row in rows(path, f"SELECT {kind}_id FROM {kind}s")]
        assert len(set(ids)) == len(ids) == len(owner)
        rows(path, f"INSERT INTO {kind}_words ({kind}_words, rank) VALUES ('integrity-check', 1)")
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def assert_counted_by_one(path: Path, kept: list[dict[str, Any]]) -> None:
    """Each writer read what a shared label said and wrote one more: an update that was lost would be missing here."""
    for i in range(SHARED):
        label_id = f"lb-{i:012x}"
        texts = [text for name, _, text in all_revisions(path, "label") if name == label_id]
        assert texts == [f"count {n}" for n in range(len(texts))]
        assert len(texts) == 1 + sum(one["id"] == label_id for one in kept)


def assert_found_by_their_newest_words(path: Path) -> None:
    """Each label and note is found by its text as it stands, and the index knows no other."""
    texts = dict[str, list[str]]()
    for kind in ("label", "note"):
        newest = rows(
            path,
            f"SELECT o.id, r.text FROM {kind}s o JOIN {kind}_revisions r ON r.id = o.current ORDER BY o.id",
        )
        assert rows(path, f"SELECT rowid, text FROM {kind}_words ORDER BY rowid") == newest
        texts[kind] = [text for _, text in newest]

    def lost(connection: sqlite3.Connection) -> list[str]:
        found = {
            "label": lambda text: [one.text for one in revisions.labels_of(connection, LINEAGE, query=text)],
            "note": lambda text: [one.text for one in notes.notes_of(connection, LINEAGE, query=text)],
        }
        return [text for kind in texts for text in texts[kind] if text not in found[kind](text)]

    assert LabelFile(path).read(lost, ["the file is gone"]) == []


def test_eight_workers_that_empty_the_queue_never_share_a_feature(path: Path) -> None:
    database = LabelFile(path)
    for feature in (7, 300, 9000):
        queue.add(database, LINEAGE, feature, None, priority=1)
    revisions.save_label(database, LINEAGE, 5, {"text": "labelled already"})
    queue.skip(database, LINEAGE, 6, None, "dull")
    with processes("emptying", path, WRITERS, 0) as workers:
        for worker in workers:
            go(worker)
        given = [one for worker in workers for one in told(worker)]
    features = [one["feature"] for one in given]
    assert len(features) == len(set(features))
    assert set(features) == {*range(QUEUED), 9000} - {5, 6}
    assert len({one["who"] for one in given}) > 1
    states = Counter(state for _, state in rows(path, "SELECT feature, state FROM queue"))
    assert states == {
        "claimed": sum(f % 3 == 2 for f in features),
        "done": sum(f % 3 != 2 for f in features),
        "skipped": 1,
    }


def test_what_was_acknowledged_survives_processes_that_are_killed_at_random_moments(path: Path) -> None:
    draw = random.Random(20261121)
    kept: list[dict[str, Any]] = []
    killed = 0
    for _ in range(KILLS // 4):
        with processes("new", path, 4, 100_000) as workers:
            for worker in workers:
                go(worker)
            for worker in workers:
                assert worker.stdout is not None
                lines = [worker.stdout.readline() for _ in range(draw.randint(0, 6))]
                time.sleep(draw.uniform(0, 0.01))  # so that it dies anywhere in a write
                os.kill(worker.pid, signal.SIGKILL)
                killed += 1
                lines += worker.stdout.read().splitlines(keepends=True)
                assert worker.wait() == -signal.SIGKILL
                kept += [json.loads(line) for line in lines if line.endswith("\n")]
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]
        stored = {
            (kind, row[0], row[1]): row[2] for kind in ("label", "note") for row in all_revisions(path, kind)
        }
        assert all(stored.get((one["kind"], one["id"], one["revision"])) == one["text"] for one in kept)
    assert killed == KILLS
    assert len(kept) >= KILLS
    assert_whole(path)
    after = revisions.save_label(LabelFile(path), LINEAGE, 3, {"text": "written after all that"})
    found = revisions.current_labels(LabelFile(path), LINEAGE, query="after all that")
    assert [label.label_id for label in found] == [after.label_id]


def all_revisions(path: Path, kind: str) -> list[tuple[Any, ...]]:
    """(id, revision, text) of all labels or notes."""
    return rows(
        path,
        f"SELECT o.{kind}_id, r.revision, r.text FROM {kind}s o JOIN {kind}_revisions r ON r.{kind} = o.id",
    )


def rows(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """What another program of SQLite's reads in the file."""
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        return connection.execute(statement).fetchall()
