"""Trains an SAE on vectors in a file: SAELens' trainer and architectures, our order, checkpoints and report."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.fingerprint import fingerprint_of, write_whole
from pipeline.sources.model import choose_device
from pipeline.stage import Progress
from pipeline.training.checkpoint import load_state, save_state, torch_version
from pipeline.training.config import Plan, TrainSaeConfig, make_plan
from pipeline.training.report import TrainingReport, make_report
from pipeline.training.saelens import batches, import_sae_lens, new_sae, new_trainer, quiet
from pipeline.training.save import save_sae
from pipeline.training.vectors import ShuffledVectors, held_out_rows
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import canonical_json

SAE = "sae"
REPORT = "report.json"
CHECKPOINT = "checkpoint.safetensors"
FINITE_ROWS = 2**14


def train(
    vectors: NDArray[np.float32],
    config: TrainSaeConfig,
    out: Path,
    metadata: dict[str, Any],
    execution: Execution,
    progress: Progress,
    units: NDArray[np.int64] | None = None,
) -> TrainingReport:
    """Train an SAE and measure it on vectors it has not seen.

    A run that was killed goes on from its last checkpoint and, on a CPU with one thread, ends with the same
    bytes as one that was not.

    Args:
        vectors: (n, d_in) float32, usually a memory map (`np.load(..., mmap_mode="r")`); never read whole.
        config: the section `sae.train`.
        out: folder that gets `sae/` (SAELens' layout) and `report.json`; `checkpoint.safetensors` until then.
        metadata: what the SAE's `cfg.json` says beside what SAELens writes: `model_name`, `hook_name`,
            `context_size`, `prepend_bos`, ...
        execution: device and threads.
        progress: called with the vectors seen and those there will be.
        units: (n,) which rows belong together (documents, builds); they are held out together.

    Raises:
        BadInput: vectors, settings or a checkpoint that do not fit.
    """
    device = str(choose_device(execution))
    check_vectors(vectors)
    held_out = held_out_rows(len(vectors), units, config.held_out, config.seed)
    rows = np.flatnonzero(~held_out)
    plan = make_plan(config, vectors.shape[1], len(rows))
    import_sae_lens()
    stream = ShuffledVectors(vectors, rows, config.seed)
    sae = new_sae(plan, metadata, device)
    initial = sae.W_dec.detach().cpu().clone()
    trainer = new_trainer(plan, sae, stream, device)
    scale = trainer.activation_scaler.scaling_factor
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / CHECKPOINT
    identity = identity_of(plan, vectors, metadata)
    load_state(trainer, identity, checkpoint)
    between = _watch(trainer, plan, identity, checkpoint, progress)
    trainer.data_provider = batches(stream, config.batch_size, trainer.n_training_samples, between)
    with quiet():
        trainer.fit()
    progress(plan.n_vectors, plan.n_vectors)
    n_dead = int(trainer.dead_neurons.sum())
    save_sae(trainer.sae, out / SAE)
    report = make_report(out / SAE, vectors, held_out, units, plan, scale, initial, n_dead)
    write_whole(out / REPORT, canonical_json(report.model_dump(mode="json")) + "\n")
    for path in (checkpoint, checkpoint.with_name(checkpoint.name + ".tmp")):
        path.unlink(missing_ok=True)  # the second is what a kill in the middle of a write leaves
    return report


def _watch(
    trainer: Any, plan: Plan, identity: dict[str, str], checkpoint: Path, progress: Progress
) -> Callable[[], None]:
    """What is done before each step: say how far we are, and write a checkpoint when it is time."""
    saved_at = time.monotonic()
    saved_step = trainer.n_training_steps

    def between() -> None:
        nonlocal saved_at, saved_step
        progress(trainer.n_training_samples, plan.n_vectors)
        due = time.monotonic() - saved_at >= plan.config.checkpoint_seconds
        if due and trainer.n_training_steps > saved_step:
            save_state(trainer, identity, checkpoint)
            saved_at, saved_step = time.monotonic(), trainer.n_training_steps

    return between


def check_vectors(vectors: NDArray[np.float32]) -> None:
    """Refuse what no SAE can be trained on; the whole file is looked at once, in pieces."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.size:
        raise BadInput(
            f"vectors must be (n, width) of float32 with n above 0; found {vectors.shape} of {vectors.dtype}"
        )
    low, high = vectors[0].copy(), vectors[0].copy()
    for start in range(0, len(vectors), FINITE_ROWS):
        piece = vectors[start : start + FINITE_ROWS]
        bad = ~np.isfinite(piece).all(axis=1)
        if bad.any():
            raise BadInput(
                f"vector {start + int(np.argmax(bad)):,} of {len(vectors):,} has NaN or infinity;"
                " the model gave activations that are not finite (a narrower dtype than it needs?)"
            )
        np.minimum(low, piece.min(axis=0), out=low)
        np.maximum(high, piece.max(axis=0), out=high)
    if (low == high).all():
        raise BadInput(
            f"all {len(vectors):,} vectors are the same one; is this the right hook, and does the model"
            " read its input?"
        )


def identity_of(plan: Plan, vectors: NDArray[np.float32], metadata: dict[str, Any]) -> dict[str, str]:
    """What a checkpoint must agree on to be gone on from: settings, vectors (a sample of them), versions."""
    sample = np.ascontiguousarray(vectors[np.linspace(0, len(vectors) - 1, 64).astype(np.int64)])
    return {
        "settings": fingerprint_of(plan.config.model_dump(mode="json")),
        "vectors": f"{vectors.shape} {hashlib.sha256(sample.tobytes()).hexdigest()}",
        "metadata": fingerprint_of(metadata),
        "versions": f"sae-lens {import_sae_lens().__version__}, torch {torch_version()}",
    }
