"""Vectors in a file, in an order that depends on the seed alone, and which of them are held out.

The order needs no state: place p is vector p modulo n of pass p // n, and each pass is shuffled by (seed, pass).
Blocks of neighbouring rows are drawn at random into a pool that fits in memory, and the pool is shuffled: reads
stay long, memory stays bounded, and where all fits in one pool the order is a uniform permutation.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.errors import BadInput

BLOCK_ROWS = 256
POOL_BYTES = 2**28


def held_out_rows(n: int, units: NDArray[np.int64] | None, share: float, seed: int) -> NDArray[np.bool_]:
    """(n,): rows of the units that a seeded draw keeps out of the training; without units each row is one.

    Raises:
        BadInput: there is nothing to divide.
    """
    if units is not None and len(units) != n:
        raise BadInput(f"there are {n:,} vectors, but units of {len(units):,}")
    names, unit_of = (
        np.unique(units, return_inverse=True) if units is not None else (np.arange(n), np.arange(n))
    )
    if len(names) < 2:
        raise BadInput(
            f"{n:,} vectors of {len(names)} unit: an SAE is judged on units it has not seen, so there must be"
            " two at least; give more data, or a unit column with more values"
        )
    n_out = min(len(names) - 1, max(1, round(share * len(names))))
    out = np.zeros(len(names), dtype=np.bool_)
    out[np.random.default_rng([seed, 1]).permutation(len(names))[:n_out]] = True
    return out[unit_of]


@dataclass
class ShuffledVectors:
    """The training vectors as one endless sequence, pass after pass."""

    vectors: NDArray[np.float32]
    """(n, d_in), usually a memory map."""
    rows: NDArray[np.int64]
    """(n_train,): rows of `vectors` that are used, ascending."""
    seed: int
    pool_bytes: int = POOL_BYTES
    block_rows: int = BLOCK_ROWS
    _pool: tuple[tuple[int, int], NDArray[np.float32]] | None = field(default=None, repr=False)

    def read(self, position: int, n: int) -> NDArray[np.float32]:
        """(n, d_in): the vectors at places `position` and after of the sequence."""
        found = np.empty((n, self.vectors.shape[1]), dtype=np.float32)
        done = 0
        while done < n:
            epoch, place = divmod(position + done, len(self.rows))
            first, pool = self._pool_at(epoch, place)
            piece = pool[place - first : place - first + n - done]
            found[done : done + len(piece)] = piece
            done += len(piece)
        return found

    @property
    def _blocks_per_pool(self) -> int:
        row_bytes = 4 * self.vectors.shape[1]
        return max(1, int(self.pool_bytes // (row_bytes * self.block_rows)))

    def _pool_at(self, epoch: int, place: int) -> tuple[int, NDArray[np.float32]]:
        """The pool that holds a place of a pass, and the place of its first vector."""
        n_blocks = -(-len(self.rows) // self.block_rows)
        order = np.random.default_rng([self.seed, 2, epoch]).permutation(n_blocks)
        sizes = np.full(n_blocks, self.block_rows, dtype=np.int64)
        sizes[order == n_blocks - 1] = len(self.rows) - (n_blocks - 1) * self.block_rows
        starts = np.concatenate([[0], np.cumsum(sizes)])
        pool = int(np.searchsorted(starts, place, side="right") - 1) // self._blocks_per_pool
        chosen = order[pool * self._blocks_per_pool : (pool + 1) * self._blocks_per_pool]
        if self._pool is None or self._pool[0] != (epoch, pool):
            self._pool = None  # the old pool goes before the new one is read
            self._pool = ((epoch, pool), self._read_pool(epoch, pool, np.sort(chosen)))
        return int(starts[pool * self._blocks_per_pool]), self._pool[1]

    def _read_pool(self, epoch: int, pool: int, blocks: NDArray[np.int64]) -> NDArray[np.float32]:
        inside = (blocks[:, None] * self.block_rows + np.arange(self.block_rows)).ravel()
        inside = inside[inside < len(self.rows)]
        shuffled = np.random.default_rng([self.seed, 3, epoch, pool]).permutation(inside)
        # read in the order of the file, put where the shuffle wants it
        place = np.argsort(shuffled, kind="stable")
        content = np.empty((len(inside), self.vectors.shape[1]), dtype=np.float32)
        for start in range(0, len(inside), 2**14):
            part = slice(start, start + 2**14)
            content[place[part]] = self.vectors[self.rows[inside[part]]]
        return content
