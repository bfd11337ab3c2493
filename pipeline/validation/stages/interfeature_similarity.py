"""How alike the examples of features are that have nearly the same decoder direction, against random pairs."""

from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.config import (
    ActivationEmbeddingsConfig,
    ActivationSimilarityConfig,
    InterfeatureSimilarityConfig,
    PatternMatchingConfig,
)
from pipeline.validation.feature_pairs import (
    NGRAMS,
    PAIRS,
    SIZE,
    Neighbours,
    read_neighbours,
    unordered,
    write_pairs,
)
from pipeline.validation.writing import (
    blocks,
    read_table,
    run_shards,
    shard_path,
    write_blocks,
    write_sidecar,
)
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.patterns.coherence import CoherenceBaseline
from saeinterp_mcp.validation.baselines import BaselineSettings, coherence_baseline
from saeinterp_mcp.validation.groups import GroupReader, stage_reader
from saeinterp_mcp.validation.tables import INTERFEATURE_SIMILARITY as TABLE

BLOCK = 2_048
"""Features of a part of the table."""
OF_PAIR = ("semantic_similarity", "semantic_percentile", "ngram_jaccard_similarity", "lexical_percentile")


class InterfeatureSimilarityStage(Frozen):
    """What the stage may know."""

    sae_id: str
    compat: bool
    seed: int
    activation_embeddings: ActivationEmbeddingsConfig
    activation_similarity: ActivationSimilarityConfig
    interfeature_similarity: InterfeatureSimilarityConfig
    pattern_matching: PatternMatchingConfig

    def settings(self) -> BaselineSettings:
        """Of what the examples of two features are compared with."""
        return BaselineSettings(
            n_random_features=self.pattern_matching.n_random_features,
            per_quantile=self.interfeature_similarity.examples_per_quantile,
            percentile=self.pattern_matching.percentile,
            core=self.activation_similarity.ngram_window_size,
            seed=self.seed,
        )


class Samples(NamedTuple):
    """The examples that stand for each feature, one after the other."""

    features: NDArray[np.int64]
    starts: NDArray[np.int64]
    """(F+1,)"""
    places: NDArray[np.int64]
    """Rows of the reader's choices."""


