"""Train the set-completion model on `builds.parquet`: some abilities of a build and its weapon in, all of them out.

    OMP_NUM_THREADS=1 python -m examples.loadout.train_model --out examples/loadout/model

One build in ten, chosen by the hash of its id, is held out and decides nothing. What a view leaves out is drawn as
the pipeline draws it.
"""

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from examples.loadout import completion, game
from examples.loadout.adapter import SetCompletion, network_of, padded
from pipeline.set_views import draw_view

READABLE = 0o644
"""safetensors makes files that only their owner can read."""

logger = logging.getLogger("train_model")


@dataclass(frozen=True)
class Recipe:
    """What decides the result, apart from the builds."""

    width: int = 64
    n_layers: int = 2
    batch: int = 256
    steps: int = 4000
    rate: float = 3e-3
    weight_decay: float = 0.01
    warm_up: float = 0.05
    """Part of the steps in which the rate rises; then it falls to nothing as a cosine."""
    exponent: float = 1.2
    """As in `views` of run.yaml."""
    null_share: float = 0.02
    """Views without a token, so that the model knows what a weapon alone means."""
    heldout_share: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Builds:
    """Builds as indexes of `game.TOKENS` and of the weapons."""

    sets: list[list[int]]
    weapons: NDArray[np.int64]
    heldout: NDArray[np.bool_]
    """By the build's id, so that copies are on one side."""

    def only(self, chosen: NDArray[np.bool_]) -> "Builds":
        """Some of them."""
        places = np.flatnonzero(chosen)
        return Builds([self.sets[i] for i in places], self.weapons[places], self.heldout[places])


def is_heldout(build: str, share: float) -> bool:
    """Whether a build is kept out of the training."""
    number = int.from_bytes(hashlib.sha256(build.encode("utf-8")).digest()[:8], "big")
    return number < share * 2**64


def read_builds(path: Path, recipe: Recipe) -> Builds:
    """All builds of a file."""
    table = pq.read_table(path, columns=["build", "weapon", "tokens"])
    token_index = {token: i for i, token in enumerate(game.TOKENS)}
    weapon_index = {kit.weapon: i for i, kit in enumerate(game.weapons())}
    sets = [[token_index[token] for token in tokens] for tokens in table["tokens"].to_pylist()]
    weapons = np.array([weapon_index[name] for name in table["weapon"].to_pylist()], np.int64)
    heldout = np.array([is_heldout(build, recipe.heldout_share) for build in table["build"].to_pylist()])
    return Builds(sets, weapons, heldout)


def views_of(sets: Sequence[list[int]], recipe: Recipe, draws: np.random.Generator) -> list[list[int]]:
    """A partial view of each build; a small share is empty."""
    views = []
    for full in sets:
        kept = draw_view(len(full), draws, recipe.exponent)
        views.append([] if draws.random() < recipe.null_share else [full[i] for i in kept])
    return views


def targets(sets: Sequence[list[int]]) -> Tensor:
    """(n, tokens) float32: 1 for every token of the full build."""
    found = torch.zeros(len(sets), len(game.TOKENS))
    for row, full in enumerate(sets):
        found[row, full] = 1.0
    return found


def fit(builds: Builds, recipe: Recipe) -> SetCompletion:
    """A network trained with binary cross-entropy against the full builds."""
    torch.manual_seed(recipe.seed)
    draws = np.random.default_rng(recipe.seed)
    network = SetCompletion(len(game.TOKENS), len(game.weapons()), recipe.width, recipe.n_layers)
    optimiser = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.rate, total_steps=recipe.steps, pct_start=recipe.warm_up, cycle_momentum=False
    )
    started = time.monotonic()
    for step in range(recipe.steps):
        rows = draws.integers(len(builds.sets), size=recipe.batch)
        sets = [builds.sets[i] for i in rows]
        ids, present = padded(views_of(sets, recipe, draws), completion.NULL_INDEX)
        logits = network(ids, present, torch.from_numpy(builds.weapons[rows]))
        loss = F.binary_cross_entropy_with_logits(logits, targets(sets))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            logger.info(
                "step %d of %d, %.0f s, loss %.4f",
                step + 1,
                recipe.steps,
                time.monotonic() - started,
                loss.item(),
            )
    return network.eval().requires_grad_(False)


def save(network: SetCompletion, out: Path) -> None:
    """Write `config.json` and the weights as fp16."""
    out.mkdir(parents=True, exist_ok=True)
    config = {"tokens": list(game.TOKENS), "weapons": [kit.weapon for kit in game.weapons()]}
    (out / "config.json").write_text(json.dumps(config, indent=0) + "\n", encoding="utf-8")
    halves = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(halves, out / "model.safetensors", {"format": "pt"})
    (out / "model.safetensors").chmod(READABLE)


def main() -> None:
    """Train, write, and print how well builds are completed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--builds", type=Path, default=game.HERE / "builds.parquet")
    parser.add_argument("--out", type=Path, default=game.HERE / "model")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--threads", type=int, default=1, help="more wait for each other on a shared machine")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(steps=arguments.steps)
    builds = read_builds(arguments.builds, recipe)
    train, heldout = builds.only(~builds.heldout), builds.only(builds.heldout)
    network = fit(train, recipe)
    save(network, arguments.out)
    network = network_of({name: tensor.half() for name, tensor in network.state_dict().items()})
    draws = np.random.default_rng(recipe.seed + 1)
    seen = [[full[i] for i in draw_view(len(full), draws, recipe.exponent)] for full in heldout.sets]
    rates = completion.by_weapon(train.sets, train.weapons, len(game.weapons()))
    found = completion.report(network, rates, heldout.sets, seen, heldout.weapons, draws)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    print(
        f"{n_parameters} parameters; {len(heldout.sets)} held-out builds, share of removed tokens recovered:"
    )
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
