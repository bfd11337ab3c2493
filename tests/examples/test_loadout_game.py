"""The rules of the game: what a build is worth in AP, its tokens, and what is not legal."""

import itertools
from collections import Counter

import pytest

from examples.loadout import game
from examples.loadout.chances import traits
from examples.loadout.game import Build, Gear, build_of

ZOMBIE = Build(
    Gear("comeback", ("quick_respawn", "quick_respawn", "swim_speed_up")),
    Gear("quick_respawn", ("quick_respawn", "swim_speed_up", "ink_saver_main")),
    Gear("stealth_jump", ("quick_respawn", "ink_saver_main", "special_saver")),
)


def test_a_main_is_worth_ten_and_a_sub_three() -> None:
    assert game.ability_points(ZOMBIE) == {
        "comeback": 10,
        "quick_respawn": 22,
        "swim_speed_up": 6,
        "stealth_jump": 10,
        "ink_saver_main": 6,
        "special_saver": 3,
    }


def test_tokens_are_a_thermometer_and_main_only_abilities_are_bare() -> None:
    assert game.tokens_of(game.ability_points(ZOMBIE)) == [
        "comeback",
        "stealth_jump",
        "ink_saver_main_3",
        "ink_saver_main_6",
        "quick_respawn_3",
        "quick_respawn_6",
        "quick_respawn_12",
        "quick_respawn_15",
        "quick_respawn_21",
        "special_saver_3",
        "swim_speed_up_3",
        "swim_speed_up_6",
    ]


def test_a_build_of_one_ability_has_57_ap_and_all_nine_of_its_tokens() -> None:
    build = build_of(["swim_speed_up"] * 3, ["swim_speed_up"] * 9)
    assert game.ability_points(build) == {"swim_speed_up": game.TOTAL_AP}
    levels = (3, 6, 12, 15, 21, 29, 38, 51, 57)
    assert game.tokens_of({"swim_speed_up": 57}) == [f"swim_speed_up_{level}" for level in levels]


def test_each_threshold_is_first_met_by_the_slots_that_the_game_needs() -> None:
    """AP are 10 m + 3 s; loadout-system.md section 8.1 lists the cheapest slots for each threshold."""
    reachable = {10 * m + 3 * s for m, s in itertools.product(range(4), range(10))}
    first = {t: min(points for points in reachable if points >= t) for t in game.THRESHOLDS}
    assert first == {3: 3, 6: 6, 12: 12, 15: 15, 21: 21, 29: 29, 38: 38, 51: 51, 57: 57}
    assert not {17, 40, 43, 46} & reachable


def test_there_are_138_tokens_of_26_abilities() -> None:
    assert len(game.TOKENS) == len(set(game.TOKENS)) == 12 + 14 * 9
    assert Counter(game.PIECE_OF.values()) == {"head": 4, "clothes": 5, "shoes": 3}


def test_a_legal_build_has_no_faults() -> None:
    assert game.faults(ZOMBIE) == []


@pytest.mark.parametrize(
    ("mains", "subs", "fault"),
    [
        (
            ["stealth_jump", "quick_respawn", "stealth_jump"],
            ["swim_speed_up"] * 9,
            "head: main 'stealth_jump' belongs on the shoes",
        ),
        (
            ["comeback", "comeback", "swim_speed_up"],
            ["swim_speed_up"] * 9,
            "clothes: main 'comeback' belongs on the head",
        ),
        (
            ["comeback", "haunt", "drop_roller"],
            ["swim_speed_up"] * 8 + ["haunt"],
            "shoes: sub 'haunt' is not stackable",
        ),
        (
            ["main_power_up", "haunt", "drop_roller"],
            ["swim_speed_up"] * 9,
            "head: main 'main_power_up' is no ability",
        ),
    ],
)
def test_what_the_slots_do_not_take_is_a_fault(mains: list[str], subs: list[str], fault: str) -> None:
    assert game.faults(build_of(mains, subs)) == [fault]


def test_a_build_has_three_mains_and_nine_subs() -> None:
    with pytest.raises(AssertionError, match="nine sub abilities"):
        build_of(["swim_speed_up"] * 3, ["swim_speed_up"] * 10)


def test_there_are_130_kits_of_65_main_weapons() -> None:
    kits = game.weapons()
    assert len(kits) == len({kit.weapon for kit in kits}) == len({kit.id for kit in kits}) == 130
    assert Counter(kit.weapon_class for kit in kits) == {
        "shooter": 28, "charger": 16, "blaster": 14, "splatling": 12, "slosher": 12, "dualies": 12, "roller": 10,
        "brella": 8, "brush": 6, "stringer": 6, "splatana": 6,
    }  # fmt: skip
    by_id = {kit.id: kit for kit in kits}
    assert all(by_id[kit.id - kit.id % 10].weapon_class == kit.weapon_class for kit in kits)
    assert {kit.id % 10 for kit in kits} == {0, 1}


def test_subs_and_specials_are_spread_over_the_kits_as_in_the_game() -> None:
    subs, specials = (Counter(kit.attribute(name) for kit in game.weapons()) for name in ("sub", "special"))
    assert len(subs) == 14
    assert len(specials) == 19
    assert (min(subs.values()), max(subs.values())) == (6, 12)
    assert min(specials.values()) >= 5
    assert max(specials.values()) <= 9


def test_both_kits_of_a_main_weapon_share_its_traits() -> None:
    of = traits()
    assert set(of) == {kit.id for kit in game.weapons()}
    assert all(of[kit] == of[kit - kit % 10] for kit in of)
