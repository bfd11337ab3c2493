"""Reads SAEs: SAELens' directory format by ourselves, or a SAELens release through sae-lens."""

import json
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.source_config import SaeConfig
from pipeline.sources.sae import SaeHeader, SaeMetadata, SparseAutoencoder
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.frozen import describe_validation

TENSORS: dict[str, frozenset[str]] = {
    "standard": frozenset({"W_enc", "W_dec", "b_enc", "b_dec"}),
    "topk": frozenset({"W_enc", "W_dec", "b_enc", "b_dec"}),
    "jumprelu": frozenset({"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}),
    "gated": frozenset({"W_enc", "W_dec", "b_gate", "b_mag", "r_mag", "b_dec"}),
}
"""The tensors of each architecture, by their names in `sae_weights.safetensors`."""

METADATA = [
    "model_name",
    "hook_name",
    "hook_head_index",
    "context_size",
    "prepend_bos",
    "exclude_special_tokens",
    "seqpos_slice",
    "l0",
    "k",
    "training_architecture",
    "dataset_path",
    "sae_lens_version",
]


def read_header(config: SaeConfig) -> SaeHeader:
    """What an SAE's config says, without reading its weights."""
    if config.path is None:
        return _from_release(config)[0]
    return parse_header(_read_cfg(config.path), str(config.path / "cfg.json"), config)


def load_sae(config: SaeConfig, device: torch.device) -> SparseAutoencoder:
    """The SAE of a config, in float32 on the given device.

    Raises:
        BadInput: an architecture or setting that is not implemented, or one that the config must give.
        BadStore: a file is missing or damaged, or tensors do not have the shapes that `cfg.json` says.
    """
    if config.path is None:
        header, tensors = _from_release(config)
        where = config.display_name
    else:
        header = read_header(config)
        path = config.path / "sae_weights.safetensors"
        where = str(path)
        if not path.is_file():
            raise BadStore(
                path, "the weights of an SAE", "no such file", "Give a SAELens directory as sae.path."
            )
        try:
            tensors = load_file(path)
        except (SafetensorError, ValueError) as error:
            raise BadStore(path, "a safetensors file", f"{error}", "Copy or download it again.") from error
    return build_sae(header, {name: tensor.float() for name, tensor in tensors.items()}, where, device)


def build_sae(
    header: SaeHeader, tensors: dict[str, Tensor], where: str, device: torch.device
) -> SparseAutoencoder:
    """Check names and shapes, fold what is to be folded, and move to the device."""
    tensors = dict(tensors)
    scaling = tensors.pop("scaling_factor", None)
    if scaling is not None and not bool(torch.allclose(scaling, torch.ones_like(scaling))):
        raise BadInput(f"{where}: has a fine-tuned scaling_factor, which is not implemented")
    expected = TENSORS[header.architecture]
    if tensors.keys() != expected:
        raise BadStore(
            where,
            f"the tensors {', '.join(sorted(expected))} of architecture {header.architecture}",
            ", ".join(sorted(tensors)),
            "Its cfg.json names another architecture, or the file is not whole.",
        )
    for name, tensor in tensors.items():
        wanted = _shape(name, header)
        if tuple(tensor.shape) != wanted:
            raise BadStore(
                where,
                f"{name} of shape {wanted}",
                f"{tuple(tensor.shape)}",
                "A transposed weight, or the cfg.json of another SAE.",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise BadStore(
                where, f"finite numbers in {name}", "NaN or infinity", "Copy or download it again."
            )
    factor = header.norm_scaling_factor
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    W_dec, pre_scale = tensors["W_dec"] / factor, None
    if header.rescale_by_decoder_norm:
        pre_scale = tensors["W_dec"].norm(dim=-1)
        W_dec = W_dec / pre_scale[:, None]
    return SparseAutoencoder(
        header=header,
        W_enc=(tensors["W_enc"] * factor).contiguous(),
        W_dec=W_dec.contiguous(),
        b_dec=tensors["b_dec"] / factor,
        b_enc=tensors["b_gate"] if header.architecture == "gated" else tensors["b_enc"],
        threshold=tensors.get("threshold"),
        r_mag=tensors.get("r_mag"),
        b_mag=tensors.get("b_mag"),
        pre_scale=pre_scale,
    )


def _shape(name: str, header: SaeHeader) -> tuple[int, ...]:
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (header.d_in, header.n_features),
        "W_dec": (header.n_features, header.d_in),
        "b_dec": (header.d_in,),
    }
    return shapes.get(name, (header.n_features,))


def parse_header(cfg: dict[str, Any], where: str, config: SaeConfig) -> SaeHeader:
    """Read SAELens' `cfg.json`, of version 6 or the flat one before it.

    Raises:
        BadInput: it says something that is not implemented here, named with its value.
    """
    cfg = _modern(cfg)
    architecture = cfg.get("architecture")
    if architecture not in TENSORS:
        advice = (
            "; save a BatchTopK SAE for inference first (save_inference_model)"
            if "topk" in str(architecture)
            else ""
        )
        raise BadInput(
            f"{where}: architecture {architecture!r} is not implemented, only {', '.join(TENSORS)}{advice}"
        )
    reshape = cfg.get("reshape_activations", "none")
    if reshape != "none":
        raise BadInput(f"{where}: reshape_activations {reshape!r} is not implemented, only 'none' is")
    normalisation, factor = cfg.get("normalize_activations", "none"), 1.0
    if normalisation == "expected_average_only_in":
        if config.norm_scaling_factor is None:
            raise BadInput(
                f"{where}: normalize_activations 'expected_average_only_in' means its weights expect inputs"
                " multiplied with a factor that the file does not hold; give it as sae.norm_scaling_factor"
                " (sqrt(d_in) / mean norm of the activations in training)"
            )
        normalisation, factor = "none", config.norm_scaling_factor
    elif config.norm_scaling_factor is not None:
        raise BadInput(
            f"{where}: normalize_activations is {normalisation!r}, which takes no sae.norm_scaling_factor"
        )
    if normalisation not in ("none", "layer_norm", "constant_norm_rescale"):
        raise BadInput(
            f"{where}: normalize_activations {normalisation!r} is not implemented, these are:"
            " none, expected_average_only_in, layer_norm, constant_norm_rescale"
        )
    if architecture == "topk" and cfg.get("k") is None:
        raise BadInput(f"{where}: architecture 'topk' needs k, which is missing")
    metadata = {key: value for key, value in (cfg.get("metadata") or {}).items() if value is not None}
    if architecture == "topk":
        metadata.setdefault("k", cfg["k"])
    try:
        return SaeHeader(
            architecture=architecture,
            d_in=cfg.get("d_in"),
            n_features=cfg.get("d_sae"),
            apply_b_dec_to_input=cfg.get("apply_b_dec_to_input", True),
            normalisation=normalisation,
            norm_scaling_factor=factor,
            k=cfg.get("k"),
            rescale_by_decoder_norm=architecture == "topk" and cfg.get("rescale_acts_by_decoder_norm", False),
            metadata=SaeMetadata.model_validate(metadata),
        )
    except ValidationError as error:
        raise BadInput(f"{where}: {describe_validation(error)}") from error


def _modern(cfg: dict[str, Any]) -> dict[str, Any]:
    """The flat `cfg.json` of SAELens before 6.0 in the form of later ones; a later one unchanged."""
    if "metadata" in cfg:
        return cfg
    cfg = {**cfg, "hook_name": cfg.get("hook_name", cfg.get("hook_point"))}
    cfg.setdefault("architecture", "standard")
    if cfg.get("activation_fn_str", cfg.get("activation_fn")) == "topk":
        cfg |= {"architecture": "topk", "k": (cfg.get("activation_fn_kwargs") or {}).get("k")}
    # Before 6.0 the setting was sometimes a boolean, and "none" could be missing or null.
    legacy = {True: "expected_average_only_in", False: "none", None: "none"}
    normalisation = cfg.get("normalize_activations")
    cfg["normalize_activations"] = legacy.get(normalisation, normalisation)
    cfg.setdefault("reshape_activations", "hook_z" if "hook_z" in str(cfg["hook_name"]) else "none")
    return {**cfg, "metadata": {key: cfg[key] for key in METADATA if key in cfg}}


def _read_cfg(folder: Path) -> dict[str, Any]:
    path = folder / "cfg.json"
    if not path.is_file():
        raise BadInput(f"sae: {folder} is not a SAELens directory: it has no cfg.json")
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise BadStore(path, "JSON", str(error), "Copy or download it again.") from error
    if not isinstance(cfg, dict):
        raise BadStore(path, "a JSON object", type(cfg).__name__, "Copy or download it again.")
    return cfg


def _from_release(config: SaeConfig) -> tuple[SaeHeader, dict[str, Tensor]]:
    """Header and tensors of a SAELens release; downloads it where it is not in the cache."""
    try:
        from sae_lens import SAE
    except ImportError as error:
        raise BadInput(
            f"sae.release {config.release!r} needs the package sae-lens: pip install 'saeinterp-mcp[train]',"
            " or give a local SAELens directory as sae.path"
        ) from error
    try:
        sae = SAE.from_pretrained(config.release, config.sae_id, device="cpu")
    except (OSError, ValueError) as error:
        raise BadInput(f"sae: {config.display_name} could not be loaded: {error}") from error
    header = parse_header(cast(dict[str, Any], sae.cfg.to_dict()), config.display_name, config)
    return header, {name: tensor.detach() for name, tensor in sae.state_dict().items()}
