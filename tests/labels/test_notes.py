"""Notes are appended to and never lost, name each other and what they rest on, and are found again."""

import json
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.labels.database import LabelDatabase, LabelFile, LabelsInMemory
from saeinterp_mcp.labels.evidence import record_answer
from saeinterp_mcp.labels.notes import history_of, naming, notes_of, save_note
from saeinterp_mcp.labels.records import Note, RecordedAnswer
from saeinterp_mcp.operations.note_get import note_get
from saeinterp_mcp.operations.note_save import note_save
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import memory_store
from tests.worlds import builds

SEEN = "ev-00000000000000aa"


@pytest.fixture(params=["file", "memory"])
def labels(request: pytest.FixtureRequest, tmp_path: Path) -> LabelDatabase:
    return LabelFile(tmp_path / "s.labels.sqlite") if request.param == "file" else LabelsInMemory()


@pytest.fixture
def store() -> Store:
    return memory_store(builds())


def kept(labels: LabelDatabase, kind: str = "observation", text: str = "it fires", **more: Any) -> Note:
    return save_note(labels, "s", 3, {"kind": kind, "text": text, **more})


def found(labels: LabelDatabase, **asked: Any) -> list[Note]:
    nothing: list[Note] = []
    return labels.read(lambda connection: notes_of(connection, "s", **asked), nothing)


def answered(labels: LabelDatabase, lineage: str = "s", evidence: str = SEEN) -> None:
    record_answer(
        labels,
        RecordedAnswer(
            evidence=evidence,
            store=lineage,
            fingerprint="f",
            operation="family_sweep",
            arguments={},
            digest="d",
            result={"summary": "Rises."},
        ),
    )


def test_a_note_is_kept_as_it_was_written(labels: LabelDatabase) -> None:
    answered(labels)
    first = kept(labels, "hypothesis", "fires on\nkeys é 漢字 \x00", author="eva", author_kind="human")
    note = kept(labels, text="it did", evidence=(SEEN,), supports=(first.note_id,))
    assert found(labels) == [note, first]
    assert (first.revision, first.status, first.text) == (1, "proposed", "fires on\nkeys é 漢字 \x00")
    assert (note.status, note.evidence, note.supports, note.refutes) == (None, (SEEN,), (first.note_id,), ())
    assert note.note_id.startswith("nt-")
    assert len(note.note_id) == 15


def test_revising_keeps_what_is_not_given_and_every_revision(labels: LabelDatabase) -> None:
    answered(labels)
    first = kept(labels, "hypothesis", "keys", evidence=(SEEN,), author="eva")
    second = save_note(labels, "s", 3, {"status": "testing"}, first.note_id)
    third = save_note(labels, "s", 3, {"text": "keys of JSON", "evidence": ()}, first.note_id)
    assert (second.text, second.status, second.evidence, second.author) == ("keys", "testing", (SEEN,), "eva")
    assert (third.text, third.status, third.evidence, third.revision) == ("keys of JSON", "testing", (), 3)
    nothing: list[Note] = []
    history = labels.read(lambda c: history_of(c, "s", first.note_id), nothing)
    assert history == [first, second, third]
    assert found(labels) == [third]


def test_saying_the_same_again_writes_nothing(labels: LabelDatabase) -> None:
    first = kept(labels, "hypothesis", "keys")
    again = {"text": "keys", "kind": "hypothesis", "status": "proposed", "author": "another"}
    assert save_note(labels, "s", 3, again, first.note_id) == first


def test_notes_are_found_by_feature_kind_status_words_and_id_newest_first(labels: LabelDatabase) -> None:
    one = kept(labels, "hypothesis", "keys of JSON objects")
    two = kept(labels, "hypothesis", "closing quotes", status="testing")
    three = save_note(labels, "s", 4, {"kind": "pitfall", "text": "objects are long"})
    one = save_note(labels, "s", 3, {"text": "keys of JSON dictionaries"}, one.note_id)
    save_note(labels, "another store", 3, {"kind": "pitfall", "text": "keys"})
    assert found(labels) == [one, three, two]
    assert found(labels, feature=3) == [one, two]
    assert found(labels, kind="pitfall") == [three]
    assert found(labels, status="testing") == [two]
    assert found(labels, query="objects") == [three], "the older revision of the first is not found"
    assert found(labels, query="json dict") == [one]
    assert found(labels, note_id=two.note_id) == [two]
    assert found(labels, feature=4, query="keys") == []


