"""Sparse autoencoders: encode, decode, and what is known of how one was trained.

The arithmetic follows SAELens 6.54 operation by operation, so that a feature's activation is the one its
authors would compute; `tests/pipeline` compares the two for each architecture.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import ConfigDict
from torch import Tensor

from saeinterp_mcp.frozen import Frozen

Architecture = Literal["standard", "topk", "jumprelu", "gated"]
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]

ENCODE_ELEMENTS = 2**24
"""Activations (rows times features) computed at a time: 64 MB of float32."""


class SaeMetadata(Frozen):
    """How an SAE was trained, as far as its files say; None is "not stated", never a default."""

    model_config = ConfigDict(extra="ignore")

    model_name: str | None = None
    hook_name: str | None = None
    context_size: int | None = None
    prepend_bos: bool | None = None
    exclude_special_tokens: bool | tuple[int, ...] | None = None
    """Tokens it was not trained on: ids, or True for all special tokens."""
    seqpos_slice: tuple[int | None, ...] | None = None
    """Positions it was trained on, as the arguments of `slice`."""
    l0: float | None = None
    """Mean number of features firing at a position."""
    k: int | None = None
    training_architecture: str | None = None
    dataset_path: str | None = None
    sae_lens_version: str | None = None

    @property
    def expected_l0(self) -> float | None:
        """What its files say L0 is."""
        return self.l0 if self.l0 is not None else self.k


class SaeHeader(Frozen):
    """What `cfg.json` says: all that is needed to know about an SAE before its weights are read."""

    architecture: Architecture
    d_in: int
    n_features: int
    apply_b_dec_to_input: bool = True
    normalisation: Normalisation = "none"
    norm_scaling_factor: float = 1.0
    """Folded into the weights when they are read; 1 where there is nothing to fold."""
    k: int | None = None
    """Features kept at a position, of the `topk` architecture."""
    rescale_by_decoder_norm: bool = False
    """Whether `topk` ranks pre-activations times decoder norms (and its activations are in those units)."""
    max_activation: float | None = None
    """Where activations are cut off, of `standard`; the seed's SAE does so at 6."""
    metadata: SaeMetadata


