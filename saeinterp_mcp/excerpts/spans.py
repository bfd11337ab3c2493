"""Spans: which rows and tokens an excerpt around a row holds."""

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.store.base import Ints, Store

ExcerptSplit = Literal["explain", "heldout"]
"""explain: what explainers may see; heldout: the other units, for tests."""
BEFORE, AFTER = 24, 7
"""Tokens of an excerpt before and after its row."""


class Spans(NamedTuple):
    """Excerpts as numbers, each array (n,) int64; the tokens of one are those of the rows `first` .. `stop` - 1."""

    row: Ints
    """The row that it is around."""
    sample: Ints
    unit: Ints
    start: Ints
    """Position of its first token."""
    first: Ints
    stop: Ints

    def take(self, index: NDArray[Any]) -> "Spans":
        """Some of them."""
        return Spans(*(column[index] for column in self))

    def tokens(self, store: Store) -> tuple[Ints, Ints]:
        """(index of the excerpt, token id) of every token, one excerpt after the other."""
        begin = store.first_token[self.sample].astype(np.int64)
        if store.is_sequence:
            begin, counts = begin + self.start, self.stop - self.first
        else:
            counts = store.first_token[self.sample + 1] - begin
        at = expand_ranges(begin, counts)
        return np.repeat(np.arange(len(begin)), counts), store.sample_tokens[at].astype(np.int64)


def split_rows(store: Store, split: ExcerptSplit) -> tuple[int, int]:
    """First row of a split and the row after its last."""
    cut = store.n_rows("explain")
    return (0, cut) if split == "explain" else (cut, store.n_rows("all"))


def spans_of(store: Store, rows: Ints, before: int = BEFORE, after: int = AFTER) -> Spans:
    """The excerpts around rows: up to `before` tokens before, itself and up to `after` behind it; a set is whole.

    An excerpt ends at the ends of its sample and where a position is not counted, so each token of it is a row.
    """
    sample, unit = store.row_sample[rows].astype(np.int64), store.row_unit[rows].astype(np.int64)
    if not store.is_sequence:
        return Spans(rows, sample, unit, np.zeros(len(rows), np.int64), rows, rows + 1)
    position = store.row_position[rows].astype(np.int64)
    length = store.first_token[sample + 1] - store.first_token[sample]
    begins, ends = _stretches(store)
    stretch = np.searchsorted(ends, position, side="right")
    start = np.maximum(position - before, begins[stretch])
    end = np.minimum(position + 1 + after, np.minimum(ends[stretch], length))
    return Spans(rows, sample, unit, start, rows - (position - start), rows + (end - position))


@lru_cache(maxsize=16)
def _stretches(store: Store) -> tuple[Ints, Ints]:
    """First position of each stretch of counted ones, and the position after its last."""
    excluded = np.array(sorted(set(store.manifest.excluded_positions)), np.int64)
    return np.concatenate([[0], excluded + 1]), np.append(excluded, np.iinfo(np.int64).max)


def n_firing_in(firing: Ints, spans: Spans) -> Ints:
    """(n,) rows of each excerpt that are among `firing` (ascending)."""
    return np.searchsorted(firing, spans.stop) - np.searchsorted(firing, spans.first)
