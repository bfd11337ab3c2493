"""TABLES: the tables that set explanations against activations, and what each column holds.

Names and nesting are those of the SAE_vis data layer (its eight Parquet files); columns after the comment `ours` were
added. `feature_id` is UInt32 and `sae_id` the spelling of `saeinterp_mcp.validation.names.sae_id` in every table, so
that all of them join on these two. null is "not known" or "not tested", never 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from polars import Categorical, Float32, Float64, Int64, List, String, Struct, UInt8, UInt16, UInt32

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.validation.names import REMAKE as REMAKE
from saeinterp_mcp.validation.names import VERSION as VERSION

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

KEY = {"feature_id": UInt32, "sae_id": Categorical}


@dataclass(frozen=True)
class Table:
    """One table: its name is also that of its file."""

    name: str
    schema: "dict[str, PolarsDataType]"
    sorted_by: tuple[str, ...] = ("feature_id",)
    """Order of its rows; strings by their bytes."""

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.name}.parquet"

    def empty(self) -> pl.DataFrame:
        """The table without rows, of the same types."""
        return pl.DataFrame(schema=self.schema)

    def check(self, frame: pl.DataFrame | pl.LazyFrame, path: Path) -> None:
        """Refuse a frame of other columns, order or types.

        Raises:
            BadStore: with the first column that differs.
        """
        found = dict(frame.collect_schema())
        if list(found) != list(self.schema):
            raise BadStore(path, f"the columns {', '.join(self.schema)}", ", ".join(found), REMAKE)
        for column, dtype in self.schema.items():
            if found[column] != dtype:
                raise BadStore(path, f"{column} as {dtype}", str(found[column]), REMAKE)


ACTIVATION_EXAMPLES = Table(
    "activation_examples",
    {
        **KEY,
        "prompt_id": UInt32,
        "prompt_tokens": List(String),
        "num_activations": UInt32,
        "max_activation": Float32,
        "activation_pairs": List(Struct({"token_position": UInt32, "activation_value": Float32})),
        # ours
        "prompt_length": UInt32,
        "mean_activation": Float32,
    },
    ("feature_id", "prompt_id"),
)
"""A row is a (feature, prompt); `mean_activation` is the mean of its pairs; max and mean are null without any."""

PROMPTS = Table(
    "prompts", {"sae_id": Categorical, "prompt_id": UInt32, "prompt_tokens": List(String)}, ("prompt_id",)
)
"""Ours: each prompt's tokens once."""

EXPLANATION_STATUS = ("ok", "unparsed", "empty", "runaway")
EXPLANATION_EMBEDDINGS = Table(
    "explanation_embeddings",
    {
        **KEY,
        "data_source": Categorical,
        "llm_explainer": Categorical,
        "embedding": List(Float32),
        # ours
        "explanation_text": String,
        "explanation_method": Categorical,
        "status": Categorical,
        "vector": UInt32,
        "raw_sha256": String,
    },
    ("feature_id", "llm_explainer", "data_source"),
)
"""A row is an explanation. `status` is of EXPLANATION_STATUS; only `ok` ones have an `embedding` (with `compat`
all that have a text). `vector` is its row in `vectors/explanations.npy`."""

FEATURES = Table(
    "features",
    {
        **KEY,
        "explanation_method": Categorical,
        "llm_explainer": Categorical,
        "explanation_text": String,
        "decoder_similarity": List(Struct({"feature_id": UInt32, "cosine_similarity": Float32})),
        "semantic_similarity": List(
            Struct({"explainer": Categorical, "cosine_similarity": Float32, "percentile": Float32})
        ),
        "scores": List(
            Struct(
                {
                    "scorer": String,
                    "fuzz": Float64,
                    "simulation": Float64,
                    "detection": Float64,
                    "embedding": Float64,
                    # ours
                    "surprisal": Float64,
                    "fuzz_low": Float64,
                    "fuzz_high": Float64,
                    "detection_low": Float64,
                    "detection_high": Float64,
                    "n_fuzz": UInt32,
                    "n_detection": UInt32,
                    "n_failed": UInt32,
                }
            )
        ),
        # ours
        "status": Categorical,
        "data_source": Categorical,
    },
    ("feature_id", "llm_explainer"),
)
"""A row is a (feature, explainer). `semantic_similarity.percentile`: percent of random pairs of explanations (of
these two explainers, of different features) with a lower cosine, ties half. `fuzz` and `detection` are balanced
accuracies (plain ones with `compat`, and where SAE_vis' `scores.json` is all there is: a warning says so), `simulation`
the overall correlation, `embedding` a ROC-AUC. An explanation that is not `ok` has scorers and counts, no scores."""

