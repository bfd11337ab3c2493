"""Tables of metadata become the bundle's `samples.parquet`, `positions.parquet`, families and groups.

Two passes over the tables, one batch in memory at a time: the first learns which tokens occur and what kind of data
these are, the second writes.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.importers.sequence_rows import SequenceRows, write_positions
from pipeline.importers.token_families import Encodings, levels_by_name
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.loaders.metadata import (
    EXCLUDED,
    IS_NULL,
    LEVEL,
    POSITION,
    SAMPLE,
    SPECIAL,
    TOKENS,
    UNIT,
    WEAPON,
    MetadataTable,
    read_metadata,
)

Tables = Callable[[], Iterator[MetadataTable]]
NULL_GROUP, WEAPON_GROUP = "null_sample", "weapon"
ROWS_AT_ONCE = 1 << 20


class Names(NamedTuple):
    """What ids stand for; None for ids that stand for themselves."""

    tokens: dict[int, str] | None
    weapons: dict[int, str] | None


class Described(NamedTuple):
    """What `bundle.yaml` says of the samples."""

    kind: str
    first_rows: NDArray[np.int64] | None
    """(n_samples + 1,) first row of each sample of a sequence source; None in a set."""
    families: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    excluded_positions: list[int]
    notes: list[str]


def tables_of(files: Sequence[Path]) -> Tables:
    """The tables of metadata files, read one at a time."""

    def read() -> Iterator[MetadataTable]:
        first = 0
        for number, path in enumerate(files):
            found = read_metadata(path, first, number if path.name.startswith("batch_") else None)
            yield found
            first += found.table.num_rows

    return read


class Overview:
    """The first pass: which tokens, weapons and columns there are."""

    def __init__(self, tables: Tables, names: Names) -> None:
        self.n_rows = self.n_misnumbered = 0
        self.has_null = self.has_weapon = False
        self.columns: list[str] = []
        occurring: set[int] = set()
        for found in tables():
            table = found.table
            if self.columns and self.columns != table.column_names:
                raise BadInput(f"{found.path} has the columns {table.column_names}, the first {self.columns}")
            self.columns = table.column_names
            ids = np.unique(_flat(table))
            _need_names(found, ids, names.tokens, "token")
            occurring.update(ids.tolist())
            if WEAPON in table.column_names:
                weapons = np.unique(table.column(WEAPON).to_numpy())
                # our exports of stores without weapons say -1
                if not (len(weapons) == 1 and weapons[0] == -1):
                    self.has_weapon = self.has_weapon or len(weapons) > 0
                    _need_names(found, weapons, names.weapons, "weapon")
            if IS_NULL in table.column_names:
                self.has_null = self.has_null or bool(pc.any(table.column(IS_NULL)).as_py())
            self.n_rows += table.num_rows
            self.n_misnumbered += found.n_misnumbered
        self.ids = np.array(sorted(occurring), np.int64)
        spelled = [str(i) if names.tokens is None else names.tokens[i] for i in self.ids.tolist()]
        self.token_names = spelled
        self.kept = np.array([name not in SPECIAL for name in spelled], bool)

    @property
    def is_sequence(self) -> bool:
        """Whether rows are positions of samples: our own export of a sequence store."""
        return SAMPLE in self.columns and POSITION in self.columns

    @property
    def strings(self) -> list[str]:
        """Columns that are groups."""
        other = (TOKENS, WEAPON, IS_NULL, UNIT)
        return [name for name in self.columns if name not in other and not _is_number(name)]


def describe_samples(
    tables: Tables, names: Names, families: list[dict[str, Any]] | None, out: Path
) -> Described:
    """Write the samples, and what goes with them, into the bundle.

    Args:
        tables: the metadata, from the start each time it is called.
        names: of tokens and weapons.
        families: as bundle.yaml has them; None to find them by the names of tokens.
        out: the bundle's folder.

    Raises:
        BadInput: an id that no vocabulary names; a sequence whose rows are not in order.
        BadStore: a damaged table.
    """
    seen = Overview(tables, names)
    rows = SequenceRows() if seen.is_sequence else None
    find = families is None and rows is None and names.tokens is not None
    usable = [name for name, kept in zip(seen.token_names, seen.kept, strict=True) if kept]
    levels = levels_by_name(usable) if find else {}
    encodings = Encodings(levels, seen.token_names)
    groups = ([WEAPON_GROUP] if seen.has_weapon else []) + ([NULL_GROUP] if seen.has_null else [])
    groups = [*groups, *(name for name in seen.strings if name not in groups)]
    temporary = out / "samples.parquet.tmp"
    schema = _schema(seen, groups)
    strings = pa.array(seen.token_names, pa.large_string())
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for found in tables():
            table, token, row = _kept_tokens(found.table, seen, keep_special=rows is not None)
            encodings.add(row, token)
            columns = _columns(table, seen, names, groups)
            if rows is None:
                lists = _lists(row, token, table.num_rows, strings)
                writer.write_table(pa.Table.from_arrays([lists, *columns], schema=schema))
            else:
                rows.add(found, token, columns)
                for first, tokens, kept in rows.finished():
                    writer.write_table(_sequence_table(first, tokens, kept, strings, schema))
        if rows is not None:
            for first, tokens, kept in rows.finished(last=True):
                writer.write_table(_sequence_table(first, tokens, kept, strings, schema))
    temporary.replace(out / "samples.parquet")
    notes = encodings.notes()
    if seen.n_misnumbered:
        notes.append(
            f"global_index is not the row in {seen.n_misnumbered} of {seen.n_rows} rows (batches differ in size); rows "
            "are numbered by their place"
        )
    excluded: list[int] = []
    if rows is not None:
        excluded = rows.excluded_positions()
    write_positions(tables, np.arange(seen.n_rows + 1) if rows is None else rows.first_rows(), out)
    found_families = encodings.families(levels) if families is None else families
    listed = [{"name": name, "primary": True} if i == 0 else {"name": name} for i, name in enumerate(groups)]
    first_rows = None if rows is None else rows.first_rows()
    return Described(
        "set" if rows is None else "sequence", first_rows, found_families, listed, excluded, notes
    )


def write_bare_samples(n_rows: int, out: Path) -> Described:
    """Samples of which nothing is known: no tokens, and each its own unit."""
    temporary = out / "samples.parquet.tmp"
    schema = pa.schema([("tokens", pa.list_(pa.string())), ("unit", pa.string())])
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, n_rows, ROWS_AT_ONCE):
            rows = pa.array(np.arange(start, min(start + ROWS_AT_ONCE, n_rows)))
            empty = pa.ListArray.from_arrays(
                pa.array(np.zeros(len(rows) + 1, np.int32)), pa.array([], pa.string())
            )
            writer.write_table(pa.Table.from_arrays([empty, rows.cast(pa.string())], schema=schema))
    temporary.replace(out / "samples.parquet")
    note = "no metadata was given: samples have no tokens and no groups, and each row is a unit of its own"
    return Described("set", None, [], [], [], [note])


def _flat(table: pa.Table) -> NDArray[np.int64]:
    return np.asarray(pc.list_flatten(table.column(TOKENS)).to_numpy(), np.int64)


def _kept_tokens(
    table: pa.Table, seen: Overview, keep_special: bool
) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.int64]]:
    """The table, and (token index, row) of each token that is no special one, in order."""
    lengths = pc.list_value_length(table.column(TOKENS)).to_numpy().astype(np.int64)
    token = np.searchsorted(seen.ids, _flat(table))
    row = np.repeat(np.arange(table.num_rows), lengths)
    if not keep_special and len(token):
        keep = seen.kept[token]
        token, row = token[keep], row[keep]
    return table, token, row


def _lists(
    row: NDArray[np.int64], token: NDArray[np.int64], n_rows: int, strings: pa.Array
) -> pa.LargeListArray:
    offsets = np.searchsorted(row, np.arange(n_rows + 1))
    return pa.LargeListArray.from_arrays(pa.array(offsets), strings.take(pa.array(token)))


def _schema(seen: Overview, groups: list[str]) -> pa.Schema:
    fields = [("tokens", pa.large_list(pa.large_string()))]
    fields += [(name, pa.large_string()) for name in ([UNIT] if UNIT in seen.columns else []) + groups]
    return pa.schema(fields)


def _columns(table: pa.Table, seen: Overview, names: Names, groups: list[str]) -> list[pa.Array]:
    """The unit, if there is one, and the groups."""
    columns = [table.column(UNIT).combine_chunks()] if UNIT in seen.columns else []
    for name in groups:
        if name == WEAPON_GROUP and seen.has_weapon:
            ids, index = np.unique(table.column(WEAPON).to_numpy(), return_inverse=True)
            spelled = [str(i) if names.weapons is None else names.weapons[i] for i in ids.tolist()]
            columns.append(pa.array(spelled, pa.large_string()).take(pa.array(index)))
        elif name == NULL_GROUP and seen.has_null:
            said = np.asarray(table.column(IS_NULL).to_numpy(), bool)
            columns.append(pa.array(np.where(said, "yes", "no").tolist(), pa.large_string()))
        else:
            columns.append(table.column(name).combine_chunks())
    return columns


def _sequence_table(
    first: NDArray[np.int64],
    token: NDArray[np.int64],
    kept: list[pa.Array],
    strings: pa.Array,
    schema: pa.Schema,
) -> pa.Table:
    """Samples from rows: `first` (n + 1,) offsets into `token`, and one value of each column a sample."""
    lists = pa.LargeListArray.from_arrays(pa.array(first), strings.take(pa.array(token)))
    return pa.Table.from_arrays([lists, *kept], schema=schema)


def _is_number(name: str) -> bool:
    return name in (SAMPLE, POSITION, EXCLUDED) or name.startswith(LEVEL)


def _need_names(
    found: MetadataTable, ids: NDArray[np.int64], names: dict[int, str] | None, what: str
) -> None:
    if names is None:
        return
    missing = [int(i) for i in ids if int(i) not in names]
    if missing:
        raise BadInput(
            f"{found.path} holds the {what} {missing[0]}, which the vocabulary (ids 0 to {max(names, default=-1)}) "
            "does not name; give the vocabulary that the data were made with"
        )
