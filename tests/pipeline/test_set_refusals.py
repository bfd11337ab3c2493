"""Runs over sets that do not fit: what the build says, and when."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from safetensors.numpy import save_file

from pipeline.build import build_store
from pipeline.set_config import load_run
from saeinterp_mcp.errors import BadInput
from tests.pipeline.recorded import Recorder
from tests.pipeline.set_world import ADAPTER, SetRun, bundle_of, make_world, sign_sae, write_set_run


@pytest.fixture
def run(tmp_path: Path) -> SetRun:
    """A run of the test's own."""
    return write_set_run(tmp_path, make_world(n_builds=60))


def test_an_sae_of_something_else_is_refused_with_all_that_is_wrong(run: SetRun) -> None:
    cfg = json.loads((run.folder / "sae/cfg.json").read_text(encoding="utf-8"))
    cfg["metadata"] = {"hook_name": "token_ff", "l0": 2.0}
    shutil.rmtree(run.folder / "sae")
    weights = sign_sae(run.folder / "sae")
    save_file(weights | {"W_dec": weights["W_dec"][::-1].copy()}, run.folder / "sae/sae_weights.safetensors")
    (run.folder / "sae/cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    with pytest.raises(BadInput) as error:
        run.build()
    said = str(error.value)
    assert said.startswith(
        "4 of 7 checks failed:\n  hook_exists: token_ff, expected the SAE's hook to be masked_mean"
    )
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:5]] == [
        "hook_exists",
        "l0",
        "explained_variance",
        "loss_recovered",
    ]
    failed = json.loads((run.folder / "tiny.work/check_vectors.partial/checks.json").read_text("utf-8"))
    assert len(failed) == 7


def test_an_sae_of_another_width_is_refused_before_anything_is_encoded(run: SetRun) -> None:
    narrow = (
        ADAPTER.replace("self.d_model = self.tokens.shape[1]", "self.d_model = 5")
        .replace("torch.stack(rows)", "torch.stack(rows)[:, :5]")
        .replace("new_zeros(self.d_model)", "new_zeros(8)")
        .replace("self.out, self.bias, self", "self.out[:5], self.bias, self")
    )
    (run.folder / "adapter.py").write_text(narrow, encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"shapes_agree: 8.0, expected d_in of the SAE equal to d_model 5"
    ) as error:
        run.build()
    assert "l0: nothing, expected 0 to 16 features firing on a sample; not run: shapes do not agree" in str(
        error.value
    )


def test_tokens_that_the_read_out_does_not_know_are_named(run: SetRun) -> None:
    other = ADAPTER.replace(
        "self.out, self.bias, self.token_names",
        "self.out, self.bias, [*self.token_names[:-1], 'Ninja_Squid']",
    )
    (run.folder / "adapter.py").write_text(other, encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"vocabulary_fits: 1.0, .*; not among them: ninja_squid; nearest: 'Ninja_Squid'"
    ):
        run.build()


def test_without_a_read_out_the_store_has_no_outputs_and_the_build_says_so(run: SetRun) -> None:
    bare = ADAPTER[: ADAPTER.index("    def read_out")]
    (run.folder / "adapter.py").write_text(bare, encoding="utf-8")
    bundle = bundle_of(run.build())
    assert "unembedding" not in bundle
    assert bundle["decoder"] == "decoder.npy"
    assert "loss_recovered" not in [check["name"] for check in bundle["checks"]]
    assert "read_out" not in bundle["model"]
    note = "note: the adapter has no read_out, so neither loss recovered nor what features push the outputs to is known"
    assert any(note in line for line in run.said.lines)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"kind": "sett"},
            "run.yaml: kind 'sett' is not known; a run is of kind sequence (the default) or set",
        ),
        (
            {"sae": {}},
            "sae: Value error, give either path (an SAE that is there) or train (how to train one), not both",
        ),
        (
            {"families": [{"name": "depth", "position_family": "brackets_depth"}]},
            "families: Value error, 'depth' is a family of positions, which a set does not have",
        ),
        ({"hok": 1}, "hok: Extra inputs are not permitted"),
        ({"dataset": {"format": "parquet"}}, "dataset.parquet: Value error, path is missing"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(changed: dict[str, Any], message: str, run: SetRun) -> None:
    path = run.folder / "run.yaml"
    path.write_text(yaml.safe_dump(run.sections | changed), encoding="utf-8")
    with pytest.raises(BadInput) as error:
        load_run(path)
    assert message in str(error.value)


def test_a_group_that_the_samples_do_not_have_is_refused_early(run: SetRun) -> None:
    with pytest.raises(
        BadInput, match=r"groups: the dataset section reads no group 'wepon'; nearest: 'weapon'"
    ):
        run.build(groups=[{"name": "wepon", "primary": True}])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sae": {"path": "nothere"}}, "FOLDER/nothere does not exist"),
        (
            {"groups": [{"name": "weapon", "attributes": "no.parquet"}]},
            "groups/weapon: there is no file FOLDER/no.parquet",
        ),
        (
            {"model": {"adapter": "no.py", "files": {}}},
            "model: there is no adapter FOLDER/no.py; docs/own-model.md has one that works",
        ),
    ],
)
def test_a_missing_file_is_named_before_anything_runs(
    changed: dict[str, Any], message: str, run: SetRun
) -> None:
    run.config(**changed)
    said = Recorder()
    with pytest.raises(BadInput) as error:
        build_store(run.folder / "run.yaml", progress=said)
    assert str(error.value) == message.replace("FOLDER", str(run.folder))
    assert said.lines == []


def test_an_empty_dataset_is_refused(run: SetRun) -> None:
    pl.read_parquet(run.folder / "builds.parquet").head(0).write_parquet(run.folder / "builds.parquet")
    with pytest.raises(BadInput, match=r"builds.parquet holds no set"):
        run.build()
