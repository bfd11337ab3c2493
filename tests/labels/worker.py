"""A process that writes into a labels file, for tests of many at once. It waits for a line, then says what it kept.

`python -m tests.labels.worker WHAT FILE WHO N`: after each write has returned, one line of JSON.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels import notes, queue, revisions
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.records import Label, Note

LINEAGE = "store-a"
SHARED = 2
"""Labels and notes that all processes revise, one after the other with each round of eight turns."""
QUEUED = 400
"""Features that are handed out."""


def mixed(database: LabelFile, who: int, n: int) -> Iterator[dict[str, Any]]:
    """Labels and notes in turn: new ones, and revisions of shared ones that count up by one."""
    turns = (new_label, new_label, count_up_label, new_label, new_label, new_note, count_up_note, new_note)
    for i in range(n):
        yield turns[i % len(turns)](database, who, i)


def new_ones(database: LabelFile, who: int, n: int) -> Iterator[dict[str, Any]]:
    """New labels and notes in turn."""
    for i in range(n):
        yield (new_note if i % 2 else new_label)(database, who, i)


def emptying(database: LabelFile, who: int, n: int) -> Iterator[dict[str, Any]]:
    """Claims until nothing is left; every third feature is labelled, every third done, the rest left claimed."""
    from saeinterp_mcp.operations.queue_orders import unlabelled  # slow to load, and the others do without

    while True:
        given = queue.claim(database, LINEAGE, f"worker {who}", unlabelled(LINEAGE, range(QUEUED)))
        if given.feature is None:
            return
        if given.feature % 3 == 0:
            revisions.save_label(database, LINEAGE, given.feature, {"text": f"of {who}"})
        if given.feature % 3 == 1:
            queue.done(database, LINEAGE, given.feature, f"worker {who}")
        yield {"feature": given.feature, "who": who}


def new_label(database: LabelFile, who: int, i: int) -> dict[str, Any]:
    label = revisions.save_label(
        database, LINEAGE, 100 + i, {"text": f"fires on w{who}n{i}", "author": str(who)}
    )
    return said("label", label.label_id, label)


def new_note(database: LabelFile, who: int, i: int) -> dict[str, Any]:
    changes = {"kind": "observation", "text": f"saw w{who}n{i}"}
    note = notes.save_note(database, LINEAGE, 100 + i, changes)
    return said("note", note.note_id, note)


def count_up_label(database: LabelFile, who: int, i: int) -> dict[str, Any]:
    """One more on a shared label, by the revision that was read: again and again until nobody was faster."""
    feature = i // 8 % SHARED
    label_id = f"lb-{feature:012x}"
    while True:
        old = database.read(lambda c: revisions.find_label(c, LINEAGE, label_id), None)
        assert old is not None
        changes = {"text": f"count {count_in(old[1].text) + 1}", "author": str(who)}
        try:
            label = revisions.save_label(
                database, LINEAGE, feature, changes, label_id, expected_revision=old[1].revision
            )
        except BadInput:
            continue
        return said("label", label.label_id, label)


def count_up_note(database: LabelFile, who: int, i: int) -> dict[str, Any]:
    """A revision of a shared note, whatever it said before."""
    feature = i // 8 % SHARED
    changes = {"text": f"saw w{who}n{i}"}
    note = notes.save_note(database, LINEAGE, feature, changes, f"nt-{feature:012x}")
    return said("note", note.note_id, note)


def said(kind: str, name: str, record: Label | Note) -> dict[str, Any]:
    return {"kind": kind, "id": name, "revision": record.revision, "text": record.text}


def count_in(text: str) -> int:
    return int(text.removeprefix("count "))


WORK: dict[str, Callable[[LabelFile, int, int], Iterator[dict[str, Any]]]] = {
    "mixed": mixed,
    "new": new_ones,
    "emptying": emptying,
}

if __name__ == "__main__":
    what, file, who, n = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    for kept in WORK[what](LabelFile(Path(file)), int(who), int(n)):
        print(json.dumps(kept), flush=True)
