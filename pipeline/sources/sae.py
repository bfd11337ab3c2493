"""Sparse autoencoders: read SAELens' directory format ourselves, or a SAELens release through sae-lens.

The arithmetic follows SAELens 6.54 operation by operation, so that a feature's activation is the one its authors
would compute; `tests/pipeline` compares the two for each architecture.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import SaeConfig
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.frozen import Frozen, describe_validation

Architecture = Literal["standard", "topk", "jumprelu", "gated"]
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]

TENSORS: dict[str, frozenset[str]] = {
    "standard": frozenset({"W_enc", "W_dec", "b_enc", "b_dec"}),
    "topk": frozenset({"W_enc", "W_dec", "b_enc", "b_dec"}),
    "jumprelu": frozenset({"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}),
    "gated": frozenset({"W_enc", "W_dec", "b_gate", "b_mag", "r_mag", "b_dec"}),
}
"""The tensors of each architecture, by their names in `sae_weights.safetensors`."""

METADATA = (
    "model_name hook_name hook_head_index context_size prepend_bos exclude_special_tokens seqpos_slice l0 k"
    " training_architecture dataset_path sae_lens_version"
).split()


class SaeMetadata(Frozen):
    """How an SAE was trained, as far as its files say; None is "not stated", never a default."""

    model_config = ConfigDict(extra="ignore")

    model_name: str | None = None
    hook_name: str | None = None
    context_size: int | None = None
    prepend_bos: bool | None = None
    exclude_special_tokens: bool | tuple[int, ...] | None = None
    """Tokens it was not trained on: ids, or True for all special tokens."""
    seqpos_slice: tuple[int | None, ...] | None = None
    """Positions it was trained on, as the arguments of `slice`."""
    l0: float | None = None
    """Mean number of features firing at a position."""
    k: int | None = None
    training_architecture: str | None = None
    dataset_path: str | None = None
    sae_lens_version: str | None = None

    @property
    def expected_l0(self) -> float | None:
        """What its files say L0 is."""
        return self.l0 if self.l0 is not None else self.k


class SaeHeader(Frozen):
    """What `cfg.json` says: all that is needed to know about an SAE before its weights are read."""

    architecture: Architecture
    d_in: int
    n_features: int
    apply_b_dec_to_input: bool = True
    normalisation: Normalisation = "none"
    norm_scaling_factor: float = 1.0
    """Folded into the weights when they are read; 1 where there is nothing to fold."""
    k: int | None = None
    """Features kept at a position, of the `topk` architecture."""
    rescale_by_decoder_norm: bool = False
    """Whether `topk` ranks pre-activations times decoder norms (and its activations are in those units)."""
    metadata: SaeMetadata


@dataclass(frozen=True)
class SparseAutoencoder:
    """An SAE in float32: encode, decode, and its decoder directions in the model's own units."""

    header: SaeHeader
    W_enc: Tensor
    """(d_in, n_features)"""
    W_dec: Tensor
    """(n_features, d_in); for `rescale_by_decoder_norm` of unit norm."""
    b_dec: Tensor
    """(d_in,)"""
    b_enc: Tensor
    """(n_features,); the gate's bias of the `gated` architecture."""
    threshold: Tensor | None = None
    """(n_features,), of `jumprelu`."""
    r_mag: Tensor | None = None
    """(n_features,), of `gated`: log of the magnitude encoder's scale."""
    b_mag: Tensor | None = None
    """(n_features,), of `gated`."""
    pre_scale: Tensor | None = None
    """(n_features,): decoder norms that pre-activations are multiplied with, for `rescale_by_decoder_norm`."""

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.header.n_features

    def encode(self, x: Tensor) -> Tensor:
        """Activations of all features.

        Args:
            x: (..., d_in), the model's activations at the hook.

        Returns:
            (..., n_features) float32, 0 where a feature is silent.
        """
        centred = self._normalise(x.float())
        if self.header.apply_b_dec_to_input:
            centred = centred - self.b_dec
        pre = centred @ self.W_enc + self.b_enc
        if self.header.architecture == "standard":
            return pre.relu()
        if self.header.architecture == "jumprelu":
            assert self.threshold is not None, "a jumprelu SAE has thresholds"
            return pre.relu() * (pre > self.threshold)
        if self.header.architecture == "gated":
            assert self.r_mag is not None and self.b_mag is not None, "a gated SAE has a magnitude encoder"
            magnitude = centred @ (self.W_enc * self.r_mag.exp()) + self.b_mag
            return (pre > 0).to(magnitude) * magnitude.relu()
        assert self.header.k is not None, "a topk SAE has k"
        if self.pre_scale is not None:
            pre = pre * self.pre_scale
        values, features = torch.topk(pre, k=self.header.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter_(-1, features, values.relu())

    def decode(self, activations: Tensor, x: Tensor) -> Tensor:
        """The reconstruction (..., d_in) of the model's activations `x` (..., d_in) from those of the features.

        `x` is read only for its mean and norm, where inputs are normalised at run time.
        """
        return self._denormalise(activations @ self.W_dec + self.b_dec, x.float())

    def reconstruct(self, x: Tensor) -> Tensor:
        """`decode(encode(x))`, (..., d_in) float32."""
        return self.decode(self.encode(x), x)

    def direction_scale(self, x: Tensor) -> Tensor:
        """(..., 1): what a decoder direction is multiplied with at each position, in the model's units.

        1 unless inputs are normalised at run time; feature f adds `activation * scale * W_dec[f]`.
        """
        x = x.float()
        if self.header.normalisation == "layer_norm":
            return (x - x.mean(dim=-1, keepdim=True)).std(dim=-1, keepdim=True)
        if self.header.normalisation == "constant_norm_rescale":
            return x.norm(dim=-1, keepdim=True) / self.header.d_in**0.5
        return torch.ones_like(x[..., :1])

    def _normalise(self, x: Tensor) -> Tensor:
        if self.header.normalisation == "layer_norm":
            x = x - x.mean(dim=-1, keepdim=True)
            return x / (x.std(dim=-1, keepdim=True) + 1e-5)
        if self.header.normalisation == "constant_norm_rescale":
            return x * (self.header.d_in**0.5 / x.norm(dim=-1, keepdim=True))
        return x

    def _denormalise(self, x_hat: Tensor, x: Tensor) -> Tensor:
        if self.header.normalisation == "none":
            return x_hat
        x_hat = x_hat * self.direction_scale(x)
        return x_hat + x.mean(dim=-1, keepdim=True) if self.header.normalisation == "layer_norm" else x_hat


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
            raise BadStore(path, "the weights of an SAE", "no such file", "Give a SAELens directory as sae.path.")
        try:
            tensors = load_file(path)
        except (SafetensorError, ValueError) as error:
            raise BadStore(path, "a safetensors file", f"{error}", "Copy or download it again.") from error
    return build_sae(header, {name: tensor.float() for name, tensor in tensors.items()}, where, device)


def build_sae(header: SaeHeader, tensors: dict[str, Tensor], where: str, device: torch.device) -> SparseAutoencoder:
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
            raise BadStore(where, f"finite numbers in {name}", "NaN or infinity", "Copy or download it again.")
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
        advice = "; save a BatchTopK SAE for inference first (save_inference_model)" if "topk" in str(architecture) else ""
        raise BadInput(f"{where}: architecture {architecture!r} is not implemented, these are: {', '.join(TENSORS)}{advice}")
    reshape = cfg.get("reshape_activations", "none")
    if reshape != "none":
        raise BadInput(f"{where}: reshape_activations {reshape!r} is not implemented, only 'none' is")
    normalisation, factor = cfg.get("normalize_activations", "none"), 1.0
    if normalisation == "expected_average_only_in":
        if config.norm_scaling_factor is None:
            raise BadInput(
                f"{where}: normalize_activations 'expected_average_only_in' means its weights expect inputs multiplied"
                " with a factor that the file does not hold; give it as sae.norm_scaling_factor"
                " (sqrt(d_in) / mean norm of the activations in training)"
            )
        normalisation, factor = "none", config.norm_scaling_factor
    elif config.norm_scaling_factor is not None:
        raise BadInput(f"{where}: normalize_activations is {normalisation!r}, so sae.norm_scaling_factor must not be given")
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
