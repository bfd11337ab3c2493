import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.source_config import SaeConfig
from pipeline.sources.saelens_format import load_sae, read_header
from saeinterp_mcp.errors import BadInput, BadStore
from tests.pipeline.conftest import EXAMPLE

D_IN, N_FEATURES = 12, 40
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sae_lens() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its imports warn about is not ours to fix
        import sae_lens
    return sae_lens


def inputs() -> Tensor:
    return torch.randn(5, 7, D_IN, generator=torch.Generator().manual_seed(1)) * 3 + 0.5


def random_weights(sae: Any) -> Any:
    generator = torch.Generator().manual_seed(2)
    for name, parameter in sae.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
        if name == "threshold":
            parameter.data = parameter.data.abs()
    return sae


def agree(theirs: Any, folder: Path, **given: Any) -> None:
    ours = load_sae(SaeConfig(path=folder, **given), CPU)
    with torch.no_grad():
        expected = theirs.encode(inputs())
        found = ours.encode(inputs())
        assert torch.equal(found, expected)
        assert 0 < (found > 0).float().mean() < 1
        rebuilt = theirs(inputs())
        assert torch.allclose(ours.reconstruct(inputs()), rebuilt, atol=1e-5)
        rows, features, values = ours.firing(inputs().flatten(0, 1))
        sparse = torch.zeros(35, N_FEATURES)
        sparse[rows, features] = values
        assert torch.allclose(sparse, expected.flatten(0, 1), atol=1e-5)
        assert torch.equal(rows * N_FEATURES + features, (rows * N_FEATURES + features).sort().values)
        one_by_one = ours.decode(found, inputs()) - ours.decode(torch.zeros_like(found), inputs())
        directions = ours.direction_scale(inputs()) * (found @ ours.W_dec)
        assert torch.allclose(one_by_one, directions, atol=1e-4)


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ["Standard", "JumpReLU", "Gated", "TopK"])
def test_activations_equal_those_of_saelens(
    architecture: str, normalisation: str, apply_b_dec_to_input: bool, tmp_path: Path, sae_lens: Any
) -> None:
    config = getattr(sae_lens, f"{architecture}SAEConfig")(
        d_in=D_IN,
        d_sae=N_FEATURES,
        apply_b_dec_to_input=apply_b_dec_to_input,
        normalize_activations=normalisation,
        **({"k": 5} if architecture == "TopK" else {}),
    )
    sae = random_weights(getattr(sae_lens, f"{architecture}SAE")(config))
    sae.save_model(tmp_path)
    agree(sae, tmp_path)


def test_topk_that_ranks_by_decoder_norm_equals_saelens(tmp_path: Path, sae_lens: Any) -> None:
    config = sae_lens.TopKSAEConfig(d_in=D_IN, d_sae=N_FEATURES, k=5, rescale_acts_by_decoder_norm=True)
    sae = random_weights(sae_lens.TopKSAE(config))
    sae.save_model(tmp_path)
    agree(sae, tmp_path)
    assert read_header(SaeConfig(path=tmp_path)).metadata.expected_l0 == 5


def test_batchtopk_saved_for_inference_is_read_as_jumprelu(tmp_path: Path, sae_lens: Any) -> None:
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=N_FEATURES, k=5)
    sae = random_weights(sae_lens.BatchTopKTrainingSAE(config))
    sae.topk_threshold.fill_(0.7)
    sae.save_inference_model(tmp_path)
    assert read_header(SaeConfig(path=tmp_path)).architecture == "jumprelu"
    agree(sae_lens.SAE.load_from_disk(tmp_path), tmp_path)


def test_a_norm_factor_is_folded_as_saelens_folds_it(tmp_path: Path, sae_lens: Any) -> None:
    config = sae_lens.StandardSAEConfig(
        d_in=D_IN, d_sae=N_FEATURES, normalize_activations="expected_average_only_in"
    )
    sae = random_weights(sae_lens.StandardSAE(config))
    sae.save_model(tmp_path)
    sae.fold_activation_norm_scaling_factor(0.25)
    agree(sae, tmp_path, norm_scaling_factor=0.25)


