"""How alike the examples of a feature are, against as many examples of different random features."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations, product, starmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.patterns.baseline import MIN_RANDOM, cut_group, percentile_among
from saeinterp_mcp.patterns.ngrams import CHAR_SIZES, WORD_SIZES, core_of, jaccard, ngram_sets
from saeinterp_mcp.patterns.records import (
    CORE,
    Background,
    Coherence,
    Floats,
    Group,
    PatternType,
    Vectors,
    Window,
)
from saeinterp_mcp.patterns.spelling import spell

N_SHUFFLES = 1_000
"""Groups of random windows that a coherence is compared with."""

Sets = tuple[frozenset[str], ...]
"""N-grams of a core: of characters by their sizes, then of words by theirs."""
Means = tuple[float | None, ...]


class PairCoherence(NamedTuple):
    """How alike the examples of two features are."""

    semantic: float | None
    """Mean cosine over all pairs of a window of one and a window of the other."""
    semantic_percentile: float | None
    """Among random pairs of features."""
    jaccard: tuple[float | None, ...]
    """Mean over the same pairs, of character n-grams of 2, 3 and 4 in the cores (of 1, 2 and 3 words in sets)."""
    lexical_percentile: float | None
    """Of the largest of these."""


class _Baseline(NamedTuple):
    """What random groups, or pairs of groups, look like."""

    features: NDArray[np.int64]
    """(N_SHUFFLES, n) features that each was drawn from."""
    semantic: Floats | None
    lexical: Floats


class CoherenceBaseline:
    """What groups of windows from different random features look like; made once, used for every feature."""

    def __init__(self, background: Background, is_set: bool = False, core: int = CORE, seed: int = 0) -> None:
        """Take the random features' examples; those without any count for nothing."""
        self._groups = [group for group in background.groups if group.windows]
        self._is_set, self._core, self._seed = is_set, core, seed
        # of sets words decide: letters of one token and the next are no neighbours
        self._decisive = slice(len(CHAR_SIZES), None) if is_set else slice(0, len(CHAR_SIZES))
        self._has_vectors = all(group.vectors is not None for group in self._groups)
        self._of_size: dict[int, _Baseline | None] = {}
        self._of_sizes: dict[tuple[int, int], _Baseline | None] = {}

    def of(self, group: Group, percentile: float = 95.0) -> Coherence:
        """The coherence of a feature's examples. `pattern` counts what lies above `percentile` of N_SHUFFLES groups
        of as many windows, each of another random feature, none of this one."""
        cosines = None if group.vectors is None else pairwise_cosines(group.vectors).astype(np.float64)
        means = _means_within([self._sets(one) for one in group.windows], slice(None))
        n_char = len(CHAR_SIZES)
        lexical = _largest(means[self._decisive])
        baseline = self._random_groups(len(group.windows))
        measured = cosines is not None and len(cosines) > 0
        semantic = float(cosines.mean()) if cosines is not None and measured else None
        semantic_percentile, lexical_percentile = _percentiles(baseline, [group.feature], semantic, lexical)
        return Coherence(
            semantic=semantic,
            semantic_std=float(cosines.std()) if cosines is not None and measured else None,
            semantic_min=float(cosines.min()) if cosines is not None and measured else None,
            semantic_max=float(cosines.max()) if cosines is not None and measured else None,
            semantic_percentile=semantic_percentile,
            jaccard=_three(means[:n_char]),
            word_jaccard=_three(means[n_char:]),
            max_jaccard=lexical,
            lexical_percentile=lexical_percentile,
            pattern=_pattern(semantic_percentile, lexical_percentile, percentile),
        )

    def of_pair(self, a: Group, b: Group) -> PairCoherence:
        """The examples of two features against each other, and their percentiles among random pairs of features with
        as many windows, none of these two."""
        both = a.vectors is not None and b.vectors is not None and len(a.vectors) > 0 and len(b.vectors) > 0
        semantic = float(_direction(a) @ _direction(b)) if both else None
        means = self._means_between(a, b)
        lexical = _largest(means)
        baseline = self._random_pairs(len(a.windows), len(b.windows))
        percentiles = _percentiles(baseline, [a.feature, b.feature], semantic, lexical)
        return PairCoherence(semantic, percentiles[0], means, percentiles[1])

    def _means_between(self, a: Group, b: Group) -> Means:
        return _means_between(
            [self._sets(one) for one in a.windows], [self._sets(one) for one in b.windows], self._decisive
        )

    def _sets(self, window: Window) -> Sets:
        return _ngrams_of(core_of(window, self._core, self._is_set).tokens, self._is_set)

    def _random_groups(self, k: int) -> _Baseline | None:
        """Groups of the i-th window of k different random features, so that quantiles are as in a feature's own."""
        if k not in self._of_size:
            self._of_size[k] = self._draw_groups(k)
        return self._of_size[k]

    def _draw_groups(self, k: int) -> _Baseline | None:
        if len(self._groups) < max(k, MIN_RANDOM) or k < 2:
            return None
        generator = rng(self._seed, "random groups", k)
        drawn = np.stack(
            [generator.choice(len(self._groups), size=k, replace=False) for _ in range(N_SHUFFLES)]
        )
        semantic, lexical = np.zeros(N_SHUFFLES), np.zeros(N_SHUFFLES)
        ordered = [cut_group(group, k) for group in self._groups]
        for i, row in enumerate(drawn.tolist()):
            slots = [(ordered[g], j % len(ordered[g].windows)) for j, g in enumerate(row)]
            if self._has_vectors:
                chosen = np.stack([group.vectors[j] for group, j in slots if group.vectors is not None])
                semantic[i] = pairwise_cosines(chosen).astype(np.float64).mean()
            sets = [self._sets(group.windows[j]) for group, j in slots]
            lexical[i] = _number(_largest(_means_within(sets, self._decisive)))
        return _Baseline(self._features()[drawn], semantic if self._has_vectors else None, lexical)

    def _random_pairs(self, k_a: int, k_b: int) -> _Baseline | None:
        """Pairs of different random features, `k_a` windows of one and `k_b` of the other."""
        if (k_a, k_b) not in self._of_sizes:
            self._of_sizes[k_a, k_b] = self._draw_pairs(k_a, k_b)
        return self._of_sizes[k_a, k_b]

    def _draw_pairs(self, k_a: int, k_b: int) -> _Baseline | None:
        if len(self._groups) < MIN_RANDOM or not k_a or not k_b:
            return None
        generator = rng(self._seed, "random pairs", k_a, k_b)
        drawn = np.stack(
            [generator.choice(len(self._groups), size=2, replace=False) for _ in range(N_SHUFFLES)]
        )
        semantic, lexical = np.zeros(N_SHUFFLES), np.zeros(N_SHUFFLES)
        first = [cut_group(group, k_a) for group in self._groups]
        second = [cut_group(group, k_b) for group in self._groups]
        for i, (x, y) in enumerate(drawn.tolist()):
            a, b = first[x], second[y]
            if self._has_vectors:
                semantic[i] = _direction(a) @ _direction(b)
            lexical[i] = _number(_largest(self._means_between(a, b)))
        return _Baseline(self._features()[drawn], semantic if self._has_vectors else None, lexical)

    def _features(self) -> NDArray[np.int64]:
        return np.array([group.feature for group in self._groups], np.int64)


