"""Our own label files: the same content, the same bytes; read back whole; nothing taken in that does not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.evidence import record_answer, recorded_answer
from saeinterp_mcp.labels.exchange.formats import FORMATS, format_named, format_of
from saeinterp_mcp.labels.heldout import n_tests
from saeinterp_mcp.labels.notes import save_note
from saeinterp_mcp.labels.records import RecordedAnswer
from saeinterp_mcp.labels.revisions import history_of, retire_label
from tests.labels.exchanging import (
    ANSWER,
    ANY_TEXT,
    HEADER,
    LABEL,
    LINEAGE,
    NOTE,
    SOME_TEXT,
    TEST,
    asked,
    current,
    exported,
    heldout,
    imported,
    line,
    saved,
    target,
    texts,
)

numbers = st.floats(0, 1)
changes = st.fixed_dictionaries(
    {"text": SOME_TEXT},
    optional={
        "rule": SOME_TEXT,
        "category": ANY_TEXT,
        "status": st.sampled_from(["draft", "refuted", "unclear"]),
        "importance": numbers,
        "confidence": numbers,
        "stability": st.floats(-1, 1),
        "notes": ANY_TEXT,
        "author": ANY_TEXT,
        "author_kind": st.sampled_from(["human", "agent", "import"]),
        "source": ANY_TEXT,
    },
)
notes = st.fixed_dictionaries(
    {"kind": st.sampled_from(["hypothesis", "prediction", "pitfall"]), "text": SOME_TEXT},
    optional={"author": ANY_TEXT},
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.lists(changes, min_size=1, max_size=3), st.booleans()), max_size=4
    ),
    st.lists(st.tuples(st.integers(0, 99), notes), max_size=3),
)
def test_what_is_exported_reads_back_to_the_same_bytes(
    tmp_path: Path,
    labels: list[tuple[int, list[dict[str, Any]], bool]],
    entries: list[tuple[int, dict[str, Any]]],
) -> None:
    here, there = target(), target()
    for feature, revisions, retired in labels:
        label = saved(here, feature, **revisions[0])
        for revision in revisions[1:]:
            saved(here, feature, label.label_id, **revision)
        if retired:
            retire_label(here.database, LINEAGE, label.label_id, revisions[0]["text"][:20], False, {})
    for feature, note in entries:
        save_note(here.database, LINEAGE, feature, note)
    content = exported(here)
    report = imported(there, content, tmp_path)
    assert exported(there) == content
    assert (report.labels.added, report.notes.added) == (len(labels), len(entries))
    again = imported(there, content, tmp_path)
    assert (again.labels.unchanged, again.notes.unchanged) == (len(labels), len(entries))
    assert exported(there) == content
    content.decode("utf-8").encode("utf-8")
    assert content.count(b"\n") == 1 + len(labels) + len(entries)


def test_a_line_is_made_for_reading_in_git() -> None:
    here = target()
    saved(here, 12, text="b", author="kim", confidence=0.5)
    first = saved(here, 3, text="fires on loops", rule="token:for", status="unclear", notes="two\nlines")
    saved(here, 3, first.label_id, text="fires on for")
    head, revised, other = exported(here).decode().splitlines()
    assert head + "\n" == HEADER
    made_at = current(here)[0].made_at
    (based_on,), version = json.loads(revised)["based_on"], json.loads(revised)["version"]
    assert revised == (
        f'{{"record":"label","feature":3,"label_id":"{first.label_id}","revision":2,"version":"{version}","based_on":["{based_on}"],'
        '"text":"fires on for","rule":"token:for","status":"unclear","notes":"two\\nlines","author_kind":"agent",'
        f'"made_at":"{made_at}"}}'
    )
    assert (based_on[:2], version[:2], len(version)) == ("1-", "2-", 14)
    assert list(json.loads(other))[:4] == ["record", "feature", "label_id", "revision"]
    assert json.loads(other)["confidence"] == 0.5


def test_what_a_reviewer_cannot_see_is_spelled() -> None:
    here = target()
    saved(here, text="a\u202eb\u200bc\x7fd\U000e0041e\u2028f é漢😀 \\u202e")
    (text,) = [row for row in exported(here).decode().split("\n") if "label_id" in row]
    assert "a\\u202eb\\u200bc\\u007fd\\udb40\\udc41e\\u2028f é漢😀 \\\\u202e" in text
    assert json.loads(text)["text"] == "a\u202eb\u200bc\x7fd\U000e0041e\u2028f é漢😀 \\u202e"


def test_all_kinds_of_lines_come_in_and_go_out_as_they_were(tmp_path: Path) -> None:
    label = line(LABEL, status="supported", rule="token:for", scope="at", evidence=["ev-0123456789abcdef"])
    content = HEADER + label + line(NOTE) + line(TEST) + line(ANSWER)
    there = target(LabelFile(tmp_path / "labels.sqlite"))
    report = imported(there, content, tmp_path)
    assert (report.labels.added, report.notes.added, report.n_tests, report.n_answers) == (1, 1, 1, 1)
    assert (report.n_demoted, report.n_skipped, report.warnings) == (0, 0, ())
    lines = [json.loads(row) for row in exported(there).splitlines()]
    versions = [row.pop("version") for row in lines if row.get("record") in ("label", "note")]
    assert lines == list(map(json.loads, content.splitlines()))
    assert [version[:2] for version in versions] == ["2-", "1-"]
    answer = recorded_answer(there.database, "ev-0123456789abcdef")
    assert answer is not None
    assert (answer.operation, answer.digest) == ("test_rule", "0123456789abcdef")
    assert answer.result["summary"].startswith("It came in a label file")
    assert n_tests(there.database, LINEAGE, 7) == 1


def test_answers_that_are_cited_go_out_as_the_call_and_its_summary(tmp_path: Path) -> None:
    here = target()
    for evidence, cited in (("ev-00000000000000cc", True), ("ev-00000000000000dd", False)):
        recorded = RecordedAnswer(
            evidence=evidence,
            store=LINEAGE,
            fingerprint="f",
            operation="family_sweep",
            arguments={"feature": 7},
            digest="d",
            result={"store": "demo", "summary": "Goes with it.", "basis": "observed", "rows": [[1]] * 1000},
        )
        record_answer(here.database, recorded)
        if cited:
            saved(here, text="x", evidence=(evidence,))
    answers = [json.loads(row) for row in exported(here).splitlines() if b'"record":"answer"' in row]
    assert [(a["evidence"], a["summary"], "rows" in str(a)) for a in answers] == [
        ("ev-00000000000000cc", "Goes with it.", False)
    ]


def test_a_file_cannot_bring_a_call_that_writes(tmp_path: Path) -> None:
    content = HEADER + line(ANSWER, operation="label_delete", arguments={"label_id": "lb-0123456789ab"})
    with pytest.raises(BadInput, match="line 2: 'label_delete' is no operation that evidence comes from"):
        imported(target(), content, tmp_path)


def test_supported_stays_where_the_held_out_test_comes_along(tmp_path: Path) -> None:
    here, there = target(), target()
    heldout(here, "token:for", low=0.8)
    saved(here, text="loops", rule="token:for", scope="at", status="supported")
    assert imported(there, exported(here), tmp_path).n_demoted == 0
    assert [label.status for label in current(there)] == ["supported"]
    assert exported(there) == exported(here)


@pytest.mark.parametrize(
    ("low", "why"),
    [(0.5, "whose low end is not above the floor 0.6"), (None, "no held-out test of this very rule")],
)
def test_supported_becomes_a_draft_where_nothing_supports_it(
    tmp_path: Path, low: float | None, why: str
) -> None:
    here, there = target(), target()
    if low is not None:
        heldout(here, "token:for", low=low)
    saved(here, text="loops", rule="token:for", scope="at", status="supported", notes="mine")
    report = imported(there, exported(here), tmp_path)
    (label,) = current(there)
    assert (report.n_demoted, label.status) == (1, "draft")
    assert why in report.demoted[0].why
    assert label.notes is not None
    assert label.notes.startswith("mine\nImported as a draft, it said supported: ")
    again = imported(there, exported(here), tmp_path)
    assert (again.labels.unchanged, again.n_conflicts, again.n_demoted) == (1, 0, 0)


def test_a_test_in_a_file_must_be_of_what_it_says(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="line 2: test is not the fingerprint of its rule, where and scope"):
        imported(target(), HEADER + line(TEST, rule="token:while"), tmp_path)


def test_labels_of_another_build_come_in_without_its_tests_and_evidence(tmp_path: Path) -> None:
    here, there = target(lineage="ffffffffffffffff", name="old"), target()
    heldout(here, "token:for", low=0.8)
    cited = ("ev-00000000000000aa",)
    saved(here, text="loops", rule="token:for", scope="at", status="supported", evidence=cited)
    note = save_note(here.database, here.lineage, 7, {"kind": "hypothesis", "text": "loops?"})
    save_note(
        here.database, here.lineage, 7, {"kind": "observation", "text": "yes", "supports": (note.note_id,)}
    )
    report = imported(there, exported(here), tmp_path)
    (label,) = current(there)
    assert (label.status, label.evidence, report.n_tests) == ("draft", (), 0)
    assert report.warnings == (
        "the file is of store 'old', another build than 'demo': make sure that feature numbers mean the same SAE; "
        "held-out tests and evidence stay behind",
        "1 labels cite answers about that other build; the ids are left out",
    )
    lines = [json.loads(row) for row in exported(there).splitlines()]
    ids = {row["text"]: row["note_id"] for row in lines if row.get("record") == "note"}
    assert [row.get("supports") for row in lines if row.get("text") == "yes"] == [[ids["loops?"]]]
    again = imported(there, exported(here), tmp_path)
    assert (again.labels.unchanged, again.notes.unchanged, again.n_conflicts) == (1, 2, 0)


def test_one_labels_file_may_hold_the_labels_of_both_builds(tmp_path: Path) -> None:
    old = target(LabelFile(tmp_path / "labels.sqlite"), lineage="ffffffffffffffff", name="old")
    new = target(old.database)
    saved(old, text="loops")
    assert imported(new, exported(old), tmp_path).labels.added == 1
    assert (texts(old), texts(new)) == (["loops"], ["loops"])
    assert current(old)[0].label_id != current(new)[0].label_id


def test_a_file_about_another_number_of_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match="is about a store of 100 features, 'demo' has 101: feature numbers do not mean"
    ):
        imported(target(n_features=101), HEADER + line(LABEL), tmp_path)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadStore, match=r"expected saeinterp-labels version 1; found version 2\. A newer saeinterp"
    ):
        imported(target(), HEADER.replace('"version":1', '"version":2'), tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n", "hello\n", "[1]\n", line(LABEL), '{"format":"other"}\n'])
def test_a_file_without_our_first_line_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadInput):
        imported(target(), content, tmp_path)


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    here = target(LabelFile(path))
    content = HEADER + line(LABEL) + line(NOTE) + line(TEST)
    tried = imported(here, content, tmp_path, dry_run=True)
    assert not path.exists()
    done = imported(here, content, tmp_path)
    assert tried.model_copy(update={"dry_run": False}) == done
    before = exported(here)
    other = line(LABEL, text="other", based_on=[])
    assert imported(here, HEADER + other, tmp_path, dry_run=True).n_conflicts == 1
    assert exported(here) == before


def test_an_id_of_another_store_in_the_same_labels_file_is_refused(tmp_path: Path) -> None:
    here = target()
    label = saved(target(here.database, lineage="ffffffffffffffff"), text="x")
    content = HEADER + line(LABEL, label_id=label.label_id)
    with pytest.raises(
        BadInput, match=f"line 2: label {label.label_id} belongs to another store in this labels file"
    ):
        imported(here, content, tmp_path)
    other = saved(here, feature=8, text="x")
    with pytest.raises(BadInput, match=f"label {other.label_id} is of feature 8 here"):
        imported(here, HEADER + line(LABEL, label_id=other.label_id), tmp_path)


def test_an_imported_label_is_found_by_its_words_and_revised_like_any_other(tmp_path: Path) -> None:
    here = target()
    imported(here, HEADER + line(LABEL), tmp_path)
    revised = saved(here, 7, "lb-0123456789ab", text="fires on while")
    assert revised.revision == 3
    found = asked(here, lambda c: [h.text for h in history_of(c, LINEAGE, "lb-0123456789ab")])
    assert found == ["fires on loops", "fires on while"]


@pytest.mark.parametrize("line_ends", ["\r\n", "\n\n"])
def test_other_line_ends_and_a_mark_at_the_beginning_are_read(tmp_path: Path, line_ends: str) -> None:
    content = "\ufeff" + (HEADER + line(LABEL)).replace("\n", line_ends)
    here = target()
    assert imported(here, content, tmp_path).labels.added == 1


def test_our_files_are_known_by_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(HEADER, encoding="utf-8")
    assert format_of(path) is format_named("jsonl")
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"does not look like a label file; say what it is with --format: jsonl \("
    ):
        format_of(path)
    with pytest.raises(BadInput, match=r"cannot be read: No such file"):
        format_of(tmp_path / "none.jsonl")
    assert [one.name for one in FORMATS] == [
        "jsonl",
        "csv",
        "consolidated",
        "dashboard",
        "neuronpedia",
        "clerp",
    ]
