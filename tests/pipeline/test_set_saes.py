"""The seed's `sae_model_final.pth`: its arithmetic, and a build from it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.sources.seed_sae import load_seed_sae
from saeinterp_mcp.errors import BadStore
from tests.pipeline.set_world import D_MODEL, SetRun, make_world, write_set_run

CPU = torch.device("cpu")


def seed_tensors(n_features: int = 24) -> dict[str, Tensor]:
    """Random ones; decoder columns are far from unit length, and one is zero."""
    generator = torch.Generator().manual_seed(0)
    decoder = 3 * torch.randn(D_MODEL, n_features, generator=generator)
    decoder[:, 5] = 0
    return {
        "encoder.weight": torch.randn(n_features, D_MODEL, generator=generator),
        "encoder.bias": torch.randn(n_features, generator=generator),
        "decoder.weight": decoder,
        "decoder_bias": torch.randn(D_MODEL, generator=generator),
    }


def seed_encode(x: NDArray[np.float32], tensors: dict[str, Tensor]) -> NDArray[np.float64]:
    """The seed's formula, in double precision."""
    we, be, _, bd = (tensor.double().numpy() for tensor in tensors.values())
    hidden: NDArray[np.float64] = np.clip((x - bd) @ we.T + be, 0, 6)
    return hidden


def test_the_seeds_arithmetic_is_kept_with_its_limit_and_unit_decoder(tmp_path: Path) -> None:
    tensors = seed_tensors()
    torch.save(tensors, tmp_path / "sae_model_final.pth")
    sae = load_seed_sae(tmp_path / "sae_model_final.pth", CPU)
    x = 3 * np.random.default_rng(1).normal(size=(200, D_MODEL)).astype(np.float32)
    expected = seed_encode(x, tensors)
    assert (expected == 6).sum() > 50
    found = sae.encode(torch.from_numpy(x))
    assert found.numpy() == pytest.approx(expected, abs=2e-5)
    wd = tensors["decoder.weight"].double().numpy()
    unit = wd / np.where(wd.any(axis=0), np.linalg.norm(wd, axis=0), 1)
    decoded = expected @ unit.T + tensors["decoder_bias"].double().numpy()
    assert sae.decode(found, torch.from_numpy(x)).numpy() == pytest.approx(decoded, abs=1e-4)
    rows, features, values = sae.firing(torch.from_numpy(x))
    dense = torch.zeros_like(found)
    dense[rows, features] = values
    assert dense.equal(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_bias": None}, "found no decoder_bias among encoder.weight, encoder.bias, decoder.weight"),
        ({"decoder.weight": torch.ones(24, D_MODEL)}, r"expected W_dec of shape \(24, 8\); found \(8, 24\)"),
        ({"encoder.bias": torch.full((24,), torch.nan)}, "expected finite numbers in b_enc"),
        ({"encoder.weight": torch.ones(24)}, r"encoder.weight of shape \(features, d_in\)"),
    ],
)
def test_a_seed_sae_that_does_not_fit_is_refused(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    tensors = {name: tensor for name, tensor in (seed_tensors() | change).items() if tensor is not None}
    torch.save(tensors, tmp_path / "sae.pth")
    with pytest.raises(BadStore, match=message):
        load_seed_sae(tmp_path / "sae.pth", CPU)


def test_a_build_says_how_much_the_limit_touches(tmp_path: Path) -> None:
    run: SetRun = write_set_run(tmp_path, make_world(n_builds=60))
    tensors = seed_tensors()
    torch.save(tensors, tmp_path / "sae_model_final.pth")
    # a random SAE reconstructs nothing, which the checks would say
    checks = {"allow": ["explained_variance", "loss_recovered"]}
    folders = run.build(sae={"path": "sae_model_final.pth"}, checks=checks)
    vectors = np.load(folders["capture_vectors"] / "vectors.npy", allow_pickle=False)
    expected = seed_encode(vectors, tensors)
    parts = pq.read_table(folders["encode_vectors"] / "activations")
    found = np.zeros_like(expected)
    found[parts["sample"].to_numpy(), parts["feature"].to_numpy()] = parts["value"].to_numpy()
    assert found == pytest.approx(expected, abs=2e-5)
    n_cut, n = int((expected == 6).sum()), int((expected > 0).sum())
    assert n_cut > 100
    note = (
        f"{n_cut:,} activations ({n_cut / n:.2%}) are cut off at 6, the SAE's own limit;"
        " above it strengths cannot be told apart"
    )
    assert f"  note: {note}" in "\n".join(run.said.lines).splitlines()
    assert note in (folders["write_set_bundle"] / "bundle.yaml").read_text(encoding="utf-8").replace(
        "\n    ", " "
    )
