"""What is planted: the constants that builds are drawn from, and that `planted.json` lists.

Everything is a factor on odds or on weights, so that the generator's expectations have a closed form
(`expectations.py`) and no constant is written twice. A build is drawn in this order:

1. a weapon, by its popularity;
2. an archetype, with the odds `prior` x factors of the weapon's traits and attributes;
3. the main slot of each piece: a main-only ability, or `free` for a stackable one. The odds are `SLOT_ODDS` x those
   of the archetype x the weapon's habits; given weapon and archetype the three slots are independent;
4. the archetype's pack: subs that it always has;
5. the free mains, then the free subs, one after the other from an urn of the 14 stackable abilities: the weight of
   an ability is `URN_WEIGHTS` x archetype x habits x couplings with the main-only abilities just drawn, scaled to
   the archetype's `spread` in all; a drawn ability goes back with one more, so builds concentrate on a few.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from examples.loadout.game import Piece

FREE = "free"
"""A main slot that holds a stackable ability."""

N_BUILDS = 15_000
SEED = 0
COPY_SHARE = 0.2
"""Chance that a build is an exact copy of an earlier one, any of them alike. A popular build is copied more, and
the copying moves no expectation."""

SLOT_ODDS: dict[Piece, dict[str, float]] = {
    "head": {
        "comeback": 2.8, "last_ditch_effort": 0.7, "opening_gambit": 0.1, "tenacity": 0.5, FREE: 1.0,
    },
    "clothes": {
        "ability_doubler": 0.02, "haunt": 0.12, "ninja_squid": 0.4, "respawn_punisher": 0.15,
        "thermal_ink": 0.12, FREE: 2.0,
    },
    "shoes": {"drop_roller": 0.22, "object_shredder": 0.2, "stealth_jump": 3.0, FREE: 1.0},
}  # fmt: skip

URN_WEIGHTS = {
    "ink_recovery_up": 0.7, "ink_resistance_up": 1.5, "ink_saver_main": 0.9, "ink_saver_sub": 0.7,
    "intensify_action": 0.9, "quick_respawn": 0.7, "quick_super_jump": 1.5, "run_speed_up": 0.7,
    "special_charge_up": 0.9, "special_power_up": 0.4, "special_saver": 1.2, "sub_power_up": 0.4,
    "sub_resistance_up": 1.3, "swim_speed_up": 1.6,
}  # fmt: skip


@dataclass(frozen=True)
class Pack:
    """Subs that come with an archetype, and how often this pack among its packs."""

    subs: Mapping[str, int]
    share: float


@dataclass(frozen=True)
class Archetype:
    """A way of building gear."""

    about: str
    prior: float
    packs: tuple[Pack, ...]
    by: Mapping[str, Mapping[str | int, float]] = field(default_factory=dict)
    """Trait or attribute of the weapon -> its value -> factor on the odds; values not named have factor 1, or that
    of the name `*`."""
    slots: Mapping[str, float] = field(default_factory=dict)
    """Main-only ability (or `free`, in all three slots) -> factor on its odds."""
    urn: Mapping[str, float] = field(default_factory=dict)
    """Stackable ability -> factor on its weight."""
    spread: float = 4.0
    """Sum of the urn's weights: small makes few abilities with many AP, large many with few."""


CHARMS = ("ink_resistance_up", "quick_super_jump", "special_saver", "sub_resistance_up")
BOMBS = ("Splat Bomb", "Suction Bomb", "Burst Bomb", "Fizzy Bomb", "Autobomb", "Torpedo")

