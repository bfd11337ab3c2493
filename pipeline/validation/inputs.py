"""Labels and held-out tests beside a store, as files for stages to hash: `WORK/inputs/labels.jsonl`, `tests.jsonl`."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.fingerprint import write_whole
from saeinterp_mcp.labels.database import LabelDatabase, labels_beside
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.revisions import current_labels
from saeinterp_mcp.store.manifest import read_manifest

if TYPE_CHECKING:
    import sqlite3

INPUTS = "inputs"
NO_AUTHOR = "unknown"


class Inputs(NamedTuple):
    """The two files, and how many records each holds."""

    labels: Path
    tests: Path
    n_labels: int
    n_tests: int


def label_file(work: Path) -> Path:
    """{feature, author, text, label_id, status, made_at} of every label in use, by feature, author and label_id.

    `text` is the whole claim: the label's name, and its explanation where it has one.
    """
    return work / INPUTS / "labels.jsonl"


def test_file(work: Path) -> Path:
    """{feature, author, text, label_id, method, judge, score, low, high, n, n_failed} of every held-out test of the
    very words of a label in use."""
    return work / INPUTS / "tests.jsonl"


def dump_inputs(work: Path, store: Path | None) -> Inputs:
    """Write both files, whole and only when they changed; empty ones where there is no store or no label.

    Raises:
        BadStore: the store or its labels file is damaged.
    """
    labels: list[Label] = []
    tests: list[dict[str, Any]] = []
    if store is not None:
        manifest = read_manifest(store)
        lineage = manifest.lineage or manifest.fingerprint()
        database = labels_beside(store)
        labels = sorted(
            (label for label in current_labels(database, lineage) if label.status != "refuted"),
            key=lambda label: (label.feature, label.author or NO_AUTHOR, label.label_id),
        )
        tests = _tests(database, lineage, labels)
    label_file(work).parent.mkdir(parents=True, exist_ok=True)
    _write(label_file(work), map(_record, labels))
    _write(test_file(work), tests)
    return Inputs(label_file(work), test_file(work), len(labels), len(tests))


def _record(label: Label) -> dict[str, Any]:
    return {
        "feature": label.feature,
        "author": label.author or NO_AUTHOR,
        "text": label.claim,
        "label_id": label.label_id,
        "status": label.status,
        "made_at": label.made_at,
    }


def _tests(database: LabelDatabase, lineage: str, labels: list[Label]) -> list[dict[str, Any]]:
    """Tests of words: one of a rule says nothing about the words."""
    by_claim: dict[tuple[int, str], list[Label]] = {}
    for label in labels:
        by_claim.setdefault((label.feature, label.claim), []).append(label)

    def look(connection: "sqlite3.Connection") -> list[tuple[Any, ...]]:
        ask = (
            "SELECT feature, text, method, judge, score, low, high, n, n_failed FROM heldout_tests "
            'WHERE store = ? AND text IS NOT NULL AND "where" IS NULL ORDER BY feature, id'
        )
        return connection.execute(ask, (lineage,)).fetchall()

    nothing: list[tuple[Any, ...]] = []
    found = [
        {
            "feature": feature,
            "author": label.author or NO_AUTHOR,
            "text": text,
            "label_id": label.label_id,
            "method": method,
            "judge": judge,
            "score": score,
            "low": low,
            "high": high,
            "n": n,
            "n_failed": n_failed,
        }
        for feature, text, method, judge, score, low, high, n, n_failed in database.read(look, nothing)
        for label in by_claim.get((feature, text), ())
    ]
    return sorted(found, key=lambda test: (test["feature"], test["author"], test["label_id"]))


def _write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(record, sort_keys=True, ensure_ascii=True) + "\n" for record in records)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)
