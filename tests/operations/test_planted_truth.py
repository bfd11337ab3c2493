"""What was planted in larger worlds is found, and nothing is found in shuffled ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.operations.family_heatmap import family_heatmap
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.token_interactions import token_interactions
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample
from saeinterp_mcp.store.open import open_store
from tests.worlds import import_world

N = 6000
SUPPRESSOR, CONFOUNDED, DIRECT, KIT = 0, 1, 2, 3
FIRST_SHUFFLED, N_SHUFFLED = 4, 30
HABIT_DRIVEN, ONE_MEMBER = FIRST_SHUFFLED + N_SHUFFLED, FIRST_SHUFFLED + N_SHUFFLED + 1
N_FEATURES = ONE_MEMBER + 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Builds where a token cuts the firing rate to a fifth, a family goes with a group, a kit is behind a weapon."""
    rng = np.random.default_rng(11)
    weapon = rng.choice(["a", "b", "c", "d"], N)
    quiet = rng.random(N) < 0.3
    # `habit` belongs to weapon a; alone it does nothing
    habit = rng.random(N) < np.where(weapon == "a", 0.8, 0.1)
    skill = rng.random(N) < 0.3
    strength = rng.lognormal(0.0, 0.5, (N, FIRST_SHUFFLED + N_SHUFFLED))
    rate = np.full((N, FIRST_SHUFFLED + N_SHUFFLED), 0.15)
    rate[:, SUPPRESSOR] = np.where(quiet, 0.02, 0.10)
    rate[:, CONFOUNDED] = np.where(weapon == "a", 0.5, 0.05)
    rate[:, DIRECT] = np.where(skill, 0.4, 0.1)
    rate[:, KIT] = np.where(np.isin(weapon, ["a", "b"]), 0.5, 0.02) * np.where(weapon == "b", 0.6, 1.0)
    more = np.stack([np.where(habit, 0.5, 0.05), np.where(weapon == "c", 0.5, 0.05)], 1)
    fires = rng.random(rate.shape) < rate
    fires = np.hstack([fires, rng.random(more.shape) < more])
    strength = np.hstack([strength, rng.lognormal(0.0, 0.5, more.shape)])
    samples = tuple(
        WorldSample(
            tuple(t for t, here in (("quiet", quiet[i]), ("habit", habit[i]), ("skill", skill[i])) if here),
            f"u{i}",
            {"weapon": str(weapon[i])},
        )
        for i in range(N)
    )
    activations = {
        (int(f), int(i), 0): float(strength[i, f]) for i, f in zip(*np.nonzero(fires), strict=True)
    }
    families = tuple(
        FamilyInfo(name=t, encoding="exclusive", levels=(1,), tokens={t: 1})
        for t in ("quiet", "habit", "skill")
    )
    kits = {
        "weapon": {"a": {"sub": "mine"}, "b": {"sub": "mine"}, "c": {"sub": "bomb"}, "d": {"sub": "bomb"}}
    }
    world = World("set", N_FEATURES, samples, activations, families, primary="weapon", attributes=kits)
    return open_store(import_world(world, tmp_path_factory.mktemp("planted")))


def row(sweep: Any, first: Any) -> dict[str, Any]:
    return next(dict(zip(sweep.columns, r, strict=True)) for r in sweep.rows if r[0] == first)


def test_a_suppressor_acting_on_the_firing_rate_is_found(store: Store) -> None:
    found = row(family_sweep(store, SUPPRESSOR, "quiet"), 1)
    # the truth: (0.02 - 0.10) * exp(0.125)
    assert found["effect_low"] <= -0.08 * np.exp(0.125) <= found["effect_high"] < 0
    assert found["q"] < 1e-6
    assert found["rate_ratio"] < 0.35
    suppressors = [r[0] for r in feature_overview(store, SUPPRESSOR).suppressors.rows]
    assert suppressors == ["quiet"]


def test_firing_rows_alone_would_have_missed_the_suppressor(store: Store) -> None:
    sweep = family_sweep(store, SUPPRESSOR, "quiet")
    overview = feature_overview(store, SUPPRESSOR)
    assert overview.firing.mean_when_firing is not None
    assert row(sweep, 1)["mean_when_firing"] == pytest.approx(overview.firing.mean_when_firing, rel=0.25)


def test_a_confounded_family_loses_its_effect_within_the_group(store: Store) -> None:
    sweep = family_sweep(store, CONFOUNDED, "habit")
    assert sweep.confounding is not None
    assert sweep.confounding.group == "weapon"
    assert sweep.confounding.crude is not None
    assert sweep.confounding.crude > 0.2
    assert sweep.confounding.share_surviving is not None
    assert abs(sweep.confounding.share_surviving) < 0.25
    assert any(w.startswith("confounded: held within weapon") for w in sweep.warnings)
    assert sweep.stratified_effect is not None
    assert sweep.stratified_effect.low is not None
    assert sweep.stratified_effect.high is not None
    assert sweep.stratified_effect.low < 0 < sweep.stratified_effect.high


def test_a_direct_effect_survives_within_the_group(store: Store) -> None:
    sweep = family_sweep(store, DIRECT, "skill")
    assert sweep.confounding is not None
    assert sweep.confounding.share_surviving == pytest.approx(1.0, abs=0.1)
    assert not any("confounded" in w for w in sweep.warnings)


