"""The builds: legal, reproducible, and drawn as `planted.json` says."""

import itertools
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from examples.loadout import chances, expectations, game, generate
from examples.loadout.game import Weapon
from examples.loadout.planted import planted, stratified
from examples.loadout.regularities import ARCHETYPES, COUPLINGS, HABITS, N_BUILDS, SEED

Row = dict[str, Any]
KITS = {kit.weapon: kit for kit in game.weapons()}


@pytest.fixture(scope="module")
def builds() -> list[Row]:
    rows: list[Row] = pq.read_table(game.HERE / "builds.parquet").to_pylist()
    return rows


@pytest.fixture(scope="module")
def truth() -> Row:
    found: Row = json.loads((game.HERE / "planted.json").read_text(encoding="utf-8"))
    return found


def test_the_committed_builds_are_what_the_generator_draws(truth: Row, builds: list[Row]) -> None:
    drawn = generate.table(generate.draw(N_BUILDS, SEED))
    assert generate.content_hash(drawn) == truth["content"]
    assert drawn.to_pylist() == builds


def test_the_same_seed_draws_the_same_builds_on_every_machine() -> None:
    assert generate.content_hash(generate.table(generate.draw(50, 7))).startswith("ede786aa3853fe0a")


def test_every_drawn_build_is_legal_and_has_57_ap() -> None:
    for drawn in generate.draw(2000, 3):
        assert game.faults(drawn.build) == []
        assert sum(game.ability_points(drawn.build).values()) == 57


def test_a_fifth_of_the_builds_are_copies_and_share_their_id(builds: list[Row]) -> None:
    ids = {(row["weapon"], *row["tokens"]): row["build"] for row in builds}
    assert all(ids[row["weapon"], *row["tokens"]] == row["build"] for row in builds)
    assert len(set(ids.values())) == len(ids)
    assert 0.18 < 1 - len(ids) / len(builds) < 0.23


def test_the_attributes_are_those_of_the_kits() -> None:
    rows = pq.read_table(game.HERE / "weapon_attributes.parquet").to_pylist()
    assert {row["weapon"]: (row["class"], row["sub"], row["special"]) for row in rows} == {
        kit.weapon: (kit.weapon_class, kit.sub, kit.special) for kit in game.weapons()
    }
    assert rows[8] == {
        "weapon": "Splattershot",
        "class": "shooter",
        "sub": "Suction Bomb",
        "special": "Trizooka",
    }


def rate(rows: list[Row], token: str) -> float:
    return sum(token in row["tokens"] for row in rows) / len(rows)


def standard_error(rows: list[Row], expected: float) -> float:
    """Of a rate among these builds, each counted as often as it was copied: n becomes n^2 / sum of n_u^2."""
    copies = Counter(row["build"] for row in rows)
    effective = len(rows) ** 2 / sum(n * n for n in copies.values())
    return math.sqrt(expected * (1 - expected) / effective)


def test_tokens_are_as_frequent_as_expected_in_every_class(truth: Row, builds: list[Row]) -> None:
    """1,656 comparisons: of normal deviates about 5 would be beyond 3 and none beyond 5."""
    by_class = {
        name: [row for row in builds if KITS[row["weapon"]].weapon_class == name]
        for name in {kit.weapon_class for kit in game.weapons()}
    }
    away = []
    for token, expected in truth["tokens"].items():
        for name, p in expected["by_class"].items():
            rows = by_class[name]
            if p * len(rows) >= 10:
                away.append((rate(rows, token) - p) / standard_error(rows, p))
    assert len(away) > 700
    assert max(map(abs, away)) < 5
    assert np.std(away) == pytest.approx(1.0, abs=0.15)


def test_archetypes_are_as_frequent_as_expected(truth: Row, builds: list[Row]) -> None:
    counts = Counter(row["archetype"] for row in builds)
    assert set(counts) == set(truth["archetypes"]) == set(ARCHETYPES)
    for name, record in truth["archetypes"].items():
        p = record["expected"]["rate"]
        assert counts[name] / len(builds) == pytest.approx(p, abs=4 * standard_error(builds, p))


def test_every_weapon_has_its_share_of_each_archetype(truth: Row) -> None:
    of = [record["expected"]["by_weapon"] for record in truth["archetypes"].values()]
    for kit in game.weapons():
        assert sum(by_weapon[kit.weapon] for by_weapon in of) == pytest.approx(1, abs=1e-4)


