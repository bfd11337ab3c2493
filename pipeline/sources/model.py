"""Language models: read the residual stream at a hook, run with it edited, and what turns it into logits.

Two backends with one interface: `HuggingFaceModel`, the default and the faster one, and `BridgeModel`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from pipeline.config import Execution
from pipeline.source_config import ModelConfig
from saeinterp_mcp.errors import BadInput, nearest

Edit = Callable[[Tensor], Tensor]
"""(batch, length, d_model) to the same shape: what flows on in place of the activation at a hook."""

BLOCKS = (
    "transformer.h",
    "model.layers",
    "gpt_neox.layers",
    "model.decoder.layers",
    "model.language_model.layers",
)
"""Where the families of transformers models keep the list of blocks."""

RESIDUAL_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
BLOCK_NAME = re.compile(rf"(?:{'|'.join(map(re.escape, BLOCKS))})\.(\d+)")


def find_hook(hook_name: str, n_layers: int) -> tuple[int, str] | None:
    """Layer and `pre` or `post` of a hook of the residual stream; None if the model has no such hook.

    Known are TransformerLens' names (`blocks.2.hook_resid_post`) and the names of blocks in transformers
    models (`transformer.h.2`, `model.layers.2`, `gpt_neox.layers.2`), which mean the block's output.
    """
    if found := RESIDUAL_HOOK.fullmatch(hook_name):
        layer, end = int(found[1]), found[2]
    elif found := BLOCK_NAME.fullmatch(hook_name):
        layer, end = int(found[1]), "post"
    else:
        return None
    return (layer, end) if layer < n_layers else None


def require_hook(hook_name: str, n_layers: int) -> tuple[int, str]:
    """Layer and end of a hook.

    Raises:
        BadInput: the model has no such hook.
    """
    found = find_hook(hook_name, n_layers)
    if found is None:
        known = [f"blocks.{layer}.hook_resid_{end}" for layer in range(n_layers) for end in ("pre", "post")]
        raise BadInput(f"the model has no hook {hook_name!r}; {nearest(hook_name, known)}")
    return found


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

    @property
    def run_dtype(self) -> torch.dtype:
        """Number type of its weights and activations."""
        ...

    def hook_exists(self, hook_name: str) -> bool:
        """Whether `capture` and `run_with_edits` know this hook."""
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
        """Logits (batch, length, n_outputs) with the activation at each hook replaced; no edits: the clean
        model."""
        ...

    def final_norm(self) -> Callable[[Tensor], Tensor]:
        """The norm between the last block and the unembedding: (n, d_model) to (n, d_model)."""
        ...

    def unembedding(self) -> Tensor:
        """(d_model, n_outputs) float32: what the normed residual stream is multiplied with."""
        ...


def choose_device(execution: Execution) -> torch.device:
    """The device to run on; `auto` is a GPU if there is one.

    Raises:
        BadInput: it has no such name, or is not there.
    """
    torch.set_num_threads(execution.threads)
    if execution.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(execution.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        why = str(error).splitlines()[0][:120]
        raise BadInput(
            f"device {execution.device!r} cannot be used here ({why}); give auto, cpu, or what there is"
        ) from error
    return device


def load_model(config: ModelConfig, execution: Execution) -> LanguageModel:
    """The language model of a config, in evaluation mode on the chosen device.

    Raises:
        BadInput: the directory or name holds no model that can be run.
    """
    from pipeline.sources.bridge_model import BridgeModel
    from pipeline.sources.huggingface_model import HuggingFaceModel

    device = choose_device(execution)
    if config.path is not None and not (config.path / "config.json").is_file():
        raise BadInput(f"model: {config.path} is not a Hugging Face model directory: it has no config.json")
    try:
        if config.backend == "transformer_lens":
            return BridgeModel.load(config, device)
        return HuggingFaceModel.load(config, device)
    except (OSError, ValueError) as error:
        raise BadInput(f"model: {config.source} could not be loaded: {error}") from error
