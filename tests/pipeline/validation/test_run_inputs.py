"""Labels and held-out tests, as files that stages hash."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.validation.inputs import dump_inputs
from saeinterp_mcp.labels.database import labels_beside
from saeinterp_mcp.labels.heldout import record_test
from saeinterp_mcp.labels.records import HeldoutTest
from saeinterp_mcp.labels.revisions import retire_label, save_label
from saeinterp_mcp.store.manifest import read_manifest
from tests.worlds import builds, import_world


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_world(builds(), tmp_path_factory.mktemp("builds"))


@pytest.fixture
def store(imported: Path, tmp_path: Path) -> Path:
    """A copy, with no labels yet."""
    return Path(shutil.copytree(imported, tmp_path / "store"))


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def a_test(store: Path, feature: int, text: str | None, **fields: Any) -> HeldoutTest:
    lineage = read_manifest(store).fingerprint()
    known = {"where": None, "scope": None, "evidence": "ev-1", "arguments": "{}", "result": "r", "floor": 0.5}
    known |= {
        "score": 0.75,
        "low": 0.5,
        "high": 0.9,
        "method": "detection",
        "judge": "judge",
        "n": 40,
        "n_failed": 2,
    }
    return HeldoutTest.model_validate(
        {"store": lineage, "feature": feature, "test": f"{text}{fields}", "text": text, **known, **fields}
    )


def test_without_a_store_or_labels_both_files_are_empty(store: Path, tmp_path: Path) -> None:
    for given in (None, store):
        found = dump_inputs(tmp_path / "work", given)
        assert (found.n_labels, found.n_tests) == (0, 0)
        assert found.labels.read_bytes() == found.tests.read_bytes() == b""
    assert not labels_beside(store).path.exists()


def test_labels_in_use_come_by_feature_and_author_with_their_whole_claim(store: Path, tmp_path: Path) -> None:
    labels, lineage = labels_beside(store), read_manifest(store).fingerprint()
    save_label(labels, lineage, 2, {"text": "two", "author": "ann", "status": "draft"})
    save_label(labels, lineage, 0, {"text": "swim", "explanation": "the ability", "author": "bob"})
    save_label(labels, lineage, 0, {"text": "swim speed ▁é", "author": "ann"})
    wrong = save_label(labels, lineage, 1, {"text": "wrong", "author": "ann"})
    retire_label(labels, lineage, wrong.label_id, "no", False, {"author": "ann"})
    save_label(labels, lineage, 1, {"text": "refuted", "author": "ann", "status": "refuted"})
    found = dump_inputs(tmp_path / "work", store)
    assert [(one["feature"], one["author"], one["text"]) for one in records(found.labels)] == [
        (0, "ann", "swim speed ▁é"),
        (0, "bob", "swim: the ability"),
        (2, "ann", "two"),
    ]
    assert set(records(found.labels)[0]) == {"feature", "author", "text", "label_id", "status", "made_at"}


def test_held_out_tests_are_those_of_the_labels_very_words(store: Path, tmp_path: Path) -> None:
    labels, lineage = labels_beside(store), read_manifest(store).fingerprint()
    label = save_label(labels, lineage, 0, {"text": "swim", "explanation": "the ability", "author": "bob"})
    for test in (
        a_test(store, 0, "swim: the ability"),
        a_test(store, 0, "swim: the ability", method="fuzzing", score=None, low=None, high=None),
        a_test(store, 0, "swim"),
        a_test(store, 1, "swim: the ability"),
        a_test(store, 0, None, method="rule", rule="swim>=1"),
        a_test(store, 0, "swim: the ability", where="weapon=brush"),
    ):
        record_test(labels, test)
    found = dump_inputs(tmp_path / "work", store)
    first = {"feature": 0, "author": "bob", "text": "swim: the ability", "label_id": label.label_id}
    first |= {
        "method": "detection",
        "judge": "judge",
        "score": 0.75,
        "low": 0.5,
        "high": 0.9,
        "n": 40,
        "n_failed": 2,
    }
    assert records(found.tests) == [
        first,
        {**first, "method": "fuzzing", "score": None, "low": None, "high": None},
    ]


def test_files_are_written_again_only_when_they_changed(store: Path, tmp_path: Path) -> None:
    found = dump_inputs(tmp_path / "work", store)
    before = found.labels.stat().st_mtime_ns
    assert dump_inputs(tmp_path / "work", store).labels.stat().st_mtime_ns == before
    save_label(labels_beside(store), read_manifest(store).fingerprint(), 0, {"text": "swim"})
    assert records(dump_inputs(tmp_path / "work", store).labels)[0]["author"] == "unknown"
