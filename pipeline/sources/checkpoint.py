"""Reads checkpoints of weights without running what is in them; adapters import `load_checkpoint` from here."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saeinterp_mcp.errors import BadInput, BadStore

WRAPPERS = ("state_dict", "model_state_dict")
"""Keys under which training scripts keep the weights beside other things."""


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name, on the CPU.

    Read are `.safetensors` files, and files of `torch.save` that hold a state dict (or one under the key
    `state_dict` or `model_state_dict`).

    Raises:
        BadInput: the file is not there.
        BadStore: it is damaged, or holds a pickled object (a whole model, say) and not weights alone.
    """
    if not path.is_file():
        raise BadInput(f"there is no checkpoint {path}")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, ValueError) as error:
            raise BadStore(path, "a safetensors file", f"{error}", "Copy or download it again.") from error
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file fails in as many ways as there are formats
        raise BadStore(
            path,
            "weights alone, as torch.save(model.state_dict(), PATH) writes them",
            " ".join(f"{type(error).__name__}: {error}".split()).split(". ")[0][:160],
            "Objects are never unpickled here; where the model is defined, save its state dict.",
        ) from error
    return tensors_of(content, path)


def tensors_of(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what a checkpoint holds."""
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    if not isinstance(content, Mapping) or not content:
        raise BadStore(
            path, "a state dict", type(content).__name__, "Save model.state_dict(), not the model or a list."
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise BadStore(
            path,
            "a state dict, name to tensor",
            f"other things under {', '.join(others[:4])}",
            "Save model.state_dict() alone, or under the key 'state_dict'.",
        )
    return {str(name): tensor for name, tensor in content.items()}
