"""Rows that are positions: our own export of a sequence store, read back into samples.

Rows come sample by sample, each from position 0 on without a gap; a sample may run over the end of a batch.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.loaders.metadata import EXCLUDED, LEVEL, POSITION, SAMPLE, MetadataTable

Ints = NDArray[np.int64]


class SequenceRows:
    """Collects rows until their sample is whole."""

    def __init__(self) -> None:
        self._tokens: Ints = np.zeros(0, np.int64)
        self._columns: list[pa.Array] | None = None
        self._starts: list[Ints] = []
        self._open = np.zeros(0, np.int64)
        """Offsets in what is held at which samples begin."""
        self._n_rows = 0
        self._last: tuple[int, int] | None = None
        self._longest = 0
        self._excluded: dict[int, bool] = {}

    def add(self, found: MetadataTable, tokens: Ints, columns: list[pa.Array]) -> None:
        """Rows of one table: their token, and their unit and groups.

        Raises:
            BadInput: a row out of order, or without exactly one token.
        """
        table = found.table
        if len(tokens) != table.num_rows:
            raise BadInput(
                f"{found.path}: rows of a sequence hold one token each, found {len(tokens)} in all"
            )
        sample, position = (table.column(c).to_numpy().astype(np.int64) for c in (SAMPLE, POSITION))
        starts = self._check_order(found.path, sample, position)
        self._note_excluded(found, position)
        held = len(self._tokens)
        self._starts.append(starts + self._n_rows)
        self._open = np.concatenate([self._open, starts + held])
        self._n_rows += len(sample)
        self._tokens = np.concatenate([self._tokens, tokens])
        self._columns = (
            columns
            if self._columns is None
            else [pa.concat_arrays([a, b]) for a, b in zip(self._columns, columns, strict=True)]
        )

    def _check_order(self, path: Path, sample: Ints, position: Ints) -> Ints:
        """Offsets at which samples begin; rows must be 0, 1, 2, ... within ascending samples."""
        if not len(sample):
            return np.zeros(0, np.int64)
        before = (-1, 0) if self._last is None else self._last
        earlier = np.concatenate([[before[0]], sample[:-1]])
        new = sample != earlier
        expected = np.where(new, 0, np.concatenate([[before[1]], position[:-1]]) + 1)
        wrong = np.flatnonzero((position != expected) | (sample < earlier))
        if len(wrong):
            row = int(wrong[0])
            raise BadInput(
                f"{path}, row {row}: sample {sample[row]}, position {position[row]}; expected position {expected[row]}."
                " Rows of a sequence come sample by sample, each from position 0 on without a gap"
            )
        self._last = (int(sample[-1]), int(position[-1]))
        self._longest = max(self._longest, int(position.max()) + 1)
        return np.flatnonzero(new)

    def _note_excluded(self, found: MetadataTable, position: Ints) -> None:
        if EXCLUDED not in found.table.column_names:
            return
        said = np.asarray(found.table.column(EXCLUDED).to_numpy(), bool)
        for value in (False, True):
            for place in np.unique(position[said == value]).tolist():
                if self._excluded.setdefault(place, value) != value:
                    raise BadInput(
                        f"{found.path}: position {place} is excluded in some samples and not in others; a store "
                        "excludes a position in all or none"
                    )

    def excluded_positions(self) -> list[int]:
        """Positions that count in no sample."""
        return sorted(place for place, value in self._excluded.items() if value)

    def first_rows(self) -> Ints:
        """(n_samples + 1,) the first row of each sample, and the number of rows."""
        return np.concatenate([*self._starts, [self._n_rows]]).astype(np.int64)

    def finished(self, last: bool = False) -> Iterator[tuple[Ints, Ints, list[pa.Array]]]:
        """Whole samples: offsets (n + 1,), tokens, and one value of each column a sample."""
        stop = len(self._tokens) if last else (int(self._open[-1]) if len(self._open) else 0)
        starts = self._open if last else self._open[:-1]
        if not len(starts) or self._columns is None:
            return
        first = np.concatenate([starts, [stop]])
        yield first, self._tokens[:stop], [column.take(pa.array(starts)) for column in self._columns]
        self._tokens = self._tokens[stop:]
        self._columns = [column.slice(stop) for column in self._columns]
        self._open = np.zeros(0, np.int64) if last else self._open[-1:] - stop


def write_positions(tables: Callable[[], Iterator[MetadataTable]], first_rows: Ints, out: Path) -> None:
    """Families of positions: every column `level_NAME`, as `positions.parquet` holds them."""
    writer: Any = None
    temporary = out / "positions.parquet.tmp"
    try:
        for found in tables():
            table = found.table
            families = [name for name in table.column_names if name.startswith(LEVEL)]
            if not families:
                continue
            levels = [table.column(name).to_numpy() for name in families]
            row = np.flatnonzero(np.any([level != 0 for level in levels], axis=0))
            sample = np.searchsorted(first_rows, row + found.first_row, side="right") - 1
            columns = {"sample": sample, "position": row + found.first_row - first_rows[sample]}
            columns |= {n.removeprefix(LEVEL): level[row] for n, level in zip(families, levels, strict=True)}
            made = pa.table(columns)
            writer = writer or pq.ParquetWriter(temporary, made.schema, compression="zstd")
            writer.write_table(made)
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        temporary.replace(out / "positions.parquet")
