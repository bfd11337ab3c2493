import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.config import Execution
from pipeline.set_config import SetRunConfig
from pipeline.source_config import SaeConfig
from pipeline.sources.saelens_format import load_sae
from pipeline.training.report import TrainingReport
from pipeline.training.run import train_sae
from pipeline.training.vectors import held_out_rows
from saeinterp_mcp.errors import BadInput
from tests.pipeline.recorded import Recorder

N_TOKENS, WIDTH, N_SETS = 12, 16, 400

ADAPTER = """
import json
import torch
from pipeline.sources.checkpoint import load_checkpoint


class Means:
    hooks = ("masked_mean",)

    def __init__(self, files, device):
        weights = load_checkpoint(files["checkpoint"])
        self.embedding, self.weapons = weights["embedding"], weights["weapons"]
        names = json.loads(files["vocab"].read_text())
        self.tokens = [name for name in names if name != "<NULL>"]
        self.weapon_names = list(json.loads(files["weapon_vocab"].read_text()))
        self.d_model = self.embedding.shape[1]

    def capture(self, tokens, groups, hook):
        weapon = torch.tensor([self.weapon_names.index(name) for name in groups["weapon"]])
        return torch.stack(
            [self.embedding[[self.tokens.index(t) for t in row]].sum(0) for row in tokens]
        ) + self.weapons[weapon]

    def read_out(self):
        return self.embedding.T * 4, torch.full((len(self.tokens),), -2.0), self.tokens
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage guide's files for a model whose vector is the sum of its tokens' directions."""
    folder = tmp_path_factory.mktemp("seed")
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    embedding = torch.nn.init.orthogonal_(torch.empty(WIDTH, N_TOKENS)).T.contiguous()
    torch.save({"embedding": embedding, "weapons": torch.randn(2, WIDTH) * 0.3}, folder / "model.pth")
    names = ["<NULL>", *(f"ability_{i}" for i in range(N_TOKENS))]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "weapon_vocab.json").write_text(json.dumps({"weapon_id_40": 0, "weapon_id_41": 1}))
    sets = [sorted(generator.choice(N_TOKENS, size=3, replace=False) + 1) for _ in range(N_SETS)]
    rows = {
        "ability_tags": [json.dumps([int(i) for i in row]) for row in sets],
        "weapon_id": [i % 2 for i in range(N_SETS)],
    }
    pl.DataFrame(rows).write_csv(folder / "tokenized_data.csv", separator="\t")
    (folder / "adapter.py").write_text(ADAPTER)
    return folder


@pytest.fixture(scope="module")
def save_dir(files: Path) -> Path:
    """What the storage guide's first command leaves, with an adapter in the place of its own model class."""
    out = files / "my_run"
    command = (
        f"train-sae --adapter {files}/adapter.py --model-checkpoint {files}/model.pth"
        f" --data-csv {files}/tokenized_data.csv --vocab-path {files}/vocab.json"
        f" --weapon-vocab-path {files}/weapon_vocab.json --save-dir {out} --hook-target masked_mean"
        " --expansion-factor 4 --l1-coeff 3e-3 --epochs 20 --sae-batch-size 128 --lr 3e-3 --device cpu"
    )
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(out)
    return out


def samples_of(save_dir: Path) -> tuple[pl.DataFrame, NDArray[np.float32]]:
    work = save_dir.with_name("my_run.work")
    return pl.read_parquet(work / "draw_samples/samples.parquet"), np.load(
        work / "capture_vectors/vectors.npy"
    )


def test_the_guides_first_command_trains_a_standard_sae(save_dir: Path) -> None:
    report = TrainingReport.model_validate_json((save_dir / "report.json").read_text())
    samples, _ = samples_of(save_dir)
    assert (report.architecture, report.n_features) == ("standard", 4 * WIDTH)
    assert len(samples) == 6 * N_SETS  # the set and five views of it
    assert report.n_steps == round(20 * report.n_train / 128)
    assert report.decoder_unmoved == 0
    assert report.explained_variance is not None
    assert report.explained_variance > 0.9
    header = load_sae(SaeConfig(path=save_dir), torch.device("cpu")).header
    assert (header.architecture, header.metadata.hook_name, header.metadata.model_name) == (
        "standard",
        "masked_mean",
        "adapter",
    )


