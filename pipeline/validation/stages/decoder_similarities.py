"""Each feature's nearest ones by decoder direction: of weights, or of a `feature_similarities.json` made before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_core import from_json

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.config import FeatureSimilaritiesConfig
from pipeline.validation.decoder_weights import Weights, n_features_of, of_matrix, open_weights
from pipeline.validation.writing import write_json
from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.layout import NO_INDEX
from saeinterp_mcp.store.manifest import read_manifest
from saeinterp_mcp.store.open import open_store

Floats = NDArray[np.float32]
ROWS = 1_024
"""Directions read at a time."""
CELLS = 1 << 24
"""Cosines held at a time."""
SLACK = 1e-4
"""More than float32 arithmetic moves a cosine: who is that near the k-th is worked out in float64."""
DIGITS = 7
"""Cosines are rounded before they are ranked, so that a last bit never decides an order."""
FILE = "feature_similarities.json"


class DecoderSimilaritiesStage(Frozen):
    """What the stage may know."""

    sae_id: str
    feature_similarities: FeatureSimilaritiesConfig
    store: Path | None = Field(exclude=True)


class Nearest(NamedTuple):
    """The nearest of each feature; lists that are shorter end in NO_INDEX and NaN."""

    features: NDArray[np.uint32]
    """(F, k)"""
    cosines: Floats
    """(F, k) descending, ties by feature."""


def _files(config: DecoderSimilaritiesStage) -> dict[str, Path]:
    section = config.feature_similarities
    if section.weights is not None and section.given is not None:
        raise BadInput("feature_similarities names weights and a file made before (given); leave one out")
    path = section.given or section.weights
    if path is None:
        assert config.store is not None, "a stage without any source is left out"
        return {"store/manifest.json": config.store / "manifest.json"}
    if not path.is_file():
        raise BadInput(f"{path} does not exist or is no file; feature_similarities needs it")
    if section.weights is not None and config.store is not None:
        n, expected = n_features_of(section.weights), read_manifest(config.store).n_features
        if n != expected:
            raise BadInput(
                f"{path} holds {n} features, and the store {config.store} has {expected}: they are of two SAEs. Name "
                "the decoder of that SAE, or leave feature_similarities.weights out"
            )
    return {f"given/{FILE}" if section.given else f"weights{path.suffix.lower()}": path}


def _run(
    config: DecoderSimilaritiesStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    section = config.feature_similarities
    if section.given is not None:
        nearest, source = read_given(section.given, section.top_k), "a file made before"
    else:
        weights = open_weights(section.weights) if section.weights is not None else _of_store(config.store)
        directions = _write_directions(weights, out / "decoder.npy", progress)
        nearest = find_nearest(directions, section.top_k, progress)
        source = f"decoder weights ({weights.n_features} features, {weights.d_model} dimensions)"
    with (out / "neighbours.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, features=nearest.features, cosines=nearest.cosines)
    alone = int((nearest.features == NO_INDEX).all(axis=1).sum()) if nearest.features.shape[1] else 0
    write_json(out / FILE, _document(nearest, config, source))
    n = len(nearest.features)
    why = "without a direction, or in no list"
    notes = (f"{alone} features have no neighbours: they are {why}",) if alone else ()
    return Summary(n_in=n, n_kept=n - alone, dropped={why: alone} if alone else {}, notes=notes)


def _of_store(store: Path | None) -> Weights:
    assert store is not None, "a stage without any source is left out"
    backend = open_store(store).backend
    name = "weights/decoder"
    return of_matrix(backend.shape(name), lambda start, stop: backend.span(name, start, stop))


def _write_directions(weights: Weights, path: Path, progress: Progress) -> Floats:
    """(F, d) float32 of length 1 in a file, mapped; rows that are zero stay zero.

    Raises:
        BadInput: a number is not finite.
    """
    temporary = path.with_name(path.name + ".tmp")
    shape = (weights.n_features, weights.d_model)
    directions = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
    start = 0
    for block in weights.blocks(ROWS):
        wide = block.astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(wide).all(axis=1))
        if len(bad):
            raise BadInput(f"the decoder direction of feature {start + int(bad[0])} holds NaN or infinity")
        # of the largest first: squares of tiny or huge numbers would not be floats any more
        largest = np.abs(wide).max(axis=1, keepdims=True)
        scaled = np.divide(wide, largest, out=np.zeros_like(wide), where=largest > 0)
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        directions[start : start + len(block)] = np.divide(scaled, length, out=scaled, where=length > 0)
        start += len(block)
        progress(start, 2 * weights.n_features)
    directions.flush()
    del directions
    temporary.replace(path)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def find_nearest(directions: Floats, top_k: int, progress: Progress) -> Nearest:
    """The `top_k` largest cosines of each direction with the others, by (-cosine, feature).

    Directions of length 0 have no cosine: they are nobody's neighbours and have none.
    """
    n = len(directions)
    k = min(top_k, max(n - 1, 0))
    features, cosines = np.full((n, k), NO_INDEX, np.uint32), np.full((n, k), np.nan, np.float32)
    null = ~np.asarray(directions.any(axis=1))
    size = max(1, min(n, CELLS // max(n, 1)))
    for start in range(0, n if k else 0, size):
        stop = min(start + size, n)
        scores = directions[start:stop] @ directions.T
        scores[:, null] = -np.inf
        scores[np.arange(stop - start), np.arange(start, stop)] = -np.inf
        floor = np.partition(scores, n - k, axis=1)[:, n - k] - SLACK
        for i in np.flatnonzero(~null[start:stop]).tolist():
            near = np.flatnonzero(scores[i] >= max(floor[i], -2))
            exact = np.round(_cosines(directions[start + i], directions[near]), DIGITS)
            order = np.lexsort((near, -exact))[:k]
            features[start + i, : len(order)] = near[order]
            cosines[start + i, : len(order)] = exact[order]
        progress(n + stop, 2 * n)
    return Nearest(features, cosines)


def _cosines(one: Floats, others: Floats) -> NDArray[np.float64]:
    """Sums in float64, which no number of threads changes."""
    wide = others.astype(np.float64)
    wide *= one.astype(np.float64)
    return np.asarray(np.clip(wide.sum(axis=1), -1, 1))


def read_given(path: Path, top_k: int) -> Nearest:
    """The first `top_k` of each list of a `feature_similarities.json`.

    Raises:
        BadInput: it is no such file.
    """
    try:
        content: Any = from_json(path.read_bytes(), allow_inf_nan=False)
        lists = {
            int(one["source_feature_id"]): one["top_10_neighbors"] for one in content["feature_mappings"]
        }
        n = max([int(content.get("n_features") or 0), *(feature + 1 for feature in lists)])
        if len(lists) < len(content["feature_mappings"]) or min(lists, default=0) < 0:
            raise ValueError("a source_feature_id is there twice, or negative")
        k = min(top_k, max(map(len, lists.values()), default=0))
        features, cosines = np.full((n, k), NO_INDEX, np.uint32), np.full((n, k), np.nan, np.float32)
        for feature, listed in lists.items():
            found = sorted((-float(one["cosine_similarity"]), int(one["feature_id"])) for one in listed)[:k]
            ids = [other for _, other in found]
            if len(set(ids)) < len(ids) or feature in ids or not all(0 <= other < n for other in ids):
                raise ValueError(
                    f"the neighbours of feature {feature} are not different features of 0 to {n - 1}"
                )
            if found and not -1.001 <= -found[-1][0] <= -found[0][0] <= 1.001:
                raise ValueError(f"a cosine_similarity of feature {feature} is not from -1 to 1")
            features[feature, : len(ids)] = ids
            cosines[feature, : len(ids)] = np.clip([-value for value, _ in found], -1, 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = visible(f"{type(error).__name__}: {error}")[:200]
        raise BadInput(f"{path} is no {FILE} that can be used: {said}") from error
    return Nearest(features, cosines)


def _document(nearest: Nearest, config: DecoderSimilaritiesStage, source: str) -> dict[str, Any]:
    """The JSON in the shape of SAE_vis; `feature_range` says what was compared."""
    n, k = nearest.features.shape
    there = nearest.features != NO_INDEX
    return {
        "n_features": n,
        "feature_range": {"start": 0, "end": n, "total_features": n},
        "description": "Features of like decoder direction, by cosine similarity",
        "model_info": {"sae_id": config.sae_id, "source": source},
        "feature_mappings": [
            {
                "source_feature_id": feature,
                "top_10_neighbors": [
                    {"feature_id": other, "cosine_similarity": round(cosine, DIGITS), "rank": rank}
                    for rank, (other, cosine) in enumerate(zip(others, cosines, strict=True), start=1)
                    if other != NO_INDEX
                ],
            }
            for feature, (others, cosines) in enumerate(
                zip(nearest.features.tolist(), nearest.cosines.astype(np.float64).tolist(), strict=True)
            )
        ],
        "statistics": {
            "top_k": k,
            "all_top_k": _statistics(nearest.cosines[there]),
            "top_1_only": _statistics(nearest.cosines[:, :1][there[:, :1]]),
        },
        "config_used": config.model_dump(mode="json"),
    }


def _statistics(cosines: Floats) -> dict[str, float | None]:
    if not len(cosines):
        return dict.fromkeys(("min", "max", "mean", "std"))
    wide = cosines.astype(np.float64)
    found = {"min": wide.min(), "max": wide.max(), "mean": wide.mean(), "std": wide.std()}
    return {name: round(float(value), DIGITS) for name, value in found.items()}


DECODER_SIMILARITIES = Stage(
    name="decoder_similarities",
    config=DecoderSimilaritiesStage,
    run=_run,
    external=_files,
    modules=(
        "pipeline.validation.decoder_weights",
        "pipeline.validation.stages.decoder_similarities",
        "pipeline.validation.writing",
    ),
)
