"""The planted regularities as a document: the constants of `regularities.py` with what is expected of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from examples.loadout import chances, expectations, game
from examples.loadout.game import THRESHOLDS, Weapon
from examples.loadout.regularities import (
    ARCHETYPES,
    CONFOUNDED,
    COPY_SHARE,
    COUPLINGS,
    HABITS,
    NOT_CONFOUNDED,
    SLOT_ODDS,
    URN_WEIGHTS,
    Confounded,
    Coupling,
    Habit,
)

DIGITS = 5
"""Decimals of an expected probability."""
SHOWN_LEVELS = (3, 12)
"""Thresholds at which habits and couplings state what is expected."""

ByWeapon = Mapping[Weapon, Mapping[str, float]]


def of_class(name: str) -> Callable[[Weapon], bool]:
    """Whether a weapon is of a class."""
    return lambda weapon: weapon.weapon_class == name


def every(_: Weapon) -> bool:
    """Whether a weapon is one."""
    return True


class Expectations:
    """P(token), P(token and main-only ability) and their sums over weapons, worked out when first asked for."""

    def __init__(self, weapons: Sequence[Weapon]) -> None:
        """`weapons`: all, or some to be quick; their popularity counts among themselves."""
        of_all = chances.weapon_chances()
        total = sum(of_all[weapon.weapon] for weapon in weapons)
        self.share = {weapon: of_all[weapon.weapon] / total for weapon in weapons}
        self.tokens: ByWeapon = {weapon: expectations.all_chances(weapon) for weapon in weapons}
        self._with: dict[str, ByWeapon] = {}

    def together(self, main_only: str) -> ByWeapon:
        """P(token and `main_only` | weapon) of the stackable tokens; the empty token is P(main_only | weapon)."""
        if main_only not in self._with:

            def present(case: expectations.Case) -> bool:
                return main_only in case.main_only

            keep = frozenset({main_only})
            found = {w: expectations.token_chances(w, present, keep) for w in self.share}
            self._with[main_only] = found
        return self._with[main_only]

    def mean(self, among: Callable[[Weapon], bool], of: ByWeapon, token: str) -> float | None:
        """P(token | a weapon of these); none if there is no such weapon."""
        weapons = [weapon for weapon in self.share if among(weapon)]
        share = sum(self.share[weapon] for weapon in weapons)
        return sum(self.share[w] * of[w][token] for w in weapons) / share if weapons else None


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def levels_of(ability: str) -> list[str]:
    """The tokens by which an ability is judged: itself, or two of its levels."""
    return [ability] if ability in game.PIECE_OF else [f"{ability}_{level}" for level in SHOWN_LEVELS]


def habit_record(habit: Habit, known: Expectations) -> dict[str, Any]:
    """A habit, and P(token) among the weapons that have it and among the others."""

    def has(weapon: Weapon) -> bool:
        return weapon.attribute(habit.attribute) == habit.value

    expected = {
        token: {
            "among": rounded(known.mean(has, known.tokens, token)),
            "others": rounded(known.mean(lambda weapon: not has(weapon), known.tokens, token)),
        }
        for token in levels_of(habit.ability)
    }
    return asdict(habit) | {"expected": expected}


def coupling_record(coupling: Coupling, known: Expectations) -> dict[str, Any]:
    """A coupling, and P(token) with its main-only ability and without it."""
    together = known.together(coupling.main_only)
    present = known.mean(every, together, "") or 0.0
    expected = {}
    for token in levels_of(coupling.ability):
        both = known.mean(every, together, token) or 0.0
        all_of = known.mean(every, known.tokens, token) or 0.0
        expected[token] = {
            "with": rounded(both / present),
            "without": rounded((all_of - both) / (1 - present)),
        }
    kind = "conflict" if coupling.factor < 1 else "goes together"
    return asdict(coupling) | {"kind": kind, "expected": expected}


def stratified(strata: Sequence[tuple[float, float, float, float]]) -> float | None:
    """A Mantel-Haenszel difference of proportions: strata are (P(exposed), P(exposed and token), the same for not
    exposed); strata without both are left out. Greenland and Robins, Biometrics 41 (1985), 55-68."""
    useful = [s for s in strata if s[0] > 0 and s[2] > 0]
    weights = [n1 * n0 / (n1 + n0) for n1, _, n0, _ in useful]
    differences = [x1 / n1 - x0 / n0 for n1, x1, n0, x0 in useful]
    if not useful:
        return None
    return sum(w * d for w, d in zip(weights, differences, strict=True)) / sum(weights)


def exposure_strata(
    case: Confounded, known: Expectations
) -> tuple[list[tuple[float, float, float, float]], tuple[float, float, float, float]]:
    """The strata of a confounded effect, and all of them in one."""
    token = case.on
    table: dict[str, list[float]] = {}

    def add(stratum: str, exposed: bool, share: float, with_token: float) -> None:
        cells = table.setdefault(stratum, [0.0] * 4)
        place = 0 if exposed else 2
        cells[place] += share
        cells[place + 1] += with_token

    for weapon, share in known.share.items():
        p_token = known.tokens[weapon][token]
        if case.effect_of.startswith("token:"):
            both = known.together(case.effect_of.removeprefix("token:"))[weapon]
            stratum = weapon.attribute(case.through)
            add(stratum, True, share * both[""], share * both[token])
            add(stratum, False, share * (1 - both[""]), share * (p_token - both[token]))
            continue
        attribute, value = case.effect_of.split("=", 1)
        exposed = weapon.attribute(attribute) == value
        if case.through.startswith("token:"):
            both = known.together(case.through.removeprefix("token:"))[weapon]
            add("with", exposed, share * both[""], share * both[token])
            add("without", exposed, share * (1 - both[""]), share * (p_token - both[token]))
        else:
            add(weapon.attribute(case.through), exposed, share, share * p_token)
    strata = [(cells[0], cells[1], cells[2], cells[3]) for cells in table.values()]
    n1, x1, n0, x0 = (sum(s[i] for s in strata) for i in range(4))
    return strata, (n1, x1, n0, x0)


def confounded_record(case: Confounded, known: Expectations) -> dict[str, Any]:
    """The difference in P(token) as it looks, and with `through` held still."""
    strata, (n1, x1, n0, x0) = exposure_strata(case, known)
    if n1 == 0 or n0 == 0:
        return asdict(case) | {"expected": None}
    crude, adjusted = x1 / n1 - x0 / n0, stratified(strata)
    surviving = None if adjusted is None else adjusted / crude
    expected = {"crude": crude, "adjusted": adjusted, "share_surviving": surviving}
    return asdict(case) | {"expected": {name: rounded(value) for name, value in expected.items()}}


def archetype_record(name: str, known: Expectations) -> dict[str, Any]:
    """An archetype, and P(archetype) over all builds, by class and by weapon."""
    of = {weapon: {"": chances.archetype_chances(weapon).get(name, 0.0)} for weapon in known.share}
    classes = dict.fromkeys(weapon.weapon_class for weapon in known.share)
    by_class = {c: known.mean(of_class(c), of, "") for c in classes}
    expected = {
        "rate": rounded(known.mean(every, of, "")),
        "by_class": {c: rounded(value) for c, value in by_class.items()},
        "by_weapon": {weapon.weapon: rounded(chance[""]) for weapon, chance in of.items()},
    }
    return asdict(ARCHETYPES[name]) | {"expected": expected}


def planted(weapons: Sequence[Weapon] | None = None) -> dict[str, Any]:
    """Everything that is planted. With all weapons it takes most of a minute."""
    known = Expectations(weapons if weapons is not None else game.weapons())
    classes = dict.fromkeys(weapon.weapon_class for weapon in known.share)
    tokens: dict[str, Any] = {}
    for token in game.TOKENS:
        by_class = {c: known.mean(of_class(c), known.tokens, token) for c in classes}
        tokens[token] = {"rate": rounded(known.mean(every, known.tokens, token))}
        tokens[token]["by_class"] = {c: rounded(value) for c, value in by_class.items()}
    return {
        "thresholds": THRESHOLDS,
        "copy_share": COPY_SHARE,
        "slot_odds": SLOT_ODDS,
        "urn_weights": URN_WEIGHTS,
        "weapons": {weapon.weapon: rounded(share) for weapon, share in known.share.items()},
        "archetypes": {name: archetype_record(name, known) for name in ARCHETYPES},
        "habits": [habit_record(habit, known) for habit in HABITS],
        "couplings": [coupling_record(coupling, known) for coupling in COUPLINGS],
        "confounded": [confounded_record(case, known) for case in CONFOUNDED],
        "not_confounded": [confounded_record(case, known) for case in NOT_CONFOUNDED],
        "tokens": tokens,
    }
