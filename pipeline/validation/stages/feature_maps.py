"""Features by their decoder directions: a picture, clusters, and which merge first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.config import MapsConfig
from pipeline.validation.maps import (
    Mapped,
    clustering_document,
    map_points,
    picture_document,
    with_direction,
)
from pipeline.validation.merges import Merges, average_merges, edges_of, single_merges
from pipeline.validation.writing import write_json, write_sidecar, write_table
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.validation.tables import MERGES

DECODER = "decoder.npy"
NO_WEIGHTS = "no picture and no clusters: only neighbours are known, no decoder weights"
SINGLE = (
    "single linkage, for only cosines of neighbours are known: that of a merge is of its two closest members"
)
NULL = "features without a direction are left out"


class FeatureMapsStage(Frozen):
    """What the stage may know."""

    sae_id: str
    maps: MapsConfig
    compat: bool
    seed: int


def _run(
    config: FeatureMapsStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    folder = inputs["decoder_similarities"]
    with np.load(folder / "neighbours.npz", allow_pickle=False) as file:
        neighbours, cosines = file["features"], file["cosines"]
    n_features = len(neighbours)
    vectors = folder / DECODER if (folder / DECODER).is_file() else None
    rows, notes = _points(vectors, n_features, config.maps.max_points)
    mapped = Mapped(None, {}, ())
    if vectors is not None:
        mapped = map_points(
            vectors, rows, config.maps, config.seed, config.compat, execution.workers, progress
        )
    _write_picture(config, rows, mapped, notes, out)
    document = clustering_document(
        config.sae_id, [str(row) for row in rows.tolist()], mapped, config.compat, config.seed, notes
    )
    write_json(out / "feature_clustering.json", document)
    merges = _merges(vectors, neighbours, cosines, progress)
    told = () if vectors is not None else (SINGLE,)
    _write_merges(merges, n_features, config, told, out)
    return Summary(
        n_in=n_features,
        n_kept=len(rows),
        dropped={"not mapped": n_features - len(rows)} if n_features > len(rows) else {},
        notes=(*notes, *mapped.notes, *told, f"{len(merges.a)} merges"),
    )


def _points(
    vectors: Path | None, n_features: int, max_points: int | None
) -> tuple[NDArray[np.int64], list[str]]:
    """The features that are mapped, and what is to be said of the others."""
    if vectors is None:
        return np.zeros(0, np.int64), [NO_WEIGHTS]
    rows, notes = np.arange(n_features), []
    if max_points is not None and max_points < n_features:
        rows = rows[:max_points]
        notes.append(f"only the first {max_points} features are mapped (maps.max_points)")
    there = with_direction(vectors, rows)
    if not there.all():
        notes.append(f"{int((~there).sum())} {NULL}")
    return rows[there], notes


def _write_picture(
    config: FeatureMapsStage, rows: NDArray[np.int64], mapped: Mapped, notes: list[str], out: Path
) -> None:
    document = picture_document(config.sae_id, mapped, config.maps, config.seed, notes)
    places = [] if mapped.picture is None else mapped.picture.places.tolist()
    document["feature_embeddings"] = [
        {"feature_id": feature, "umap_x": x, "umap_y": y}
        for feature, (x, y) in zip(rows.tolist(), places, strict=False)
    ]
    write_json(out / "umap_embeddings.json", document)


def _merges(
    vectors: Path | None, neighbours: NDArray[Any], cosines: NDArray[Any], progress: Progress
) -> Merges:
    pairs, known = edges_of(neighbours, cosines, len(neighbours))
    if vectors is None:
        return single_merges(pairs, known, len(neighbours))
    return average_merges(pairs, np.load(vectors, mmap_mode="r", allow_pickle=False), progress)


def _write_merges(
    merges: Merges, n_features: int, config: FeatureMapsStage, told: tuple[str, ...], out: Path
) -> None:
    n = len(merges.a)
    frame = pl.DataFrame(
        {
            "sae_id": [config.sae_id] * n,
            "merge": np.arange(n),
            "a": merges.a,
            "b": merges.b,
            "cosine_similarity": merges.cosine,
            "size": merges.size,
        },
        schema=MERGES.schema,
    )
    write_table(MERGES, frame, out / MERGES.file)
    counts = {"n_features": n_features, "n_merges": n, "n_clusters_left": n_features - n}
    write_sidecar(MERGES, out, config.sae_id, config.model_dump(mode="json"), counts, told)


FEATURE_MAPS: Stage[Any] = Stage(
    name="feature_maps",
    config=FeatureMapsStage,
    run=_run,
    inputs=("decoder_similarities",),
    modules=(
        "pipeline.validation.clusters",
        "pipeline.validation.maps",
        "pipeline.validation.merges",
        "pipeline.validation.stages.feature_maps",
        "pipeline.validation.umap_points",
        "pipeline.validation.writing",
        "saeinterp_mcp.analysis.sampling",
        "saeinterp_mcp.validation.tables",
    ),
)