def test_views_of_one_set_are_held_out_together_and_the_loss_is_theirs(save_dir: Path, files: Path) -> None:
    samples, vectors = samples_of(save_dir)
    units = samples["unit"].to_list()
    numbers = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    out = held_out_rows(len(units), np.array([numbers[unit] for unit in units]), 0.05, 0)
    report = TrainingReport.model_validate_json((save_dir / "report.json").read_text())
    assert report.n_held_out == out.sum()
    whole = pl.read_parquet(save_dir.with_name("my_run.work") / "draw_samples/sets.parquet")[
        "tokens"
    ].to_list()
    weights = torch.load(files / "model.pth", weights_only=True)
    weight = weights["embedding"].numpy().T * 4
    target = np.zeros((int(out.sum()), N_TOKENS))
    for row, index in enumerate(samples["set"].to_numpy()[out]):
        target[row, [int(token.removeprefix("ability_")) for token in whole[index]]] = 1

    def loss(x: NDArray[np.float32]) -> float:
        logits = x.astype(np.float64) @ weight - 2
        return float((np.logaddexp(0, logits) - target * logits).sum(axis=1).mean())

    x = vectors[out]
    sae = load_sae(SaeConfig(path=save_dir), torch.device("cpu"))
    rebuilt = sae.reconstruct(torch.from_numpy(x)).numpy()
    assert report.loss_recovered is not None
    assert report.loss_recovered.clean == pytest.approx(loss(x), rel=1e-4)
    assert report.loss_recovered.reconstructed == pytest.approx(loss(rebuilt), rel=1e-4)
    assert report.loss_recovered.mean_ablated == pytest.approx(
        loss(np.broadcast_to(x.mean(0), x.shape)), rel=1e-4
    )
    assert report.loss_recovered.recovered > 0.7


def test_a_config_of_sets_trains_and_options_go_before_it(files: Path, tmp_path: Path) -> None:
    dataset = {
        "format": "tokenized_csv",
        "path": "tokenized_data.csv",
        "vocab": "vocab.json",
        "weapon_vocab": "weapon_vocab.json",
    }
    model = {
        "adapter": "adapter.py",
        "files": {"checkpoint": "model.pth", "vocab": "vocab.json", "weapon_vocab": "weapon_vocab.json"},
    }
    train = {"architecture": "batchtopk", "k": 5, "epochs": 2, "batch_size": 64}
    run = {"kind": "set", "name": "sets", "model": model, "dataset": dataset, "sae": {"train": train}}
    (files / "sets.yaml").write_text(yaml.safe_dump(run))
    out = tmp_path / "sae"
    done = CliRunner().invoke(
        app, ["train-sae", str(files / "sets.yaml"), "--save-dir", str(out), "--k", "3", "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    report = TrainingReport.model_validate_json((out / "report.json").read_text())
    assert (report.architecture, report.k) == ("batchtopk", 3)
    with pytest.raises(BadInput, match="--save-dir is missing"):
        CliRunner().invoke(app, ["train-sae", str(files / "sets.yaml")], catch_exceptions=False)


def test_a_model_without_read_out_has_no_loss_and_the_report_says_why(files: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter.py").write_text(ADAPTER.replace("def read_out", "def other"))
    names = {"checkpoint": "model.pth", "vocab": "vocab.json", "weapon_vocab": "weapon_vocab.json"}
    run = SetRunConfig.model_validate(
        {
            "kind": "set",
            "name": "bare",
            "model": {"adapter": tmp_path / "adapter.py", "files": {key: files / name for key, name in names.items()}},
            "dataset": {"format": "tokenized_csv", "path": files / "tokenized_data.csv", "vocab": files / "vocab.json",
                        "weapon_vocab": files / "weapon_vocab.json"},
            "sae": {"train": {"k": 3, "tokens": 640, "batch_size": 64}},
        }
    )  # fmt: skip
    report = train_sae(run, tmp_path / "sae", Execution(device="cpu"), progress=Recorder())
    assert report.loss_recovered is None
    assert report.no_loss == "the adapter has no read_out"
