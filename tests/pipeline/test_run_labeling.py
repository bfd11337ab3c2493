"""`run_labeling` from a model, a SAE and text: every number is compared with the model and the SAE run by hand."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from pipeline.run_labeling import run_labeling
from saeinterp_mcp.errors import BadInput, UnknownName
from tests.conftest import ROOT
from tests.pipeline.conftest import EXAMPLE
from tests.pipeline.recorded import Recorder

HOOK = "blocks.2.hook_resid_post"
"""The output of the third block: `hidden_states[3]` in transformers."""
SHOWN = 12


@dataclass(frozen=True)
class Ran:
    """A finished run, and what is known of it from elsewhere."""

    given: dict[str, Any]
    samples: list[list[int]]
    """Token ids of every sample, cut by hand."""
    activations: list[NDArray[np.float32]]
    """(length, features) of every sample, from the model and the SAE by hand."""
    counted_from: int
    """First position that is counted."""

    def again(self, features: Any, out: Path | None = None, **changed: Any) -> list[dict[str, Any]]:
        """Records of other features out of the store that is there, or of a changed run."""
        arguments = {**self.given, "split": "all", "max_examples_per_feature": SHOWN, **changed}
        if out is not None:
            arguments["output_dir"] = out
        path = run_labeling(features, progress=Recorder(), **arguments)["examples_path"]
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n")[:-1]]

    def expected(self, feature: int) -> list[tuple[float, int, int]]:
        """(activation, sample, position) of every firing, strongest first."""
        found = [
            (float(values[position, feature]), sample, position)
            for sample, values in enumerate(self.activations)
            for position in np.flatnonzero(values[:, feature] > 0).tolist()
            if position >= self.counted_from
        ]
        return sorted(found, key=lambda one: (-one[0], one[1], one[2]))


def weights() -> dict[str, NDArray[np.float32]]:
    from safetensors.numpy import load_file

    return {
        name: np.asarray(array)
        for name, array in load_file(EXAMPLE / "sae" / "sae_weights.safetensors").items()
    }


def residuals(samples: list[list[int]]) -> list[NDArray[np.float32]]:
    """(length, 256) at the hook, one sample at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(EXAMPLE / "model").eval()
    with torch.no_grad():
        return [
            model(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0].numpy()
            for ids in samples
        ]


def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(EXAMPLE / "model")


def documents(n: int) -> list[list[int]]:
    ids: list[list[int]] = pl.read_parquet(EXAMPLE / "documents.parquet").head(n)["token_ids"].to_list()
    return ids


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The SAELens directory, on a column `tokens` whose rows are longer than the SAE's context."""
    folder = tmp_path_factory.mktemp("packed")
    rows = documents(16)
    long = [rows[0] + rows[1] + rows[2], *rows[3:], rows[5]]
    pl.DataFrame({"tokens": [*long, rows[0]]}).write_parquet(folder / "text.parquet")
    given: dict[str, Any] = {
        "model_path": EXAMPLE / "model",
        "sae_path": EXAMPLE / "sae",
        "dataset_path": str(folder / "text.parquet"),
        "sae_id": HOOK,
        "output_dir": folder / "results",
        "n_samples": len(long),  # the last row is not read
        "column_name": "tokens",
        "device": "cpu",
        "label_model_path": "none",
    }
    run_labeling([0], progress=Recorder(), **given)
    samples = [[0, *row[start : start + 255]] for row in long for start in range(0, len(row), 255)]
    w = weights()
    activations = []
    for x in residuals(samples):
        pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        activations.append(np.where(pre > w["threshold"], np.maximum(pre, 0), 0).astype(np.float32))
    return Ran(given, samples, activations, counted_from=1)


@pytest.fixture(scope="module")
def sparsify_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as sparsify saves a TopK SAE."""
    import torch
    from safetensors.torch import save_file

    folder, w = tmp_path_factory.mktemp("sparsify"), weights()
    (folder / "layers.2").mkdir()
    named = {
        "encoder.weight": w["W_enc"].T,
        "encoder.bias": w["b_enc"],
        "W_dec": w["W_dec"],
        "b_dec": w["b_dec"],
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in named.items()}
    save_file(tensors, folder / "layers.2" / "sae.safetensors")
    cfg = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 2048, "k": 32,
           "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": 256}  # fmt: skip
    (folder / "layers.2" / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"ctx_len": 128, "sae": cfg}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def sparsified(sparsify_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The sparsify folder, on a column of text that is not called `text`, with rows that come twice."""
    folder, cut = tmp_path_factory.mktemp("sparsified"), tokenizer()
    texts = [cut.decode(ids) for ids in documents(14)]
    texts += texts[4:8]
    lines = [json.dumps({"body": text, "text": "another column"}) for text in texts]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    given: dict[str, Any] = {
        "model_path": str(EXAMPLE / "model"),
        "sae_path": str(sparsify_folder),
        "dataset_path": folder / "text.jsonl",
        "sae_id": HOOK,
        "output_dir": folder / "results",
        "column_name": "body",
        "device": "cpu",
        "label_model_path": "none",
    }
    run_labeling([0], progress=Recorder(), **given)
    ids = [cut(text, add_special_tokens=False)["input_ids"] for text in texts]
    samples = [row[start : start + 128] for row in ids for start in range(0, len(row), 128)]
    w = weights()
    activations = []
    for x in residuals(samples):
        pre = np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
        least = np.sort(pre, axis=1)[:, -32][:, None]
        activations.append(np.where(pre >= least, pre, 0).astype(np.float32))
    return Ran(given, samples, activations, counted_from=0)


