"""Pattern matching as SAE_vis did it (`compat: true`): its contexts, its windows, its thresholds, its errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipeline.validation.config import PatternMatchingConfig
from pipeline.validation.pattern_rows import selected_ngram_compat
from pipeline.validation.population import Block, rows_of
from pipeline.validation.vectors import TextVectors
from pipeline.validation.writing import rows_by_feature
from saeinterp_mcp.patterns.choosing import strongest_position, window_bounds_compat
from saeinterp_mcp.patterns.matching_compat import (
    AlignedPhrase,
    CompatMatched,
    Context,
    compat_matching,
    compat_pattern,
)
from saeinterp_mcp.validation.prompt_tokens import PromptTokens, tokens_by_prompt

N_ROWS, N_PROMPTS = 10, 5
"""Contexts of meaning and of an n-gram, at most."""
WIDE = 16
"""Tokens before and after the strongest one in a context of meaning: 33 together."""


class Firing(NamedTuple):
    """A row of activation_examples that was looked at."""

    prompt: int
    position: int | None
    """Of the strongest token; None: it does not fire there."""


class Contexts(NamedTuple):
    """Texts that phrases of a feature are compared with."""

    lexical: list[str]
    semantic: list[str]
    ngram: str | None


def contexts_of_block(
    examples: Path, block: Block, similarities: Mapping[int, Mapping[str, Any]], width: int
) -> dict[int, Contexts]:
    """The contexts of each feature of a block that has examples."""
    columns = ("feature_id", "prompt_id", "max_activation", "activation_pairs")
    frame = rows_of(examples / "activation_examples.parquet", block, columns)
    firing = {feature: _firing(rows) for feature, rows in rows_by_feature(frame)}
    prompts = frame["prompt_id"].unique().sort().to_numpy().astype(np.int64)
    tokens = tokens_by_prompt(examples / "prompts.parquet", prompts)
    found = {}
    for feature, rows in firing.items():
        if feature in similarities:
            found[feature] = _contexts(rows, tokens, similarities[feature], width)
    return found


def _firing(rows: pl.DataFrame) -> list[Firing]:
    """Strongest first, but rows that do not fire come before all others: as its sort had it, nulls first."""
    ordered = rows.with_row_index("row").sort(
        ["max_activation", "row"], descending=[True, False], nulls_last=False, maintain_order=True
    )
    found = []
    for prompt, pairs in zip(ordered["prompt_id"], ordered["activation_pairs"], strict=True):
        at = None
        if len(pairs):
            places, values = pairs.struct.field("token_position"), pairs.struct.field("activation_value")
            at = strongest_position(places.to_list(), values.to_list())
        found.append(Firing(prompt, at))
    return found


def _contexts(
    rows: Sequence[Firing], tokens: PromptTokens, similarity: Mapping[str, Any], width: int
) -> Contexts:
    ngram = selected_ngram_compat(similarity)
    strongest = {row.prompt: row.position for row in rows}
    listed = [] if ngram is None else [one["prompt_id"] for one in ngram["activation_positions"][:N_PROMPTS]]
    lexical = []
    for prompt in listed:
        at = strongest[prompt]
        if at is not None:
            bounds = window_bounds_compat(tokens.length(prompt), at, width)
            lexical.append(" ".join(tokens.of(prompt, *bounds)))
    semantic = [
        " ".join(tokens.of(prompt, max(0, at - WIDE), min(tokens.length(prompt), at + WIDE + 1)))
        for prompt, at in rows[:N_ROWS]
        if at is not None
    ]
    return Contexts(lexical, semantic, None if ngram is None else ngram["ngram"])


def compat_row(
    section: PatternMatchingConfig,
    similarity: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    contexts: Contexts,
    vectors: TextVectors,
) -> dict[str, Any]:
    """All columns that SAE_vis had, but `feature_id` and `sae_id`."""
    said = [phrase for group in groups for phrase in group["phrases"]]
    texts = [*(one["text"] for one in said), *contexts.lexical, *contexts.semantic]
    rows = vectors.of(texts) if texts else np.zeros((0, 1), np.float32)
    split = len(said), len(said) + len(contexts.lexical)
    phrases = [
        AlignedPhrase(one["text"], one["explainer_name"], one["chunk_index"], rows[i])
        for i, one in enumerate(said)
    ]
    semantic = similarity["mean_pairwise_similarity"]
    pattern = compat_pattern(
        semantic,
        similarity["max_jaccard"],
        section.semantic_consistency_threshold,
        section.jaccard_consistency_threshold,
    )
    lexical = None if contexts.ngram is None else Context(contexts.ngram, rows[slice(*split)])
    found = compat_matching(
        pattern,
        lexical,
        Context("semantic_context", rows[split[1] :]),
        phrases,
        section.ngram_phrase_similarity_threshold,
    )
    return {
        "pattern_type": pattern,
        "activation_semantic_sim": semantic,
        "activation_max_jaccard": similarity["max_jaccard"],
        "selected_ngram": selected_ngram_compat(similarity),
        "num_aligned_phrases": len(said),
    } | _told(found)


def _told(found: CompatMatched) -> dict[str, Any]:
    return {
        "matches": [
            {
                "phrase_text": one.phrase.text,
                "explainer_name": one.phrase.explainer,
                "phrase_chunk_index": one.phrase.chunk_index,
                "semantic_similarity": one.similarity,
                "match_type": one.match,
            }
            for one in found.matches
        ],
        "mismatches": [
            {
                "item_text": one.item,
                "item_type": one.item_type,
                "mismatch_type": one.mismatch_type,
                "explainer_name": one.explainer,
                "semantic_similarity": one.similarity,
            }
            for one in found.mismatches
        ],
        "num_matches": len(found.matches),
        "num_mismatches": found.n_mismatches,
        "match_rate": found.rate,
        "phrases": [],
        "explainers": [],
    }
