"""Frequent sets of items by apriori: no set is counted of which a part is too rare."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Set = tuple[int, ...]


class Frequent(NamedTuple):
    """Sets of items, smaller ones first, by their places in the list, and the rows that hold each."""

    sets: list[Set]
    counts: list[int]
    n_counted: int
    """Sets whose rows were counted."""
    n_pruned: int
    """Sets that were not, since a part of them is too rare."""


def frequent_sets(
    held: Sequence[Bools], size: int, least: int, fits: Callable[[int, int], bool], n_possible: int
) -> Frequent:
    """All sets of 1 to `size` items that at least `least` rows hold together (Agrawal and Srikant 1994).

    Args:
        held: for each item, (R,) whether a row holds it.
        size: of the largest set.
        least: rows a set needs, 1 or more.
        fits: whether two items may be in one set.
        n_possible: sets of 1 to `size` items that fit, as `n_fitting` counts them.
    """
    found: list[Set] = []
    counts: list[int] = []
    rows: dict[Set, Bools] = {}
    n_counted = 0
    wanted: list[Set] = [(i,) for i in range(len(held))]
    for k in range(1, size + 1):
        n_counted += len(wanted)
        kept: dict[Set, Bools] = {}
        for one in wanted:
            here = held[one[-1]] if k == 1 else rows[one[:-1]] & held[one[-1]]
            n = int(np.count_nonzero(here))
            if n >= least:
                kept[one] = here
                found.append(one)
                counts.append(n)
        rows, wanted = kept, _joined(list(kept), k, fits)
    return Frequent(found, counts, n_counted, n_possible - n_counted)


def _joined(sets: list[Set], k: int, fits: Callable[[int, int], bool]) -> list[Set]:
    """Sets of k + 1 items all of whose parts of k items are in `sets`, which ascend."""
    known = set(sets)
    by_head: dict[Set, list[int]] = {}
    for one in sets:
        by_head.setdefault(one[:-1], []).append(one[-1])
    return [
        (*head, a, b)
        for head, last in by_head.items()
        for a, b in combinations(last, 2)
        if fits(a, b) and all(part in known for part in combinations((*head, a, b), k))
    ]


def n_fitting(families: Sequence[str | None], size: int) -> int:
    """How many sets of 1 to `size` items there are with one item of a family at most; None is no family."""
    of_family: dict[str, int] = {}
    for family in families:
        if family is not None:
            of_family[family] = of_family.get(family, 0) + 1
    ways = [1] + [0] * size
    for n in [*of_family.values(), *(1 for family in families if family is None)]:
        for k in range(size, 0, -1):
            ways[k] += n * ways[k - 1]
    return sum(ways[1:])
