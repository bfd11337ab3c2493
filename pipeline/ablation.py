"""Ablate single features in the running model, and compare what happens to the logits with what was
predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.batches import Batch, padded_batches
from pipeline.config import OutputsConfig
from pipeline.outputs import correlation, logit_batch_tokens
from pipeline.sources.model import LanguageModel
from pipeline.sources.sae import SparseAutoencoder
from pipeline.stage import Progress
from pipeline.tokenisation import TokenisedSamples
from saeinterp_mcp.frozen import Frozen

BATCH_TOKENS = 4096


class AblatedFeature(Frozen):
    """One feature removed from the model where it fires."""

    feature: int
    n_firing: int
    """Positions at which it was removed."""
    correlation: float
    """Between the predicted effect on the outputs and the mean change of the logits at those positions."""
    position_correlation: float
    """The same at each position, averaged."""
    control_feature: int
    """Another feature, whose direction serves as control."""
    control_correlation: float
    """Between the control's predicted effect and the same change of the logits."""


class AblationResult(Frozen):
    """All ablated features."""

    features: tuple[AblatedFeature, ...]
    seed: int

    @property
    def median(self) -> float | None:
        """Median correlation; None if no feature could be ablated."""
        return _median([feature.correlation for feature in self.features])

    @property
    def control_median(self) -> float | None:
        """Median of the controls."""
        return _median([feature.control_correlation for feature in self.features])


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def ablate_features(
    model: LanguageModel,
    sae: SparseAutoencoder,
    unembedding: Tensor,
    samples: TokenisedSamples,
    config: OutputsConfig,
    progress: Progress,
) -> AblationResult:
    """Remove some features, one at a time, and correlate the change of the logits with the direct effect.

    Features are drawn among those that fire often enough on a seeded draw of samples; each is removed at all
    its firings on the samples where it fires most: `activation * scale * W_dec[f]` is subtracted at the hook.
    The logits are centred over outputs, so that a change common to all of them does not count.

    Args:
        unembedding: (d_model, n_outputs), from `folded_unembedding`.
    """
    tokenisation = samples.tokenisation
    average = tokenisation.n_tokens / tokenisation.n_samples
    drawn = samples.draw(round(config.n_samples * average), config.seed)
    strength = summed_activations(model, sae, samples, drawn)
    generator = np.random.default_rng(config.seed)
    eligible = np.flatnonzero(strength.counts.sum(axis=0) >= config.min_firing)
    chosen = np.sort(generator.permutation(eligible)[: config.n_features])
    results = []
    for index, feature in enumerate(chosen.tolist()):
        rows = np.argsort(-strength.sums[:, feature], kind="stable")[: config.n_samples_per_feature]
        rows = rows[strength.counts[rows, feature] > 0]
        others = eligible[eligible != feature]
        control = int(generator.choice(others)) if len(others) else feature
        results.append(
            _ablate(model, sae, unembedding, samples, [drawn[row] for row in rows], feature, control)
        )
        progress(index + 1, len(chosen))
    return AblationResult(features=tuple(results), seed=config.seed)


@dataclass(frozen=True)
class Strengths:
    """How much each feature fires on each sample."""

    sums: NDArray[np.float32]
    """(n_samples, n_features): summed activations."""
    counts: NDArray[np.int32]
    """(n_samples, n_features): firings."""


def summed_activations(
    model: LanguageModel,
    sae: SparseAutoencoder,
    samples: TokenisedSamples,
    drawn: Sequence[NDArray[np.int64]],
) -> Strengths:
    """Run the SAE over a few samples."""
    sums = np.zeros((len(drawn), sae.n_features), dtype=np.float32)
    counts = np.zeros((len(drawn), sae.n_features), dtype=np.int32)
    for batch in padded_batches(drawn, BATCH_TOKENS):
        captured = model.capture(torch.from_numpy(batch.tokens), samples.tokenisation.hook_name)
        counted = torch.from_numpy(batch.counted(samples.tokenisation)).to(model.device)
        for row, index in enumerate(batch.rows):
            _, features, values = (found.cpu() for found in sae.firing(captured[row][counted[row]]))
            sums[index] = torch.bincount(features, values, minlength=sae.n_features).numpy()
            counts[index] = torch.bincount(features, minlength=sae.n_features).numpy()
    return Strengths(sums=sums, counts=counts)


def _ablate(
    model: LanguageModel,
    sae: SparseAutoencoder,
    unembedding: Tensor,
    samples: TokenisedSamples,
    drawn: Sequence[NDArray[np.int64]],
    feature: int,
    control: int,
) -> AblatedFeature:
    predicted = sae.W_dec[[feature, control]] @ unembedding
    change = torch.zeros(unembedding.shape[1], dtype=torch.float64, device=model.device)
    n, summed = 0, 0.0
    for batch in padded_batches(drawn, logit_batch_tokens(model, BATCH_TOKENS)):
        difference = logits_lost(model, sae, samples, batch, feature)
        change += difference.double().sum(dim=0)
        summed += float(correlation(difference, predicted[0].expand_as(difference)).sum())
        n += len(difference)
    both = correlation(change.expand(2, -1), predicted)
    return AblatedFeature(
        feature=feature,
        n_firing=n,
        correlation=float(both[0]),
        position_correlation=summed / n,
        control_feature=control,
        control_correlation=float(both[1]),
    )


@torch.no_grad()
def logits_lost(
    model: LanguageModel, sae: SparseAutoencoder, samples: TokenisedSamples, batch: Batch, feature: int
) -> Tensor:
    """(n_firing, n_outputs) float32: clean minus ablated logits, centred over outputs, where the feature
    fires."""
    tokens = torch.from_numpy(batch.tokens)
    counted = torch.from_numpy(batch.counted(samples.tokenisation)).to(model.device)
    fires = torch.zeros_like(counted)

    def remove(x: Tensor) -> Tensor:
        activation = sae.activation(x, feature) * counted
        fires.copy_(activation > 0)
        return (x - activation[..., None] * sae.direction_scale(x) * sae.W_dec[feature]).to(x.dtype)

    ablated = model.run_with_edits(tokens, {samples.tokenisation.hook_name: remove})
    clean = model.run_with_edits(tokens, {})
    lost = clean[fires].float() - ablated[fires].float()
    return lost - lost.mean(dim=-1, keepdim=True)
