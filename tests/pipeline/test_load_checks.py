import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.checks import CHECKS, Check, enforce
from saeinterp_mcp.errors import BadInput
from tests.pipeline.conftest import EXAMPLE, SmallRun

Damage = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def damaged_sae(folder: Path, damage: Damage | None = None, **cfg_changes: Any) -> str:
    """A copy of the embedded SAE with its weights or its metadata changed."""
    target = folder / "damaged"
    target.mkdir()
    weights = load_file(EXAMPLE / "sae" / "sae_weights.safetensors")
    save_file(damage(weights) if damage else weights, target / "sae_weights.safetensors")
    cfg = json.loads((EXAMPLE / "sae" / "cfg.json").read_text(encoding="utf-8"))
    cfg["metadata"] |= cfg_changes
    (target / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    return str(target)


def failures(run: SmallRun, **sections: Any) -> dict[str, str]:
    """Name to description of each check that stops the build."""
    with pytest.raises(BadInput) as error:
        run.build(**sections)
    first, *lines, last = str(error.value).splitlines()
    assert first == f"{len(lines)} of 9 checks failed:"
    assert last.endswith("To build all the same: checks.allow.")
    return dict(line.strip().split(": ", 1) for line in lines)


def shuffled_decoder(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    order = torch.randperm(len(weights["W_dec"]), generator=torch.Generator().manual_seed(5))
    return weights | {"W_dec": weights["W_dec"][order].contiguous()}


def test_the_embedded_sae_passes_every_check(built: dict[str, Path]) -> None:
    checks = json.loads((built["check_load"] / "checks.json").read_text(encoding="utf-8"))
    assert [check["name"] for check in checks] == list(CHECKS[:-1])
    assert all(check["passed"] for check in checks)
    values = {check["name"]: check["value"] for check in checks}
    assert 20.8 < values["l0"] < 43.2
    assert values["explained_variance"] > 0.8
    assert values["loss_recovered"] > 0.9
    assert values["unembedding"] > 0.9999


def test_a_decoder_in_another_order_explains_nothing(small_run: SmallRun) -> None:
    path = damaged_sae(small_run.folder, shuffled_decoder)
    failed = failures(small_run, sae={"path": path})
    assert failed.keys() == {"explained_variance"} | ({"loss_recovered"} & failed.keys())
    assert "expected at least 0.5, and 0.1 above that of a shuffled decoder" in failed["explained_variance"]


def test_thresholds_of_zero_fire_too_often(small_run: SmallRun) -> None:
    path = damaged_sae(small_run.folder, lambda w: w | {"threshold": torch.zeros_like(w["threshold"])})
    failed = failures(small_run, sae={"path": path})
    assert "l0" in failed
    assert "expected 20.8 to 43.2 features firing at a position" in failed["l0"]


def test_a_transposed_square_decoder_is_found_by_its_reconstruction(small_run: SmallRun) -> None:
    def square(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        first = weights | {name: weights[name][..., :256] for name in ("W_enc", "b_enc", "threshold")}
        return {name: t.contiguous() for name, t in (first | {"W_dec": weights["W_dec"][:256].T}).items()}

    path = Path(damaged_sae(small_run.folder, square, l0=4.0))
    cfg = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
    (path / "cfg.json").write_text(json.dumps(cfg | {"d_sae": 256}), encoding="utf-8")
    assert "explained_variance" in failures(small_run, sae={"path": str(path)})


def test_a_hook_that_is_not_in_the_model_fails_and_the_rest_is_not_run(small_run: SmallRun) -> None:
    failed = failures(
        small_run, sae={"path": damaged_sae(small_run.folder, hook_name="blocks.9.hook_resid_post")}
    )
    assert failed["hook_exists"] == (
        "blocks.9.hook_resid_post, expected one of blocks.0 to blocks.3, hook_resid_pre or hook_resid_post"
    )
    assert failed["l0"].endswith("; not run: an earlier check failed")
    assert failed.keys() == set(CHECKS[:-1]) - {"shapes_agree", "context_fits", "vocabulary_fits"}


def test_the_wrong_layer_does_not_pass(small_run: SmallRun) -> None:
    failed = failures(
        small_run, sae={"path": damaged_sae(small_run.folder, hook_name="blocks.0.hook_resid_post")}
    )
    assert "explained_variance" in failed


def test_an_sae_of_another_width_fails(small_run: SmallRun, tiny_model: Callable[[Any], Path]) -> None:
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=4096, n_positions=256, n_embd=16, n_layer=4, n_head=2, bos_token_id=0, eos_token_id=0
    )
    failed = failures(small_run, model={"path": str(tiny_model(config))})
    assert failed["shapes_agree"] == "256.0, expected d_in of the SAE equal to d_model 16"


def test_an_allowed_failure_is_recorded_and_the_build_goes_on(small_run: SmallRun) -> None:
    path = damaged_sae(small_run.folder, l0=100.0)
    failed = failures(small_run, sae={"path": path})
    assert failed.keys() == {"l0"}
    artifacts = small_run.build(
        only="check_load", sae={"path": path}, checks={"n_tokens": 1500, "allow": ["l0"]}
    )
    checks = json.loads((artifacts["check_load"] / "checks.json").read_text(encoding="utf-8"))
    [l0] = [check for check in checks if not check["passed"]]
    assert (l0["name"], l0["note"]) == ("l0", "failed, allowed by checks.allow")
    assert any(
        "0 dropped" not in line
        for line in small_run.said.lines
        if line.startswith("check_load: 9 in, 8 kept")
    )


def test_allowing_a_check_that_does_not_exist_is_refused() -> None:
    check = Check(name="l0", passed=True, value=1.0, expected="1")
    with pytest.raises(BadInput) as error:
        enforce([check], ["l00"])
    assert str(error.value) == f"checks.allow names l00; the checks are: {', '.join(CHECKS)}"


def test_all_failures_are_listed_in_one_message() -> None:
    checks = [
        Check(name="l0", passed=False, value=300.0, expected="20 to 40"),
        Check(name="unembedding", passed=True, value=1.0, expected="0.99"),
        Check(
            name="explained_variance", passed=False, value=None, expected="above 0", note="not run: no hook"
        ),
    ]
    with pytest.raises(BadInput) as error:
        enforce(checks, [])
    assert str(error.value) == (
        "2 of 3 checks failed:\n"
        "  l0: 300.0, expected 20 to 40\n"
        "  explained_variance: nothing, expected above 0; not run: no hook\n"
        "The SAE may belong to another model, hook or text. To build all the same: checks.allow."
    )