SCORES = Table(
    "scores",
    {
        **KEY,
        "data_source": Categorical,
        "llm_explainer": Categorical,
        "llm_scorer": Categorical,
        "method": Categorical,
        "score": Float64,
        "low": Float64,
        "high": Float64,
        "n": UInt32,
        "n_failed": UInt32,
        "n_batches_failed": UInt32,
        "tp": UInt32,
        "fp": UInt32,
        "tn": UInt32,
        "fn": UInt32,
        "accuracy": Float64,
        "balanced_accuracy": Float64,
        "balanced_low": Float64,
        "balanced_high": Float64,
        "f1": Float64,
        "auroc": Float64,
        "auroc_low": Float64,
        "auroc_high": Float64,
        "chance_low": Float64,
        "chance_high": Float64,
        "quantiles": List(Struct({"quantile": Int64, "n": UInt32, "value": Float64})),
        "held_out": Categorical,
        "reason": String,
        "raw_sha256": String,
    },
    ("feature_id", "llm_explainer", "llm_scorer", "method", "data_source"),
)
"""Ours: a row is a test of an explanation. `method`: fuzz, detection, simulation, embedding, surprisal, intruder.
`score` is the one that ranks: balanced accuracy, overall correlation, or ROC-AUC; `low`, `high` its 95 % interval.
`chance_low` and `chance_high`: where 95 % of scores lie by chance. `quantiles`: hits or correlation for each
quantile. `held_out`: `leaked` (delphi draws test examples that its explainer may have seen), `unknown` or `yes`
(our own tests). `reason`: why `score` is null, or a plain accuracy. Quantile 0 is the strongest. `n`: what was
compared: answers, of a simulation tokens; its `n_failed` counts groups. It has no interval, for tokens are not
independent. `chance_*` of fuzz and detection: with as many yes and no dealt at random."""

ACTIVATION_EMBEDDINGS = Table(
    "activation_embeddings",
    {
        **KEY,
        "prompt_ids": List(UInt32),
        "embeddings": List(List(Float32)),
        # ours
        "quantiles": List(UInt8),
        "positions": List(UInt32),
        "strengths": List(Float32),
        "first_vector": UInt32,
    },
)
"""A row is a feature: its chosen examples, quantile 0 the weakest, with the position and the activation of the
strongest token of each. Their vectors are the rows `first_vector`, ... of `vectors/activations.npy`; `embeddings` are
the same numbers (without an embedder both are missing: null and empty)."""

NGRAM = Struct(
    {
        "ngram": String,
        "ngram_size": UInt8,
        "count": UInt16,
        "occurrences": List(Struct({"prompt_id": UInt32, "positions": List(UInt16)})),
        # ours
        "kind": String,
        "n_examples": UInt16,
    }
)
"""`positions`: of the tokens in which its occurrences begin, in the prompt. `kind`: char or word. `n_examples`: in
how many of the examples it occurs; `count` counts repeats."""