def test_the_document_lists_every_constant_that_is_drawn_from(truth: Row) -> None:
    assert [(h["value"], h["ability"], h["factor"]) for h in truth["habits"]] == [
        (habit.value, habit.ability, habit.factor) for habit in HABITS
    ]
    assert [(c["main_only"], c["ability"], c["factor"]) for c in truth["couplings"]] == [
        (coupling.main_only, coupling.ability, coupling.factor) for coupling in COUPLINGS
    ]
    known = {"weapon": set(KITS)} | {
        name: {kit.attribute(name) for kit in game.weapons()} for name in ("class", "sub", "special")
    }
    for habit in HABITS:
        assert habit.value in known[habit.attribute]
        assert habit.ability in game.STACKABLE or habit.ability in game.PIECE_OF


def by_enumeration(
    weights: dict[str, float], n_mains: int, n_subs: int, ability: str, threshold: int
) -> float:
    """P(AP >= threshold) from the urn by all sequences of draws, ability or other."""
    a = weights[ability]
    total, reached = sum(weights.values()), 0.0
    for draws in itertools.product((True, False), repeat=n_mains + n_subs):
        chance, hits = 1.0, 0
        for i, hit in enumerate(draws):
            chance *= ((a + hits) if hit else (total - a + i - hits)) / (total + i)
            hits += hit
        points = 10 * sum(draws[:n_mains]) + 3 * sum(draws[n_mains:])
        reached += chance * (points >= threshold)
    return reached


@pytest.mark.parametrize(("n_mains", "n_subs"), [(0, 5), (2, 4), (3, 9)])
def test_the_closed_form_of_an_urn_is_the_sum_over_all_draws(n_mains: int, n_subs: int) -> None:
    weights = {"swim_speed_up": 1.3, "run_speed_up": 0.4, "quick_respawn": 2.3}
    levels = expectations.urn_levels(1.3, 2.7, n_mains, n_subs, 0)
    for threshold, found in zip(game.THRESHOLDS, levels, strict=True):
        assert found == pytest.approx(by_enumeration(weights, n_mains, n_subs, "swim_speed_up", threshold))


@pytest.mark.parametrize("name", ["Slosher", "Splat Roller", "Hydra Splatling"])
def test_builds_of_a_weapon_meet_their_closed_form(name: str) -> None:
    weapon, draws, n = KITS[name], np.random.default_rng(1), 3000
    counts: Counter[str] = Counter()
    for _ in range(n):
        archetype = generate.choose(chances.archetype_chances(weapon), draws)
        build = generate.draw_build(weapon, archetype, draws)
        counts.update(game.tokens_of(game.ability_points(build)))
    for token, p in expectations.all_chances(weapon).items():
        assert counts[token] / n == pytest.approx(p, abs=4.5 * math.sqrt(max(p * (1 - p), 1 / n) / n))


def test_a_charm_set_has_exactly_one_sub_of_each_charm() -> None:
    charms = ("ink_resistance_up", "quick_super_jump", "special_saver", "sub_resistance_up")
    draws = np.random.default_rng(0)
    for _ in range(200):
        points = game.ability_points(generate.draw_build(KITS["Splattershot"], "charm_set", draws))
        assert [points[charm] for charm in charms] == [3, 3, 3, 3]


def test_a_zombie_has_quick_respawn_of_twelve_or_more() -> None:
    draws = np.random.default_rng(0)
    drawn = [generate.draw_build(KITS["Slosher"], "zombie", draws) for _ in range(200)]
    assert all(game.ability_points(build)["quick_respawn"] >= 12 for build in drawn)


