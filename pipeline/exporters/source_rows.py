"""The rows of an export: those of the store in the order of its original input.

In a set store a row is a sample. In a sequence store a row is a stored position, excluded ones too, sample by
sample; excluded positions are silent, because the store does not keep what fires there.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store

Ints = NDArray[np.int64]


class Entries(NamedTuple):
    """Activations of some rows: `row` (n,) index into them, ascending; `feature` (n,); `value` (n,)."""

    row: Ints
    feature: Ints
    value: NDArray[np.float32]


class SourceRows:
    """Which row of the original input each row of the store is, and back."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.n_features = store.manifest.n_features
        source = store.source
        self.samples = np.argsort(source, kind="stable")
        """(N,) stored sample of each original one."""
        if store.is_sequence:
            lengths = np.diff(store.first_token)
            self.first = np.concatenate([[0], np.cumsum(lengths[self.samples])])
            """(N+1,) first row of each original sample."""
            first_of_stored = np.empty(len(source), np.int64)
            first_of_stored[self.samples] = self.first[:-1]
            self.original = first_of_stored[store.row_sample] + store.row_position
        else:
            self.first = np.arange(len(source) + 1)
            place = np.empty(len(source), np.int64)
            place[self.samples] = self.first[:-1]
            self.original = place[store.row_sample]
        self.n = int(self.first[-1])
        self._stored = np.full(self.n, -1, np.int64)
        self._stored[self.original] = np.arange(len(self.original))

    def firing(self, feature: int) -> tuple[Ints, NDArray[np.float32]]:
        """Where a feature fires: original rows ascending, activations."""
        found = self.store.activations(feature)
        rows = self.original[found.rows]
        order = np.argsort(rows)
        return rows[order], found.values[order]

    def stored(self, start: int, stop: int) -> Ints:
        """The store's row of each original row, -1 where the position is excluded."""
        return self._stored[start:stop]

    def samples_at(self, start: int, stop: int) -> tuple[Ints, Ints, Ints]:
        """Of original rows: the original sample, the position in it, and the stored sample."""
        rows = np.arange(start, stop)
        sample = np.searchsorted(self.first, rows, side="right") - 1
        return sample, rows - self.first[sample], self.samples[sample]

    def entries(self, start: int, stop: int) -> Entries:
        """What fires at the original rows `start` to `stop` - 1; `row` counts from `start`.

        Memory is that of the entries.
        """
        stored = self._stored[start:stop]
        at = np.flatnonzero(stored >= 0)
        index, feature, value = self.store.firing_at(stored[at])
        return Entries(at[index], feature, value)

    def blocks(self, start: int, stop: int, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Dense blocks [rows, features] of `size` rows: the first original row of each, and the block."""
        for first in range(start, stop, size):
            last = min(first + size, stop)
            block = np.zeros((last - first, self.n_features), np.float32)
            found = self.entries(first, last)
            block[found.row, found.feature] = found.value
            yield first, block


@lru_cache(maxsize=1)
def opened(store: Path) -> SourceRows:
    """The rows of a store, kept by each worker for its next task."""
    return SourceRows(open_store(store))