def test_the_embedded_sae_equals_saelens(sae_lens: Any) -> None:
    theirs = sae_lens.SAE.load_from_disk(EXAMPLE / "sae")
    ours = load_sae(SaeConfig(path=EXAMPLE / "sae"), CPU)
    x = torch.randn(50, 256, generator=torch.Generator().manual_seed(0)) * 2
    with torch.no_grad():
        assert torch.equal(ours.encode(x), theirs.encode(x))
    assert ours.W_dec.dtype == torch.float32
    metadata = ours.header.metadata
    assert (metadata.hook_name, metadata.context_size, metadata.prepend_bos) == (
        "blocks.2.hook_resid_post",
        256,
        True,
    )
    assert (metadata.exclude_special_tokens, metadata.seqpos_slice) == ((0,), (1, None))


def test_a_release_is_read_through_saelens(sae_lens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = random_weights(sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(d_in=D_IN, d_sae=N_FEATURES)))
    theirs.cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    asked = []

    def downloaded(release: str, sae_id: str, device: str) -> Any:
        asked.append((release, sae_id))
        return theirs

    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", downloaded)
    ours = load_sae(SaeConfig(release="somebody/saes", sae_id="layer_1"), CPU)
    assert asked == [("somebody/saes", "layer_1")]
    assert ours.header.metadata.hook_name == "blocks.1.hook_resid_post"
    with torch.no_grad():
        assert torch.equal(ours.encode(inputs()), theirs.encode(inputs()))


def test_a_release_without_saelens_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(BadInput) as error:
        load_sae(SaeConfig(release="somebody/saes", sae_id="layer_1"), CPU)
    assert str(error.value) == (
        "sae.release 'somebody/saes' needs the package sae-lens: pip install 'saeinterp-mcp[train]',"
        " or give a local SAELens directory as sae.path"
    )


def test_the_flat_config_of_saelens_before_version_six_is_read(tmp_path: Path) -> None:
    cfg = {
        "hook_point": "blocks.1.hook_resid_pre", "d_in": 4, "d_sae": 8, "context_size": 64,
        "prepend_bos": False,
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "normalize_activations": False,
    }  # fmt: skip
    header = read_header(SaeConfig(path=write_sae(tmp_path, cfg)))
    assert (header.architecture, header.k, header.normalisation) == ("topk", 3, "none")
    assert (header.metadata.hook_name, header.metadata.context_size) == ("blocks.1.hook_resid_pre", 64)


