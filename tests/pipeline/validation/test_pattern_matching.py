"""Whether explanations describe what activates their features, in a world where that is known."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from examples.validation.make_world import DEAD, ONCE, WORDS, fires_in
from pipeline.validation.pattern_rows import selected_ngram_compat
from pipeline.validation.vectors import TextVectors
from saeinterp_mcp.validation.baselines import published_baselines
from saeinterp_mcp.validation.claims import claims_of
from saeinterp_mcp.validation.tables import PATTERN_MATCHING
from tests.pipeline.validation.conftest import Made

TABLE = "ex_act_pattern_matching"
ALPHA, BETA = "lab/alpha-7b", "lab/beta-7b"


def explainer(row: dict[str, Any], name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [one for one in row["explainers"] if one["explainer_name"] == name]
    assert len(found) == 1
    return found[0]


def test_a_true_explanation_matches_whole_and_a_half_true_one_by_half(by_words: Made) -> None:
    row = by_words.row(TABLE, 0)
    assert [explainer(row, name)["match_rate"] for name in (ALPHA, BETA)] == [1.0, 0.5]
    assert (row["num_tested"], row["num_matches"], row["num_mismatches"]) == (3, 2, 1)
    assert row["match_rate"] == pytest.approx(2 / 3)
    assert row["match_rate_by_chance"] < 0.1
    assert row["match_percentile"] > 99
    assert row["pattern_type"] == "lexical"


def test_over_all_features_truth_is_told_from_the_other_half(by_words: Made) -> None:
    phrases = by_words.rows(TABLE).explode("phrases", empty_as_null=False)["phrases"].struct.unnest()
    names_another = phrases["phrase_text"].str.starts_with("names of")
    matched = phrases["match_type"].cast(pl.String) == "lexical"
    assert names_another.sum() == 48
    assert matched.filter(~names_another).mean() > 0.97  # type: ignore[operator]
    assert matched.filter(names_another).mean() < 0.1  # type: ignore[operator]


def test_matches_and_mismatches_tell_of_the_same_phrases_once_each(by_words: Made) -> None:
    for row in by_words.rows(TABLE).iter_rows(named=True):
        tested = [one for one in row["phrases"] if one["match_type"] is not None]
        said = [one for one in row["mismatches"] if one["mismatch_type"] == "explanation_only"]
        assert len(tested) == row["num_tested"] == len(row["matches"]) + len(said)
        assert {one["match_type"] for one in row["matches"]} <= {"lexical", "semantic", "both"}
        key = [(one["explainer_name"], one["phrase_chunk_index"]) for one in row["phrases"]]
        assert len(set(key)) == len(key)


def test_a_failed_explanation_is_no_claim(by_words: Made) -> None:
    row = by_words.row(TABLE, 7)
    assert [one["explainer_name"] for one in row["explainers"]] == [ALPHA]
    assert {one["explainer_name"] for one in row["phrases"]} == {ALPHA}


def test_what_was_not_tested_is_null_and_never_zero(by_words: Made) -> None:
    row = by_words.row(TABLE, DEAD)
    assert (row["num_tested"], row["match_rate"], row["match_rate_by_chance"], row["match_percentile"]) == (
        0,
        None,
        None,
        None,
    )
    assert row["pattern_type"] is None
    assert [one["match_type"] for one in row["phrases"]] == [None] * len(row["phrases"])
    assert row["matches"] == row["mismatches"] == []
    assert by_words.row(TABLE, ONCE)["pattern_type"] is None, "one example is not alike"


def test_the_chosen_ngram_is_the_word_that_all_examples_share(by_words: Made) -> None:
    ngram = by_words.row(TABLE, 3)["selected_ngram"]
    assert (ngram["ngram"], ngram["kind"], ngram["ngram_size"], ngram["count"]) == (WORDS[3], "word", 1, 8)
    assert {one["prompt_id"] for one in ngram["activation_positions"]} <= set(fires_in(3))
    similarity = by_words.row("activation_example_similarity", 3)
    assert ngram["jaccard_score"] == similarity["word_jaccard_similarity"][0]


def test_aligned_phrases_are_those_of_the_table_of_groups(embedded: Made) -> None:
    n = 0
    for row in embedded.rows(TABLE).iter_rows(named=True):
        groups = embedded.row("explanation_alignment", row["feature_id"])["aligned_groups"]
        expected = {
            (phrase["explainer_name"], phrase["text"], group["aligned_group_id"])
            for group in groups
            for phrase in group["phrases"]
        }
        found = {
            (one["explainer_name"], one["phrase_text"], one["aligned_group_id"])
            for one in row["phrases"]
            if one["aligned_group_id"] is not None
        }
        assert found == expected
        assert row["num_aligned_phrases"] == sum(len(group["phrases"]) for group in groups)
        n += len(found)
    assert n > 40


@pytest.mark.parametrize("feature", [0, 17, 44, ONCE])
def test_a_stored_row_is_what_the_published_folder_answers(embedded: Made, feature: int) -> None:
    reader, baselines = published_baselines(embedded.folder)
    settings = baselines.settings
    explanations = embedded.folder.of_feature("explanation_embeddings", feature)
    said = [
        (str(one["llm_explainer"]), one["explanation_text"])
        for one in explanations.iter_rows(named=True)
        if one["status"] == "ok"
    ]
    claims = claims_of(said, TextVectors(embedded.work / "vectors", embedded.model).of, settings.chunk_method)
    group = reader.groups([feature], settings.per_quantile)[feature]
    coherence = baselines.coherence.of(group, settings.percentile)
    row = embedded.row(TABLE, feature)
    assert row["pattern_type"] == coherence.pattern
    matched = baselines.match.match(claims, group, settings.percentile)
    stored = {
        name: np.array([one[name] for one in row["phrases"]])
        for name in (
            "match_type",
            "lexical_percentile",
            "semantic_similarity",
            "semantic_percentile",
            "shuffled_percentile",
        )
    }
    verdicts = [verdict for one in matched for verdict in one.verdicts]
    assert stored["match_type"].tolist() == [one.match for one in verdicts]
    for name, field in (
        ("lexical_percentile", "lexical_percentile"),
        ("semantic_similarity", "semantic"),
        ("semantic_percentile", "semantic_percentile"),
        ("shuffled_percentile", "shuffled_percentile"),
    ):
        now = [getattr(one, field) for one in verdicts]
        assert stored[name].astype(float) == pytest.approx(np.array(now, float), abs=1e-5), name
    for one, kept in zip(matched, row["explainers"], strict=True):
        assert (one.explainer, one.n_tested, one.n_matches) == (
            kept["explainer_name"],
            kept["num_tested"],
            kept["num_matches"],
        )
    together = [one.rate_by_chance for one in matched if one.rate_by_chance is not None]
    weights = [one.n_tested for one in matched if one.rate_by_chance is not None]
    assert row["match_rate_by_chance"] == pytest.approx(np.average(together, weights=weights), abs=1e-6)


def test_the_sidecar_says_how_the_baseline_was_drawn(embedded: Made) -> None:
    sidecar = embedded.folder.sidecar(TABLE)
    settings = sidecar["config_used"]["baseline"]
    assert (settings["n_random_features"], settings["per_quantile"], settings["seed"]) == (30, 2, 0)
    phrases = embedded.folder.vectors("phrases")
    assert phrases is not None
    assert len(settings["phrase_features"]) == len(phrases)
    assert "embedder" not in sidecar["config_used"], "which may be a folder of this machine"
    assert sidecar["result_stats"]["n_phrases_tested"] == embedded.rows(TABLE)["num_tested"].sum()


def compat_contexts(made: Made, prompts: list[list[str]], feature: int) -> tuple[list[str], list[str]]:
    """The four-token windows of the n-gram, and the 33-token ones of the ten strongest rows, silent ones first."""
    rows = made.folder.of_feature("activation_examples", feature)
    at: dict[int, int] = {}
    for one in rows.iter_rows(named=True):
        if one["activation_pairs"]:
            best = max(one["activation_pairs"], key=lambda pair: pair["activation_value"])
            at[one["prompt_id"]] = best["token_position"]
    ngram = selected_ngram_compat(made.row("activation_example_similarity", feature))
    assert ngram is not None
    lexical = [one["prompt_id"] for one in ngram["activation_positions"]][:5]
    silent = rows.filter(pl.col("max_activation").is_null())["prompt_id"].to_list()
    strong = rows.drop_nulls("max_activation").sort("max_activation", descending=True)["prompt_id"].to_list()
    first = [*silent, *strong][:10]
    assert len(silent) == 2, "two of the ten places are lost to rows that do not fire"
    return (
        [" ".join(prompts[one][max(0, at[one] - 2) : at[one] + 2]) for one in lexical],
        [" ".join(prompts[one][max(0, at[one] - 16) : at[one] + 17]) for one in first if one in at],
    )


@pytest.mark.parametrize("feature", [0, 21])
def test_compat_computes_what_sae_vis_computed(compat: Made, prompts: list[list[str]], feature: int) -> None:
    row = compat.row(TABLE, feature)
    similarity = compat.row("activation_example_similarity", feature)
    semantic, jaccard = similarity["mean_pairwise_similarity"] > 0.3, similarity["max_jaccard"] > 0.3
    assert (semantic, jaccard) == (True, True)
    assert row["pattern_type"] == "both"
    groups = compat.row("explanation_alignment", feature)["aligned_groups"]
    phrases = [phrase for group in groups for phrase in group["phrases"]]
    tests = compat_contexts(compat, prompts, feature)
    matched: dict[tuple[str, str], float] = {}
    failed: list[tuple[tuple[str, str], float]] = []
    for texts in tests:
        middle = np.mean([compat.vector(text).astype(np.float64) for text in texts], axis=0)
        for phrase in phrases:
            vector = compat.vector(phrase["text"]).astype(np.float64)
            cosine = float(middle @ vector / np.linalg.norm(middle) / np.linalg.norm(vector))
            key = (phrase["text"], phrase["explainer_name"])
            if cosine >= 0.5:
                matched[key] = max(cosine, matched.get(key, -1))
            else:
                failed.append((key, cosine))
    left = [cosine for key, cosine in failed if key not in matched]
    stored = [one["semantic_similarity"] for one in row["mismatches"] if one["item_type"] == "phrase"]
    assert stored == pytest.approx(left, abs=1e-6)
    assert [one["semantic_similarity"] for one in row["matches"]] == pytest.approx(
        list(matched.values()), abs=1e-6
    )
    assert (row["num_matches"], row["num_mismatches"]) == (len(matched), len(left))
    tested = len(matched) + len(left)
    assert row["match_rate"] == pytest.approx(len(matched) / tested if tested else 0.0)


def test_compat_has_a_rate_of_zero_where_nothing_was_tested_and_says_so(compat: Made) -> None:
    assert compat.row(TABLE, DEAD)["match_rate"] == 0.0
    (warning,) = compat.folder.sidecar(TABLE)["warnings"]
    assert "match_rate 0 also stands for features where nothing was tested" in warning


def test_tables_have_the_types_that_were_declared(embedded: Made) -> None:
    assert dict(embedded.folder.table(TABLE).collect_schema()) == PATTERN_MATCHING.schema
