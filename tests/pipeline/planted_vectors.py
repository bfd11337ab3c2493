"""Vectors that are sums of a few planted directions: what an SAE trained on them should find."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.training.config import TrainSaeConfig
from pipeline.training.report import TrainingReport
from pipeline.training.trainer import train

N, D_IN, N_DIRECTIONS, N_ACTIVE = 6000, 16, 24, 2
CPU = Execution(device="cpu", threads=1)


def planted(seed: int = 0, offset: float = 2.0) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Vectors (N, D_IN), each of two of the directions (N_DIRECTIONS, D_IN), an offset and a little noise."""
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=(N_DIRECTIONS, D_IN))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    strengths = np.zeros((N, N_DIRECTIONS))
    for _ in range(N_ACTIVE):
        strengths[np.arange(N), generator.integers(0, N_DIRECTIONS, N)] = generator.uniform(1, 3, N)
    vectors = strengths @ directions + offset + 0.02 * generator.normal(size=(N, D_IN))
    return vectors.astype(np.float32), directions


def found(directions: NDArray[np.float64], decoder: Iterable[Iterable[float]]) -> float:
    """Mean over planted directions of the cosine with the nearest row of a decoder."""
    rows = np.asarray(decoder, dtype=np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return float((directions @ rows.T).max(axis=1).mean())


def quietly(done: int, total: int) -> None:
    """A progress callback that tells nobody."""


def short(architecture: str, /, **changed: object) -> TrainSaeConfig:
    """Settings for a run of two seconds."""
    by_architecture: dict[str, dict[str, object]] = {
        "standard": {"l1_coeff": 0.02},
        "jumprelu": {"l0_coeff": 0.005},
        "matryoshka": {"k": N_ACTIVE, "matryoshka_widths": [24]},
    }
    settings: dict[str, object] = {
        "architecture": architecture,
        "expansion_factor": 3,
        "tokens": 600 * 128,
        "batch_size": 128,
        "lr": 3e-3,
        **by_architecture.get(architecture, {"k": N_ACTIVE}),
    }
    return TrainSaeConfig.model_validate(settings | changed)


def trained(out: Path, config: TrainSaeConfig, vectors: NDArray[np.float32] | None = None) -> TrainingReport:
    """Train on the planted vectors, or on others."""
    return train(planted()[0] if vectors is None else vectors, config, out, {"hook_name": "h"}, CPU, quietly)
