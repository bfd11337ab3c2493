"""Labels: revisions, the gate of `supported`, what they cite, and where they show up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.faces.answering import answer
from saeinterp_mcp.faces.arguments import Entry, commands
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.evidence import record_answer
from saeinterp_mcp.labels.heldout import record_test
from saeinterp_mcp.labels.records import HeldoutTest, RecordedAnswer
from saeinterp_mcp.operations.evidence_replay import evidence_replay, whole_answer
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.operations.label_delete import label_delete
from saeinterp_mcp.operations.label_get import label_get
from saeinterp_mcp.operations.label_save import label_save
from saeinterp_mcp.operations.queue_next import queue_next
from saeinterp_mcp.operations.similar_features import similar_features
from saeinterp_mcp.operations.store_status import store_status
from saeinterp_mcp.operations.test_rule import test_rule as ask_rule
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.served import ServedStores
from tests.worlds import import_world


def planted() -> World:
    """600 builds: feature 0 fires on `swim` with a weapon of class roller, 1 on token x alone, 2 at random."""
    samples: list[WorldSample] = []
    activations: dict[tuple[int, int, int], float] = {}
    for i in range(600):
        swim, roller, x = i % 2 == 0, i % 3 == 0, i % 5 == 0
        tokens = [*(["swim_3"] if swim else []), *(["x"] if x else []), "y"]
        samples.append(WorldSample(tuple(tokens), f"u{i}", {"weapon": "roller" if roller else "bow"}))
        fires = (swim and roller, x, (i * 7919) % 11 < 3)
        activations |= {(f, i, 0): 1.0 + i % 4 for f in range(3) if fires[f]}
    swim_family = FamilyInfo(name="swim", encoding="cumulative", levels=(3,), tokens={"swim_3": 3})
    return World(
        "set", 4, tuple(samples), activations, families=(swim_family,), primary="weapon", name="planted"
    )


RULE = "family:swim>=3 and weapon=roller"


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return memory_store(planted())
    return open_store(import_world(planted(), tmp_path / "w"))


def asked(store: Store, tool: str, **arguments: Any) -> dict[str, Any]:
    """Through the part that all faces share, which records answers."""
    entry: Entry = next(e for e in commands() if e.name == tool)
    return answer(entry, ServedStores([store]), arguments).body


def test_a_label_is_kept_with_all_that_was_said(store: Store) -> None:
    evidence = asked(store, "feature_overview", feature=0)["evidence"]
    saved = label_save(
        store, 0, "Swimming  with a\nroller", RULE, category="tactical", confidence=0.7, stability=0.9,
        evidence=[evidence, evidence], notes="see\nhere", author="ann", author_kind="human", source="by hand",
    )  # fmt: skip
    assert saved.text == "Swimming with a roller"
    assert (saved.revision, saved.status, saved.retired) == (1, "draft", False)
    (found,) = label_get(store, 0).labels
    assert found.model_dump(exclude={"made_at", "label_id"}) == {
        "feature": 0, "revision": 1, "text": "Swimming with a roller",
        "rule": "family:swim>=3 and weapon=roller", "scope": None, "window": None, "category": "tactical",
        "status": "draft", "importance": saved.importance, "confidence": 0.7, "stability": 0.9,
        "evidence": [evidence], "scores": [], "notes": "see\nhere", "author": "ann", "author_kind": "human",
        "source": "by hand", "retired": False, "reason": None, "history": None, "explanation": None, "cost": None,
    }  # fmt: skip
    assert found.label_id == saved.label_id


def test_importance_is_the_stores_own_unless_somebody_says_otherwise(store: Store) -> None:
    # means without a decoder: 1 fires on 120 of 600 rows, 0 on 100, 2 on about 164, 3 never
    found = [label_save(store, f, "x").importance for f in range(4)]
    assert (
        found
        == [feature_overview(store, f).importance_percentile for f in range(4)]
        == [25.0, 50.0, 75.0, 0.0]
    )
    assert label_save(store, 0, "x", importance=3).importance == 3


def test_a_revision_keeps_what_is_not_said_and_says_who_made_it(store: Store) -> None:
    first = label_save(store, 0, "one", RULE, confidence=0.2, author="ann")
    second = label_save(store, 0, label_id=first.label_id, confidence=0.4, author="bob", expected_revision=1)
    assert (second.label_id, second.revision, second.text, second.rule) == (
        first.label_id,
        2,
        "one",
        first.rule,
    )
    third = label_save(store, 0, label_id=first.label_id, rule="")
    assert third.rule is None
    (found,) = label_get(store, label_id=first.label_id, history=True).labels
    assert found.history is not None
    assert [(h["revision"], h["author"], h["confidence"]) for h in found.history] == [
        (1, "ann", 0.2), (2, "bob", 0.4), (3, "bob", 0.4),
    ]  # fmt: skip


def test_saving_what_stands_there_already_makes_no_revision(store: Store) -> None:
    first = label_save(store, 0, "one", RULE)
    again = label_save(store, 0, "one", RULE, label_id=first.label_id, author="somebody else")
    assert again.revision == 1


def test_who_has_not_seen_the_newest_revision_is_shown_both(store: Store) -> None:
    first = label_save(store, 0, "one", author="ann")
    label_save(store, 0, "two", label_id=first.label_id, author="bob")
    with pytest.raises(BadInput) as refused:
        label_save(store, 0, "three", label_id=first.label_id, author="ann", expected_revision=1)
    said = str(refused.value)
    assert 'Stored: {"revision": 2, "author": "bob", "status": "draft", "text": "two"}' in said
    assert 'Yours, not saved: {"revision": 2, "text": "three", "author": "ann"}' in said
    with pytest.raises(BadInput, match=r'Stored: .*"notes": null}.*"notes": "mine"'):
        label_save(store, 0, notes="mine", label_id=first.label_id, expected_revision=1)
    with pytest.raises(BadInput, match="is at revision 2; there is no 3 yet"):
        label_save(store, 0, "three", label_id=first.label_id, expected_revision=3)
    assert label_get(store, 0).labels[0].text == "two"


def test_supported_needs_a_held_out_test_of_this_very_rule(store: Store) -> None:
    def refusal(**given: Any) -> str:
        with pytest.raises(BadInput, match="cannot be called supported yet") as refused:
            label_save(store, 0, "swim with roller", status="supported", **given)
        return str(refused.value)

    assert "it has no rule" in refusal()
    assert "no held-out test of this very rule is on record." in refusal(rule=RULE)
    ask_rule(store, 0, RULE, split="explain")
    assert "no held-out test of this very rule is on record." in refusal(rule=RULE)
    ask_rule(store, 0, "token:y")
    assert "(1 of other claims is)" in refusal(rule=RULE)
    ask_rule(store, 0, RULE, where="weapon=roller")
    assert "tested on a slice only" in refusal(rule=RULE)
    ask_rule(store, 0, RULE, min_n=10_000)
    assert "has no interval, because there is too little data" in refusal(rule=RULE)
    ask_rule(store, 0, "token:x")
    assert "whose low end is not above the floor" in refusal(rule="token:x")
    assert label_get(store, 0).labels == []


def test_a_tested_label_is_supported_and_cites_its_test(store: Store) -> None:
    tested = ask_rule(store, 0, RULE)
    assert tested.low is not None
    saved = label_save(store, 0, "swim with roller", " weapon=roller and family:swim>=3"[1:], status="draft")
    with pytest.raises(
        BadInput, match="no held-out test of this very rule"
    ):  # the other way round is another rule
        label_save(store, 0, label_id=saved.label_id, status="supported")
    good = label_save(store, 0, label_id=saved.label_id, rule=RULE, status="supported")
    assert good.evidence_ids == [tested.evidence]
    assert [(s["score"], s["low"], s["floor"]) for s in good.scores] == [
        (tested.balanced_accuracy, tested.low, tested.floors.best_single_token.balanced_accuracy)  # type: ignore[union-attr]
    ]
    with pytest.raises(BadInput, match="no held-out test of this very rule"):
        label_save(store, 0, label_id=saved.label_id, rule="token:y")
    assert label_save(store, 0, label_id=saved.label_id, rule="token:y", status="draft").status == "draft"


def test_a_label_that_claims_no_more_than_a_token_has_to_beat_chance_alone(store: Store) -> None:
    tested = ask_rule(store, 1, "token:x")
    assert tested.floors.best_single_token is not None
    assert tested.floors.best_single_token.same_rows
    assert not tested.beats_floor
    assert label_save(store, 1, "Fires on x", "token:x", status="supported").scores[0]["floor"] == 0.5


def test_ten_looks_at_the_held_out_units_are_warned_of(store: Store) -> None:
    for n in range(7):
        ask_rule(store, 0, RULE + " and not token:x" * n)
    assert "7 different claims" in label_save(store, 0, "s", RULE, status="supported").warnings[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "a new label needs text"),
        ({"text": "  "}, "a new label needs text"),
        ({"text": "x", "expected_revision": 1}, "expected_revision goes with label_id"),
        ({"text": "x", "label_id": "lb-none"}, "there is no label 'lb-none' of this store"),
        ({"text": "x", "rule": "family:swm>=3"}, "nearest: 'swim'"),
        ({"text": "x", "rule": "activation>1"}, "reads the feature's own activation"),
        ({"text": "x", "rule": RULE, "window": 3}, "window goes with scope before"),
        ({"text": "x", "scope": "before"}, "scope and window say how a rule reads tokens"),
        ({"text": "x", "rule": RULE, "scope": "before"}, "has no meaning in set store"),
        ({"text": "x", "evidence": ["made up"]}, "'made up' is no evidence id"),
        ({"text": "x", "evidence": ["ev-0123456789abcdef"]}, "ev-0123456789abcdef is not on record"),
    ],
)
def test_a_wrong_call_is_refused_and_keeps_nothing(store: Store, given: dict[str, Any], said: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=said):
        label_save(store, 0, **given)
    assert label_get(store).total == 0


def test_a_label_of_another_feature_is_not_revised_by_mistake(store: Store) -> None:
    saved = label_save(store, 0, "one")
    with pytest.raises(BadInput, match="is of feature 0, not of 1"):
        label_save(store, 1, "two", label_id=saved.label_id)
    with pytest.raises(UnknownName, match="feature 9 is not in store"):
        label_save(store, 9, "two")


def test_a_retired_label_is_out_of_sight_and_comes_back(store: Store) -> None:
    saved = label_save(store, 0, "one about swimming")
    with pytest.raises(BadInput, match="needs a reason"):
        label_delete(store, saved.label_id)
    gone = label_delete(store, saved.label_id, "wrong token")
    assert (gone.retired, gone.revision, gone.reason) == (True, 2, "wrong token")
    assert label_get(store, 0).total == label_get(store, query="swimming").total == 0
    assert [label.retired for label in label_get(store, 0, history=True).labels] == [True]
    assert feature_overview(store, 0).label is None
    with pytest.raises(BadInput, match="is retired; restore it first"):
        label_save(store, 0, "two", label_id=saved.label_id)
    assert label_delete(store, saved.label_id, "again").revision == 2
    back = label_delete(store, saved.label_id, restore=True)
    assert (back.retired, back.revision, back.text) == (False, 3, "one about swimming")
    assert label_get(store, query="swimming").total == 1


def test_competing_labels_come_best_first_and_the_best_names_the_feature(store: Store) -> None:
    label_save(store, 0, "by agent", author_kind="agent")
    label_save(store, 0, "imported", author_kind="import")
    label_save(store, 0, "not true", status="refuted", author_kind="human")
    label_save(store, 0, "by human", author_kind="human")
    ask_rule(store, 0, RULE)
    label_save(store, 0, "supported", RULE, status="supported")
    order = ["supported", "by human", "by agent", "imported", "not true"]
    assert [label.text for label in label_get(store, 0).labels] == order
    assert feature_overview(store, 0).label == "supported"
    overview = feature_overview(store, 0)
    assert [label["text"] for label in overview.labels] == order[:3]
    assert overview.warnings[-1] == "2 more labels of this feature: label_get shows them"
    label_save(store, 3, "only a refuted one", status="refuted")
    assert feature_overview(store, 3).label is None


def test_labels_are_found_by_words_status_and_author(store: Store) -> None:
    label_save(store, 0, "Swimming with a röller", RULE, notes="see café", author="ann", author_kind="human")
    label_save(store, 1, "Rolls of paper", status="unclear", author="bob")
    texts = {
        q: [label.feature for label in label_get(store, query=q).labels]
        for q in (
            "roller",
            "ROL",
            "swim roller",
            "swimming paper",
            "cafe",
            "family",
            '"',
            "rol* OR x",
            "paper)",
            "-",
        )
    }
    assert texts == {
        "roller": [0], "ROL": [1, 0], "swim roller": [0], "swimming paper": [], "cafe": [0], "family": [0], '"': [],
        "rol* OR x": [], "paper)": [1], "-": [],
    }  # fmt: skip
    assert [label.feature for label in label_get(store, query="swimming rol").labels] == [0]
    assert label_get(store, status="unclear").labels[0].feature == 1
    assert [label_get(store, author=who).total for who in ("ann", "human", "agent", "carl")] == [1, 1, 1, 0]


def test_a_long_list_comes_in_pages_and_all_of_it(store: Store) -> None:
    for i in range(25):
        label_save(store, i % 4, f"label number {i}")
    seen, cursor = [], None
    while True:
        page = label_get(store, limit=10, cursor=cursor)
        seen += [label.text for label in page.labels]
        if (cursor := page.next_cursor) is None:
            break
    assert sorted(seen) == sorted(f"label number {i}" for i in range(25))
    assert (page.total, page.n_features) == (25, 4)


def test_labels_stand_beside_features_in_other_answers_and_change_no_evidence(store: Store) -> None:
    def asks() -> list[Any]:
        return [
            feature_overview(store, 0),
            features_search(store, by="metric", sort="firing_rate", where="firing_rate>=0"),
            similar_features(store, 1),
            store_status(ServedStores([store])),
        ]

    before = asks()
    label_save(store, 0, "a\u202ename\x1b")
    after = asks()
    assert [a.evidence for a in after] == [b.evidence for b in before]
    shown = "a\\u{202e}name\\u{1b}"
    assert (before[0].label, after[0].label) == (None, shown)
    for found in after[1:3]:
        named = {row[found.columns.index("feature")]: row[found.columns.index("label")] for row in found.rows}
        assert named[0] == shown
        assert set(named.values()) <= {shown, None}
    assert (before[3].stores[0].labels, after[3].stores[0].labels, after[3].stores[0].label_status) == (
        0, 1, {"draft": 1},
    )  # fmt: skip
    assert [row[0] for row in features_search(store, by="label", query="name").rows] == [0]
    assert features_search(store, by="label").rows[0][1] == shown


def test_evidence_is_asked_again_and_holds(store: Store) -> None:
    stores = ServedStores([store])
    calls: dict[str, dict[str, Any]] = {
        "family_sweep": {"feature": 0, "family": "swim", "where": "weapon=roller"},
        "group_sweep": {"feature": 0, "by": "weapon"},
        "feature_overview": {"feature": 0},
        "features_search": {"query": "x"},
        "store_status": {},
        "test_rule": {"feature": 0, "rule": RULE},
    }
    for tool, arguments in calls.items():
        evidence = asked(store, tool, **arguments)["evidence"]
        label_save(store, 0, f"named after {tool}")
        replay = evidence_replay(stores, evidence)
        assert (replay.holds, replay.differs, replay.store_changed, replay.evidence) == (
            True,
            [],
            False,
            evidence,
        )
        assert replay.call["operation"] == tool
        assert arguments.items() <= replay.call["arguments"].items()
    for wrong, said in {"ev-0123456789abcdef": "is not on record", "ev-1": "is no evidence id"}.items():
        with pytest.raises((BadInput, UnknownName), match=said):
            evidence_replay(stores, wrong)


def test_evidence_of_a_store_that_has_changed_says_what_differs(tmp_path: Path) -> None:
    """The same lineage with other activations, as after an append."""
    old = open_store(import_world(planted(), tmp_path / "old"))
    evidence = asked(old, "family_sweep", feature=0, family="swim")["evidence"]
    world = planted()
    more = {**world.activations, **{(0, i, 0): 2.0 for i in range(1, 600, 2)}}
    new = open_store(import_world(replace(world, activations=more), tmp_path / "new"))
    assert isinstance(old.labels, LabelFile)
    changed = Store(new.backend, new.name, old.labels)
    changed.__dict__["lineage"] = old.lineage
    replay = evidence_replay(ServedStores([changed]), evidence)
    assert (replay.holds, replay.store_changed) == (False, True)
    by_field = {d["field"]: (d["then"], d["now"]) for d in replay.differs}
    n_without = n_without_swim(new)
    assert by_field["baseline.n_firing"] == (0, n_without)
    assert by_field["baseline.mean"] == (0.0, 2.0)


def n_without_swim(store: Store) -> int:
    """Rows of the explain split without the token swim_3."""
    n = store.n_rows("explain")
    swim = store.tokens.index("swim_3")
    return sum(swim not in store.tokens_of_sample(s).tolist() for s in range(n))


def test_the_whole_answer_behind_a_page_has_all_rows(store: Store) -> None:
    for i in range(4):
        label_save(store, i, "x")
    short = asked(store, "features_search", by="metric", sort="firing_rate", where="firing_rate>=0", limit=1)
    assert short["more"] == 3
    whole = whole_answer(ServedStores([store]), short["evidence"])
    assert [row[0] for row in whole["answer"]["rows"]] == [2, 1, 0, 3]
    assert whole["call"]["operation"] == "features_search"


def test_a_store_without_a_place_for_labels_reads_none_and_refuses_to_write() -> None:
    store = memory_store(planted())
    bare = Store(store.backend, store.name)
    assert label_get(bare, 0).warnings == [
        "store planted has no place for labels; name a file with --labels FILE"
    ]
    assert feature_overview(bare, 0).label is None
    with pytest.raises(BadInput, match="has no place for labels, notes and held-out tests"):
        label_save(bare, 0, "x")


def test_a_category_is_free_but_a_near_miss_of_a_usual_one_is_pointed_at(store: Store) -> None:
    said = {c: label_save(store, 0, c, category=c).warnings for c in ("mechancal", "mechanical", "my own")}
    assert said == {"mechancal": ["category 'mechanical' is the usual word"], "mechanical": [], "my own": []}


def test_long_notes_are_cut_in_lists_and_whole_alone(store: Store) -> None:
    ids = [label_save(store, 0, f"label {i}", notes="n" * 1_000).label_id for i in range(2)]
    assert [label.notes for label in label_get(store, 0).labels] == ["n" * 300 + " [+700 chars]"] * 2
    assert label_get(store, label_id=ids[0]).labels[0].notes == "n" * 1_000


def test_a_record_of_a_call_that_writes_is_never_asked_again(store: Store) -> None:
    saved = label_save(store, 0, "stays")
    forged = RecordedAnswer(
        evidence="ev-00000000000000aa", store=store.lineage, fingerprint=store.fingerprint, digest="x",
        operation="label_delete", arguments={"label_id": saved.label_id, "reason": "forged"}, result={"summary": ""},
    )  # fmt: skip
    record_answer(store.need_labels, forged)
    with pytest.raises(BadInput, match="has no question 'label_delete' about a store"):
        evidence_replay(ServedStores([store]), forged.evidence)
    assert label_get(store, 0).total == 1


def test_a_supported_label_that_is_much_wider_than_the_feature_is_warned_of(store: Store) -> None:
    """Feature 0 fires on rollers with swim, a third of swim; balanced accuracy of swim alone is about .75."""
    tested = ask_rule(store, 0, "family:swim>=3")
    assert tested.precision is not None
    assert tested.precision < 0.5
    (warning,) = label_save(store, 0, "swims", "family:swim>=3", status="supported").warnings
    assert "of the held-out rows where the rule holds only" in warning
    ask_rule(store, 0, RULE)
    assert label_save(store, 0, "swims with a roller", RULE, status="supported").warnings == []


def test_new_words_under_an_old_test_are_warned_of(store: Store) -> None:
    ask_rule(store, 0, RULE)
    saved = label_save(store, 0, "swims with a roller", RULE, status="supported")
    revised = label_save(store, 0, "speaks Latin", label_id=saved.label_id)
    assert (revised.status, revised.warnings) == (
        "supported", ["the text is new, what was tested is the rule: they must say the same"],
    )  # fmt: skip


def test_a_search_cites_the_label_that_the_feature_is_called_by(store: Store) -> None:
    label_save(store, 0, "swimming swimming swimming", status="refuted")
    good = label_save(store, 0, "swimming with a roller in hand", author_kind="human")
    (row,) = features_search(store, by="label", query="swimming").rows
    assert row[1] == good.text
    assert str(row[4]).startswith(f"label {good.label_id} (draft")


def test_a_supported_label_can_be_saved_again_as_it_is(store: Store) -> None:
    ask_rule(store, 0, RULE)
    saved = label_save(store, 0, "s", RULE, status="supported")
    again = label_save(store, 0, "s", RULE, label_id=saved.label_id, status="supported", author="bob")
    assert (again.revision, again.scores) == (1, saved.scores)
    assert "held-out rule" in again.summary


def test_the_last_test_decides_and_one_of_an_earlier_generation_does_not_count(store: Store) -> None:
    tested = ask_rule(store, 0, RULE)
    saved = label_save(store, 0, "s", RULE, status="supported")
    grown = Store(store.backend, store.name, store.labels)
    grown.__dict__ |= {"lineage": store.lineage, "fingerprint": "another generation"}
    with pytest.raises(BadInput, match=f"test {tested.evidence} was made on an earlier generation"):
        label_save(grown, 0, "again", RULE, status="supported")
    (warning,) = label_get(grown, 0).warnings
    assert warning.startswith(
        f"label {saved.label_id}: it is called supported, but its held-out test is of an earlier"
    )
    assert label_save(grown, 0, label_id=saved.label_id, status="supported").warnings == [
        warning.split(": ", 1)[1]
    ]
    ask_rule(grown, 0, RULE)
    assert label_save(grown, 0, "again", RULE, status="supported").status == "supported"
    assert label_get(store, 0).warnings == []


def test_a_label_rests_on_the_newest_test_of_its_rule(store: Store) -> None:
    ask_rule(store, 0, RULE)
    failed = HeldoutTest(
        store=store.lineage, fingerprint=store.fingerprint, feature=0, test="t", rule=RULE,
        where=None, scope=None, evidence="ev-00000000000000bb", arguments="{}", result="r", score=0.4, low=0.3,
        high=0.5, floor=0.5,
    )  # fmt: skip
    record_test(store.need_labels, failed)
    with pytest.raises(BadInput, match=r"test ev-00000000000000bb gave 0\.4 \[0\.3, 0\.5\]"):
        label_save(store, 0, "s", RULE, status="supported")


def test_a_test_that_took_almost_no_rows_is_warned_of(store: Store) -> None:
    ask_rule(store, 0, RULE, min_n=1)
    (warning,) = label_save(store, 0, "s", RULE, status="supported").warnings
    assert warning.startswith("its test took min_n 1: an interval of fewer than 20 rows is not to be trusted")


def test_a_feature_that_was_labelled_is_not_given_again_for_disagreement(store: Store) -> None:
    for text in ("fast shoes", "slow paint"):
        label_save(store, 2, text)
    assert queue_next(store, "disagreement").feature == 2
    label_save(store, 2, "third view here")
    assert queue_next(store, "disagreement").feature is None
    same = label_save(store, 1, "claimed")
    queue_next(store, action="add", feature=1)
    assert queue_next(store).feature == 1
    label_save(store, 1, "claimed", label_id=same.label_id)
    assert queue_next(store, action="done", feature=1).state == "done"


def test_to_ask_evidence_again_is_no_new_look_at_the_held_out_units(store: Store) -> None:
    evidence = asked(store, "test_rule", feature=0, rule=RULE)["evidence"]
    count = "SELECT count(*) FROM heldout_tests"
    grown = Store(store.backend, "grown", store.labels)
    grown.__dict__ |= {"lineage": store.lineage, "fingerprint": "another generation"}
    replay = evidence_replay(ServedStores([grown]), evidence)
    assert (replay.holds, replay.store_changed) == (True, True)
    assert store.need_labels.read(lambda c: c.execute(count).fetchone()[0], 0) == 1


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_generations_the_one_that_answered_is_asked_again(store: Store, order: int) -> None:
    grown = Store(store.backend, "grown", store.labels)
    grown.__dict__ |= {"lineage": store.lineage, "fingerprint": "another generation"}
    both = ServedStores([store, grown][::order])
    entry = next(e for e in commands() if e.name == "family_sweep")
    body = answer(entry, both, {"feature": 0, "family": "swim", "store": "grown"}).body
    replay = evidence_replay(both, body["evidence"])
    assert (replay.store, replay.holds, replay.store_changed) == ("grown", True, False)
    entry = next(e for e in commands() if e.name == "store_status")
    assert not evidence_replay(both, answer(entry, both, {}).body["evidence"]).store_changed


def test_a_sampled_store_has_no_importance_and_supports_nothing() -> None:
    store = memory_store(planted())
    ask_rule(store, 0, RULE)
    store.manifest = store.manifest.model_copy(update={"coverage": "sampled"})
    assert label_save(store, 0, "s", RULE).importance is None
    with pytest.raises(BadInput, match="is sampled: no rule can be tested on it"):
        label_save(store, 0, "s", RULE, status="supported")
    assert queue_next(store).warnings == [
        "this store is sampled: importance is that of the chosen examples alone"
    ]


@pytest.mark.parametrize("priority", [float("nan"), float("inf")])
def test_a_priority_is_a_number(store: Store, priority: float) -> None:
    adding = next(e for e in commands() if e.command == "queue add")
    with pytest.raises(BadInput, match="priority: Input should be a finite number"):
        answer(adding, ServedStores([store]), {"feature": 3, "priority": priority})
