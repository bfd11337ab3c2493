"""How well an SAE reproduces the activations of a model, and what the model loses by it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.batches import Batch, padded_batches
from pipeline.outputs import (
    correlation,
    folded_unembedding,
    keep_elsewhere,
    logit_batch_tokens,
    position_scale,
)
from pipeline.sources.model import Edit, LanguageModel
from pipeline.sources.sae import SparseAutoencoder
from pipeline.tokenisation import Tokenisation

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Reconstruction:
    """How an SAE does on a set of activations."""

    n_positions: int
    l0: float
    """Mean number of features firing at a position."""
    dead_fraction: float
    """Share of features that never fired."""
    explained_variance: float
    """1 - squared error / squared distance from the mean."""
    shuffled_explained_variance: float
    """The same with the decoder's rows in a random order."""


@dataclass(frozen=True)
class Losses:
    """Mean next-token loss in nats, with the hook's activations replaced at all counted positions."""

    clean: float
    reconstructed: float
    mean_ablated: float

    @property
    def recovered(self) -> float:
        """Share of what mean ablation costs that the reconstruction wins back; 1 is all of it."""
        return (self.mean_ablated - self.reconstructed) / (self.mean_ablated - self.clean)


def gather_activations(
    model: LanguageModel, samples: Sequence[NDArray[np.int64]], tokenisation: Tokenisation, hook_name: str
) -> Tensor:
    """(n_positions, d_model) float32: the hook's activations at all counted positions of the samples."""
    gathered = []
    for batch in padded_batches(samples, BATCH_TOKENS):
        captured = model.capture(torch.from_numpy(batch.tokens), hook_name)
        gathered.append(captured[on_device(batch.counted(tokenisation), model)].float())
    return torch.cat(gathered)


def on_device(array: NDArray[np.bool_], model: LanguageModel) -> Tensor:
    """A mask on the model's device."""
    return torch.from_numpy(array).to(model.device)


@torch.no_grad()
def reconstruction(sae: SparseAutoencoder, activations: Tensor, seed: int) -> Reconstruction:
    """Measure an SAE on (n_positions, d_in) activations."""
    order = torch.randperm(sae.n_features, generator=torch.Generator().manual_seed(seed))
    shuffled = replace(sae, W_dec=sae.W_dec[order.to(sae.W_dec.device)])
    firing = torch.zeros(sae.n_features, dtype=torch.int64, device=activations.device)
    error = shuffled_error = torch.zeros((), dtype=torch.float64, device=activations.device)
    for rows in sae.chunks(activations):
        features = sae.encode(rows)
        firing += (features > 0).sum(dim=0)
        error = error + (sae.decode(features, rows) - rows).double().pow(2).sum()
        shuffled_error = shuffled_error + (shuffled.decode(features, rows) - rows).double().pow(2).sum()
    total = (activations - activations.mean(dim=0)).double().pow(2).sum()
    return Reconstruction(
        n_positions=len(activations),
        l0=float(firing.sum()) / len(activations),
        dead_fraction=float((firing == 0).double().mean()),
        explained_variance=1 - float(error / total),
        shuffled_explained_variance=1 - float(shuffled_error / total),
    )


def losses(
    model: LanguageModel,
    sae: SparseAutoencoder,
    samples: Sequence[NDArray[np.int64]],
    tokenisation: Tokenisation,
    hook_name: str,
    mean: Tensor,
) -> Losses:
    """Next-token loss of the clean model, with reconstructions, and with the mean activation (d_in,)
    everywhere.

    Positions that are not counted, BOS first of all, stay as they are: the SAE was not trained on them.
    """
    sums = np.zeros(3)
    n = 0
    for batch in padded_batches(samples, logit_batch_tokens(model, BATCH_TOKENS)):
        counted = on_device(batch.counted(tokenisation), model)
        edits: list[dict[str, Edit]] = [
            {},
            {hook_name: keep_elsewhere(counted, sae.reconstruct)},
            {hook_name: keep_elsewhere(counted, lambda x: mean.expand_as(x))},
        ]
        sums += [next_token_loss(model, batch, edit) for edit in edits]
        n += int(batch.real[:, 1:].sum())
    clean, reconstructed, mean_ablated = (sums / max(n, 1)).tolist()
    return Losses(clean, reconstructed, mean_ablated)


def next_token_loss(model: LanguageModel, batch: Batch, edits: dict[str, Edit]) -> float:
    """Summed loss of all next tokens in a batch, in nats."""
    tokens = torch.from_numpy(batch.tokens).to(model.device)
    logits = model.run_with_edits(tokens, edits)[:, :-1]
    real = on_device(batch.real[:, 1:], model)
    return float(cross_entropy(logits[real].float(), tokens[:, 1:][real], reduction="sum"))


def unembedding_agreement(model: LanguageModel, samples: Sequence[NDArray[np.int64]]) -> float:
    """Correlation of the model's logits with the last residual stream times the folded unembedding.

    Over all outputs and a few hundred positions, both centred over positions first, which removes the biases
    that the fold leaves out. Near 1 unless the final norm or the unembedding was not understood.
    """
    batch = next(padded_batches(samples[:8], 512))
    tokens = torch.from_numpy(batch.tokens)
    real = on_device(batch.real, model)
    last = model.capture(tokens, f"blocks.{model.n_layers - 1}.hook_resid_post")[real].float()
    logits = model.run_with_edits(tokens, {})[real].float()
    predicted = (last / position_scale(model, last)) @ folded_unembedding(model)
    return float(correlation((predicted - predicted.mean(0)).flatten(), (logits - logits.mean(0)).flatten()))