def stratified_difference(rows: list[Row], exposed: str, token: str, through: str) -> tuple[float, float]:
    """Crude and Mantel-Haenszel difference in the rate of a token, counted from the builds."""

    def is_exposed(row: Row) -> bool:
        kind, _, value = exposed.partition("=")
        return exposed.removeprefix("token:") in row["tokens"] if not value else attribute(row, kind) == value

    def attribute(row: Row, name: str) -> str:
        return KITS[row["weapon"]].attribute(name)

    def stratum(row: Row) -> Any:
        is_token = through.startswith("token:")
        return through.removeprefix("token:") in row["tokens"] if is_token else attribute(row, through)

    strata: dict[Any, list[list[Row]]] = {}
    for row in rows:
        strata.setdefault(stratum(row), [[], []])[is_exposed(row)].append(row)
    flat = [[row for s in strata.values() for row in s[i]] for i in (0, 1)]
    weighted = weights = 0.0
    for others, those in strata.values():
        if others and those:
            weight = len(others) * len(those) / (len(others) + len(those))
            weighted += weight * (rate(those, token) - rate(others, token))
            weights += weight
    return rate(flat[1], token) - rate(flat[0], token), weighted / weights


def test_what_is_confounded_looks_it_and_does_not_survive_stratification(
    truth: Row, builds: list[Row]
) -> None:
    assert len(truth["confounded"]) == 5
    for case in truth["confounded"]:
        expected = case["expected"]
        assert abs(expected["crude"]) > 0.04
        assert abs(expected["share_surviving"]) < 0.5
        crude, adjusted = stratified_difference(builds, case["effect_of"], case["on"], case["through"])
        assert crude == pytest.approx(expected["crude"], abs=0.08 if "weapon=" in case["effect_of"] else 0.03)
        assert adjusted == pytest.approx(
            expected["adjusted"], abs=0.08 if "weapon=" in case["effect_of"] else 0.03
        )


def test_an_effect_of_a_weapon_alone_survives_stratification(truth: Row, builds: list[Row]) -> None:
    (case,) = truth["not_confounded"]
    assert case["expected"]["share_surviving"] > 0.9
    crude, adjusted = stratified_difference(builds, case["effect_of"], case["on"], case["through"])
    assert adjusted > 0.75 * crude


def test_expectations_of_some_weapons_can_be_had_quickly() -> None:
    few: list[Weapon] = [KITS["Splat Roller"], KITS["Splattershot"]]
    found = planted(few)
    rate_of = found["tokens"]["ninja_squid"]
    share = found["weapons"]
    mean = sum(share[kit.weapon] * rate_of["by_class"][kit.weapon_class] for kit in few)
    assert rate_of["rate"] == pytest.approx(mean, abs=1e-4)
    assert found["confounded"][1]["expected"] is None  # no charger among them


def test_the_document_is_that_of_the_constants_and_closed_forms_of_today(truth: Row) -> None:
    """A class stands for all: what is expected of its six weapons does not depend on the others."""
    splatanas = [kit for kit in game.weapons() if kit.weapon_class == "splatana"]
    found = json.loads(json.dumps(planted(splatanas)))
    for name in ("thresholds", "copy_share", "slot_odds", "urn_weights"):
        assert found[name] == truth[name]
    for token, expected in found["tokens"].items():
        assert expected["by_class"]["splatana"] == pytest.approx(
            truth["tokens"][token]["by_class"]["splatana"], abs=2e-5
        )
    for name, archetype in found["archetypes"].items():
        committed = truth["archetypes"][name]
        assert {k: v for k, v in archetype.items() if k != "expected"} == {
            k: v for k, v in committed.items() if k != "expected"
        }
        by_weapon = committed["expected"]["by_weapon"]
        for weapon, rate_of in archetype["expected"]["by_weapon"].items():
            assert rate_of == pytest.approx(by_weapon[weapon], abs=2e-5)
    for name in ("confounded", "not_confounded"):
        asked = [{k: v for k, v in case.items() if k != "expected"} for case in truth[name]]
        assert [{k: v for k, v in case.items() if k != "expected"} for case in found[name]] == asked


def test_a_stratified_difference_weighs_strata_by_both_sides() -> None:
    """Two strata: 0.1 exposed against 0.3 with a difference of 0.5, 0.4 against 0.2 with one of 0; a third is alone.

    Weights are 0.1 x 0.3 / 0.4 = 0.075 and 0.4 x 0.2 / 0.6 = 2/15.
    """
    strata = [(0.1, 0.09, 0.3, 0.12), (0.4, 0.2, 0.2, 0.1), (0.0, 0.0, 0.5, 0.5)]
    assert stratified(strata) == pytest.approx(0.075 * 0.5 / (0.075 + 2 / 15))
    assert stratified([(0.0, 0.0, 0.5, 0.5)]) is None
