"""Which terms the cores of windows hold: of one feature, and of random ones by an inverted index."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.patterns.baseline import nested_order
from saeinterp_mcp.patterns.choosing import window_bounds
from saeinterp_mcp.patterns.phrases import Term, is_literal, spellings
from saeinterp_mcp.patterns.records import Floats, Group, Window
from saeinterp_mcp.patterns.spelling import spell
from saeinterp_mcp.patterns.words import SIGNS, stems

MIN_CORES = 2
"""Cores that must hold a term: what stands in one alone is no pattern (unless there is only one)."""
CACHED = 8_192
"""Terms whose shares are kept."""
_BETWEEN = "\x00"


class Core(NamedTuple):
    """What is around the strongest token of a window."""

    text: str
    """With the words at its ends whole, as far as the window has them."""
    tokens: str
    """Without white space around them, each between two zero characters."""


def read_core(window: Window, width: int, is_set: bool) -> Core:
    """The core of a window; a set is its own."""
    spelled = spell(window.tokens, is_set)
    start, stop = (0, len(window.tokens)) if is_set else window_bounds(len(window.tokens), window.at, width)
    tokens = _BETWEEN.join(["", *(token.strip() for token in window.tokens[start:stop]), ""])
    if is_set or start >= stop:
        return Core(spelled.text, tokens)
    text, first, last = spelled.text, spelled.spans[start][0], spelled.spans[stop - 1][1]
    while 0 < first < len(text) and text[first - 1].isalnum() and text[first].isalnum():
        first -= 1
    while 0 < last < len(text) and text[last].isalnum() and text[last - 1].isalnum():
        last += 1
    return Core(text[first:last], tokens)


class Cores:
    """Texts of cores in which terms are looked for, all at once."""

    def __init__(self, cores: Sequence[Core]) -> None:
        """Index them; they keep their places."""
        self.n = len(cores)
        self._of_stem: dict[str, list[int]] = {}
        for i, core in enumerate(cores):
            for key in stems(core.text):
                self._of_stem.setdefault(key, []).append(i)
        self._texts = {exact: _Joined([core.text for core in cores], exact) for exact in (True, False)}
        self._tokens = {exact: _Joined([core.tokens for core in cores], exact) for exact in (True, False)}

    def holding(self, term: str) -> Sequence[int]:
        """Places of the cores that hold a term (`phrases.holds`), ascending."""
        if not is_literal(term):
            named = self._of_stem.get(term, ())
            if term not in SIGNS:
                return named
            return sorted({*named, *(i for sign in SIGNS[term] for i in self._texts[True].holding(sign))})
        wanted, exact = spellings(term)
        found: set[int] = set()
        for one in wanted:
            if one and _BETWEEN not in one:
                found.update(self._texts[exact].holding(one))
                if token := one.strip():
                    found.update(self._tokens[exact].holding(f"{_BETWEEN}{token}{_BETWEEN}"))
        return sorted(found)


class _Joined:
    """Texts one after the other, to be searched in one go."""

    def __init__(self, texts: Sequence[str], exact: bool) -> None:
        parts = [text if exact else text.lower() for text in texts]
        self._whole = (2 * _BETWEEN).join(parts)
        self._starts = list(accumulate((len(part) + 2 for part in parts), initial=0))

    def holding(self, wanted: str) -> Iterator[int]:
        at = self._whole.find(wanted)
        while at >= 0:
            i = bisect_right(self._starts, at) - 1
            yield i
            at = self._whole.find(wanted, self._starts[i + 1])


class Said(NamedTuple):
    """What the cores hold of a phrase."""

    term: str | None
    """The term that tells them best from random features' cores, as the phrase has it; None where none is held."""
    share: float
    """Of the cores that hold it."""
    score: float
    """How that ranks among random features."""
    random: Floats
    """(G,) the same for each of them: the score of the term that does best there."""


class _Ranked(NamedTuple):
    """Shares of one term among random features."""

    ascending: Floats
    scores: Floats
    """(G,) the score of each random feature."""

    def score(self, share: float) -> float:
        """How many random features have less, equal ones counting half."""
        first, last = (np.searchsorted(self.ascending, share, side) for side in ("left", "right"))
        return float(first + last) / 2


class LexicalBaseline:
    """Cores of random features."""

    def __init__(self, groups: Sequence[Group], width: int, is_set: bool) -> None:
        """Index their cores."""
        self._width, self._is_set = width, is_set
        cores: list[Core] = []
        of_group: list[int] = []
        turn: list[int] = []
        for g, group in enumerate(groups):
            for j, i in enumerate(nested_order(group.windows)):
                cores.append(read_core(group.windows[i], width, is_set))
                of_group.append(g)
                turn.append(j)
        self._cores = Cores(cores)
        self._of_group, self._turn = np.array(of_group, np.int64), np.array(turn, np.int64)
        self._n = np.array([len(group.windows) for group in groups], np.int64)
        self._cache: dict[tuple[str, int], _Ranked] = {}

    def said(
        self, phrases: Sequence[Sequence[Term]], windows: Sequence[Window], without: int | None
    ) -> list[Said | None]:
        """What windows hold of phrases; None for a phrase without terms. `without` is left out of the random ones."""
        cores = Cores([read_core(window, self._width, self._is_set) for window in windows])
        return [self._of_phrase(terms, cores, without) if terms else None for terms in phrases]

    def _of_phrase(self, terms: Sequence[Term], cores: Cores, without: int | None) -> Said:
        """The best of its terms, here and on every random feature: a phrase with more terms is compared with itself.

        Terms are put beside each other by how they rank among random features: a word that is in everything does not
        outdo one that is only here.
        """
        best: tuple[float, float] = (-1.0, -1.0)
        term: Term | None = None
        random: Floats | None = None
        for one in terms:
            ranked = self._ranked(one.key, cores.n, without)
            share = len(cores.holding(one.key)) / cores.n
            rank = (ranked.score(_counted(share, cores.n)), share)
            if rank > best:
                best, term = rank, one
            random = ranked.scores if random is None else np.maximum(random, ranked.scores)
        assert random is not None, "a phrase with terms"
        shown = term.shown if term is not None and best[1] > 0 else None
        return Said(shown, best[1], best[0], random)

    def _ranked(self, key: str, n: int, without: int | None) -> _Ranked:
        cached = self._cache.get((key, n)) if without is None else None
        if cached is not None:
            return cached
        shares = self._shares(key, n)
        if without is not None:
            shares = np.delete(shares, without)
        ascending = np.sort(shares)
        first, last = (np.searchsorted(ascending, shares, side) for side in ("left", "right"))
        ranked = _Ranked(ascending, (first + last) / 2)
        if without is None:
            if len(self._cache) >= CACHED:
                self._cache.clear()
            self._cache[key, n] = ranked
        return ranked

    def _shares(self, key: str, n: int) -> Floats:
        """(G,) of the first `n` cores of each random feature."""
        holding = np.asarray(self._cores.holding(key), np.int64)
        holding = holding[self._turn[holding] < n]
        counts = np.bincount(self._of_group[holding], minlength=len(self._n))
        n_each = np.minimum(self._n, n)
        shares: NDArray[np.float64] = counts / n_each
        return np.where(counts >= np.minimum(MIN_CORES, n_each), shares, 0.0)


def _counted(share: float, n: int) -> float:
    """A share that is a pattern, or 0."""
    return share if round(share * n) >= min(MIN_CORES, n) else 0.0
