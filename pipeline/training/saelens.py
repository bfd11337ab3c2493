"""SAELens as we use it: which of its classes an architecture is, its trainer, and its silence."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.config import DEFAULT_L0, DEFAULT_L1, Plan
from pipeline.training.vectors import ShuffledVectors
from saeinterp_mcp.errors import BadInput

NORM_VECTORS = 2**16
"""Vectors whose mean norm sets the scale of the inputs."""


class _NoBar:
    """In place of tqdm's bar: progress is ours to show, and in one way."""

    def __init__(self, iterable: Any = None, **_: Any) -> None:
        self._iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable)

    def update(self, *_: Any) -> None: ...

    def close(self) -> None: ...

    def set_description(self, *_: Any) -> None: ...


def import_sae_lens() -> Any:
    """The package `sae_lens`, with what its imports print and warn about left out.

    Raises:
        BadInput: it is not installed.
    """
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sae_lens
    except ImportError as error:
        raise BadInput(
            f"training needs the package sae-lens ({error}): pip install 'saeinterp-mcp[train]'"
        ) from error
    logging.getLogger("sae_lens").setLevel(logging.WARNING)
    return sae_lens


@contextmanager
def quiet() -> Iterator[None]:
    """SAELens' progress bars off; it has no switch for them."""
    modules: list[Any] = [
        sys.modules[f"sae_lens.training.{name}"] for name in ("sae_trainer", "activation_scaler")
    ]
    shown = [module.tqdm for module in modules]
    for module in modules:
        module.tqdm = _NoBar
    try:
        yield
    finally:
        for module, bar in zip(modules, shown, strict=True):
            module.tqdm = bar


def new_sae(plan: Plan, metadata: dict[str, Any], device: str) -> Any:
    """A TrainingSAE of SAELens with its first weights, which the seed alone decides."""
    sae_lens = import_sae_lens()
    from sae_lens.saes.sae import SAEMetadata

    config = plan.config
    common = {
        "d_in": plan.d_in,
        "d_sae": plan.n_features,
        "device": device,
        "normalize_activations": config.normalize_activations,
        "metadata": SAEMetadata(**metadata),
    }
    name, settings = _architecture(plan)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        settings_class = getattr(sae_lens, f"{name}TrainingSAEConfig")
        # made on the CPU, so that the first weights do not depend on the device
        sae = getattr(sae_lens, f"{name}TrainingSAE")(
            settings_class(**{**common, "device": "cpu"}, **settings)
        )
    return sae.to(device)


def _architecture(plan: Plan) -> tuple[str, dict[str, Any]]:
    """The name of SAELens' class, and the settings that only it has.

    Our coefficients weigh against the mean squared error over dimensions, SAELens' against their sum.
    """
    config = plan.config
    if config.architecture == "standard":
        l1 = DEFAULT_L1 if config.l1_coeff is None else config.l1_coeff
        warm_up = {"l1_warm_up_steps": plan.sparsity_warm_up_steps}
        return "Standard", {"l1_coefficient": l1 * plan.d_in, **warm_up}
    if config.architecture == "jumprelu":
        # The sparsity loss, bandwidth and first threshold of Anthropic's JumpReLU, as SAELens documents them:
        # its gradient reaches the encoder, so that it also learns in runs of a few hundred steps.
        l0 = DEFAULT_L0 if config.l0_coeff is None else config.l0_coeff
        return "JumpReLU", {
            "jumprelu_sparsity_loss_mode": "tanh",
            "jumprelu_ste_to_input": True,
            "jumprelu_bandwidth": 2.0,
            "jumprelu_init_threshold": 0.1,
            "l0_coefficient": l0 * plan.d_in,
            "l0_warm_up_steps": plan.sparsity_warm_up_steps,
            "pre_act_loss_coefficient": plan.dead_feature_loss or None,
        }
    by_count = {"k": plan.k, "aux_loss_coefficient": plan.dead_feature_loss}
    if config.architecture == "topk":
        return "TopK", by_count
    # The threshold is a moving average from 0: at SAELens' rate of 0.01 it would not arrive in a short run.
    by_batch = {**by_count, "topk_threshold_lr": max(0.01, min(0.5, 10 / plan.n_steps))}
    if config.architecture == "batchtopk":
        return "BatchTopK", by_batch
    return "MatryoshkaBatchTopK", {**by_batch, "matryoshka_widths": list(plan.widths)}


def new_trainer(plan: Plan, sae: Any, vectors: ShuffledVectors, device: str) -> Any:
    """SAELens' SAETrainer around an SAE, its input scale and the start of the decoder's bias set."""
    from sae_lens import SAETrainer
    from sae_lens.config import SAETrainerConfig

    config = SAETrainerConfig(
        total_training_samples=plan.n_vectors,
        train_batch_size_samples=plan.config.batch_size,
        lr=plan.config.lr,
        lr_end=plan.config.lr,  # the schedule is constant between warm-up and decay, but must have an end
        lr_warm_up_steps=plan.lr_warm_up_steps,
        lr_decay_steps=plan.lr_decay_steps,
        device=device,
        dead_feature_window=plan.dead_feature_window,
        # Its windows are for wandb, which we do not use: one window, as long as the training.
        feature_sampling_window=plan.n_steps + 1,
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    sample = first_vectors(vectors)
    centre = np.zeros(plan.d_in)
    if plan.config.decoder_bias == "mean":
        centre = sample.mean(axis=0, dtype=np.float64)
    scale = 1.0
    if plan.config.normalize_activations == "expected_average_only_in":
        centred = torch.from_numpy(sample - centre)
        with quiet():
            trainer.activation_scaler.estimate_scaling_factor(plan.d_in, iter([centred]), 1)
        scale = trainer.activation_scaler.scaling_factor
    sae.b_dec.data = torch.from_numpy(centre * scale).to(sae.b_dec)
    return trainer


def first_vectors(vectors: ShuffledVectors) -> NDArray[np.float32]:
    """The vectors that scale and mean are measured on: the first of the first pass, 16 MB or 65,536."""
    fits = max(1024, 2**24 // (4 * vectors.vectors.shape[1]))
    return vectors.read(0, min(len(vectors.rows), NORM_VECTORS, fits))


def batches(vectors: ShuffledVectors, size: int, start: int, between: Callable[[], None]) -> Iterator[Tensor]:
    """Batches (size, d_in) from a place of the sequence on; `between` is called before each."""
    position = start
    while True:
        between()
        yield torch.from_numpy(vectors.read(position, size))
        position += size
