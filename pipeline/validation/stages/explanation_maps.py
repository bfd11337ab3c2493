"""Explanations by what their texts mean: one picture for all explainers, and clusters with words for names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.clusters import names_of
from pipeline.validation.config import MapsConfig
from pipeline.validation.maps import (
    Mapped,
    clustering_document,
    map_points,
    picture_document,
    with_direction,
)
from pipeline.validation.writing import read_table, write_json
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.patterns.phrases import terms
from saeinterp_mcp.patterns.words import words
from saeinterp_mcp.validation.tables import EXPLANATION_EMBEDDINGS

COLUMNS = ("feature_id", "data_source", "llm_explainer", "explanation_text", "vector")
NO_VECTORS = "no picture and no clusters: explanations have no vectors (embedder none)"


class ExplanationMapsStage(Frozen):
    """What the stage may know."""

    sae_id: str
    maps: MapsConfig
    compat: bool
    seed: int


def _run(
    config: ExplanationMapsStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    folder = inputs["explanation_embeddings"]
    table = read_table(EXPLANATION_EMBEDDINGS, folder / EXPLANATION_EMBEDDINGS.file, COLUMNS)
    points, notes = _points(table, folder / "explanations.npy", config.maps.max_points)
    mapped = Mapped(None, {}, ())
    if len(points):
        rows = points["vector"].to_numpy().astype(np.int64)
        mapped = map_points(
            folder / "explanations.npy",
            rows,
            config.maps,
            config.seed,
            config.compat,
            execution.workers,
            progress,
        )
    keys = _keys(points)
    document = picture_document(config.sae_id, mapped, config.maps, config.seed, notes)
    document["feature_embeddings"] = _places(keys, mapped)
    write_json(out / "explanation_umap.json", document)
    names = [f"feature_{feature}/{source}" for feature, source in keys]
    document = clustering_document(config.sae_id, names, mapped, config.compat, config.seed, notes)
    document["cluster_terms"] = _terms(points, mapped)
    write_json(out / "explanation_clustering.json", document)
    return Summary(
        n_in=len(table),
        n_kept=len(points),
        dropped={"not mapped": len(table) - len(points)} if len(table) > len(points) else {},
        notes=(*notes, *mapped.notes),
    )


def _points(table: pl.DataFrame, vectors: Path, max_points: int | None) -> tuple[pl.DataFrame, list[str]]:
    """The explanations that are mapped, and what is to be said of the others."""
    points = table.filter(pl.col("vector").is_not_null())
    if not vectors.is_file() or not len(points):
        return points.clear(), [NO_VECTORS]
    notes = []
    if len(points) < len(table):
        notes.append(f"{len(table) - len(points)} explanations without a vector are left out")
    features = points["feature_id"].unique().sort()
    if max_points is not None and max_points < len(features):
        points = points.filter(pl.col("feature_id") <= features[max_points - 1])
        notes.append(f"only those of the first {max_points} features are mapped (maps.max_points)")
    there = with_direction(vectors, points["vector"].to_numpy().astype(np.int64))
    if not there.all():
        notes.append(f"{int((~there).sum())} texts without a direction are left out")
    return points.filter(pl.Series(there)), notes


def _keys(points: pl.DataFrame) -> list[tuple[int, str]]:
    """(feature, source) of each point: its data source, with the explainer where a source has several for one
    feature."""
    columns = points.select("feature_id", pl.col("data_source", "llm_explainer").cast(pl.String))
    found = [(feature, source) for feature, source, _ in columns.iter_rows()]
    often = Counter(found)
    return [
        (feature, source if often[feature, source] == 1 else f"{source}/{explainer}")
        for feature, source, explainer in columns.iter_rows()
    ]


def _places(keys: list[tuple[int, str]], mapped: Mapped) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    if mapped.picture is not None:
        for (feature, source), (x, y) in zip(keys, mapped.picture.places.tolist(), strict=True):
            found.setdefault(f"feature_{feature}", {})[source] = {"x": x, "y": y}
    return found


def _terms(points: pl.DataFrame, mapped: Mapped) -> dict[str, dict[str, list[str]]]:
    """For each number of clusters the terms that set each apart; they stand in for names."""
    if not mapped.clusterings:
        return {}
    texts = [text or "" for text in points["explanation_text"].to_list()]
    told = [terms(text) for text in texts]
    spelled = _spellings(texts)
    return {
        f"{k}_clusters": {
            str(label): [spelled.get(term, term) for term in strongest]
            for label, strongest in names_of(found.labels, told).items()
        }
        for k, found in mapped.clusterings.items()
    }


def _spellings(texts: Sequence[str]) -> dict[str, str]:
    """Stem to the word, in lower case, that it most often stands for (of equal ones the first by its letters)."""
    often = Counter((stem, written.lower()) for text in texts for stem, written in words(text))
    found: dict[str, str] = {}
    for stem, written in sorted(often, key=lambda pair: (-often[pair], pair)):
        found.setdefault(stem, written)
    return found


EXPLANATION_MAPS: Stage[Any] = Stage(
    name="explanation_maps",
    config=ExplanationMapsStage,
    run=_run,
    inputs=("explanation_embeddings",),
    modules=(
        "pipeline.validation.clusters",
        "pipeline.validation.maps",
        "pipeline.validation.stages.explanation_maps",
        "pipeline.validation.umap_points",
        "pipeline.validation.writing",
        "saeinterp_mcp.analysis.sampling",
        "saeinterp_mcp.patterns.phrases",
        "saeinterp_mcp.patterns.quoted",
        "saeinterp_mcp.patterns.words",
        "saeinterp_mcp.validation.tables",
    ),
)
