"""The rows kept to be shown for each feature: spread, core, near misses, silent ones; all from `explain`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from saeinterp_mcp.analysis.examples import from_core, spread_over_quantiles, token_log_odds
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.analysis.sampling import one_per_unit, rng, seeded_hash, uniform_silent
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import EXAMPLES, NO_INDEX
from saeinterp_mcp.store.zarr_store import ZarrWriter

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
PICKS = ("spread", "core", "near_miss", "silent")


def choose_examples(
    store: Store,
    writer: ZarrWriter,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `examples/*` and the table `examples`."""
    n_features, n_rows = store.manifest.n_features, store.n_rows("explain")
    tokens = _RowTokens(store, n_rows)
    units = store.row_unit[:]
    chosen = {pick: np.full((n_features, EXAMPLES), NO_INDEX, np.uint32) for pick in PICKS}
    for feature in range(n_features):
        rows, values = store.activations(feature, "explain")
        maximum = float(store.per_feature("stats/effective_max", feature))
        lists = {
            "spread": spread_over_quantiles(rows, values, units, EXAMPLES, rng(seed, "spread", feature)),
            "core": from_core(rows, values, maximum, units, EXAMPLES, rng(seed, "core", feature)),
        }
        if store.manifest.coverage == "full":
            lists["near_miss"] = tokens.near_misses(rows, units, seed, feature)
            lists["silent"] = uniform_silent(rows, n_rows, EXAMPLES, rng(seed, "silent", feature))
        for pick, taken in lists.items():
            chosen[pick][feature, : len(taken)] = taken
        if feature % 64 == 0:
            progress(feature, n_features)
    for pick, array in chosen.items():
        writer.put(f"examples/{pick}", array)
    writer.table("examples", _table(store, chosen))
    progress(n_features, n_features)


class _RowTokens:
    """The tokens of `explain` rows, both ways round, to find silent rows whose tokens go with firing."""

    def __init__(self, store: Store, n_rows: int) -> None:
        self.n_rows, self.n_tokens = n_rows, len(store.tokens)
        if store.is_sequence:
            entry_row = np.arange(n_rows)
            entry_token = store.token_of_rows(entry_row)
        else:
            entry_token = store.sample_tokens[: int(store.first_token[n_rows])].astype(np.int64)
            entry_row = np.repeat(np.arange(n_rows), np.diff(store.first_token[: n_rows + 1]))
        ones = np.ones(len(entry_row), np.float64)
        self.by_row = sparse.csr_array(
            (ones, (entry_row, entry_token)), shape=(n_rows, max(1, self.n_tokens))
        )
        self.by_token = self.by_row.T.tocsr()
        self.n = np.diff(self.by_token.indptr).astype(np.float64)
        self.single = store.is_sequence

    def near_misses(self, firing: Ints, units: NDArray[np.integer], seed: int, feature: int) -> Ints:
        """Silent rows of largest summed shrunken log-odds, ties by seeded hash, at most one a unit."""
        if not len(firing) or not self.n_tokens:
            return np.zeros(0, np.int64)
        indptr, indices = self.by_row.indptr, self.by_row.indices
        held = indices[expand_ranges(indptr[firing], indptr[firing + 1] - indptr[firing])]
        n_firing = np.bincount(held, minlength=self.n_tokens).astype(np.float64)
        log_odds = token_log_odds(n_firing, self.n, float(len(firing)), self.n_rows)
        if self.single:
            return self._by_token(firing, log_odds, units, seed, feature)
        scores = np.asarray(self.by_row @ log_odds, np.float64)
        scores[firing] = -np.inf
        return self._best(np.arange(self.n_rows), scores, units, seed, feature)

    def _by_token(
        self, firing: Ints, log_odds: Floats, units: NDArray[np.integer], seed: int, feature: int
    ) -> Ints:
        """In a sequence a row has one token: walk tokens from the best until enough rows are found."""
        log_odds = np.round(log_odds, 9)
        order = np.argsort(-log_odds, kind="stable")
        fires = np.zeros(self.n_rows, bool)
        fires[firing] = True
        rows: list[NDArray[Any]] = []
        found: set[int] = set()
        indptr, indices = self.by_token.indptr, self.by_token.indices
        last = np.inf
        for token in order.tolist():
            if len(found) >= EXAMPLES and log_odds[token] < last:
                break
            last = log_odds[token]
            silent = indices[indptr[token] : indptr[token + 1]]
            silent = silent[~fires[silent]]
            if len(silent):
                rows.append(silent)
                found.update(np.unique(units[silent]).tolist())
        candidates = np.concatenate(rows).astype(np.int64) if rows else np.zeros(0, np.int64)
        scores = log_odds[self.by_row.indices[self.by_row.indptr[candidates]]]
        return self._best(candidates, scores, units, seed, feature)

    def _best(self, rows: Ints, scores: Floats, units: NDArray[np.integer], seed: int, feature: int) -> Ints:
        # rounded, so that the order of a sum never decides a tie
        scores = np.round(scores, 9)
        tie = seeded_hash(rows, seed, "near_miss", feature)
        order = np.lexsort((tie, -scores))
        order = order[np.isfinite(scores[order])]
        return one_per_unit(rows[order], units, EXAMPLES)


def _table(store: Store, chosen: dict[str, NDArray[np.uint32]]) -> pl.DataFrame:
    frames = []
    for pick, array in chosen.items():
        feature, rank = np.nonzero(array != NO_INDEX)
        rows = array[feature, rank].astype(np.int64)
        frames.append(
            pl.DataFrame(
                {
                    "feature": feature,
                    "pick": [pick] * len(rows),
                    "rank": rank + 1,
                    "sample": store.row_sample[rows].astype(np.int64),
                    "position": store.row_position[rows].astype(np.int64),
                },
                schema_overrides={"pick": pl.String},
            )
        )
    return pl.concat(frames).sort("feature", "pick", "rank")
