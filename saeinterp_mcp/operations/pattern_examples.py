"""Examples that stand for a feature, straight from a store, and those of random features to compare with."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.clients.embedding import Embedder, default_embedder
from saeinterp_mcp.labels.similarity import directions_of
from saeinterp_mcp.patterns.choosing import choose_by_quantile, window_bounds
from saeinterp_mcp.patterns.coherence import CoherenceBaseline
from saeinterp_mcp.patterns.matching import MatchBaseline
from saeinterp_mcp.patterns.records import WIDTH, Background, Group, Vectors, Window
from saeinterp_mcp.patterns.spelling import spell
from saeinterp_mcp.store.base import Ints, Store

N_QUANTILES, PER_QUANTILE = 4, 2
N_RANDOM = 64
"""Random features whose examples a similarity is compared with, as many of each as of the feature itself: more windows
come closer to any phrase by chance."""
N_RANDOM_STRAIGHT = 24
"""The same where the activations of each are counted anew."""

MAX_TOKEN = 256
"""Characters of a token that are looked at."""


class Baselines(NamedTuple):
    """What random features look like, indexed once."""

    coherence: CoherenceBaseline
    matching: MatchBaseline
    n_features: int
    described: str
    """In words."""


def group_of(store: Store, feature: int, seed: int, embedder: Embedder | None) -> Group:
    """The examples of a feature, with their directions where there is an embedder; no windows if it never fires."""
    windows = windows_of(store, feature, seed)
    texts = [window_text(store, window) for window in windows]
    vectors = directions_of(store.labels, embedder, texts) if embedder and texts else None
    return Group(feature, windows, vectors)


@lru_cache(maxsize=4)
def baselines(store: Store, seed: int, model: str | None) -> Baselines:
    """Of random features that fire in the explain split; the texts are embedded once, and kept in the labels file.

    `model` is the name of the default embedder; None: no directions.
    """
    embedder = default_embedder() if model is not None else None
    wanted = N_RANDOM if store.manifest.straight is None else N_RANDOM_STRAIGHT
    drawn: list[tuple[int, tuple[Window, ...]]] = []
    for feature in rng(seed, "random examples").permutation(store.manifest.n_features).tolist():
        if len(drawn) == wanted:
            break
        if windows := windows_of(store, feature, seed):
            drawn.append((feature, windows))
    texts = [window_text(store, window) for _, windows in drawn for window in windows]
    vectors = directions_of(store.labels, embedder, texts) if embedder and texts else None
    background = Background(tuple(_with_vectors(drawn, vectors)))
    is_set = not store.is_sequence
    return Baselines(
        coherence=CoherenceBaseline(background, is_set, seed=seed),
        matching=MatchBaseline(background, is_set),
        n_features=len(drawn),
        described=f"examples of {len(drawn)} random features, seed {seed}",
    )


def _with_vectors(drawn: list[tuple[int, tuple[Window, ...]]], vectors: Vectors | None) -> list[Group]:
    groups, first = [], 0
    for feature, windows in drawn:
        own = None if vectors is None else vectors[first : first + len(windows)]
        groups.append(Group(feature, windows, own))
        first += len(windows)
    return groups


def windows_of(store: Store, feature: int, seed: int) -> tuple[Window, ...]:
    """Windows around the strongest row of units of the explain split, spread over quantiles of these strengths."""
    rows, values = store.activations(feature, "explain")
    if not len(rows):
        return ()
    rows, values = _strongest_of_units(rows, values, store.row_unit[rows])
    samples = store.row_sample[rows]
    chosen = choose_by_quantile(
        values, np.asarray(store.source[samples], np.int64), N_QUANTILES, PER_QUANTILE, seed, feature
    )
    return tuple(
        _window(store, int(rows[place]), int(quantile), float(values[place]))
        for place, quantile in zip(chosen.places.tolist(), chosen.quantile.tolist(), strict=True)
    )


def _strongest_of_units(
    rows: Ints, values: NDArray[np.float32], units: NDArray[np.integer]
) -> tuple[Ints, NDArray[np.float32]]:
    """Of each unit the row with the largest activation, the first of equal ones. The rows of a unit are neighbours."""
    starts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]]))
    largest = np.maximum.reduceat(values, starts)
    unit = np.repeat(np.arange(len(starts)), np.diff([*starts, len(rows)]))
    at = np.flatnonzero(values == largest[unit])
    first = at[np.unique(unit[at], return_index=True)[1]]
    return rows[first], values[first]


def _window(store: Store, row: int, quantile: int, strength: float) -> Window:
    """The tokens around a row of a sequence (those that are never counted left out at its beginning); a whole set."""
    sample, position = int(store.row_sample[row]), int(store.row_position[row])
    tokens = [store.tokens[i][:MAX_TOKEN] for i in store.tokens_of_sample(sample).tolist()]
    name = int(store.source[sample])
    if not store.is_sequence:
        return Window(name, quantile, strength, tuple(tokens), 0, 0)
    first = 0
    while first in store.manifest.excluded_positions:
        first += 1
    start, stop = window_bounds(len(tokens) - first, position - first, WIDTH)
    shown = tuple(tokens[first + start : first + stop])
    return Window(name, quantile, strength, shown, first + start, position - first - start)


def window_text(store: Store, window: Window) -> str:
    """What is embedded of it."""
    return spell(window.tokens, not store.is_sequence).text
