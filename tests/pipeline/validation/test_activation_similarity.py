"""How alike a feature's examples are, by formulas worked out a second time here."""

from itertools import combinations

import numpy as np
import polars as pl
import pytest

from examples.validation.make_world import DEAD, FEW, ONCE, WORDS, fires_in, strength
from tests.pipeline.validation.conftest import Made

TABLE, CHOSEN = "activation_example_similarity", "activation_embeddings"


def cosines_of(made: Made, feature: int) -> list[float]:
    """Of all pairs of the examples that the row names."""
    row, chosen = made.row(TABLE, feature), made.row(CHOSEN, feature)
    vectors = dict(zip(chosen["prompt_ids"], chosen["embeddings"], strict=True))
    pairs = combinations([np.array(vectors[one], np.float64) for one in row["prompt_ids_analyzed"]], 2)
    return [float(a @ b) for a, b in pairs]


def mean_jaccard(texts: list[str], size: int, both_empty: float | None) -> float:
    values = []
    for a, b in combinations(texts, 2):
        x, y = ({text[i : i + size] for i in range(len(text) - size + 1)} for text in (a, b))
        either = len(x | y)
        if either or both_empty is not None:
            values.append(len(x & y) / either if either else both_empty)
    return float(np.mean([one for one in values if one is not None]))


def test_two_of_each_quantile_are_compared_and_they_are_the_first_of_the_chosen(by_words: Made) -> None:
    row, chosen = by_words.row(TABLE, 7), by_words.row(CHOSEN, 7)
    first_two = [
        prompt
        for q in range(4)
        for prompt in [p for p, at in zip(chosen["prompt_ids"], chosen["quantiles"], strict=True) if at == q][
            :2
        ]
    ]
    assert row["prompt_ids_analyzed"] == first_two
    assert (row["num_examples_sampled"], row["num_total_activations"]) == (8, 10)


def test_similarities_are_those_of_the_vectors(embedded: Made) -> None:
    for feature in (0, 30, FEW):
        row, values = embedded.row(TABLE, feature), cosines_of(embedded, feature)
        found = [row[f"{name}_pairwise_similarity"] for name in ("mean", "std", "min", "max")]
        expected = [np.mean(values), np.std(values), min(values), max(values)]
        assert found == pytest.approx(expected, abs=1e-6)


def test_ngrams_are_of_the_five_tokens_in_the_middle_as_they_read(
    by_words: Made, prompts: list[list[str]]
) -> None:
    chosen = by_words.row(CHOSEN, 12)
    at = dict(zip(chosen["prompt_ids"], chosen["positions"], strict=True))
    row = by_words.row(TABLE, 12)
    texts = [
        "".join(prompts[one][at[one] - 2 : at[one] + 3]).replace("▁", " ")
        for one in row["prompt_ids_analyzed"]
    ]
    expected = [mean_jaccard(texts, size, None) for size in (2, 3, 4)]
    assert row["ngram_jaccard_similarity"] == pytest.approx(expected, abs=1e-6)
    assert row["max_jaccard"] == pytest.approx(max(expected), abs=1e-6)


def test_an_ngram_is_placed_where_it_begins(by_words: Made, prompts: list[list[str]]) -> None:
    row = by_words.row(TABLE, 5)  # `▁gar` `den`: it fires on the second piece
    word = next(one for one in row["top_common_ngrams"] if (one["kind"], one["ngram_size"]) == ("word", 1))
    assert (word["ngram"], word["n_examples"], word["count"]) == ("garden", 8, 8)
    for found in word["occurrences"]:
        (position,) = found["positions"]
        assert prompts[found["prompt_id"]][position : position + 2] == ["▁gar", "den"]


