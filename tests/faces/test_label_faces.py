"""Labels through a server and the shell on one file: what one writes, the other reads."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import StdioServerParameters

from tests.faces.conftest import SERVER, Caller, connected, run_cli, text_of

RULE = "family:fam>=1"


@pytest.fixture
def store(seq: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(seq, tmp_path / "seq"))


@pytest.fixture
def host(store: Path) -> Iterator[Caller]:
    target: Any = StdioServerParameters(command=SERVER[0], args=[*SERVER[1:], "serve", "--store", str(store)])
    yield from connected(target)


def shell(store: Path, *words: str, **environment: str) -> Any:
    done = run_cli(*words, "--store", str(store), "--json", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def told(host: Caller, tool: str, **arguments: Any) -> dict[str, Any]:
    result = host.call(tool, **arguments)
    assert not result.is_error, text_of(result)
    assert result.structured_content is not None
    return dict(result.structured_content)


def test_what_an_agent_saves_a_person_reads_revises_and_retires(host: Caller, store: Path) -> None:
    evidence = told(host, "feature_overview", feature=0)["evidence"]
    saved = told(host, "label_save", feature=0, text="Goes with fam", rule=RULE, evidence=[evidence])
    assert (saved["author_kind"], saved["revision"], saved["evidence_ids"]) == ("agent", 1, [evidence])
    assert shell(store, "label", "get", "0") == told(host, "label_get", feature=0)
    revised = shell(
        store, "label", "save", "0", "--label-id", saved["label_id"], "--text", "Goes with any fam",
        "--expected-revision", "1", "--confidence", "0.5", SAEINTERP_AUTHOR="ann",
    )  # fmt: skip
    assert (revised["author"], revised["author_kind"], revised["revision"]) == ("ann", "human", 2)
    assert "expected 1" in host.error(
        "label_save", feature=0, label_id=saved["label_id"], text="x", expected_revision=1
    )
    gone = shell(store, "label", "delete", saved["label_id"], "--reason", "twice")
    assert (gone["retired"], gone["revision"]) == (True, 3)
    assert told(host, "label_get", feature=0)["labels"] == []
    back = shell(store, "label", "restore", "--label-id", saved["label_id"])
    assert (back["retired"], back["revision"], back["text"]) == (False, 4, "Goes with any fam")
    (past,) = shell(store, "label", "history", "0")["labels"]
    assert [(h["revision"], h["author_kind"], h["retired"]) for h in past["history"]] == [
        (1, "agent", False), (2, "human", False), (3, "human", True), (4, "human", False),
    ]  # fmt: skip
    assert [label["feature"] for label in shell(store, "label", "list", "--query", "any")["labels"]] == [0]


def test_a_label_is_supported_after_its_held_out_test_through_another_face(host: Caller, store: Path) -> None:
    refused = host.error("label_save", feature=0, text="Goes with fam", rule=RULE, status="supported")
    assert "cannot be called supported yet: no held-out test of this very rule is on record" in refused
    tested = shell(store, "test-rule", "0", "--rule", RULE)
    saved = told(host, "label_save", feature=0, text="Goes with fam", rule=RULE, status="supported")
    assert (saved["status"], saved["scope"], saved["evidence_ids"]) == (
        "supported",
        "at",
        [tested["evidence"]],
    )
    assert saved["scores"][0]["floor"] < saved["scores"][0]["low"] == tested["low"]
    assert told(host, "feature_overview", feature=0)["label"] == "Goes with fam"


def test_the_scope_belongs_to_what_was_tested(host: Caller) -> None:
    told(host, "test_rule", feature=0, rule=RULE)
    claim = {"feature": 0, "text": "After fam", "rule": RULE, "status": "supported"}
    assert "another scope" in host.error("label_save", **claim, scope="before")
    draft = told(host, "label_save", **{**claim, "status": "draft"}, scope="before")
    assert (draft["scope"], draft["window"]) == ("before", 16)


def test_evidence_of_one_face_is_asked_again_through_the_other(host: Caller, store: Path) -> None:
    here = shell(store, "family-sweep", "0", "--family", "fam")
    there = told(host, "family_sweep", feature=0, family="fam")
    assert here == there
    replay = told(host, "evidence_replay", evidence=here["evidence"])
    assert (replay["holds"], replay["call"]["arguments"]["family"]) == (True, "fam")
    assert shell(store, "evidence", "replay", here["evidence"]) == replay
    assert shell(store, "evidence", "replay", "--evidence", here["evidence"]) == replay
    shown = run_cli("evidence", "show", here["evidence"], "--store", str(store))
    assert json.loads(shown.stdout)["answer"]["rows"] == here["rows"]


def test_an_answer_that_was_cut_is_whole_behind_its_evidence(host: Caller) -> None:
    cut = told(host, "features_search", by="metric", sort="max", where="firing_rate>=0", limit=1)
    assert (len(cut["rows"]), cut["more"]) == (1, 3)
    read = host.portal.call(host.client.read_resource, f"saeinterp://evidence/{cut['evidence']}")
    whole = json.loads(read.contents[0].text)  # type: ignore[union-attr]
    assert [row[0] for row in whole["answer"]["rows"]] == sorted(range(4), key=lambda f: -whole_max(whole, f))
    assert whole["answer"]["rows"][0] == cut["rows"][0]


def whole_max(whole: dict[str, Any], feature: int) -> float:
    at = whole["answer"]["columns"].index("max")
    return float(next(row[at] for row in whole["answer"]["rows"] if row[0] == feature))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("label", "save", "0"), "a new label needs text"),
        (("label", "save"), "Missing argument"),
        (("label", "save", "0", "--text", "x", "--status", "good"), "Invalid value for '--status'"),
        (("label", "delete", "--reason", "x"), "label delete needs LABEL_ID"),
        (("label", "delete", "lb-1"), "needs a reason"),
        (("label", "delete", "lb-1", "--reason", "x"), "there is no label 'lb-1' of this store"),
        (("label", "get", "99"), "feature 99 is not in store"),
        (("label", "get", "0", "--cursor", "x"), "the cursor is not one of ours"),
        (("evidence", "replay"), "evidence replay needs EVIDENCE"),
        (("evidence", "show", "ev-0123456789abcdef"), "is not on record"),
        (("label", "save", "0", "--text", "x" * 501), "text: String should have at most 500 characters"),
        (("label", "save", "0", "--text", "x", "--confidence", "2"), "confidence: Input should be less than"),
    ],
)
def test_a_wrong_call_has_exit_code_2_and_names_the_fix(
    store: Path, words: tuple[str, ...], said: str
) -> None:
    done = run_cli(*words, "--store", str(store))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_answers_go_on_where_nothing_can_be_recorded(store: Path, tmp_path: Path) -> None:
    done = run_cli("decoder", "0", "--store", str(store), "--labels", str(tmp_path / "no" / "file.sqlite"))
    assert done.returncode == 2  # this store has no decoder: the wrong call comes first
    done = run_cli(
        "overview", "0", "--store", str(store), "--labels", str(tmp_path / "no" / "file.sqlite"), "--json"
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["labels"] == []
    assert done.stderr.startswith("answers are not recorded, so labels cannot cite them: ")


def test_a_damaged_labels_file_is_not_taken_for_an_empty_one(store: Path) -> None:
    store.with_name("seq.labels.sqlite").write_bytes(b"SQLite format 3\0" + b"\xa5" * 5000)
    for words in (("overview", "0"), ("label", "get", "0"), ("label", "save", "0", "--text", "x")):
        done = run_cli(*words, "--store", str(store))
        assert (done.returncode, done.stdout) == (3, "")
        assert "expected a labels file" in done.stderr


def test_notes_and_the_queue_go_through_both_faces(host: Caller, store: Path) -> None:
    (guess,) = told(host, "note_save", feature=0, kind="hypothesis", text="Goes with fam")["entries"]
    seen = shell(store, "family-sweep", "0", "--family", "fam")["evidence"]
    shell(
        store, "note", "save", "0", "--kind", "observation", "--text", "It does", "--evidence", seen,
        "--supports", guess["note_id"],
    )  # fmt: skip
    assert shell(store, "note", "list", "0") == told(host, "note_get", feature=0)
    assert len(told(host, "note_get", feature=0)["entries"]) == 2
    first, second = told(host, "queue_next")["feature"], shell(store, "queue", "next")["feature"]
    assert first != second
    told(host, "label_save", feature=first, text="done with it")
    assert shell(store, "queue", "skip", str(second), "--reason", "noise")["state"] == "skipped"
    given = {told(host, "queue_next")["feature"] for _ in range(3)}
    assert not given & {first, second}
    assert None in given
    assert shell(store, "queue", "add", str(second), "--reason", "look again")["state"] == "added"
    assert told(host, "queue_next")["feature"] == second
    assert shell(store, "queue", "done", str(second))["state"] == "done"
