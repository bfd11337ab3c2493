"""The embedded example: small enough to ship, and its store is what a build from the weights makes."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.verify import verify_store
from saeinterp_mcp.store.open import open_store
from tests.conftest import PYCODE


def test_the_example_stays_small_and_readable_by_all() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z", str(PYCODE)], capture_output=True, text=True, check=True, cwd=PYCODE
    ).stdout.split("\0")
    files = [PYCODE / name for name in tracked if name]
    assert sum(f.stat().st_size for f in files) < 30_000_000
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444, file


def test_the_shipped_store_is_whole(pycode_store: Path) -> None:
    assert verify_store(pycode_store)[-1].endswith("are those of their activations")


def test_bos_is_nowhere(pycode_store: Path) -> None:
    store = open_store(pycode_store)
    assert store.manifest.excluded_positions == (0,)
    assert int(store.row_position[:].min()) == 1
    bos = store.token_ids["<|endoftext|>"]
    assert int(store.backend.column("counts/tokens/n")[1, bos]) == 0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that the command of the README makes from the weights."""
    folder = tmp_path_factory.mktemp("built") / "pycode"
    folder.mkdir()
    for name in ("model", "sae"):
        shutil.copytree(PYCODE / name, folder / name)
    for name in ("documents.parquet", "run.yaml"):
        shutil.copy(PYCODE / name, folder / name)
    command = [sys.executable, "-m", "pipeline", "build", str(folder / "run.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "pycode-store"


def test_a_build_from_the_weights_gives_the_shipped_store(built: Path, pycode_store: Path) -> None:
    mine, shipped = open_store(built), open_store(pycode_store)
    for field in (
        "n_samples",
        "n_rows",
        "n_units",
        "n_features",
        "n_explain",
        "families",
        "groups",
        "excluded_positions",
    ):
        assert getattr(mine.manifest, field) == getattr(shipped.manifest, field), field
    np.testing.assert_array_equal(mine.sample_tokens[:], shipped.sample_tokens[:])
    n_mine, n_shipped = (s.backend.column("stats/n_firing")[:, 1].astype(float) for s in (mine, shipped))
    # another machine's arithmetic moves activations that lie at the threshold, and no others
    assert np.abs(n_mine - n_shipped).sum() <= 1e-3 * n_shipped.sum()
    assert (np.abs(n_mine - n_shipped) <= np.maximum(2, 0.01 * n_shipped)).all()
    s_mine, s_shipped = (s.backend.column("stats/sum")[:, 1] for s in (mine, shipped))
    steady = (n_mine == n_shipped) & (n_mine > 0)
    assert steady.mean() > 0.5
    np.testing.assert_allclose(
        s_mine[steady] / n_mine[steady], s_shipped[steady] / n_shipped[steady], rtol=1e-3
    )


def test_the_load_checks_are_in_the_store(pycode_store: Path) -> None:
    checks = {check["name"]: check for check in open_store(pycode_store).manifest.checks}
    assert {
        "shapes_agree",
        "hook_exists",
        "l0",
        "explained_variance",
        "loss_recovered",
        "dead_fraction",
    } <= set(checks)
    assert all(check["passed"] for check in checks.values() if check["passed"] is not None)
    assert checks["explained_variance"]["value"] > 0.8
    assert checks["loss_recovered"]["value"] > 0.9