def write_sae(folder: Path, cfg: dict[str, Any], **tensors: Tensor) -> Path:
    (folder / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    if tensors:
        save_file(tensors, folder / "sae_weights.safetensors")
    return folder


STANDARD: dict[str, Any] = {"architecture": "standard", "d_in": 4, "d_sae": 8, "metadata": {}}


def tensors(**changed: Tensor) -> dict[str, Tensor]:
    whole = {
        "W_enc": torch.ones(4, 8),
        "W_dec": torch.ones(8, 4),
        "b_enc": torch.ones(8),
        "b_dec": torch.ones(4),
    }
    return whole | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"architecture": "batchtopk"},
            "{cfg}: architecture 'batchtopk' is not implemented, only standard, topk, jumprelu, gated;"
            " save a BatchTopK SAE for inference first (save_inference_model)",
        ),
        (
            {"architecture": "temporal"},
            "{cfg}: architecture 'temporal' is not implemented, only standard, topk, jumprelu, gated",
        ),
        (
            {"reshape_activations": "hook_z"},
            "{cfg}: reshape_activations 'hook_z' is not implemented, only 'none' is",
        ),
        (
            {"normalize_activations": "covariance_whitening"},
            "{cfg}: normalize_activations 'covariance_whitening' is not implemented, these are:"
            " none, expected_average_only_in, layer_norm, constant_norm_rescale",
        ),
        (
            {"normalize_activations": "expected_average_only_in"},
            "{cfg}: normalize_activations 'expected_average_only_in' means its weights expect inputs"
            " multiplied with a factor that the file does not hold; give it as sae.norm_scaling_factor"
            " (sqrt(d_in) / mean norm of the activations in training)",
        ),
        ({"architecture": "topk"}, "{cfg}: architecture 'topk' needs k, which is missing"),
        ({"d_in": None}, "{cfg}: d_in: Input should be a valid integer"),
    ],
)
def test_what_an_sae_says_that_we_cannot_do_is_refused(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_sae(tmp_path, STANDARD | changed)
    with pytest.raises(BadInput) as error:
        read_header(SaeConfig(path=folder))
    assert str(error.value) == message.format(cfg=folder / "cfg.json")


def test_a_norm_factor_that_is_not_asked_for_is_refused(tmp_path: Path) -> None:
    folder = write_sae(tmp_path, STANDARD)
    with pytest.raises(BadInput) as error:
        read_header(SaeConfig(path=folder, norm_scaling_factor=2.0))
    expected = (
        f"{folder / 'cfg.json'}: normalize_activations is 'none', which takes no sae.norm_scaling_factor"
    )
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"W_dec": torch.ones(4, 8)},
            "{weights}: expected W_dec of shape (8, 4); found (4, 8)."
            " A transposed weight, or the cfg.json of another SAE.",
        ),
        (
            {"threshold": torch.ones(8)},
            "{weights}: expected the tensors W_dec, W_enc, b_dec, b_enc of architecture standard;"
            " found W_dec, W_enc, b_dec, b_enc, threshold."
            " Its cfg.json names another architecture, or the file is not whole.",
        ),
        (
            {"b_enc": torch.full((8,), torch.nan)},
            "{weights}: expected finite numbers in b_enc; found NaN or infinity. Copy or download it again.",
        ),
    ],
)
def test_damaged_weights_are_refused(changed: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    folder = write_sae(tmp_path, STANDARD, **tensors(**changed))
    with pytest.raises(BadStore) as error:
        load_sae(SaeConfig(path=folder), CPU)
    assert str(error.value) == message.format(weights=folder / "sae_weights.safetensors")


def test_a_truncated_weight_file_is_refused(tmp_path: Path) -> None:
    folder = write_sae(tmp_path, STANDARD, **tensors())
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BadStore, match="expected a safetensors file"):
        load_sae(SaeConfig(path=folder), CPU)


def test_a_fine_tuned_scaling_factor_is_refused_unless_it_is_one(tmp_path: Path) -> None:
    folder = write_sae(tmp_path, STANDARD, **tensors(scaling_factor=torch.ones(8)))
    assert load_sae(SaeConfig(path=folder), CPU).n_features == 8
    write_sae(tmp_path, STANDARD, **tensors(scaling_factor=torch.full((8,), 2.0)))
    with pytest.raises(BadInput, match="has a fine-tuned scaling_factor, which is not implemented"):
        load_sae(SaeConfig(path=folder), CPU)


def test_a_folder_without_cfg_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        read_header(SaeConfig(path=tmp_path))
    assert str(error.value) == f"sae: {tmp_path} is not a SAELens directory: it has no cfg.json"


def test_weights_in_half_precision_are_computed_in_single() -> None:
    on_disk = load_file(EXAMPLE / "sae" / "sae_weights.safetensors")
    assert on_disk["W_enc"].dtype == torch.float16
    sae = load_sae(SaeConfig(path=EXAMPLE / "sae"), CPU)
    assert torch.equal(sae.W_enc, on_disk["W_enc"].float())
    assert sae.encode(torch.zeros(1, 256, dtype=torch.float16)).dtype == torch.float32
