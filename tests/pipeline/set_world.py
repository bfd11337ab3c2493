"""A made-up set domain small enough to recompute in NumPy: a model of two tables, an SAE that splits signs, builds."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pipeline.build import stages_of
from pipeline.config import Execution
from pipeline.runner import run_stages
from pipeline.set_config import SetRunConfig
from tests.pipeline.recorded import Recorder

TOKENS = [
    "ink_saver_3",
    "ink_saver_6",
    "swim_speed_3",
    "swim_speed_6",
    "swim_speed_12",
    "comeback",
    "ninja_squid",
]
LADDERS = [["ink_saver_3", "ink_saver_6"], ["swim_speed_3", "swim_speed_6", "swim_speed_12"]]
WEAPONS = ["brush", "charger", "roller", "Splash-o-matic"]
D_MODEL = 8
N_VIEWS = 3

ADAPTER = """
import json

import torch
from torch import Tensor

from pipeline.sources.checkpoint import load_checkpoint


class TinyModel:
    hooks = ("masked_mean",)

    def __init__(self, files, device):
        weights = load_checkpoint(files["weights"])
        self.tokens, self.weapons = (weights[name].to(device) for name in ("tokens", "weapons"))
        self.out, self.bias = weights["out"].to(device), weights["bias"].to(device)
        names = json.loads(files["names"].read_text(encoding="utf-8"))
        self.token_names, self.weapon_names = names["tokens"], names["weapons"]
        self.d_model = self.tokens.shape[1]

    def capture(self, tokens, groups, hook):
        rows = []
        for held, weapon in zip(tokens, groups["weapon"], strict=True):
            places = [self.token_names.index(token) for token in held]
            pooled = self.tokens[places].mean(dim=0) if places else self.tokens.new_zeros(self.d_model)
            rows.append(pooled + self.weapons[self.weapon_names.index(weapon)])
        return torch.stack(rows)

    def read_out(self):
        return self.out, self.bias, self.token_names
