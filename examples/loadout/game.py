"""The rules of the game: abilities, gear, and how a build becomes tokens.

A build is three pieces of gear, each with one main ability (10 AP) and three subs (3 AP): 57 AP in all. The 14
stackable abilities fit every slot; the 12 others only the main slot of one piece. A stackable ability becomes
tokens in a thermometer code, `swim_speed_up_3`, `swim_speed_up_6` and so on up to the AP there are.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent

Piece = Literal["head", "clothes", "shoes"]
PIECES: tuple[Piece, ...] = ("head", "clothes", "shoes")

STACKABLE = (
    "ink_recovery_up", "ink_resistance_up", "ink_saver_main", "ink_saver_sub", "intensify_action",
    "quick_respawn", "quick_super_jump", "run_speed_up", "special_charge_up", "special_power_up",
    "special_saver", "sub_power_up", "sub_resistance_up", "swim_speed_up",
)  # fmt: skip
MAIN_ONLY: dict[Piece, tuple[str, ...]] = {
    "head": ("comeback", "last_ditch_effort", "opening_gambit", "tenacity"),
    "clothes": ("ability_doubler", "haunt", "ninja_squid", "respawn_punisher", "thermal_ink"),
    "shoes": ("drop_roller", "object_shredder", "stealth_jump"),
}
PIECE_OF = {ability: piece for piece, abilities in MAIN_ONLY.items() for ability in abilities}

THRESHOLDS = (3, 6, 12, 15, 21, 29, 38, 51, 57)
"""AP at which a stackable ability gets its next token."""
MAIN_AP, SUB_AP = 10, 3
N_SUBS = 3
"""Sub slots of a piece."""
TOTAL_AP = 57

TOKENS = (
    *(ability for piece in PIECES for ability in MAIN_ONLY[piece]),
    *(f"{ability}_{threshold}" for ability in STACKABLE for threshold in THRESHOLDS),
)
"""Every token there is, in the order of a sample: 12 without a level, then 14 x 9."""


@dataclass(frozen=True)
class Gear:
    """One piece: the ability in its main slot and those in its three sub slots."""

    main: str
    subs: tuple[str, str, str]


@dataclass(frozen=True)
class Build:
    """What a player wears."""

    head: Gear
    clothes: Gear
    shoes: Gear

    @property
    def pieces(self) -> dict[Piece, Gear]:
        """The gear by where it is worn."""
        return {"head": self.head, "clothes": self.clothes, "shoes": self.shoes}


@dataclass(frozen=True)
class Weapon:
    """A kit: a main weapon with its sub weapon and special."""

    id: int
    weapon: str
    weapon_class: str
    sub: str
    special: str

    def attribute(self, name: str) -> str:
        """Its `weapon` (the name itself), `class`, `sub` or `special`."""
        return {
            "weapon": self.weapon,
            "class": self.weapon_class,
            "sub": self.sub,
            "special": self.special,
        }[name]


@cache
def weapons() -> tuple[Weapon, ...]:
    """The 130 kits, in the order of `weapons.csv`."""
    with (HERE / "weapons.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(Weapon(int(r["id"]), r["weapon"], r["class"], r["sub"], r["special"]) for r in rows)


def build_of(mains: Sequence[str], subs: Sequence[str]) -> Build:
    """A build from three mains (head, clothes, shoes) and nine subs, three to a piece in their order."""
    assert len(mains) == len(PIECES), "a build has three main abilities"
    assert len(subs) == N_SUBS * len(PIECES), "a build has nine sub abilities"
    gear = [Gear(main, (subs[3 * i], subs[3 * i + 1], subs[3 * i + 2])) for i, main in enumerate(mains)]
    return Build(*gear)


def faults(build: Build) -> list[str]:
    """What the rules forbid in a build; an empty list for a legal one."""
    found = []
    for piece, gear in build.pieces.items():
        if gear.main not in STACKABLE and PIECE_OF.get(gear.main) != piece:
            where = f"belongs on the {PIECE_OF[gear.main]}" if gear.main in PIECE_OF else "is no ability"
            found.append(f"{piece}: main {gear.main!r} {where}")
        found += [f"{piece}: sub {sub!r} is not stackable" for sub in gear.subs if sub not in STACKABLE]
    return found


def ability_points(build: Build) -> dict[str, int]:
    """AP of every stackable ability present; a main-only ability counts its 10."""
    points: Counter[str] = Counter()
    for gear in build.pieces.values():
        points[gear.main] += MAIN_AP
        for sub in gear.subs:
            points[sub] += SUB_AP
    return dict(points)


def tokens_of(points: dict[str, int]) -> list[str]:
    """The tokens of a build given its AP by ability, in the order of `TOKENS`."""
    main_only = [a for piece in PIECES for a in MAIN_ONLY[piece] if a in points]
    levelled = [f"{a}_{t}" for a in STACKABLE if a in points for t in THRESHOLDS if t <= points[a]]
    return main_only + levelled
