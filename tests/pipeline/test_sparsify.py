"""SAEs as EleutherAI's sparsify saves them, and which SAE the seed's `sae_path` and `sae_id` mean."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.labeling.given import sae_given
from pipeline.source_config import ModelConfig, SaeConfig
from pipeline.sources.pretrained import commit_of, model_facts
from pipeline.sources.saelens_format import load_sae
from pipeline.sources.sparsify_format import convert_sparsify, find_sparsify
from saeinterp_mcp.errors import BadInput, BadStore
from tests.pipeline.conftest import EXAMPLE

D_IN, N_FEATURES, K = 12, 40, 5
CFG: dict[str, Any] = {
    "activation": "topk",
    "expansion_factor": 32,
    "num_latents": N_FEATURES,
    "k": K,
    "d_in": D_IN,
}
MODEL = ModelConfig(path=EXAMPLE / "model")


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "encoder.weight": (N_FEATURES, D_IN),
        "encoder.bias": (N_FEATURES,),
        "W_dec": (N_FEATURES, D_IN),
        "b_dec": (D_IN,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(folder: Path, cfg: dict[str, Any] | None = None, **changed: Tensor | None) -> Path:
    folder.mkdir(parents=True)
    named = {name: tensor for name, tensor in (tensors() | changed).items() if tensor is not None}
    save_file(named, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(CFG if cfg is None else cfg), encoding="utf-8")
    return folder


def converted(path: Path, out: Path, sae_id: str | None = None) -> SaeConfig:
    layer = find_sparsify(path, sae_id)
    assert layer is not None
    convert_sparsify(layer, out, 64, False)
    return SaeConfig(path=out)


def by_hand(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """`SparseCoder.encode` of sparsify, with its own operations: the k largest of relu(W (x - b_dec) + b)."""
    pre = torch.nn.functional.linear(x - w["b_dec"], w["encoder.weight"], w["encoder.bias"]).relu()
    values, indices = pre.topk(K, sorted=False)
    return torch.zeros_like(pre).scatter_(-1, indices, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weakness_5_activations_and_reconstruction_are_sparsifys_own(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    write(tmp_path / "run" / "layers.2", None, **stored)
    sae = load_sae(converted(tmp_path / "run", tmp_path / "sae"), torch.device("cpu"))
    w = {name: tensor.float() for name, tensor in stored.items()}
    x = torch.randn(60, D_IN, generator=torch.Generator().manual_seed(4))
    expected = by_hand(x, w)
    assert torch.allclose(sae.encode(x), expected, atol=1e-5)
    assert ((expected > 0).sum(dim=-1) <= K).all()
    assert torch.allclose(sae.reconstruct(x), expected @ w["W_dec"] + w["b_dec"], atol=1e-5)
    # what the seed computed in its place: a ReLU on x itself
    seed = torch.nn.functional.linear(x, w["encoder.weight"], w["encoder.bias"]).relu()
    assert not torch.allclose(seed, expected, atol=0.1)


def test_a_number_of_features_that_is_left_out_is_the_expansion_factors(tmp_path: Path) -> None:
    cfg = {name: value for name, value in CFG.items() if name != "num_latents"} | {"expansion_factor": 4}
    wide = {
        "encoder.weight": torch.ones(48, D_IN),
        "encoder.bias": torch.ones(48),
        "W_dec": torch.ones(48, D_IN),
    }
    write(tmp_path / "layers.0", cfg, **wide)
    assert load_sae(converted(tmp_path, tmp_path / "sae"), torch.device("cpu")).n_features == 48


@pytest.mark.parametrize(
    ("sae_id", "hook"),
    [
        (None, "blocks.2.hook_resid_post"),
        ("blocks.2.hook_resid_post", "blocks.2.hook_resid_post"),
        ("layers.2", "blocks.2.hook_resid_post"),
    ],
)
def test_a_layer_is_found_by_its_hook_its_name_or_because_it_is_the_only_one(
    sae_id: str | None, hook: str, tmp_path: Path
) -> None:
    write(tmp_path / "layers.2")
    for path in (tmp_path, tmp_path / "layers.2"):
        layer = find_sparsify(path, sae_id)
        assert layer is not None
        assert (layer.folder, layer.hook_name) == (tmp_path / "layers.2", hook)


def test_the_context_is_that_of_the_run_or_sparsifys_default(tmp_path: Path) -> None:
    write(tmp_path / "layers.2")
    layer = find_sparsify(tmp_path, None)
    assert layer is not None
    assert (layer.context_size, layer.context_stated) == (2048, False)
    (tmp_path / "config.json").write_text('{"ctx_len": 512}', encoding="utf-8")
    layer = find_sparsify(tmp_path, None)
    assert layer is not None
    assert (layer.context_size, layer.context_stated) == (512, True)


def test_what_is_assumed_of_a_sparsify_sae_is_said(tmp_path: Path) -> None:
    write(tmp_path / "run" / "layers.2")
    given = sae_given(str(tmp_path / "run"), "blocks.2.hook_resid_post", MODEL, tmp_path / "sae")
    assert given.notes == (
        "context_size 256: the SAE's files do not say; sparsify's default within the model's length",
        "prepend_bos false: as the model's tokenizer begins a text, which is what sparsify trains on",
    )
    told = sae_given(str(tmp_path / "run"), None, MODEL, tmp_path / "sae", context_size=32, prepend_bos=True)
    assert told.notes == ()
    cfg = json.loads((tmp_path / "sae" / "cfg.json").read_text(encoding="utf-8"))
    assert (cfg["metadata"]["context_size"], cfg["metadata"]["prepend_bos"]) == (32, True)


def test_a_folder_that_was_converted_is_not_written_again_unless_it_changed(tmp_path: Path) -> None:
    write(tmp_path / "layers.2")
    converted(tmp_path, tmp_path / "sae")
    weights = tmp_path / "sae" / "sae_weights.safetensors"
    before = weights.stat().st_mtime_ns, weights.read_bytes()
    converted(tmp_path, tmp_path / "sae")
    assert (weights.stat().st_mtime_ns, weights.read_bytes()) == before
    save_file(tensors() | {"b_dec": torch.zeros(D_IN)}, tmp_path / "layers.2" / "sae.safetensors")
    converted(tmp_path, tmp_path / "sae")
    assert weights.read_bytes() != before[1]


@pytest.mark.parametrize(
    ("sae_id", "message"),
    [
        (
            "blocks.3.hook_resid_post",
            "sae: {path} has no layers.3 (sae_id blocks.3.hook_resid_post); there is layers.1, layers.2",
        ),
        (
            "blocks.2.hook_resid_pre",
            "sae: sae_id is blocks.2.hook_resid_pre, but sparsify's layers.2 reads the output of block 2, which is "
            "blocks.2.hook_resid_post",
        ),
        (None, "sae: {path} holds layers.1, layers.2; give sae_id, such as blocks.N.hook_resid_post"),
        ("nonsense", "sae: {path} has no nonsense (sae_id nonsense); there is layers.1, layers.2"),
    ],
)
def test_a_layer_that_is_not_there_is_refused(sae_id: str | None, message: str, tmp_path: Path) -> None:
    for name in ("layers.1", "layers.2"):
        write(tmp_path / name)
    with pytest.raises(BadInput) as error:
        find_sparsify(tmp_path, sae_id)
    assert str(error.value) == message.format(path=tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"activation": "groupmax"},
            "activation 'groupmax' is not implemented, only plain TopK autoencoders are",
        ),
        ({"transcode": True}, "transcode is not implemented, only plain TopK autoencoders are"),
        (
            {"skip_connection": True, "signed": True},
            "skip_connection, signed is not implemented, only plain TopK autoencoders are",
        ),
        ({"k": None}, "k, the number of features that fire, is missing"),
        ({"k": 0}, "k, the number of features that fire, is missing"),
    ],
)
def test_a_kind_that_is_not_implemented_is_refused(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "layers.2", CFG | changed)
    with pytest.raises(BadInput) as error:
        converted(tmp_path, tmp_path / "sae")
    assert str(error.value) == f"{tmp_path / 'layers.2' / 'cfg.json'}: {message}"
    assert not (tmp_path / "sae").exists()


@pytest.mark.parametrize(
    ("cfg", "changed", "found"),
    [
        (CFG, {"W_dec": None}, "no W_dec among b_dec, encoder.bias, encoder.weight"),
        (CFG | {"num_latents": 41}, {}, r"40 on 12\. The cfg\.json of another SAE"),
        (CFG | {"d_in": 13}, {}, r"40 on 12\. The cfg\.json of another SAE"),
        (CFG, {"encoder.weight": torch.ones(40)}, r"\(40,\)"),
    ],
)
def test_damaged_weights_are_refused(
    cfg: dict[str, Any], changed: dict[str, Any], found: str, tmp_path: Path
) -> None:
    write(tmp_path / "layers.2", cfg, **changed)
    with pytest.raises(BadStore, match=found):
        converted(tmp_path, tmp_path / "sae")


def test_a_folder_with_a_missing_or_foreign_config_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "layers.2")
    (folder / "cfg.json").write_text("[", encoding="utf-8")
    with pytest.raises(BadStore, match="expected JSON"):
        converted(tmp_path, tmp_path / "sae")
    (folder / "cfg.json").unlink()
    with pytest.raises(BadStore, match="no such file"):
        converted(tmp_path, tmp_path / "sae")


def saelens(folder: Path, **metadata: Any) -> Path:
    folder.mkdir(parents=True)
    cfg = {"architecture": "standard", "d_in": 4, "d_sae": 8, "metadata": metadata}
    (folder / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    return folder


def test_a_saelens_directory_says_where_it_reads_and_how_its_text_was_cut(tmp_path: Path) -> None:
    whole = saelens(
        tmp_path / "whole", hook_name="blocks.1.hook_resid_pre", context_size=64, prepend_bos=True
    )
    for sae_id in (None, "blocks.1.hook_resid_pre"):
        given = sae_given(str(whole), sae_id, MODEL, tmp_path / "x")
        assert given.section == {"path": str(whole)}
        assert (given.context_size, given.prepend_bos) == (None, None)
    silent = saelens(tmp_path / "silent")
    given = sae_given(str(silent), "blocks.1.hook_resid_pre", MODEL, tmp_path / "x", 32, False)
    assert given.section == {"path": str(silent), "hook_name": "blocks.1.hook_resid_pre"}
    assert (given.context_size, given.prepend_bos) == (32, False)


def test_a_saelens_release_on_disk_is_one_folder_for_each_hook(tmp_path: Path) -> None:
    folder = saelens(tmp_path / "blocks.1.hook_resid_pre", hook_name="blocks.1.hook_resid_pre", context_size=64,
                     prepend_bos=True)  # fmt: skip
    given = sae_given(str(tmp_path), "blocks.1.hook_resid_pre", MODEL, tmp_path / "x")
    assert given.section == {"path": str(folder)}


@pytest.mark.parametrize(
    ("metadata", "sae_id", "given", "message"),
    [
        (
            {"hook_name": "blocks.1.hook_resid_pre", "context_size": 64, "prepend_bos": True},
            "blocks.2.hook_resid_pre",
            {},
            "sae: sae_id is blocks.2.hook_resid_pre, but the SAE's own files say that it reads "
            "blocks.1.hook_resid_pre; give that, or none",
        ),
        (
            {"context_size": 64, "prepend_bos": True},
            None,
            {},
            "sae: its files do not say where it reads; give sae_id, such as blocks.19.hook_resid_post",
        ),
        (
            {"hook_name": "blocks.1.hook_resid_pre", "prepend_bos": True},
            None,
            {},
            "sae: its files do not say context_size, on which activations depend; give context_size",
        ),
        (
            {"hook_name": "blocks.1.hook_resid_pre", "context_size": 64},
            None,
            {},
            "sae: its files do not say prepend_bos, on which activations depend; give prepend_bos",
        ),
        (
            {"hook_name": "blocks.1.hook_resid_pre", "context_size": 64, "prepend_bos": True},
            None,
            {"prepend_bos": False},
            "sae: prepend_bos is False, but the SAE was trained with True; leave it out",
        ),
    ],
)
def test_weakness_5_context_and_bos_are_neither_guessed_nor_contradicted(
    metadata: dict[str, Any], sae_id: str | None, given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = saelens(tmp_path / "sae", **metadata)
    with pytest.raises(BadInput) as error:
        sae_given(str(folder), sae_id, MODEL, tmp_path / "x", **given)
    assert str(error.value) == message


def test_a_folder_that_is_not_there_is_no_release(tmp_path: Path) -> None:
    for path, sae_id in ((str(tmp_path / "none"), "blocks.1.hook_resid_pre"), ("no/such", None)):
        with pytest.raises(BadInput) as error:
            sae_given(path, sae_id, MODEL, tmp_path / "x")
        assert (
            str(error.value) == f"sae: there is no folder {path}; a release on the hub needs its sae_id too"
        )


def test_a_hub_name_means_the_commit_in_the_cache_where_there_is_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--some--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("c0ffee\n", encoding="utf-8")
    assert commit_of("some/model", "model") == "c0ffee"
    with pytest.raises(
        BadInput, match=r"^dataset 'some/model' is no folder or file here, and the hub does not tell"
    ):
        commit_of("some/model", "dataset")


def test_the_facts_of_a_model_are_read_without_its_weights() -> None:
    facts = model_facts(MODEL)
    assert facts.model_dump() == {"dtype": "float32", "max_length": 256, "adds_bos": False}
    with pytest.raises(BadInput, match=r"^model: .* could not be read"):
        model_facts(ModelConfig(path=EXAMPLE / "sae"))
