"""What the model loses by reading the trained SAE's reconstructions, on units that the training did not see.

The artifact holds `loss.json`: the losses, or why there are none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import field_validator

from pipeline.checks import rounded
from pipeline.config import Execution
from pipeline.fingerprint import located_files, write_whole
from pipeline.set_config import SetModelConfig
from pipeline.source_config import ModelConfig, SaeConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.train_sae import VECTORS, units_of
from pipeline.tokenisation import TokenisedSamples
from pipeline.training.config import TrainSaeConfig
from pipeline.training.text_vectors import SAMPLES
from pipeline.training.vectors import held_out_rows
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    from pipeline.sources.sae import SparseAutoencoder

LOSS = "loss.json"
MOST_VECTORS = 16_384
MODULES = (
    "pipeline.training.held_out_loss",
    "pipeline.training.vectors",
    "pipeline.evaluation",
    "pipeline.batches",
    "pipeline.outputs",
    "pipeline.sources.model",
    "pipeline.sources.sae",
    "pipeline.sources.saelens_format",
)


class _HeldOut(Frozen):
    """How the training divided the units."""

    sae: TrainSaeConfig

    @field_validator("sae", mode="before")
    @classmethod
    def _how_to_train(cls, section: Any) -> Any:
        return getattr(section, "train", section)


class TextLossConfig(_HeldOut):
    """What decides the loss of a language model."""

    model: ModelConfig


class SetLossConfig(_HeldOut):
    """What decides the loss of a model of sets."""

    model: SetModelConfig


def text_files(config: TextLossConfig) -> dict[str, Path]:
    """The model."""
    return located_files(model=config.model)


def set_files(config: SetLossConfig) -> dict[str, Path]:
    """The adapter and its files."""
    from pipeline.sources.set_model import model_files

    return model_files(config.model)


def text_loss(
    config: TextLossConfig, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    """Next-token loss on held-out documents."""
    from pipeline.evaluation import losses
    from pipeline.sources.model import load_model

    vectors, held_out = held_out_vectors(config.sae, inputs)
    rows = np.flatnonzero(held_out)[:MOST_VECTORS]
    drawn = np.load(inputs["capture_vectors"] / SAMPLES, allow_pickle=False)
    # samples are in the order of their rows; the last one may have rows beyond MOST_VECTORS
    chosen = drawn[held_out[drawn[:, 1]] & (drawn[:, 1] <= rows[-1]), 0]
    samples = TokenisedSamples(inputs["tokenize_dataset"])
    model = load_model(config.model, execution)
    mean = mean_of(vectors, rows).to(model.device)
    sae = trained_sae(inputs, model.device)
    found = losses(
        model, sae, samples.take(chosen), samples.tokenisation, samples.tokenisation.hook_name, mean
    )
    what = f"nats per next token, {len(chosen):,} held-out samples"
    return leave(out, what, (found.clean, found.reconstructed, found.mean_ablated), len(chosen))


def set_loss(
    config: SetLossConfig, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    """Binary cross-entropy of the adapter's read-out against the whole sets, on held-out ones."""
    import torch

    from pipeline.sources.set_model import load_set_model
    from pipeline.stages.check_vectors import set_losses
    from pipeline.stages.draw_samples import SAMPLES as DRAWN
    from pipeline.stages.draw_samples import SETS

    model = load_set_model(config.model, execution)
    read_out = model.read_out()
    if read_out is None:
        return leave(out, "the adapter has no read_out", None, 0)
    vectors, held_out = held_out_vectors(config.sae, inputs)
    owner = pq.read_table(inputs["draw_samples"] / DRAWN, columns=["set"]).column("set")
    rows = np.flatnonzero(held_out & pc.is_valid(owner).to_numpy())
    if len(rows) > MOST_VECTORS:
        generator = np.random.default_rng([config.sae.seed, 5])
        rows = np.sort(generator.choice(rows, MOST_VECTORS, replace=False))
    if not len(rows):
        return leave(out, "only null samples were held out", None, 0)
    tokens = pq.read_table(inputs["draw_samples"] / SETS).column("tokens").take(owner.take(pa.array(rows)))
    sae = trained_sae(inputs, model.device)
    found = set_losses(sae, read_out, torch.from_numpy(vectors[rows]).to(model.device), tokens)
    return leave(
        out, f"nats per sample against the whole set, {len(rows):,} held-out samples", found, len(rows)
    )


def held_out_vectors(
    train: TrainSaeConfig, inputs: Mapping[str, Path]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The vectors, and (n,) which of them the training held out."""
    vectors: NDArray[np.float32] = np.load(
        inputs["capture_vectors"] / VECTORS, mmap_mode="r", allow_pickle=False
    )
    return vectors, held_out_rows(len(vectors), units_of(inputs), train.held_out, train.seed)


def mean_of(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> Any:
    """(d_model,) float32 tensor: the mean of some vectors."""
    import torch

    return torch.from_numpy(vectors[rows].mean(axis=0, dtype=np.float64)).float()


def trained_sae(inputs: Mapping[str, Path], device: Any) -> "SparseAutoencoder":
    """The SAE that `train_sae` left."""
    from pipeline.sources.saelens_format import load_sae

    return load_sae(SaeConfig(path=inputs["train_sae"] / "sae"), device)


def leave(out: Path, what: str, found: tuple[float, float, float] | None, n: int) -> Summary:
    """Write `loss.json`: what was measured, or why nothing was."""
    if found is not None and not found[2] > found[0]:
        what = f"mean ablation costs nothing ({what}: clean {found[0]:.4g}, mean {found[2]:.4g})"
        found = None
    content: dict[str, Any] = {"loss_recovered": None, "no_loss": what}
    if found is not None:
        clean, reconstructed, mean = map(rounded, found)
        measured = {"loss": what, "clean": clean, "reconstructed": reconstructed, "mean_ablated": mean}
        content = {"loss_recovered": measured, "no_loss": None}
    write_whole(out / LOSS, canonical_json(content) + "\n")
    return Summary(n_in=n, n_kept=n, notes=() if found is not None else (f"no loss: {what}",))


TEXT_LOSS = Stage(
    name="measure_loss",
    config=TextLossConfig,
    run=text_loss,
    inputs=("tokenize_dataset", "capture_vectors", "train_sae"),
    modules=(
        *MODULES,
        "pipeline.tokenisation",
        "pipeline.sources.huggingface_model",
        "pipeline.sources.bridge_model",
    ),
    external=text_files,
)
SET_LOSS = Stage(
    name="measure_loss",
    config=SetLossConfig,
    run=set_loss,
    inputs=("draw_samples", "capture_vectors", "train_sae"),
    modules=(*MODULES, "pipeline.stages.check_vectors", "pipeline.sources.set_model"),
    external=set_files,
)