ARCHETYPES = {
    "zombie": Archetype(
        about="dies, comes back at once and jumps in: quick_respawn of 12 AP or more, comeback, stealth_jump",
        prior=1.2,
        by={
            "death_tolerance": {0: 0.1, 1: 0.8, 2: 2.5},
            "job": {"slayer": 1.3, "skirmish": 1.6, "anchor": 0.2},
        },
        slots={"comeback": 5, "stealth_jump": 2.5, "respawn_punisher": 0},
        urn={"quick_respawn": 4},
        packs=(
            Pack({"quick_respawn": 4}, 0.4),
            Pack({"quick_respawn": 5}, 0.35),
            Pack({"quick_respawn": 6}, 0.25),
        ),
        spread=3,
    ),
    "stealth": Archetype(
        about="swims unseen: ninja_squid with swim_speed_up of 12 AP or more, and stealth_jump",
        prior=0.8,
        by={"stealth": {0: 0.02, 1: 0.1, 2: 0.5, 3: 1.5, 4: 3.5}},
        slots={"ninja_squid": 40, "stealth_jump": 2},
        urn={"swim_speed_up": 1.5},
        packs=(Pack({"swim_speed_up": 4}, 0.6), Pack({"swim_speed_up": 5}, 0.4)),
    ),
    "anchor": Archetype(
        about="stays back and must not die: respawn_punisher, with object_shredder or ink_saver_main",
        prior=0.8,
        by={
            "range": {0: 0.01, 1: 0.05, 2: 0.3, 3: 1.2, 4: 3},
            "job": {"anchor": 3, "slayer": 0.5, "assassin": 0.1},
        },
        slots={"respawn_punisher": 40, "object_shredder": 6, "comeback": 0.15, "stealth_jump": 0.3},
        urn={"ink_saver_main": 3, "ink_recovery_up": 1.5},
        packs=(
            Pack({}, 0.5),
            Pack({"special_charge_up": 2}, 0.2),
            Pack({"ink_resistance_up": 2}, 0.3),
        ),
    ),
    "special_farmer": Archetype(
        about="charges its special again and again: special_charge_up of 12 AP or more, special_saver, tenacity",
        prior=0.7,
        by={
            "job": {"support": 3, "assassin": 0.3},
            "special": {"Tacticooler": 4, "Kraken Royale": 2, "Trizooka": 1.5, "Booyah Bomb": 1.5, "Zipcaster": 0.5},
        },
        slots={"tenacity": 6, FREE: 1.5},
        urn={"special_charge_up": 3, "special_saver": 2, "special_power_up": 2.5},
        packs=(
            Pack({"special_charge_up": 4}, 0.4),
            Pack({"special_charge_up": 5, "special_saver": 1}, 0.3),
            Pack({"special_charge_up": 4, "special_saver": 2}, 0.3),
        ),
    ),
    "bomb_zoner": Archetype(
        about="throws bombs: ink_saver_sub of 12 AP or more with ink_recovery_up, last_ditch_effort",
        prior=0.7,
        by={"sub": {**dict.fromkeys(BOMBS, 2.0), "*": 0.2}, "ink_hunger": {0: 1.3, 1: 1.3, 4: 0.5}},
        slots={"last_ditch_effort": 8},
        urn={"ink_saver_sub": 3, "ink_recovery_up": 3, "sub_power_up": 2},
        packs=(
            Pack({"ink_saver_sub": 4}, 0.35),
            Pack({"ink_saver_sub": 4, "ink_recovery_up": 2}, 0.4),
            Pack({"ink_saver_sub": 5, "ink_recovery_up": 1}, 0.25),
        ),
    ),
    "beakon_support": Archetype(
        about="places Squid Beakons for the team: sub_power_up with ink_saver_sub",
        prior=0.5,
        by={"sub": {"Squid Beakon": 6, "*": 0}},
        urn={"sub_power_up": 5, "ink_saver_sub": 2, "quick_super_jump": 1.5},
        packs=(Pack({"sub_power_up": 3, "ink_saver_sub": 2}, 0.5), Pack({"sub_power_up": 4}, 0.5)),
    ),
    "charm_set": Archetype(
        about="exactly one sub (3 AP) each of four abilities that are worth most at the first: " + ", ".join(CHARMS),
        prior=0.9,
        urn=dict.fromkeys(CHARMS, 0),
        packs=(Pack(dict.fromkeys(CHARMS, 1), 1.0),),
        spread=4,
    ),
    "frontline": Archetype(
        about="fights in front: swim_speed_up and intensify_action in small doses, comeback",
        prior=1.5,
        by={
            "job": {"slayer": 2, "skirmish": 1.5, "assassin": 1.2, "anchor": 0.3},
            "class": {"splatling": 0.2, "charger": 0.3, "roller": 0.3, "brush": 0.3},
        },
        slots={"comeback": 1.5, "stealth_jump": 1.5},
        urn={"swim_speed_up": 2, "intensify_action": 1.5, "quick_respawn": 1.3},
        packs=(Pack({"swim_speed_up": 1, "intensify_action": 1}, 0.6), Pack({"swim_speed_up": 2}, 0.4)),
    ),
    "strafer": Archetype(
        about="walks while it shoots: run_speed_up of 12 AP or more",
        prior=0.25,
        by={"class": {"splatling": 8, "dualies": 1.5, "roller": 0.05, "brush": 0.05, "charger": 0.3}},
        urn={"run_speed_up": 8},
        packs=(
            Pack({"run_speed_up": 4}, 0.4),
            Pack({"run_speed_up": 5}, 0.3),
            Pack({"run_speed_up": 4, "intensify_action": 1}, 0.3),
        ),
    ),
    "pure_stack": Archetype(
        about="one ability in nearly every slot, up to 57 AP",
        prior=0.08,
        slots={FREE: 30},
        packs=(Pack({}, 1.0),),
        spread=0.4,
    ),
    "casual": Archetype(
        about="whatever the gear came with: no pack, many abilities with few AP each",
        prior=0.6,
        packs=(Pack({}, 1.0),),
        spread=14,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Habit:
    """Wearers of weapons with this value of an attribute favour an ability: a factor on its odds or weight."""

    attribute: str
    """`weapon`, `class`, `sub` or `special`."""
    value: str
    ability: str
    factor: float


HABITS = (
    Habit("class", "splatling", "run_speed_up", 4),
    Habit("class", "roller", "ninja_squid", 5),
    Habit("class", "brush", "ninja_squid", 4),
    Habit("class", "charger", "respawn_punisher", 2.5),
    Habit("class", "charger", "ink_saver_main", 2),
    Habit("class", "charger", "quick_super_jump", 2.5),
    Habit("class", "blaster", "intensify_action", 4),
    Habit("class", "blaster", "object_shredder", 5),
    Habit("class", "shooter", "intensify_action", 1.4),
    Habit("class", "slosher", "ink_saver_main", 2),
    Habit("class", "brella", "quick_respawn", 1.5),
    Habit("class", "stringer", "ink_recovery_up", 2.5),
    Habit("class", "splatana", "stealth_jump", 2),
    Habit("class", "dualies", "run_speed_up", 1.5),
    Habit("sub", "Squid Beakon", "sub_power_up", 3),
    Habit("sub", "Burst Bomb", "ink_saver_sub", 2.5),
    Habit("sub", "Splash Wall", "ink_saver_sub", 1.5),
    Habit("sub", "Angle Shooter", "thermal_ink", 6),
    Habit("sub", "Point Sensor", "thermal_ink", 2.5),
    Habit("special", "Tacticooler", "special_charge_up", 3),
    Habit("special", "Tacticooler", "tenacity", 3),
    Habit("special", "Trizooka", "special_charge_up", 1.5),
    Habit("special", "Kraken Royale", "special_charge_up", 2),
    Habit("special", "Ink Vac", "special_power_up", 4),
    Habit("special", "Big Bubbler", "special_power_up", 4),
    Habit("special", "Tenta Missiles", "special_power_up", 3),
    Habit("special", "Super Chump", "special_power_up", 2.5),
    Habit("special", "Zipcaster", "special_saver", 2),
    Habit("special", "Triple Splashdown", "quick_super_jump", 2),
    Habit("weapon", "Slosher", "stealth_jump", 4),
    Habit("weapon", "Slosher Deco", "stealth_jump", 4),
    Habit("weapon", "Slosher", "comeback", 1.7),
    Habit("weapon", "Slosher Deco", "comeback", 1.7),
    Habit("weapon", "Splatana Stamper", "stealth_jump", 1.5),
    Habit("weapon", "Nautilus 47", "ninja_squid", 0.05),
    Habit("weapon", "Nautilus 79", "ninja_squid", 0.05),
    Habit("weapon", "Squeezer", "intensify_action", 4),
    Habit("weapon", "Foil Squeezer", "intensify_action", 4),
    Habit("weapon", "Jet Squelcher", "run_speed_up", 4),
    Habit("weapon", "Undercover Brella", "ninja_squid", 5),
    Habit("weapon", "Dynamo Roller", "ink_saver_main", 5),
    Habit("weapon", "Gold Dynamo Roller", "ink_saver_main", 5),
    Habit("weapon", "Carbon Roller", "sub_resistance_up", 4),
    Habit("weapon", "N-ZAP '85", "haunt", 5),
)


@dataclass(frozen=True)
class Coupling:
    """Who wears a main-only ability favours a stackable one, or leaves it: a factor on its weight in the urn."""

    main_only: str
    ability: str
    factor: float
    why: str


COUPLINGS = (
    Coupling("ninja_squid", "swim_speed_up", 4, "ninja_squid slows swimming, which swim_speed_up makes good"),
    Coupling("respawn_punisher", "quick_respawn", 0.15, "respawn_punisher takes 85 % of quick_respawn away"),
    Coupling("respawn_punisher", "special_saver", 0.3, "respawn_punisher works against special_saver"),
    Coupling("object_shredder", "ink_saver_main", 0.3, "an anchor has one or the other"),
    Coupling("last_ditch_effort", "ink_saver_main", 0.4, "last_ditch_effort saves ink as well"),
    Coupling("tenacity", "special_charge_up", 0.7, "tenacity fills the special as well"),
    Coupling(
        "stealth_jump", "quick_super_jump", 1.5, "stealth_jump makes a jump longer, quick_super_jump shorter"
    ),
    Coupling(
        "thermal_ink", "sub_resistance_up", 3, "who tracks enemies plays against their trackers as well"
    ),
)


@dataclass(frozen=True)
class Confounded:
    """Two things that go together because of a third, as far as the constants above make them."""

    kind: Literal[
        "weapon_effect_is_ability_habit", "ability_effect_is_weapon_habit", "weapon_effect_is_its_kit"
    ]
    effect_of: str
    """What seems to matter: `class=roller`, `token:respawn_punisher`, `weapon=.96 Gal`."""
    on: str
    """The token whose presence it seems to raise or lower."""
    through: str
    """What is really behind it: a main-only token, or an attribute of the weapon."""
    why: str


CONFOUNDED = (
    Confounded(
        "weapon_effect_is_ability_habit",
        "class=roller",
        "swim_speed_up_12",
        "token:ninja_squid",
        "rollers have no habit of swim_speed_up; they wear ninja_squid, which goes with it whatever the weapon",
    ),
    Confounded(
        "weapon_effect_is_ability_habit",
        "class=charger",
        "special_saver_6",
        "token:respawn_punisher",
        "chargers do not avoid special_saver; they wear respawn_punisher, which works against it",
    ),
    Confounded(
        "ability_effect_is_weapon_habit",
        "token:respawn_punisher",
        "quick_super_jump_12",
        "class",
        "chargers have both habits; respawn_punisher does nothing to quick_super_jump",
    ),
    Confounded(
        "weapon_effect_is_its_kit",
        "weapon=Splattershot Pro",
        "thermal_ink",
        "sub",
        "it is the habit of every weapon with an Angle Shooter, and this is the most popular of them",
    ),
    Confounded(
        "weapon_effect_is_its_kit",
        "weapon=.96 Gal",
        "special_power_up_3",
        "special",
        "it is the habit of every weapon with an Ink Vac",
    ),
)
NOT_CONFOUNDED = (
    Confounded(
        "weapon_effect_is_its_kit",
        "weapon=Squeezer",
        "intensify_action_12",
        "special",
        "a habit of this weapon alone: it is there among weapons with the same special as well",
    ),
)
"""Effects of the same form that no third thing explains, so that a method which explains everything away is caught."""
