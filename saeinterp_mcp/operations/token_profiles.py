"""Which tokens stand where features fire strongest, and how alike two features are in that."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.store.base import Floats, Ints, Store
from saeinterp_mcp.store.layout import NEIGHBOURS, NO_INDEX

if TYPE_CHECKING:
    from scipy.sparse import csr_array

RANDOM_PAIRS = 20_000


class TokenProfiles(NamedTuple):
    """Of all features of a store."""

    unit: "csr_array"
    """(F, V) a row for each feature: share of its strongest rows that hold the token x IDF, scaled to length 1."""
    random: Floats
    """Cosines of random pairs of features that fire, ascending."""

    def nearest(self, feature: int) -> tuple[Ints, Floats]:
        """(features, cosines) most alike first, as many as stored lists of neighbours have."""
        cosines = (self.unit @ self.unit[[feature]].T).toarray().ravel()
        cosines[feature] = -np.inf
        order = np.lexsort((np.arange(len(cosines)), -np.round(cosines, 9)))
        kept = order[cosines[order] > 0][:NEIGHBOURS]
        return kept, cosines[kept]


@lru_cache(maxsize=4)
def token_profiles(store: Store) -> TokenProfiles:
    """From the strongest 128 rows of each feature in the `explain` split."""
    from scipy.sparse import coo_array, csr_array

    rows = store.backend.column("top/rows")[:, 0, :]
    feature, place = np.nonzero(rows != NO_INDEX)
    at = rows[feature, place].astype(np.int64)
    if store.is_sequence:
        entry, token = np.arange(len(at)), store.token_of_rows(at)
    else:
        starts = store.first_token[at]
        counts = store.first_token[at + 1] - starts
        entry = np.repeat(np.arange(len(at)), counts)
        token = store.sample_tokens[expand_ranges(starts, counts)]
    idf = store.backend.table("vocabulary")["idf"].to_numpy()
    n_features = len(rows)
    places: Any = (feature[entry], token.astype(np.int64))
    weights = coo_array((idf[token], places), shape=(n_features, len(idf))).tocsr()
    lengths = np.sqrt(_row_sums(weights.multiply(weights)))
    inverse = np.divide(1.0, lengths, out=np.zeros(n_features), where=lengths > 0)
    unit = csr_array(weights.multiply(inverse[:, None]))
    return TokenProfiles(unit, _random_cosines(unit, np.flatnonzero(lengths > 0)))


def _random_cosines(unit: "csr_array", firing: Ints) -> Floats:
    if len(firing) < 2:
        return np.zeros(0)
    draw = rng(0, "random pairs by tokens")
    one = draw.integers(0, len(firing), RANDOM_PAIRS)
    other = (one + draw.integers(1, len(firing), RANDOM_PAIRS)) % len(firing)
    return np.sort(_row_sums(unit[firing[one]].multiply(unit[firing[other]])))


def _row_sums(matrix: Any) -> Floats:
    return np.asarray(matrix.sum(axis=1), np.float64).ravel()
