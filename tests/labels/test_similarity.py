"""Labels by meaning: the arithmetic with directions that can be written out, the meaning with the real model."""

import string
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.clients.embedding import Vectors, default_embedder
from saeinterp_mcp.errors import BadInput, NotInStore
from saeinterp_mcp.labels import similarity
from saeinterp_mcp.labels.database import LabelDatabase, LabelFile, LabelsInMemory
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.revisions import retire_label, save_label
from saeinterp_mcp.labels.similarity import NearestLabels, nearest_labels


class Letters:
    """Counts letters: texts of the same letters point the same way. Remembers what it was asked."""

    name = "letters:1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def why_not(self) -> None:
        return None

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        counts = np.array(
            [[text.count(letter) for letter in string.ascii_lowercase] for text in texts], np.float32
        )
        return np.asarray(counts / np.linalg.norm(counts, axis=1, keepdims=True), np.float32)


@pytest.fixture(params=["memory", "file"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> LabelDatabase:
    return LabelsInMemory() if request.param == "memory" else LabelFile(tmp_path / "labels.sqlite")


def label(database: LabelDatabase, feature: int, text: str, lineage: str = "s", **more: Any) -> Label:
    return save_label(database, lineage, feature, {"text": text, **more})


def listed(found: NearestLabels) -> list[tuple[int, str, float]]:
    return [(one.feature, one.text, one.cosine) for one in found.found]


def test_features_come_by_the_cosine_of_their_labels_and_the_asked_one_is_not_among_them(
    database: LabelDatabase,
) -> None:
    for feature, text in enumerate(["aab", "ab", "b", "c", "aab"]):
        label(database, feature, text)
    found = nearest_labels(database, "s", Letters(), feature=0)
    # (2, 1) with (2, 1), (1, 1), (0, 1), and another letter
    assert listed(found) == [(4, "aab", 1.0), (1, "ab", 0.948683), (2, "b", 0.447214), (3, "c", 0.0)]
    assert found.n_features == 4
    asked = nearest_labels(database, "s", Letters(), query_text="b", limit=2)
    assert listed(asked) == [(2, "b", 1.0), (1, "ab", 0.707107)]
    assert asked.n_features == 5


def test_of_several_labels_the_closest_counts_on_both_sides(database: LabelDatabase) -> None:
    label(database, 0, "zzzz")
    label(database, 0, "abc")
    label(database, 1, "qqq")
    near = label(database, 1, "abcc")
    found = nearest_labels(database, "s", Letters(), feature=0)
    assert listed(found) == [(1, "abcc", 0.942809)]
    assert found.found[0].label_id == near.label_id


def test_retired_refuted_and_old_texts_and_those_of_other_stores_do_not_count(
    database: LabelDatabase,
) -> None:
    label(database, 0, "ab")
    retired = label(database, 1, "ab")
    retire_label(database, "s", retired.label_id, None, False, {})
    label(database, 2, "ab", status="refuted")
    label(database, 3, "ab", lineage="another")
    old = label(database, 4, "ab")
    save_label(database, "s", 4, {"text": "bc"}, label_id=old.label_id)
    assert listed(nearest_labels(database, "s", Letters(), feature=0)) == [(4, "bc", 0.5)]
    retire_label(database, "s", retired.label_id, None, True, {})
    assert [one.feature for one in nearest_labels(database, "s", Letters(), feature=0).found] == [1, 4]


def test_random_percentile_is_the_share_of_pairs_of_features_with_a_lower_cosine(
    database: LabelDatabase,
) -> None:
    generator = np.random.default_rng(1)
    texts: dict[int, list[str]] = {}
    for feature in range(23):
        for _ in range(1 + feature % 3):
            text = "".join(generator.choice(list("abcdef"), 5))
            texts.setdefault(feature, []).append(text)
            label(database, feature, text)
    found = nearest_labels(database, "s", Letters(), feature=7)

    def cosine(a: str, b: str) -> float:
        x, y = ([text.count(letter) for letter in "abcdef"] for text in (a, b))
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        return float(round(dot / (sum(p * p for p in x) * sum(q * q for q in y)) ** 0.5, 6))

    def closest(f: int, g: int) -> float:
        return max(cosine(a, b) for a, b in product(texts[f], texts[g]))

    pairs = [closest(f, g) for f, g in combinations(texts, 2)]
    assert len(found.found) == 22
    for one in found.found:
        expected = closest(7, one.feature)
        below = 100 * sum(pair < expected for pair in pairs) / len(pairs)
        assert one.cosine == pytest.approx(expected, abs=1.1e-6)
        # float32 directions may part two cosines that are equal on paper
        ties = 100 * sum(abs(pair - expected) < 3e-6 for pair in pairs) / len(pairs)
        assert one.random_percentile is not None
        assert below - ties <= one.random_percentile <= below + ties
    assert found.random_99 == pytest.approx(float(np.quantile(pairs, 0.99)), abs=1e-5)
    assert found.reasons == ()


def test_a_pair_as_close_as_this_one_is_not_lower(database: LabelDatabase) -> None:
    for feature in range(20):
        label(database, feature, "ab")
    found = nearest_labels(database, "s", Letters(), feature=0)
    assert {(one.cosine, one.random_percentile) for one in found.found} == {(1.0, 0.0)}


def test_many_features_are_compared_with_drawn_pairs_and_the_draw_is_always_the_same(
    database: LabelDatabase,
) -> None:
    def write(connection: Any) -> None:
        from saeinterp_mcp.labels.revisions import append

        for feature in range(200):
            text = "".join(np.random.default_rng(feature).choice(list("abcdefgh"), 6))
            one = Label(label_id=f"lb-{feature:012x}", feature=feature, revision=1, text=text)
            append(connection, "s", None, one)

    database.write(write)
    first = nearest_labels(database, "s", Letters(), feature=0)
    assert first == nearest_labels(database, "s", Letters(), feature=0)
    percentiles = [one.random_percentile for one in first.found]
    assert percentiles == sorted(percentiles, key=lambda p: -(p or 0))
    # feature 0 is one of many: its pairs are spread as random ones are
    middle = percentiles[99]
    assert middle is not None
    assert 25 < middle < 75


def test_few_labels_have_no_random_percentile_and_the_reason_is_given(database: LabelDatabase) -> None:
    for feature in range(19):
        label(database, feature, "a" * (feature + 1) + "b")
    found = nearest_labels(database, "s", Letters(), feature=0)
    assert {one.random_percentile for one in found.found} == {None}
    assert (found.random_99, found.reasons) == (None, ("random_percentile needs 20 labelled features",))
    label(database, 19, "b")
    assert nearest_labels(database, "s", Letters(), feature=0).reasons == ()


def test_only_new_texts_are_embedded_and_other_models_have_their_own(database: LabelDatabase) -> None:
    for feature, text in enumerate(["ab", "bc", "ab"]):
        label(database, feature, text)
    letters = Letters()
    nearest_labels(database, "s", letters, feature=1)
    assert letters.asked == ["bc", "ab"]
    label(database, 3, "cd")
    nearest_labels(database, "s", letters, feature=1)
    nearest_labels(database, "s", letters, query_text="b")
    assert letters.asked == ["bc", "ab", "cd", "b"], "the question itself is not kept"
    other = Letters()
    other.name = "letters:2"
    nearest_labels(database, "s", other, feature=1)
    assert other.asked == ["bc", "ab", "cd"]
    ask = "SELECT model, count(*) FROM embeddings GROUP BY model ORDER BY model"
    kept: list[Any] = []
    assert database.read(lambda c: c.execute(ask).fetchall(), kept) == [("letters:1", 3), ("letters:2", 3)]


def test_new_texts_beyond_a_call_are_left_for_the_next_and_counted(
    database: LabelDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "NEW_AT_ONCE", 4)
    monkeypatch.setattr(similarity, "KEPT_AT_ONCE", 3)
    for feature, text in enumerate(["a", "b", "c", "d", "e", "f"]):
        label(database, feature, text)
    letters = Letters()
    first = nearest_labels(database, "s", letters, feature=5)
    assert letters.asked == ["f", "a", "b", "c"], "the asked feature's own come first"
    assert "2 labels are not compared yet: 4 are prepared at a time; ask again" in first.reasons
    assert [one.feature for one in first.found] == [0, 1, 2]
    second = nearest_labels(database, "s", letters, feature=5)
    assert [one.feature for one in second.found] == [0, 1, 2, 3, 4]
    assert letters.asked == ["f", "a", "b", "c", "d", "e"]


class ReadOnly(LabelsInMemory):
    """As a file in a folder that cannot be written."""

    closed = False

    def write(self, work: Any) -> Any:
        if self.closed:
            raise BadInput("it cannot be written")
        return super().write(work)


def test_labels_that_can_only_be_read_are_compared_all_the_same() -> None:
    database = ReadOnly()
    for feature, text in enumerate(["ab", "abb"]):
        label(database, feature, text)
    database.closed = True
    found = nearest_labels(database, "s", Letters(), feature=0)
    assert [one.feature for one in found.found] == [1]
    assert found.reasons[0] == "the labels file cannot be written, so texts are embedded anew each time"


def test_a_feature_without_a_label_is_refused_and_a_store_without_any_has_none_near(
    database: LabelDatabase,
) -> None:
    label(database, 0, "ab", status="refuted")
    with pytest.raises(NotInStore) as error:
        nearest_labels(database, "s", Letters(), feature=0)
    assert str(error.value) == (
        "feature 0 has no label to compare (retired and refuted ones do not count); give it one with label_save, or "
        "ask by coactivation"
    )
    assert nearest_labels(database, "s", Letters(), query_text="a").found == ()
    assert nearest_labels(None, "s", Letters(), query_text="a").found == ()
    label(database, 0, "ab")
    assert nearest_labels(database, "s", Letters(), feature=0).found == (), "there is no other"


def test_the_real_model_finds_what_is_said_in_other_words(database: LabelDatabase) -> None:
    said = {
        3: "opening bracket of a list literal",
        5: "errors that a web server sends back",
        8: "a square bracket with which a list begins",
        9: "names of files and folders",
        11: "the word return at the end of a function",
    }
    for feature, text in said.items():
        label(database, feature, text)
    embedder = default_embedder()
    assert nearest_labels(database, "s", embedder, feature=3).found[0].feature == 8
    for query, feature in (("HTTP 404", 5), ("paths on disk", 9), ("what a function gives back", 11)):
        assert nearest_labels(database, "s", embedder, query_text=query).found[0].feature == feature
    again = nearest_labels(database, "s", embedder, feature=3)
    vectors = embedder.embed(list(said.values())).astype(np.float64)
    assert [one.cosine for one in again.found] == sorted(np.round(vectors[1:] @ vectors[0], 6), reverse=True)
