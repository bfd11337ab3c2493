"""How a trained SAE does on vectors it has not seen, and whether its decoder learned at all."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.checks import rounded
from pipeline.source_config import SaeConfig
from pipeline.sources.sae import SparseAutoencoder
from pipeline.sources.saelens_format import load_sae
from pipeline.training.config import BY_COUNT, SPARSE_BY, Plan
from pipeline.training.save import state_l0
from saeinterp_mcp.frozen import Frozen

MOST_ROWS, MOST_BYTES = 100_000, 2**28
"""Held-out vectors that are measured; more would change the third digit."""
DENSITY_EDGES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
DENSE = 0.2
"""Share of the features firing on a vector above which an SAE is not sparse."""
UNMOVED = 0.999
"""Cosine with its first direction above which a decoder row counts as one that did not learn."""


class LossRecovered(Frozen):
    """What the model loses by reading the SAE's reconstruction."""

    loss: str
    """Which loss, and on what."""
    clean: float
    reconstructed: float
    mean_ablated: float
    """With the mean vector everywhere."""

    @property
    def recovered(self) -> float:
        """Share of what mean ablation costs that the reconstruction wins back; 1 is all of it."""
        return (self.mean_ablated - self.reconstructed) / (self.mean_ablated - self.clean)


class TrainingReport(Frozen):
    """What a training left, measured on held-out vectors."""

    architecture: str
    d_in: int
    n_features: int
    k: int | None
    n_steps: int
    n_vectors_seen: int
    """Repeats counted."""
    n_train: int
    n_held_out: int
    held_out: str
    """Which vectors were kept out of the training."""
    n_measured: int
    """How many of those the numbers below are from."""
    l0: float
    """Mean number of features firing on a vector."""
    explained_variance: float | None
    """1 - squared error / squared distance from the mean; none where the measured vectors are all the same."""
    dead_fraction: float
    """Share of features that fire on none of the vectors measured."""
    dead_in_training: int
    """Features that did not fire in the last `dead_feature_window` steps of the training."""
    density: tuple[int, ...]
    """Features by the share of vectors they fire on: never, then up to 1e-5, 1e-4, 1e-3, 1e-2, 0.1 and 1."""
    decoder_cosine: float
    """Mean cosine of the decoder's directions with those they started from; 1 would be a decoder that never
    learned."""
    decoder_unmoved: float
    """Share of directions that stayed where they were (cosine above 0.999)."""
    scaling_factor: float | None
    """What inputs were multiplied with in training; it is folded into the weights."""
    loss_recovered: LossRecovered | None = None
    no_loss: str | None = "only vectors were given, no model"
    """Why `loss_recovered` is not there."""
    notes: tuple[str, ...] = ()
    """What to look at before using the SAE."""


