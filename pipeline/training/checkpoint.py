"""The state of a training in one file, so that a killed one goes on as if nothing had happened.

SAELens writes its own with `torch.save`, in several files, a step behind its counters. This one is safetensors
with the numbers as JSON in its header, written whole.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saeinterp_mcp.errors import BadInput, BadStore

Trainer = Any
"""SAELens' SAETrainer, which has no types of its own that mypy could follow."""


def save_state(trainer: Trainer, identity: dict[str, str], path: Path) -> None:
    """Write everything that decides how a training goes on; between two steps."""
    optimizer = trainer.optimizer.state_dict()
    tensors = {f"sae/{name}": tensor for name, tensor in trainer.sae.state_dict().items()}
    for index, moments in optimizer["state"].items():
        tensors |= {f"adam/{index}/{name}": tensor for name, tensor in moments.items()}
    tensors["act_freq_scores"] = trainer.act_freq_scores
    tensors["n_forward_passes_since_fired"] = trainer.n_forward_passes_since_fired
    numbers = {
        "identity": identity,
        "n_training_steps": trainer.n_training_steps,
        "n_training_samples": trainer.n_training_samples,
        "n_frac_active_samples": trainer.n_frac_active_samples,
        "scaling_factor": trainer.activation_scaler.scaling_factor,
        "param_groups": optimizer["param_groups"],
        "lr_scheduler": trainer.lr_scheduler.state_dict(),
        "coefficients": {name: s.state_dict() for name, s in trainer.coefficient_schedulers.items()},
    }
    temporary = path.with_name(path.name + ".tmp")
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, temporary, metadata={"state": json.dumps(numbers)})
    temporary.replace(path)


def load_state(trainer: Trainer, identity: dict[str, str], path: Path) -> bool:
    """Put a trainer where the file left off; False where there is none.

    Raises:
        BadInput: the file is of a training with other settings or data.
        BadStore: it cannot be read.
    """
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt", device=str(trainer.sae.device)) as file:
            numbers = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadStore(path, "the state of a training", str(error), "Remove it to start anew.") from error
    changed = [name for name, value in identity.items() if numbers["identity"].get(name) != value]
    if changed:
        raise BadInput(
            f"{path} is the state of another training ({', '.join(changed)} changed);"
            " name another folder, or remove that file to start anew"
        )
    trainer.sae.load_state_dict(_below(tensors, "sae/"))
    trainer.optimizer.load_state_dict(
        {"state": _moments(_below(tensors, "adam/")), "param_groups": numbers["param_groups"]}
    )
    trainer.lr_scheduler.load_state_dict(numbers["lr_scheduler"])
    for name, state in numbers["coefficients"].items():
        trainer.coefficient_schedulers[name].load_state_dict(state)
    trainer.act_freq_scores = tensors["act_freq_scores"]
    trainer.n_forward_passes_since_fired = tensors["n_forward_passes_since_fired"]
    trainer.n_training_steps = numbers["n_training_steps"]
    trainer.n_training_samples = numbers["n_training_samples"]
    trainer.n_frac_active_samples = numbers["n_frac_active_samples"]
    trainer.activation_scaler.scaling_factor = numbers["scaling_factor"]
    return True


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _moments(flat: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Adam's state by parameter: `0/exp_avg` to `{0: {"exp_avg": ...}}`."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        index, moment = name.split("/")
        moments.setdefault(int(index), {})[moment] = tensor.cpu() if moment == "step" else tensor
    return moments


def torch_version() -> str:
    """Part of a training's identity: another version may round differently."""
    return str(torch.__version__)
