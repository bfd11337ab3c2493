import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pipeline.source_config import SaeConfig
from pipeline.sources.saelens_format import load_sae
from pipeline.training.config import TrainSaeConfig, make_plan
from pipeline.training.report import TrainingReport, density, table
from pipeline.training.saelens import import_sae_lens, new_sae
from pipeline.training.trainer import train
from pipeline.training.vectors import held_out_rows
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.fingerprint import canonical_json
from tests.conftest import ROOT
from tests.pipeline.planted_vectors import CPU, D_IN, N_ACTIVE, N, found, planted, quietly, short, trained

ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu", "matryoshka")
N_FEATURES = 3 * D_IN


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, TrainingReport]]:
    """Each architecture trained once on the planted vectors; only to look at."""
    results = {}
    for architecture in ARCHITECTURES:
        out = tmp_path_factory.mktemp(architecture)
        results[architecture] = (out, trained(out, short(architecture)))
    return results


def first_decoder(config: TrainSaeConfig) -> NDArray[np.float32]:
    plan = make_plan(config, D_IN, N)
    weights: NDArray[np.float32] = new_sae(plan, {}, "cpu").W_dec.detach().numpy()
    return weights


def weights_of(out: Path) -> bytes:
    return (out / "sae" / "sae_weights.safetensors").read_bytes()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoder_learns_the_planted_directions(
    runs: dict[str, tuple[Path, TrainingReport]], architecture: str
) -> None:
    out, report = runs[architecture]
    _, directions = planted()
    decoder = load_file(out / "sae" / "sae_weights.safetensors")["W_dec"]
    before = found(directions, first_decoder(short(architecture)))
    after = found(directions, decoder)
    assert before < 0.65
    assert after > 0.85, f"{after:.3f}, from {before:.3f}"
    assert report.decoder_unmoved == 0
    assert report.decoder_cosine < 0.9
    np.testing.assert_allclose(np.linalg.norm(decoder, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sae_lens_reads_it_back_and_encodes_as_we_do(
    runs: dict[str, tuple[Path, TrainingReport]], architecture: str
) -> None:
    out, _ = runs[architecture]
    vectors = torch.from_numpy(planted()[0][:500])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs: Any = import_sae_lens().SAE.load_from_disk(str(out / "sae"))
    ours = load_sae(SaeConfig(path=out / "sae"), torch.device("cpu"))
    with torch.no_grad():
        expected = theirs.encode(vectors)
        assert torch.allclose(ours.encode(vectors), expected, atol=1e-5)
        assert torch.allclose(ours.reconstruct(vectors), theirs.decode(expected), atol=1e-4)
    assert 0 < (expected > 0).float().mean() < 0.5
    assert theirs.cfg.normalize_activations == "none"
    assert theirs.cfg.metadata.hook_name == "h"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_reports_numbers_are_those_of_the_held_out_vectors(
    runs: dict[str, tuple[Path, TrainingReport]], architecture: str
) -> None:
    out, report = runs[architecture]
    w = {
        name: tensor.astype(np.float64)
        for name, tensor in load_file(out / "sae/sae_weights.safetensors").items()
    }
    x = planted()[0][held_out_rows(N, None, 0.05, 0)].astype(np.float64)
    assert len(x) == report.n_held_out == report.n_measured == 300
    assert report.n_train == N - 300
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    kth = np.sort(pre, axis=1)[:, [-N_ACTIVE]]
    kept = pre >= kth if architecture == "topk" else pre > w.get("threshold", 0)
    activations = np.where(kept, pre, 0).clip(0)
    error = ((activations @ w["W_dec"] + w["b_dec"] - x) ** 2).sum()
    rates = (activations > 0).mean(axis=0)
    explained = 1 - error / ((x - x.mean(axis=0)) ** 2).sum()
    assert report.explained_variance == pytest.approx(explained, abs=1e-4)
    assert explained > 0.6
    assert report.l0 == pytest.approx((activations > 0).sum(axis=1).mean(), abs=0.02)
    assert report.dead_fraction == pytest.approx((rates == 0).mean(), abs=0.03)
    assert sum(report.density) == N_FEATURES
    assert report.density[0] == round(report.dead_fraction * N_FEATURES)
    assert json.loads((out / "sae/cfg.json").read_text())["metadata"]["l0"] == report.l0
    assert json.loads((out / "report.json").read_text()) == report.model_dump(mode="json")


def test_batchtopk_fires_as_many_features_as_it_was_told_even_after_a_short_run(tmp_path: Path) -> None:
    for architecture in ("batchtopk", "matryoshka"):
        report = trained(tmp_path / architecture, short(architecture, tokens=100 * 128))
        assert report.l0 == pytest.approx(N_ACTIVE, rel=0.2)


def test_density_counts_features_by_their_firing_rate() -> None:
    rates = np.array([0, 5e-6, 1e-5, 2e-5, 5e-4, 5e-3, 0.05, 0.1, 0.5, 1.0])
    assert density(rates) == (1, 2, 1, 1, 1, 2, 2)


def test_explained_variance_rises_with_the_steps(tmp_path: Path) -> None:
    reached = []
    for n_steps in (1, 50, 300):
        report = trained(tmp_path / str(n_steps), short("batchtopk", tokens=n_steps * 128))
        assert report.explained_variance is not None
        reached.append(report.explained_variance)
    assert reached[0] < 0.3 < reached[1] < reached[2] - 0.1


def test_a_decoder_that_does_not_learn_is_named(tmp_path: Path) -> None:
    report = trained(tmp_path, short("standard", lr=1e-9, tokens=20 * 128))
    assert report.decoder_unmoved == 1
    assert "100% of the decoder did not move from where it started" in report.notes
    assert "note: 100% of the decoder did not move" in table(report)


def test_an_sae_that_is_not_sparse_is_named(tmp_path: Path) -> None:
    report = trained(tmp_path, short("standard", l1_coeff=0, tokens=50 * 128))
    assert report.l0 > 0.2 * N_FEATURES
    assert f"{report.l0:.0f} of 48 features fire on a vector, too many" in report.notes[0]
    assert report.notes[0].endswith("raise l1_coeff, or train longer")


def test_an_offset_that_all_vectors_share_changes_nothing_that_matters(tmp_path: Path) -> None:
    near, far = (
        trained(tmp_path / str(offset), short("batchtopk", tokens=300 * 128), planted(offset=offset)[0])
        for offset in (0.0, 30.0)
    )
    assert far.explained_variance == pytest.approx(near.explained_variance, abs=0.05)
    assert far.scaling_factor == pytest.approx(near.scaling_factor, rel=1e-3)


def test_held_out_vectors_decide_nothing(tmp_path: Path) -> None:
    vectors, _ = planted()
    units = np.repeat(np.arange(N // 10), 10)
    out = held_out_rows(N, units, 0.05, 0)
    assert out.sum() == 300
    assert {bool(out[units == unit].all()) == bool(out[units == unit].any()) for unit in range(N // 10)} == {
        True
    }
    other = vectors.copy()
    other[out] = other[out][::-1] * 3 - 100
    config = short("batchtopk", tokens=30 * 128)
    for name, given in (("one", vectors), ("two", other)):
        train(given, config, tmp_path / name, {}, CPU, quietly, units=units)
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "two")


def test_a_seed_decides_the_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        trained(tmp_path / name, short("topk", tokens=20 * 128, seed=seed))
    for file in ("sae/sae_weights.safetensors", "sae/cfg.json", "report.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    cfg = (tmp_path / "one/sae/cfg.json").read_text()
    assert cfg == canonical_json(json.loads(cfg)) + "\n", "SAELens' order of keys differs between processes"
    assert weights_of(tmp_path / "one") != weights_of(tmp_path / "two")


class Stopped(Exception):
    """In place of a kill."""


def stop_after(n_vectors: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= n_vectors:
            raise Stopped

    return progress


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_that_was_stopped_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, architecture: str
) -> None:
    # warm-ups, the decay and the dead-feature window all end on other steps than the stops
    config = short(
        architecture, tokens=90 * 128, dead_feature_window=15, checkpoint_seconds=1e-9, lr_warm_up_steps=30
    )
    vectors, _ = planted()
    trained(tmp_path / "whole", config)
    out = tmp_path / "stopped"
    for n_steps in (20, 53, 85):
        with pytest.raises(Stopped):
            train(vectors, config, out, {"hook_name": "h"}, CPU, stop_after(n_steps * 128))
        assert (out / "checkpoint.safetensors").is_file()
    seen: list[int] = []
    train(vectors, config, out, {"hook_name": "h"}, CPU, lambda done, total: seen.append(done))
    assert seen[0] == 84 * 128, "it goes on from the last checkpoint"
    for file in ("sae/sae_weights.safetensors", "sae/cfg.json", "report.json"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not (out / "checkpoint.safetensors").exists()


CHILD = """
import sys
from pathlib import Path
import torch
from tests.pipeline.planted_vectors import CPU, planted, short
from pipeline.training.trainer import train
print("imported", flush=True)
train(planted()[0], short("batchtopk", tokens=10**9, checkpoint_seconds=0.01), Path(sys.argv[1]), {}, CPU,
      lambda done, total: print(done, flush=True))
"""


def test_a_kill_leaves_a_checkpoint_that_can_be_read(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line[0].isdigit() and (tmp_path / "checkpoint.safetensors").is_file():
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        raise Stopped

    config = short("batchtopk", tokens=10**9)
    with pytest.raises(Stopped):
        train(planted()[0], config, tmp_path, {}, CPU, progress)
    assert seen[0] > 0
    with pytest.raises(BadInput, match=r"the state of another training \(settings changed\)"):
        train(planted()[0], short("batchtopk"), tmp_path, {}, CPU, quietly)
    with pytest.raises(BadInput, match=r"vectors changed"):
        train(planted(seed=1)[0], config, tmp_path, {}, CPU, quietly)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"rubbish")
    with pytest.raises(BadStore, match=r"expected the state of a training; found .* Remove it to start anew"):
        train(planted()[0], config, tmp_path, {}, CPU, quietly)


def test_l1_coeff_is_that_of_the_storage_guide() -> None:
    config = TrainSaeConfig(l1_coeff=3e-4, normalize_activations="none", sparsity_warm_up_steps=0)
    assert config.architecture == "standard"
    sae = new_sae(make_plan(config, D_IN, N), {}, "cpu")
    x = torch.from_numpy(planted()[0][:64])
    from sae_lens.saes.sae import TrainStepInput

    coefficients = {name: given.value for name, given in sae.get_coefficients().items()}
    step = TrainStepInput(
        sae_in=x, coefficients=coefficients, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )
    theirs = float(sae.training_forward_pass(step).loss.detach())
    w = {name: tensor.detach().numpy() for name, tensor in sae.named_parameters()}
    h = ((x.numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).clip(0)
    error = ((h @ w["W_dec"] + w["b_dec"] - x.numpy()) ** 2).mean()
    norms = np.linalg.norm(w["W_dec"], axis=1)  # 1 in the guide, whose decoder is normalised after each step
    assert theirs / D_IN == pytest.approx(error + 3e-4 * (h * norms).sum(axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "standard", "k": 8}, "k is for topk, batchtopk, matryoshka; how sparse standard is"),
        ({"architecture": "topk", "l1_coeff": 1}, "l1_coeff is for standard; how sparse topk is, k says"),
        ({"l1_coeff": 1, "k": 4}, "k is for topk, batchtopk, matryoshka; how sparse standard is, l1_coeff says"),
        ({"architecture": "batchtopk", "l0_coeff": 1}, "l0_coeff is for jumprelu; how sparse batchtopk is, k says"),
        ({"architecture": "standard", "dead_feature_loss": 1}, "is for jumprelu, topk, batchtopk, matryoshka, not for"),
        ({"architecture": "topk", "matryoshka_widths": [4]}, "matryoshka_widths is for matryoshka, not for topk"),
        ({"epochs": 1, "tokens": 5}, r"give epochs \(how often each vector is seen\) or tokens"),
        ({"matryoshka_widths": [8, 4]}, r"matryoshka_widths must increase, such as \[64, 256\]"),
        ({"k": 0}, "greater than 0"),
        ({"held_out": 0}, "greater than 0"),
        ({"expansion": 4}, "Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSaeConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 10_000}, "batch_size 10,000 is more than the 5,700 vectors to train on"),
        ({"k": 48}, r"k 48 is not below the 48 features \(expansion_factor times width\)"),
        (
            {"lr_warm_up_steps": 601},
            "lr_warm_up_steps 601 and lr_decay_steps 120 are more than the 600 steps",
        ),
        ({"architecture": "matryoshka", "matryoshka_widths": [8, 64]}, "64 is more than the 48 features"),
    ],
)
def test_settings_that_do_not_fit_the_vectors_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        trained(tmp_path, short("batchtopk", **settings))


def test_vectors_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    config = short("batchtopk")
    vectors, _ = planted()
    broken = vectors.copy()
    broken[4321, 3] = np.nan
    with pytest.raises(BadInput, match="vector 4,321 of 6,000 has NaN or infinity"):
        trained(tmp_path, config, broken)
    with pytest.raises(BadInput, match="all 6,000 vectors are the same one"):
        trained(tmp_path, config, np.ones_like(vectors))
    with pytest.raises(BadInput, match=r"found \(6000, 16\) of float64"):
        trained(tmp_path, config, vectors.astype(np.float64))
    with pytest.raises(BadInput, match="6,000 vectors of 1 unit: an SAE is judged on units it has not seen"):
        train(vectors, config, tmp_path, {}, CPU, quietly, units=np.zeros(N, dtype=np.int64))
    with pytest.raises(BadInput, match="there are 6,000 vectors, but units of 5"):
        train(vectors, config, tmp_path, {}, CPU, quietly, units=np.arange(5))


def test_defaults_follow_the_length_of_the_run() -> None:
    short_run = make_plan(TrainSaeConfig(tokens=400_000), 64, 100_000)
    assert (short_run.n_steps, short_run.n_features, short_run.k) == (98, 512, 32)
    assert (short_run.lr_warm_up_steps, short_run.lr_decay_steps, short_run.dead_feature_window) == (
        4,
        19,
        50,
    )
    long_run = make_plan(TrainSaeConfig(epochs=50, architecture="matryoshka"), 64, 2_000_000)
    assert (long_run.n_steps, long_run.dead_feature_window) == (24414, 1000)
    assert long_run.widths == [32, 128, 512]
