"""How alike the examples of each feature are, in meaning and in letters, against windows of random features."""

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.compat_windows import mean_jaccards, ngram_text, top_ngrams
from pipeline.validation.config import (
    ActivationEmbeddingsConfig,
    ActivationSimilarityConfig,
    PatternMatchingConfig,
)
from pipeline.validation.population import Block, Population, feature_blocks, read_population
from pipeline.validation.writing import merge_shards, run_shards, shard_path, write_sidecar, write_table
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.patterns.choosing import boundaries
from saeinterp_mcp.patterns.coherence import CoherenceBaseline, pairwise_cosines
from saeinterp_mcp.patterns.ngrams import common_ngrams, core_of
from saeinterp_mcp.patterns.records import Group, Ngram
from saeinterp_mcp.validation.baselines import BaselineSettings, coherence_baseline
from saeinterp_mcp.validation.groups import GroupReader, stage_reader
from saeinterp_mcp.validation.tables import ACTIVATION_SIMILARITY as TABLE

EXAMPLES = "activation_examples.parquet"
SIZES = (2, 3, 4)
"""Of character n-grams whose Jaccard is a column."""


class ActivationSimilarityStage(Frozen):
    """What the stage may know."""

    sae_id: str
    compat: bool
    seed: int
    activation_embeddings: ActivationEmbeddingsConfig
    activation_similarity: ActivationSimilarityConfig
    pattern_matching: PatternMatchingConfig

    def settings(self) -> BaselineSettings:
        """Of what the examples of a feature are compared with."""
        return BaselineSettings(
            n_random_features=self.pattern_matching.n_random_features,
            per_quantile=self.activation_similarity.examples_per_quantile,
            percentile=self.pattern_matching.percentile,
            core=self.activation_similarity.ngram_window_size,
            seed=self.seed,
        )


def _run(
    config: ActivationSimilarityStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    examples, embeddings = inputs["activation_examples"], inputs["activation_embeddings"]
    blocks = feature_blocks(examples / EXAMPLES)
    run_shards(
        out,
        blocks,
        partial(_block, config, examples, embeddings, out),
        lambda block: shard_path(out, TABLE.name, block.number).is_file(),
        execution.workers,
        progress,
    )
    n = merge_shards(TABLE, out, len(blocks))
    columns = ("mean_pairwise_similarity", "max_jaccard", "semantic_percentile", "lexical_percentile")
    frame = pl.scan_parquet(out / TABLE.file).select(columns).collect()
    known = {f"n_{name}": int(frame[name].is_not_null().sum()) for name in columns}
    means = {f"mean_{name}": _rounded(frame[name].mean()) for name in columns[:2]}
    warnings = _warnings(config, known)
    used = config.model_dump(mode="json")
    write_sidecar(TABLE, out, config.sae_id, used, {"n_features": n, **known, **means}, warnings)
    return Summary(n_in=n, n_kept=n, notes=tuple(warnings))


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 6)


def _warnings(config: ActivationSimilarityStage, known: Mapping[str, int]) -> list[str]:
    if config.compat:
        return ["compat: windows, n-grams and boundaries as SAE_vis had them, and no percentiles"]
    warnings = []
    if not known["n_mean_pairwise_similarity"]:
        warnings.append("no embedder: the meaning of examples was not compared")
    if known["n_max_jaccard"] and not known["n_lexical_percentile"]:
        warnings.append("too few features to draw random ones from: no percentiles")
    return warnings


def _block(
    config: ActivationSimilarityStage, examples: Path, embeddings: Path, out: Path, block: Block
) -> int:
    reader, baseline = _opened(examples, embeddings, config.activation_embeddings.token_window_size, config)
    population = read_population(examples / EXAMPLES, block)
    groups = reader.groups(population.features.tolist(), config.activation_similarity.examples_per_quantile)
    rows = [
        _row(config, population, i, groups.get(feature), reader.is_set, baseline)
        for i, feature in enumerate(population.features.tolist())
    ]
    frame = pl.DataFrame(rows, schema=dict(TABLE.schema), orient="row")
    write_table(TABLE, frame, shard_path(out, TABLE.name, block.number))
    return len(frame)


@lru_cache(maxsize=1)
def _opened(
    examples: Path, embeddings: Path, width: int, config: ActivationSimilarityStage
) -> tuple[GroupReader, CoherenceBaseline | None]:
    """Once a process."""
    reader = stage_reader(examples, embeddings, width)
    return reader, None if config.compat else coherence_baseline(reader, config.settings())


