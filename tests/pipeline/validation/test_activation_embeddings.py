"""Which examples stand for a feature, and the directions of their texts."""

from itertools import pairwise

import numpy as np
import pytest

from examples.validation.make_world import DEAD, FEW, N_FEATURES, ONCE, TIED, TWO_PIECES, fires_in, strength
from tests.pipeline.validation.conftest import Made

TABLE = "activation_embeddings"


def test_every_feature_has_a_row_and_a_silent_one_no_examples(by_words: Made) -> None:
    rows = by_words.rows(TABLE)
    assert rows["feature_id"].to_list() == list(range(N_FEATURES))
    assert by_words.row(TABLE, DEAD)["prompt_ids"] == []
    assert by_words.row(TABLE, ONCE)["quantiles"] == [0]
    assert by_words.row(TABLE, FEW)["quantiles"] == [0, 1, 2]


def test_bins_are_of_equal_size_by_rank_whatever_is_tied(by_words: Made) -> None:
    # ten prompts in four bins: 2, 3, 2 and 3; those of TIED are all of one strength
    for feature in (0, 17, TIED):
        assert by_words.row(TABLE, feature)["quantiles"] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


def test_stronger_quantiles_hold_stronger_examples_with_their_strengths_and_places(
    by_words: Made, prompts: list[list[str]]
) -> None:
    feature = next(iter(TWO_PIECES))
    row = by_words.row(TABLE, feature)
    assert sorted(row["prompt_ids"]) == fires_in(feature)
    assert row["strengths"] == pytest.approx([strength(feature, prompt) for prompt in row["prompt_ids"]])
    by_bin = [
        [s for s, q in zip(row["strengths"], row["quantiles"], strict=True) if q == i] for i in range(4)
    ]
    assert all(max(weak) < min(strong) for weak, strong in pairwise(by_bin))
    # the feature fires on the second piece of its word
    assert [prompts[p][at] for p, at in zip(row["prompt_ids"], row["positions"], strict=True)] == ["den"] * 10


def test_without_an_embedder_there_are_no_vectors_rather_than_zeros(by_words: Made) -> None:
    row = by_words.row(TABLE, 0)
    assert (row["embeddings"], row["first_vector"]) == ([], None)
    assert by_words.folder.vectors("activations") is None
    assert by_words.folder.sidecar(TABLE)["warnings"] == [
        "no embedder: examples have no vectors, and are compared by their words only"
    ]


def test_vectors_are_those_of_the_window_as_it_reads(embedded: Made, prompts: list[list[str]]) -> None:
    for feature in (3, 41):
        row = embedded.row(TABLE, feature)
        for i in (0, 9):
            tokens, at = prompts[row["prompt_ids"][i]], row["positions"][i]
            # 32 tokens, 16 of them before the strongest; shifted at the ends of the prompt
            start = min(max(0, at - 16), max(0, len(tokens) - 32))
            text = "".join(tokens[start : start + 32]).replace("▁", " ")
            assert np.array_equal(embedded.vector(text), np.array(row["embeddings"][i], np.float32))


def test_the_table_and_the_array_hold_the_same_numbers(embedded: Made) -> None:
    array = embedded.folder.vectors("activations")
    rows = embedded.rows(TABLE)
    assert array is not None
    assert len(array) == rows["prompt_ids"].list.len().sum() == 574
    assert rows["first_vector"].to_list()[:4] == [0, 10, 20, 30]
    for row in rows.iter_rows(named=True):
        mine = array[row["first_vector"] : row["first_vector"] + len(row["prompt_ids"])]
        assert mine.tolist() == row["embeddings"]
    assert np.linalg.norm(array, axis=1) == pytest.approx(np.ones(574), abs=1e-5)


def test_compat_takes_the_strongest_of_each_bin_and_joins_raw_tokens(
    compat: Made, prompts: list[list[str]]
) -> None:
    row = compat.row(TABLE, 0)
    strongest = max(range(10), key=lambda i: row["strengths"][i])
    assert row["quantiles"][strongest] == 3
    assert strongest == row["quantiles"].index(3), "the first of its bin"
    tokens, at = prompts[row["prompt_ids"][0]], row["positions"][0]
    text = " ".join(tokens[max(0, at - 16) : at + 16])
    assert "▁" in text
    assert np.array_equal(compat.vector(text), np.array(row["embeddings"][0], np.float32))
