"""What the generator is expected to draw, in closed form, from the same constants it draws with.

Given weapon, archetype, main slots and pack, the AP of a stackable ability is the pack's subs and what an urn adds.
Of `n` draws from Polya's urn with weights `a` for the ability and `b` for all others, those in any given `k` places
are the ability with probability B(a + k, b + n - k) / B(a, b) (Johnson and Kotz, Urn Models and Their Application,
1977, section 4.2). So with `m` of the free mains and `s` of the free subs, P(m, s) is that for k = m + s, times the
number of ways to place them; the rest is a sum over archetypes, slots and packs.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from examples.loadout import chances, game
from examples.loadout.game import MAIN_ONLY, PIECES, STACKABLE, THRESHOLDS, Weapon
from examples.loadout.regularities import ARCHETYPES, COUPLINGS, FREE

COUPLED = {coupling.main_only for coupling in COUPLINGS}
N_SUB_SLOTS = game.N_SUBS * len(PIECES)


class Case(NamedTuple):
    """One way a build of a weapon can begin, and how likely it is."""

    chance: float
    archetype: str
    main_only: tuple[str, ...]
    """Main-only abilities that matter for what follows; `other` for one that does not."""
    n_free_mains: int
    pack: Mapping[str, int]


def log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


@cache
def urn_levels(a: float, b: float, n_mains: int, n_subs: int, packed: int) -> tuple[float, ...]:
    """P(AP >= threshold), for each threshold, with `packed` subs beside what the urn gives.

    `a` and `b` are the urn's weights of the ability and of all others.
    """
    reached = [0.0] * len(THRESHOLDS)
    if a == 0:
        return tuple(float(game.SUB_AP * packed >= threshold) for threshold in THRESHOLDS)
    for m, s in itertools.product(range(n_mains + 1), range(n_subs + 1)):
        rest = n_mains + n_subs - m - s
        log_chance = log_beta(a + m + s, b + rest) - log_beta(a, b)
        chance = math.comb(n_mains, m) * math.comb(n_subs, s) * math.exp(log_chance)
        points = game.MAIN_AP * m + game.SUB_AP * (s + packed)
        for level, threshold in enumerate(THRESHOLDS):
            reached[level] += chance * (points >= threshold)
    return tuple(reached)


def cases(weapon: Weapon, keep: frozenset[str] = frozenset()) -> Iterator[Case]:
    """All beginnings of a build; main-only abilities in `keep`, or with a coupling, are told apart."""
    told = COUPLED | keep
    for archetype, of_archetype in chances.archetype_chances(weapon).items():
        slots = []
        for chosen in chances.slot_chances(weapon, archetype).values():
            grouped: dict[str, float] = {}
            for ability, chance in chosen.items():
                name = ability if ability in told or ability == FREE else "other"
                grouped[name] = grouped.get(name, 0.0) + chance
            slots.append(grouped.items())
        for mains in itertools.product(*slots):
            names = tuple(name for name, _ in mains)
            chance = of_archetype * math.prod(p for _, p in mains)
            for pack in ARCHETYPES[archetype].packs:
                yield Case(chance * pack.share, archetype, names, names.count(FREE), pack.subs)


def token_chances(
    weapon: Weapon, given: Callable[[Case], bool] = lambda _: True, keep: frozenset[str] = frozenset()
) -> dict[str, float]:
    """P(token and `given` | weapon) of every stackable token, and under the empty name P(given | weapon)."""
    found = dict.fromkeys(("", *game.TOKENS[-len(STACKABLE) * len(THRESHOLDS) :]), 0.0)
    for case in cases(weapon, keep):
        if case.chance == 0 or not given(case):
            continue
        found[""] += case.chance
        weights = chances.urn(weapon, case.archetype, case.main_only)
        total = sum(weights.values())
        n_subs = N_SUB_SLOTS - sum(case.pack.values())
        for ability, a in weights.items():
            levels = urn_levels(a, total - a, case.n_free_mains, n_subs, case.pack.get(ability, 0))
            for threshold, reached in zip(THRESHOLDS, levels, strict=True):
                found[f"{ability}_{threshold}"] += case.chance * reached
    return found


def main_only_chances(weapon: Weapon) -> dict[str, float]:
    """P(main-only ability | weapon)."""
    found = dict.fromkeys((a for piece in PIECES for a in MAIN_ONLY[piece]), 0.0)
    for archetype, chance in chances.archetype_chances(weapon).items():
        for slot in chances.slot_chances(weapon, archetype).values():
            for ability, p in slot.items():
                if ability != FREE:
                    found[ability] += chance * p
    return found


def all_chances(weapon: Weapon) -> dict[str, float]:
    """P(token | weapon) of all 138 tokens, in the order of `game.TOKENS`."""
    stackable = token_chances(weapon)
    return {token: p for token, p in (main_only_chances(weapon) | stackable).items() if token}