def _row(
    config: ActivationSimilarityStage,
    population: Population,
    i: int,
    group: Group | None,
    is_set: bool,
    baseline: CoherenceBaseline | None,
) -> dict[str, Any]:
    feature, strengths = int(population.features[i]), population.strengths[population.of(i)]
    group = group if group is not None else Group(feature, ())
    n_quantiles = config.activation_similarity.num_quantiles
    row: dict[str, Any] = {
        "feature_id": feature,
        "sae_id": config.sae_id,
        "num_examples_sampled": len(group.windows),
        "prompt_ids_analyzed": [window.prompt for window in group.windows],
        "num_total_activations": len(strengths),
        "quantile_boundaries": boundaries(strengths, n_quantiles).tolist(),
    }
    if baseline is None:
        return row | _measured_compat(config, group)
    return row | _measured(config, group, is_set, baseline)


def _measured(
    config: ActivationSimilarityStage, group: Group, is_set: bool, baseline: CoherenceBaseline
) -> dict[str, Any]:
    section = config.activation_similarity
    found = baseline.of(group, config.pattern_matching.percentile)
    cores = [core_of(window, section.ngram_window_size, is_set) for window in group.windows]
    common = common_ngrams(cores, section.ngram_sizes, section.min_ngram_occurrences, is_set)
    return {
        "mean_pairwise_similarity": found.semantic,
        "std_pairwise_similarity": found.semantic_std,
        "min_pairwise_similarity": found.semantic_min,
        "max_pairwise_similarity": found.semantic_max,
        "semantic_percentile": found.semantic_percentile,
        "ngram_jaccard_similarity": list(found.jaccard),
        "word_jaccard_similarity": list(found.word_jaccard),
        "max_jaccard": found.max_jaccard,
        "lexical_percentile": found.lexical_percentile,
        "top_common_ngrams": [_ngram(one) for one in common],
    }


def _ngram(one: Ngram) -> dict[str, Any]:
    return {
        "ngram": one.text,
        "ngram_size": one.size,
        "count": one.n_occurrences,
        "occurrences": [
            {"prompt_id": found.prompt, "positions": list(found.positions)} for found in one.occurrences
        ],
        "kind": one.kind,
        "n_examples": one.n_windows,
    }


def _measured_compat(config: ActivationSimilarityStage, group: Group) -> dict[str, Any]:
    """The formulas of SAE_vis: `▁` kept, an odd window short of a token, two empty sets alike, boundaries of the chosen
    examples, and each n-gram placed where the strongest token is."""
    section = config.activation_similarity
    windows = group.windows
    texts = [ngram_text(window, section.ngram_window_size) for window in windows]
    jaccards = mean_jaccards(texts, SIZES)
    known = [one for one in jaccards if one is not None]
    places = [window.start + window.at for window in windows]
    strengths = [window.strength for window in windows]
    values: dict[str, Any] = {
        "ngram_jaccard_similarity": jaccards,
        "word_jaccard_similarity": [None, None, None],
        "max_jaccard": max(known, default=None),
        "quantile_boundaries": boundaries(pl.Series(strengths, dtype=pl.Float32).to_numpy(), 4).tolist(),
        "top_common_ngrams": [
            {
                "ngram": one.text,
                "ngram_size": one.size,
                "count": one.n_occurrences,
                "occurrences": [
                    {"prompt_id": windows[i].prompt, "positions": list(positions)}
                    for i, positions in one.occurrences
                ],
                "kind": "char",
                "n_examples": len(one.occurrences),
            }
            for one in top_ngrams(texts, places, section.ngram_sizes)
        ],
    }
    if group.vectors is not None and len(windows) > 1:
        cosines = pairwise_cosines(group.vectors).astype("f8")
        values |= {
            "mean_pairwise_similarity": float(cosines.mean()),
            "std_pairwise_similarity": float(cosines.std()),
            "min_pairwise_similarity": float(cosines.min()),
            "max_pairwise_similarity": float(cosines.max()),
        }
    return values


ACTIVATION_SIMILARITY = Stage(
    "activation_similarity",
    ActivationSimilarityStage,
    _run,
    inputs=("activation_examples", "activation_embeddings"),
    modules=(
        "pipeline.validation.compat_windows",
        "pipeline.validation.population",
        "pipeline.validation.stages.activation_similarity",
        "pipeline.validation.writing",
        "saeinterp_mcp.patterns.baseline",
        "saeinterp_mcp.patterns.choosing",
        "saeinterp_mcp.patterns.coherence",
        "saeinterp_mcp.patterns.ngrams",
        "saeinterp_mcp.patterns.spelling",
        "saeinterp_mcp.validation.baselines",
        "saeinterp_mcp.validation.groups",
        "saeinterp_mcp.validation.prompt_tokens",
        "saeinterp_mcp.validation.tables",
    ),
)
