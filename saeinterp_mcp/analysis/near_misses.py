"""Near misses: the silent rows whose tokens go most with firing, at most one a unit, ties by seeded hash.

In a sequence a row has one token, so the rows are found token by token from the best one down. In a set it has
many: the sums of all rows are made for a block of features at once, and only those are kept that may still be among
the best. Both give the rows that sorting all silent rows would. Nothing here opens a store.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from saeinterp_mcp.analysis.examples import token_log_odds
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.analysis.sampling import mixed, one_per_unit

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DIGITS = 9
"""Scores are rounded, so that the order of a sum never decides a tie."""
SLACK = 1e-8
"""How far under a score its rounded value may at most lie, and more."""
FIRST_CHUNK, CHUNK = 512, 4096
"""Rows scored at a time: a few first, since all of them are candidates."""
COUNTED = 2**20
"""Rows whose tokens are counted at a time."""
PENDING = 2**14


class TokenRows:
    """Rows by token in a sequence, where a row has one token; made once for many features.

    Not to be shared by threads: the marks of firing rows are kept between calls.
    """

    def __init__(self, row_token: NDArray[Any], rows: NDArray[Any], first: NDArray[Any]) -> None:
        """Take (R,) the token of each row; (R,) rows by token, ascending in one; (V+1,) where a token begins."""
        self._row_token, self._rows, self._first = row_token, rows, first
        self._fires = np.zeros(len(row_token), bool)
        self._n = np.diff(first)

    @cached_property
    def _by_n(self) -> tuple[Ints, Ints, Ints]:
        """Tokens by number of rows; the numbers without repeats; where each number's tokens begin."""
        tokens = np.argsort(self._n, kind="stable")
        tokens = tokens[self._n[tokens] > 0]
        numbers, begin = np.unique(self._n[tokens], return_index=True)
        return tokens, numbers, np.append(begin, len(tokens))

    def nearest(self, firing: Ints, row_unit: NDArray[Any], limit: int, salt: np.uint64) -> Ints:
        """Up to `limit` near misses of the feature that fires on the rows `firing` (ascending), best first."""
        if not len(firing):
            return np.zeros(0, np.int64)
        n_firing = np.bincount(self._row_token[firing], minlength=len(self._n))
        scores, silent, tokens_of = self._ranked(n_firing, len(firing))
        self._fires[firing] = True
        taken, start, wanted = np.zeros(0, np.int64), 0, 4 * limit
        behind = np.cumsum(silent)
        while start < len(scores) and len(taken) < limit:
            enough = int(np.searchsorted(behind, behind[start] - silent[start] + wanted))
            last = scores[min(enough, len(scores) - 1)]
            # a tie is decided among all rows that share it
            stop = int(np.searchsorted(-scores, -last, side="right"))
            rows, row_scores = self._silent_rows(scores[start:stop], tokens_of[start:stop], n_firing)
            tie = mixed(rows, salt)
            order = np.argsort(tie) if scores[start] == last else np.lexsort((tie, -row_scores))
            taken = one_per_unit(np.concatenate([taken, rows[order]]), row_unit, limit)
            start, wanted = stop, wanted * 8
        self._fires[firing] = False
        return taken

    def _ranked(self, n_firing: Ints, all_firing: int) -> tuple[Floats, Ints, Ints]:
        """Best first: log-odds, silent rows, and a token where the feature fires, or ~i: all others of number i."""
        _, numbers, begin = self._by_n
        n_rows = len(self._row_token)
        mine = np.flatnonzero(n_firing)
        seen = np.bincount(np.searchsorted(numbers, self._n[mine]), minlength=len(numbers))
        # where it never fires, the log-odds depend on the token's number of rows only
        number = np.concatenate([self._n[mine], numbers]).astype(np.float64)
        fired = np.concatenate([n_firing[mine], np.zeros(len(numbers), np.int64)])
        scores = np.round(token_log_odds(fired.astype(np.float64), number, float(all_firing), n_rows), DIGITS)
        silent = np.concatenate([self._n[mine] - n_firing[mine], numbers * (np.diff(begin) - seen)])
        tokens_of = np.concatenate([mine, ~np.arange(len(numbers))])
        order = np.argsort(-scores, kind="stable")
        order = order[silent[order] > 0]
        return scores[order], silent[order], tokens_of[order]

    def _silent_rows(self, scores: Floats, tokens_of: Ints, n_firing: Ints) -> tuple[Ints, Floats]:
        tokens, _, begin = self._by_n
        numbers = ~tokens_of[tokens_of < 0]
        counts = begin[numbers + 1] - begin[numbers]
        others = tokens[expand_ranges(begin[numbers], counts)]
        never = n_firing[others] == 0
        held = np.concatenate([tokens_of[tokens_of >= 0], others[never]])
        held_scores = np.concatenate(
            [scores[tokens_of >= 0], np.repeat(scores[tokens_of < 0], counts)[never]]
        )
        rows = self._rows[expand_ranges(self._first[held], self._n[held])].astype(np.int64)
        silent = ~self._fires[rows]
        return rows[silent], np.repeat(held_scores, self._n[held])[silent]


