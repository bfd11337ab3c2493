"""Character and word n-grams of windows, with their places, and how many of them windows share."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

from saeinterp_mcp.patterns.choosing import window_bounds
from saeinterp_mcp.patterns.records import Ngram, Occurrence, Window
from saeinterp_mcp.patterns.spelling import Spelled, spell

CHAR_SIZES = (2, 3, 4)
WORD_SIZES = (1, 2, 3)
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_WHITE = re.compile(r"\s+")

Places = dict[str, list[tuple[int, int]]]
"""N-gram to (first character, character after the last) of its occurrences, ascending."""


def core_of(window: Window, width: int, is_set: bool) -> Window:
    """The window cut to `width` tokens with its strongest one in the middle (shifted at the ends of the prompt); a
    set is its own core, for its tokens have no middle."""
    if is_set:
        return window
    start, stop = window_bounds(len(window.tokens), window.at, width)
    return window._replace(tokens=window.tokens[start:stop], start=window.start + start, at=window.at - start)


def char_ngrams(text: str, size: int) -> dict[str, list[int]]:
    """N-gram to the characters at which it begins. Runs of white space count as one space; case is kept.

    White space alone is no n-gram.
    """
    return {ngram: [start for start, _ in places] for ngram, places in _char_places(text, size).items()}


def word_ngrams(text: str, size: int) -> dict[str, list[int]]:
    """Words in lower case, joined by a space, to the characters at which they begin."""
    return {ngram: [start for start, _ in places] for ngram, places in _word_places(text, size).items()}


def _char_places(text: str, size: int) -> Places:
    # where each character of the text with single spaces begins in the text itself, and where the last one ends
    folded, at = _WHITE.sub(" ", text), list(range(len(text) + 1))
    if len(folded) < len(text):
        inside = {i for run in _WHITE.finditer(text) for i in range(run.start() + 1, run.end())}
        at = [i for i in at if i not in inside]
    found: Places = {}
    for i in range(len(folded) - size + 1):
        ngram = folded[i : i + size]
        if not ngram.isspace():
            found.setdefault(ngram, []).append((at[i], at[i + size]))
    return found


def _word_places(text: str, size: int) -> Places:
    words = [(match.group().lower(), match.start(), match.end()) for match in _WORD.finditer(text)]
    found: Places = {}
    for i in range(len(words) - size + 1):
        part = words[i : i + size]
        found.setdefault(" ".join(word for word, _, _ in part), []).append((part[0][1], part[-1][2]))
    return found


def ngram_sets(
    text: str, char_sizes: Sequence[int] = CHAR_SIZES, word_sizes: Sequence[int] = WORD_SIZES
) -> tuple[frozenset[str], ...]:
    """The character n-grams of each size, then the word n-grams, without their places: the same, some times faster."""
    folded, words = _WHITE.sub(" ", text), [word.lower() for word in _WORD.findall(text)]
    of_characters = (
        frozenset([folded[i : i + size] for i in range(len(folded) - size + 1)]) - {" "}
        for size in char_sizes
    )
    of_words = (
        frozenset([" ".join(words[i : i + size]) for i in range(len(words) - size + 1)])
        for size in word_sizes
    )
    return (*of_characters, *of_words)


def jaccard(a: set[str] | frozenset[str], b: set[str] | frozenset[str]) -> float | None:
    """|a and b| / |a or b|; None when both are empty."""
    both = len(a & b)
    either = len(a) + len(b) - both
    return both / either if either else None


class _Found(NamedTuple):
    """An n-gram and the cores that hold it."""

    text: str
    places: dict[int, list[tuple[int, int]]]
    """Index of a core to its occurrences."""


def common_ngrams(
    cores: Sequence[Window], sizes: Sequence[int] = CHAR_SIZES, min_windows: int = 2, is_set: bool = False
) -> tuple[Ngram, ...]:
    """The n-gram of each kind and size that most windows share (then most occurrences, then the first by its letters).

    Character n-grams of `sizes`, then words of WORD_SIZES; none where fewer than `min_windows` share one.
    """
    spelled = [spell(core.tokens, is_set) for core in cores]
    kinds: list[tuple[Literal["char", "word"], int]] = [("char", size) for size in sizes]
    kinds += [("word", size) for size in WORD_SIZES]
    common = []
    for kind, size in kinds:
        best = _most_shared([one.text for one in spelled], kind, size)
        if best is not None and len(best.places) >= min_windows:
            common.append(_ngram(best, kind, size, cores, spelled))
    return tuple(common)


def _most_shared(texts: Sequence[str], kind: Literal["char", "word"], size: int) -> _Found | None:
    held: dict[str, dict[int, list[tuple[int, int]]]] = {}
    for i, text in enumerate(texts):
        for ngram, places in (_char_places if kind == "char" else _word_places)(text, size).items():
            held.setdefault(ngram, {})[i] = places
    if not held:
        return None
    best = min(held, key=lambda ngram: (-len(held[ngram]), -sum(map(len, held[ngram].values())), ngram))
    return _Found(best, held[best])


def _ngram(
    found: _Found,
    kind: Literal["char", "word"],
    size: int,
    cores: Sequence[Window],
    spelled: Sequence[Spelled],
) -> Ngram:
    return Ngram(
        text=found.text,
        size=size,
        kind=kind,
        n_occurrences=sum(map(len, found.places.values())),
        n_windows=len(found.places),
        occurrences=tuple(
            Occurrence(
                cores[i].prompt,
                tuple(cores[i].start + _token_at(spelled[i], start) for start, _ in places),
                tuple(places),
            )
            for i, places in found.places.items()
        ),
    )


def _token_at(spelled: Spelled, character: int) -> int:
    """Index of the token that a character is in; the first, where several make it up."""
    ends = [end for _, end in spelled.spans]
    if ends == sorted(ends):
        return bisect_right(ends, character)
    return next((i for i, (start, end) in enumerate(spelled.spans) if start <= character < end), 0)
