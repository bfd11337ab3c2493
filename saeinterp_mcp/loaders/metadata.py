"""The tables beside the arrays: `metadata/batch_NNNN.parquet`, and the vocabularies `{token: id}`.

A row of a table is a row of the arrays. `global_index` is not believed: the seed's converter computes it from the
size of the batch at hand, so batches of unequal size share numbers. Rows are numbered by their place instead, and
how often the column disagrees is counted.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.loaders.base import REPAIR
from saeinterp_mcp.loaders.batches import batch_files

if TYPE_CHECKING:
    import pyarrow as pa

TOKENS, WEAPON, IS_NULL, UNIT = "ability_tokens", "weapon_id_token", "is_null_token", "unit"
SAMPLE, POSITION, EXCLUDED, LEVEL = "sample", "position", "excluded", "level_"
"""Columns of our own exports of sequence stores; `level_NAME` is a family of positions."""
KNOWN_STRINGS = ("weapon_name", UNIT)
SPECIAL = ("<PAD>", "<NULL>", "<MASK>")
NULL_TOKEN = "<NULL>"


class MetadataTable(NamedTuple):
    """One batch's table, with the columns of a known type only."""

    path: Path
    first_row: int
    table: "pa.Table"
    """`ability_tokens` (list of int64), and of these what there is: `weapon_id_token`, `sample`, `position`,
    `level_*` (int64), `is_null_token`, `excluded` (bool), `unit` and every other column of strings."""
    n_misnumbered: int
    """Rows whose `global_index` is not their place."""


def metadata_files(place: Path) -> list[Path]:
    """The tables in order: of a folder with batch_NNNN.parquet, of the folder above it, or one file.

    Raises:
        BadInput: there is none.
        BadStore: one is missing between others.
    """
    if place.is_file():
        return [place]
    for folder in (place, place / "metadata"):
        if files := batch_files(folder, ".parquet"):
            return files
    raise BadInput(f"{place} holds no metadata: neither batch_0000.parquet nor metadata/batch_0000.parquet")


def count_rows(files: list[Path]) -> int:
    """Rows of all tables.

    Raises:
        BadStore: one is no Parquet table.
    """
    return sum(_open(path).metadata.num_rows for path in files)


def read_metadata(path: Path, first_row: int, number: int | None) -> MetadataTable:
    """Read one batch's table.

    Args:
        path: the table.
        first_row: the global row of its first.
        number: of the batch; None for a table that is not one of several.

    Raises:
        BadStore: damaged, of another batch, or in another order than the arrays; a column of a wrong type.
    """
    import pyarrow as pa

    try:
        whole = _open(path).read()
    except (pa.ArrowException, OSError) as error:
        raise BadStore(path, "a Parquet table", str(error).splitlines()[0], REPAIR) from error
    n = whole.num_rows
    if number is not None:
        _check_numbers(path, whole, "batch_id", np.full(n, number))
        _check_numbers(path, whole, "sample_id", np.arange(n))
    columns: dict[str, Any] = {}
    if TOKENS in whole.column_names:
        columns[TOKENS] = _typed(path, whole, TOKENS, pa.list_(pa.int64()))
    else:
        columns[TOKENS] = pa.nulls(n, pa.list_(pa.int64())).fill_null([])
    for name in whole.column_names:
        kind = whole.schema.field(name).type
        if name in (WEAPON, SAMPLE, POSITION) or name.startswith(LEVEL):
            columns[name] = _typed(path, whole, name, pa.int64())
        elif name in (IS_NULL, EXCLUDED):
            columns[name] = _typed(path, whole, name, pa.bool_())
        elif name != "weapon_name" and _is_text(kind):
            columns[name] = whole.column(name).cast(pa.large_string())
    misnumbered = 0
    if "global_index" in whole.column_names:
        said = _typed(path, whole, "global_index", pa.int64()).to_numpy()
        misnumbered = int((said != np.arange(first_row, first_row + n)).sum())
    return MetadataTable(path, first_row, pa.table(columns), misnumbered)


def read_vocabulary(path: Path) -> dict[int, str]:
    """Read `{token: id}`; id to token.

    Raises:
        BadInput: not such a file, or two tokens share an id.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist or is not a file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    fits = isinstance(content, dict) and all(type(i) is int and i >= 0 for i in content.values())
    if not fits:
        raise BadInput(f"{path} must hold a vocabulary {{token: id}} whose ids are integers from 0")
    names: dict[int, str] = {}
    for token, index in content.items():
        if index in names:
            raise BadInput(f"{path}: {names[index]!r} and {token!r} share the id {index}")
        names[index] = token
    return names


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadStore(path, "a Parquet table", str(error).splitlines()[0], REPAIR) from error


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)
    )


def _typed(path: Path, table: "pa.Table", name: str, kind: Any) -> Any:
    """A column without nulls, cast to a type."""
    import pyarrow as pa

    column = table.column(name)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise BadStore(path, f"a value of {name!r} in every row", f"null in row {row}", REPAIR)
    try:
        if pa.types.is_floating(column.type):
            raise pa.ArrowInvalid(f"{column.type}")
        return column.cast(kind).combine_chunks()
    except pa.ArrowException as error:
        raise BadStore(path, f"column {name!r} of {kind}", f"{column.type}", REPAIR) from error


def _check_numbers(path: Path, table: "pa.Table", name: str, expected: Any) -> None:
    import pyarrow as pa

    if name not in table.column_names:
        return
    found = _typed(path, table, name, pa.int64()).to_numpy()
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        row = int(wrong[0])
        raise BadStore(
            path,
            f"{name} {expected[row]} in row {row}, so that its rows are those of the array",
            f"{found[row]}",
            "Tables and arrays of different conversions are mixed, or the rows were sorted; convert again.",
        )
