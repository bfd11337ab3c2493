"""The same worlds through an SAE: planted features become vectors, and an SAE trained on these becomes the store.

Each feature gets a random direction of `WIDTH` dimensions; a row's vector is the sum of its activations times these
directions, an offset and noise. An SAE (batch-topk, SAELens' trainer) is trained on the vectors of all rows, and its
latents are the features of the store. A truth is given the latent whose activation correlates most with its own, over
rows of `explain`, one latent to one truth, best pairs first; under `MATCHED` a truth has no latent and is left out.
A parent of `absorbed_child` fires at all its rows here, so that absorbing it is left to the SAE.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.recover.firing import draw_activations
from benchmarks.recover.rows import Bools, Rows
from benchmarks.recover.truth import Stratum, Structure, Truth
from benchmarks.recover.worlds import Law, truth_text, write_activations, write_rows
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.analysis.splits import in_explain, unit_hash
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    from pipeline.training.config import TrainSaeConfig

WIDTH = 64
"""Dimensions of a vector: about as many as there are features, so that these overlap."""
NOISE = 0.05
"""Standard deviation of the noise in each dimension; a feature that fires adds about its strength, 1 to 4."""
EXPANSION = 2
EPOCHS = 60
BATCH = 512
MATCHED = 0.6
"""Correlation from which a latent stands for a planted feature."""

Activations = NDArray[np.float32]


class Match(Frozen):
    """A planted feature and the latent that comes nearest."""

    planted: int
    """Feature of the ideal world."""
    stratum: Stratum
    structure: Structure | None
    latent: int | None
    """None where no free latent correlates enough; then it is in no truth."""
    correlation: float | None
    """With that latent, or with the best free one; None for a feature that never fires."""


class Trained(NamedTuple):
    """Latents of all rows and what they were matched to."""

    latents: Activations
    """(N, latents)"""
    matches: list[Match]


def write_trained(folder: Path, law: Law, rows: Rows, seed: int) -> list[Truth]:
    """Train, match and write the bundle; the truths of matched latents and `NAME.matches.json` lie beside it."""
    ideal = ideal_activations(law, rows, seed)
    trained = train_on(vectors_of(ideal, seed), ideal, law, rows, seed)
    latents = trained.latents
    row, feature = np.nonzero(latents)
    write_rows(folder, law, rows, n_features=latents.shape[1])
    write_activations(folder, rows, feature, row, latents[row, feature])
    matches_path(folder).write_text(truth_text(trained.matches), encoding="utf-8")
    return truths_of(trained.matches)


def matches_path(folder: Path) -> Path:
    """Where the matches of a bundle are kept."""
    return folder.with_name(f"{folder.name}.matches.json")


def truths_of(matches: list[Match]) -> list[Truth]:
    """What is planted, by latent."""
    found = [
        Truth(feature=m.latent, stratum=m.stratum, structure=m.structure)
        for m in matches
        if m.latent is not None
    ]
    return sorted(found, key=lambda truth: truth.feature)


def ideal_activations(law: Law, rows: Rows, seed: int) -> Activations:
    """(N, features) what the planted features do; a parent fires where its child does, too."""
    ideal = np.zeros((len(rows), len(law.features)), np.float32)
    for feature, one in enumerate(law.features):
        whole = one.model_copy(update={"hole": None})
        fires, values = draw_activations(whole, rows, rng(seed, "recover", "activations", feature))
        ideal[fires, feature] = values
    return ideal


def vectors_of(ideal: Activations, seed: int) -> Activations:
    """(N, WIDTH) sums of directions, an offset, noise."""
    generator = rng(seed, "recover", "directions")
    directions = generator.normal(size=(ideal.shape[1], WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    offset = generator.normal(0, 0.3, WIDTH)
    noise = generator.normal(0, NOISE, (len(ideal), WIDTH))
    return (ideal @ directions + offset + noise).astype(np.float32)


def train_config(ideal: Activations, seed: int) -> "TrainSaeConfig":
    """As many latents a row as planted features fire on average."""
    from pipeline.training.config import TrainSaeConfig

    return TrainSaeConfig(
        architecture="batchtopk",
        expansion_factor=EXPANSION,
        k=round(float((ideal > 0).sum(1).mean())),
        epochs=EPOCHS,
        batch_size=BATCH,
        lr=2e-3,
        seed=seed,
    )


def train_on(vectors: Activations, ideal: Activations, law: Law, rows: Rows, seed: int) -> Trained:
    """Latents of an SAE trained on the vectors, one thread, and their matches."""
    import torch

    from pipeline.config import Execution
    from pipeline.source_config import SaeConfig
    from pipeline.sources.saelens_format import load_sae
    from pipeline.training.trainer import SAE, train

    execution = Execution(device="cpu", threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        metadata = {"model_name": "recover", "hook_name": "vectors"}
        config = train_config(ideal, seed)
        train(vectors, config, out, metadata, execution, lambda done, total: None, rows.unit)
        sae = load_sae(SaeConfig(path=out / SAE), torch.device("cpu"))
    with torch.no_grad():
        latents = sae.encode(torch.from_numpy(vectors)).numpy().astype(np.float32)
    return Trained(latents, match(ideal, latents, law, explain_rows(rows)))


def explain_rows(rows: Rows) -> Bools:
    """(N,) rows that the store will hold in its split `explain` (split seed 0)."""
    units = np.array([in_explain(unit_hash(f"u{u}", 0)) for u in range(len(rows.coin))])
    return units[rows.unit]


def match(ideal: Activations, latents: Activations, law: Law, where: Bools) -> list[Match]:
    """Give each planted feature its latent: the highest correlation of all first, then the next of what is left."""
    correlation = _correlations(ideal[where].astype(np.float64), latents[where].astype(np.float64))
    left = correlation.copy()
    taken: dict[int, int] = {}
    for place in np.argsort(-correlation, axis=None, kind="stable").tolist():
        planted, latent = divmod(place, correlation.shape[1])
        if correlation[planted, latent] < MATCHED:
            break
        if planted not in taken and latent not in taken.values():
            taken[planted] = latent
            left[:, latent] = 0
    found = []
    for planted, one in enumerate(law.features):
        chosen, fires = taken.get(planted), bool(ideal[where, planted].any())
        best = correlation[planted, chosen] if chosen is not None else left[planted].max()
        found.append(
            Match(
                planted=planted,
                stratum=one.stratum,
                structure=one.structure,
                latent=chosen,
                correlation=float(best) if fires else None,
            )
        )
    return found


def _correlations(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(A, B) Pearson correlations of columns; 0 for one that is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt(np.outer((a**2).sum(0), (b**2).sum(0)))
    return np.divide(a.T @ b, scale, out=np.zeros_like(scale), where=scale > 0)
