"""Models of other people's own: runs the adapter file of a config, and checks all that it returns.

An adapter is one Python file with one class (docs/own-model.md):

    def __init__(self, files: Mapping[str, Path], device: torch.device) -> None
    d_model: int
    hooks: tuple[str, ...]
    def capture(self, tokens, groups, hook) -> Tensor   # (n, d_model)
    def read_out(self) -> tuple[Tensor, Tensor, list[str]]   # optional
"""

import importlib.util
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Execution
from pipeline.fingerprint import named_files
from pipeline.set_config import SetModelConfig
from pipeline.sources.model import choose_device
from saeinterp_mcp.errors import BadInput, SaeInterpError, nearest

Value = TypeVar("Value")
NO_READ_OUT = (
    "the adapter has no read_out, so neither loss recovered nor what features push the outputs to is known"
)
GUIDE = "docs/own-model.md has one that works"


@dataclass(frozen=True)
class ReadOut:
    """The linear map from the hook's vector to the model's outputs: logits = vector @ weight + bias."""

    weight: Tensor
    """(d_model, n_outputs) float32"""
    bias: Tensor
    """(n_outputs,) float32"""
    tokens: list[str]
    """What the outputs stand for, no two the same."""

    def logits(self, vectors: Tensor) -> Tensor:
        """(..., d_model) to (..., n_outputs)."""
        return vectors @ self.weight + self.bias


class SetModel:
    """An adapter whose answers have been looked at."""

    def __init__(self, adapter: Any, path: Path, device: torch.device) -> None:
        self._adapter, self._path, self.device = adapter, path, device
        self.d_model = self._integer("d_model")
        hooks = getattr(adapter, "hooks", None)
        if (
            isinstance(hooks, str)
            or not isinstance(hooks, Sequence)
            or not all(isinstance(hook, str) for hook in hooks)
        ):
            raise self._problem(
                f"hooks is {hooks!r}", "set hooks to a tuple of names, such as ('masked_mean',)"
            )
        self.hooks = tuple(hooks)

    def require_hook(self, hook: str) -> None:
        """Refuse a hook that the adapter does not offer."""
        if hook not in self.hooks:
            raise self._problem(
                f"has no hook {hook!r}; {nearest(hook, self.hooks)}", "change `hook`, or add it to `hooks`"
            )

    @torch.no_grad()
    def capture(
        self, tokens: list[list[str]], groups: Mapping[str, list[str | None]], hook: str
    ) -> NDArray[np.float32]:
        """The hook's vector for each sample, (n, d_model) float32.

        Raises:
            BadInput: the adapter failed, or returned another shape or numbers that are not finite.
        """
        found = self._call("capture", lambda: self._adapter.capture(tokens, groups, hook))
        wanted = (len(tokens), self.d_model)
        if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise self._problem(
                f"capture returned {shape} for {len(tokens)} samples",
                f"it must return a tensor of shape {wanted}: one row a sample, d_model = {self.d_model} wide",
            )
        vectors: NDArray[np.float32] = found.detach().float().cpu().numpy()
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise self._problem(
                f"capture returned numbers that are not finite for the sample {tokens[row]!r}",
                "look for a mean over no token, or a division by a norm of 0",
            )
        return vectors

    @torch.no_grad()
    def read_out(self) -> ReadOut | None:
        """The read-out, on the model's device; None where the adapter has no such method.

        Raises:
            BadInput: shapes that do not go together, numbers that are not finite, or outputs of one name.
        """
        if not hasattr(self._adapter, "read_out"):
            return None
        found = self._call("read_out", self._adapter.read_out)
        advice = f"it must return (weight ({self.d_model}, n_outputs), bias (n_outputs,), n_outputs names)"
        if not isinstance(found, tuple) or len(found) != 3:
            raise self._problem(f"read_out returned {type(found).__name__}", advice)
        weight, bias, tokens = found
        if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
            raise self._problem("read_out returned a weight or bias that is no tensor", advice)
        names = list(tokens)
        if tuple(weight.shape) != (self.d_model, len(names)) or tuple(bias.shape) != (len(names),):
            shapes = f"{tuple(weight.shape)}, {tuple(bias.shape)} and {len(names)} names"
            turned = "; a Linear layer's weight must be turned: layer.weight.T"
            raise self._problem(f"read_out returned {shapes}", advice + turned)
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise self._problem(
                "read_out names two outputs alike, or one by something else than a string", advice
            )
        weight, bias = weight.detach().float().to(self.device), bias.detach().float().to(self.device)
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise self._problem("read_out returned numbers that are not finite", "look at the checkpoint")
        return ReadOut(weight, bias, names)

    def _integer(self, name: str) -> int:
        value = getattr(self._adapter, name, None)
        if not isinstance(value, int) or value < 1:
            raise self._problem(f"{name} is {value!r}", f"set self.{name} to the width of the hook's vector")
        return value

    def _call(self, what: str, call: Callable[[], Value]) -> Value:
        return guarded(self._path, what, call)

    def _problem(self, what: str, advice: str) -> BadInput:
        return BadInput(f"adapter {self._path}: {what}; {advice}")


def load_set_model(config: SetModelConfig, execution: Execution) -> SetModel:
    """The adapter of a config, made with its files on the chosen device.

    Raises:
        BadInput: the file is not there, is no Python, or has no class that fits; one of `files` is missing.
    """
    model_files(config)
    chosen = adapter_class(config.adapter, config.class_name)
    device = choose_device(execution)
    made = guarded(config.adapter, "__init__", lambda: chosen(dict(config.files), device))
    return SetModel(made, config.adapter, device)


def model_files(config: SetModelConfig) -> dict[str, Path]:
    """`adapter`, and `model/<name>` for each of its files, to be hashed.

    Raises:
        BadInput: one of them is not there.
    """
    if not config.adapter.is_file():
        raise BadInput(f"model: there is no adapter {config.adapter}; {GUIDE}")
    found = {"adapter": config.adapter}
    for name, path in config.files.items():
        if not path.exists():
            raise BadInput(f"model: files names {name}, but there is no {path}")
        found |= named_files(f"model/{name}", path)
    return found


def adapter_class(path: Path, name: str | None) -> type[Any]:
    """The class of an adapter file; runs the file."""
    spec = importlib.util.spec_from_file_location(f"saeinterp_adapter_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInput(f"adapter {path} is not a Python file; {GUIDE}")
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    guarded(path, "the file", lambda: loader.exec_module(module))
    own = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    }
    fits = {key: value for key, value in own.items() if callable(getattr(value, "capture", None))}
    if name is not None:
        if name not in fits:
            raise BadInput(f"adapter {path} has no class {name!r} with `capture`; {nearest(name, fits)}")
        return fits[name]
    if len(fits) != 1:
        classes = ", ".join(fits) or "none"
        raise BadInput(
            f"adapter {path} must have one class with `capture`, found {classes}; "
            + ("name it as model.class" if fits else GUIDE)
        )
    return next(iter(fits.values()))


def guarded(path: Path, what: str, call: Callable[[], Value]) -> Value:
    """Run the adapter's code; whatever it raises is its author's to mend, so it names file and line.

    Raises:
        BadInput: it raised something.
    """
    try:
        return call()
    except SaeInterpError:
        raise
    except Exception as error:  # other people's code: there is no narrower type
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines.append(error.lineno)
        where = f", line {lines[-1]}" if lines else ""
        text = " ".join(str(error).split())[:300]
        raise BadInput(
            f"adapter {path}{where}: {what} raised {type(error).__name__}: {text}; {GUIDE}"
        ) from error
