"""SAEDashboard's two outputs, as sae-dashboard 0.8.0 wrote them (tests/fixtures/dashboard/make.py)."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.importers.convert_source import open_source
from pipeline.importers.source import SourceSection
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.base import Store
from tests.pipeline.json_sources import FIXTURES, held, load, notes, texts

RUNNER, VIS = FIXTURES / "dashboard" / "runner", FIXTURES / "dashboard" / "vis.json"
Example = tuple[int, tuple[str, ...], tuple[float, ...]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return load("sae-dashboard", RUNNER, tmp_path_factory.mktemp("runner") / "store")


def features(folder: Path = RUNNER) -> list[dict[str, Any]]:
    batches = [json.loads((folder / f"batch-{n}.json").read_text()) for n in (0, 1)]
    return [one for batch in batches for one in batch["features"]]


def examples_in(store: Store) -> set[Example]:
    """The examples with an activation, as a dashboard shows them."""
    tokens = texts(store)
    found = set()
    for (feature, sample), at in held(store).items():
        spread = tuple(round(at.get(i, 0.0), 3) for i in range(len(tokens[sample])))
        found.add((feature, tuple(tokens[sample]), spread))
    return found


def table(store: Store) -> dict[int, dict[str, Any]]:
    assert store.validation is not None
    rows = store.validation.table("published_features").collect().to_dicts()
    return {row["feature_id"]: row for row in rows}


def open_path(path: Path, **options: Any) -> Any:
    return open_source(SourceSection(format="sae-dashboard", path=path, name="d", **options))


def copied(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The runner's folder with its second batch changed."""
    copy = Path(shutil.copytree(RUNNER, folder / "runner"))
    content = json.loads((copy / "batch-1.json").read_text())
    change(content)
    (copy / "batch-1.json").write_text(json.dumps(content))
    return copy


def test_the_runners_examples_are_there_once_each(store: Store) -> None:
    expected = {
        (one["feature_index"], tuple(example["tokens"]), tuple(float(v) for v in example["values"]))
        for one in features()
        for example in one["activations"]
        if any(example["values"])
    }
    assert examples_in(store) == expected
    manifest = store.manifest
    # the last feature of all is among the skipped ones
    assert (manifest.coverage, manifest.kind, manifest.n_features) == ("sampled", "sequence", 2048)
    everything = [example for one in features() for example in one["activations"]]
    n_top = sum(example["bin_min"] == -1 for example in everything)
    assert notes(store)[0] == (
        f"{len(everything)} examples of {manifest.n_samples} texts: {len(everything) - n_top} interval, {n_top} top"
    )


def test_the_runners_figures_are_kept_with_the_maximum_of_its_top_group(store: Store) -> None:
    found = table(store)
    assert sorted(found) == [0, 3, 9, 14, 200, 201]
    for one in features():
        row = found[one["feature_index"]]
        top = {example["bin_max"] for example in one["activations"] if example["bin_min"] == -1}
        assert [row["max_act_approx"]] == list(top)
        assert row["frac_nonzero"] == one["frac_nonzero"]
        assert [pair["token"] for pair in row["promoted"]] == one["pos_str"]
        assert [pair["value"] for pair in row["suppressed"]] == one["neg_values"]
        assert row["histogram_heights"] == one["freq_hist_data_bar_heights"]
        assert (row["n_prompts_total"], row["n_tokens_in_prompt"], row["similar"]) == (96, 24, None)
    assert found[0]["sae_id"] == "pycode--2--pycode"
    assert found[0]["data_source"] == "sae-dashboard:pycode/2/pycode"


