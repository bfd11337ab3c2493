"""Sets from a table, read as a stream: a Parquet file, or the seed's `tokenized_data.csv`."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.set_config import WEAPON, ParquetSetsConfig, SetDatasetConfig, TokenizedCsvConfig
from saeinterp_mcp.analysis.splits import content_unit
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.loaders.metadata import SPECIAL, read_vocabulary

ROWS = 4096


@dataclass(frozen=True)
class TokenSet:
    """One set of the dataset."""

    tokens: list[str]
    """Without repeats, in the order of the source."""
    unit: str
    """What statistics treat as independent."""
    groups: dict[str, str | None]


def set_files(config: SetDatasetConfig) -> dict[str, Path]:
    """`dataset/<name>` to file, for hashing.

    Raises:
        BadInput: one of them is not there.
    """
    assert config.path is not None, "the config's own check wants a path"
    found = {f"dataset/{config.path.name}": config.path}
    if isinstance(config, TokenizedCsvConfig):
        found["dataset/vocab"] = config.vocab
        if config.weapon_vocab is not None:
            found["dataset/weapon_vocab"] = config.weapon_vocab
    for path in found.values():
        if not path.is_file():
            raise BadInput(f"dataset: there is no file {path}")
    return found


def read_sets(config: SetDatasetConfig) -> Iterator[TokenSet]:
    """Every set of a dataset, in its own order.

    Raises:
        BadInput: a file or column is missing or of the wrong type; the message names what there is.
    """
    yield from _parquet_sets(config) if isinstance(config, ParquetSetsConfig) else _csv_sets(config)


def _parquet_sets(config: ParquetSetsConfig) -> Iterator[TokenSet]:
    path = config.path
    assert path is not None, "the config's own check wants a path"
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from error
    with file:
        columns = list(dict.fromkeys(filter(None, (config.tokens, config.unit, *config.groups))))
        _require(columns, file.schema_arrow.names, path)
        kind = file.schema_arrow.field(config.tokens).type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise BadInput(f"{path}: column {config.tokens!r} must hold lists of strings, found {kind}")
        index = 0
        for batch in file.iter_batches(batch_size=ROWS, columns=columns):
            for row in batch.to_pylist():
                where = f"{path} row {index}"
                tokens = row[config.tokens]
                if tokens is None or not all(isinstance(token, str) for token in tokens):
                    raise BadInput(
                        f"{where}: column {config.tokens!r} must hold lists of strings, found {tokens!r}"
                    )
                yield _token_set(tokens, {name: row[name] for name in config.groups}, row, config, where)
                index += 1


def _csv_sets(config: TokenizedCsvConfig) -> Iterator[TokenSet]:
    path = config.path
    assert path is not None, "the config's own check wants a path"
    names = read_vocabulary(config.vocab)
    weapons = None if config.weapon_vocab is None else read_vocabulary(config.weapon_vocab)
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8", newline="") as lines:
        first = lines.readline()
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter="\t" if "\t" in first else ",")
        others = [name for name in config.group_names if config.weapon is None or name != WEAPON]
        try:
            _require(
                list(filter(None, (config.tokens, config.weapon, config.unit, *others))),
                list(reader.fieldnames or ()),
                path,
            )
            for row in reader:
                where = f"{path} line {reader.line_num}"
                if None in row or None in row.values():
                    raise BadInput(f"{where}: not as many fields as the header names")
                tokens = [names_of(i, names, config.vocab, where) for i in _ids(row[config.tokens], where)]
                groups: dict[str, Any] = {}
                if config.weapon is not None:
                    groups[WEAPON] = _weapon(row[config.weapon], weapons, config, where)
                groups |= {name: row[name] or None for name in others}
                yield _token_set(
                    [token for token in tokens if token not in SPECIAL], groups, row, config, where
                )
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadInput(f"{path} near line {reader.line_num} is not CSV in UTF-8: {error}") from error


def _ids(text: str, where: str) -> list[int]:
    """A JSON list of ids."""
    try:
        ids = json.loads(text)
    except ValueError:
        ids = None
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise BadInput(f"{where}: tokens must be a JSON list of ids, such as [3, 17], found {text[:60]!r}")
    return ids


def names_of(index: int, names: Mapping[int, str], vocabulary: Path, where: str) -> str:
    """The name of an id."""
    if index not in names:
        raise BadInput(
            f"{where}: id {index} is not in {vocabulary}, which has {min(names, default=0)} to"
            f" {max(names, default=0)}; give the vocabulary that the data were made with"
        )
    return names[index]


def _weapon(text: str, weapons: dict[int, str] | None, config: TokenizedCsvConfig, where: str) -> str:
    if weapons is None or config.weapon_vocab is None:
        return text
    if not text.isdecimal():
        raise BadInput(
            f"{where}: column {config.weapon!r} must hold the weapon's id, a number, found {text!r}"
        )
    return names_of(int(text), weapons, config.weapon_vocab, where)


def _token_set(
    tokens: list[str],
    values: Mapping[str, object],
    row: Mapping[str, object],
    config: SetDatasetConfig,
    where: str,
) -> TokenSet:
    groups = {name: group_value(value) for name, value in values.items()}
    unit = None if config.unit is None else row[config.unit]
    if config.unit is not None and unit is None:
        raise BadInput(f"{where}: column {config.unit!r}, the unit, is empty")
    named = default_unit(tokens, groups) if unit is None else str(unit)
    return TokenSet(list(dict.fromkeys(tokens)), named, groups)


def default_unit(tokens: list[str], groups: Mapping[str, str | None]) -> str:
    """A hash of the set's tokens and group values: exact duplicates are one unit."""
    values = [f"{name}={'' if value is None else value}" for name, value in groups.items()]
    return content_unit([*sorted(set(tokens)), "", *values], "sequence")


def group_value(value: object) -> str | None:
    """A group's value as text."""
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _require(columns: list[str], there: list[str], path: Path) -> None:
    for name in columns:
        if name not in there:
            raise BadInput(f"{path} has no column {name!r}; {nearest(name, there)}")
