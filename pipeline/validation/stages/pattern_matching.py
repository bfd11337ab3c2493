"""Does each explanation describe what activates its feature? Every phrase against the examples."""

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.compat_patterns import compat_row, contexts_of_block
from pipeline.validation.config import (
    ActivationEmbeddingsConfig,
    ActivationSimilarityConfig,
    EmbedderConfig,
    ExplanationAlignmentConfig,
    PatternMatchingConfig,
)
from pipeline.validation.explained import (
    Explanation,
    draw_phrases,
    embed_phrases,
    explained_blocks,
    explanations_of,
    opened_vectors,
)
from pipeline.validation.pattern_rows import (
    NOTHING,
    AlignedGroups,
    aligned_groups,
    coherence_of,
    ngrams_of,
    pattern_row,
)
from pipeline.validation.population import Block, rows_of
from pipeline.validation.vectors import TextVectors, embedder_files
from pipeline.validation.writing import merge_shards, run_shards, shard_path, write_sidecar, write_table
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.patterns.records import Group
from saeinterp_mcp.validation.baselines import SIDECAR_KEY, Baselines, BaselineSettings, baselines_of
from saeinterp_mcp.validation.claims import claims_of, phrases_of
from saeinterp_mcp.validation.groups import GroupReader, stage_reader
from saeinterp_mcp.validation.judging import judge
from saeinterp_mcp.validation.tables import PATTERN_MATCHING as TABLE

N_PHRASES = 500
"""Phrases of other explanations that those of a feature are compared with."""
PHRASES = "phrases.npy"
SIMILARITY = "activation_example_similarity.parquet"
ALIGNMENT = "explanation_alignment.parquet"


class PatternMatchingStage(Frozen):
    """What the stage may know."""

    sae_id: str
    compat: bool
    seed: int
    activation_embeddings: ActivationEmbeddingsConfig
    activation_similarity: ActivationSimilarityConfig
    explanation_alignment: ExplanationAlignmentConfig
    pattern_matching: PatternMatchingConfig
    embedder: EmbedderConfig
    work: Path = Field(exclude=True)


class _Folders(Frozen):
    """Where the stage reads and writes."""

    examples: Path
    embeddings: Path
    similarity: Path
    explanations: Path
    alignment: Path | None
    out: Path

    def reader(self, width: int) -> GroupReader:
        """Of the examples."""
        return stage_reader(self.examples, self.embeddings, width)