"""


@dataclass
class World:
    """The weights and builds of the made-up domain."""

    tokens: NDArray[np.float32]
    """(n_tokens, d_model)"""
    weapons: NDArray[np.float32]
    """(n_weapons, d_model)"""
    out: NDArray[np.float32]
    """(d_model, n_tokens)"""
    bias: NDArray[np.float32]
    builds: list[list[str]]
    weapon_of: list[str]

    def vector(self, held: list[str], weapon: str) -> NDArray[np.float32]:
        """The model in one line."""
        pooled = (
            self.tokens[[TOKENS.index(t) for t in held]].mean(0) if held else np.zeros(D_MODEL, np.float32)
        )
        found: NDArray[np.float32] = pooled + self.weapons[WEAPONS.index(weapon)]
        return found


def make_world(n_builds: int, seed: int = 0) -> World:
    """Builds with thermometers; brushes like to swim. The read-out is fitted to tell the whole
    from a part."""
    rng = np.random.default_rng(seed)
    weapon_of = [WEAPONS[i] for i in rng.integers(0, len(WEAPONS), n_builds)]
    builds = []
    for weapon in weapon_of:
        heights = [rng.integers(0, 3), rng.integers(2 if weapon == "brush" else 0, 4)]
        held = [token for ladder, height in zip(LADDERS, heights, strict=True) for token in ladder[:height]]
        held += [token for token in ("comeback", "ninja_squid") if rng.random() < 0.4]
        builds.append(held)
    tokens = (4 * rng.normal(size=(len(TOKENS), D_MODEL))).astype(np.float32)
    weapons = rng.normal(size=(len(WEAPONS), D_MODEL)).astype(np.float32)
    empty = np.zeros((D_MODEL, len(TOKENS)), np.float32)
    world = World(tokens, weapons, empty, np.zeros(len(TOKENS), np.float32), builds, weapon_of)
    views = [[token for token in build if rng.random() < 0.6] for _ in range(N_VIEWS) for build in builds]
    x = np.array([world.vector(v, w) for v, w in zip(views, weapon_of * N_VIEWS, strict=True)])
    wanted = np.array([[2.0 if token in build else -2.0 for token in TOKENS] for build in builds * N_VIEWS])
    fit = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), wanted, rcond=None)[0].astype(np.float32)
    world.out, world.bias = np.ascontiguousarray(fit[:-1]), np.ascontiguousarray(fit[-1])
    return world


def sign_sae(folder: Path) -> dict[str, NDArray[np.float32]]:
    """An SAE in SAELens' layout with a feature for each axis and sign, so that it reconstructs everything."""
    eye = np.eye(D_MODEL, dtype=np.float32)
    decoder = np.concatenate([eye, -eye])
    weights = {
        "W_enc": np.ascontiguousarray(decoder.T),
        "W_dec": decoder,
        "b_enc": np.zeros(2 * D_MODEL, np.float32),
        "b_dec": np.linspace(-0.5, 0.5, D_MODEL, dtype=np.float32),
    }
    folder.mkdir()
    save_file(weights, folder / "sae_weights.safetensors")
    cfg = {
        "architecture": "standard",
        "d_in": D_MODEL,
        "d_sae": 2 * D_MODEL,
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "metadata": {"hook_name": "masked_mean"},
    }
    (folder / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    return weights


@dataclass
class SetRun:
    """A folder with a config over the made-up domain, and how to build it."""

    folder: Path
    sections: dict[str, Any]
    said: Recorder = field(default_factory=Recorder)

    def config(self, **changed: Any) -> SetRunConfig:
        """The run's config with some sections replaced."""
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(self.sections | changed), encoding="utf-8")
        return SetRunConfig.load(path)

    def build(self, until: str = "write_set_bundle", **changed: Any) -> dict[str, Path]:
        """Run the stages up to one, by default all that are of sets alone; what the runner says is in `said`."""
        self.said = Recorder()
        run = self.config(**changed)
        names = [stage.name for stage in stages_of(run)]
        stages = stages_of(run)[: names.index(until) + 1]
        return run_stages(stages, run, execution=Execution(device="cpu"), progress=self.said)


def write_set_run(folder: Path, world: World, adapter: str = ADAPTER) -> SetRun:
    """Everything a build needs, in a folder."""
    (folder / "adapter.py").write_text(adapter, encoding="utf-8")
    weights = {"tokens": world.tokens, "weapons": world.weapons, "out": world.out, "bias": world.bias}
    save_file(weights, folder / "model.safetensors")
    names = {"tokens": TOKENS, "weapons": WEAPONS}
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    pl.DataFrame({"tokens": world.builds, "weapon": world.weapon_of}).write_parquet(folder / "builds.parquet")
    kinds = {"weapon": WEAPONS, "class": ["melee", "sniper", "melee", "shooter"]}
    pl.DataFrame(kinds).write_parquet(folder / "weapon_attributes.parquet")
    sign_sae(folder / "sae")
    return SetRun(
        folder,
        {
            "kind": "set",
            "name": "tiny",
            "model": {
                "adapter": "adapter.py",
                "files": {"weights": "model.safetensors", "names": "names.json"},
            },
            "dataset": {
                "format": "parquet",
                "path": "builds.parquet",
                "groups": ["weapon"],
                "null_samples": "weapon",
                "views": {"n": N_VIEWS},
            },
            "sae": {"path": "sae"},
            "families": "by_name",
            "groups": [{"name": "weapon", "primary": True, "attributes": "weapon_attributes.parquet"}],
        },
    )


def bundle_of(folders: dict[str, Path]) -> dict[str, Any]:
    """The content of `bundle.yaml`."""
    content: dict[str, Any] = yaml.safe_load((folders["write_set_bundle"] / "bundle.yaml").read_text("utf-8"))
    return content