def test_who_speaks_for_and_against_a_note_is_known_from_its_newest_revisions(labels: LabelDatabase) -> None:
    one, two = kept(labels, "hypothesis", "one"), kept(labels, "hypothesis", "two")
    seen = kept(labels, text="seen", supports=(one.note_id,), refutes=(two.note_id,))
    gone = kept(labels, text="a mistake", supports=(one.note_id,))
    save_note(labels, "s", 3, {"supports": ()}, gone.note_id)
    nothing: dict[str, list[Note]] = {}
    named = labels.read(lambda c: naming(c, "s", [one.note_id, two.note_id]), nothing)
    assert named == {one.note_id: [seen], two.note_id: [seen]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": "x"}, "a new note needs kind; to revise one, give its note_id"),
        ({"kind": "decision"}, "a new note needs text; to revise one, give its note_id"),
        ({}, "a new note needs kind and text; to revise one, give its note_id"),
        (
            {"kind": "decision", "text": " \n "},
            "a note needs text: what is supposed, predicted, seen or decided",
        ),
        (
            {"kind": "decision", "text": "x" * 8001},
            "a note's text has at most 8000 characters, this one has 8001",
        ),
        (
            {"kind": "prediction", "text": "x", "status": "testing"},
            "only a hypothesis has a status; leave it out of this note of kind prediction",
        ),
        (
            {"kind": "decision", "text": "x", "supports": ("nt-000000000000",)},
            "there is no note 'nt-000000000000' of this store; note_get lists them",
        ),
        (
            {"kind": "decision", "text": "x", "refutes": ("\x1b[31m" + "y" * 99,)},
            f"there is no note '\\x1b[31m{'y' * 35}' of this store; note_get lists them",
        ),
        (
            {"kind": "decision", "text": "x", "evidence": ("sweep",)},
            "'sweep' is no evidence id; they look like ev-0123456789abcdef and stand in the field `evidence` of every "
            "answer",
        ),
        (
            {"kind": "decision", "text": "x", "evidence": ("ev-ffffffffffffffff",)},
            "evidence ev-ffffffffffffffff is not on record; cite the field `evidence` of answers that this server or "
            "shell gave about this store, with the same labels file",
        ),
    ],
)
def test_what_is_no_note_is_refused_and_leaves_nothing(
    labels: LabelDatabase, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises((BadInput, UnknownName)) as error:
        save_note(labels, "s", 3, changes)
    assert str(error.value) == says
    assert found(labels) == []


def test_a_revision_that_does_not_fit_is_refused(labels: LabelDatabase) -> None:
    one, two = kept(labels, "hypothesis", "one"), kept(labels, text="two")
    for note, changes, says in (
        (
            one,
            {"kind": "decision"},
            f"note {one.note_id} is of kind hypothesis and stays so; write a new note of kind",
        ),
        (two, {"status": "testing"}, "only a hypothesis has a status"),
        (one, {"supports": (one.note_id,)}, f"note {one.note_id} cannot speak for or against itself"),
        (
            two,
            {"supports": (one.note_id,), "refutes": (one.note_id,)},
            "a note cannot both support and refute",
        ),
    ):
        with pytest.raises(BadInput, match=says):
            save_note(labels, "s", 3, changes, note.note_id)
    with pytest.raises(BadInput, match=f"note {one.note_id} is of feature 3, not of 4"):
        save_note(labels, "s", 4, {"text": "x"}, one.note_id)
    with pytest.raises(UnknownName, match=r"there is no note .* of this store"):
        save_note(labels, "another store", 3, {"text": "x"}, one.note_id)
    assert found(labels) == [two, one]


def test_evidence_and_notes_of_another_store_cannot_be_cited(labels: LabelDatabase) -> None:
    answered(labels, "another store")
    foreign = save_note(labels, "another store", 3, {"kind": "decision", "text": "x"})
    with pytest.raises(UnknownName, match=f"evidence {SEEN} is of another store"):
        kept(labels, evidence=(SEEN,))
    with pytest.raises(UnknownName, match=f"there is no note '{foreign.note_id}' of this store"):
        kept(labels, supports=(foreign.note_id,))


def test_note_save_says_what_it_kept(store: Store) -> None:
    answer = note_save(store, 0, "hypothesis", "fires on\nswim \x1b[31m", author="eva", author_kind="human")
    (entry,) = answer.entries
    assert answer.basis == "judged"
    assert answer.summary == f"Hypothesis {entry.note_id} of feature 0 is at revision 1, status proposed."
    assert entry.model_dump(exclude={"note_id", "made_at"}) == {
        "revision": 1,
        "feature": 0,
        "kind": "hypothesis",
        "text": "fires on\nswim \\u{1b}[31m",
        "status": "proposed",
        "evidence": [],
        "supports": [],
        "refutes": [],
        "observations_for": 0,
        "observations_against": 0,
        "predictions": 0,
        "author": "eva",
        "author_kind": "human",
    }


def test_note_get_counts_what_was_predicted_and_seen_of_a_hypothesis(store: Store) -> None:
    swim, ninja = (note_save(store, 0, "hypothesis", word).entries[0].note_id for word in ("swim", "ninja"))
    rises = note_save(store, 0, "prediction", "rises with swim", supports=[swim, swim]).entries[0].note_id
    note_save(store, 0, "observation", "it rises", supports=[rises, swim], refutes=[ninja])
    note_save(store, 1, "observation", "so does its neighbour", supports=[swim])
    note_save(store, 0, "decision", "go on", supports=[swim])
    answer = note_get(store, 0)
    assert (answer.total, answer.more, answer.summary) == (5, None, "5 notes of feature 0, 5 shown.")
    counted = {
        entry.text: (entry.observations_for, entry.observations_against, entry.predictions)
        for entry in answer.entries
    }
    assert counted == {
        "go on": (None, None, None),
        "it rises": (None, None, None),
        "rises with swim": (1, 0, None),
        "ninja": (0, 1, 0),
        "swim": (2, 0, 1),
    }
    assert [entry.text for entry in note_get(store, kind="observation").entries] == [
        "so does its neighbour",
        "it rises",
    ]


def test_note_get_shows_all_revisions_oldest_first_when_asked(store: Store) -> None:
    note_id = note_save(store, 0, "hypothesis", "swim").entries[0].note_id
    note_save(store, 0, note_id=note_id, status="testing")
    note_save(store, 1, "pitfall", "few rows")
    answer = note_get(store, 0, history=True)
    assert [(entry.revision, entry.status) for entry in answer.entries] == [(1, "proposed"), (2, "testing")]
    assert [entry.revision for entry in note_get(store, note_id=note_id).entries] == [2]


def test_note_get_goes_on_where_it_stopped_and_never_cuts_a_text(store: Store) -> None:
    generator = rng(0, "notes")
    texts = [f"{i} " + "word " * int(generator.integers(1, 300)) for i in range(60)]
    for text in [*texts, "x" * 8000]:
        note_save(store, 0, "observation", text)
    seen, sizes, cursor = list[str](), list[float](), None
    while True:
        answer = note_get(store, 0, cursor=cursor)
        seen += [entry.text for entry in answer.entries]
        sizes.append(len(answer.model_dump_json().encode()) / 3.5)
        assert answer.more == (61 - len(seen) or None)
        if (cursor := answer.next_cursor) is None:
            break
    assert seen == ["x" * 8000, *reversed(texts)]
    assert sizes[0] > 1500, "one note alone is shown whole"
    assert max(sizes[1:]) < 1500


def test_an_answer_of_many_short_notes_stays_small(store: Store) -> None:
    for i in range(30):
        note_save(store, 0, "hypothesis", f"hypothesis {i} of a usual length, about when the feature fires")
    assert len(note_get(store, 0).model_dump_json().encode()) / 3.5 < 1500


def test_notes_of_a_kind_that_there_is_not_are_a_wrong_call(store: Store) -> None:
    with pytest.raises(BadInput, match="there are no notes of kind 'hypotheses'; nearest: 'hypothesis'"):
        note_get(store, kind="hypotheses")
    with pytest.raises(
        BadInput, match="there are no notes of status 'zzz'; there are: 'proposed', 'testing'"
    ):
        note_get(store, status="zzz")
    with pytest.raises(UnknownName, match="feature 5 is not in store 'builds', which has 0 to 4"):
        note_get(store, 5)
    with pytest.raises(UnknownName, match="feature 5 is not in store 'builds'"):
        note_save(store, 5, "decision", "x")


def test_a_store_without_a_place_for_notes_says_so(store: Store) -> None:
    bare = Store(store.backend)
    answer = note_get(bare)
    assert answer.entries == []
    assert answer.warnings == ["store builds has no place for notes; name a file with --labels FILE"]
    with pytest.raises(BadInput, match=r"has no place for labels, notes .*--labels FILE"):
        note_save(bare, 0, "decision", "x")


def test_reading_notes_of_a_store_without_any_makes_no_file(store: Store, tmp_path: Path) -> None:
    fresh = Store(store.backend, labels=LabelFile(tmp_path / "none.sqlite"))
    assert json.loads(note_get(fresh, 0, query="x").model_dump_json())["total"] == 0
    assert list(tmp_path.iterdir()) == []
