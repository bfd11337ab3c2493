"""docs/own-model.md from top to bottom: its data, its adapter, its run file, its commands."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.set_config import SetChecksConfig, SetCollectConfig, SetRunConfig, SetTableConfig
from pipeline.stages.set_stages import SET_STAGES
from saeinterp_mcp.store.open import open_store
from tests.test_docs import blocks

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it before the first command."""
    folder = tmp_path_factory.mktemp("reader")
    data, adapter = blocks(TEXT, "python")
    subprocess.run([sys.executable, "-c", data], cwd=folder, check=True)
    (folder / "adapter.py").write_text(adapter, encoding="utf-8")
    (config,) = blocks(TEXT, "yaml")
    (folder / "run.yaml").write_text(config, encoding="utf-8")
    return folder


def test_the_documented_model_becomes_a_store_that_answers(reader: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    (commands,) = blocks(TEXT, "shell")
    for command in commands.splitlines():
        done = subprocess.run(
            shlex.split(command), cwd=reader, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout.strip()
    manifest = open_store(reader / "gear-store").manifest
    assert (manifest.n_samples, manifest.n_features) == (400 * 6 + 3, 32)
    assert all(check["passed"] is not False for check in manifest.checks)


def test_every_setting_of_sets_is_documented() -> None:
    for config in (SetRunConfig, SetTableConfig, SetCollectConfig, SetChecksConfig):
        for name in config.model_fields:
            assert name in TEXT, f"{config.__name__}.{name}"


def test_every_stage_of_sets_is_documented() -> None:
    for stage in SET_STAGES[:7]:
        assert f"`{stage.name}`" in TEXT
