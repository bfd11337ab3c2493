import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import Execution
from pipeline.outputs import folded_unembedding, position_scale, probe_final_norm
from pipeline.source_config import ModelConfig
from pipeline.sources.model import LanguageModel, load_model
from saeinterp_mcp.errors import BadInput
from tests.pipeline.conftest import EXAMPLE

CPU = Execution(device="cpu")


def tokens(n_vocabulary: int = 4096) -> Tensor:
    return torch.randint(1, n_vocabulary, (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def hugging_face() -> LanguageModel:
    return load_model(ModelConfig(path=EXAMPLE / "model"), CPU)


@pytest.fixture(scope="module")
def bridge() -> LanguageModel:
    return load_model(ModelConfig(path=EXAMPLE / "model", backend="transformer_lens"), CPU)


def llama() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=97, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False, pad_token_id=None, bos_token_id=0, eos_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip


def gpt_neox() -> Any:
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        vocab_size=97, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=0, eos_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip


def gemma() -> Any:
    from transformers import GemmaConfig

    return GemmaConfig(
        vocab_size=97, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, pad_token_id=None, bos_token_id=0, eos_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip


@pytest.mark.parametrize(
    "hook", ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre", "blocks.2.hook_resid_post"]
)
def test_both_backends_capture_the_same_residual_stream(
    hugging_face: LanguageModel, bridge: LanguageModel, hook: str
) -> None:
    ours, theirs = hugging_face.capture(tokens(), hook), bridge.capture(tokens(), hook)
    assert ours.shape == (3, 20, 256)
    assert torch.allclose(ours, theirs, atol=5e-5)


def test_both_backends_give_the_same_logits_after_the_same_edits(
    hugging_face: LanguageModel, bridge: LanguageModel
) -> None:
    edits = {"blocks.1.hook_resid_pre": lambda x: x + 1, "blocks.2.hook_resid_post": lambda x: x * 0.5}
    ours, theirs = hugging_face.run_with_edits(tokens(), edits), bridge.run_with_edits(tokens(), edits)
    assert ours.shape == (3, 20, 4096)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert (ours - hugging_face.run_with_edits(tokens(), {})).abs().max() > 1


def test_backends_agree_on_sizes_and_on_what_follows_the_last_block(
    hugging_face: LanguageModel, bridge: LanguageModel
) -> None:
    for model in (hugging_face, bridge):
        assert (model.n_layers, model.d_model, model.n_outputs, model.max_length) == (4, 256, 4096, 256)
    assert torch.allclose(folded_unembedding(hugging_face), folded_unembedding(bridge), atol=1e-5)


def test_an_edit_of_the_residual_stream_leaves_no_hook_behind(hugging_face: LanguageModel) -> None:
    clean = hugging_face.run_with_edits(tokens(), {})

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("an edit that fails")

    with pytest.raises(RuntimeError):
        hugging_face.run_with_edits(tokens(), {"blocks.1.hook_resid_post": fail})
    assert torch.equal(hugging_face.run_with_edits(tokens(), {}), clean)


def test_names_of_transformers_blocks_are_hooks_too(hugging_face: LanguageModel) -> None:
    by_block = hugging_face.capture(tokens(), "transformer.h.2")
    assert torch.equal(by_block, hugging_face.capture(tokens(), "blocks.2.hook_resid_post"))


def test_padding_at_the_end_does_not_change_what_comes_before(hugging_face: LanguageModel) -> None:
    padded = torch.cat([tokens(), torch.zeros(3, 5, dtype=torch.int64)], dim=1)
    found = hugging_face.capture(padded, "blocks.2.hook_resid_post")[:, :20]
    assert torch.allclose(found, hugging_face.capture(tokens(), "blocks.2.hook_resid_post"), atol=5e-5)


@pytest.mark.parametrize("family", [llama, gpt_neox, gemma])
def test_other_model_families_are_read_at_the_same_places(
    family: Callable[[], Any], tiny_model: Callable[[Any], Path]
) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_model(family())
    model = load_model(ModelConfig(path=folder), CPU)
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        output = reference(tokens(97), output_hidden_states=True)
    assert torch.allclose(
        model.capture(tokens(97), "blocks.1.hook_resid_pre"), output.hidden_states[1], atol=1e-4
    )
    assert torch.allclose(
        model.capture(tokens(97), "blocks.0.hook_resid_post"), output.hidden_states[1], atol=1e-4
    )
    assert torch.allclose(model.run_with_edits(tokens(97), {}), output.logits, atol=1e-4)


@pytest.mark.parametrize(("family", "centres"), [(llama, False), (gpt_neox, True), (gemma, False)])
def test_the_folded_unembedding_gives_the_logits_up_to_the_positions_scale(
    family: Callable[[], Any], centres: bool, tiny_model: Callable[[Any], Path]
) -> None:
    model = load_model(ModelConfig(path=tiny_model(family())), CPU)
    assert probe_final_norm(model)[1] is centres
    last = model.capture(tokens(97), "blocks.1.hook_resid_post").flatten(0, 1)
    logits = model.run_with_edits(tokens(97), {}).flatten(0, 1)
    predicted = last / position_scale(model, last) @ folded_unembedding(model)
    bias = (logits - predicted).mean(
        dim=0
    )  # of a LayerNorm, through the unembedding; the same at every position
    assert torch.allclose(logits, predicted + bias, rtol=1e-3, atol=1e-3)
    if not centres:
        assert bias.abs().max() < 1e-3


def test_an_unknown_hook_is_refused_with_the_nearest(hugging_face: LanguageModel) -> None:
    with pytest.raises(BadInput) as error:
        hugging_face.capture(tokens(), "blocks.4.hook_resid_post")
    assert str(error.value) == (
        "the model has no hook 'blocks.4.hook_resid_post'; nearest: 'blocks.3.hook_resid_post',"
        " 'blocks.2.hook_resid_post', 'blocks.1.hook_resid_post'"
    )


def test_a_bridge_without_transformer_lens_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge", None)
    with pytest.raises(BadInput) as error:
        load_model(ModelConfig(path=EXAMPLE / "model", backend="transformer_lens"), CPU)
    assert str(error.value) == (
        "model.backend transformer_lens needs the package transformer-lens:"
        " pip install 'saeinterp-mcp[train]'"
    )


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        load_model(ModelConfig(path=tmp_path), CPU)
    assert (
        str(error.value) == f"model: {tmp_path} is not a Hugging Face model directory: it has no config.json"
    )
