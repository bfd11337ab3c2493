"""A trained SAE as a directory that SAELens and we read, the same bytes each time."""

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.checks import rounded
from pipeline.fingerprint import write_whole
from saeinterp_mcp.fingerprint import canonical_json

UNIT_NORM = ("standard", "jumprelu")
"""Architectures whose decoder gets rows of length 1 here; SAELens does it for the others when it saves."""


@torch.no_grad()
def save_sae(sae: Any, folder: Path) -> None:
    """Write `cfg.json` and `sae_weights.safetensors`; an activation is the length of what it adds to the input."""
    sae.to("cpu")
    if sae.cfg.architecture() in UNIT_NORM:
        sae.fold_W_dec_norm()
    if sae.cfg.architecture() == "jumprelu":
        sae.threshold.data.clamp_(min=0)  # as SAELens does before each step, so not after the last
    weights, _ = sae.save_inference_model(folder)
    weights.chmod(0o644)  # safetensors lets only the owner read


def state_l0(folder: Path, l0: float) -> None:
    """Put the measured L0 into `cfg.json`, by which load checks judge, and its keys in order.

    SAELens states the L0 of the whole training, its dense beginning included, and the keys in an order of chance.
    """
    cfg = folder / "cfg.json"
    content = json.loads(cfg.read_text(encoding="utf-8"))
    content["metadata"]["l0"] = rounded(l0)
    write_whole(cfg, canonical_json(content) + "\n")
