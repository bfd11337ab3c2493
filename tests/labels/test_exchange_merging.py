"""Two databases that exchange files: nothing is lost, what goes on is applied, what diverged is reported, they meet."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.exchange.records import Target
from saeinterp_mcp.labels.exchange.versions import content_hash
from saeinterp_mcp.labels.notes import history_of as note_history
from saeinterp_mcp.labels.notes import notes_of, save_note
from saeinterp_mcp.labels.revisions import history_of, retire_label
from tests.labels.exchanging import LINEAGE, asked, current, exported, imported, saved, target, texts


def history(of: Target, label_id: str) -> list[tuple[int, str]]:
    found = asked(of, lambda c: history_of(c, LINEAGE, label_id))
    return [(label.revision, label.text) for label in found]


@pytest.fixture
def ours() -> Target:
    return target()


@pytest.fixture
def theirs() -> Target:
    return target()


@pytest.fixture
def shared(ours: Target, theirs: Target, tmp_path: Path) -> str:
    """A label that both have at revision 1."""
    label = saved(ours, text="first")
    imported(theirs, exported(ours), tmp_path)
    return label.label_id


def test_an_unknown_label_is_added_and_the_same_content_is_nothing_new(
    ours: Target, theirs: Target, tmp_path: Path
) -> None:
    saved(ours, text="mine")
    saved(theirs, text="yours")
    report = imported(ours, exported(theirs), tmp_path)
    assert (report.labels.added, report.labels.unchanged, texts(ours)) == (1, 0, ["mine", "yours"])
    again = imported(ours, exported(theirs), tmp_path)
    assert (again.labels.added, again.labels.unchanged, len(history(ours, current(ours)[0].label_id))) == (
        0,
        1,
        1,
    )


def test_revisions_that_go_on_from_ours_are_applied_however_many_there_were(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    saved(theirs, 7, shared, text="second")
    saved(theirs, 7, shared, text="third")
    report = imported(ours, exported(theirs), tmp_path)
    assert (report.labels.revised, report.n_conflicts) == (1, 0)
    assert history(ours, shared) == [(1, "first"), (3, "third")]
    assert exported(ours) == exported(theirs)


def test_an_older_file_changes_nothing(ours: Target, theirs: Target, shared: str, tmp_path: Path) -> None:
    old = exported(theirs)
    saved(theirs, 7, shared, text="second")
    middle = exported(theirs)
    imported(ours, middle, tmp_path)
    saved(ours, 7, shared, text="third")
    for content in (old, middle):
        report = imported(ours, content, tmp_path)
        assert (report.labels.unchanged, report.n_conflicts) == (1, 0)
    assert texts(ours) == ["third"]


def test_a_retirement_and_a_restoration_travel(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    retire_label(theirs.database, LINEAGE, shared, "too vague", False, {"author": "kim"})
    report = imported(ours, exported(theirs), tmp_path)
    assert (report.labels.revised, report.labels.retired) == (1, 1)
    (label,) = current(ours)
    assert (label.retired, label.reason, label.author) == (True, "too vague", "kim")
    retire_label(ours.database, LINEAGE, shared, "still good", True, {})
    back = imported(theirs, exported(ours), tmp_path)
    assert (back.labels.revised, back.labels.retired, current(theirs)[0].retired) == (1, 0, False)


def test_the_same_change_on_both_sides_is_no_conflict(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    for side in (ours, theirs):
        saved(side, 7, shared, text="second")
    report = imported(ours, exported(theirs), tmp_path)
    assert (report.labels.unchanged, report.n_conflicts) == (1, 0)


def test_the_same_text_by_more_steps_is_no_conflict_now_or_later(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    for text in ("second", "third"):
        saved(ours, 7, shared, text=text)
    saved(theirs, 7, shared, text="third")
    assert imported(ours, exported(theirs), tmp_path).labels.unchanged == 1
    saved(theirs, 7, shared, text="fourth")
    report = imported(ours, exported(theirs), tmp_path)
    assert (report.labels.revised, report.n_conflicts) == (1, 0)
    assert history(ours, shared) == [(1, "first"), (2, "second"), (3, "third"), (4, "fourth")]


def diverged(ours: Target, theirs: Target, shared: str) -> None:
    saved(ours, 7, shared, text="of ours", author="ann")
    saved(theirs, 7, shared, text="of theirs", author="bob")


def test_a_label_that_both_changed_keeps_ours_and_theirs_beside_it(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    diverged(ours, theirs, shared)
    report = imported(ours, exported(theirs), tmp_path)
    (conflict,) = report.conflicts
    assert (conflict.id, conflict.feature, conflict.where) == (shared, 7, "line 2")
    assert (conflict.ours["text"], conflict.ours["author"]) == ("of ours", "ann")
    assert (conflict.theirs["text"], conflict.theirs["author"]) == ("of theirs", "bob")
    (beside,) = [label for label in current(ours) if label.label_id != shared]
    assert (beside.text, beside.source, beside.revision) == ("of theirs", f"conflict with {shared}", 1)
    assert conflict.result == f"ours stays, theirs is kept beside it as {beside.label_id}"
    assert history(ours, shared) == [(1, "first"), (2, "of ours")]


def test_a_conflict_may_leave_theirs_out(ours: Target, theirs: Target, shared: str, tmp_path: Path) -> None:
    diverged(ours, theirs, shared)
    report = imported(ours, exported(theirs), tmp_path, on_conflict="keep")
    assert (report.n_conflicts, report.conflicts[0].theirs["text"]) == (1, "of theirs")
    assert texts(ours) == ["of ours"]


def test_a_conflict_may_take_theirs_and_ours_stays_in_the_history(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    diverged(ours, theirs, shared)
    report = imported(ours, exported(theirs), tmp_path, on_conflict="theirs")
    assert (report.n_conflicts, texts(ours)) == (1, ["of theirs"])
    assert history(ours, shared) == [(1, "first"), (2, "of ours"), (3, "of theirs")]


@pytest.mark.parametrize("on_conflict", ["both", "keep", "theirs"])
def test_a_conflict_is_settled_once_and_for_both(
    ours: Target, theirs: Target, shared: str, tmp_path: Path, on_conflict: str
) -> None:
    diverged(ours, theirs, shared)
    imported(ours, exported(theirs), tmp_path, on_conflict=on_conflict)
    before = exported(ours)
    again = imported(ours, exported(theirs), tmp_path, on_conflict=on_conflict)
    assert (again.n_conflicts, again.labels.unchanged) == (0, 1)
    assert exported(ours) == before
    back = imported(theirs, exported(ours), tmp_path)
    assert back.n_conflicts == 0
    assert texts(theirs) == texts(ours)
    saved(theirs, 7, shared, text="later")
    assert imported(ours, exported(theirs), tmp_path).n_conflicts == 0
    assert "later" in texts(ours)


def test_a_third_party_keeps_what_it_has_from_both_once(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    third = target()
    imported(third, exported(ours), tmp_path)
    saved(third, 7, shared, text="of a third")
    diverged(ours, theirs, shared)
    imported(ours, exported(theirs), tmp_path)
    (beside,) = [line for line in exported(ours).splitlines() if b"of theirs" in line]
    imported(third, exported(target()) + beside, tmp_path)
    assert imported(third, exported(theirs), tmp_path).n_conflicts == 1
    assert texts(third) == ["of a third", "of theirs"]


def test_going_back_to_an_older_text_is_a_change_of_its_own(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    saved(ours, 7, shared, text="second")
    imported(theirs, exported(ours), tmp_path)
    saved(ours, 7, shared, text="first")
    saved(theirs, 7, shared, text="third")
    assert imported(ours, exported(theirs), tmp_path).n_conflicts == 1


def test_what_is_left_out_in_other_builds_is_no_change(tmp_path: Path) -> None:
    """A label that came in as a draft follows its file until it is revised here."""
    old, new = target(lineage="ffffffffffffffff", name="old"), target()
    label = saved(old, text="loops", status="supported")
    imported(new, exported(old), tmp_path)
    (here,) = current(new)
    saved(old, 7, label.label_id, text="for loops")
    assert imported(new, exported(old), tmp_path).labels.revised == 1
    saved(new, 7, here.label_id, text="loops and more")
    report = imported(new, exported(old), tmp_path)
    assert (report.labels.unchanged, report.n_conflicts, texts(new)) == (1, 0, ["loops and more"])
    saved(old, 7, label.label_id, text="only loops")
    assert imported(new, exported(old), tmp_path).n_conflicts == 1


def test_notes_merge_like_labels(ours: Target, theirs: Target, tmp_path: Path) -> None:
    note = save_note(ours.database, LINEAGE, 7, {"kind": "hypothesis", "text": "loops?"})
    seen = {"kind": "observation", "text": "yes", "supports": (note.note_id,)}
    save_note(ours.database, LINEAGE, 7, seen)
    assert imported(theirs, exported(ours), tmp_path).notes.added == 2
    save_note(theirs.database, LINEAGE, 7, {"status": "supported"}, note.note_id)
    assert imported(ours, exported(theirs), tmp_path).notes.revised == 1
    save_note(ours.database, LINEAGE, 7, {"text": "only for loops?"}, note.note_id)
    save_note(theirs.database, LINEAGE, 7, {"text": "all loops?"}, note.note_id)
    report = imported(ours, exported(theirs), tmp_path)
    assert [(c.ours["text"], c.theirs["text"]) for c in report.conflicts] == [
        ("only for loops?", "all loops?")
    ]
    found = asked(ours, lambda c: sorted(n.text for n in notes_of(c, LINEAGE)))
    assert found == ["all loops?", "only for loops?", "yes"]
    kept = asked(ours, lambda c: [n.status for n in note_history(c, LINEAGE, note.note_id)])
    assert kept == ["proposed", "supported", "supported"]


def test_a_note_stays_of_its_kind(ours: Target, theirs: Target, tmp_path: Path) -> None:
    note = save_note(ours.database, LINEAGE, 7, {"kind": "observation", "text": "yes"})
    changed = exported(ours).replace(b'"observation"', b'"decision"')
    with pytest.raises(
        BadInput, match=f"line 2: note {note.note_id} is of feature 7 and kind observation here"
    ):
        imported(ours, changed, tmp_path)


def test_lines_that_git_kept_of_both_sides_are_a_conflict_too(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    before = exported(target())
    diverged(ours, theirs, shared)
    lines = [exported(side).splitlines(keepends=True)[1] for side in (ours, theirs)]
    here = target()
    report = imported(here, before + b"".join(lines), tmp_path)
    assert (report.labels.added, report.n_conflicts) == (1, 1)
    assert texts(here) == ["of ours", "of theirs"]


def test_a_line_that_was_edited_in_the_file_is_a_new_revision(
    ours: Target, theirs: Target, shared: str, tmp_path: Path
) -> None:
    edited = exported(ours).replace(b"first", b"second")
    report = imported(ours, edited, tmp_path)
    assert (report.labels.revised, report.n_conflicts) == (1, 0)
    assert history(ours, shared) == [(1, "first"), (2, "second")]
    assert imported(ours, edited, tmp_path).labels.unchanged == 1
    assert imported(theirs, exported(ours), tmp_path).labels.revised == 1
    saved(theirs, 7, shared, text="third")
    assert imported(theirs, edited.replace(b"second", b"2nd"), tmp_path).n_conflicts == 1
    assert texts(theirs) == ["2nd", "third"]


def test_two_imports_at_once_add_each_label_once(ours: Target, tmp_path: Path) -> None:
    for i in range(50):
        saved(ours, feature=i, text=f"label {i}")
    content, path = exported(ours), tmp_path / "labels.sqlite"

    def one(i: int) -> int:
        return imported(target(LabelFile(path)), content, tmp_path, name=f"file {i}").labels.added

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(one, range(4))) == [0, 0, 0, 50]
    assert exported(target(LabelFile(path))) == content


moves = st.lists(
    st.one_of(
        st.tuples(st.just("edit"), st.integers(0, 1), st.integers(0, 2), st.sampled_from("abcd")),
        st.tuples(st.just("retire"), st.integers(0, 1), st.integers(0, 2), st.just("")),
        st.tuples(
            st.just("import"), st.integers(0, 1), st.just(0), st.sampled_from(["both", "keep", "theirs"])
        ),
    ),
    max_size=14,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves)
def test_whatever_happens_in_two_places_nothing_is_lost_and_they_meet(
    tmp_path: Path, moves: list[tuple[str, int, int, str]]
) -> None:
    sides = [target(), target()]
    ids = [saved(sides[0], feature=i, text=f"label {i}").label_id for i in range(3)]
    imported(sides[1], exported(sides[0]), tmp_path)
    said = {f"label {i}" for i in range(3)}
    for n, (move, side, which, what) in enumerate(moves):
        here = sides[side]
        if move == "import":
            imported(here, exported(sides[1 - side]), tmp_path, on_conflict=what)
            continue
        old = next(label for label in current(here) if label.label_id == ids[which])
        if move == "retire" or old.retired:
            retire_label(here.database, LINEAGE, ids[which], f"reason {n}", old.retired, {})
        else:
            said.add(saved(here, which, ids[which], text=f"{what} {n % 3}").text)
    imported(sides[0], exported(sides[1]), tmp_path)
    last = imported(sides[1], exported(sides[0]), tmp_path)
    assert last.n_conflicts == 0
    assert imported(sides[0], exported(sides[1]), tmp_path).n_conflicts == 0
    states = [{label.label_id: content_hash(label) for label in current(side)} for side in sides]
    assert states[0] == states[1]
    kept = {text for side in sides for label_id in states[0] for _, text in history(side, label_id)}
    assert said <= kept
