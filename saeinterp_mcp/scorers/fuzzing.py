"""Fuzzing: are the marked tokens those at which the feature fires?

The firing token of an excerpt always stands in one place (24 tokens before it, 7 behind), so wrong marks must stand
there too, or the place tells the answer. Each wrong trial takes the pattern of marks of a right one, and an excerpt
that fires elsewhere is cut anew around a token at which it is silent.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.excerpts.records import Excerpt
from saeinterp_mcp.excerpts.show import marked
from saeinterp_mcp.excerpts.spans import AFTER, BEFORE
from saeinterp_mcp.scorers.base import Trial
from saeinterp_mcp.scorers.detection import YesOrNo
from saeinterp_mcp.scorers.grading import MIN_PER_CLASS
from saeinterp_mcp.scorers.trials import (
    Part,
    equal,
    firing_excerpts,
    half_of,
    in_order,
    silent_excerpts,
    spread,
    units_of,
)
from saeinterp_mcp.store.base import Store

SHARE_OF_STRONGEST = 0.3
"""Tokens above this share of the excerpt's strongest are marked (delphi's rule)."""
N_KINDS = 4
"""Of wrong marks: in an excerpt that fires elsewhere, and in the three kinds of silent ones."""
WIDE = BEFORE + AFTER
"""Tokens to either side, so that any token near the firing one can become the middle."""

Pattern = tuple[int, ...]
"""Places of marks, counted from the excerpt's own token."""


class Marked(NamedTuple):
    """An excerpt and which of its tokens are marked."""

    excerpt: Excerpt
    at: tuple[int, ...]


class Fuzzing(YesOrNo):
    """Half of the trials have the firing tokens marked, half as many tokens at which the feature is silent."""

    name = "fuzzing"
    needs = "judge"

    def make(self, store: Store, feature: int, n: int, seed: int) -> tuple[Trial, ...]:
        """Wrong marks: a quarter each in firing excerpts and in the three kinds of silent ones."""
        if not store.is_sequence:
            raise NotInStore(
                f"store {store.name!r} holds sets, and a set has one activation, at no token of its own: fuzzing "
                f"asks which tokens fire. Test the label by detection, simulation, embedding or rule"
            )
        kept = Excerpts(store)
        right, wrong = _firing(store, feature, half_of(n), seed)
        generator = rng(seed, "tokens marked wrongly", feature)
        silent = silent_excerpts(kept, feature, len(right) - len(wrong), seed, right, units_of(wrong))
        candidates = [("wrong_mark", _cut_elsewhere(e, generator)) for e in wrong]
        candidates += [(kind, [e]) for kind, e in silent]
        mixed = [candidates[i] for i in generator.permutation(len(candidates))]
        marked_wrong = _marked_alike(mixed, [_pattern(e) for e in right])
        n_each = equal(kept, feature, len(right), len(marked_wrong))
        parts = [_part("firing", Marked(e, _places(e, _pattern(e))), 1.0) for e in spread(right, n_each)]
        parts += [_part(kind, one, 0.0) for kind, one in marked_wrong[:n_each]]
        return in_order(parts, seed, self.name, feature)


def _firing(store: Store, feature: int, n: int, seed: int) -> tuple[list[Excerpt], list[Excerpt]]:
    """Excerpts to mark rightly, cut to size, and wide ones of other units to mark wrongly: one in five."""
    found = firing_excerpts(Excerpts(store, WIDE, WIDE), feature, n + n // N_KINDS, seed)
    n_wrong = min(n // N_KINDS, len(found) // (N_KINDS + 1), len(found) - MIN_PER_CLASS)
    wrong = set(spread(range(len(found)), n_wrong))
    return (
        [cut(e, e.at) for i, e in enumerate(found) if i not in wrong],
        [e for i, e in enumerate(found) if i in wrong],
    )


def cut(wide: Excerpt, at: int) -> Excerpt:
    """The excerpt of usual size around another of its tokens."""
    start, stop = max(0, at - BEFORE), min(len(wide.tokens), at + 1 + AFTER)
    return wide._replace(
        row=wide.row + at - wide.at,
        start=wide.start + start,
        tokens=wide.tokens[start:stop],
        activations=wide.activations[start:stop],
        at=at - start,
    )


def _pattern(excerpt: Excerpt) -> Pattern:
    least = SHARE_OF_STRONGEST * excerpt.strongest
    return tuple(i - excerpt.at for i, a in enumerate(excerpt.activations) if a > least)


def _places(excerpt: Excerpt, pattern: Pattern) -> tuple[int, ...]:
    return tuple(excerpt.at + step for step in pattern)


def _silent_there(excerpt: Excerpt, places: Sequence[int]) -> bool:
    inside = all(0 <= place < len(excerpt.tokens) for place in places)
    return inside and not any(excerpt.activations[place] for place in places)


def _marked_alike(
    candidates: Sequence[tuple[str, Sequence[Excerpt]]], patterns: Sequence[Pattern]
) -> list[tuple[str, Marked]]:
    """Each candidate with a pattern of marks of its own, on tokens at which it is silent; what fits none is left out.

    The widest patterns are given away first, so that wrong marks are as many and as far apart as right ones.

    Args:
        candidates: kind, and excerpts of which one is used.
        patterns: of the right trials.
    """
    left = sorted(patterns, key=lambda pattern: pattern[0] - pattern[-1])
    found = []
    for kind, excerpts in candidates:
        # a pattern that was given away already is better than no trial
        fits = ((p, e) for p in (*left, *patterns) for e in excerpts if _silent_there(e, _places(e, p)))
        one = next(fits, None)
        if one is not None:
            pattern, excerpt = one
            found.append((kind, Marked(excerpt, _places(excerpt, pattern))))
            if pattern in left:
                left.remove(pattern)
    return found


def _cut_elsewhere(wide: Excerpt, generator: np.random.Generator) -> list[Excerpt]:
    """Cut around each silent token in turn, in random order; the token it was drawn for stays inside."""
    near = range(max(0, wide.at - AFTER), min(len(wide.tokens), wide.at + BEFORE + 1))
    middles = np.array([at for at in near if not wide.activations[at]], np.int64)
    return [cut(wide, at) for at in generator.permutation(middles).tolist()]


def _part(kind: str, one: Marked, truth: float) -> Part:
    marks = [i in one.at for i in range(len(one.excerpt.tokens))]
    return Part(kind, marked(one.excerpt, marks), truth, (one.excerpt,), one.at)
