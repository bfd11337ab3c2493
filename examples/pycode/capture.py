"""Reading and editing the residual stream of a HuggingFace GPT-2 with forward hooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

Edit = Callable[[Tensor], Tensor]


class _Captured(Exception):
    """Ends a forward pass once the wanted layer is reached."""


@contextmanager
def edited_residual(model: GPT2LMHeadModel, layer: int, edit: Edit) -> Iterator[None]:
    """Replace what block `layer` puts out, (windows, context, width), by `edit` of it."""

    def hook(_module: torch.nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, tuple):  # transformers before 5
            return (edit(output[0]), *output[1:])
        return edit(output)

    handle = model.transformer.h[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def residual(model: GPT2LMHeadModel, tokens: Tensor, layer: int) -> Tensor:
    """The residual stream after block `layer`, (windows, context, width); later blocks do not run."""
    captured: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        captured.append(output)
        raise _Captured

    with edited_residual(model, layer, keep):
        try:
            model(tokens)
        except _Captured:
            return captured[0]
    raise AssertionError(f"block {layer} did not run")
