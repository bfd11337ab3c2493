"""Reads the storage guide's `sae_model_final.pth` as one of our SAEs, and picks the reader for a run over sets."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.set_config import SetSaeConfig
from pipeline.source_config import SaeConfig
from pipeline.sources.checkpoint import load_checkpoint
from pipeline.sources.sae import SaeHeader, SaeMetadata, SparseAutoencoder
from pipeline.sources.saelens_format import build_sae, load_sae
from saeinterp_mcp.errors import BadStore

TRAINED = "sae"
"""Folder of the SAE in the artifact of `train_sae`."""
TENSORS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder_bias")
MAX_ACTIVATION = 6.0
"""Where the seed's SAE cuts its activations off."""


def load_set_sae(config: SetSaeConfig, trained: Path | None, device: torch.device) -> SparseAutoencoder:
    """The SAE of a run over sets: a SAELens directory, a seed's `.pth` file, or the one that the run trained.

    Args:
        config: the run's `sae` section.
        trained: the artifact of `train_sae`, where the run trains one.
        device: where to put it.
    """
    path = trained / TRAINED if trained is not None else config.path
    assert path is not None, "a run whose config has no sae.path trains one"
    if path.is_file():
        return load_seed_sae(path, device)
    return load_sae(SaeConfig(path=path, norm_scaling_factor=config.norm_scaling_factor), device)


def load_seed_sae(path: Path, device: torch.device) -> SparseAutoencoder:
    """An SAE with the arithmetic h = clamp(relu(W_e (x - b_dec) + b_e), 0, 6), x_hat = unit(W_d) h + b_dec.

    The file holds `encoder.weight` (F, D), `encoder.bias` (F,), `decoder.weight` (D, F), whose columns are made unit
    length, and `decoder_bias` (D,).

    Raises:
        BadStore: tensors are missing, of other shapes, or not finite.
    """
    tensors = load_checkpoint(path)
    if missing := [name for name in TENSORS if name not in tensors]:
        raise BadStore(
            path,
            f"the tensors {', '.join(TENSORS)}",
            f"no {', '.join(missing)} among {', '.join(list(tensors)[:6])}",
            "Give the seed's sae_model_final.pth, or a SAELens directory.",
        )
    encoder = tensors["encoder.weight"].float()
    if encoder.ndim != 2:
        raise BadStore(
            path, "encoder.weight of shape (features, d_in)", f"{tuple(encoder.shape)}", "Save it again."
        )
    header = SaeHeader(
        architecture="standard",
        d_in=encoder.shape[1],
        n_features=encoder.shape[0],
        max_activation=MAX_ACTIVATION,
        metadata=SaeMetadata(),
    )
    decoder = tensors["decoder.weight"].float()
    named: dict[str, Tensor] = {
        "W_enc": encoder.T,
        "W_dec": (normalize(decoder, dim=0) if decoder.ndim == 2 else decoder).T,
        "b_enc": tensors["encoder.bias"].float(),
        "b_dec": tensors["decoder_bias"].float(),
    }
    return build_sae(header, named, str(path), device)