def _run(
    config: InterfeatureSimilarityStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    folders = inputs["activation_examples"], inputs["activation_embeddings"]
    reader = stage_reader(*folders, config.activation_embeddings.token_window_size)
    k = config.interfeature_similarity.num_decoder_similar_features
    path = inputs["decoder_similarities"] / "neighbours.npz"
    neighbours = read_neighbours(path, k, reader.features)
    pairs = unordered(neighbours)
    tasks = blocks(len(pairs), SIZE)
    run_shards(
        out,
        tasks,
        partial(_pairs, config, folders, path, out),
        lambda task: shard_path(out, PAIRS.name, task[0] // SIZE).is_file(),
        execution.workers,
        progress,
    )
    shards = [shard_path(out, PAIRS.name, i) for i in range(len(tasks))]
    measured = pl.concat([PAIRS.empty(), *(read_table(PAIRS, one) for one in shards)], rechunk=False)
    n = write_blocks(TABLE, out, _rows(config, neighbours, measured, reader), 512)
    for one in shards:
        one.unlink()
    if (out / "shards").is_dir():
        (out / "shards").rmdir()
    warnings = _warnings(config, reader, measured)
    counts = {
        "n_features": n,
        "n_pairs": len(measured),
        "n_pairs_without_examples": len(pairs) - len(measured),
    }
    write_sidecar(TABLE, out, config.sae_id, config.model_dump(mode="json"), counts, warnings)
    return Summary(
        n_in=len(reader.features),
        n_kept=n,
        dropped={"no neighbour is known": len(reader.features) - n},
        notes=(f"{len(measured)} pairs", *warnings),
    )


def _warnings(config: InterfeatureSimilarityStage, reader: GroupReader, measured: pl.DataFrame) -> list[str]:
    if config.compat:
        return ["compat: windows and n-grams as SAE_vis had them, and no percentiles"]
    warnings = []
    if reader.vectors is None:
        warnings.append("no embedder: the meaning of examples was not compared")
    if len(measured) and not measured["lexical_percentile"].is_not_null().any():
        warnings.append("too few features to draw random pairs from: no percentiles")
    return warnings


def _pairs(
    config: InterfeatureSimilarityStage,
    folders: tuple[Path, Path],
    neighbours: Path,
    out: Path,
    task: tuple[int, int],
) -> int:
    reader, baseline, pairs = _opened(config, folders, neighbours)
    per_quantile = config.interfeature_similarity.examples_per_quantile
    core = config.activation_similarity.ngram_window_size
    return write_pairs(out, task[0] // SIZE, pairs[slice(*task)], reader, per_quantile, core, baseline)


@lru_cache(maxsize=1)
def _opened(
    config: InterfeatureSimilarityStage, folders: tuple[Path, Path], neighbours: Path
) -> tuple[GroupReader, CoherenceBaseline | None, NDArray[np.int64]]:
    """Once a process."""
    reader = stage_reader(*folders, config.activation_embeddings.token_window_size)
    k = config.interfeature_similarity.num_decoder_similar_features
    pairs = unordered(read_neighbours(neighbours, k, reader.features))
    return reader, None if config.compat else coherence_baseline(reader, config.settings()), pairs


def _rows(
    config: InterfeatureSimilarityStage, neighbours: Neighbours, measured: pl.DataFrame, reader: GroupReader
) -> Iterator[pl.DataFrame]:
    """The table, a block of features at a time."""
    features = np.unique(neighbours.main)
    per_quantile = config.interfeature_similarity.examples_per_quantile
    each = [reader.places(feature, per_quantile) for feature in reader.features.tolist()]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in each])]).astype(np.int64)
    samples = Samples(
        reader.features, starts, np.concatenate([*each, np.zeros(0, np.int64)]).astype(np.int64)
    )
    for first, stop in blocks(len(features), BLOCK):
        rows = slice(*np.searchsorted(neighbours.main, [features[first], features[stop - 1] + 1]))
        part = Neighbours(neighbours.main[rows], neighbours.selected[rows], neighbours.cosine[rows])
        yield _block(config, part, measured, samples, reader)


def _block(
    config: InterfeatureSimilarityStage,
    neighbours: Neighbours,
    measured: pl.DataFrame,
    samples: Samples,
    reader: GroupReader,
) -> pl.DataFrame:
    main, selected = neighbours.main, neighbours.selected
    frame = pl.DataFrame(
        {
            "main": main,
            "feature_id": selected,
            "decoder_similarity": neighbours.cosine,
            "a": np.minimum(main, selected),
            "b": np.maximum(main, selected),
        },
        schema_overrides={"feature_id": pl.UInt32, "a": pl.UInt32, "b": pl.UInt32},
    ).join(measured, on=["a", "b"], how="left", maintain_order="left")
    if config.compat:  # SAE_vis passed over neighbours without examples
        frame = frame.filter(pl.col("feature_id").is_in(samples.features.tolist()))
    shown = _samples(samples, reader)
    frame = frame.join(shown, on="feature_id", how="left", maintain_order="left").with_columns(
        pl.col("sample_info").fill_null([]), pl.col("ngram_analysis").fill_null([])
    )
    chosen = pl.struct("feature_id", "decoder_similarity", "sample_info", *OF_PAIR).alias("selected_features")
    grouped = (
        frame.select("main", chosen, "ngram_analysis")
        .group_by("main", maintain_order=True)
        .agg("selected_features", pl.col("ngram_analysis").explode(empty_as_null=False, keep_nulls=False))
    )
    pairs = _similarity_pairs(frame, samples, reader)
    return (
        grouped.join(pairs, on="main", how="left", maintain_order="left")
        .with_columns(
            pl.col("main").alias("feature_id"),
            pl.lit(config.sae_id).alias("sae_id"),
            pl.col("similarity_pairs").fill_null([]),
            pl.col("ngram_analysis").cast(NGRAMS),
        )
        .select(list(TABLE.schema))
        .cast(TABLE.empty().schema)
    )


