"""Phrases that several explainers say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from examples.validation.make_world import WORDS
from pipeline.validation.alignment import Said, align, align_compat, in_order, shared_terms
from saeinterp_mcp.patterns.records import Phrase
from tests.pipeline.validation.conftest import Made

TABLE = "explanation_alignment"


def said(*who: str) -> list[Said]:
    """One phrase after the other, each explainer's numbered from 0."""
    counts: dict[str, int] = {}
    found = []
    for explainer in who:
        chunk = counts[explainer] = counts.get(explainer, -1) + 1
        found.append(Said(explainer, Phrase(f"{explainer}{chunk}", 10 * chunk, 10 * chunk + 5, chunk)))
    return found


def alike(n: int, **pairs: float) -> NDArray[np.float64]:
    """(n, n) 0.1 but on the diagonal and in `p01=0.9` for phrases 0 and 1."""
    found = np.full((n, n), 0.1)
    np.fill_diagonal(found, 1)
    for name, value in pairs.items():
        i, j = int(name[1]), int(name[2])
        found[i, j] = found[j, i] = value
    return found


def test_in_a_group_every_pair_is_alike_not_only_neighbours_of_one() -> None:
    # a is like b, b like c, a not like c: the closer two are a group
    (group,) = align(said("a", "b", "c"), alike(3, p01=0.8, p12=0.9, p02=0.3), 0.7)
    assert group.members == (1, 2)
    assert (group.similarity, group.least) == (0.9, 0.9)
    # the seed's star took b and c to a when they are like a, however unlike each other
    star = align_compat(said("a", "b", "c"), alike(3, p01=0.8, p02=0.8, p12=0.0), 0.7)
    assert [one.members for one in star] == [(0, 1, 2)]


def test_a_group_has_the_mean_and_the_least_of_its_pairs() -> None:
    (group,) = align(said("a", "b", "c"), alike(3, p01=0.8, p12=0.9, p02=0.7), 0.7)
    assert group.members == (0, 1, 2)
    assert (group.similarity, group.least) == pytest.approx((0.8, 0.7))


def test_one_explainer_alone_agrees_with_nobody() -> None:
    assert align(said("a", "a", "b"), alike(3, p01=0.95), 0.7) == []
    assert align(said("a", "b", "c"), alike(3, p01=0.95), 0.7, min_explainers=3) == []


def test_compat_depends_on_who_comes_first_and_the_right_one_does_not() -> None:
    similarity = alike(3, p01=0.75, p02=0.95)
    order = [2, 0, 1]
    turned = similarity[np.ix_(order, order)]
    people = said("a", "b", "c")
    first = align_compat(people, alike(3, p01=0.75, p12=0.75), 0.7)
    second = align_compat([people[1], people[0], people[2]], alike(3, p01=0.75, p02=0.75), 0.7)
    assert {len(one.members) for one in first} == {2}
    assert {len(one.members) for one in second} == {3}
    here = [{people[i].explainer for i in one.members} for one in align(people, similarity, 0.7)]
    turned_people = [people[i] for i in order]
    there = [{turned_people[i].explainer for i in one.members} for one in align(turned_people, turned, 0.7)]
    assert here == there == [{"a", "c"}]


@given(
    texts=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "d"]),
            st.sampled_from(["river bank", "bank", "old river", "castle"]),
        ),
        min_size=1,
        max_size=12,
    ),
    seed=st.integers(0, 1_000),
)
def test_no_order_of_explainers_changes_a_group(texts: list[tuple[str, str]], seed: int) -> None:
    counts: dict[str, int] = {}
    phrases = []
    for explainer, text in texts:
        chunk = counts[explainer] = counts.get(explainer, -1) + 1
        phrases.append(Said(explainer, Phrase(text, chunk, chunk + 1, chunk)))
    mixed = [phrases[i] for i in np.random.default_rng(seed).permutation(len(phrases))]
    found = []
    for order in (phrases, mixed):
        ordered = in_order(order)
        groups = align(ordered, shared_terms([one.phrase.text for one in ordered]), 0.6)
        found.append([[ordered[i] for i in group.members] for group in groups])
    assert found[0] == found[1]


def test_without_vectors_phrases_are_alike_by_shared_terms() -> None:
    found = shared_terms(["old rivers", "the river", "of the"])
    assert found[0, 1] == pytest.approx(2 / 3), "Dice: one of two and one"
    assert found[2].tolist() == [0, 0, 0], "a phrase that names nothing is like none"


def test_what_two_explainers_say_is_a_group_with_places_and_percentile(embedded: Made) -> None:
    row = embedded.row(TABLE, 1)
    assert row["llm_explainers"] == ["lab/alpha-7b", "lab/beta-7b"]
    assert row["num_aligned_groups"] == len(row["aligned_groups"])
    texts = {
        one["llm_explainer"]: one["explanation_text"]
        for one in embedded.folder.of_feature("explanation_embeddings", 1).iter_rows(named=True)
    }
    groups = [group for feature in range(60) for group in embedded.row(TABLE, feature)["aligned_groups"]]
    assert len(groups) > 20
    assert all(group["percentile"] is not None and 0 <= group["percentile"] <= 100 for group in groups)
    for phrase in (phrase for group in row["aligned_groups"] for phrase in group["phrases"]):
        assert texts[phrase["explainer_name"]][phrase["start"] : phrase["end"]] == phrase["text"]
        assert WORDS[1] in phrase["text"]


def test_failed_explanations_are_not_compared(by_words: Made) -> None:
    row = by_words.row(TABLE, 7)  # beta's could not be parsed
    assert row["llm_explainers"] == ["lab/alpha-7b"]
    assert row["aligned_groups"] == []
    warnings = by_words.folder.sidecar(TABLE)["warnings"]
    assert warnings == ["no embedder: phrases are alike by the words they share (Dice)"]
