"""Reads a SAE as EleutherAI's sparsify saves it (`layers.N/cfg.json`, `sae.safetensors`) into a SAELens directory.

The arithmetic is sparsify's `SparseCoder.encode`: relu(W (x - b_dec) + b), of which the k largest stay.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.fingerprint import write_whole
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.fingerprint import canonical_json, file_sha256
from saeinterp_mcp.frozen import Frozen

WEIGHTS = "sae.safetensors"
LAYER = re.compile(r"layers\.(\d+)")
HOOK = re.compile(r"blocks\.(\d+)\.\w+")
TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
DEFAULT_CONTEXT = 2048
"""Tokens of a context where sparsify's command is not told otherwise (`ctx_len`)."""


class SparsifyLayer(Frozen):
    """One SAE of a sparsify run."""

    folder: Path
    hook_name: str
    context_size: int
    context_stated: bool
    """Whether the run's `config.json` says the context; else it is sparsify's default."""


def find_sparsify(path: Path, sae_id: str | None) -> SparsifyLayer | None:
    """The layer that `sae_id` (`blocks.N.hook_resid_post` or `layers.N`) means; None if `path` is no sparsify folder.

    Raises:
        BadInput: there is no such layer, or `sae_id` means another place in the model.
    """
    if (path / WEIGHTS).is_file():
        folders = {path.name: path}
    else:
        found = (one for one in path.glob("layers.*") if (one / WEIGHTS).is_file())
        folders = {one.name: one for one in sorted(found)}
    if not folders:
        return None
    layer = _layer_of(sae_id, list(folders), path)
    folder = folders[layer]
    number = LAYER.fullmatch(layer)
    if number is None:
        raise BadInput(
            f"sae: {folder} reads {layer!r}; of sparsify's SAEs only those of a block's output, layers.N, are read"
        )
    stated = _context_of(folder.parent)
    return SparsifyLayer(
        folder=folder,
        hook_name=f"blocks.{number[1]}.hook_resid_post",
        context_size=stated or DEFAULT_CONTEXT,
        context_stated=stated is not None,
    )


def _layer_of(sae_id: str | None, there: list[str], path: Path) -> str:
    if sae_id is None:
        if len(there) == 1:
            return there[0]
        raise BadInput(f"sae: {path} holds {', '.join(there)}; give sae_id, such as blocks.N.hook_resid_post")
    hook = HOOK.fullmatch(sae_id)
    if hook is not None and not sae_id.endswith(".hook_resid_post"):
        raise BadInput(
            f"sae: sae_id is {sae_id}, but sparsify's layers.{hook[1]} reads the output of block {hook[1]}, which is "
            f"blocks.{hook[1]}.hook_resid_post"
        )
    wanted = f"layers.{hook[1]}" if hook is not None else sae_id
    if wanted not in there:
        raise BadInput(f"sae: {path} has no {wanted} (sae_id {sae_id}); there is {', '.join(there)}")
    return wanted


def _context_of(run: Path) -> int | None:
    """`ctx_len` of the run, where its `config.json` was kept beside the layers."""
    try:
        said: Any = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    length = said.get("ctx_len") if isinstance(said, dict) else None
    return length if type(length) is int and length > 1 else None


def convert_sparsify(layer: SparsifyLayer, out: Path, context_size: int, prepend_bos: bool) -> None:
    """Write the layer as a SAELens directory `out`, unless it is there.

    Raises:
        BadInput: it is a kind of SAE that is not implemented; the message names the setting.
        BadStore: a file is missing or damaged.
    """
    source = layer.folder / WEIGHTS
    cfg = _read_cfg(layer.folder / "cfg.json")
    tensors = _read_tensors(source)
    n_features, d_in = tensors["encoder.weight"].shape
    _check_sizes(cfg, n_features, d_in, layer.folder)
    written = {
        "architecture": "topk",
        "d_in": d_in,
        "d_sae": n_features,
        "k": cfg["k"],
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "dtype": "float32",
        "metadata": {
            "hook_name": layer.hook_name,
            "context_size": context_size,
            "prepend_bos": prepend_bos,
            "training_architecture": "topk",
            "converted_from": {"format": "sparsify", "sha256": file_sha256(source)},
        },
    }
    text = canonical_json(written)
    weights = out / "sae_weights.safetensors"
    if weights.is_file() and (out / "cfg.json").is_file():
        if (out / "cfg.json").read_text(encoding="utf-8") == text:
            return
        (out / "cfg.json").unlink()  # written last, so that it never stands beside other weights
    out.mkdir(parents=True, exist_ok=True)
    named = {
        "W_enc": tensors["encoder.weight"].T,
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    temporary = weights.with_name(weights.name + ".tmp")
    save_file({name: tensor.to(torch.float32).contiguous() for name, tensor in named.items()}, temporary)
    temporary.replace(weights)
    write_whole(out / "cfg.json", text)


def _read_cfg(path: Path) -> dict[str, Any]:
    try:
        cfg: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadStore(
            path, "what sparsify says of the SAE", "no such file", "Copy the folder again."
        ) from error
    except ValueError as error:
        raise BadStore(path, "JSON", str(error), "Copy the folder again.") from error
    if not isinstance(cfg, dict):
        raise BadStore(path, "a JSON object", type(cfg).__name__, "Copy the folder again.")
    activation = cfg.get("activation", "topk")
    refused = [f"activation {activation!r}"] if activation != "topk" else []
    refused += [
        name
        for name in ("transcode", "skip_connection", "embed_skip", "gram_lookup", "signed")
        if cfg.get(name)
    ]
    if refused:
        raise BadInput(f"{path}: {', '.join(refused)} is not implemented, only plain TopK autoencoders are")
    if type(cfg.get("k")) is not int or cfg["k"] < 1:
        raise BadInput(f"{path}: k, the number of features that fire, is missing")
    return cfg


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadStore(path, "a safetensors file", f"{error}", "Copy the folder again.") from error
    if missing := [name for name in TENSORS if name not in tensors]:
        raise BadStore(
            path,
            f"the tensors {', '.join(TENSORS)}",
            f"no {', '.join(missing)} among {', '.join(sorted(tensors)[:8])}",
            "Give a folder as sparsify saves it.",
        )
    if tensors["encoder.weight"].ndim != 2:
        raise BadStore(
            path,
            "encoder.weight of shape (features, d_in)",
            f"{tuple(tensors['encoder.weight'].shape)}",
            "Save it again.",
        )
    return tensors


def _check_sizes(cfg: dict[str, Any], n_features: int, d_in: int, folder: Path) -> None:
    """What `cfg.json` says of sizes must be those of the weights: else it belongs to another SAE."""
    stated_in = cfg.get("d_in", cfg.get("d_model"))
    stated = cfg.get("num_latents") or (stated_in or d_in) * cfg.get("expansion_factor", 32)
    if stated_in not in (None, d_in) or stated != n_features:
        raise BadStore(
            folder,
            f"weights of {stated} features on {stated_in or d_in} dimensions, as cfg.json says",
            f"{n_features} on {d_in}",
            "The cfg.json of another SAE, or a transposed weight.",
        )
    if cfg["k"] > n_features:
        raise BadInput(f"{folder}: k is {cfg['k']}, but there are {n_features} features")
