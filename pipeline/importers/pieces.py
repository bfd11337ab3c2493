"""Pieces of a source, each read by one worker and written as one file of the bundle's activations.

A piece yields its activations in blocks of bounded size; which pieces there are, and so the bytes of the bundle,
depends on the source alone and not on workers or memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.loaders.base import to_float32

BLOCK_CELLS = 1 << 22
"""Cells searched at once for what is not 0."""
BAND_CELLS = 1 << 24
"""Cells decoded at once, where the chunks allow it."""
PIECE_CELLS = 1 << 26
"""Cells of a piece: what a killed import reads again."""
ROW_GROUP = 1 << 20
SCHEMA = pa.schema(
    [
        ("feature", pa.uint32()),
        ("sample", pa.uint32()),
        ("position", pa.uint32()),
        ("value", pa.float32()),
    ]
)


class Entries(NamedTuple):
    """Activations, in any order: `row` (n,) int64 of the source, `feature` (n,) int64, `value` (n,) not 0."""

    row: NDArray[np.int64]
    feature: NDArray[np.int64]
    value: NDArray[np.float32]


class Piece(Protocol):
    """A part of a source that can be sent to a worker."""

    def entries(self) -> Iterator[Entries]:
        """Its activations, in blocks."""
        ...


class Matrix(NamedTuple):
    """Where a dense block lies: its file, the row and feature of its first cell, and which axis is which."""

    path: Path
    first_row: int
    first_feature: int
    by_feature: bool
    """Whether its first axis is the feature."""
    negatives: bool
    """Whether negative activations are let through, for a later stage to handle and count."""


def dense_entries(block: NDArray[Any], of: Matrix) -> Iterator[Entries]:
    """What is not 0 in a dense block [rows, features], or [features, rows].

    Raises:
        BadInput: NaN, infinity, or a negative number that nobody asked for.
    """
    width = max(1, block.shape[1])
    step = max(1, BLOCK_CELLS // width)
    for start in range(0, block.shape[0], step):
        cells = to_float32(block[start : start + step]).reshape(-1)
        # comparing first is six times faster than flatnonzero on floats
        at = np.flatnonzero(cells != 0)
        major, minor = np.divmod(at, width)
        major += start
        row, feature = (minor, major) if of.by_feature else (major, minor)
        yield checked(
            Entries(row + of.first_row, feature + of.first_feature, cells[at]), of.path, of.negatives
        )


def checked(entries: Entries, path: Path, negatives: bool) -> Entries:
    """The entries, if they are activations.

    Raises:
        BadInput: file, row, feature and number of the first that is not.
    """
    wrong = ~np.isfinite(entries.value)
    reason = "is not finite in float32"
    if not wrong.any() and not negatives:
        wrong = entries.value < 0
        reason = "is negative (--negatives drop|abs handles negative ones)"
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        where = f"{path}: row {entries.row[at]}, feature {entries.feature[at]}"
        raise BadInput(f"{where}: {entries.value[at]} {reason}")
    return entries


def cut(n: int, n_cells_each: int, step: int) -> list[tuple[int, int]]:
    """Ranges of 0 to n - 1 of about PIECE_CELLS cells, cut at multiples of `step`."""
    each = max(1, PIECE_CELLS // max(1, n_cells_each * step)) * step
    return [(start, min(start + each, n)) for start in range(0, n, each)]


@dataclass(frozen=True)
class Part:
    """A piece and where it goes."""

    piece: Piece
    out: Path
    first_rows: Path | None
    """A .npy file, (n_samples + 1,): the first row of each sample of a sequence source; None in a set, where a
    row is a sample."""


def write_part(part: Part) -> int:
    """Write one piece as a Parquet file, unless it is there; how many activations it holds."""
    if part.out.exists():
        return int(pq.read_metadata(part.out).num_rows)
    first_rows = None if part.first_rows is None else np.load(part.first_rows, allow_pickle=False)
    temporary = part.out.with_name(part.out.name + ".tmp")
    written = 0
    # sorted numbers gain nothing from a dictionary, and the column of positions is mostly one number
    with pq.ParquetWriter(temporary, SCHEMA, compression="zstd", use_dictionary=["position"]) as writer:
        for table in _tables(part.piece, first_rows):
            writer.write_table(table)
            written += table.num_rows
    temporary.replace(part.out)
    return written


def _tables(piece: Piece, first_rows: NDArray[np.int64] | None) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    for entries in piece.entries():
        if first_rows is None:
            sample, position = entries.row, np.zeros(len(entries.row), np.uint32)
        else:
            sample = np.searchsorted(first_rows, entries.row, side="right") - 1
            position = (entries.row - first_rows[sample]).astype(np.uint32)
        columns = (entries.feature.astype(np.uint32), sample.astype(np.uint32), position, entries.value)
        held.append(pa.table([pa.array(c) for c in columns], schema=SCHEMA))
        if sum(t.num_rows for t in held) >= ROW_GROUP:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()