def test_boundaries_are_of_all_prompts_in_which_it_fires(by_words: Made) -> None:
    strengths = [strength(8, prompt) for prompt in fires_in(8)]
    expected = np.quantile(strengths, [0.25, 0.5, 0.75])
    assert by_words.row(TABLE, 8)["quantile_boundaries"] == pytest.approx(expected.tolist())
    assert by_words.row(TABLE, FEW)["quantile_boundaries"] == []


def test_what_was_planted_stands_out_of_random_windows(by_words: Made) -> None:
    rows = by_words.rows(TABLE).filter(pl.col("num_examples_sampled") == 8)
    assert len(rows) == 57
    assert (rows["lexical_percentile"] > 99).all()


def test_a_percentile_is_among_windows_of_different_features(embedded: Made) -> None:
    rows = embedded.rows(CHOSEN).filter(pl.col("prompt_ids").list.len() > 0)
    vectors = {
        row["feature_id"]: np.array(row["embeddings"], np.float64) for row in rows.iter_rows(named=True)
    }
    generator, random = np.random.default_rng(5), []
    for _ in range(2_000):
        features = generator.choice(list(vectors), 8, replace=False)
        drawn = np.stack([vectors[one][generator.integers(len(vectors[one]))] for one in features])
        random.append(((drawn @ drawn.T).sum() - 8) / 56)
    for feature in range(0, 50, 7):
        row = embedded.row(TABLE, feature)
        expected = 100 * np.mean(np.array(random) < row["mean_pairwise_similarity"])
        # 30 of the 59 features are drawn from there
        assert row["semantic_percentile"] == pytest.approx(expected, abs=22)


@pytest.mark.parametrize("feature", [DEAD, ONCE])
def test_under_two_examples_nothing_is_known(embedded: Made, feature: int) -> None:
    row = embedded.row(TABLE, feature)
    assert row["num_examples_sampled"] == (1 if feature == ONCE else 0)
    assert row["ngram_jaccard_similarity"] == [None, None, None]
    names = ("mean_pairwise_similarity", "max_jaccard", "semantic_percentile", "lexical_percentile")
    assert [row[name] for name in names] == [None] * 4
    assert row["top_common_ngrams"] == []


def test_compat_has_the_formulas_of_sae_vis(compat: Made, prompts: list[list[str]]) -> None:
    row, chosen = compat.row(TABLE, 12), compat.row(CHOSEN, 12)
    at = dict(zip(chosen["prompt_ids"], chosen["positions"], strict=True))
    strengths = dict(zip(chosen["prompt_ids"], chosen["strengths"], strict=True))
    ids = row["prompt_ids_analyzed"]
    texts = ["".join(prompts[one][max(0, at[one] - 2) : at[one] + 2]) for one in ids]
    assert all("▁" in text for text in texts)
    expected = [mean_jaccard(texts, size, 1.0) for size in (2, 3, 4)]
    assert row["ngram_jaccard_similarity"] == pytest.approx(expected, abs=1e-6)
    assert row["mean_pairwise_similarity"] == pytest.approx(np.mean(cosines_of(compat, 12)), abs=1e-6)
    # boundaries of the chosen ones, not of all; each n-gram where the strongest token is, once an occurrence
    sampled = np.quantile([strengths[one] for one in ids], [0.25, 0.5, 0.75])
    assert row["quantile_boundaries"] == pytest.approx(sampled.tolist())
    four = next(one for one in row["top_common_ngrams"] if one["ngram_size"] == 4)
    assert four["ngram"] == f"▁{WORDS[12]}"[:4]
    assert all(set(found["positions"]) == {at[found["prompt_id"]]} for found in four["occurrences"])
    assert row["semantic_percentile"] is None


def test_compat_calls_two_empty_windows_alike() -> None:
    from pipeline.validation.compat_windows import mean_jaccards

    # "a" has no bigram: alike with itself (1), and with "abc" not at all (0)
    assert mean_jaccards(["a", "a", "abc"], [2]) == pytest.approx([1 / 3])
    assert mean_jaccards(["abc"], [2, 3]) == [None, None]