def test_a_saved_vis_has_ids_until_a_vocabulary_names_them(tmp_path: Path) -> None:
    content = json.loads(VIS.read_text())["feature_data_dict"]
    expected = {
        (
            int(feature),
            tuple(str(i) for i in one["token_ids"]),
            tuple(round(v, 3) for v in one["feat_acts"]),
        )
        for feature, data in content.items()
        for group in data["sequence_data"]["seq_group_data"]
        for one in group["seq_data"]
        if any(one["feat_acts"])
    }
    bare = load("sae-dashboard", VIS, tmp_path / "bare", hookpoint="pycode/2")
    assert examples_in(bare) == expected
    assert any("tokens are their ids" in note for note in notes(bare))
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(json.dumps({f"word{i}": i for i in range(4096)}))
    named = load("sae-dashboard", VIS, tmp_path / "named", vocab=vocabulary)
    assert texts(named) == [[f"word{token}" for token in tokens] for tokens in texts(bare)]
    statistics = json.loads(VIS.read_text())["feature_stats"]
    figures = table(named)
    assert [figures[f]["max_act_approx"] for f in (0, 9, 14)] == statistics["max"]
    title = content["9"]["acts_histogram_data"]["title"]
    assert title == "ACTIVATIONS<br>DENSITY = 0.521%"
    assert figures[9]["frac_nonzero"] == pytest.approx(0.00521)
    assert (
        figures[9]["promoted"][0]["token"] == f"word{content['9']['logits_table_data']['top_token_ids'][0]}"
    )
    assert table(bare)[0]["sae_id"] == "pycode--2"
    vocabulary.write_text('{"a": 0}')
    with pytest.raises(BadInput, match="is not in the vocabulary given"):
        open_path(VIS, vocab=vocabulary)


def test_a_maximum_that_could_not_be_parsed_is_not_known(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for example in content["features"][0]["activations"]:
            if example["bin_min"] == -1:
                example["bin_max"] = 99
        content["features"][0]["frac_nonzero"] = 0

    store = load("sae-dashboard", copied(tmp_path, change), tmp_path / "store")
    assert (table(store)[200]["max_act_approx"], table(store)[200]["frac_nonzero"]) == (None, None)
    assert table(store)[201]["frac_nonzero"] > 0
    assert "the density is 0 of 1 features that have activations: taken for not known" in notes(store)


WRONG: list[tuple[Callable[[dict[str, Any]], Any], str, str]] = [
    (
        lambda c: c.update(sae_set="other"),
        "of another SAE",
        "it is of pycode/2/other, other batches are of pycode/2/py",
    ),
    (lambda c: c.pop("features"), "no features", "it has no list of features"),
    (lambda c: c["features"][0].pop("feature_index"), "the feature's index is no index", "index is missing"),
    (lambda c: c["features"][0].update(activations=3), "no activations", "it has no list of activations"),
    (lambda c: c["features"][0].update(feature_index=3), "feature twice", "feature 3 is there twice"),
    (
        lambda c: c["features"][0]["activations"][0]["values"].pop(),
        "tokens and values",
        "feature 200, activation 0: 23 tokens and 22 values",
    ),
    (
        lambda c: c["features"][0]["activations"][0]["values"].__setitem__(0, -1.0),
        "negative activation",
        "activation -1 is negative",
    ),
]


@pytest.mark.parametrize(("change", "kind", "message"), WRONG)
def test_a_bad_batch_feature_or_example_is_told_or_counted(
    change: Callable[[dict[str, Any]], Any], kind: str, message: str, tmp_path: Path
) -> None:
    folder = copied(tmp_path, change)
    with pytest.raises(BadInput, match=rf"batch-1\.json.*{message}.*--bad-files skip"):
        open_path(folder)
    assert open_path(folder, bad_files="skip").notes[-1] == f"left out, {kind}: 1"


def test_what_is_no_dashboard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is neither a folder of SAEDashboard's Neuronpedia runner"):
        open_path(tmp_path)
    (tmp_path / "vis.json").write_text('{"a": 1}')
    with pytest.raises(BadInput, match=r"is no file of SaeVisData\.save_json: it has no feature_data_dict"):
        open_path(tmp_path / "vis.json")
    (tmp_path / "vis.json").write_text('{"a": ')
    with pytest.raises(BadInput, match=r"vis\.json is no JSON"):
        open_path(tmp_path / "vis.json")
    with pytest.raises(BadInput, match="the runner's folder holds tokens as strings; leave --tokenizer out"):
        open_path(RUNNER, tokenizer="gpt2")
    folder = Path(shutil.copytree(RUNNER, tmp_path / "cut"))
    (folder / "batch-0.json").write_text((RUNNER / "batch-0.json").read_text()[:5000])
    with pytest.raises(BadInput, match=r"batch-0\.json is no JSON"):
        open_path(folder)
    assert open_path(folder, bad_files="skip").notes[-1] == "left out, file that is no JSON: 1"
