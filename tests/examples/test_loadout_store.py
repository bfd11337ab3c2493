"""From the shipped model and SAE to a store, and what the questions find there of what was planted."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.loadout import archetypes, game
from pipeline.build import build_store
from saeinterp_mcp.operations.decoder_influence import decoder_influence
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.token_influence import token_influence
from saeinterp_mcp.operations.token_interactions import token_interactions
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from tests.worlds import Quiet

README = (game.HERE / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
QUICK_RESPAWN, CHARM_SET, THERMAL_INK, SWIM, JUMP, NINJA = 241, 253, 210, 15, 96, 155
"""Features of the shipped SAE."""
CHARMS = ("ink_resistance_up", "quick_super_jump", "special_saver", "sub_resistance_up")


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example") / "loadout"
    shutil.copytree(game.HERE, folder, ignore=shutil.ignore_patterns("*.work", "*-store", "__pycache__"))
    built = build_store(folder / "shipped.yaml", progress=Quiet())
    assert built is not None
    return built


@pytest.fixture(scope="module")
def store(store_folder: Path) -> Store:
    return open_store(store_folder)


def rows_of(answer: Any) -> dict[str, dict[str, Any]]:
    """The rows of an answer's main table by their first column."""
    return {str(row[0]): dict(zip(answer.columns, row, strict=True)) for row in answer.rows}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:50])
def test_a_command_of_the_readme_runs(command: str, store_folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        shlex.split(command),
        cwd=store_folder.parent,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_store_holds_every_build_its_views_and_the_weapons_alone(store: Store) -> None:
    assert store.manifest.n_samples == 15_000 * 6 + 130
    assert len(store.families) == 26
    assert {name: store.family(name).encoding for name in ("swim_speed_up", "comeback")} == {
        "swim_speed_up": "cumulative",
        "comeback": "exclusive",
    }


def test_the_dose_of_a_family_is_found(store: Store) -> None:
    levels = rows_of(family_sweep(store, QUICK_RESPAWN, "quick_respawn"))
    means = [levels[level]["mean"] for level in ("3", "6", "12", "15", "21")]
    assert means == sorted(means)
    assert means[-1] > 2.5 * means[0] > 10


def test_the_planted_conflict_is_a_suppressor(store: Store) -> None:
    """planted.json expects quick_respawn on 3 % of builds with respawn_punisher, and on 33 % of the others."""
    families = rows_of(token_influence(store, QUICK_RESPAWN, by="family"))
    assert families["respawn_punisher"]["role"] == "suppressor"
    assert families["respawn_punisher"]["firing_rate"] < 0.03
    assert families["comeback"]["role"] == "enhancer"


def test_the_charm_set_is_the_itemset_that_lifts_most(store: Store) -> None:
    found = token_interactions(store, CHARM_SET, families=list(CHARMS), method="itemsets", size=4, limit=11)
    place = found.columns.index("lift")
    (best, *_) = sorted(found.rows, key=lambda row: -float(str(row[place])))
    assert isinstance(best[0], list)
    assert set(best[0]) == set(CHARMS)
    effects = decoder_influence(store, CHARM_SET, limit=4)
    assert {row[0] for row in effects.promoted.rows} == {f"{charm}_3" for charm in CHARMS}
    assert {row[0] for row in effects.suppressed.rows} == {f"{charm}_6" for charm in CHARMS}


def test_a_dominant_weapon_is_explained_by_its_sub(store: Store) -> None:
    explained = group_sweep(store, THERMAL_INK, "weapon", where="view=full").explained_by
    assert explained is not None
    assert (explained.attribute, explained.attribute_value) == ("sub", "Angle Shooter")


def test_a_weapon_effect_that_is_an_ability_habit_vanishes_where_the_ability_is_held_still(
    store: Store,
) -> None:
    everybody = rows_of(group_sweep(store, SWIM, "class", where="view=full"))["roller"]
    wearers = rows_of(group_sweep(store, SWIM, "class", where="view=full", given="token:ninja_squid"))[
        "roller"
    ]
    assert everybody["effect_low"] > 0.5
    assert wearers["effect_low"] < 0 < wearers["effect_high"]
    assert wearers["effect"] < 0.2 * everybody["effect"]


def test_an_ability_effect_that_is_a_weapon_habit_does_not_survive_stratification(store: Store) -> None:
    found = family_sweep(store, JUMP, "respawn_punisher", where="view=full")
    assert rows_of(found)["1"]["effect_low"] > 1
    assert found.stratified_effect is not None
    low, high = found.stratified_effect.low, found.stratified_effect.high
    assert low is not None
    assert high is not None
    assert low < 0 < high


def test_a_weapon_alone_makes_a_feature_fire(store: Store) -> None:
    classes = rows_of(group_sweep(store, NINJA, "class", where="null_sample=yes", min_n=4))
    assert classes["roller"]["firing_rate"] == 1
    assert classes["shooter"]["firing_rate"] == 0


def test_archetypes_are_told_by_single_features(store: Store) -> None:
    rows, names, heldout = archetypes.whole_builds(store)
    assert len(rows) == 15_000
    activations = archetypes.activations_of(store, rows)
    for feature, name in ((CHARM_SET, "charm_set"), (QUICK_RESPAWN, "zombie")):
        assert archetypes.auroc(activations[feature][heldout], names[heldout] == name) > 0.98


def test_auroc_counts_pairs_and_halves_ties() -> None:
    activation, truth = np.array([0, 1, 1, 3], np.float32), np.array([False, True, False, True])
    # pairs (true, false): (1, 0) won, (1, 1) tied, (3, 0) won, (3, 1) won
    assert archetypes.auroc(activation, truth) == pytest.approx(3.5 / 4)
