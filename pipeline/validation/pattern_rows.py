"""Rows of ex_act_pattern_matching, from what was measured of a feature's examples and explanations."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from saeinterp_mcp.patterns.matching import Unsaid
from saeinterp_mcp.patterns.records import Coherence, Matched, Ngram, PatternType, Verdict
from saeinterp_mcp.validation.judging import Judged

SIZES = {"char": (2, 3, 4), "word": (1, 2, 3)}
"""Of n-grams, in the order of the columns of their Jaccards."""
JACCARDS = {"char": "ngram_jaccard_similarity", "word": "word_jaccard_similarity"}
NOTHING = {
    "mean_pairwise_similarity": None,
    "max_jaccard": None,
    "semantic_percentile": None,
    "lexical_percentile": None,
    "ngram_jaccard_similarity": [None, None, None],
    "word_jaccard_similarity": [None, None, None],
    "top_common_ngrams": [],
}
"""The similarity of a feature without examples."""


class AlignedGroups(NamedTuple):
    """Which phrases of a feature are in an aligned group."""

    group_of: Mapping[tuple[str, int, int], int]
    """(explainer, chunk index, first character) to the group."""


def aligned_groups(groups: Sequence[Mapping[str, Any]]) -> AlignedGroups:
    """Of a row of explanation_alignment."""
    return AlignedGroups(
        {
            (phrase["explainer_name"], phrase["chunk_index"], phrase["start"]): group["aligned_group_id"]
            for group in groups
            for phrase in group["phrases"]
        }
    )


def coherence_of(similarity: Mapping[str, Any], percentile: float) -> Coherence:
    """What activation_example_similarity holds of a feature."""
    semantic, lexical = similarity["semantic_percentile"], similarity["lexical_percentile"]
    return Coherence(
        semantic=similarity["mean_pairwise_similarity"],
        semantic_std=None,
        semantic_min=None,
        semantic_max=None,
        semantic_percentile=semantic,
        jaccard=tuple(similarity["ngram_jaccard_similarity"]),
        word_jaccard=tuple(similarity["word_jaccard_similarity"]),
        max_jaccard=similarity["max_jaccard"],
        lexical_percentile=lexical,
        pattern=_pattern(semantic, lexical, percentile),
    )


def _pattern(semantic: float | None, lexical: float | None, percentile: float) -> PatternType | None:
    if semantic is None and lexical is None:
        return None
    means = semantic is not None and semantic > percentile
    words = lexical is not None and lexical > percentile
    if means and words:
        return "both"
    return "semantic" if means else "lexical" if words else "none"


def ngrams_of(similarity: Mapping[str, Any]) -> list[Ngram]:
    """The n-grams that a feature's examples share, without their places."""
    return [
        Ngram(one["ngram"], one["ngram_size"], one["kind"], one["count"], one["n_examples"], ())
        for one in similarity["top_common_ngrams"]
    ]


