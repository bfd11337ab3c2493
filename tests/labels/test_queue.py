"""The queue gives each feature to one worker, most worthwhile first, and says why."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.labels import queue
from saeinterp_mcp.labels.database import LabelDatabase, LabelsInMemory
from saeinterp_mcp.labels.disagreement import Stand, at_odds, words_of
from saeinterp_mcp.labels.revisions import retire_label, save_label
from saeinterp_mcp.operations.queue_next import QueueNext, queue_next
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import memory_store
from saeinterp_mcp.store.open import open_store
from tests.worlds import builds, texts


@pytest.fixture
def store() -> Store:
    return memory_store(builds())


def ask(store: Store, **call: Any) -> QueueNext:
    return queue_next(store, **call)


def label(store: Store, feature: int, text: str = "some claim", **more: Any) -> str:
    return save_label(store.need_labels, store.lineage, feature, {"text": text, **more}).label_id


def order(store: Store, **call: Any) -> list[int]:
    """Features as they are given, until nothing is left."""
    found: list[int] = []
    while (feature := ask(store, **call).feature) is not None:
        found.append(feature)
    return found


def days_pass(store: Store, days: float) -> None:
    """Everything in the queue is so much older."""
    shift = "UPDATE queue SET changed_at = strftime('%Y-%m-%dT%H:%M:%SZ', changed_at, ?)"
    store.need_labels.write(lambda c: c.execute(shift, (f"-{days} days",)) and None)


def test_importance_is_mean_activation_times_effect_norm_and_dead_features_are_left_out(store: Store) -> None:
    rows = store.n_rows("explain")
    means = [float(store.activations(f, "explain").values.sum()) / rows for f in range(5)]
    norms = [float(np.sqrt(6))] * 3 + [0.0, float(np.sqrt(6))]  # (3, 0, 0) less its mean, and so on
    assert store.backend.column("outputs/norm").tolist() == pytest.approx(norms)
    importance = [m * n for m, n in zip(means, norms, strict=True)]
    expected = sorted((f for f in range(5) if f != 3), key=lambda f: -importance[f])
    answer = ask(store, worker="ada")
    first = expected[0]
    assert (answer.feature, answer.remaining, answer.worker, answer.state) == (first, 3, "ada", "claimed")
    assert answer.why == (
        f"importance {importance[first]:.3g} (mean activation {means[first]:.3g} x effect norm {norms[first]:.3g}), "
        "rank 1 of 4"
    )
    assert answer.summary == f"Feature {first} is next: {answer.why}. 3 remain."
    assert answer.basis == "observed"
    assert order(store) == expected[1:]


def test_an_empty_queue_is_an_answer(store: Store) -> None:
    order(store)
    answer = ask(store)
    assert (answer.feature, answer.remaining, answer.state) == (None, 0, None)
    assert answer.why == (
        "all 4 features have a label or are done, skipped or claimed (1 more never fire or are under the store's "
        "floor). In the queue: 4 claimed; a claim ends after 24 hours, and action add brings a feature back"
    )


def test_what_is_labelled_done_or_skipped_is_not_given_until_it_is_added(store: Store) -> None:
    retired = label(store, 2)
    retire_label(store.need_labels, store.lineage, retired, "wrong", False, {})
    label(store, 0)
    ask(store, action="done", feature=1)
    ask(store, action="skip", feature=4, reason="it fires everywhere")
    assert order(store) == [2], "a retired label is no label"
    for feature in (0, 1, 4, 3):
        assert ask(store, action="add", feature=feature).state == "added"
    assert order(store) == [0, 1, 4, 3]


def test_added_features_come_first_by_priority_then_as_they_were_added(store: Store) -> None:
    for feature, priority in ((1, None), (0, 2.0), (2, None), (4, 2.0)):
        ask(store, action="add", feature=feature, priority=priority)
    assert ask(store, action="add", feature=1).why == "added, priority 0", "adding again keeps the place"
    answers = [ask(store) for _ in range(4)]
    assert [answer.feature for answer in answers] == [0, 4, 1, 2]
    assert [answer.why for answer in answers][1:3] == ["added with priority 2", "added with priority 0"]
    assert {answer.basis for answer in answers} == {"judged"}


def test_the_reason_of_a_skip_is_kept_and_shown_when_it_comes_back(store: Store) -> None:
    skipped = ask(store, action="skip", feature=2, reason="dull\x1b[31m", worker="eva")
    assert (skipped.why, skipped.reason, skipped.state) == ("skipped", "dull\\u{1b}[31m", "skipped")
    assert skipped.summary == "Feature 2 is skipped. 3 remain."
    ask(store, action="add", feature=2)
    assert (again := ask(store)).feature == 2
    assert again.reason == "dull\\u{1b}[31m"


def test_a_claim_ends_after_a_day(store: Store) -> None:
    ask(store, action="add", feature=1, priority=1)
    first = [ask(store, worker="slow").feature for _ in range(4)]
    days_pass(store, 0.99)
    assert ask(store).feature is None
    days_pass(store, 0.02)
    again = [ask(store, worker="quick") for _ in range(4)]
    assert [answer.feature for answer in again] == first
    assert again[0].why.startswith("added with priority 1; a claim of 20")
    assert again[1].why.endswith("Z ran out")
    assert ask(store).feature is None


def test_saving_a_label_completes_a_claim_and_nothing_else(store: Store) -> None:
    first = ask(store).feature
    assert first is not None
    ask(store, action="add", feature=1)
    made = label(store, first)
    label(store, 1)
    states = {f: state_of(store, f) for f in (first, 1)}
    assert states == {first: "done", 1: "added"}, "who added a labelled feature wants another look at it"
    retire_label(store.need_labels, store.lineage, made, "wrong", False, {})
    assert first not in order(store)


def test_a_worker_puts_away_what_is_his_or_nobodys(store: Store) -> None:
    feature = ask(store, worker="ada").feature
    for action in ("done", "skip"):
        with pytest.raises(
            BadInput,
            match=rf"another worker claimed feature {feature} at 20.*; leave worker out to put it away",
        ):
            ask(store, action=action, feature=feature, reason="mine", worker="eva")
    with pytest.raises(
        BadInput, match=rf"feature {feature} is claimed since 20.*added again once it is done or skip"
    ):
        ask(store, action="add", feature=feature)
    assert ask(store, action="done", feature=feature, worker="ada").state == "done"
    assert ask(store, action="done", feature=3, worker="eva").state == "done", "one that nobody claimed"
    other = ask(store, worker="ada").feature
    assert ask(store, action="skip", feature=other, reason="whoever").state == "skipped"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"action": "done"}, "action done needs feature"),
        ({"action": "add"}, "action add needs feature"),
        (
            {"action": "skip", "feature": 2},
            "to skip feature 2 needs a reason, for those who wonder why it was left out",
        ),
        (
            {"action": "skip", "feature": 2, "reason": "  "},
            "to skip feature 2 needs a reason, for those who wonder why it was left out",
        ),
        (
            {"feature": 2},
            "action next chooses the feature itself; feature and reason go with add, skip and done",
        ),
        (
            {"reason": "x"},
            "action next chooses the feature itself; feature and reason go with add, skip and done",
        ),
        ({"priority": 1.0}, "priority goes with action add, not with next"),
        (
            {"strategy": "cluster"},
            "strategy cluster goes with seed_feature: the feature whose like are to be labelled",
        ),
        (
            {"seed_feature": 1},
            "strategy cluster goes with seed_feature: the feature whose like are to be labelled",
        ),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(store: Store, call: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as error:
        ask(store, **call)
    assert str(error.value) == says


@pytest.mark.parametrize("action", ["add", "skip", "done"])
def test_a_feature_that_there_is_not_cannot_be_queued(store: Store, action: str) -> None:
    with pytest.raises(UnknownName, match="feature 5 is not in store 'builds', which has 0 to 4"):
        ask(store, action=action, feature=5, reason="x")
    with pytest.raises(UnknownName, match="feature 5 is not in store 'builds'"):
        ask(store, strategy="cluster", seed_feature=5)


def test_a_cluster_is_given_by_the_better_of_two_places_among_the_neighbours(store: Store) -> None:
    lists = {
        by: store.list_of_feature(f"neighbours/{by}/features", 0).tolist()
        for by in ("coactivation", "decoder")
    }
    best = {f: min(names.index(f) for names in lists.values() if f in names) for f in (1, 2, 4)}
    answer = ask(store, strategy="cluster", seed_feature=0)
    given = [answer.feature, *order(store, strategy="cluster", seed_feature=0)]
    assert given == sorted((1, 2, 4), key=lambda f: (best[f], lists["coactivation"].index(f) != best[f], f))
    assert 0 not in given
    # cosine of (1, 0) and (1, 1), by hand
    assert "cosine of decoder directions 0.707 (number 1 of its neighbours, above " in answer.why
    assert "phi of firing " in answer.why
    assert answer.why.startswith("like feature 0: ")


def test_labels_disagree_by_their_words_or_by_what_became_of_one_claim() -> None:
    def stand(text: str, status: str = "draft") -> Stand:
        return Stand("lb", status, words_of(text))

    keys, others = "keys of JSON objects", "Keys, of JSON arrays!"  # 3 of 5 words in common
    assert at_odds(stand(keys), stand(others)) == pytest.approx(0.4)
    assert at_odds(stand(keys, "supported"), stand("quotes", "unclear")) == 1
    assert at_odds(stand(keys), stand("json KEYS: objects of")) == 0
    assert at_odds(stand(keys, "supported"), stand(others, "refuted")) == pytest.approx(0.6)
    assert at_odds(stand(keys, "refuted"), stand(keys, "supported")) == 1
    assert at_odds(stand(keys, "supported"), stand("quotes", "refuted")) == 0, "so an investigation ends"
    assert at_odds(stand(keys, "refuted"), stand("quotes", "draft")) == 0
    assert at_odds(stand("?!"), stand("!!")) == 1


def test_features_whose_labels_disagree_most_come_first_until_somebody_judged_them(store: Store) -> None:
    call = {"strategy": "disagreement"}
    assert ask(store, **call).why == (
        "no feature has labels in use that disagree and were not judged since. In the queue: nothing; a claim ends "
        "after 24 hours, and action add brings a feature back"
    )
    label(store, 0, "keys of JSON")
    one, two = label(store, 1, "keys of JSON"), label(store, 1, "keys of YAML")
    for text in ("keys", "quotes", "keys and quotes"):
        label(store, 2, text)
    label(store, 3, "one claim", status="supported")
    label(store, 3, "one claim", status="refuted")
    label(store, 4, "the same")
    label(store, 4, "The same.")
    answers = [ask(store, **call) for _ in range(4)]
    assert [answer.feature for answer in answers] == [2, 3, 1, None]
    assert answers[0].why.startswith("of its 3 labels in use lb-")
    assert answers[0].why.endswith(" differ in their words by 1 of 1")
    assert answers[1].why.endswith(
        "say nearly the same, yet one is supported and one refuted (words alike 1)"
    )
    assert answers[2].why == (
        f"of its 2 labels in use {one} (draft) and {two} (draft) differ in their words by 0.5 of 1"
    )
    assert answers[2].basis == "judged"
    ask(store, action="done", feature=1)
    assert ask(store, **call).feature is None
    label(store, 1, "quite another claim")
    assert ask(store, **call).feature == 1, "a label that came after the judgement"


def test_labelling_by_importance_does_not_hide_a_later_disagreement(store: Store) -> None:
    feature = ask(store).feature
    assert feature is not None
    label(store, feature, "keys")
    assert state_of(store, feature) == "done"
    label(store, feature, "quotes")
    answer = ask(store, strategy="disagreement")
    assert answer.feature == feature
    label(store, feature, "keys and quotes")
    assert ask(store, strategy="disagreement").feature is None, "it was judged: what stays is meant"


def test_a_store_that_was_not_summarised_gives_what_was_added(tmp_path: Path) -> None:
    from saeinterp_mcp.store.manifest import StraightSource

    store = memory_store(builds())
    straight = StraightSource(folder="elsewhere", format="batch-zarr", n_rows=12, listing="")
    store.manifest = store.manifest.model_copy(update={"straight": straight})
    ask(store, action="add", feature=3)
    assert ask(store).feature == 3
    assert ask(store).why.startswith("nobody added one, and this store does not hold its activations")


def test_stores_without_a_decoder_say_what_importance_is() -> None:
    world = replace(texts(), decoder=None, unembedding=None, output_tokens=())
    answer = ask(memory_store(world))
    assert "x effect norm" not in answer.why
    assert answer.why.startswith("importance ")


def test_a_store_without_a_place_for_a_queue_is_refused(store: Store) -> None:
    with pytest.raises(BadInput, match=r"has no place for labels.*--labels FILE"):
        ask(Store(store.backend))


def test_workers_on_a_real_store_never_share_a_feature(pycode_store: Path) -> None:
    store = Store(open_store(pycode_store).backend, labels=LabelsInMemory())
    answers = [ask(store, worker=str(i)) for i in range(30)]
    assert len({answer.feature for answer in answers}) == 30
    assert [answer.why.split("rank ")[1].split(" ")[0] for answer in answers] == [
        str(i + 1) for i in range(30)
    ]
    n_worth = int(answers[0].why.rsplit(" ", 1)[1])
    assert [answer.remaining for answer in answers] == [n_worth - 1 - i for i in range(30)]


def state_of(store: Store, feature: int) -> str | None:
    database: LabelDatabase = store.need_labels
    entry = database.read(lambda c: queue.entry_of(c, store.lineage, feature), None)
    return entry.state if entry else None
