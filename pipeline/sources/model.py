"""Language models: read the residual stream at a hook, run with it edited, and what turns it into logits.

Two backends with one interface. `HuggingFaceModel` is the default and the faster one; `BridgeModel` runs the model
through TransformerLens' TransformerBridge, never in compatibility mode, which would centre the residual stream.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from pipeline.config import Execution, ModelConfig
from saeinterp_mcp.errors import BadInput, nearest

Edit = Callable[[Tensor], Tensor]
"""(batch, length, d_model) to the same shape: what flows on in place of the activation at a hook."""

HOOK_NAME = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")

# Where the families of transformers models keep the list of blocks, and the norm before the unembedding.
BLOCKS = (
    "transformer.h",
    "model.layers",
    "gpt_neox.layers",
    "model.decoder.layers",
    "model.language_model.layers",
)
FINAL_NORMS = (
    "transformer.ln_f",
    "model.norm",
    "gpt_neox.final_layer_norm",
    "model.decoder.final_layer_norm",
    "model.language_model.norm",
)


class LanguageModel(Protocol):
    """A causal language model; right-padded batches are safe, because no position sees a later one."""

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def n_outputs(self) -> int:
        """Number of logits; may exceed the tokenizer's vocabulary where the model pads it."""
        ...

    @property
    def max_length(self) -> int | None:
        """Longest sequence its positions allow; None if it does not say."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def hook_exists(self, hook_name: str) -> bool:
        """Whether `capture` and `run_with_edits` know this hook."""
        ...

    def hook_names(self) -> list[str]:
        """The hooks of the residual stream, for messages."""
        ...

    def capture(self, tokens: Tensor, hook_name: str) -> Tensor:
        """The activation at a hook; the model stops there.

        Args:
            tokens: (batch, length) int64.
            hook_name: `blocks.L.hook_resid_pre` or `blocks.L.hook_resid_post`.

        Returns:
            (batch, length, d_model), on the model's device, in its dtype.
        """
        ...

    def run_with_edits(self, tokens: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        """Logits (batch, length, n_outputs) with the activation at each hook replaced; no edits: the clean model."""
        ...

    def final_norm(self) -> Callable[[Tensor], Tensor]:
        """The norm between the last block and the unembedding: (n, d_model) to (n, d_model)."""
        ...

    def unembedding(self) -> Tensor:
        """(d_model, n_outputs) float32: what the normed residual stream is multiplied with."""
        ...


def choose_device(execution: Execution) -> torch.device:
    """The device to run on; `auto` is a GPU if there is one."""
    torch.set_num_threads(execution.threads)
    if execution.device != "auto":
        return torch.device(execution.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(config: ModelConfig, execution: Execution) -> LanguageModel:
    """The language model of a config, in evaluation mode on the chosen device.

    Raises:
        BadInput: the directory or name holds no model that can be run.
    """
    device = choose_device(execution)
    if config.path is not None and not (config.path / "config.json").is_file():
        raise BadInput(f"model: {config.path} is not a Hugging Face model directory: it has no config.json")
    backend = HuggingFaceModel if config.backend == "huggingface" else BridgeModel
    try:
        return cast(LanguageModel, backend.load(config, device))
    except (OSError, ValueError) as error:
        raise BadInput(f"model: {config.source} could not be loaded: {error}") from error


def _load_transformers(config: ModelConfig) -> nn.Module:
    """The model as `transformers` builds it."""
    from transformers import AutoModelForCausalLM

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
                f" (known: {', '.join(BLOCKS if blocks is None else FINAL_NORMS)}); try backend: transformer_lens"
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

    def hook_exists(self, hook_name: str) -> bool:
        """Whether the hook names the residual stream around one of the blocks."""
        found = HOOK_NAME.fullmatch(hook_name)
        return found is not None and int(found[1]) < self.n_layers

    def hook_names(self) -> list[str]:
        """The hooks of the residual stream."""
        return [f"blocks.{layer}.hook_resid_{end}" for layer in range(self.n_layers) for end in ("pre", "post")]

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
                block, end = self._find(hook_name)
                handles.append(
                    block.register_forward_pre_hook(_edit_input(edit), with_kwargs=True)
                    if end == "pre"
                    else block.register_forward_hook(_edit_output(edit))
                )
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _find(self, hook_name: str) -> tuple[nn.Module, str]:
        found = HOOK_NAME.fullmatch(hook_name)
        if found is None or int(found[1]) >= self.n_layers:
            raise BadInput(f"the model has no hook {hook_name!r}; {nearest(hook_name, self.hook_names())}")
        return self._blocks[int(found[1])], found[2]


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
                "model.backend transformer_lens needs the package transformer-lens: pip install 'saeinterp-mcp[train]'"
            ) from error
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

    def hook_exists(self, hook_name: str) -> bool:
        """Whether the bridge has this hook with the residual stream's shape."""
        found = HOOK_NAME.fullmatch(hook_name)
        return found is not None and int(found[1]) < self.n_layers

    def hook_names(self) -> list[str]:
        """The hooks of the residual stream."""
        return [f"blocks.{layer}.hook_resid_{end}" for layer in range(self.n_layers) for end in ("pre", "post")]

    def capture(self, tokens: Tensor, hook_name: str) -> Tensor:
        """The activation at a hook, (batch, length, d_model); the model stops after its block."""
        self._check(hook_name)
        stop = int(hook_name.split(".")[1]) + 1
        with torch.no_grad():
            _, cache = self._bridge.run_with_cache(
                tokens.to(self._device), names_filter=lambda name: name == hook_name, stop_at_layer=stop
            )
        return cast(Tensor, cache[hook_name])

    def run_with_edits(self, tokens: Tensor, edits: Mapping[str, Edit]) -> Tensor:
        """Logits (batch, length, n_outputs) with the activation at each hook replaced."""
        for hook_name in edits:
            self._check(hook_name)

        def hook_of(edit: Edit) -> Callable[..., Tensor]:
            return lambda activation, hook: edit(activation)

        hooks = [(hook_name, hook_of(edit)) for hook_name, edit in edits.items()]
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

    def _check(self, hook_name: str) -> None:
        if not self.hook_exists(hook_name):
            raise BadInput(f"the model has no hook {hook_name!r}; {nearest(hook_name, self.hook_names())}")
