"""Families from the config: which tokens are levels of one thing, and which positions.

A family of tokens is written out, or found by a regular expression over the vocabulary; either way the bundle
holds the list. A token is in one family at most. A family of positions is computed from the text of each
sample.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ExplicitFamily, FamilyConfig, MatchFamily, PositionFamily
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen


class Family(Frozen):
    """A family of tokens as it stands in `bundle.yaml`."""

    name: str
    encoding: str
    levels: dict[str, int]
    """Token to level, by level and then token."""


def token_families(families: Sequence[FamilyConfig], tokens: Iterable[str]) -> list[Family]:
    """The families of tokens, written out over the tokens that occur.

    Raises:
        BadInput: a token is in two families, two families have one name, a regular expression is broken or
            matches
            nothing.
    """
    names = [family.name for family in families]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"families: two families are called {name!r}")
    occurring = sorted(set(tokens))
    member_of: dict[str, str] = {}
    found = []
    for family in families:
        if isinstance(family, PositionFamily):
            continue
        levels = family.levels if isinstance(family, ExplicitFamily) else matched_levels(family, occurring)
        for token in levels:
            if token in member_of:
                raise BadInput(
                    f"families: the token {token!r} is in {member_of[token]!r} and in {family.name!r};"
                    " a token is in one family at most"
                )
            member_of[token] = family.name
        ordered = dict(sorted(levels.items(), key=lambda item: (item[1], item[0])))
        found.append(Family(name=family.name, encoding=family.encoding, levels=ordered))
    return found


def matched_levels(family: MatchFamily, tokens: Iterable[str]) -> dict[str, int]:
    """The tokens that a family's regular expression matches as a whole, with their levels."""
    where = f"families: {family.name!r}"
    try:
        pattern = re.compile(family.match)
    except re.error as error:
        raise BadInput(f"{where}: match {family.match!r} is not a regular expression: {error}") from error
    if not isinstance(family.level, int) and "level" not in pattern.groupindex:
        raise BadInput(
            f"{where}: level {family.level!r} needs a capture (?P<level>...), which match does not have"
        )
    levels = {}
    for token in tokens:
        match = pattern.fullmatch(token)
        level = None if match is None else level_of(match, family)
        if level is not None and level > 0:
            level += family.plus
            levels[token] = level if family.max_level is None else min(level, family.max_level)
    if not levels:
        raise BadInput(f"{where}: match {family.match!r} matches no token of the dataset as a whole")
    return levels


def level_of(match: re.Match[str], family: MatchFamily) -> int | None:
    """The level of one matching token; None if it has none."""
    if isinstance(family.level, int):
        return family.level
    captured = match.group("level")
    if captured is None:
        return None
    if isinstance(family.level, dict):
        return family.level.get(captured)
    if family.level == "length":
        return len(captured)
    try:
        return int(captured)
    except ValueError as error:
        raise BadInput(
            f"families: {family.name!r}: {captured!r} in {match.group()!r} is not a number"
        ) from error


def position_families(families: Sequence[FamilyConfig]) -> list[PositionFamily]:
    """The families of positions."""
    return [family for family in families if isinstance(family, PositionFamily)]


class BracketDepth:
    """How many brackets are open after each token of a sample.

    Counted from the sample's start, over all characters, those in strings and comments too; a closing bracket
    that was opened before the sample began changes nothing. Which kind closes which is not checked.
    """

    def __init__(self, tokens: Sequence[str], max_level: int) -> None:
        """`tokens` holds the text of each id."""
        steps = [[1 if c in "([{" else -1 for c in token if c in "()[]{}"] for token in tokens]
        self._change = np.array([sum(step) for step in steps], dtype=np.int64)
        self._lowest = np.array([min([0, *np.cumsum(step)]) for step in steps], dtype=np.int64)
        self._max_level = max_level

    def levels(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """(length,): the depth after each token of one sample, at most `max_level`."""
        change = self._change[token_ids]
        after = np.cumsum(change)
        # A depth that never falls below 0 is the running sum above its running minimum (a reflected walk).
        lowest = np.minimum.accumulate(np.minimum(after - change + self._lowest[token_ids], 0))
        return np.minimum(after - lowest, self._max_level)


def position_level_functions(families: Sequence[PositionFamily], tokens: Sequence[str]) -> dict[str, Any]:
    """Family name to what computes its levels."""
    return {family.name: BracketDepth(tokens, family.max_level) for family in families}