ACTIVATION_SIMILARITY = Table(
    "activation_example_similarity",
    {
        **KEY,
        "num_examples_sampled": UInt32,
        "mean_pairwise_similarity": Float32,
        "std_pairwise_similarity": Float32,
        "min_pairwise_similarity": Float32,
        "max_pairwise_similarity": Float32,
        # ours
        "semantic_percentile": Float32,
        "ngram_jaccard_similarity": List(Float32),
        "word_jaccard_similarity": List(Float32),
        "max_jaccard": Float32,
        "lexical_percentile": Float32,
        "prompt_ids_analyzed": List(UInt32),
        "num_total_activations": UInt32,
        "top_common_ngrams": List(NGRAM),
        "quantile_boundaries": List(Float32),
    },
)
"""A row is a feature. Percentiles are among groups of as many examples of different random features.
`ngram_jaccard_similarity`: mean over pairs, character n-grams of 2, 3 and 4; `word_jaccard_similarity`: of 1, 2 and
3 words. `num_total_activations`: prompts in which it fires. `quantile_boundaries`: of the maxima of all of
these."""

INTERFEATURE_SIMILARITY = Table(
    "interfeature_similarity",
    {
        **KEY,
        "selected_features": List(
            Struct(
                {
                    "feature_id": UInt32,
                    "decoder_similarity": Float32,
                    "sample_info": List(
                        Struct({"quantile": UInt8, "prompt_id": UInt32, "max_activation": Float32})
                    ),
                    # ours
                    "semantic_similarity": Float32,
                    "semantic_percentile": Float32,
                    "ngram_jaccard_similarity": List(Float32),
                    "lexical_percentile": Float32,
                }
            )
        ),
        "similarity_pairs": List(
            Struct(
                {
                    "main_feature_id": UInt32,
                    "main_prompt_id": UInt32,
                    "main_quantile": UInt8,
                    "selected_feature_id": UInt32,
                    "selected_prompt_id": UInt32,
                    "selected_quantile": UInt8,
                    "semantic_similarity": Float32,
                }
            )
        ),
        "ngram_analysis": List(
            Struct(
                {
                    "ngram": String,
                    "ngram_size": UInt8,
                    "jaccard_score": Float32,
                    "count": UInt16,
                    "occurrences": List(
                        Struct({"feature_id": UInt32, "prompt_id": UInt32, "positions": List(UInt16)})
                    ),
                }
            )
        ),
    },
)
"""A row is a feature against its nearest by decoder direction. Percentiles of a pair of features are among random
pairs."""

EXPLANATION_ALIGNMENT = Table(
    "explanation_alignment",
    {
        **KEY,
        "llm_explainers": List(String),
        "num_aligned_groups": UInt16,
        "aligned_groups": List(
            Struct(
                {
                    "aligned_group_id": UInt16,
                    "similarity_score": Float32,
                    "phrases": List(
                        Struct(
                            {
                                "explainer_name": String,
                                "text": String,
                                "chunk_index": UInt16,
                                # ours
                                "start": UInt32,
                                "end": UInt32,
                            }
                        )
                    ),
                    # ours
                    "percentile": Float32,
                }
            )
        ),
    },
)
"""A row is a feature. `start`, `end`: characters of the phrase in its explanation. `percentile` of a group: share
of random pairs of phrases of different features with a lower cosine than its least alike pair."""

