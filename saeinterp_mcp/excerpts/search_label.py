"""The search label of a feature: the words that go with its firing, found by counting, without any model.

It is the baseline of every label that a language model writes: `predicts` sits the same tests.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from saeinterp_mcp.analysis.search_words import MIN_UNITS, Held, find_words
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.excerpts.pool import pool_of
from saeinterp_mcp.excerpts.records import Excerpt
from saeinterp_mcp.excerpts.words import Vocabulary, Words, read_vocabulary, words_of
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.base import Store

FIRING = 256
"""Firing excerpts that are read, one a unit, spread over the range of activations."""
BACKGROUND = 4096
"""Excerpts of the background."""
LEVEL = 0.05
"""How often a feature that goes with no word may get a label all the same."""
Scope = Literal["excerpt", "token"]
SCOPES: tuple[Scope, Scope] = ("excerpt", "token")


class SearchWord(NamedTuple):
    """A word of a search label."""

    word: str
    log_odds: float
    """Shrunken, of firing excerpts against the background."""
    n_firing_excerpts: int
    """Firing excerpts that hold it."""
    n: int
    """Excerpts of the background that hold it."""


class SearchLabel(Frozen):
    """A label worked out from words, or why there is none."""

    text: str | None
    """Its words with commas between; None: no word goes with the feature more than chance would have it."""
    words: tuple[SearchWord, ...]
    """Surest first; each was chosen for the firing excerpts that hold none of those before it."""
    n_firing_excerpts: int
    """Firing excerpts that were read, one a unit."""
    n_background: int
    """Excerpts of the background."""
    scope: Scope = "excerpt"
    """excerpt: words held anywhere in firing excerpts; token: where these tell nothing, as in a feature that fires
    somewhere in every excerpt, the words at the very tokens that fire."""
    vocabulary: bool = False
    """Whether the words are those of a vocabulary, whose plurals count too."""
    reason: str | None = None
    """Why `text` is None."""


class _Background(NamedTuple):
    """What excerpts of the explain split hold, whether the feature fires in them or not."""

    place: dict[str, int]
    """Word to its index in `held`."""
    held: Held


def search_label(
    store: Store,
    feature: int,
    vocabulary: Vocabulary | str | Path | None = None,
    n_words: int = 4,
    seed: int = 0,
) -> SearchLabel:
    """Up to `n_words` words that go with a feature's firing in the explain split.

    Words are lower-cased runs of two letters or more, put together from tokens; a token that is in no word counts as
    itself. In sets: tokens, levels of families, values of the primary group.

    Args:
        store: with the feature.
        feature: which.
        vocabulary: the only words allowed: a file, one word a line, or a name in `prompts/vocabularies`.
        n_words: most words of the label.
        seed: of the excerpts that are drawn.

    Raises:
        UnknownName: no such feature.
        NotInStore: the store is sampled, so that its background is not that of the dataset.
        BadInput: the vocabulary cannot be read.
    """
    store.need_full_coverage("a search label")
    words = read_vocabulary(vocabulary) if isinstance(vocabulary, str | Path) else vocabulary
    excerpts = Excerpts(store)
    try:
        firing = excerpts.firing(feature, "explain", FIRING, seed)
    except NotInStore:
        return _nothing("it never fires in the explain split", 0, 0, words)
    units = [excerpt.unit for excerpt in firing]
    fires = [words_of(store, excerpt).within(words) for excerpt in firing]
    n_background = len(_background_words(store, seed))
    if len(units) < MIN_UNITS:
        why = "it fires in one unit only, where any word might be its own"
        return _nothing(why, len(units), n_background, words)
    for scope in SCOPES:
        held = [_in_scope(w, scope) for w in fires]
        if chosen := _found(held, units, _background(store, seed, words, scope), n_words):
            return SearchLabel(
                text=", ".join(word.word for word in chosen),
                words=chosen,
                n_firing_excerpts=len(fires),
                n_background=n_background,
                scope=scope,
                vocabulary=words is not None,
            )
    kind = "word of the vocabulary" if words is not None else "word or token"
    return _nothing(f"no {kind} goes with it more than chance would have it", len(fires), n_background, words)


def predicts(store: Store, label: SearchLabel, excerpt: Excerpt) -> float:
    """How sure the label is that the feature fires in an excerpt: 0 without any of its words, else above 1/2.

    The logistic function of the largest log-odds of the words held; ties are many, as the words are few.
    """
    forms = Vocabulary(tuple(word.word for word in label.words)) if label.vocabulary else None
    held = words_of(store, excerpt).within(forms).held
    odds = [word.log_odds for word in label.words if word.word in held]
    return 1 / (1 + math.exp(-max(odds))) if odds else 0.0


def _nothing(reason: str, n_firing: int, n_background: int, words: Vocabulary | None) -> SearchLabel:
    return SearchLabel(
        text=None,
        words=(),
        n_firing_excerpts=n_firing,
        n_background=n_background,
        vocabulary=words is not None,
        reason=reason,
    )


def _found(
    fires: Sequence[frozenset[str]], units: Sequence[int], background: _Background, n_words: int
) -> tuple[SearchWord, ...]:
    new = sorted(set(chain(*fires)) - set(background.place))
    names = [*background.place, *new]
    place = background.place | {name: len(background.place) + i for i, name in enumerate(new)}
    one = _held(fires, units, place)
    found = find_words(one, background.held, len(names), n_words, LEVEL / len(SCOPES))
    return tuple(SearchWord(names[f.word], round(f.log_odds, 6), f.n_firing, f.n_background) for f in found)


def _in_scope(words: Words, scope: Scope) -> frozenset[str]:
    return words.held if scope == "excerpt" else words.here


def _held(held: Sequence[frozenset[str]], unit: Sequence[int], place: dict[str, int]) -> Held:
    entry = np.repeat(np.arange(len(held)), [len(names) for names in held])
    word = np.array([place[name] for names in held for name in sorted(names)], np.int64)
    return Held(len(held), np.array(unit, np.int64), entry, word)


@lru_cache(maxsize=8)
def _background(store: Store, seed: int, vocabulary: Vocabulary | None, scope: Scope) -> _Background:
    drawn = _background_words(store, seed)
    held = [_in_scope(words.within(vocabulary), scope) for _, words in drawn]
    place = {name: i for i, name in enumerate(sorted(set(chain(*held))))}
    return _Background(place, _held(held, [unit for unit, _ in drawn], place))


@lru_cache(maxsize=4)
def _background_words(store: Store, seed: int) -> tuple[tuple[int, Words], ...]:
    """(unit, words) of the excerpts of the background, evenly from the pool."""
    excerpts = Excerpts(store)
    pool = pool_of(store, "explain", excerpts.before, excerpts.after, seed)
    chosen = np.unique(np.linspace(0, len(pool.spans.row) - 1, BACKGROUND).astype(np.int64))
    return tuple((e.unit, words_of(store, e)) for e in excerpts.around(pool.spans.row[chosen]))
