"""Examples that stand for each feature, spread over its strengths, and the directions of their texts."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.config import ActivationEmbeddingsConfig, EmbedderConfig
from pipeline.validation.population import Block, Population, feature_blocks, read_population
from pipeline.validation.vectors import TextVectors, embedder_files, open_vectors
from pipeline.validation.writing import run_shards, shard_path, write_blocks, write_sidecar, write_table
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.patterns.choosing import (
    Chosen,
    choose_by_quantile,
    choose_by_quantile_compat,
    window_bounds,
    window_bounds_compat,
)
from saeinterp_mcp.patterns.spelling import spell
from saeinterp_mcp.validation.groups import stage_reader
from saeinterp_mcp.validation.prompt_tokens import PromptTokens, tokens_by_prompt
from saeinterp_mcp.validation.tables import ACTIVATION_EMBEDDINGS as TABLE
from saeinterp_mcp.validation.tables import Table

TEXTS = Table(
    "texts",
    {name: dtype for name, dtype in TABLE.schema.items() if name not in ("embeddings", "first_vector")}
    | {"texts": pl.List(pl.String)},
)
"""What shards hold until their texts have vectors."""
ROW_GROUP = 256
"""Features of a row group: their vectors are read together."""


class ActivationEmbeddingsStage(Frozen):
    """What the stage may know."""

    sae_id: str
    compat: bool
    seed: int
    activation_embeddings: ActivationEmbeddingsConfig
    embedder: EmbedderConfig
    work: Path = Field(exclude=True)


def _run(
    config: ActivationEmbeddingsStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    examples = inputs["activation_examples"]
    blocks = feature_blocks(examples / "activation_examples.parquet")
    run_shards(
        out,
        blocks,
        partial(_choose, config, examples, out),
        lambda block: shard_path(out, TEXTS.name, block.number).is_file(),
        execution.workers,
        lambda done, total: progress(done, 2 * total),
    )
    shards = [shard_path(out, TEXTS.name, block.number) for block in blocks]
    counts = [
        pl.scan_parquet(path).select(pl.col("prompt_ids").list.len().sum()).collect().item()
        for path in shards
    ]
    vectors = open_vectors(config.work, config.embedder.model)
    n = write_blocks(TABLE, out, _with_vectors(out, shards, counts, vectors, progress), ROW_GROUP)
    for path in shards:
        path.unlink()
    (out / "shards").rmdir()
    frame = pl.scan_parquet(out / TABLE.file).select(pl.col("prompt_ids").list.len()).collect()
    silent = int((frame["prompt_ids"] == 0).sum())
    warnings = (
        [] if vectors else ["no embedder: examples have no vectors, and are compared by their words only"]
    )
    write_sidecar(
        TABLE,
        out,
        config.sae_id,
        config.model_dump(mode="json", exclude={"embedder"}),
        {
            "n_features": n,
            "n_silent": silent,
            "n_vectors": sum(counts) if vectors else 0,
            "n_examples": sum(counts),
        },
        warnings,
    )
    return Summary(n_in=n, n_kept=n - silent, dropped={"silent": silent}, notes=tuple(warnings))


def _choose(config: ActivationEmbeddingsStage, examples: Path, out: Path, block: Block) -> int:
    """Write the shard of a block of features: their examples and texts."""
    population = read_population(examples / "activation_examples.parquet", block)
    places, quantiles, counts = [], [], []
    for i, feature in enumerate(population.features.tolist()):
        chosen = _chosen(config, population, i, feature)
        places.append(chosen.places + population.starts[i])
        quantiles.append(chosen.quantile)
        counts.append(len(chosen.places))
    place = np.concatenate(places).astype(np.int64)
    prompts, positions = population.prompts[place], population.positions[place]
    tokens = tokens_by_prompt(examples / "prompts.parquet", np.unique(prompts))
    is_set = stage_reader(examples, out, 0).is_set
    texts = [
        _text(config, tokens, prompt, position, is_set)
        for prompt, position in zip(prompts.tolist(), positions.tolist(), strict=True)
    ]
    columns: dict[str, Any] = {
        "prompt_ids": prompts,
        "quantiles": np.concatenate(quantiles),
        "positions": positions,
        "strengths": population.strengths[place],
        "texts": texts,
    }
    frame = pl.DataFrame(
        {
            "feature_id": population.features,
            "sae_id": [config.sae_id] * len(counts),
            **{name: _nested(pl.Series(values), counts) for name, values in columns.items()},
        }
    )
    write_table(
        TEXTS,
        frame.select(list(TEXTS.schema)).cast(TEXTS.empty().schema),
        shard_path(out, TEXTS.name, block.number),
    )
    return len(frame)


def _chosen(config: ActivationEmbeddingsStage, population: Population, i: int, feature: int) -> Chosen:
    mine, section = population.of(i), config.activation_embeddings
    n_quantiles, per_quantile = section.num_quantiles, section.examples_per_quantile
    strengths = population.strengths[mine]
    if config.compat:
        return choose_by_quantile_compat(strengths, n_quantiles, per_quantile)
    return choose_by_quantile(
        strengths, population.prompts[mine], n_quantiles, per_quantile, config.seed, feature
    )


def _text(
    config: ActivationEmbeddingsStage, tokens: PromptTokens, prompt: int, position: int, is_set: bool
) -> str:
    length, width = tokens.length(prompt), config.activation_embeddings.token_window_size
    if config.compat:
        return " ".join(tokens.of(prompt, *window_bounds_compat(length, position, width)))
    start, stop = (0, length) if is_set else window_bounds(length, position, width)
    return spell(tokens.of(prompt, start, stop), is_set).text


def _nested(values: pl.Series, counts: list[int]) -> pl.Series:
    """Values put into lists of `counts`, one a feature; an empty list where there are none."""
    owner = np.repeat(np.arange(len(counts)), counts)
    lists = (
        pl.DataFrame({"owner": owner, "value": values}).group_by("owner", maintain_order=True).agg("value")
    )
    rows = pl.DataFrame({"owner": np.arange(len(counts))}).join(
        lists, on="owner", how="left", maintain_order="left"
    )
    return rows["value"].fill_null([])


def _with_vectors(
    out: Path, shards: list[Path], counts: list[int], vectors: TextVectors | None, progress: Progress
) -> Iterator[pl.DataFrame]:
    """The shards with their vectors, which are also written to `activations.npy`."""
    mapped = None
    if vectors is not None:
        shape = (sum(counts), vectors.record.dimensions)
        mapped = np.lib.format.open_memmap(
            out / "activations.npy.tmp", mode="w+", dtype=np.float32, shape=shape
        )
    first = 0
    for i, path in enumerate(shards):
        frame = pl.read_parquet(path)
        texts = frame["texts"].explode(empty_as_null=False, keep_nulls=False).to_list()
        mine = None if vectors is None or mapped is None else _embedded(vectors, texts, mapped.shape[1])
        if mapped is not None and mine is not None:
            mapped[first : first + len(mine)] = mine
        yield _joined(frame, mine, first)
        first += len(texts)
        progress(len(shards) + i + 1, 2 * len(shards))
    if mapped is not None:
        mapped.flush()
        (out / "activations.npy.tmp").replace(out / "activations.npy")


def _embedded(vectors: TextVectors, texts: list[str], width: int) -> NDArray[np.float32]:
    return vectors.of(texts) if texts else np.zeros((0, width), np.float32)


def _joined(frame: pl.DataFrame, vectors: NDArray[np.float32] | None, first: int) -> pl.DataFrame:
    """The rows of the table from those of a shard; its first vector is row `first` of all."""
    counts = frame["prompt_ids"].list.len().cast(pl.Int64)
    if vectors is None:
        empty = pl.Series([[]] * len(frame), dtype=TABLE.schema["embeddings"])
        places = pl.Series([None] * len(frame), dtype=pl.UInt32)
    else:
        arrays = pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])).cast(pl.List(pl.Float32))
        empty = _nested(arrays, counts.to_list())
        places = (counts.cum_sum() - counts + first).cast(pl.UInt32)
    return frame.with_columns(embeddings=empty, first_vector=places).select(list(TABLE.schema))


ACTIVATION_EMBEDDINGS = Stage(
    "activation_embeddings",
    ActivationEmbeddingsStage,
    _run,
    inputs=("activation_examples",),
    modules=(
        "pipeline.validation.population",
        "pipeline.validation.stages.activation_embeddings",
        "pipeline.validation.vectors",
        "pipeline.validation.writing",
        "saeinterp_mcp.patterns.choosing",
        "saeinterp_mcp.patterns.spelling",
        "saeinterp_mcp.validation.prompt_tokens",
        "saeinterp_mcp.validation.tables",
    ),
    external=lambda config: embedder_files(config.embedder),
)