@dataclass(frozen=True)
class SparseAutoencoder:
    """An SAE in float32: encode, decode, and its decoder directions in the model's own units."""

    header: SaeHeader
    W_enc: Tensor
    """(d_in, n_features)"""
    W_dec: Tensor
    """(n_features, d_in); for `rescale_by_decoder_norm` of unit norm."""
    b_dec: Tensor
    """(d_in,)"""
    b_enc: Tensor
    """(n_features,); the gate's bias of the `gated` architecture."""
    threshold: Tensor | None = None
    """(n_features,), of `jumprelu`."""
    r_mag: Tensor | None = None
    """(n_features,), of `gated`: log of the magnitude encoder's scale."""
    b_mag: Tensor | None = None
    """(n_features,), of `gated`."""
    pre_scale: Tensor | None = None
    """(n_features,): decoder norms that pre-activations are multiplied with, for
    `rescale_by_decoder_norm`."""

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.header.n_features

    def encode(self, x: Tensor) -> Tensor:
        """Activations of all features.

        Args:
            x: (..., d_in), the model's activations at the hook.

        Returns:
            (..., n_features) float32, 0 where a feature is silent.
        """
        centred, pre = self._pre_activations(x)
        if self.header.architecture == "standard":
            return self._cut(pre.relu())
        if self.header.architecture == "jumprelu":
            assert self.threshold is not None, "a jumprelu SAE has thresholds"
            return pre.relu().mul(pre > self.threshold)
        if self.header.architecture == "gated":
            assert self.r_mag is not None, "a gated SAE has a magnitude encoder"
            assert self.b_mag is not None, "a gated SAE has a magnitude bias"
            magnitude = centred @ (self.W_enc * self.r_mag.exp()) + self.b_mag
            return (pre > 0).to(magnitude) * magnitude.relu()
        assert self.header.k is not None, "a topk SAE has k"
        if self.pre_scale is not None:
            pre = pre * self.pre_scale
        values, features = torch.topk(pre, k=self.header.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter_(-1, features, values.relu())

    def firing(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The activations above 0, by row and then feature: what `encode` gives, at half its cost.

        Args:
            x: (n, d_in), the model's activations at the hook.

        Returns:
            Row and feature, (n_firing,) int64 each, and activation, (n_firing,) float32.
        """
        if self.header.architecture in ("standard", "jumprelu"):
            _, values = self._pre_activations(x)
            fires = values > (0 if self.threshold is None else self.threshold.clamp(min=0))
        else:
            values = self.encode(x)
            fires = values > 0
        rows, features = fires.nonzero(as_tuple=True)
        return rows, features, self._cut(values[rows, features])

    def decode(self, activations: Tensor, x: Tensor) -> Tensor:
        """The reconstruction (..., d_in) of the model's activations `x` (..., d_in) from those of the
        features.

        `x` is read only for its mean and norm, where inputs are normalised at run time.
        """
        return self._denormalise(activations @ self.W_dec + self.b_dec, x.float())

    def chunks(self, rows: Tensor) -> Iterator[Tensor]:
        """(n, d_in) in pieces whose activations fit in 64 MB.

        Their size is a function of the SAE alone: other shapes would round differently.
        """
        size = max(1, ENCODE_ELEMENTS // self.n_features)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def reconstruct(self, x: Tensor) -> Tensor:
        """`decode(encode(x))`, (..., d_in) float32, a chunk at a time."""
        rows = x.reshape(-1, self.header.d_in)
        return torch.cat([self.decode(self.encode(chunk), chunk) for chunk in self.chunks(rows)]).reshape(
            x.shape
        )

    def activation(self, x: Tensor, feature: int) -> Tensor:
        """(...): the activation of one feature on (..., d_in), a chunk at a time."""
        rows = x.reshape(-1, self.header.d_in)
        return torch.cat([self.encode(chunk)[:, feature] for chunk in self.chunks(rows)]).reshape(
            x.shape[:-1]
        )

    def direction_scale(self, x: Tensor) -> Tensor:
        """(..., 1): what a decoder direction is multiplied with at each position, in the model's units.

        1 unless inputs are normalised at run time; feature f adds `activation * scale * W_dec[f]`.
        """
        x = x.float()
        if self.header.normalisation == "layer_norm":
            return (x - x.mean(dim=-1, keepdim=True)).std(dim=-1, keepdim=True)
        if self.header.normalisation == "constant_norm_rescale":
            return self._size(x) / math.sqrt(self.header.d_in)
        return torch.ones_like(x[..., :1])

    def _cut(self, activations: Tensor) -> Tensor:
        """At most `max_activation`, where there is one."""
        limit = self.header.max_activation
        return activations if limit is None else activations.clamp(max=limit)

    def _pre_activations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's input (..., d_in), and its linear output with the bias (..., n_features)."""
        centred = self._normalise(x.float())
        if self.header.apply_b_dec_to_input:
            centred = centred - self.b_dec
        return centred, (centred @ self.W_enc).add_(self.b_enc)

    def _normalise(self, x: Tensor) -> Tensor:
        if self.header.normalisation == "layer_norm":
            x = x - x.mean(dim=-1, keepdim=True)
            return x / (x.std(dim=-1, keepdim=True) + 1e-5)
        if self.header.normalisation == "constant_norm_rescale":
            return x * (math.sqrt(self.header.d_in) / self._size(x))
        return x

    @staticmethod
    def _size(x: Tensor) -> Tensor:
        """(..., 1): the norm of each vector."""
        size: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return size

    def _denormalise(self, x_hat: Tensor, x: Tensor) -> Tensor:
        if self.header.normalisation == "none":
            return x_hat
        x_hat = x_hat * self.direction_scale(x)
        return x_hat + x.mean(dim=-1, keepdim=True) if self.header.normalisation == "layer_norm" else x_hat
