"""Excerpts of a feature: where it fires, and where it is measured to be silent, from the explain or heldout split.

Every draw depends on the seed and its own arguments alone, so the order of calls changes nothing. What a draw reads
is bounded by the feature's firings and a pool of rows, never by the size of the store.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.firing import strongest
from saeinterp_mcp.analysis.sampling import rng, seeded_hash, uniform_silent
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.excerpts.pool import POOL, excerpt_log_odds, pool_of
from saeinterp_mcp.excerpts.records import Excerpt, SilentKind
from saeinterp_mcp.excerpts.spans import AFTER, BEFORE, ExcerptSplit, Spans, n_firing_in, spans_of, split_rows
from saeinterp_mcp.store.base import Ints, Postings, Store

SEARCHED = 2**18
"""Rows that are looked at for silent excerpts of a feature that is hardly ever silent so long."""
SIMILAR = 8
"""Similar features by each measure, co-activation and decoder."""
ROWS_OF_SIMILAR = 512
"""Rows that are considered of each."""
COMMON = 2**22
"""Firings from which on a similar feature is passed over: to read it takes too long."""
TURNS = 16
"""Rows of a slice that are tried before any other slice may stand in for it."""
DIGITS = 9
NOBODY: frozenset[int] = frozenset()


class Excerpts:
    """Draws excerpts from one store. Cheap to make: what is kept between draws is kept by store."""

    def __init__(self, store: Store, before: int = BEFORE, after: int = AFTER) -> None:
        """Take the store, and how many tokens an excerpt holds before and after its row (sequences)."""
        self.store, self.before, self.after = store, before, after

    def firing(
        self,
        feature: int,
        split: ExcerptSplit,
        n: int,
        seed: int,
        pick: Literal["spread", "top"] = "spread",
        avoid: frozenset[int] = NOBODY,
    ) -> list[Excerpt]:
        """Up to `n` excerpts around rows where the feature fires, strongest first; one a unit, no two alike.

        Args:
            feature: which.
            split: where they are from.
            n: how many; fewer where the feature fires in fewer units.
            seed: of the draw.
            pick: `top` the strongest; `spread` one from each of `n` equal slices of the sorted activations.
            avoid: units not to take.

        Raises:
            NotInStore: the feature never fires in the split, or the store is sampled and `split` is heldout.
            UnknownName: no such feature.
        """
        if split == "heldout":
            self.store.need_full_coverage("a test on held-out excerpts")
        rows, values = self._fires_in(feature, split)
        if not len(rows):
            raise NotInStore(
                f"feature {feature} never fires in the {split} split of store {self.store.name!r}, so there is no "
                f"excerpt to show; features_search --where 'firing_rate>0' finds features that fire"
            )
        taken = _Taken(self, feature, avoid)
        if pick == "top":
            _take_strongest(taken, rows, values, n)
        else:
            _take_spread(taken, rows, values, n, rng(seed, "firing excerpts", split, feature))
        strength = dict(zip(taken.rows, values[np.searchsorted(rows, taken.rows)].tolist(), strict=True))
        return sorted(taken.excerpts, key=lambda e: (-strength[e.row], e.row))

    def silent(
        self,
        feature: int,
        split: ExcerptSplit,
        kind: SilentKind,
        n: int,
        seed: int,
        avoid: frozenset[int] = NOBODY,
    ) -> list[Excerpt]:
        """Up to `n` excerpts in which the feature is silent at every token; one a unit, no two alike.

        Fewer, and none at last, where there are no more: a feature that fires everywhere, tokens that go with it
        only where it fires, no similar feature in the store.

        Args:
            feature: which.
            split: where they are from.
            kind: `random`: around rows drawn uniformly; `near_miss`: those of a seeded pool with the largest summed
                log-odds of their tokens, above 0, best first (learnt on the explain split, whatever `split` says);
                `similar`: around rows where a similar feature fires in the stronger half of its activations.
            n: how many.
            seed: of the draw.
            avoid: units not to take.

        Raises:
            NotInStore: the store is sampled, so that nothing is known to be silent.
            UnknownName: no such feature.
        """
        self.store.need_full_coverage("a silent excerpt")
        self.store.check_feature(feature)
        taken = _Taken(self, feature, avoid, silent=True)
        if kind == "random":
            self._take_random(taken, split, n, rng(seed, "silent excerpts", split, feature))
        elif kind == "near_miss":
            taken.take(self._near_misses(feature, split, seed), n)
        else:
            taken.take(self._where_similar_fire(feature, split, seed), n)
        return taken.excerpts

    def around(self, rows: Ints) -> list[Excerpt]:
        """The excerpts around rows, whatever fires there; activations are 0, as no feature is asked about."""
        spans = spans_of(self.store, rows, self.before, self.after)
        nothing = Postings(np.zeros(0, np.int64), np.zeros(0, np.float32))
        return [_excerpt(self.store, nothing, spans, i) for i in range(len(rows))]

    def _fires_in(self, feature: int, split: ExcerptSplit) -> tuple[Ints, NDArray[np.float32]]:
        rows, values = postings_of(self.store, feature)
        start, stop = np.searchsorted(rows, split_rows(self.store, split))
        return rows[start:stop], values[start:stop]

    def _take_random(
        self, taken: "_Taken", split: ExcerptSplit, n: int, generator: np.random.Generator
    ) -> None:
        first, stop = split_rows(self.store, split)
        firing = self._fires_in(taken.feature, split)[0] - first
        n_silent, size = stop - first - len(firing), 16 * n + 128
        # later draws are larger: a feature that fires often is seldom silent in a whole excerpt
        while True:
            rows = uniform_silent(firing, stop - first, size, generator) + first
            if taken.take(generator.permutation(rows), n) or size >= min(n_silent, SEARCHED):
                return
            size = min(8 * size, SEARCHED)

    def _near_misses(self, feature: int, split: ExcerptSplit, seed: int) -> Ints:
        weights = excerpt_log_odds(self.store, feature, self.before, self.after, seed)
        if weights is None:
            return np.zeros(0, np.int64)
        pool = pool_of(self.store, split, self.before, self.after, seed)
        score = np.round(pool.sums(weights), DIGITS)
        good = np.flatnonzero(score > 0)
        rows = pool.spans.row[good]
        return rows[np.lexsort((seeded_hash(rows, seed, "near misses", feature), -score[good]))]

    def _where_similar_fire(self, feature: int, split: ExcerptSplit, seed: int) -> Ints:
        """Rows by turns: one of each similar feature, a second of each, and so on."""
        similar = similar_features(self.store, feature)
        self.store.backend.prefetch(similar)
        drawn = []
        for other in similar:
            rows, values = self._fires_in(other, split)
            rows = rows[values >= np.median(values)] if len(rows) else rows
            generator = rng(seed, "where a similar feature fires", split, feature, other)
            drawn.append(_some(rows, ROWS_OF_SIMILAR, generator).tolist())
        turns = chain.from_iterable(zip_longest(*drawn))
        return np.array([row for row in turns if row is not None], np.int64)


@lru_cache(maxsize=4)
def postings_of(store: Store, feature: int) -> Postings:
    """Where a feature fires, both splits; kept for the next draws from it."""
    return store.activations(feature)


def similar_features(store: Store, feature: int) -> list[int]:
    """Features that fire with this one (explain split) or point its way, by turns; none where the store keeps none."""
    nearest: list[list[int]] = []
    for measure in ("coactivation", "decoder"):
        name = f"neighbours/{measure}"
        if store.backend.has(f"{name}/features"):
            others = store.list_of_feature(f"{name}/features", feature)
            scores = store.list_of_feature(f"{name}/scores", feature)
            nearest.append(others[: len(scores)][scores > 0][:SIMILAR].tolist())
    turns = chain.from_iterable(zip_longest(*nearest))
    known = dict.fromkeys(f for f in turns if f is not None)
    return [f for f in known if store.per_feature("stats/n_firing", f, "all") < COMMON]


class _Taken:
    """What was taken so far: no unit twice, no text twice."""

    def __init__(self, excerpts: Excerpts, feature: int, avoid: Iterable[int], silent: bool = False) -> None:
        self.excerpts: list[Excerpt] = []
        self.rows: list[int] = []
        self.feature = feature
        self._from, self._silent = excerpts, silent
        self._units, self._texts = set(avoid), set[Any]()

    def take(self, rows: Ints, n: int) -> bool:
        """Take from `rows` in their order until there are `n`; whether there are."""
        step, start = 64, 0
        while start < len(rows) and len(self.rows) < n:
            self._take_part(rows[start : start + step], n)
            start, step = start + step, min(4 * step, POOL)
        return len(self.rows) >= n

    def _take_part(self, rows: Ints, n: int) -> None:
        store = self._from.store
        spans = spans_of(store, rows, self._from.before, self._from.after)
        postings = postings_of(store, self.feature)
        usable = ~np.isin(spans.unit, list(self._units))
        if self._silent:
            usable &= n_firing_in(postings.rows, spans) == 0
        spans = spans.take(np.flatnonzero(usable))
        for i, unit in enumerate(spans.unit.tolist()):
            if unit in self._units:
                continue
            excerpt = _excerpt(store, postings, spans, i)
            text = (excerpt.at, excerpt.tokens, excerpt.groups)
            if text in self._texts:
                continue
            self._units.add(unit)
            self._texts.add(text)
            self.excerpts.append(excerpt)
            self.rows.append(excerpt.row)
            if len(self.rows) >= n:
                return


def _take_strongest(taken: _Taken, rows: Ints, values: NDArray[np.float32], n: int) -> None:
    looked_at = 16 * n
    while not taken.take(rows[strongest(rows, values, looked_at)], n) and looked_at < len(rows):
        looked_at *= 16


def _take_spread(
    taken: _Taken, rows: Ints, values: NDArray[np.float32], n: int, generator: np.random.Generator
) -> None:
    """One from each of `n` slices of a bounded draw of the firings; what slices lack comes from any of them."""
    drawn = np.sort(_some(np.arange(len(rows)), POOL, generator))
    ordered = rows[drawn[np.argsort(-values[drawn], kind="stable")]]
    left = [generator.permutation(part) for part in np.array_split(ordered, min(n, len(ordered)))]
    # in random order: where units are few, no end of the range comes first
    left = [left[i] for i in generator.permutation(len(left))]
    for turn in range(TURNS):
        left = [part for part in left if turn < len(part)]
        taken.take(np.array([part[turn] for part in left], np.int64), n)
        done = set(taken.rows)
        left = [part for part in left if int(part[turn]) not in done]
    taken.take(generator.permutation(ordered), n)


def _some(rows: Ints, most: int, generator: np.random.Generator) -> Ints:
    """Up to `most` of the rows, in random order."""
    return np.asarray(rows[generator.choice(len(rows), min(most, len(rows)), replace=False)], np.int64)


def _excerpt(store: Store, postings: Postings, spans: Spans, i: int) -> Excerpt:
    row, sample, unit, start, first, stop = (int(column[i]) for column in spans)
    held = store.tokens_of_sample(sample)
    if store.is_sequence:
        held = held[start : start + stop - first]
    tokens = [store.tokens[token] for token in held.tolist()]
    activations = [0.0] * (stop - first)
    a, b = np.searchsorted(postings.rows, (first, stop))
    for at, value in zip(postings.rows[a:b].tolist(), postings.values[a:b].tolist(), strict=True):
        activations[at - first] = value
    groups = () if store.is_sequence else _groups(store, sample)
    shown = tokens if store.is_sequence else sorted(tokens)
    return Excerpt(row, sample, unit, start, tuple(shown), tuple(activations), groups, row - first)


def _groups(store: Store, sample: int) -> tuple[tuple[str, str], ...]:
    """The primary group's value and its attributes, named as in rules."""
    group = next((g for g in store.manifest.groups if g.primary), None)
    if group is None:
        return ()
    value = int(store.group_of_samples(group.name)[sample])
    attributes = ((f"{group.name}.{name}", held[value]) for name, held in group.attributes.items())
    return ((group.name, group.values[value]), *attributes)
