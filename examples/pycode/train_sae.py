"""Train the sparse autoencoder: BatchTopK, 2048 features, 32 of them a token, on `blocks.2.hook_resid_post`.

    python train_sae.py --text WORK --model WORK/lm --out WORK/sae --minutes 14

Activations come from the training text of the language model, position 0 left out: that is the same token in
every window and has the largest norm of all. The learning rate follows the clock, as in `train_lm.py`. The
result is written as SAELens writes a BatchTopK SAE for use: `jumprelu`, one threshold for each feature.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from capture import residual
from evaluate import load_model
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from threads import ThreadChooser
from torch import Tensor
from train_lm import load_tokens
from transformers import GPT2LMHeadModel

CAPTURE_WINDOWS = 32
MIN_STEPS = 500
"""SAELens moves the thresholds 1 % of the way each step, so before this they are far below their value."""
PROGRESS_STEPS = 50

logger = logging.getLogger("train_sae")


@dataclass(frozen=True)
class Recipe:
    """What decides the result, apart from model and duration."""

    layer: int = 2
    n_features: int = 2048
    k: float = 32
    batch_samples: int = 4096
    rate: float = 1e-3
    final_rate: float = 0.1
    """Last learning rate, as a part of the first."""
    warm_up_steps: int = 50
    decay_from: float = 0.75
    """Progress (0 to 1) at which the learning rate starts to fall."""
    dead_feature_window: int = 150
    """Steps without firing after which a feature counts as dead and the auxiliary loss revives it."""
    n_further_windows: int = 4000
    """Windows of further text beside all of the base corpus."""
    seed: int = 0


def metadata(recipe: Recipe, context: int) -> SAEMetadata:
    """What a reader needs to know to feed the SAE what it was trained on."""
    return SAEMetadata(
        model_name="pycode",
        model_class_name="AutoModelForCausalLM",
        model_from_pretrained_kwargs={},
        hook_name=f"blocks.{recipe.layer}.hook_resid_post",
        hf_hook_name=f"transformer.h.{recipe.layer}",
        hook_head_index=None,
        context_size=context,
        prepend_bos=True,
        exclude_special_tokens=[0],
        seqpos_slice=[1, None],
        dataset_path="standard-library",
        k=int(recipe.k),
    )


def training_windows(text: Path, recipe: Recipe, context: int) -> Tensor:
    """Inputs (windows, context) int64: id 0 and then the next `context - 1` tokens, without overlap."""
    length = context - 1
    parts: list[Tensor] = []
    for name, most in (("base", None), ("further", recipe.n_further_windows)):
        tokens = load_tokens(text / f"{name}.npy")
        windows = tokens[: len(tokens) // length * length].view(-1, length)
        parts.append(windows[torch.randperm(len(windows))[:most]])
    return F.pad(torch.cat(parts).long(), (1, 0))


def capture_all(model: GPT2LMHeadModel, windows: Tensor, layer: int, chooser: ThreadChooser) -> Tensor:
    """Activations (tokens, width) fp16 at every position but 0."""
    context = windows.shape[1]
    captured = torch.empty(len(windows), context - 1, model.config.n_embd, dtype=torch.float16)
    for start in range(0, len(windows), CAPTURE_WINDOWS):
        started = time.monotonic()
        chooser.start_step()
        rows = windows[start : start + CAPTURE_WINDOWS]
        captured[start : start + len(rows)] = residual(model, rows, layer)[:, 1:].half()
        chooser.end_step(time.monotonic() - started)
    return captured.flatten(0, 1)


def shuffled_batches(activations: Tensor, size: int) -> Iterator[Tensor]:
    """Batches (size, width) fp32, every activation once in each pass."""
    while True:
        order = torch.randperm(len(activations))
        for start in range(0, len(order) - size + 1, size):
            yield activations[order[start : start + size]].float()


def new_trainer(
    recipe: Recipe, activations: Tensor, context: int
) -> SAETrainer[BatchTopKTrainingSAE, object]:
    """SAELens' trainer around a new SAE. Its own schedule is constant; `fit` sets the learning rate."""
    config = BatchTopKTrainingSAEConfig(
        d_in=activations.shape[1],
        d_sae=recipe.n_features,
        k=recipe.k,
        normalize_activations="expected_average_only_in",
        metadata=metadata(recipe, context),
    )
    trainer_config = SAETrainerConfig(
        total_training_samples=recipe.batch_samples * MIN_STEPS,
        train_batch_size_samples=recipe.batch_samples,
        lr=recipe.rate,
        lr_end=recipe.rate,
        autocast=True,
        dead_feature_window=recipe.dead_feature_window,
        feature_sampling_window=300,
        n_batches_for_norm_estimate=20,
    )
    batches = shuffled_batches(activations, recipe.batch_samples)
    return SAETrainer(cfg=trainer_config, sae=BatchTopKTrainingSAE(config), data_provider=batches)