@lru_cache(maxsize=4_096)
def _ngrams_of(tokens: tuple[str, ...], is_set: bool) -> Sets:
    return ngram_sets(spell(tokens, is_set).text)


def _means_within(windows: Sequence[Sets], sizes: slice) -> Means:
    """Mean Jaccard over pairs of windows, for each of some sizes."""
    by_size = zip(*(one[sizes] for one in windows), strict=True)
    return tuple(_mean_jaccard(combinations(sets, 2)) for sets in by_size) or _NOTHING[sizes]


def _means_between(a: Sequence[Sets], b: Sequence[Sets], sizes: slice) -> Means:
    """The same over pairs of one of each."""
    first, second = (zip(*(one[sizes] for one in sets), strict=True) for sets in (a, b))
    pairs = zip(first, second, strict=True) if a and b else ()
    return tuple(_mean_jaccard(product(x, y)) for x, y in pairs) or _NOTHING[sizes]


_NOTHING: Means = (None,) * (len(CHAR_SIZES) + len(WORD_SIZES))


def _mean_jaccard(pairs: Iterable[tuple[frozenset[str], frozenset[str]]]) -> float | None:
    """Pairs without n-grams are left out."""
    known = [one for one in starmap(jaccard, pairs) if one is not None]
    return sum(known) / len(known) if known else None


def _largest(means: Means) -> float | None:
    return max((one for one in means if one is not None), default=None)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _direction(group: Group) -> Floats:
    """(d,) mean of the directions of its windows: a product of two such means is the mean cosine over all pairs."""
    assert group.vectors is not None, "asked only where there are vectors"
    return np.asarray(np.asarray(group.vectors, np.float64).mean(axis=0))


def _percentiles(
    baseline: _Baseline | None, features: Sequence[int], semantic: float | None, lexical: float | None
) -> tuple[float | None, float | None]:
    """Among the random ones that hold none of the features."""
    if baseline is None:
        return None, None
    others = np.ones(len(baseline.features), bool)
    for feature in features:
        others &= (baseline.features != feature).all(axis=1)

    def among(random: Floats | None, value: float | None) -> float | None:
        if random is None or value is None:
            return None
        return percentile_among(random[others & ~np.isnan(random)], value)

    return among(baseline.semantic, semantic), among(baseline.lexical, lexical)


def _pattern(semantic: float | None, lexical: float | None, percentile: float) -> PatternType | None:
    if semantic is None and lexical is None:
        return None
    means, words = (one is not None and one > percentile for one in (semantic, lexical))
    if means and words:
        return "both"
    return "semantic" if means else "lexical" if words else "none"


def _three(means: Means) -> tuple[float | None, float | None, float | None]:
    first, second, third = means
    return first, second, third


def pairwise_cosines(vectors: Vectors) -> Vectors:
    """(k (k - 1) / 2,) cosines of all pairs of rows.

    Worked out in float64, so that what is left after rounding does not hang on how a library cuts the work.
    """
    exact = np.asarray(vectors, np.float64)
    first, second = np.triu_indices(len(exact), 1)
    return np.asarray((exact @ exact.T)[first, second], np.float32)