def _run(
    config: PatternMatchingStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    folders = _Folders(
        examples=inputs["activation_examples"],
        embeddings=inputs["activation_embeddings"],
        similarity=inputs["activation_similarity"],
        explanations=inputs["explanation_embeddings"],
        alignment=inputs.get("explanation_alignment"),
        out=out,
    )
    blocks = explained_blocks(folders.explanations)
    vectors = opened_vectors(config.work, config.embedder.model)
    settings = _settings(config)
    if vectors is not None and not config.compat:
        split = partial(phrases_of, method=config.explanation_alignment.chunk_method)
        embed_phrases(folders.explanations, blocks, vectors, split, False, lambda n, of: progress(n, 2 * of))
        settings = _draw(config, settings, folders, blocks, vectors)
    run_shards(
        out,
        blocks,
        partial(_block, config, settings, folders),
        lambda block: shard_path(out, TABLE.name, block.number).is_file(),
        # contexts of SAE_vis are embedded on the way, which only one process does
        1 if config.compat else execution.workers,
        lambda done, total: progress(total + done, 2 * total),
    )
    n = merge_shards(TABLE, out, len(blocks))
    counts = _counts(out / TABLE.file)
    used = config.model_dump(mode="json", exclude={"embedder"}) | {
        SIDECAR_KEY: settings.model_dump(mode="json")
    }
    warnings = _warnings(config, vectors, counts)
    write_sidecar(TABLE, out, config.sae_id, used, counts, warnings)
    return Summary(n_in=n, n_kept=n, notes=tuple(warnings))


def _settings(config: PatternMatchingStage) -> BaselineSettings:
    return BaselineSettings(
        n_random_features=config.pattern_matching.n_random_features,
        per_quantile=config.activation_similarity.examples_per_quantile,
        percentile=config.pattern_matching.percentile,
        core=config.activation_similarity.ngram_window_size,
        seed=config.seed,
        chunk_method=config.explanation_alignment.chunk_method,
    )


def _draw(
    config: PatternMatchingStage,
    settings: BaselineSettings,
    folders: _Folders,
    blocks: list[Block],
    vectors: TextVectors,
) -> BaselineSettings:
    """Draw the phrases that those of each feature are compared with, and leave their vectors for the server."""
    drawn = draw_phrases(
        folders.explanations,
        blocks,
        N_PHRASES,
        N_PHRASES,
        config.seed,
        "other phrases",
        settings.chunk_method,
    )
    if not drawn.texts:
        return settings
    with (folders.out / f"{PHRASES}.tmp").open("wb") as file:
        np.save(file, vectors.of(drawn.texts), allow_pickle=False)
    (folders.out / f"{PHRASES}.tmp").replace(folders.out / PHRASES)
    return settings.model_copy(update={"phrase_features": drawn.features})


def _block(config: PatternMatchingStage, settings: BaselineSettings, folders: _Folders, block: Block) -> int:
    similarities = _by_feature(folders.similarity / SIMILARITY, block)
    alignments = {} if folders.alignment is None else _by_feature(folders.alignment / ALIGNMENT, block)
    explained = list(explanations_of(folders.explanations, block))
    if config.compat:
        rows = _compat_rows(config, folders, block, similarities, alignments)
    else:
        rows = _rows(config, settings, folders, explained, similarities, alignments)
    frame = pl.DataFrame(rows, schema=dict(TABLE.schema), orient="row")
    write_table(TABLE, frame, shard_path(folders.out, TABLE.name, block.number))
    return len(frame)


def _by_feature(path: Path, block: Block) -> dict[int, dict[str, Any]]:
    names = pl.scan_parquet(path).collect_schema().names()
    return {row["feature_id"]: row for row in rows_of(path, block, tuple(names)).iter_rows(named=True)}


def _rows(
    config: PatternMatchingStage,
    settings: BaselineSettings,
    folders: _Folders,
    explained: list[tuple[int, list[Explanation]]],
    similarities: Mapping[int, Mapping[str, Any]],
    alignments: Mapping[int, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    reader, baselines = _opened(folders, settings, config.activation_embeddings.token_window_size)
    vectors = opened_vectors(config.work, config.embedder.model)
    groups = reader.groups([feature for feature, _ in explained], settings.per_quantile)
    rows = []
    for feature, explanations in explained:
        group = groups.get(feature) or Group(feature, ())
        aligned = None
        if feature in alignments:
            aligned = aligned_groups(alignments[feature]["aligned_groups"])
        row = _row(
            baselines,
            group,
            explanations,
            similarities.get(feature, NOTHING),
            aligned,
            vectors,
        )
        rows.append({"feature_id": feature, "sae_id": config.sae_id} | row)
    return rows


def _row(
    baselines: Baselines,
    group: Group,
    explanations: list[Explanation],
    similarity: Mapping[str, Any],
    aligned: AlignedGroups | None,
    vectors: TextVectors | None,
) -> dict[str, Any]:
    settings = baselines.settings
    claims = claims_of(
        [(one.explainer, one.text) for one in explanations if one.ok],
        None if vectors is None else vectors.of,
        settings.chunk_method,
    )
    coherence = coherence_of(similarity, settings.percentile)
    judged = judge(baselines.match, claims, group, coherence, ngrams_of(similarity), settings.percentile)
    return pattern_row(similarity, coherence, judged, aligned)


@lru_cache(maxsize=1)
def _opened(folders: _Folders, settings: BaselineSettings, width: int) -> tuple[GroupReader, Baselines]:
    """Once a process."""
    reader = folders.reader(width)
    phrases = folders.out / PHRASES
    others = np.load(phrases, allow_pickle=False) if phrases.is_file() else None
    return reader, baselines_of(reader, settings, others)


def _compat_rows(
    config: PatternMatchingStage,
    folders: _Folders,
    block: Block,
    similarities: Mapping[int, Mapping[str, Any]],
    alignments: Mapping[int, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Of features that both tables hold, as there; without an embedder none."""
    vectors = opened_vectors(config.work, config.embedder.model)
    if vectors is None:
        return []
    width = config.activation_similarity.ngram_window_size
    contexts = contexts_of_block(folders.examples, block, similarities, width)
    return [
        {"feature_id": feature, "sae_id": config.sae_id}
        | compat_row(
            config.pattern_matching,
            similarities[feature],
            alignments[feature]["aligned_groups"],
            contexts[feature],
            vectors,
        )
        for feature in sorted(alignments.keys() & contexts.keys())
    ]


def _counts(path: Path) -> dict[str, Any]:
    """What a reader of the sidecar wants to know of the table."""
    columns = (
        "pattern_type",
        "num_tested",
        "num_matches",
        "num_mismatches",
        "match_rate",
        "match_rate_by_chance",
    )
    frame = pl.scan_parquet(path).select(columns).collect()
    patterns = frame["pattern_type"].cast(pl.String).fill_null("not measured").value_counts().rows()
    tested = frame.filter(pl.col("match_rate").is_not_null())
    means = {f"mean_{name}": tested[name].mean() for name in ("match_rate", "match_rate_by_chance")}
    return {
        "n_features": len(frame),
        "pattern_types": dict(sorted(patterns)),
        "n_features_tested": len(tested),
        "n_features_with_a_match": int((frame["num_matches"] > 0).sum()),
        "n_phrases_tested": int(frame["num_tested"].sum()),
        "n_matches": int(frame["num_matches"].sum()),
        "n_mismatches": int(frame["num_mismatches"].sum()),
    } | {name: None if value is None else round(float(value), 6) for name, value in means.items()}  # type: ignore[arg-type]


def _warnings(
    config: PatternMatchingStage, vectors: TextVectors | None, counts: Mapping[str, Any]
) -> list[str]:
    if config.compat and vectors is None:
        return ["compat compares vectors and there is no embedder: no feature was tested"]
    if config.compat:
        return [
            "compat: computed as SAE_vis did; match_rate 0 also stands for features where nothing was tested, and rows "
            "without activations take places among the ten contexts of meaning"
        ]
    warnings = [] if vectors is not None else ["no embedder: phrases were looked for by their words only"]
    if not counts["n_features_tested"]:
        warnings.append("no phrase was tested: too few features have examples to be compared with")
    return warnings


PATTERN_MATCHING = Stage(
    "pattern_matching",
    PatternMatchingStage,
    _run,
    inputs=(
        "activation_examples",
        "activation_embeddings",
        "activation_similarity",
        "explanation_embeddings",
        "explanation_alignment",
    ),
    modules=(
        "pipeline.validation.compat_patterns",
        "pipeline.validation.explained",
        "pipeline.validation.pattern_rows",
        "pipeline.validation.population",
        "pipeline.validation.stages.pattern_matching",
        "pipeline.validation.vectors",
        "pipeline.validation.writing",
        "saeinterp_mcp.patterns.baseline",
        "saeinterp_mcp.patterns.choosing",
        "saeinterp_mcp.patterns.lexical",
        "saeinterp_mcp.patterns.matching",
        "saeinterp_mcp.patterns.matching_compat",
        "saeinterp_mcp.patterns.ngrams",
        "saeinterp_mcp.patterns.phrases",
        "saeinterp_mcp.patterns.quoted",
        "saeinterp_mcp.patterns.semantic",
        "saeinterp_mcp.patterns.spelling",
        "saeinterp_mcp.patterns.words",
        "saeinterp_mcp.validation.baselines",
        "saeinterp_mcp.validation.claims",
        "saeinterp_mcp.validation.groups",
        "saeinterp_mcp.validation.judging",
        "saeinterp_mcp.validation.prompt_tokens",
        "saeinterp_mcp.validation.tables",
    ),
    external=lambda config: embedder_files(config.embedder),
)