@pytest.fixture(params=["packed", "sparsified"])
def ran(request: pytest.FixtureRequest) -> Ran:
    found: Ran = request.getfixturevalue(request.param)
    return found


def busy_features(ran: Ran, n: int) -> list[int]:
    """Features that fire, spread over all of them."""
    counts = sum((values[ran.counted_from :] > 0).sum(axis=0) for values in ran.activations)
    return [int(feature) for feature in np.flatnonzero(np.asarray(counts) > 0)[:: 2048 // n]]


def test_weakness_1_each_example_is_the_true_top_activation_at_its_own_token(ran: Ran) -> None:
    features, strings = busy_features(ran, 40), tokenizer()
    for record in ran.again(features):
        expected = ran.expected(record["feature_id"])
        assert record["n_firing"] == pytest.approx(len(expected), abs=1)  # one may lie at the threshold
        shown = [example["activation"] for example in record["examples"]]
        assert shown == sorted(shown, reverse=True)
        assert shown[0] == pytest.approx(expected[0][0], rel=1e-3)
        assert record["max_activation"] == shown[0]
        for example in record["examples"]:
            sample, position = example["sequence_index"], example["token_position"]
            direct = ran.activations[sample][position, record["feature_id"]]
            assert example["activation"] == pytest.approx(direct, rel=1e-3, abs=1e-3)
            around = ran.samples[sample][max(ran.counted_from, position - 10) : position + 11]
            assert example["text"] == strings.decode(around)
            assert example["token"] == strings.decode([ran.samples[sample][position]])


def test_weakness_2_and_4_nothing_stronger_is_left_out_but_copies(ran: Ran) -> None:
    for record in ran.again(busy_features(ran, 40)):
        shown, least = record["examples"], record["examples"][-1]["activation"]
        places = {(example["sequence_index"], example["token_position"]) for example in shown}
        assert len(places) == len({example["marked"] for example in shown}) == len(shown)
        texts = {window(ran, sample, position) for sample, position in places}
        for activation, sample, position in ran.expected(record["feature_id"]):
            if activation > least * 1.001 or len(shown) < SHOWN:
                assert (
                    (sample, position) in places
                    or window(ran, sample, position) in texts
                    or activation < 0.05
                )


def window(ran: Ran, sample: int, position: int) -> tuple[int, tuple[int, ...]]:
    """What is shown of a place: two that look alike are copies."""
    start = max(ran.counted_from, position - 10)
    return position - start, tuple(ran.samples[sample][start : position + 11])


def test_weakness_3_the_first_and_the_last_position_have_examples(ran: Ran) -> None:
    first, last = set(), set()
    for feature in range(2048):
        top = ran.expected(feature)[:2]
        # clearly the strongest, so that rounding does not decide
        if len(top) == 2 and top[0][0] > 1.01 * top[1][0]:
            _, sample, position = top[0]
            if position == ran.counted_from:
                first.add(feature)
            if position == len(ran.samples[sample]) - 1:
                last.add(feature)
    assert first
    assert last
    for feature in (min(first), min(last)):
        [record] = ran.again([feature])
        _, sample, position = ran.expected(feature)[0]
        best = record["examples"][0]
        assert (best["sequence_index"], best["token_position"]) == (sample, position)


def test_weakness_5_a_sparsify_sae_keeps_its_k_its_bias_and_its_context(sparsified: Ran) -> None:
    labels = json.loads((sparsified.given["output_dir"] / "feature_labels.json").read_text(encoding="utf-8"))
    made = labels["provenance"]
    assert (made["sae"]["architecture"], made["sae"]["k"], made["sae"]["apply_b_dec_to_input"]) == (
        "topk",
        32,
        True,
    )
    assert (made["dataset"]["context_size"], made["dataset"]["prepend_bos"]) == (128, False)
    assert made["dataset"]["hook_name"] == HOOK
    checks = {check["name"]: check for check in made["checks"]}
    assert checks["l0"]["value"] == 32.0
    assert checks["l0"]["passed"]
    assert "prepend_bos false: as the model's tokenizer begins a text" in made["notes"][0]


def test_weakness_5_a_saelens_sae_is_read_with_the_context_and_bos_of_its_training(packed: Ran) -> None:
    from saeinterp_mcp.store.open import open_store

    store = open_store(packed.given["output_dir"] / "store")
    order = np.argsort(store.source[:])
    found = [store.tokens_of_sample(int(place)).tolist() for place in order]
    strings = tokenizer().convert_ids_to_tokens([0])[0]
    bos = store.token_ids[strings]
    assert all(sample[0] == bos for sample in found)
    assert [len(sample) for sample in found] == [len(sample) for sample in packed.samples]
    assert max(map(len, found)) == 256
    assert store.manifest.excluded_positions == (0,)


def test_weakness_10_a_second_run_runs_no_model_and_another_choice_of_features_uses_the_store(
    ran: Ran,
) -> None:
    said = Recorder()
    run_labeling("1,2,3", progress=said, **ran.given)
    stages = [line for line in said.lines if ": " in line and not line.startswith("label")]
    assert len(stages) >= 12
    assert all(": skipped, fingerprint" in line for line in stages), stages


def test_weakness_10_what_made_the_files_is_written_into_them(packed: Ran) -> None:
    packed.again([5], split="explain")
    text = (packed.given["output_dir"] / "feature_labels.json").read_text(encoding="utf-8")
    made = json.loads(text)["provenance"]
    assert made["store"]["fingerprint"]
    assert (made["made_here"], made["rows_read_at_most"]) == (True, 15)
    assert made["dataset"]["n_documents"] == 15
    assert set(made["model"]["files"]) >= {"model/config.json", "model/model.safetensors"}
    assert str(ROOT) not in text
    assert str(packed.given["output_dir"]) not in text


def test_other_text_into_the_same_folder_is_refused_before_anything_is_built(packed: Ran) -> None:
    said = Recorder()
    out = packed.given["output_dir"]
    with pytest.raises(BadInput) as error:
        run_labeling([1], progress=said, **{**packed.given, "n_samples": 5})
    assert str(error.value) == (
        f"{out} holds the store of another run (tokenize was {{'max_documents': 15}}, is {{'max_documents': 5}}). "
        f"Name another output_dir, or give store='{out}/store' to ask that one."
    )
    assert said.lines == []
    # how many contexts go through the model at once changes no store that is there
    assert packed.again([1], minibatch_size_tokens=3, minibatch_size_features=9)


KILLED = """
import sys
from pipeline.progress import LogReporter
from pipeline.run_labeling import run_labeling
given = dict(zip(("model_path", "sae_path", "dataset_path", "output_dir"), sys.argv[1:]))
run_labeling([5], n_samples=5, column_name="tokens", device="cpu", label_model_path="none",
             progress=LogReporter(interval_seconds=0), **given)
"""


def test_weakness_10_a_run_that_is_killed_goes_on(packed: Ran, tmp_path: Path) -> None:
    given = [str(packed.given[name]) for name in ("model_path", "sae_path", "dataset_path")]
    command = [sys.executable, "-c", KILLED, *given, str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith("measure_outputs: starts"):
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    said = Recorder()
    arguments = {**packed.given, "n_samples": 5, "output_dir": tmp_path / "out"}
    run_labeling([5], progress=said, **arguments)
    for stage in ("tokenize_dataset", "check_load", "collect_activations"):
        assert said.first(stage).startswith(f"{stage}: skipped")
    assert said.first("measure_outputs").startswith("measure_outputs: runs")
    assert (tmp_path / "out" / "feature_labels.json").is_file()


def test_a_feature_beyond_the_sae_is_refused_before_anything_is_built(packed: Ran, tmp_path: Path) -> None:
    said = Recorder()
    with pytest.raises(UnknownName) as error:
        run_labeling("7,2048", progress=said, **{**packed.given, "output_dir": tmp_path})
    assert str(error.value) == "the SAE has features 0 to 2047, not 2048; 1 of the 2 asked for are beyond it"
    assert said.lines == []
    assert list(tmp_path.iterdir()) == []


def test_a_feature_that_is_dead_in_the_model_has_a_reason(packed: Ran) -> None:
    counts = sum((values > 0).sum(axis=0) for values in packed.activations)
    [record] = packed.again([int(np.flatnonzero(np.asarray(counts) == 0)[0])])
    assert record["examples"] == []
    assert "never fires" in record["reason"]


def test_a_load_check_that_fails_names_the_argument_that_allows_it(
    sparsify_folder: Path, packed: Ran, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    (tmp_path / "sae" / "layers.2").mkdir(parents=True)
    tensors = load_file(sparsify_folder / "layers.2" / "sae.safetensors")
    tensors["W_dec"] = tensors["W_dec"][torch.randperm(2048, generator=torch.Generator().manual_seed(0))]
    save_file(tensors, tmp_path / "sae" / "layers.2" / "sae.safetensors")
    cfg = (sparsify_folder / "layers.2" / "cfg.json").read_text(encoding="utf-8")
    (tmp_path / "sae" / "layers.2" / "cfg.json").write_text(cfg, encoding="utf-8")
    changed: dict[str, Any] = {"sae_path": tmp_path / "sae", "output_dir": tmp_path / "out", "n_samples": 6}
    with pytest.raises(BadInput) as error:
        run_labeling([1], progress=Recorder(), **{**packed.given, **changed})
    assert "explained_variance: -" in str(error.value)
    assert str(error.value).endswith("To build all the same: allow_checks.")
