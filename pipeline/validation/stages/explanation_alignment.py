"""What the explainers of a feature agree on: groups of phrases of several of them that mean the same."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.alignment import (
    Aligned,
    Floats,
    Said,
    align,
    align_compat,
    cosines,
    in_order,
    shared_terms,
)
from pipeline.validation.config import EmbedderConfig, ExplanationAlignmentConfig
from pipeline.validation.explained import (
    Explanation,
    draw_phrases,
    embed_phrases,
    explained_blocks,
    explanations_of,
    opened_vectors,
)
from pipeline.validation.population import Block
from pipeline.validation.vectors import TextVectors, embedder_files
from pipeline.validation.writing import merge_shards, run_shards, shard_path, write_sidecar, write_table
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.patterns.baseline import percentile_sorted
from saeinterp_mcp.patterns.records import Phrase
from saeinterp_mcp.validation.claims import phrases_of
from saeinterp_mcp.validation.tables import EXPLANATION_ALIGNMENT as TABLE

N_FEATURES, N_PHRASES, N_PAIRS = 500, 2_000, 50_000
"""Drawn for the similarities of phrases of different features."""
MIN_FEATURES = 20
"""Below, a percentile among them says nothing."""
BASELINE = "random_pairs.npy"


class ExplanationAlignmentStage(Frozen):
    """What the stage may know."""

    sae_id: str
    compat: bool
    seed: int
    explanation_alignment: ExplanationAlignmentConfig
    embedder: EmbedderConfig
    work: Path = Field(exclude=True)


def _run(
    config: ExplanationAlignmentStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    folder = inputs["explanation_embeddings"]
    blocks = explained_blocks(folder)
    vectors = opened_vectors(config.work, config.embedder.model)
    if vectors is not None:
        embed_phrases(
            folder, blocks, vectors, partial(_split, config), config.compat, lambda n, of: progress(n, 2 * of)
        )
    baseline = _random_pairs(config, folder, blocks, vectors)
    np.save(out / BASELINE, baseline, allow_pickle=False)
    run_shards(
        out,
        blocks,
        partial(_align_block, config, folder, out),
        lambda block: shard_path(out, TABLE.name, block.number).is_file(),
        execution.workers,
        lambda done, total: progress(total + done, 2 * total),
    )
    n = merge_shards(TABLE, out, len(blocks))
    (out / BASELINE).unlink()
    groups = pl.scan_parquet(out / TABLE.file).select("num_aligned_groups").collect()["num_aligned_groups"]
    warnings = (
        [] if vectors is not None else ["no embedder: phrases are alike by the words they share (Dice)"]
    )
    if not len(baseline) and not config.compat:
        warnings.append(f"fewer than {MIN_FEATURES} features are explained: groups have no percentile")
    aligned = int((groups > 0).sum())
    counts = {
        "n_features": n,
        "n_aligned": aligned,
        "n_groups": int(groups.sum()),
        "n_random_pairs": len(baseline),
    }
    used = config.model_dump(mode="json", exclude={"embedder"})
    write_sidecar(TABLE, out, config.sae_id, used, counts, warnings)
    notes = (f"{counts['n_groups']} groups in {aligned} features", *warnings)
    return Summary(n_in=n, n_kept=n, notes=notes)


def _split(config: ExplanationAlignmentStage, text: str) -> tuple[Phrase, ...]:
    return phrases_of(text, config.explanation_alignment.chunk_method, config.compat)


def _random_pairs(
    config: ExplanationAlignmentStage, folder: Path, blocks: list[Block], vectors: TextVectors | None
) -> Floats:
    """Similarities of random pairs of phrases of different features, ascending; none where features are few."""
    method = config.explanation_alignment.chunk_method
    drawn = draw_phrases(folder, blocks, N_PHRASES, N_FEATURES, config.seed, "phrases of pairs", method)
    features = np.array(drawn.features, np.int64)
    if config.compat or len(np.unique(features)) < MIN_FEATURES:
        return np.zeros(0)
    first, second = rng(config.seed, "pairs of phrases").integers(0, len(features), (2, N_PAIRS))
    different = features[first] != features[second]
    similarity = _similarity(drawn.texts, vectors)
    return np.asarray(np.sort(similarity[first[different], second[different]]))


def _similarity(texts: Sequence[str], vectors: TextVectors | None) -> Floats:
    return shared_terms(texts) if vectors is None else cosines(vectors.of(texts))


def _align_block(config: ExplanationAlignmentStage, folder: Path, out: Path, block: Block) -> int:
    vectors = opened_vectors(config.work, config.embedder.model)
    baseline = np.load(out / BASELINE, allow_pickle=False)
    rows = [
        _row(config, feature, explanations, vectors, baseline)
        for feature, explanations in explanations_of(folder, block)
    ]
    frame = pl.DataFrame(rows, schema=dict(TABLE.schema), orient="row")
    write_table(TABLE, frame, shard_path(out, TABLE.name, block.number))
    return len(frame)


def _row(
    config: ExplanationAlignmentStage,
    feature: int,
    explanations: Sequence[Explanation],
    vectors: TextVectors | None,
    baseline: Floats,
) -> dict[str, Any]:
    section = config.explanation_alignment
    compared = [one for one in explanations if one.ok or config.compat]
    said = [Said(one.explainer, phrase) for one in compared for phrase in _split(config, one.text)]
    said = said if config.compat else in_order(said)
    explainers = list(dict.fromkeys(one.explainer for one in compared))
    groups: list[Aligned] = []
    if len(explainers) >= section.min_aligned_explainers and len(said) > 1:
        similarity = _similarity([one.phrase.text for one in said], vectors)
        grouping = align_compat if config.compat else align
        groups = grouping(said, similarity, section.similarity_threshold, section.min_aligned_explainers)
    return {
        "feature_id": feature,
        "sae_id": config.sae_id,
        "llm_explainers": explainers if config.compat else sorted(explainers),
        "num_aligned_groups": len(groups),
        "aligned_groups": [_group(i, group, said, baseline) for i, group in enumerate(groups)],
    }


def _group(
    number: int, group: Aligned, said: Sequence[Said], baseline: NDArray[np.float64]
) -> dict[str, Any]:
    members = [said[i] for i in group.members]
    return {
        "aligned_group_id": number,
        "similarity_score": group.similarity,
        "phrases": [
            {
                "explainer_name": one.explainer,
                "text": one.phrase.text,
                "chunk_index": one.phrase.chunk_index,
                "start": one.phrase.start,
                "end": one.phrase.end,
            }
            for one in members
        ],
        "percentile": percentile_sorted(baseline, group.least),
    }


EXPLANATION_ALIGNMENT = Stage(
    "explanation_alignment",
    ExplanationAlignmentStage,
    _run,
    inputs=("explanation_embeddings",),
    modules=(
        "pipeline.validation.alignment",
        "pipeline.validation.explained",
        "pipeline.validation.population",
        "pipeline.validation.stages.explanation_alignment",
        "pipeline.validation.vectors",
        "pipeline.validation.writing",
        "saeinterp_mcp.patterns.baseline",
        "saeinterp_mcp.patterns.phrases",
        "saeinterp_mcp.patterns.quoted",
        "saeinterp_mcp.patterns.words",
        "saeinterp_mcp.validation.claims",
        "saeinterp_mcp.validation.tables",
    ),
    external=lambda config: embedder_files(config.embedder),
)
