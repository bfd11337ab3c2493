"""Trains an SAE on the vectors of an earlier stage. Leaves `sae/`, as SAELens writes one, and `report.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import field_validator

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.training.config import TrainSaeConfig
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

VECTORS, UNITS, METADATA = "vectors.npy", "units.npy", "metadata.json"


class TrainSaeStageConfig(Frozen):
    """What decides the SAE beside the vectors: settings, and the names that its metadata states."""

    model: str
    hook: str
    sae: TrainSaeConfig

    @field_validator("model", mode="before")
    @classmethod
    def _name_of_the_model(cls, section: Any) -> Any:
        return getattr(section, "display_name", section)

    @field_validator("sae", mode="before")
    @classmethod
    def _how_to_train(cls, section: Any) -> Any:
        train = getattr(section, "train", section)
        if train is None:
            raise BadInput("sae.train is missing: it says how to train the SAE (docs/train-sae.md)")
        return train


def run(
    config: TrainSaeStageConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Train; a run that was killed goes on from its last checkpoint."""
    from pipeline.training.report import shown
    from pipeline.training.trainer import train

    captured = inputs["capture_vectors"]
    vectors: NDArray[np.float32] = np.load(captured / VECTORS, mmap_mode="r", allow_pickle=False)
    metadata = {"model_name": config.model, "hook_name": config.hook, **stated(captured)}
    report = train(vectors, config.sae, out, metadata, execution, progress, units=units_of(inputs))
    return Summary(
        n_in=len(vectors),
        n_kept=report.n_train,
        dropped={"held out": report.n_held_out},
        notes=(
            f"{report.n_features:,} features, L0 {report.l0:.4g}, explained variance"
            f" {shown(report.explained_variance)}, {report.dead_fraction:.2%} dead on {report.n_measured:,} vectors",
            *report.notes,
        ),
    )


def stated(captured: Path) -> dict[str, Any]:
    """What the stage that captured the vectors says about them; sets have nothing to say."""
    path = captured / METADATA
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def units_of(inputs: Mapping[str, Path]) -> NDArray[np.int64] | None:
    """(n,): which vectors are of one unit, so that they are held out together; None where nobody says."""
    path = inputs["capture_vectors"] / UNITS
    if path.is_file():
        units: NDArray[np.int64] = np.load(path, allow_pickle=False)
        return units
    if "draw_samples" not in inputs:
        return None
    column = pq.read_table(inputs["draw_samples"] / "samples.parquet", columns=["unit"]).column("unit")
    numbers: NDArray[np.int64] = (
        column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    )
    return numbers


TRAIN_SAE = Stage(
    name="train_sae",
    config=TrainSaeStageConfig,
    run=run,
    inputs=("draw_samples", "capture_vectors"),
    modules=(
        "pipeline.stages.train_sae",
        "pipeline.training.config",
        "pipeline.training.report",
        "pipeline.training.saelens",
        "pipeline.training.save",
        "pipeline.training.trainer",
        "pipeline.training.vectors",
        "pipeline.sources.sae",
        "pipeline.sources.saelens_format",
    ),
)
