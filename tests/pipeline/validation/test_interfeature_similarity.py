"""Neighbours by decoder direction, and how alike their examples are."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from examples.validation.make_world import DEAD, FEW, NO_DIRECTION, WORDS
from pipeline.validation.feature_pairs import _shared
from saeinterp_mcp.patterns.records import Group, Window
from tests.pipeline.validation.conftest import Made

TABLE, CHOSEN = "interfeature_similarity", "activation_embeddings"


def selected(made: Made, feature: int) -> dict[int, dict[str, Any]]:
    return {one["feature_id"]: one for one in made.row(TABLE, feature)["selected_features"]}


def test_every_feature_with_examples_and_a_direction_has_a_row(by_words: Made) -> None:
    features = by_words.rows(TABLE)["feature_id"].to_list()
    assert features == [one for one in range(60) if one not in (DEAD, NO_DIRECTION)]


def test_the_nearest_by_decoder_come_first_with_the_first_example_of_each_quantile(by_words: Made) -> None:
    row = by_words.row(TABLE, 2)
    nearest = row["selected_features"]
    assert len(nearest) == 4
    assert nearest[0]["feature_id"] == 32, "its plural"
    cosines = [one["decoder_similarity"] for one in nearest]
    assert cosines == sorted(cosines, reverse=True)
    chosen = by_words.row(CHOSEN, 32)
    firsts = [chosen["quantiles"].index(q) for q in range(4)]
    assert nearest[0]["sample_info"] == [
        {"quantile": q, "prompt_id": chosen["prompt_ids"][i], "max_activation": chosen["strengths"][i]}
        for q, i in enumerate(firsts)
    ]


def test_all_pairs_of_examples_are_compared_by_their_vectors(embedded: Made) -> None:
    row = embedded.row(TABLE, 2)
    vectors = {}
    for feature in (2, *selected(embedded, 2)):
        chosen = embedded.row(CHOSEN, feature)
        for prompt, vector in zip(chosen["prompt_ids"], chosen["embeddings"], strict=True):
            vectors[feature, prompt] = np.array(vector, np.float64)
    assert len(row["similarity_pairs"]) == 4 * 16
    found: dict[int, list[float]] = {}
    for pair in row["similarity_pairs"]:
        main = vectors[pair["main_feature_id"], pair["main_prompt_id"]]
        other = vectors[pair["selected_feature_id"], pair["selected_prompt_id"]]
        assert pair["semantic_similarity"] == pytest.approx(main @ other, abs=1e-6)
        found.setdefault(pair["selected_feature_id"], []).append(pair["semantic_similarity"])
    for feature, one in selected(embedded, 2).items():
        assert one["semantic_similarity"] == pytest.approx(np.mean(found[feature]), abs=1e-6)


def test_a_pair_is_the_same_from_both_sides(embedded: Made) -> None:
    names = ("semantic_similarity", "semantic_percentile", "ngram_jaccard_similarity", "lexical_percentile")
    here, there = selected(embedded, 10)[40], selected(embedded, 40)[10]
    assert {name: here[name] for name in names} == {name: there[name] for name in names}
    sides = [
        {
            tuple(
                sorted((pair[f"{who}_feature_id"], pair[f"{who}_prompt_id"]) for who in ("main", "selected"))
            ): pair["semantic_similarity"]
            for pair in embedded.row(TABLE, feature)["similarity_pairs"]
            if {pair["main_feature_id"], pair["selected_feature_id"]} == {10, 40}
        }
        for feature in (10, 40)
    ]
    assert len(sides[0]) == 16
    assert sides[0] == sides[1]


def test_neighbours_that_fire_on_one_word_stand_out_of_random_pairs(by_words: Made) -> None:
    plural = [selected(by_words, feature)[feature + 30]["lexical_percentile"] for feature in range(25)]
    others = [
        one["lexical_percentile"]
        for feature in range(25)
        for other, one in selected(by_words, feature).items()
        if abs(other - feature) != 30 and one["lexical_percentile"] is not None
    ]
    assert min(plural) > 95
    assert 25 < np.mean(others) < 75


def test_an_ngram_is_one_that_both_features_have(by_words: Made, prompts: list[list[str]]) -> None:
    row = by_words.row(TABLE, 4)
    of_plural = [
        one for one in row["ngram_analysis"] if {4, 34} == {at["feature_id"] for at in one["occurrences"]}
    ]
    assert [one["ngram_size"] for one in of_plural] == [2, 3, 4]
    four = of_plural[2]
    assert four["ngram"] == f" {WORDS[4]}"[:4]
    assert four["count"] == 8
    for at in four["occurrences"]:
        assert [prompts[at["prompt_id"]][p] for p in at["positions"]] == [f"▁{WORDS[at['feature_id']]}"]
    for one in row["ngram_analysis"]:
        assert len({at["feature_id"] for at in one["occurrences"]}) == 2


def test_features_that_share_no_ngram_have_none() -> None:
    one, other = (
        Group(feature, (Window(0, 0, 1.0, (text,), 0, 0),)) for feature, text in ((1, "abcd"), (2, "wxyz"))
    )
    assert list(_shared(one, other, False, 5, (0.0, 0.0, 0.0))) == []
    (two,) = _shared(
        one, one._replace(feature=2, windows=(Window(3, 0, 1.0, ("xbcy",), 7, 0),)), False, 5, (0.2, 0.0, 0.0)
    )
    assert (two["ngram"], two["jaccard_score"], two["count"]) == ("bc", 0.2, 2)
    assert [(at["feature_id"], at["prompt_id"], at["positions"]) for at in two["occurrences"]] == [
        (1, 0, [0]),
        (2, 3, [7]),
    ]


def test_a_neighbour_without_examples_is_told_and_not_compared(by_words: Made, compat: Made) -> None:
    (feature,) = [
        row["feature_id"]
        for row in by_words.rows(TABLE).iter_rows(named=True)
        if DEAD in [one["feature_id"] for one in row["selected_features"]]
    ][:1]
    dead = selected(by_words, feature)[DEAD]
    assert dead["sample_info"] == []
    assert [dead["semantic_similarity"], dead["ngram_jaccard_similarity"], dead["lexical_percentile"]] == [
        None
    ] * 3
    assert DEAD not in selected(compat, feature), "SAE_vis passed over it"


def test_fewer_examples_make_fewer_pairs(by_words: Made) -> None:
    pairs = [
        one for one in by_words.row(TABLE, FEW)["similarity_pairs"] if one["selected_feature_id"] == FEW - 30
    ]
    assert len(pairs) == 3 * 4
    assert {pair["semantic_similarity"] for pair in pairs} == {None}, "without an embedder"


def test_compat_has_the_formulas_of_sae_vis(compat: Made, prompts: list[list[str]]) -> None:
    texts: dict[int, list[str]] = {}
    for feature in (12, 42):
        chosen = compat.row(CHOSEN, feature)
        texts[feature] = []
        for q in range(4):
            i = chosen["quantiles"].index(q)
            tokens, at = prompts[chosen["prompt_ids"][i]], chosen["positions"][i]
            texts[feature].append("".join(tokens[max(0, at - 2) : at + 2]))
    expected = []
    for size in (2, 3, 4):
        values = []
        for a in texts[12]:
            for b in texts[42]:
                x, y = ({t[i : i + size] for i in range(len(t) - size + 1)} for t in (a, b))
                values.append(len(x & y) / len(x | y))
        expected.append(np.mean(values))
    found = selected(compat, 12)[42]
    assert found["ngram_jaccard_similarity"] == pytest.approx(expected, abs=1e-6)
    assert found["lexical_percentile"] is None
    counts = pl.Series([one["count"] for one in compat.row(TABLE, 12)["ngram_analysis"]])
    assert counts.min() is not None
