"""What an interaction is of: tokens, families at any level or from a level on; and the rows that hold them."""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from saeinterp_mcp.analysis.interactions import SliceRows
from saeinterp_mcp.analysis.moments import distinct_sorted
from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.operations.influence import influence_of
from saeinterp_mcp.operations.known_names import nearest_tokens
from saeinterp_mcp.operations.slicing import Slice, StoreRows
from saeinterp_mcp.store.base import Bools, Store

MAX_CANDIDATES = 28
"""Chosen where the caller names none: 378 pairs."""
MAX_ITEMS = 40
"""That a caller may name: 780 pairs."""


@dataclass(frozen=True)
class Item:
    """A token, or a family from a level on."""

    name: str
    """As it is shown: the token, `family` or `family>=level`."""
    family: str | None
    """The family itself, or that of the token."""
    token: str | None = None
    at_least: int = 1

    def fits(self, other: "Item") -> bool:
        """Whether the two may be in one set: two levels of a family may not."""
        return self.name != other.name and (self.family is None or self.family != other.family)


def named_items(store: Store, tokens: list[str] | None, families: list[str] | None) -> list[Item]:
    """The tokens and families a caller names.

    Raises:
        UnknownName, BadInput: no such token, family or level, or too many.
    """
    named = [*_token_items(store, tokens or []), *(_family_item(store, text) for text in families or [])]
    found = list(dict.fromkeys(named))
    if len(found) > MAX_ITEMS:
        raise BadInput(f"{len(found)} tokens and families are named, at most {MAX_ITEMS} can be at once")
    return found


def family_of_tokens(store: Store) -> dict[str, str]:
    """Family of each token that is in one."""
    return {token: family.name for family in store.families.values() for token in family.tokens}


def _token_items(store: Store, tokens: list[str]) -> list[Item]:
    family_of = family_of_tokens(store)
    for token in tokens:
        if token not in store.token_ids:
            near = ", ".join(map(repr, nearest_tokens(store, token))) or "none"
            raise UnknownName(f"no token {token!r} in store {store.name!r}; nearest: {near}")
    return [Item(token, family_of.get(token), token) for token in tokens]


def _family_item(store: Store, text: str) -> Item:
    """`family`, or `family>=level`, with or without `family:` before it."""
    bare = text if text in store.families else text.removeprefix("family:").strip()
    match = re.fullmatch(r"(.+?)\s*>=\s*(\d+)", bare)
    if bare in store.families or match is None:
        return Item(store.family(bare).name, bare)
    info, level = store.family(match[1]), int(match[2])
    if not 1 <= level <= max(info.levels, default=0):
        raise UnknownName(
            f"family {info.name!r} has no level {level} or above; its levels: "
            f"{', '.join(map(str, info.levels))}"
        )
    return Item(f"{info.name}>={level}", info.name, at_least=level)


def candidates(part: Slice, min_n: int) -> list[Item]:
    """Items where none are named: families at any level, then tokens of no family, surest first, 28 at most.

    Families come whatever their own effect, for two that matter only together have none.
    """
    store = part.store
    found: list[Item] = []
    if store.families:
        by_family, names = influence_of(part, "family", "all", min_n), list(store.families)
        order = [k for k in by_family.order() if by_family.effects.compared[k]]
        found = [Item(names[k], names[k]) for k in order]
    if len(found) < MAX_CANDIDATES and store.tokens:
        by_token, family_of = influence_of(part, "token", "all", min_n), family_of_tokens(store)
        order = [k for k in by_token.order() if by_token.effects.compared[k]]
        free = [store.tokens[k] for k in order if store.tokens[k] not in family_of]
        found += [Item(token, None, token) for token in free]
    return found[:MAX_CANDIDATES]


def fitting(items: list[Item], size: int) -> list[tuple[int, ...]]:
    """Sets of `size` items that may go together, by their places in the list."""
    return [
        places
        for places in combinations(range(len(items)), size)
        if all(items[i].fits(items[j]) for i, j in combinations(places, 2))
    ]


@dataclass(frozen=True)
class ItemRows:
    """Rows of a slice beside the items they hold."""

    part: Slice
    items: list[Item]

    @cached_property
    def rows(self) -> SliceRows:
        """The rows with their units and the feature's firings."""
        part = self.part
        firing, value = part.firing
        if part.mask is None:
            unit = part.store.row_unit[: part.store.n_rows(part.split)].astype(np.int64)
        else:
            unit = part.store.row_unit[: len(part.mask)][part.mask].astype(np.int64)
            firing = np.cumsum(part.mask)[firing] - 1
        units, index = distinct_sorted(unit) if len(unit) else (unit, unit)
        return SliceRows(index, len(units), firing, value)

    @cached_property
    def held(self) -> list[Bools]:
        """For each item, (R,) whether a row holds it."""
        part = self.part
        rows = StoreRows(part.store, part.split, part.scoping, part.feature)
        found = []
        for item in self.items:
            if item.token is not None:
                here = rows.has_token(item.token)
            else:
                assert item.family is not None, "an item is a token or a family"
                here = rows.family_level(item.family) >= item.at_least
            found.append(here if part.mask is None else here[part.mask])
        return found

    def all_of(self, places: tuple[int, ...]) -> Bools:
        """(R,) whether a row holds all items at some places of the list; all rows, of none."""
        found = np.ones(len(self.rows.unit), bool)
        for place in places:
            found &= self.held[place]
        return found
