"""What the pictures of features and of explanations share: points of a file of vectors, drawn and clustered."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.parallel import run_tasks
from pipeline.validation.clusters import MOST_WARD, Clusters, cluster, possible, statistics_of, ward
from pipeline.validation.config import MapsConfig
from pipeline.validation.umap_points import DIGITS, Floats, Picture, Vectors, draw

NO_DIRECTION = 0.5
"""Vectors have length 1; a shorter one is that of a feature or text without a direction."""


class Mapped(NamedTuple):
    """Points of one kind: where they are drawn, and their clusterings by the number of clusters."""

    picture: Picture | None
    clusterings: dict[int, Clusters]
    notes: tuple[str, ...]
    """What is missing, and why."""


class _Task(NamedTuple):
    vectors: Path
    rows: NDArray[np.int64]
    config: MapsConfig
    seed: int
    compat: bool


def map_points(
    vectors: Path,
    rows: NDArray[np.int64],
    config: MapsConfig,
    seed: int,
    compat: bool,
    workers: int,
    progress: Callable[[int, int], None],
) -> Mapped:
    """Draw and cluster some rows of an array of directions (.npy); with `compat` the clusters are of the picture."""
    ks, notes = possible(config.n_clusters, len(rows))
    task = partial(_work, _Task(vectors, rows, config, seed, compat))
    # the picture takes the longest, so it goes first; two workers look ahead as far as all that is left
    kinds = [0] if compat else [0, *reversed(ks)]
    picture: Picture | None = None
    clusterings: dict[int, Clusters] = {}
    for k, result in zip(kinds, run_tasks(task, kinds, workers, progress), strict=True):
        if isinstance(result, Clusters):
            clusterings[k] = result
            n_found = int(result.labels.max()) + 1
            if n_found < k:
                notes.append(f"{n_found} clusters instead of {k}: no more of the points differ")
        elif isinstance(result, str):
            notes.append(f"no picture: {result}")
        else:
            picture = result
    if compat and picture is not None:
        if len(rows) <= MOST_WARD:
            clusterings = {k: Clusters(ward(picture.places, k), None) for k in ks}
        else:
            notes.append(
                f"Ward's method takes {MOST_WARD:,} points, and there are {len(rows):,}: set maps.max_points"
            )
    return Mapped(picture, dict(sorted(clusterings.items())), tuple(notes))


def _work(task: _Task, k: int) -> Picture | str | Clusters:
    """The picture for 0, else a clustering."""
    stored: Vectors = np.load(task.vectors, mmap_mode="r", allow_pickle=False)
    chosen = np.ascontiguousarray(stored[task.rows], np.float32)
    if not k:
        return draw(chosen, task.config.n_neighbors, task.config.min_dist, task.seed)
    with threadpool_limits(1):
        return cluster(chosen, k, task.seed, task.config.n_stability)


def with_direction(vectors: Path, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the rows are directions."""
    stored: Vectors = np.load(vectors, mmap_mode="r", allow_pickle=False)
    found = np.zeros(len(rows), np.bool_)
    for start in range(0, len(rows), 4096):
        part = slice(start, start + 4096)
        found[part] = np.linalg.norm(stored[rows[part]], axis=1) > NO_DIRECTION
    return found


def picture_document(
    sae_id: str, mapped: Mapped, config: MapsConfig, seed: int, notes: Sequence[str]
) -> dict[str, Any]:
    """What made a picture and where its points lie, still without these."""
    picture = mapped.picture
    metadata: dict[str, Any] = {
        "sae_id": sae_id,
        "n_points": 0 if picture is None else len(picture.places),
        "n_neighbors": None if picture is None else picture.n_neighbors,
        "min_dist": config.min_dist,
        "metric": "cosine",
        "random_state": seed,
        "notes": [*notes, *mapped.notes, *(() if picture is None else picture.notes)],
        "statistics": None,
    }
    if picture is not None:
        metadata["statistics"] = {
            f"umap_{axis}": _spread(picture.places[:, i]) for i, axis in enumerate("xy")
        }
    return {"metadata": metadata}


def _spread(values: Floats) -> dict[str, float]:
    found = {"min": values.min(), "max": values.max(), "mean": values.mean(), "std": values.std()}
    return {name: round(float(value), DIGITS) for name, value in found.items()}


def clustering_document(
    sae_id: str, names: Sequence[str], mapped: Mapped, compat: bool, seed: int, notes: Sequence[str]
) -> dict[str, Any]:
    """Labels of each point by the number of clusters, what the clusters are like, and how stable they are."""
    places = None if mapped.picture is None else mapped.picture.places
    assignments, statistics, stability = {}, {}, {}
    for k, found in mapped.clusterings.items():
        key = f"{k}_clusters"
        assignments[key] = dict(zip(names, found.labels.tolist(), strict=True))
        statistics[key] = statistics_of(found.labels, places)
        if found.stability is not None:
            stability[key] = {name: round(value, DIGITS) for name, value in found.stability._asdict().items()}
    return {
        "metadata": {
            "sae_id": sae_id,
            "n_points": len(names),
            "method": "Ward on the picture's places" if compat else "spherical k-means on the vectors",
            "random_state": seed,
            "notes": [*notes, *mapped.notes],
        },
        "cluster_assignments": assignments,
        "cluster_statistics": statistics,
        "stability": stability,
    }
