"""Pool: a seeded draw of excerpts from a split, firing ones and silent ones, made once for all features."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from saeinterp_mcp.analysis.examples import token_log_odds
from saeinterp_mcp.analysis.moments import distinct
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.excerpts.spans import ExcerptSplit, Spans, n_firing_in, spans_of, split_rows
from saeinterp_mcp.store.base import Floats, Ints, Store

POOL = 2**14
"""Excerpts of a pool: bounds what a near miss costs, however large the store."""
LEARNT_FROM = 1024
"""Firing excerpts that log-odds are learnt from."""


class Pool(NamedTuple):
    """Excerpts and the tokens that they hold."""

    spans: Spans
    entry: Ints
    """(E,) index of the excerpt of each entry."""
    token: Ints
    """(E,) a token that it holds; each once."""

    def silent(self, firing: Ints) -> Ints:
        """Indices of the excerpts without any of the rows `firing` (ascending)."""
        return np.flatnonzero(n_firing_in(firing, self.spans) == 0)

    def sums(self, weights: Floats) -> Floats:
        """(n,) sum over the tokens of each excerpt of (V,) weights."""
        return np.asarray(np.bincount(self.entry, weights[self.token], len(self.spans.row)), np.float64)


@lru_cache(maxsize=8)
def pool_of(store: Store, split: ExcerptSplit, before: int, after: int, seed: int) -> Pool:
    """Up to `POOL` excerpts around rows drawn uniformly from the split, all of a smaller one."""
    first, stop = split_rows(store, split)
    generator = rng(seed, "pool of excerpts", split)
    rows = np.sort(generator.choice(stop - first, min(POOL, stop - first), replace=False)) + first
    return _pool(store, spans_of(store, rows.astype(np.int64), before, after))


def _pool(store: Store, spans: Spans) -> Pool:
    entry, token = spans.tokens(store)
    n_tokens = max(1, len(store.tokens))
    entry, token = np.divmod(distinct(entry * n_tokens + token), n_tokens)
    return Pool(spans, entry, token)


@lru_cache(maxsize=64)
def excerpt_log_odds(store: Store, feature: int, before: int, after: int, seed: int) -> Floats | None:
    """(V,) shrunken log-odds that an excerpt with the token is around a firing row rather than silent.

    Learnt from the explain split: firing excerpts and the silent ones of the pool, held against each other. None
    where the feature never fires there.
    """
    firing = store.activations(feature, "explain").rows
    if not len(firing):
        return None
    generator = rng(seed, "log-odds of excerpts", feature)
    drawn = np.sort(generator.choice(firing, min(LEARNT_FROM, len(firing)), replace=False))
    fires = _pool(store, spans_of(store, drawn, before, after))
    pool = pool_of(store, "explain", before, after, seed)
    silent = pool.silent(firing)
    if not len(silent):
        return None
    n_tokens = len(store.tokens)
    is_silent = np.zeros(len(pool.spans.row), bool)
    is_silent[silent] = True
    n_firing = np.bincount(fires.token, minlength=n_tokens).astype(np.float64)
    n_silent = np.bincount(pool.token[is_silent[pool.entry]], minlength=n_tokens)
    n_fires = len(fires.spans.row)
    return token_log_odds(n_firing, n_firing + n_silent, float(n_fires), float(n_fires + len(silent)))
