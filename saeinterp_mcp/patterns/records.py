"""The nouns of comparing texts: Window, Group, Background, Phrase, Verdict. No reading or writing."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
PatternType = Literal["semantic", "lexical", "both", "none"]
MatchType = Literal["lexical", "semantic", "both", "none"]

CORE = 5
"""Tokens of a window that words and n-grams are looked for in: the strongest one and two on either side."""
WIDTH = 32
"""Tokens of a window that its meaning is taken from."""


class Window(NamedTuple):
    """A stretch of one prompt around the token where the feature fires strongest; of a set all of it."""

    prompt: int
    quantile: int
    """0 the weakest."""
    strength: float
    """The feature's largest activation in the prompt."""
    tokens: tuple[str, ...]
    """As stored; WIDTH of them, or the whole prompt where that is shorter."""
    start: int
    """Position of `tokens[0]` in the prompt."""
    at: int
    """Index in `tokens` of the strongest one."""


class Group(NamedTuple):
    """The chosen examples of one feature."""

    feature: int
    windows: tuple[Window, ...]
    vectors: Vectors | None = None
    """(k, d) directions of their texts, of length 1; None without an embedder."""


class Background(NamedTuple):
    """Chosen examples of random features: what a similarity is compared with."""

    groups: tuple[Group, ...]


class Phrase(NamedTuple):
    """A part of an explanation that claims one thing."""

    text: str
    start: int
    """First character in the explanation."""
    end: int
    """Character after its last."""
    chunk_index: int
    """Its place among the phrases of the explanation, from 0."""


class Claimed(NamedTuple):
    """One explainer's explanation of a feature."""

    explainer: str
    text: str
    phrases: tuple[Phrase, ...]
    vectors: Vectors | None = None
    """(n_phrases, d) directions, of length 1."""


class Coherence(NamedTuple):
    """How alike the examples of a feature are. Percentiles are among groups of as many windows of different
    features."""

    semantic: float | None
    """Mean pairwise cosine; None under two windows or without vectors."""
    semantic_std: float | None
    semantic_min: float | None
    semantic_max: float | None
    semantic_percentile: float | None
    jaccard: tuple[float | None, float | None, float | None]
    """Mean pairwise Jaccard of character n-grams of 2, 3 and 4 in the cores; None where all are empty."""
    word_jaccard: tuple[float | None, float | None, float | None]
    """Of 1, 2 and 3 words."""
    max_jaccard: float | None
    """Largest of `jaccard` (of `word_jaccard` in sets)."""
    lexical_percentile: float | None
    pattern: PatternType | None
    """None: nothing could be measured."""


class Occurrence(NamedTuple):
    """Where an n-gram begins in one window."""

    prompt: int
    positions: tuple[int, ...]
    """Positions of tokens in the prompt, ascending."""
    offsets: tuple[tuple[int, int], ...]
    """(first character, character after the last) in the text of the core."""


class Ngram(NamedTuple):
    """An n-gram that several windows share."""

    text: str
    size: int
    kind: Literal["char", "word"]
    n_occurrences: int
    """Repeats within a window counted."""
    n_windows: int
    occurrences: tuple[Occurrence, ...]


class Verdict(NamedTuple):
    """Whether a phrase describes the examples. Percentiles: share of random features on whose examples the same
    phrase does worse (ties count half)."""

    phrase: Phrase
    match: MatchType | None
    """None: not tested, for it names nothing and has no vector."""
    term: str | None
    """The word or quoted text of the phrase that tells the cores best from those of random features; None where no core
    holds any."""
    lexical: float | None
    """Share of the cores that hold it; None for a phrase that names nothing."""
    lexical_percentile: float | None
    """A term in one core of several counts as in none; random features are given their own best term of the phrase."""
    semantic: float | None
    """Mean of the TOP largest cosines with the windows."""
    semantic_percentile: float | None
    shuffled_percentile: float | None
    """Share of phrases about other features with a smaller `semantic` on these examples; None under 20 of them."""


class Matched(NamedTuple):
    """One explanation against the examples."""

    explainer: str
    verdicts: tuple[Verdict, ...]
    n_tested: int
    n_matches: int
    rate: float | None
    """n_matches / n_tested; None when nothing was tested."""
    rate_by_chance: float | None
    """Mean rate of the same phrases on the random features."""
    rate_percentile: float | None
    """Share of random features on whose examples the rate is lower (ties count half)."""