def _samples(samples: Samples, reader: GroupReader) -> pl.DataFrame:
    """Feature to its examples."""
    choices, places = reader.choices, samples.places
    owner = np.repeat(samples.features, np.diff(samples.starts))
    return (
        pl.DataFrame(
            {
                "feature_id": pl.Series(owner, dtype=pl.UInt32),
                "quantile": pl.Series(choices.quantiles[places], dtype=pl.UInt8),
                "prompt_id": pl.Series(choices.prompts[places], dtype=pl.UInt32),
                "max_activation": choices.strengths[places],
            }
        )
        .group_by("feature_id", maintain_order=True)
        .agg(pl.struct("quantile", "prompt_id", "max_activation").alias("sample_info"))
    )


def _similarity_pairs(frame: pl.DataFrame, samples: Samples, reader: GroupReader) -> pl.DataFrame:
    """Main feature to its examples against those of each selected one."""
    main = frame["main"].to_numpy()
    selected = frame["feature_id"].to_numpy().astype(np.int64)
    start_m, n_m = _found(samples, main)
    start_s, n_s = _found(samples, selected)
    owner = np.repeat(np.arange(len(main)), n_m * n_s)
    local = np.arange(len(owner)) - np.repeat(np.cumsum(n_m * n_s) - n_m * n_s, n_m * n_s)
    i, j = local // np.maximum(n_s[owner], 1), local % np.maximum(n_s[owner], 1)
    choices = reader.choices
    place_m, place_s = samples.places[start_m[owner] + i], samples.places[start_s[owner] + j]
    columns: dict[str, Any] = {
        "main": main[owner],
        "main_feature_id": main[owner],
        "main_prompt_id": choices.prompts[place_m],
        "main_quantile": choices.quantiles[place_m],
        "selected_feature_id": selected[owner],
        "selected_prompt_id": choices.prompts[place_s],
        "selected_quantile": choices.quantiles[place_s],
        "semantic_similarity": _cosines(frame, owner, i, j, n_m, n_s),
    }
    inner = [name for name in columns if name != "main"]
    return (
        pl.DataFrame(columns)
        .group_by("main", maintain_order=True)
        .agg(pl.struct(inner).alias("similarity_pairs"))
    )


def _cosines(
    frame: pl.DataFrame,
    owner: NDArray[np.int64],
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    n_m: NDArray[np.int64],
    n_s: NDArray[np.int64],
) -> pl.Series:
    """Of example i of the main feature with example j of the selected one: measured once, from the smaller feature."""
    lengths = frame["cosines"].list.len().fill_null(0).to_numpy().astype(np.int64)
    values = frame["cosines"].explode(empty_as_null=False, keep_nulls=False).to_numpy()
    if not len(values):
        return pl.Series([None] * len(owner), dtype=pl.Float32)
    starts = np.cumsum(lengths) - lengths
    turned = (frame["main"].to_numpy() > frame["feature_id"].to_numpy())[owner]
    at = np.where(turned, j * n_m[owner] + i, i * n_s[owner] + j)
    return pl.Series(values[starts[owner] + at], dtype=pl.Float32)


def _found(samples: Samples, features: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(where the examples of each feature begin, how many there are: 0 where it has none)."""
    at = np.minimum(np.searchsorted(samples.features, features), len(samples.features) - 1)
    there = samples.features[at] == features
    return samples.starts[at], np.where(there, samples.starts[at + 1] - samples.starts[at], 0)


INTERFEATURE_SIMILARITY = Stage(
    "interfeature_similarity",
    InterfeatureSimilarityStage,
    _run,
    inputs=("activation_examples", "activation_embeddings", "decoder_similarities"),
    modules=(
        "pipeline.validation.compat_windows",
        "pipeline.validation.feature_pairs",
        "pipeline.validation.stages.interfeature_similarity",
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
