"""The direct path from the residual stream to the logits: final norm folded into the unembedding.

The final norm of a position is `(x - mean(x)) / sigma * gain + bias` (LayerNorm) or `x / sigma * gain`
(RMSNorm), with sigma a function of that position. What adds `d` to the residual stream therefore changes the
logits by `(d - mean(d)) * gain @ W_U / sigma`, as long as it leaves sigma alone. `folded_unembedding` is the
matrix of that map without `1 / sigma`: effects are known up to the positive scale of the position. They can
be compared between tokens and between features at one position, and are not logits.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.sources.model import LanguageModel

PROBE = 100.0
"""Size of the probe vectors: large, so that the norm's epsilon does not show."""


def norm_of(model: LanguageModel, vectors: Tensor) -> Tensor:
    """The model's final norm applied to (n, d_model) float32, in float32."""
    weights_dtype = model.run_dtype
    with torch.no_grad():
        return model.final_norm()(vectors.to(weights_dtype)[None])[0].float()


def probe_final_norm(model: LanguageModel) -> tuple[Tensor, bool]:
    """The final norm's gain (d_model,), and whether it centres (LayerNorm) or not (RMSNorm).

    Measured rather than read from parameters, because families store it differently (Gemma's gain is 1 +
    weight).
    """
    signs = torch.ones(model.d_model, device=model.device)
    signs[1::2] = -1
    centred = signs - signs.mean()
    both = norm_of(model, torch.stack([centred, -centred, centred + 1]) * PROBE)
    gain = (both[0] - both[1]) / 2 / (centred / centred.pow(2).mean().sqrt())
    shift = (both[2] - both[0]).abs().max()
    centres = bool(shift < 0.01 * both[0].abs().max())
    return gain, centres


def folded_unembedding(model: LanguageModel) -> Tensor:
    """(d_model, n_outputs) float32: `d @ folded` is what `d` in the last residual stream does to the logits,
    up to sigma.

    For a LayerNorm each column is centred over d_model after the gain: `(d - mean(d)) * gain @ W_U` equals
    `d @ (G - mean over d_model of G)` with `G = gain[:, None] * W_U`.
    """
    gain, centres = probe_final_norm(model)
    scaled = gain[:, None] * model.unembedding()
    return scaled - scaled.mean(dim=0, keepdim=True) if centres else scaled


def position_scale(model: LanguageModel, residual: Tensor) -> Tensor:
    """(n, 1): the sigma that the final norm divides (n, d_model) vectors by."""
    _, centres = probe_final_norm(model)
    centred = residual - residual.mean(dim=-1, keepdim=True) if centres else residual
    return centred.pow(2).mean(dim=-1, keepdim=True).sqrt()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation along the last dimension; 0 where one of the two is constant."""
    a = a.double() - a.double().mean(dim=-1, keepdim=True)
    b = b.double() - b.double().mean(dim=-1, keepdim=True)
    size = a.norm(dim=-1) * b.norm(dim=-1)
    return torch.where(size > 0, (a * b).sum(dim=-1) / size.clamp(min=1e-300), torch.zeros_like(size))


def logit_batch_tokens(model: LanguageModel, batch_tokens: int) -> int:
    """Token slots for which the logits of a batch stay within about half a gigabyte."""
    return max(1, min(batch_tokens, 2**27 // model.n_outputs))


def keep_elsewhere(where: Tensor, edit: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An edit of the positions in `where` (batch, length) that leaves the others as they are."""

    def edited(x: Tensor) -> Tensor:
        return torch.where(where[..., None], edit(x).to(x.dtype), x)

    return edited


def save_array(path: Path, tensor: Tensor) -> None:
    """Write a float32 array whole."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(tensor.cpu().numpy().astype(np.float32)), allow_pickle=False)
    temporary.replace(path)
