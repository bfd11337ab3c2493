"""The set-completion model and its adapter: order does not matter, the read-out is linear, and it completes builds."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from examples.loadout import completion, game, train_model
from examples.loadout.adapter import LoadoutModel, SetCompletion, padded
from examples.loadout.train_model import Recipe

MODEL = game.HERE / "model"
FILES = {"config": MODEL / "config.json", "weights": MODEL / "model.safetensors"}
BUILD = [
    "comeback",
    "stealth_jump",
    "quick_respawn_3",
    "quick_respawn_6",
    "quick_respawn_12",
    "swim_speed_up_3",
]


@pytest.fixture(scope="module")
def model() -> LoadoutModel:
    torch.set_num_threads(1)
    return LoadoutModel(FILES, torch.device("cpu"))


def capture(model: LoadoutModel, sets: list[list[str]], weapons: list[str | None]) -> torch.Tensor:
    return model.capture(sets, {"weapon": weapons}, "masked_mean")


def test_the_order_of_the_abilities_does_not_matter(model: LoadoutModel) -> None:
    draws = np.random.default_rng(0)
    orders = [[BUILD[i] for i in draws.permutation(len(BUILD))] for _ in range(5)]
    vectors = capture(model, [BUILD, *orders], ["Slosher"] * 6)
    assert (vectors - vectors[0]).abs().max() < 1e-5


def test_a_set_does_not_depend_on_what_it_is_captured_with(model: LoadoutModel) -> None:
    """Longer sets beside it pad it with tokens that must not count."""
    alone = capture(model, [BUILD], ["Slosher"])[0]
    beside = capture(model, [BUILD, list(game.TOKENS), []], ["Slosher", "Inkbrush", "Slosher"])[0]
    assert (alone - beside).abs().max() < 1e-5


def test_abilities_and_weapon_both_matter(model: LoadoutModel) -> None:
    one, other_weapon, fewer = capture(model, [BUILD, BUILD, BUILD[:3]], ["Slosher", "Inkbrush", "Slosher"])
    assert (one - other_weapon).norm() > 0.1
    assert (one - fewer).norm() > 0.1


def test_the_read_out_is_exactly_linear_on_the_pooled_vector(model: LoadoutModel) -> None:
    weight, bias, names = model.read_out()
    assert weight.shape == (model.d_model, 138)
    assert names == list(game.TOKENS)
    vectors = capture(model, [BUILD, []], ["Slosher", "Slosher"])
    ids = [[model.tokens.index(token) for token in BUILD], []]
    weapon = torch.tensor([model.weapons.index("Slosher")] * 2)
    logits = model.network(*padded(ids, completion.NULL_INDEX), weapon)
    assert torch.allclose(vectors @ weight + bias, logits, atol=1e-5)
    halfway = 0.5 * (vectors[0] + vectors[1])
    assert torch.allclose(halfway @ weight + bias, 0.5 * (logits[0] + logits[1]), atol=1e-5)


def test_an_empty_set_is_the_weapon_alone(model: LoadoutModel) -> None:
    weight, bias, names = model.read_out()
    vectors = capture(model, [[], ["<NULL>"], []], ["Slosher", "Slosher", "E-liter 4K"])
    assert torch.equal(vectors[0], vectors[1])
    chance = torch.sigmoid(vectors @ weight + bias)
    respawn_punisher, stealth_jump = names.index("respawn_punisher"), names.index("stealth_jump")
    truth = json.loads((game.HERE / "planted.json").read_text(encoding="utf-8"))["tokens"]
    charger = truth["respawn_punisher"]["by_class"]["charger"]
    assert chance[2, respawn_punisher] > 5 * chance[0, respawn_punisher]
    assert float(chance[2, respawn_punisher]) == pytest.approx(charger, abs=0.25)
    assert chance[0, stealth_jump] > 0.8 > chance[2, stealth_jump]


def test_a_repeated_token_counts_once(model: LoadoutModel) -> None:
    once, twice = capture(model, [BUILD, BUILD + BUILD[:2]], ["Slosher", "Slosher"])
    assert torch.allclose(once, twice, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "groups", "hook", "message"),
    [
        ([["comebak"]], {"weapon": ["Slosher"]}, "masked_mean", "the model knows no ability 'comebak'"),
        ([BUILD], {"weapon": ["Sloshr"]}, "masked_mean", "the model knows no weapon 'Sloshr'"),
        ([BUILD], {"weapon": [None]}, "masked_mean", "the model knows no weapon None"),
        ([BUILD], {}, "masked_mean", "the samples have no group `weapon`"),
        ([BUILD], {"weapon": ["Slosher"]}, "token_ff", "there is no hook 'token_ff', only masked_mean"),
    ],
)
def test_what_the_model_does_not_know_is_refused(
    model: LoadoutModel, tokens: list[list[str]], groups: dict[str, list[str | None]], hook: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        model.capture(tokens, groups, hook)


def test_weights_and_names_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    config = json.loads(FILES["config"].read_text(encoding="utf-8"))
    config["weapons"].pop()
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    message = (
        "model.safetensors has 138 abilities and 130 weapons, but 138 abilities and 129 weapons are named"
    )
    with pytest.raises(ValueError, match=message):
        LoadoutModel({**FILES, "config": tmp_path / "config.json"}, torch.device("cpu"))


def test_the_model_is_small_and_its_files_are_readable_by_all(model: LoadoutModel) -> None:
    assert sum(parameter.numel() for parameter in model.network.parameters()) < 300_000
    assert FILES["weights"].stat().st_mode & 0o777 == 0o644


def test_it_completes_held_out_builds_better_than_the_habits_of_their_weapon(model: LoadoutModel) -> None:
    recipe = Recipe()
    builds = train_model.read_builds(game.HERE / "builds.parquet", recipe)
    train, heldout = builds.only(~builds.heldout), builds.only(builds.heldout)
    assert not {tuple(s) for s in zip(heldout.weapons, map(tuple, heldout.sets), strict=True)} & {
        tuple(s) for s in zip(train.weapons, map(tuple, train.sets), strict=True)
    }
    draws = np.random.default_rng(1)
    seen = train_model.views_of(heldout.sets, recipe, draws)
    rates = completion.by_weapon(train.sets, train.weapons, 130)
    found = completion.report(model.network, rates, heldout.sets, seen, heldout.weapons, draws)
    assert found["random"] < 0.1
    assert found["model"] > found["weapon"] + 0.1
    assert found["model"] > found["weapon_and_lower_levels"] + 0.02


def test_recovery_counts_what_was_removed_and_nothing_in_view() -> None:
    def scores(seen: list[list[int]], weapons: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.tile(-np.arange(138.0), (len(seen), 1))  # the lowest index first

    # of 1, 2, 3 all are among the first three candidates; of 0 it is the first; of 9 it is not
    sets, seen = [[0, 1, 2, 3], [0, 1, 2, 9], [0, 9]], [[0], [1, 2, 9], [0]]
    assert completion.recovered(scores, sets, seen, np.zeros(3, np.int64)) == pytest.approx((1 + 1 + 0) / 3)


def test_training_learns_which_tokens_come_together() -> None:
    """A world of one rule: comeback always with haunt, tenacity with ninja_squid."""
    recipe = Recipe(width=16, n_layers=1, batch=32, steps=150, rate=1e-2, null_share=0)
    sets = [[0, 5], [3, 6]] * 50
    builds = train_model.Builds(sets, np.zeros(100, np.int64), np.zeros(100, bool))
    network: SetCompletion = train_model.fit(builds, recipe)
    chance = torch.sigmoid(
        network(*padded([[0], [3]], completion.NULL_INDEX), torch.zeros(2, dtype=torch.int64))
    )
    assert chance[0, 5] > 0.9 > 0.1 > chance[0, 6]
    assert chance[1, 6] > 0.9 > 0.1 > chance[1, 5]