def rate_factor(step: int, progress: float, recipe: Recipe) -> float:
    """What the learning rate is multiplied with, at `progress` (0 to 1) through the run."""
    warm = min(1.0, (step + 1) / recipe.warm_up_steps)
    fallen = max(0.0, (progress - recipe.decay_from) / (1 - recipe.decay_from))
    return warm * (1 - min(1.0, fallen) * (1 - recipe.final_rate))


def fit(
    trainer: SAETrainer[BatchTopKTrainingSAE, object], recipe: Recipe, minutes: float, chooser: ThreadChooser
) -> None:
    """What `SAETrainer.fit` does, with the clock deciding the learning rate and the end."""
    trainer.activation_scaler.estimate_scaling_factor(
        d_in=trainer.sae.cfg.d_in,
        data_provider=trainer.data_provider,
        n_batches_for_norm_estimate=trainer.cfg.n_batches_for_norm_estimate,
    )
    scale = trainer.activation_scaler.scaling_factor
    assert scale is not None, "the SAE was made with normalize_activations expected_average_only_in"
    started = time.monotonic()
    progress = 0.0
    while progress < 1 or trainer.n_training_steps < MIN_STEPS:
        step_started = time.monotonic()
        chooser.start_step()
        rate = recipe.rate * rate_factor(trainer.n_training_steps, progress, recipe)
        trainer.optimizer.param_groups[0]["lr"] = rate
        trainer.maybe_reset_sparsity()
        output = trainer.step(next(trainer.data_provider))
        trainer.n_training_steps += 1
        chooser.end_step(time.monotonic() - step_started)
        seconds = time.monotonic() - started
        progress = seconds / (60 * minutes)
        if trainer.n_training_steps % PROGRESS_STEPS == 0:
            x, reconstruction = output.sae_in.float(), output.sae_out.float()
            explained = 1 - (x - reconstruction).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
            logger.info(
                "step %d, %.0f s, %.1f %%, explained variance %.4f, %d dead, %d threads",
                *(trainer.n_training_steps, seconds, 100 * progress, explained),
                *(int(trainer.dead_neurons.sum()), chooser.threads),
            )
    trainer.sae.fold_activation_norm_scaling_factor(scale)
    trainer.set_final_sae_metadata()


def train(
    text: Path, model_folder: Path, out: Path, recipe: Recipe, minutes: float, most_threads: int
) -> None:
    """Capture activations, fit, and write a SAELens folder."""
    torch.manual_seed(recipe.seed)
    model = load_model(model_folder)
    context: int = model.config.n_positions
    started = time.monotonic()
    windows = training_windows(text, recipe, context)
    activations = capture_all(model, windows, recipe.layer, ThreadChooser(most_threads))
    logger.info("captured %d activations, %.0f s", len(activations), time.monotonic() - started)
    trainer = new_trainer(recipe, activations, context)
    fit(trainer, recipe, minutes, ThreadChooser(most_threads))
    out.mkdir(parents=True, exist_ok=True)
    trainer.sae.save_inference_model(str(out))
    run = {"steps": trainer.n_training_steps, "samples": trainer.n_training_samples}
    run |= {"captured": len(activations), "seconds": round(time.monotonic() - started)}
    (out / "training.json").write_text(json.dumps(run, indent=1) + "\n")
    logger.info("%s", run)


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="folder written by training_text.py")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=14, help="for the fit; capturing comes on top")
    parser.add_argument(
        "--threads", type=int, default=2, help="most threads; the fastest number up to it is used"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(arguments.text, arguments.model, arguments.out, Recipe(), arguments.minutes, arguments.threads)


if __name__ == "__main__":
    main()
