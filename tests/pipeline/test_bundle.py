import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from pipeline.config import Execution
from pipeline.outputs import position_scale
from pipeline.source_config import ModelConfig, SaeConfig
from pipeline.sources.model import load_model
from pipeline.sources.saelens_format import load_sae
from pipeline.tokenisation import TokenisedSamples
from saeinterp_mcp.errors import BadInput
from tests.pipeline.conftest import EXAMPLE, N_DOCUMENTS, SmallRun


@pytest.fixture(scope="module")
def bundle(built: dict[str, Path]) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(
        (built["write_bundle"] / "bundle.yaml").read_text(encoding="utf-8")
    )
    return parsed


def activations(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted((folder / "activations").glob("*.parquet"))])


def test_the_bundle_says_what_it_holds(bundle: dict[str, Any], built: dict[str, Path]) -> None:
    assert (bundle["name"], bundle["kind"], bundle["n_features"]) == ("small", "sequence", 2048)
    assert bundle["groups"] == [{"name": "module", "primary": True}, {"name": "kind"}]
    assert bundle["excluded_positions"] == [0]
    assert bundle["split_seed"] == 0
    [digits] = bundle["families"]
    assert (digits["name"], digits["encoding"], digits["levels"][" 0"]) == ("digits", "exclusive", 1)
    assert [check["name"] for check in bundle["checks"]][-1] == "direct_effect"
    assert bundle["sae"]["metadata"]["hook_name"] == "blocks.2.hook_resid_post"
    assert set(bundle["model"]["files"]) >= {"model/model.safetensors", "model/tokenizer.json"}
    assert list(bundle["dataset"]["files"]) == ["dataset/documents.parquet"]
    assert sorted(path.name for path in built["write_bundle"].iterdir()) == [
        "activations", "artifact.json", "bundle.yaml", "checks.json", "decoder.npy", "output_check.json",
        "output_tokens.json", "positions.parquet", "samples.parquet", "unembedding.npy",
    ]  # fmt: skip


def test_samples_are_the_documents_as_strings(built: dict[str, Path]) -> None:
    samples = pl.read_parquet(built["write_bundle"] / "samples.parquet")
    documents = pl.read_parquet(EXAMPLE / "documents.parquet").head(N_DOCUMENTS)
    assert samples.columns == ["tokens", "unit", "module", "kind"]
    assert samples["unit"].to_list() == documents["unit"].to_list()
    assert samples["module"].to_list() == documents["module"].to_list()
    for tokens, text in zip(samples["tokens"], documents["text"], strict=True):
        assert tokens[0] == "<|endoftext|>"
        joined = "".join(tokens.to_list()[1:])
        assert joined == text or "<0x" in joined


def test_every_activation_is_the_saes_and_none_is_missing(built: dict[str, Path]) -> None:
    found = activations(built["write_bundle"])
    assert dict(found.schema) == {
        "sample": pl.UInt32, "position": pl.UInt16, "feature": pl.UInt32, "value": pl.Float32
    }  # fmt: skip
    assert found.select("sample", "position", "feature").equals(
        found.select("sample", "position", "feature").sort("sample", "position", "feature")
    )
    assert found["position"].min() == 1
    model = load_model(ModelConfig(path=EXAMPLE / "model"), Execution(device="cpu"))
    sae = load_sae(SaeConfig(path=EXAMPLE / "sae"), torch.device("cpu"))
    samples = TokenisedSamples(built["tokenize_dataset"])
    for shard, _ in samples.tables():
        for index in range(shard.n_samples):
            tokens = torch.from_numpy(shard.sample(index))[None]
            with torch.no_grad():
                expected = sae.encode(model.capture(tokens, "blocks.2.hook_resid_post"))[0].numpy()
            expected[0] = 0
            rows = found.filter(pl.col("sample") == shard.first_sample + index)
            stored = np.zeros_like(expected)
            stored[rows["position"], rows["feature"]] = rows["value"]
            differ = (stored > 0) != (expected > 0)
            assert differ.sum() <= 1e-3 * len(rows), "firing may differ only where rounding meets a threshold"
            assert np.allclose(stored[~differ], expected[~differ], atol=1e-3)


def test_shards_and_batches_change_nothing_but_rounding(small_run: SmallRun, built: dict[str, Path]) -> None:
    changed = {"tokenize": {"shard_tokens": 10**6}, "collect": {"batch_tokens": 700}}
    small_run.build(only="tokenize_dataset", **changed)
    found = small_run.build(only="collect_activations", **changed)
    one, other = activations(found["collect_activations"]), activations(built["collect_activations"])
    assert len(list((found["collect_activations"] / "activations").iterdir())) == 1
    both = one.join(other, on=["sample", "position", "feature"], how="inner")
    assert len(both) >= 0.999 * max(len(one), len(other))
    assert np.allclose(both["value"], both["value_right"], atol=1e-3)


def test_a_minimum_leaves_small_activations_out_and_counts_them(
    small_run: SmallRun, built: dict[str, Path]
) -> None:
    shutil.copytree(built["write_bundle"].parent, small_run.folder / "small.work")
    found = small_run.build(collect={"batch_tokens": 2048, "min_activation": 2.0})
    whole = activations(built["collect_activations"])
    kept = activations(found["collect_activations"])
    assert kept.equals(whole.filter(pl.col("value") > 2.0))
    counts = json.loads((found["collect_activations"] / "counts.json").read_text(encoding="utf-8"))
    assert counts["n_below_minimum"] == len(whole) - len(kept)


