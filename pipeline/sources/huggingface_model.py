"""Language models as `transformers` builds them, read and edited with forward hooks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.source_config import ModelConfig
from pipeline.sources.model import BLOCKS, Edit, find_hook, require_hook
from saeinterp_mcp.errors import BadInput

# Where they keep the norm before the unembedding.
FINAL_NORMS = (
    "transformer.ln_f",
    "model.norm",
    "gpt_neox.final_layer_norm",
    "model.decoder.final_layer_norm",
    "model.language_model.norm",
)


def _load_transformers(config: ModelConfig) -> nn.Module:
    """The model as `transformers` builds it."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    dtype = getattr(torch, config.dtype)
    return cast(
        nn.Module, AutoModelForCausalLM.from_pretrained(config.source, revision=config.revision, dtype=dtype)
    )


def _first_module(model: nn.Module, paths: tuple[str, ...]) -> tuple[str, nn.Module] | None:
    """The first of the named submodules that the model has."""
    modules = dict(model.named_modules())
    return next(((path, modules[path]) for path in paths if path in modules), None)


class _Stop(Exception):
    """Raised by a hook when the rest of the model is not needed."""


class HuggingFaceModel:
    """A `transformers` model with forward hooks."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        blocks, norm = _first_module(model, BLOCKS), _first_module(model, FINAL_NORMS)
        if blocks is None or norm is None:
            missing = "list of blocks" if blocks is None else "final norm"
            raise BadInput(
                f"model: {type(model).__name__} keeps its {missing} in a place we do not know"
                f" (known: {', '.join(BLOCKS if blocks is None else FINAL_NORMS)});"
                " try backend: transformer_lens"
            )
        self._model = model.eval().requires_grad_(False).to(device)
        self._blocks = cast(nn.ModuleList, blocks[1])
        self._norm = norm[1]
        self._device = device

    @classmethod
    def load(cls, config: ModelConfig, device: torch.device) -> "HuggingFaceModel":
        """Read a local directory or a hub model."""
        return cls(_load_transformers(config), device)

    @property
    def _text_config(self) -> Any:
        return cast(Any, self._model).config.get_text_config()

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._text_config.hidden_size)

    @property
    def n_outputs(self) -> int:
        """Number of logits."""
        return int(self.unembedding().shape[1])

    @property
    def max_length(self) -> int | None:
        """Longest sequence; None if the config does not say."""
        length = getattr(self._text_config, "max_position_embeddings", None)
        return None if length is None else int(length)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    @property
    def run_dtype(self) -> torch.dtype:
        """Number type of its weights and activations."""
        return cast(torch.dtype, cast(Any, self._model).dtype)

    def hook_exists(self, hook_name: str) -> bool:
        """Whether the hook names the residual stream around one of the blocks."""
        return find_hook(hook_name, self.n_layers) is not None

    def capture(self, tokens: Tensor, hook_name: str) -> Tensor:
        """The activation at a hook, (batch, length, d_model); the model stops there."""
        captured: list[Tensor] = []

        def keep(activation: Tensor) -> Tensor:
            captured.append(activation)
            raise _Stop

        try:
            self.run_with_edits(tokens, {hook_name: keep})
        except _Stop:
            return captured[0]
        raise AssertionError(f"the model ran to its end without passing {hook_name}")

    def run_with_edits(self, tokens: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        """Logits (batch, length, n_outputs) with the activation at each hook replaced."""
        with torch.no_grad(), self._hooked(edits):
            output = self._model(tokens.to(self._device), use_cache=False)
        return cast(Tensor, output.logits)

    def final_norm(self) -> Callable[[Tensor], Tensor]:
        """The norm between the last block and the unembedding."""
        return self._norm

    def unembedding(self) -> Tensor:
        """(d_model, n_outputs) float32."""
        return cast(Tensor, cast(Any, self._model).get_output_embeddings().weight.detach().T.float())

    @contextmanager
    def _hooked(self, edits: Mapping[str, Edit]) -> Iterator[None]:
        handles = []
        try:
            for hook_name, edit in edits.items():
                layer, end = require_hook(hook_name, self.n_layers)
                block = self._blocks[layer]
                handles.append(
                    block.register_forward_pre_hook(_edit_input(edit), with_kwargs=True)
                    if end == "pre"
                    else block.register_forward_hook(_edit_output(edit))
                )
            yield
        finally:
            for handle in handles:
                handle.remove()


def _edit_output(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook that edits the residual stream after a block."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        # Blocks return a tensor or, in older versions and some families, a tuple that begins with it.
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    return hook


def _edit_input(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward pre-hook that edits the residual stream before a block."""

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(kwargs["hidden_states"])}

    return hook