def selected_ngram(similarity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What most of the examples share: words before characters, then the longest."""
    ngrams = similarity["top_common_ngrams"]
    order = sorted(ngrams, key=lambda one: (-one["n_examples"], one["kind"] != "word", -one["ngram_size"]))
    return _selected(order[0], similarity) if order else None


def selected_ngram_compat(similarity: Mapping[str, Any]) -> dict[str, Any] | None:
    """As SAE_vis chose: that of the size with the largest Jaccard, which the smallest size nearly always has."""
    jaccards = similarity[JACCARDS["char"]]
    known = [(-value, size) for value, size in zip(jaccards, SIZES["char"], strict=True) if value is not None]
    if not known:
        return None
    size = min(known)[1]
    ngrams = similarity["top_common_ngrams"]
    found = next((one for one in ngrams if one["kind"] == "char" and one["ngram_size"] == size), None)
    return None if found is None else _selected(found, similarity)


def _selected(ngram: Mapping[str, Any], similarity: Mapping[str, Any]) -> dict[str, Any]:
    kind, size = ngram["kind"], ngram["ngram_size"]
    jaccards = dict(zip(SIZES[kind], similarity[JACCARDS[kind]], strict=True))
    return {
        "ngram": ngram["ngram"],
        "ngram_size": size,
        "jaccard_score": jaccards.get(size),
        "count": ngram["count"],
        "activation_positions": ngram["occurrences"],
        "kind": kind,
    }


def pattern_row(
    similarity: Mapping[str, Any],
    coherence: Coherence,
    judged: Judged,
    aligned: AlignedGroups | None,
) -> dict[str, Any]:
    """All columns but `feature_id` and `sae_id`."""
    said = [(one.explainer, verdict) for one in judged.each for verdict in one.verdicts]
    tested = [(explainer, verdict) for explainer, verdict in said if verdict.match is not None]
    together = judged.together
    n_tested = 0 if together is None else together.n_tested
    n_matches = 0 if together is None else together.n_matches
    phrases = [_phrase(explainer, verdict, aligned) for explainer, verdict in said]
    return {
        "pattern_type": coherence.pattern,
        "activation_semantic_sim": coherence.semantic,
        "activation_max_jaccard": coherence.max_jaccard,
        "selected_ngram": selected_ngram(similarity),
        "num_aligned_phrases": sum(one["aligned_group_id"] is not None for one in phrases),
        "matches": [_match(*one) for one in tested if one[1].match != "none"],
        "mismatches": [
            *(_mismatch(*one) for one in tested if one[1].match == "none"),
            *(_unsaid(one) for one in judged.unsaid),
        ],
        "num_matches": n_matches,
        "num_mismatches": n_tested - n_matches,
        "match_rate": None if together is None else together.rate,
        "lexical_percentile": coherence.lexical_percentile,
        "semantic_percentile": coherence.semantic_percentile,
        "num_tested": n_tested,
        "match_rate_by_chance": None if together is None else together.rate_by_chance,
        "match_percentile": None if together is None else together.rate_percentile,
        "phrases": phrases,
        "explainers": [_explainer(one) for one in judged.each],
    }


def _phrase(explainer: str, verdict: Verdict, aligned: AlignedGroups | None) -> dict[str, Any]:
    phrase = verdict.phrase
    key = (explainer, phrase.chunk_index, phrase.start)
    return {
        "explainer_name": explainer,
        "phrase_text": phrase.text,
        "phrase_chunk_index": phrase.chunk_index,
        "start": phrase.start,
        "end": phrase.end,
        "aligned_group_id": None if aligned is None else aligned.group_of.get(key),
        "match_type": verdict.match,
        "lexical_similarity": verdict.lexical,
        "lexical_percentile": verdict.lexical_percentile,
        "matched_term": verdict.term,
        "semantic_similarity": verdict.semantic,
        "semantic_percentile": verdict.semantic_percentile,
        "shuffled_percentile": verdict.shuffled_percentile,
    }


def _match(explainer: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "phrase_text": verdict.phrase.text,
        "explainer_name": explainer,
        "phrase_chunk_index": verdict.phrase.chunk_index,
        "semantic_similarity": verdict.semantic,
        "match_type": verdict.match,
    }


def _mismatch(explainer: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "item_text": verdict.phrase.text,
        "item_type": "phrase",
        "mismatch_type": "explanation_only",
        "explainer_name": explainer,
        "semantic_similarity": verdict.semantic,
    }


def _unsaid(one: Unsaid) -> dict[str, Any]:
    return {
        "item_text": one.text or one.kind,
        "item_type": one.kind,
        "mismatch_type": "activation_only",
        "explainer_name": None,
        "semantic_similarity": None,
    }


def _explainer(one: Matched) -> dict[str, Any]:
    return {
        "explainer_name": one.explainer,
        "num_tested": one.n_tested,
        "num_matches": one.n_matches,
        "match_rate": one.rate,
        "match_percentile": one.rate_percentile,
    }