def test_special_tokens_inside_a_sample_are_left_out_and_counted(small_run: SmallRun) -> None:
    pl.DataFrame({"token_ids": [[5, 6, 0, 7, 8]] * 3}).write_parquet(small_run.folder / "special.parquet")
    dataset = {"format": "parquet", "path": "special.parquet", "token_ids": "token_ids"}
    checks = {"allow": ["l0", "explained_variance", "loss_recovered", "dead_fraction", "direct_effect"]}
    artifacts = small_run.build(dataset=dataset, checks=checks, groups=[], families=[])
    assert activations(artifacts["collect_activations"])["position"].unique().sort().to_list() == [1, 2, 4, 5]
    counts = json.loads((artifacts["collect_activations"] / "counts.json").read_text(encoding="utf-8"))
    assert (counts["n_bos"], counts["n_other_excluded"], counts["n_counted"]) == (3, 3, 12)
    assert not (artifacts["write_bundle"] / "positions.parquet").exists()


def test_positions_hold_the_depth_of_brackets(built: dict[str, Path]) -> None:
    positions = pl.read_parquet(built["write_bundle"] / "positions.parquet")
    samples = pl.read_parquet(built["write_bundle"] / "samples.parquet")
    assert positions.columns == ["sample", "position", "depth"]
    for index, tokens in enumerate(samples["tokens"].head(5)):
        depth, expected = 0, []
        for token in tokens:
            for character in token:
                depth = (
                    depth + 1 if character in "([{" else max(depth - 1, 0) if character in ")]}" else depth
                )
            expected.append(min(depth, 3))
        rows = positions.filter(pl.col("sample") == index)
        found = np.zeros(len(expected), dtype=int)
        found[rows["position"]] = rows["depth"]
        assert found.tolist() == expected


def test_direct_effects_agree_with_ablating_features_in_the_model(built: dict[str, Path]) -> None:
    report = json.loads((built["measure_outputs"] / "output_check.json").read_text(encoding="utf-8"))
    assert len(report["features"]) == 4
    assert report["median"] > 0.7
    assert abs(report["control_median"]) < 0.3
    assert report["check"]["passed"] is True


def test_a_direction_in_the_last_residual_stream_does_what_was_predicted(built: dict[str, Path]) -> None:
    """Nothing but the norm and the unembedding is behind the hook: the direct effect is the whole effect."""
    unembedding = torch.from_numpy(np.load(built["write_bundle"] / "unembedding.npy"))
    decoder = torch.from_numpy(np.load(built["write_bundle"] / "decoder.npy"))
    assert (decoder.shape, unembedding.shape) == ((2048, 256), (256, 4096))
    model = load_model(ModelConfig(path=EXAMPLE / "model"), Execution(device="cpu"))
    tokens, hook = torch.arange(1, 30)[None], "blocks.3.hook_resid_post"
    clean = model.run_with_edits(tokens, {})[0]
    last = model.capture(tokens, hook)[0]
    pushed = model.run_with_edits(tokens, {hook: lambda x: x + decoder[7]})[0]
    # The push changes the scale of the norm a little as well; both scales are known.
    before, after = position_scale(model, last), position_scale(model, last + decoder[7])
    change = pushed * after - clean * before
    bias = (clean - last / before @ unembedding).mean(dim=0)
    assert torch.allclose(change, (decoder[7] @ unembedding) + bias * (after - before), atol=1e-2)
    assert (decoder[7] @ unembedding).abs().max() > 0.3


def test_every_output_has_a_name(built: dict[str, Path]) -> None:
    names = json.loads((built["write_bundle"] / "output_tokens.json").read_text(encoding="utf-8"))
    assert len(names) == 4096
    assert names[0] == "<|endoftext|>"


def test_attributes_of_a_group_travel_with_the_bundle(small_run: SmallRun, built: dict[str, Path]) -> None:
    shutil.copytree(built["write_bundle"].parent, small_run.folder / "small.work")
    pl.DataFrame({"module": ["abc"], "size": ["small"]}).write_parquet(small_run.folder / "modules.parquet")
    groups = [{"name": "module", "primary": True, "attributes": "modules.parquet"}]
    folder = small_run.build(groups=groups)["write_bundle"]
    assert [line.split(",")[0] for line in small_run.said.lines[:4]] == [
        "tokenize_dataset: skipped", "check_load: skipped", "collect_activations: skipped",
        "measure_outputs: skipped",
    ]  # fmt: skip
    text = (folder / "bundle.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["groups"][0]["attributes"] == "module_attributes.parquet"
    assert pl.read_parquet(folder / "module_attributes.parquet")["size"].to_list() == ["small"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [{"name": "author"}],
            "groups: the dataset section reads no group 'author'; there are: 'module', 'kind'",
        ),
        (
            [{"name": "module", "primary": True}, {"name": "kind", "primary": True}],
            "groups: only one group can be primary, these are: module, kind",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(
    groups: list[dict[str, Any]], message: str, small_run: SmallRun, built: dict[str, Path]
) -> None:
    shutil.copytree(built["write_bundle"].parent, small_run.folder / "small.work")
    with pytest.raises(BadInput) as error:
        small_run.build(groups=groups)
    assert str(error.value) == message