def test_a_kit_behind_a_dominant_weapon_is_named(store: Store) -> None:
    sweep = group_sweep(store, KIT, "weapon")
    assert sweep.explained_by is not None
    assert (sweep.explained_by.value, sweep.explained_by.attribute, sweep.explained_by.attribute_value) == (
        "a",
        "sub",
        "mine",
    )


def test_what_a_kit_leaves_of_its_weapon_is_said(store: Store) -> None:
    found = group_sweep(store, KIT, "weapon").explained_by
    assert found is not None
    # the truth: weapon a fires at .5, its peer b at .3, the others at .02; strength exp(.125)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.28 * np.exp(0.125) <= found.high
    assert found.beyond_low is not None
    assert found.beyond_high is not None
    assert found.beyond_low <= 0.2 * np.exp(0.125) <= found.beyond_high


def test_a_weapon_effect_that_is_an_ability_habit_is_exposed(store: Store) -> None:
    sweep = group_sweep(store, HABIT_DRIVEN, "weapon")
    found = sweep.confounding
    assert found is not None
    assert (found.value, found.group) == ("a", "family:habit")
    assert found.crude is not None
    # the truth: weapon a has the habit at .8, the others at .1
    assert found.crude == pytest.approx(0.7 * 0.45 * np.exp(0.125), rel=0.15)
    assert found.share_surviving is not None
    assert abs(found.share_surviving) < 0.15
    assert any(w.startswith("confounded: held within family:habit") for w in sweep.warnings)


def test_a_weapon_effect_of_its_own_survives_the_habits(store: Store) -> None:
    found = group_sweep(store, CONFOUNDED, "weapon").confounding
    assert found is not None
    assert found.share_surviving == pytest.approx(1.0, abs=0.1)


def test_an_attribute_that_one_member_carries_is_exposed(store: Store) -> None:
    sweep = group_sweep(store, ONE_MEMBER, "sub")
    assert sweep.carried_by is not None
    assert (sweep.carried_by.value, sweep.carried_by.member) == ("bomb", "c")
    # the truth: 0 without weapon c, 0.225 exp(0.125) with it
    assert sweep.carried_by.effect_without == pytest.approx(0.0, abs=0.05)
    assert group_sweep(store, KIT, "sub").carried_by is None


def test_given_holds_a_condition_in_every_sweep(store: Store) -> None:
    given = group_sweep(store, HABIT_DRIVEN, "weapon", given="family:habit>=1")
    where = group_sweep(store, HABIT_DRIVEN, "weapon", where="family:habit>=1")
    assert given.rows == where.rows
    # with the habit held, no weapon is left that differs
    assert all(float(str(r[given.columns.index("q")])) > 0.05 for r in given.rows)
    assert (
        family_heatmap(store, DIRECT, "quiet", "skill", given="weapon=a").rows
        == family_heatmap(store, DIRECT, "quiet", "skill", where="weapon=a").rows
    )


def test_a_heatmap_and_a_pair_say_the_same_of_two_families(store: Store) -> None:
    for feature in (SUPPRESSOR, HABIT_DRIVEN):
        cell = next(
            dict(zip(h.columns, r, strict=True))
            for h in [family_heatmap(store, feature, "habit", "skill")]
            for r in h.rows
            if r[:2] == [1, 1]
        )
        pairs = token_interactions(store, feature, families=["habit", "skill"])
        pair = dict(zip(pairs.columns, pairs.rows[0], strict=True))
        for name in ("interaction", "rate_interaction"):
            for end in ("", "_low", "_high"):
                assert cell[name + end] == pytest.approx(pair[name + end]), name + end


def test_a_weapon_alone_is_not_explained_by_its_kit(store: Store) -> None:
    assert group_sweep(store, CONFOUNDED, "weapon").explained_by is None


def test_little_is_found_in_features_that_depend_on_nothing(store: Store) -> None:
    q = [
        row(family_sweep(store, f, "skill"), 1)["q"]
        for f in range(FIRST_SHUFFLED, FIRST_SHUFFLED + N_SHUFFLED)
    ]
    # one test each, so q is p: 30 tests at 5 % give 5 or fewer with probability 0.997
    assert sum(value < 0.05 for value in q) <= 5


def test_the_same_data_in_another_order_give_the_same_numbers(store: Store, tmp_path: Path) -> None:
    samples = tuple(WorldSample(("t",) if i % 3 else (), f"u{i}", {"g": f"v{i % 4}"}) for i in range(200))
    values = {(0, i, 0): 1.0 + i % 7 for i in range(0, 200, 2)}
    family = (FamilyInfo(name="t", encoding="exclusive", levels=(1,), tokens={"t": 1}),)
    order = np.random.default_rng(0).permutation(200).tolist()
    shuffled = World(
        "set",
        1,
        tuple(samples[i] for i in order),
        {(0, order.index(s), p): v for (_, s, p), v in values.items()},
        family,
    )
    straight = World("set", 1, samples, values, family)
    answers = []
    for i, world in enumerate((straight, shuffled)):
        made = open_store(import_world(world, tmp_path / str(i)))
        sweep = family_sweep(made, 0, "t")
        answers.append(sweep.model_dump(exclude={"evidence"}))
    assert answers[0] == answers[1]