def make_report(
    folder: Path,
    vectors: NDArray[np.float32],
    held_out: NDArray[np.bool_],
    units: NDArray[np.int64] | None,
    plan: Plan,
    scale: float | None,
    initial: Tensor,
    n_dead: int,
) -> TrainingReport:
    """Measure the SAE in a folder, and write its L0 into its `cfg.json`."""
    sae = load_sae(SaeConfig(path=folder), torch.device("cpu"))
    rows = np.flatnonzero(held_out)
    most = min(MOST_ROWS, max(1, MOST_BYTES // (4 * plan.d_in)))
    drawn = np.random.default_rng([plan.config.seed, 4]).permutation(rows)[:most]
    measured = np.sort(drawn)
    l0, explained, rates = measure(sae, vectors[measured])
    state_l0(folder, l0)
    cosines = torch.cosine_similarity(sae.W_dec, initial, dim=1)
    what = "vectors" if units is None else "units"
    n_units = len(rows) if units is None else len(np.unique(units[rows]))
    report = TrainingReport(
        architecture=plan.config.architecture,
        d_in=plan.d_in,
        n_features=plan.n_features,
        k=plan.k if plan.config.architecture in BY_COUNT else None,
        n_steps=plan.n_steps,
        n_vectors_seen=plan.n_vectors,
        n_train=len(vectors) - len(rows),
        n_held_out=len(rows),
        held_out=f"{n_units:,} {what} drawn by seed {plan.config.seed}",
        n_measured=len(measured),
        l0=rounded(l0),
        explained_variance=None if explained is None else rounded(explained),
        dead_fraction=rounded(float((rates == 0).mean())),
        dead_in_training=n_dead,
        density=density(rates),
        decoder_cosine=rounded(float(cosines.mean())),
        decoder_unmoved=rounded(float((cosines > UNMOVED).float().mean())),
        scaling_factor=scale,
    )
    return report.model_copy(update={"notes": notes(report)})


@torch.no_grad()
def measure(
    sae: SparseAutoencoder, vectors: NDArray[np.float32]
) -> tuple[float, float | None, NDArray[np.float64]]:
    """L0, explained variance, and the firing rate (n_features,) of each feature, on (n, d_in) vectors."""
    firing = np.zeros(sae.n_features, dtype=np.int64)
    error = 0.0
    for chunk in sae.chunks(torch.from_numpy(vectors)):
        activations = sae.encode(chunk)
        firing += (activations > 0).sum(dim=0).numpy()
        error += float((sae.decode(activations, chunk) - chunk).double().pow(2).sum())
    total = float(((vectors - vectors.mean(axis=0, dtype=np.float64)) ** 2).sum())
    explained = 1 - error / total if total > 0 else None
    return float(firing.sum() / len(vectors)), explained, firing / len(vectors)


def density(rates: NDArray[np.float64]) -> tuple[int, ...]:
    """How many features have a firing rate of 0, and in each bin above."""
    counted = np.searchsorted(DENSITY_EDGES, rates, side="left")
    return tuple(int(count) for count in np.bincount(counted, minlength=len(DENSITY_EDGES)))


def notes(report: TrainingReport) -> tuple[str, ...]:
    """What a reader should not miss."""
    found = []
    if report.explained_variance is None:
        found.append("the held-out vectors are all the same one, so explained variance cannot be measured")
    elif report.explained_variance < 0.5:
        found.append("less than half of the variance is explained: train longer, or let more features fire")
    if report.k is not None and abs(report.l0 / report.k - 1) > 0.35:
        found.append(f"{report.l0:.4g} features fire where k is {report.k}: train longer")
    if report.k is None and report.l0 > DENSE * report.n_features:
        found.append(
            f"{report.l0:,.0f} of {report.n_features:,} features fire on a vector, too many to mean one thing"
            f" each: raise {SPARSE_BY[report.architecture]}, or train longer"
        )
    if report.dead_fraction > 0.5:
        found.append("more than half of the features are dead: a smaller expansion_factor, or train longer")
    if report.decoder_unmoved > 0.1:
        found.append(f"{report.decoder_unmoved:.0%} of the decoder did not move from where it started")
    return tuple(found)


def table(report: TrainingReport) -> str:
    """The report for a terminal."""
    bins = ("never", "to 1e-5", "to 1e-4", "to 1e-3", "to 1e-2", "to 0.1", "to 1")
    loss = report.loss_recovered
    lines = {
        "architecture": f"{report.architecture}, {report.n_features:,} features of {report.d_in} dimensions",
        "trained": f"{report.n_steps:,} steps, {report.n_vectors_seen:,} vectors of {report.n_train:,}",
        "held out": f"{report.n_held_out:,} vectors: {report.held_out}; {report.n_measured:,} measured",
        "L0": f"{report.l0:.4g} features fire on a vector" + (f" (k {report.k})" if report.k else ""),
        "explained variance": shown(report.explained_variance),
        "loss recovered": report.no_loss or "?"
        if loss is None
        else (
            f"{loss.recovered:.4f} ({loss.loss}: clean {loss.clean:.4f}, SAE {loss.reconstructed:.4f},"
            f" mean {loss.mean_ablated:.4f})"
        ),
        "dead": f"{report.dead_fraction:.2%} on held-out vectors, {report.dead_in_training:,} in training",
        "density": ", ".join(f"{name} {n:,}" for name, n in zip(bins, report.density, strict=True)),
        "decoder": f"cosine {report.decoder_cosine:.3f} with its start, {report.decoder_unmoved:.1%} unmoved",
    }
    width = max(map(len, lines))
    return "\n".join(
        [
            *(f"{name:<{width}}  {text}" for name, text in lines.items()),
            *(f"note: {note}" for note in report.notes),
        ]
    )


def shown(value: float | None) -> str:
    """A number with four digits, or that there is none."""
    return "not measured" if value is None else f"{value:.4f}"
