"""A row for each feature and explainer: text, nearest features, likeness to other explainers' texts, scores."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.config import DataSource
from pipeline.validation.cosines import Explained, compare
from pipeline.validation.kept_scores import KEYS, kept_scores
from pipeline.validation.stages.explanation_embeddings import OTHER_TEXTS, VECTORS
from pipeline.validation.writing import read_table, write_sidecar, write_table
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.validation.tables import EXPLANATION_EMBEDDINGS, SCORES
from saeinterp_mcp.validation.tables import FEATURES as TABLE

NEIGHBOURS = "neighbours.npz"
NESTED = ("fuzz", "simulation", "detection", "embedding", "surprisal")
WITH_INTERVAL = ("fuzz", "detection")


class FeaturesStage(Frozen):
    """What the stage sees."""

    sae_id: str
    compat: bool
    seed: int
    data_sources: tuple[DataSource, ...]
    """Their order: the first one's scores count where two tested an explanation alike."""


def _run(
    config: FeaturesStage, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    folder = inputs["explanation_embeddings"]
    columns = [name for name in EXPLANATION_EMBEDDINGS.schema if name not in ("embedding", "raw_sha256")]
    explained = read_table(EXPLANATION_EMBEDDINGS, folder / EXPLANATION_EMBEDDINGS.file, columns)
    explained = explained.with_columns(pl.col("llm_explainer").cast(pl.String)).sort(KEYS)
    notes: list[str] = []
    frame = explained.with_columns(semantic_similarity=semantic_similarity(explained, folder, config.seed))
    if "decoder_similarities" in inputs:
        nearest = decoder_similarity(inputs["decoder_similarities"] / NEIGHBOURS)
        frame = frame.join(nearest, on="feature_id", how="left", maintain_order="left")
    else:
        frame = frame.with_columns(decoder_similarity=pl.lit(None, TABLE.schema["decoder_similarity"]))
    if "scores" in inputs:
        others = json.loads((folder / OTHER_TEXTS).read_text(encoding="utf-8"))
        scores = read_table(SCORES, inputs["scores"] / SCORES.file)
        nested = nested_scores(scores, others, config, notes)
        frame = frame.join(nested, on=KEYS, how="left", maintain_order="left")
        frame = frame.with_columns(pl.col("scores").fill_null([]))
    else:
        frame = frame.with_columns(scores=pl.lit([], TABLE.schema["scores"]))
    if not config.compat:
        frame = _without_failed(frame)
    table = frame.select(list(TABLE.schema)).cast(TABLE.schema).sort(TABLE.sorted_by, maintain_order=True)  # type: ignore[arg-type]
    write_table(TABLE, table, out / TABLE.file)
    counts = {
        "features": table["feature_id"].n_unique(),
        "with_scores": int((table["scores"].list.len() > 0).sum()),
        "with_decoder_similarity": int(table["decoder_similarity"].is_not_null().sum()),
        "without_explanation": int((table["status"].cast(pl.String) != "ok").sum()),
    }
    write_sidecar(TABLE, out, config.sae_id, config.model_dump(mode="json"), counts, notes)
    return Summary(n_in=len(explained), n_kept=len(table))


def semantic_similarity(explained: pl.DataFrame, folder: Path, seed: int) -> pl.Series:
    """For each row the cosines with the texts of the other explainers of its feature, by their names.

    Null where the row has no vector; an explainer whose text has none is left out.
    """
    dtype = TABLE.schema["semantic_similarity"]
    path = folder / VECTORS
    if not path.is_file():
        return pl.Series("semantic_similarity", [None] * len(explained), dtype=dtype)
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    known = explained.with_row_index("row").filter(pl.col("vector").is_not_null())
    parts = [_no_pairs()]
    explainers = known["llm_explainer"].unique().sort().to_list()
    for one, other in combinations(explainers, 2):
        a, b = (explained_by(known, name) for name in (one, other))
        pair = compare(vectors, a, b, seed, (one, other))
        for mine, name in ((one, other), (other, one)):
            row = known.filter(pl.col("llm_explainer") == mine).filter(
                pl.col("feature_id").is_in(pair.features.tolist())
            )["row"]
            percentiles = pair.percentiles
            parts.append(
                pl.DataFrame(
                    {
                        "row": row,
                        "explainer": [name] * len(row),
                        "cosine_similarity": pair.cosines,
                        "percentile": [None] * len(row) if percentiles is None else percentiles,
                    },
                    schema=parts[0].schema,
                )
            )
    fields = pl.struct("explainer", "cosine_similarity", "percentile")
    listed = pl.concat(parts).sort("row", "explainer").group_by("row", maintain_order=True).agg(fields)
    found = (
        known.select("row")
        .join(listed, on="row", how="left")
        .with_columns(pl.col("explainer").cast(dtype).fill_null([]))
    )
    rows = pl.DataFrame({"row": np.arange(len(explained), dtype=np.uint32)})
    return rows.join(found, on="row", how="left", maintain_order="left")["explainer"].alias(
        "semantic_similarity"
    )


def explained_by(known: pl.DataFrame, name: str) -> Explained:
    """The explanations of one explainer among rows that have a vector."""
    mine = known.filter(pl.col("llm_explainer") == name).sort("feature_id")
    return Explained(
        mine["feature_id"].to_numpy().astype(np.int64), mine["vector"].to_numpy().astype(np.int64)
    )


def _no_pairs() -> pl.DataFrame:
    return pl.DataFrame(
        schema={
            "row": pl.UInt32,
            "explainer": pl.String,
            "cosine_similarity": pl.Float32,
            "percentile": pl.Float32,
        }
    )


def decoder_similarity(path: Path) -> pl.DataFrame:
    """feature_id and its nearest features, nearest first."""
    with np.load(path, allow_pickle=False) as arrays:
        features, cosines = arrays["features"], arrays["cosines"]
    flat = pl.DataFrame(
        {
            "at": np.repeat(np.arange(len(features), dtype=np.uint32), features.shape[1]),
            "feature_id": features.ravel(),
            "cosine_similarity": cosines.ravel(),
        },
        schema={"at": pl.UInt32, "feature_id": pl.UInt32, "cosine_similarity": pl.Float32},
    )
    # places of a list that is shorter hold no number
    there = flat.filter(pl.col("cosine_similarity").is_finite())
    nearest = there.sort(
        ["at", "cosine_similarity", "feature_id"], descending=[False, True, False], maintain_order=True
    )
    lists = nearest.group_by("at", maintain_order=True).agg(
        pl.struct("feature_id", "cosine_similarity").alias("decoder_similarity")
    )
    return lists.rename({"at": "feature_id"})


def nested_scores(
    scores: pl.DataFrame, others: Mapping[str, Sequence[int]], config: FeaturesStage, notes: list[str]
) -> pl.DataFrame:
    """feature_id, llm_explainer and one entry for each scorer, by name."""
    kept = kept_scores(scores, None if config.compat else others, config.data_sources, notes)
    entries = kept.group_by(*KEYS, "llm_scorer").agg(
        *(_of(method, "score").alias(method) for method in NESTED),
        *(_of(method, end).alias(f"{method}_{end}") for method in WITH_INTERVAL for end in ("low", "high")),
        *(_of(method, "n").alias(f"n_{method}") for method in WITH_INTERVAL),
        pl.col("n_failed").sum(),
    )
    entries = entries.rename({"llm_scorer": "scorer"}).sort(*KEYS, "scorer")
    struct = TABLE.schema["scores"].inner  # type: ignore[union-attr]
    fields = [field.name for field in struct.fields]
    return entries.group_by(KEYS, maintain_order=True).agg(pl.struct(fields).cast(struct).alias("scores"))


def _of(method: str, column: str) -> pl.Expr:
    return pl.col(column).filter(pl.col("method") == method).first()


def _without_failed(frame: pl.DataFrame) -> pl.DataFrame:
    """What was no explanation has no likeness to others and no scores; how many trials it cost stays."""
    struct = TABLE.schema["scores"].inner  # type: ignore[union-attr]
    counts = {"scorer", *(f"n_{method}" for method in WITH_INTERVAL), "n_failed"}
    numbers = [f.name for f in struct.fields if f.name not in counts]
    emptied = pl.col("scores").list.eval(
        pl.element().struct.with_fields(pl.lit(None, pl.Float64).alias(name) for name in numbers)
    )
    fine = pl.col("status").cast(pl.String) == "ok"
    return frame.with_columns(
        scores=pl.when(fine).then("scores").otherwise(emptied),
        semantic_similarity=pl.when(fine).then("semantic_similarity"),
    )


FEATURES: Stage[Any] = Stage(
    "features",
    FeaturesStage,
    _run,
    inputs=("decoder_similarities", "scores", "explanation_embeddings"),
    modules=(
        "pipeline.validation.cosines",
        "pipeline.validation.kept_scores",
        "pipeline.validation.stages.features",
        "pipeline.validation.writing",
        "saeinterp_mcp.analysis.sampling",
        "saeinterp_mcp.validation.tables",
    ),
)
