"""The storage guide's files, written from our model: they mean the same, and the pipeline reads them."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from examples.loadout import game, make_seed_files
from examples.loadout.adapter import LoadoutModel
from pipeline.set_config import SetRunConfig, TokenizedCsvConfig
from pipeline.source_config import SaeConfig
from pipeline.sources.saelens_format import load_sae
from pipeline.sources.seed_sae import load_seed_sae
from pipeline.sources.set_dataset import read_sets

CPU = torch.device("cpu")
N_FEATURES = 96


def write_sae(folder: Path, architecture: str = "standard", apply_b_dec: bool = True) -> Path:
    """A SAELens folder with random weights and a decoder whose rows are not of unit length."""
    draws = torch.Generator().manual_seed(0)
    tensors = {
        "W_enc": torch.randn(64, N_FEATURES, generator=draws) * 0.05,
        "b_enc": torch.randn(N_FEATURES, generator=draws),
        "W_dec": torch.randn(N_FEATURES, 64, generator=draws) * 0.2,
        "b_dec": torch.randn(64, generator=draws),
    }
    if architecture == "jumprelu":
        tensors["threshold"] = torch.ones(N_FEATURES)
    cfg = {"architecture": architecture, "d_in": 64, "d_sae": N_FEATURES, "dtype": "float32"}
    cfg |= {"apply_b_dec_to_input": apply_b_dec, "normalize_activations": "none", "metadata": {}}
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """The folder, the SAE it was made from, and how much shorter the vectors are."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("seed")
    sae = write_sae(base / "sae")
    return base / "out", sae, make_seed_files.write_all(base / "out", sae)


def seed_model(folder: Path) -> LoadoutModel:
    files = {"checkpoint": "model.pth", "vocab": "vocab.json", "weapon_vocab": "weapon_vocab.json"}
    return LoadoutModel({name: folder / file for name, file in files.items()}, CPU)


def vectors_of_both(written: tuple[Path, Path, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The pooled vectors of 64 builds: our model's, and those of the files."""
    rows = pq.read_table(game.HERE / "builds.parquet").slice(0, 64).to_pylist()
    tokens = [row["tokens"][:: 1 + i % 2] for i, row in enumerate(rows)]
    ids = {kit.weapon: f"weapon_id_{kit.id}" for kit in game.weapons()}
    ours = LoadoutModel(make_seed_files.MODEL_FILES, CPU)
    theirs = seed_model(written[0])
    return (
        ours.capture(tokens, {"weapon": [row["weapon"] for row in rows]}, "masked_mean"),
        theirs.capture(tokens, {"weapon": [ids[row["weapon"]] for row in rows]}, "masked_mean"),
    )


def test_the_checkpoint_is_our_model_with_shorter_vectors(written: tuple[Path, Path, float]) -> None:
    ours, theirs = vectors_of_both(written)
    assert 0.1 < written[2] < 0.9
    assert torch.allclose(theirs, written[2] * ours, atol=1e-4)
    weight, bias, names = LoadoutModel(make_seed_files.MODEL_FILES, CPU).read_out()
    seed_weight, seed_bias, seed_names = seed_model(written[0]).read_out()
    assert seed_names == names
    assert torch.allclose(theirs @ seed_weight + seed_bias, ours @ weight + bias, atol=1e-3)


def test_the_guides_sae_gives_the_same_activations_in_the_shorter_unit(
    written: tuple[Path, Path, float],
) -> None:
    out, folder, factor = written
    ours, theirs = vectors_of_both(written)
    sae, seed = load_sae(SaeConfig(path=folder), CPU), load_seed_sae(out / "sae_model_final.pth", CPU)
    expected = factor * sae.encode(ours) * sae.W_dec.norm(dim=1)
    assert (expected > 0).float().mean() > 0.2
    assert expected.max() < 6  # so the guide's cut touches nothing
    assert torch.allclose(seed.encode(theirs), expected, atol=1e-4)
    assert torch.allclose(seed.reconstruct(theirs), factor * sae.reconstruct(ours), atol=1e-3)


def test_an_sae_that_does_not_centre_its_input_is_converted_too(tmp_path: Path) -> None:
    sae = load_sae(SaeConfig(path=write_sae(tmp_path / "sae", apply_b_dec=False)), CPU)
    seed = make_seed_files.unit_columns(sae)
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    activations = torch.relu((x - seed["decoder_bias"]) @ seed["encoder.weight"].T + seed["encoder.bias"])
    assert torch.allclose(activations, sae.encode(x) * sae.W_dec.norm(dim=1), atol=1e-4)
    assert torch.allclose(seed["decoder.weight"].norm(dim=0), torch.ones(N_FEATURES), atol=1e-5)


def test_an_sae_with_thresholds_is_refused(tmp_path: Path) -> None:
    folder = write_sae(tmp_path / "sae", "jumprelu")
    with pytest.raises(SystemExit, match="the SAE is jumprelu, and the guide's has a plain ReLU"):
        make_seed_files.write_all(tmp_path / "out", folder)


def test_the_pipeline_reads_the_same_builds_from_the_table(written: tuple[Path, Path, float]) -> None:
    run = SetRunConfig.load(written[0] / "own_model.yaml")
    assert isinstance(run.dataset, TokenizedCsvConfig)
    rows = pq.read_table(game.HERE / "builds.parquet").to_pylist()
    ids = {kit.weapon: f"weapon_id_{kit.id}" for kit in game.weapons()}
    read = list(read_sets(run.dataset))
    assert [found.tokens for found in read] == [row["tokens"] for row in rows]
    assert [found.groups["weapon"] for found in read] == [ids[row["weapon"]] for row in rows]
    assert len({found.unit for found in read}) == len({row["build"] for row in rows})


def test_the_vocabularies_have_the_guides_form(written: tuple[Path, Path, float]) -> None:
    vocab = json.loads((written[0] / "vocab.json").read_text(encoding="utf-8"))
    assert len(vocab) == 140
    assert vocab["comeback"] == 0
    assert (vocab["<NULL>"], vocab["<PAD>"]) == (138, 139)
    weapons = json.loads((written[0] / "weapon_vocab.json").read_text(encoding="utf-8"))
    assert sorted(weapons.values()) == list(range(130))
    assert weapons["weapon_id_40"] == 8  # the Splattershot


@pytest.mark.parametrize("name", ["run.yaml", "shipped.yaml"])
def test_the_run_files_are_read_and_name_files_that_are_there(name: str) -> None:
    run = SetRunConfig.load(game.HERE / name)
    assert all(path.is_file() for path in (*run.model.files.values(), run.model.adapter))
    assert run.dataset.path is not None
    assert run.dataset.path.is_file()
    assert (run.sae.train is None) == (name == "shipped.yaml")


def test_the_shipped_sae_belongs_to_the_shipped_model() -> None:
    rows = pq.read_table(game.HERE / "builds.parquet").slice(0, 500).to_pylist()
    model = LoadoutModel(make_seed_files.MODEL_FILES, CPU)
    x = model.capture(
        [row["tokens"] for row in rows], {"weapon": [row["weapon"] for row in rows]}, "masked_mean"
    )
    sae = load_sae(SaeConfig(path=game.HERE / "sae"), CPU)
    left = (x - sae.reconstruct(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert 1 - left > 0.9
    assert 8 < (sae.encode(x) > 0).float().sum(1).mean() < 24
