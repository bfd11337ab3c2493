import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.config import Execution, RunConfig
from pipeline.runner import run_stages
from pipeline.source_config import ModelConfig, SaeConfig
from pipeline.sources.model import load_model
from pipeline.sources.saelens_format import load_sae
from pipeline.stage import Stage
from pipeline.stages.check_load import CHECK_LOAD
from pipeline.stages.tokenize_dataset import TOKENIZE_DATASET
from pipeline.tokenisation import TokenisedSamples
from pipeline.training.held_out_loss import held_out_vectors
from pipeline.training.report import TrainingReport
from pipeline.training.run import TEXT_STAGES, train_sae
from pipeline.training.text_run import TextTrainingRun
from saeinterp_mcp.errors import BadInput
from tests.conftest import ROOT
from tests.pipeline.conftest import EXAMPLE, N_DOCUMENTS
from tests.pipeline.recorded import Recorder

HOOK = "blocks.2.hook_resid_post"
SHORT = {"tokens": 250 * 128, "batch_size": 128, "expansion_factor": 1, "k": 24, "lr": 3e-3}


def sections(folder: Path) -> dict[str, Any]:
    """A run that trains its SAE on a few documents, and then builds with it."""
    documents = pl.read_parquet(EXAMPLE / "documents.parquet").head(N_DOCUMENTS)
    documents.write_parquet(folder / "documents.parquet")
    dataset = {"format": "parquet", "path": "documents.parquet", "token_ids": "token_ids", "unit": "unit"}
    return {
        "name": "small",
        "model": {"path": str(EXAMPLE / "model"), "name": "pycode"},
        "sae": {"path": "sae", "hook_name": HOOK, "train": SHORT},
        "dataset": dataset,
        "tokenize": {"context_size": 64, "shard_tokens": 700},
        "checks": {"n_tokens": 1500},
    }


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(sections(folder)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def answer(run_file: Path) -> str:
    """What `train-sae run.yaml` prints."""
    done = CliRunner().invoke(app, ["train-sae", str(run_file), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def sae(run_file: Path, answer: str) -> Path:
    return run_file.parent / "sae"


def test_the_command_prints_its_report_and_the_folder(answer: str, sae: Path) -> None:
    lines = {line.split("  ")[0]: line for line in answer.splitlines()}
    assert lines["architecture"].endswith("batchtopk, 256 features of 256 dimensions")
    assert "250 steps, 32,000 vectors" in lines["trained"]
    assert "(k 24)" in lines["L0"]
    assert "nats per next token" in lines["loss recovered"]
    assert answer.splitlines()[-1] == str(sae)
    assert {path.name for path in sae.iterdir()} == {"cfg.json", "sae_weights.safetensors", "report.json"}


def test_the_same_file_builds_with_the_sae_that_it_trained(run_file: Path, sae: Path) -> None:
    run = RunConfig.load(run_file)
    folders = run_stages(
        (TOKENIZE_DATASET, CHECK_LOAD), run, execution=Execution(device="cpu"), progress=Recorder()
    )
    checks = json.loads((folders["check_load"] / "checks.json").read_text())
    assert [check["name"] for check in checks if not check["passed"]] == []
    header = load_sae(SaeConfig(path=sae), torch.device("cpu")).header.metadata
    assert (header.model_name, header.hook_name) == ("pycode", HOOK)
    assert (header.context_size, header.prepend_bos) == (64, True)
    assert header.exclude_special_tokens == (0,)
    assert header.seqpos_slice == (1, None)


def test_vectors_are_those_of_the_hook_at_every_position_but_bos(run_file: Path, sae: Path) -> None:
    work = run_file.parent / "sae.work"
    vectors = np.load(work / "capture_vectors" / "vectors.npy")
    units = np.load(work / "capture_vectors" / "units.npy")
    drawn = np.load(work / "capture_vectors" / "samples.npy")
    samples = TokenisedSamples(work / "tokenize_dataset")
    assert drawn[:, 0].tolist() == list(range(samples.tokenisation.n_samples))
    assert len(vectors) == len(units) == samples.tokenisation.n_tokens
    model = load_model(ModelConfig(path=EXAMPLE / "model"), Execution(device="cpu"))
    for sample in (0, 7, samples.tokenisation.n_samples - 1):
        (ids,) = samples.take(np.array([sample]))
        assert ids[0] == 0
        expected = model.capture(torch.from_numpy(ids)[None], HOOK)[0, 1:].numpy()
        first = drawn[sample, 1]
        np.testing.assert_allclose(vectors[first : first + len(expected)], expected, atol=1e-4)
    names = pq.read_table(work / "tokenize_dataset" / "samples.parquet", columns=["unit"]).column("unit")
    unit_of_sample = units[drawn[:, 1]].tolist()
    assert len(set(unit_of_sample)) == len(set(names.to_pylist()))
    assert len(set(zip(unit_of_sample, names.to_pylist(), strict=True))) == len(set(unit_of_sample))


def test_the_loss_is_measured_on_documents_the_training_did_not_see(run_file: Path, sae: Path) -> None:
    work = run_file.parent / "sae.work"
    run = RunConfig.load(run_file)
    assert run.sae.train is not None
    _, held_out = held_out_vectors(run.sae.train, {"capture_vectors": work / "capture_vectors"})
    units = np.load(work / "capture_vectors" / "units.npy")
    out_units = set(units[held_out])
    assert out_units
    assert not out_units & set(units[~held_out])
    drawn = np.load(work / "capture_vectors" / "samples.npy")
    n_samples = sum(units[first] in out_units for first in drawn[:, 1])
    report = TrainingReport.model_validate_json((sae / "report.json").read_text())
    assert report.loss_recovered is not None
    assert report.loss_recovered.loss == f"nats per next token, {n_samples} held-out samples"
    assert 0.5 < report.loss_recovered.recovered < 1
    assert (
        report.loss_recovered.clean < report.loss_recovered.reconstructed < report.loss_recovered.mean_ablated
    )


def test_a_second_run_does_nothing_and_a_folder_with_other_things_is_left_alone(
    run_file: Path, sae: Path, tmp_path: Path
) -> None:
    run = RunConfig.load(run_file)
    before = (sae / "sae_weights.safetensors").read_bytes()
    said = Recorder()
    train_sae(run, sae, Execution(device="cpu"), progress=said)
    assert all("is done" in said.first(stage.name) for stage in TEXT_STAGES)
    assert (sae / "sae_weights.safetensors").read_bytes() == before
    (sae / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"sae exists and was not made by train-sae; give another --save-dir"):
        train_sae(run, sae, Execution(device="cpu"), progress=said)
    (sae / "notes.txt").unlink()


class Stopped(Exception):
    """In place of a kill."""


class StopsCapture(Recorder):
    """Stops a run when its first shard is captured."""

    def working(self, stage: str) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def context() -> Any:
            def advance(done: int, total: int) -> None:
                if stage == "capture_vectors":
                    raise Stopped

            yield advance

        return context()


def test_a_capture_that_was_stopped_goes_on_and_ends_with_the_same_bytes(
    run_file: Path, sae: Path, tmp_path: Path
) -> None:
    stages: tuple[Stage[Any], ...] = TEXT_STAGES[:2]
    run = TextTrainingRun(RunConfig.load(run_file), 8.0, tmp_path, Execution(device="cpu"))
    with pytest.raises(Stopped):
        run_stages(stages, run, progress=StopsCapture())
    partial = tmp_path / "capture_vectors.partial"
    assert (partial / "shards_done.json").read_text() == "1"
    # what was captured is not captured again: a mark left there would stay
    kept = np.lib.format.open_memmap(partial / "vectors.npy", mode="r+")
    mark = float(kept[0, 0]) + 1
    kept[0, 0] = mark
    kept.flush()
    folders = run_stages(stages, run, progress=Recorder())
    whole = np.load(run_file.parent / "sae.work" / "capture_vectors" / "vectors.npy")
    again = np.load(folders["capture_vectors"] / "vectors.npy")
    assert again[0, 0] == np.float32(mark)
    again[0, 0] = whole[0, 0]
    assert again.tobytes() == whole.tobytes()
    assert not (folders["capture_vectors"] / "shards_done.json").exists()


def test_what_does_not_fit_the_limit_is_a_draw_of_whole_samples(run_file: Path, tmp_path: Path) -> None:
    limit = 1000
    run = TextTrainingRun(RunConfig.load(run_file), limit * 256 * 4 / 1e9, tmp_path, Execution(device="cpu"))
    folders = run_stages(TEXT_STAGES[:2], run, progress=Recorder())
    vectors = np.load(folders["capture_vectors"] / "vectors.npy")
    drawn = np.load(folders["capture_vectors"] / "samples.npy")[:, 0]
    assert limit - 64 <= len(vectors) <= limit
    assert (np.diff(drawn) > 1).any(), "not simply the first ones"


COMMAND = ["train-sae", "--model", str(EXAMPLE / "model"), "--save-dir", "out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train-sae"], "--save-dir is missing: the folder that the SAE goes to"),
        (
            ["train-sae", "--save-dir", "x"],
            "nothing to train on: give a config file; or --model and --dataset",
        ),
        (COMMAND, "--dataset must be given too"),
        (
            [*COMMAND, "--dataset", "d.parquet", "--adapter", "a.py"],
            "--model is of a training on text, --adapter",
        ),
        ([*COMMAND, "--dataset", "d.txt"], "--dataset d.txt: known are .parquet, .jsonl"),
        ([*COMMAND, "--dataset", "d.parquet"], "there is no hook to train on; give --hook-target"),
        ([*COMMAND, "--dataset", "d.parquet", "--k", "4", "--l1-coeff", "1"], "how to train: "),
        (
            [*COMMAND, "--dataset", "d.csv", "--architecture", "gated"],
            "architecture: Input should be 'standard'",
        ),
        (
            [*COMMAND, "--dataset", "d.csv", "--matryoshka-widths", "8;4"],
            "must be numbers with commas between",
        ),
        (
            ["train-sae", "--model", "gpt2", "--dataset", "d.csv", "--save-dir", "x"],
            "a hub name needs --revision",
        ),
        (
            ["train-sae", "--save-dir", "x", "--adapter", "a.py"],
            "--model-checkpoint, --data-csv, --vocab-path must be given too",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as refused:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert message in str(refused.value)


def test_a_hook_that_the_model_does_not_have_is_refused(run_file: Path, tmp_path: Path) -> None:
    content = sections(tmp_path)
    content["sae"]["hook_name"] = "blocks.9.hook_resid_post"
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(BadInput, match=r"the model has no hook 'blocks\.9\.hook_resid_post'; nearest"):
        train_sae(RunConfig.load(path), tmp_path / "sae", Execution(device="cpu"), progress=Recorder())


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(run_file: Path, tmp_path: Path, device: str) -> None:
    with pytest.raises(BadInput, match=rf"device '{device}' cannot be used here \(.+\); give auto, cpu"):
        train_sae(RunConfig.load(run_file), tmp_path / "sae", Execution(device=device), progress=Recorder())


def test_options_go_before_those_of_the_file(run_file: Path) -> None:
    from pipeline.training.options import Sources, training_run

    run, folder = training_run(
        run_file, Sources(hook_target="blocks.1.hook_resid_pre", context_size=32), {"k": 7}, Path("there")
    )
    assert isinstance(run, RunConfig)
    assert run.sae.train is not None
    assert (run.sae.train.k, run.sae.train.batch_size, run.sae.train.expansion_factor) == (7, 128, 1)
    assert (run.sae.hook_name, run.tokenize.context_size, folder) == (
        "blocks.1.hook_resid_pre",
        32,
        Path("there"),
    )
    with pytest.raises(BadInput, match=r"run\.yaml says what to train on; leave out --model"):
        training_run(run_file, Sources(model="gpt2"), {}, None)


def test_another_architecture_on_the_line_leaves_behind_what_the_file_says_for_its_own() -> None:
    from pipeline.training.options import train_section

    of_file = {"architecture": "batchtopk", "k": 12, "expansion_factor": 4}
    found = train_section(of_file, {"l1_coeff": 0.02})
    assert (found.architecture, found.l1_coeff, found.k, found.expansion_factor) == (
        "standard",
        0.02,
        None,
        4,
    )
    assert train_section(of_file, {"architecture": "topk"}).k == 12
    with pytest.raises(BadInput, match="k is for"):
        train_section(of_file, {"l1_coeff": 0.02, "k": 12})


def test_every_option_and_setting_is_documented() -> None:
    from typer.main import get_command

    from pipeline.training.config import TrainSaeConfig

    command = get_command(app).commands["train-sae"]  # type: ignore[attr-defined]
    text = (ROOT / "docs" / "train-sae.md").read_text(encoding="utf-8")
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert {option for option in options if f"`{option}`" not in text} == set()
    fields = {name: f"--{name.replace('_', '-')}" for name in TrainSaeConfig.model_fields}
    fields["batch_size"] = "--sae-batch-size"
    assert {name for name, option in fields.items() if option not in options} == set()