class TokenSets:
    """The tokens of each row in a store of sets."""

    def __init__(
        self, first: NDArray[Any], tokens: NDArray[Any], n: NDArray[Any], counted: int = COUNTED
    ) -> None:
        """Take (R+1,) where a row's tokens begin; (T,) tokens, ascending in a row; (V,) rows that hold a token."""
        self._first, self._tokens, self._n, self._counted = first, tokens, n, counted
        self.n_rows = len(first) - 1

    def nearest(
        self, firing: Sequence[NDArray[Any]], row_unit: NDArray[Any], limit: int, salts: NDArray[np.uint64]
    ) -> list[Ints]:
        """Up to `limit` near misses of each feature of a block, best first.

        Args:
            firing: for each feature, the rows where it fires, ascending.
            row_unit: (R,) unit of each row.
            limit: how many.
            salts: (features,) `hash_salt` of each feature.
        """
        if not self.n_rows or not len(self._n):
            return [np.zeros(0, np.int64) for _ in firing]
        weights = self._log_odds(firing)
        bounds = [0, *range(min(FIRST_CHUNK, self.n_rows), self.n_rows, CHUNK), self.n_rows]
        cuts = np.array([np.searchsorted(rows, bounds) for rows in firing])
        best = _Best(len(firing), row_unit, limit, salts)
        for i, (start, stop) in enumerate(pairwise(bounds)):
            tokens, first = self._part(start, stop)
            held = sparse.csr_array((np.ones(len(tokens)), tokens, first), shape=(stop - start, len(self._n)))
            scores = np.asarray(held @ weights)
            for f, rows in enumerate(firing):
                scores[rows[cuts[f, i] : cuts[f, i + 1]] - start, f] = -np.inf
            best.offer(start, scores)
        return best.rows([bool(len(rows)) for rows in firing])

    def _part(self, start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The tokens of some rows, one row after the other, and where each row's begin."""
        first = self._first[start : stop + 1]
        tokens = self._tokens[int(first[0]) : int(first[-1])]
        # a view where they are stored: no memory of ours
        index = tokens.view(np.int32) if tokens.dtype == np.uint32 else tokens.astype(np.int32)
        return index, (first - first[0]).astype(np.int32)

    def _log_odds(self, firing: Sequence[NDArray[Any]]) -> Floats:
        """(V, features) shrunken log-odds of each token; 0 for a feature that never fires."""
        n_firing = np.zeros((len(firing), len(self._n)))
        bounds = [*range(0, self.n_rows, self._counted), self.n_rows]
        cuts = np.array([np.searchsorted(rows, bounds) for rows in firing])
        for i, (start, stop) in enumerate(pairwise(bounds)):
            tokens, first = self._part(start, stop)
            # only the places are asked for; the tokens stand in for the values, which cost memory
            held = sparse.csr_array((tokens, tokens, first), shape=(stop - start, len(self._n)))
            for f, rows in enumerate(firing):
                local = (rows[cuts[f, i] : cuts[f, i + 1]] - start).astype(np.int32)
                n_firing[f] += np.bincount(held[local].indices, minlength=len(self._n))
        every = np.array([[max(1.0, len(rows))] for rows in firing])
        odds = token_log_odds(n_firing, self._n.astype(np.float64), every, float(self.n_rows))
        return np.ascontiguousarray(odds.T)


class _Best:
    """The best rows of each feature so far: by (-score, hash), one a unit."""

    def __init__(
        self, n_features: int, row_unit: NDArray[Any], limit: int, salts: NDArray[np.uint64]
    ) -> None:
        self._row_unit, self._limit, self._salts = row_unit, limit, salts
        self._n_units = int(row_unit[-1]) + 1 if len(row_unit) else 1
        self._feature, self._row = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._score, self._tie = np.zeros(0), np.zeros(0, np.uint64)
        self._pending: list[tuple[Ints, Ints, Floats, NDArray[np.uint64]]] = []
        self._n_pending = 0
        # what the last of a full list has: less is not worth keeping
        self._least = np.full(n_features, -np.inf)
        self._least_tie = np.full(n_features, 2**64 - 1, np.uint64)

    def offer(self, first_row: int, scores: Floats) -> None:
        """Consider (rows, features) scores; -inf for rows that fire."""
        at = np.flatnonzero(scores >= self._least - SLACK)
        if not len(at):
            return
        index, feature = np.divmod(at, scores.shape[1])
        score, row = np.round(scores.ravel()[at], DIGITS), first_row + index
        tie = mixed(row, self._salts[feature])
        least = self._least[feature]
        good = np.isfinite(score) & ((score > least) | ((score == least) & (tie < self._least_tie[feature])))
        self._pending.append((feature[good], row[good], score[good], tie[good]))
        self._n_pending += int(good.sum())
        if first_row == 0 or self._n_pending > PENDING:
            self._merge()

    def rows(self, wanted: Sequence[bool]) -> list[Ints]:
        """The rows of each feature, best first; none of one that is not wanted."""
        self._merge()
        return [
            self._row[self._feature == f] if want else np.zeros(0, np.int64) for f, want in enumerate(wanted)
        ]

    def _merge(self) -> None:
        held = [(self._feature, self._row, self._score, self._tie), *self._pending]
        feature, row, score, tie = (np.concatenate(column) for column in zip(*held, strict=True))
        order = np.lexsort((tie, -score, feature))
        unit = self._row_unit[row[order]].astype(np.int64)
        # the first of each unit, in order
        order = order[np.sort(np.unique(feature[order] * self._n_units + unit, return_index=True)[1])]
        starts = np.searchsorted(feature[order], np.arange(len(self._least)))
        rank = np.arange(len(order)) - starts[feature[order]]
        last = order[rank == self._limit - 1]
        order = order[rank < self._limit]
        self._feature, self._row = feature[order], row[order]
        self._score, self._tie = score[order], tie[order]
        self._least[feature[last]], self._least_tie[feature[last]] = score[last], tie[last]
        self._pending, self._n_pending = [], 0
