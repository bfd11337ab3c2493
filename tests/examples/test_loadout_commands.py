"""The longer commands of the loadout README: the build that trains an SAE, and the way from the guide's files."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from examples.loadout import game
from saeinterp_mcp.operations.decoder_influence import decoder_influence
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.store.open import open_store

README = (game.HERE / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
BLOCKS: list[str] = [block for language, block in FENCED if not language]
"""Unnamed blocks; those with commands hold nothing else."""
ROOT = game.HERE.parents[1]


def commands(start: str) -> list[str]:
    """The commands of the block that begins so, lines that go on joined."""
    (block,) = [block for block in BLOCKS if block.startswith(start)]
    return block.replace("\\\n", " ").strip().splitlines()


def run(command: str, folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_run_trains_an_sae_and_makes_a_store_that_finds_what_was_planted(tmp_path: Path) -> None:
    folder = tmp_path / "loadout"
    shutil.copytree(game.HERE, folder, ignore=shutil.ignore_patterns("*.work", "*-store", "__pycache__"))
    (command,) = commands("saeinterp-pipeline build run.yaml")
    run(command, folder)
    report = json.loads((folder / "loadout.work" / "train_sae" / "report.json").read_text(encoding="utf-8"))
    assert report["explained_variance"] > 0.9
    checks = json.loads(
        (folder / "loadout.work" / "check_vectors" / "checks.json").read_text(encoding="utf-8")
    )
    assert all(check["passed"] for check in checks)
    assert next(check["value"] for check in checks if check["name"] == "loss_recovered") > 0.9
    store = open_store(folder / "loadout-store")
    # whatever its number is here, some feature writes the planted charm set: one sub of each of these four
    charms = {
        f"{name}_3"
        for name in ("ink_resistance_up", "quick_super_jump", "special_saver", "sub_resistance_up")
    }
    found = features_search(store, query="special_saver_3", limit=20)
    candidates = [int(str(row[0])) for row in found.rows]
    assert any(
        {r[0] for r in decoder_influence(store, f, limit=4).promoted.rows} == charms for f in candidates
    )


def test_a_model_of_ones_own_goes_from_the_guides_files_to_a_store(tmp_path: Path) -> None:
    for command in commands("python -m examples.loadout.make_seed_files own"):
        run(command, tmp_path)
    (built,) = (tmp_path / "own").glob("*-store")
    store = open_store(built)
    assert store.manifest.n_features == 256
    assert store.manifest.n_samples == 15_000 * 6 + 130
    assert all(name.startswith("weapon_id_") for name in store.group("weapon").values)
