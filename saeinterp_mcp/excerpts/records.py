"""The noun: Excerpt. No reading or writing."""

from typing import Literal, NamedTuple

SilentKind = Literal["random", "near_miss", "similar"]
SILENT_KINDS: tuple[SilentKind, ...] = ("random", "near_miss", "similar")
"""random: uniform over silent excerpts; near_miss: with the tokens that go with the feature (log-odds learnt on the
explain split), and silent all the same; similar: where a feature like this one fires, and this one is silent."""


class Excerpt(NamedTuple):
    """A stretch of a sequence around one position, or a whole set."""

    row: int
    """The row it was drawn for."""
    sample: int
    """Stored place of its sample."""
    unit: int
    start: int
    """Position of `tokens[0]` in the sample; 0 of a set."""
    tokens: tuple[str, ...]
    """As stored; of a set in alphabetic order."""
    activations: tuple[float, ...]
    """Of the feature at each token (0: silent or not counted); of a set one number for all of it."""
    groups: tuple[tuple[str, str], ...] = ()
    """(group or attribute, value) pairs that a reader of a set sees beside its tokens; empty in sequences."""
    at: int = 0
    """Index in `tokens` of the token of `row`; 0 of a set."""

    @property
    def strongest(self) -> float:
        """Largest activation in it, 0 where it is silent."""
        return max(self.activations)
