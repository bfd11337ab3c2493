"""Windows and n-grams as SAE_vis made them, its errors too (`compat: true`)."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from saeinterp_mcp.patterns.choosing import window_bounds_compat
from saeinterp_mcp.patterns.records import Window


class CompatNgram(NamedTuple):
    """The substring that occurs most often."""

    text: str
    size: int
    n_occurrences: int
    occurrences: tuple[tuple[int, tuple[int, ...]], ...]
    """(example, positions); the position of the strongest token once for each occurrence, wherever it is."""


def ngram_text(window: Window, width: int) -> str:
    """Tokens around the strongest one, `▁` and all, without anything between them; a width of 5 gives 4 of them."""
    start, stop = window_bounds_compat(len(window.tokens), window.at, width)
    return "".join(window.tokens[start:stop])


def substrings(text: str, size: int) -> list[str]:
    """All character n-grams, repeats too."""
    return [text[i : i + size] for i in range(len(text) - size + 1)]


def jaccard_compat(a: set[str], b: set[str]) -> float:
    """1 when both are empty."""
    return len(a & b) / len(a | b) if a or b else 1.0


def mean_jaccards(texts: Sequence[str], sizes: Sequence[int]) -> list[float | None]:
    """Mean over pairs of texts, for each size; null under two texts."""
    return mean_cross_jaccards(list(combinations(range(len(texts)), 2)), texts, texts, sizes)


def mean_cross_jaccards(
    pairs: Sequence[tuple[int, int]], first: Sequence[str], second: Sequence[str], sizes: Sequence[int]
) -> list[float | None]:
    """Mean over pairs of a text of `first` and one of `second`, for each size."""
    found: list[float | None] = []
    for size in sizes:
        a, b = ([set(substrings(text, size)) for text in texts] for texts in (first, second))
        values = [jaccard_compat(a[i], b[j]) for i, j in pairs]
        found.append(float(np.mean(values)) if values else None)
    return found


def top_ngrams(texts: Sequence[str], positions: Sequence[int], sizes: Sequence[int]) -> list[CompatNgram]:
    """For each size the substring of most occurrences over all texts, the first seen of equal ones."""
    found = []
    for size in sizes:
        each = [Counter(substrings(text, size)) for text in texts]
        total: Counter[str] = Counter()
        for text in texts:
            total.update(substrings(text, size))
        if not total:
            continue
        ngram, count = total.most_common(1)[0]
        where = tuple((i, (positions[i],) * one[ngram]) for i, one in enumerate(each) if one[ngram])
        found.append(CompatNgram(ngram, size, count, where))
    return found
