"""What tests are made of: excerpts of held-out units, firing and silent, one a unit, in an order that tells nothing."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.errors import BadInput, NotInStore
from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.excerpts.records import SILENT_KINDS, Excerpt, SilentKind
from saeinterp_mcp.scorers.base import Answer, Trial
from saeinterp_mcp.scorers.grading import MIN_PER_CLASS

HELDOUT: Final = "heldout"
DRAWN_FOR_ONE = 4
"""Silent excerpts that one of the right length is chosen from."""
T = TypeVar("T")


class Part(NamedTuple):
    """A trial that has no place in the order yet."""

    kind: str
    shown: str
    truth: Answer
    excerpts: tuple[Excerpt, ...]
    marked: tuple[int, ...] = ()


def in_order(parts: Sequence[Part], seed: int, name: str, feature: int) -> tuple[Trial, ...]:
    """Shuffled by the seed, and numbered after that; one feature's order tells nothing about another's."""
    places = rng(seed, "order of trials", name, feature).permutation(len(parts))
    return tuple(
        Trial(trial_id=f"t{i}", **parts[place]._asdict()) for i, place in enumerate(places.tolist(), 1)
    )


def firing_and_silent(
    excerpts: Excerpts,
    feature: int,
    n: int,
    seed: int,
    fires: Callable[[Excerpt], Part],
    rests: Callable[[SilentKind, Excerpt], Part],
) -> list[Part]:
    """n/2 trials where a feature fires, spread over its range, and as many where it is silent.

    Args:
        excerpts: of the store.
        feature: which.
        n: of both; fewer where there are not so many units.
        seed: of the draws.
        fires: makes a trial of a firing excerpt.
        rests: makes a trial of a silent one.

    Raises:
        BadInput: fewer trials are asked for than can be graded.
        NotInStore: the feature fires, or is silent, in too few units.
    """
    firing = firing_excerpts(excerpts, feature, half_of(n), seed)
    silent = silent_excerpts(excerpts, feature, len(firing), seed, firing, frozenset())
    n_each = equal(excerpts, feature, len(firing), len(silent))
    return [fires(e) for e in spread(firing, n_each)] + [rests(k, e) for k, e in silent[:n_each]]


def half_of(n: int) -> int:
    """Trials of each class.

    Raises:
        BadInput: too few to be graded.
    """
    if n < 2 * MIN_PER_CLASS:
        raise BadInput(
            f"a test of {n} trials cannot be graded: ask for {2 * MIN_PER_CLASS} or more, "
            f"{MIN_PER_CLASS} where the feature fires and {MIN_PER_CLASS} where it is silent"
        )
    return n // 2


def firing_excerpts(
    excerpts: Excerpts, feature: int, n: int, seed: int, least: int = MIN_PER_CLASS
) -> list[Excerpt]:
    """Up to `n`, spread over the feature's range, strongest first.

    Raises:
        NotInStore: it fires in fewer units than `least`.
    """
    found = excerpts.firing(feature, HELDOUT, n, seed)
    if len(found) < least:
        raise NotInStore(
            f"feature {feature} fires in {len(found)} different excerpts of the held-out units of store "
            f"{excerpts.store.name!r}, and this test needs {least}, each of a unit of its own; a feature that fires "
            f"more often can be tested, or a store with more samples"
        )
    return found


def silent_excerpts(
    excerpts: Excerpts, feature: int, n: int, seed: int, like: Sequence[Excerpt], avoid: frozenset[int]
) -> list[tuple[SilentKind, Excerpt]]:
    """Up to `n`, a third of each kind; what one kind cannot give comes from the others. By turns of the kinds.

    A short excerpt is more easily silent than a long one, and short samples have short excerpts; so that length tells
    nothing, more are drawn than needed, and those as long as firing ones are taken. The size of a set is left alone.

    Args:
        excerpts: of the store.
        feature: which.
        n: how many.
        seed: of the draws.
        like: firing excerpts.
        avoid: units not to take, beside those of `like`.
    """
    places = rng(seed, "lengths of silent excerpts", feature).permutation(max(n, len(like)))
    lengths = [len(like[place % len(like)].tokens) for place in places.tolist()][:n] if like else []
    found: dict[SilentKind, list[Excerpt]] = {kind: [] for kind in SILENT_KINDS}
    # the rarest first, so that the plentiful ones leave them their units
    for takes_rest in (False, True):
        for i, kind in enumerate(reversed(SILENT_KINDS)):
            lacking = n - sum(map(len, found.values()))
            wanted = lacking if takes_rest else min(lacking, (n + i) // len(SILENT_KINDS))
            if wanted > 0:
                taken = avoid | units_of(like) | units_of([e for part in found.values() for e in part])
                drawn = excerpts.silent(feature, HELDOUT, kind, DRAWN_FOR_ONE * wanted, seed, taken)
                if excerpts.store.is_sequence:
                    found[kind] += _as_long(drawn, lengths, wanted)
                else:
                    found[kind] += drawn[:wanted]
    by_turns = [(i, kind, e) for kind, part in found.items() for i, e in enumerate(part)]
    return [(kind, e) for _, kind, e in sorted(by_turns, key=lambda entry: entry[0])]


def _as_long(drawn: Sequence[Excerpt], lengths: list[int], n: int) -> list[Excerpt]:
    """For each of the next `n` lengths, which are used up, the first excerpt that is nearest to it."""
    left = list(drawn)
    found: list[Excerpt] = []
    while left and len(found) < n:
        length = lengths.pop()
        best = min(range(len(left)), key=lambda i: abs(len(left[i].tokens) - length))
        found.append(left.pop(best))
    return found


def equal(excerpts: Excerpts, feature: int, n_firing: int, n_silent: int) -> int:
    """How many of each class there can be.

    Raises:
        NotInStore: the feature is hardly ever silent.
    """
    if n_silent < MIN_PER_CLASS:
        raise NotInStore(
            f"feature {feature} is silent in {n_silent} excerpts of units of their own in the held-out split of store "
            f"{excerpts.store.name!r}, and a test needs {MIN_PER_CLASS}: it fires nearly everywhere, and a label "
            f"of it can be tested as a rule (test_rule)"
        )
    return min(n_firing, n_silent)


def units_of(excerpts: Sequence[Excerpt]) -> frozenset[int]:
    """Their units, for others to avoid."""
    return frozenset(e.unit for e in excerpts)


def spread(ordered: Sequence[T], n: int) -> list[T]:
    """`n` of them, evenly over their order."""
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, n).round().astype(int)] if n else []
