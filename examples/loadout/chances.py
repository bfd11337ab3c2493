"""Chances that the generator draws with: archetypes, main slots and urns, from the constants alone."""

import csv
from collections.abc import Collection, Mapping
from functools import cache
from typing import NamedTuple

from examples.loadout.game import HERE, PIECES, STACKABLE, Piece, Weapon, weapons
from examples.loadout.regularities import (
    ARCHETYPES,
    COUPLINGS,
    HABITS,
    SLOT_ODDS,
    URN_WEIGHTS,
)


class Traits(NamedTuple):
    """What a main weapon is like; the same for its two kits."""

    ink_hunger: int
    """0 to 4."""
    range: int
    """0 (touching) to 4 (sniper)."""
    stealth: int
    """How well it plays unseen, 0 to 4."""
    job: str
    """slayer, support, anchor, skirmish or assassin."""
    death_tolerance: int
    """How little a death costs, 0 to 2."""
    popularity: int
    """How often it is chosen, against the others."""


@cache
def traits() -> dict[int, Traits]:
    """The traits of every kit by its id; `traits.csv` has them by the id of the first kit of two."""
    found = {}
    with (HERE / "traits.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {name: int(text) for name, text in row.items() if name not in ("main_weapon", "job")}
            first = numbers.pop("main_weapon", int(row["main_weapon"]))
            found[first] = found[first + 1] = Traits(job=row["job"], **numbers)
    return found


def normalised(odds: Mapping[str, float]) -> dict[str, float]:
    """Odds as probabilities; what is impossible is left out."""
    total = sum(odds.values())
    return {name: value / total for name, value in odds.items() if value > 0}


@cache
def weapon_chances() -> dict[str, float]:
    """Probability of each weapon: the popularity of its main weapon, the first kit three times to the other's two."""
    return normalised({w.weapon: traits()[w.id].popularity * (2 if w.id % 10 else 3) for w in weapons()})


def _value(weapon: Weapon, name: str) -> str | int:
    of_weapon = traits()[weapon.id]._asdict()
    return of_weapon[name] if name in of_weapon else weapon.attribute(name)


@cache
def archetype_chances(weapon: Weapon) -> dict[str, float]:
    """P(archetype | weapon)."""
    odds = {}
    for name, archetype in ARCHETYPES.items():
        odds[name] = archetype.prior
        for trait, factors in archetype.by.items():
            odds[name] *= factors.get(_value(weapon, trait), factors.get("*", 1.0))
    return normalised(odds)


@cache
def habits(weapon: Weapon) -> dict[str, float]:
    """Ability -> product of the factors of all habits that hold for a weapon."""
    found: dict[str, float] = {}
    for habit in HABITS:
        if weapon.attribute(habit.attribute) == habit.value:
            found[habit.ability] = found.get(habit.ability, 1.0) * habit.factor
    return found


@cache
def slot_chances(weapon: Weapon, archetype: str) -> dict[Piece, dict[str, float]]:
    """P(main of a piece | weapon, archetype): a main-only ability, or `free`."""
    of_weapon, of_archetype = habits(weapon), ARCHETYPES[archetype].slots
    return {
        piece: normalised(
            {
                a: odds * of_weapon.get(a, 1.0) * of_archetype.get(a, 1.0)
                for a, odds in SLOT_ODDS[piece].items()
            }
        )
        for piece in PIECES
    }


def urn(weapon: Weapon, archetype: str, main_only: Collection[str]) -> dict[str, float]:
    """Weights of the stackable abilities before the first draw; their sum is the archetype's spread."""
    of_weapon, of_archetype = habits(weapon), ARCHETYPES[archetype].urn
    weights = {a: URN_WEIGHTS[a] * of_weapon.get(a, 1.0) * of_archetype.get(a, 1.0) for a in STACKABLE}
    for coupling in COUPLINGS:
        if coupling.main_only in main_only:
            weights[coupling.ability] *= coupling.factor
    spread = ARCHETYPES[archetype].spread / sum(weights.values())
    return {ability: weight * spread for ability, weight in weights.items()}