MATCH_TYPES = ("lexical", "semantic", "both", "none")
PATTERN_MATCHING = Table(
    "ex_act_pattern_matching",
    {
        **KEY,
        "pattern_type": Categorical,
        "activation_semantic_sim": Float32,
        "activation_max_jaccard": Float32,
        "selected_ngram": Struct(
            {
                "ngram": String,
                "ngram_size": UInt8,
                "jaccard_score": Float32,
                "count": UInt16,
                "activation_positions": List(Struct({"prompt_id": UInt32, "positions": List(UInt16)})),
                # ours
                "kind": String,
            }
        ),
        "num_aligned_phrases": UInt16,
        "matches": List(
            Struct(
                {
                    "phrase_text": String,
                    "explainer_name": String,
                    "phrase_chunk_index": UInt16,
                    "semantic_similarity": Float32,
                    "match_type": String,
                }
            )
        ),
        "mismatches": List(
            Struct(
                {
                    "item_text": String,
                    "item_type": String,
                    "mismatch_type": String,
                    "explainer_name": String,
                    "semantic_similarity": Float32,
                }
            )
        ),
        "num_matches": UInt16,
        "num_mismatches": UInt16,
        "match_rate": Float32,
        # ours
        "lexical_percentile": Float32,
        "semantic_percentile": Float32,
        "num_tested": UInt16,
        "match_rate_by_chance": Float32,
        "match_percentile": Float32,
        "phrases": List(
            Struct(
                {
                    "explainer_name": String,
                    "phrase_text": String,
                    "phrase_chunk_index": UInt16,
                    "start": UInt32,
                    "end": UInt32,
                    "aligned_group_id": UInt16,
                    "match_type": String,
                    "lexical_similarity": Float32,
                    "lexical_percentile": Float32,
                    "matched_term": String,
                    "semantic_similarity": Float32,
                    "semantic_percentile": Float32,
                    "shuffled_percentile": Float32,
                }
            )
        ),
        "explainers": List(
            Struct(
                {
                    "explainer_name": String,
                    "num_tested": UInt16,
                    "num_matches": UInt16,
                    "match_rate": Float32,
                    "match_percentile": Float32,
                }
            )
        ),
    },
)
"""A row is a feature. `selected_ngram`: what most of its examples share, words before characters and longer ones
first (with `compat` the character n-gram of the size with the largest Jaccard). `phrases` holds every phrase with
its verdict (`match_type` null: not tested); `matches` and `mismatches` tell of the same ones. `match_rate` =
matches / tested, null when nothing was tested; `match_rate_by_chance` the mean of the same phrases on random
features, `match_percentile` the share of those with a lower rate."""

PUBLISHED = Table(
    "published_features",
    {
        **KEY,
        "data_source": Categorical,
        "frac_nonzero": Float64,
        "max_act_approx": Float64,
        "n_prompts_total": UInt32,
        "n_tokens_in_prompt": UInt32,
        "histogram_values": List(Float64),
        "histogram_heights": List(Float64),
        "logits_values": List(Float64),
        "logits_heights": List(Float64),
        "promoted": List(Struct({"token": String, "value": Float64})),
        "suppressed": List(Struct({"token": String, "value": Float64})),
        "similar": List(Struct({"feature_id": UInt32, "cosine_similarity": Float64})),
    },
    ("feature_id", "data_source"),
)
"""Ours: what somebody's dashboard published about a feature (Neuronpedia, SAEDashboard), as it stood there."""

NEIGHBOURS = Table(
    "neighbours",
    {
        **KEY,
        "data_source": Categorical,
        "measure": Categorical,
        "rank": UInt16,
        "neighbour_id": UInt32,
        "value": Float64,
    },
    ("feature_id", "measure", "data_source", "rank"),
)
"""Ours: neighbours that a delphi run wrote. `measure`: co-occurrence (Jaccard of positions), decoder_similarity or
encoder_similarity (cosines)."""

MERGES = Table(
    "feature_merges",
    {
        "sae_id": Categorical,
        "merge": UInt32,
        "a": UInt32,
        "b": UInt32,
        "cosine_similarity": Float32,
        "size": UInt32,
    },
    ("merge",),
)
"""Ours: average-linkage clusters along known neighbours. Cluster n_features + i is that of merge i; `a`, `b` are
features or earlier merges, `cosine_similarity` the mean cosine between members. Clusters without a known neighbour
never merge."""

TABLES: tuple[Table, ...] = (
    ACTIVATION_EXAMPLES,
    PROMPTS,
    EXPLANATION_EMBEDDINGS,
    FEATURES,
    SCORES,
    ACTIVATION_EMBEDDINGS,
    ACTIVATION_SIMILARITY,
    INTERFEATURE_SIMILARITY,
    EXPLANATION_ALIGNMENT,
    PATTERN_MATCHING,
    PUBLISHED,
    NEIGHBOURS,
    MERGES,
)
BY_NAME = {table.name: table for table in TABLES}
