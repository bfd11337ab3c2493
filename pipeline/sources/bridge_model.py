"""Language models in TransformerLens' TransformerBridge.

Never in compatibility mode, which would centre the residual stream: SAEs are trained on the raw one.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from pipeline.source_config import ModelConfig
from pipeline.sources.model import Edit, find_hook, require_hook
from saeinterp_mcp.errors import BadInput


class BridgeModel:
    """A model in TransformerLens' TransformerBridge."""

    def __init__(self, bridge: Any, device: torch.device) -> None:
        self._bridge = bridge
        self._device = device

    @classmethod
    def load(cls, config: ModelConfig, device: torch.device) -> "BridgeModel":
        """Boot a local directory or a hub model.

        Raises:
            BadInput: transformer-lens is not installed.
        """
        try:
            from transformer_lens.model_bridge import TransformerBridge
        except ImportError as error:
            raise BadInput(
                "model.backend transformer_lens needs the package transformer-lens:"
                " pip install 'saeinterp-mcp[train]'"
            ) from error
        from transformers.utils import logging

        logging.disable_progress_bar()
        dtype = getattr(torch, config.dtype)
        bridge = TransformerBridge.boot_transformers(
            config.source, device=device, dtype=dtype, revision=config.revision
        )
        bridge.eval()
        return cls(bridge, device)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self._bridge.cfg.n_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._bridge.cfg.d_model)

    @property
    def n_outputs(self) -> int:
        """Number of logits."""
        return int(self.unembedding().shape[1])

    @property
    def max_length(self) -> int | None:
        """Longest sequence; None if the config does not say."""
        length = getattr(self._bridge.cfg, "n_ctx", None)
        return None if length is None else int(length)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    @property
    def run_dtype(self) -> torch.dtype:
        """Number type of its weights and activations."""
        return cast(torch.dtype, self._bridge.W_U.dtype)

    def hook_exists(self, hook_name: str) -> bool:
        """Whether the hook names the residual stream around one of the blocks."""
        return find_hook(hook_name, self.n_layers) is not None

    def capture(self, tokens: Tensor, hook_name: str) -> Tensor:
        """The activation at a hook, (batch, length, d_model); the model stops after its block."""
        layer, end = require_hook(hook_name, self.n_layers)
        wanted = f"blocks.{layer}.hook_resid_{end}"
        with torch.no_grad():
            # A callable filter: a string would return the activation under its alias as well.
            _, cache = self._bridge.run_with_cache(
                tokens.to(self._device), names_filter=lambda name: name == wanted, stop_at_layer=layer + 1
            )
        return cast(Tensor, cache[wanted])

    def run_with_edits(self, tokens: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        """Logits (batch, length, n_outputs) with the activation at each hook replaced."""

        def hook_of(edit: Edit) -> Callable[..., Tensor]:
            return lambda activation, hook: edit(activation)

        hooks = []
        for hook_name, edit in edits.items():
            layer, end = require_hook(hook_name, self.n_layers)
            hooks.append((f"blocks.{layer}.hook_resid_{end}", hook_of(edit)))
        with torch.no_grad():
            logits = self._bridge.run_with_hooks(
                tokens.to(self._device), fwd_hooks=hooks, return_type="logits"
            )
        return cast(Tensor, logits)

    def final_norm(self) -> Callable[[Tensor], Tensor]:
        """The norm between the last block and the unembedding."""
        return cast(Callable[[Tensor], Tensor], self._bridge.ln_final)

    def unembedding(self) -> Tensor:
        """(d_model, n_outputs) float32."""
        return cast(Tensor, self._bridge.W_U.detach().float())
