"""Datasets: tables and folders of documents, read as a stream whatever their size."""

import csv
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.fingerprint import named_files
from pipeline.source_config import (
    DatasetConfig,
    FileTableConfig,
    FolderConfig,
    HuggingFaceTableConfig,
    TableConfig,
)
from saeinterp_mcp.errors import BadInput, nearest

ROWS = 256
"""Rows read at a time; a row can be a whole file."""


@dataclass(frozen=True)
class Document:
    """One document: a text, or the token ids somebody else made of it."""

    text: str | None
    token_ids: Sequence[int] | None
    unit: str
    """What statistics treat as independent."""
    groups: Mapping[str, str | None]
    where: str
    """File and row, for messages."""


def group_names(config: DatasetConfig) -> tuple[str, ...]:
    """Names of the groups that every document carries, in order."""
    return tuple(config.path_parts) if isinstance(config, FolderConfig) else config.groups


def dataset_files(config: DatasetConfig) -> dict[str, Path]:
    """`dataset/<name>` to local file, for hashing; nothing for a hub dataset, which its revision names.

    Raises:
        BadInput: no file is there.
    """
    if config.path is None:
        return {}
    if isinstance(config, FolderConfig):
        return {f"dataset/{path.relative_to(config.path).as_posix()}": path for path in _folder_files(config)}
    if isinstance(config, HuggingFaceTableConfig):
        return named_files("dataset", config.path)
    return {f"dataset/{path.name}": path for path in _table_files(config)}


def read_documents(config: DatasetConfig, dropped: Counter[str]) -> Iterator[Document]:
    """Every document of a dataset, in its own order.

    Args:
        config: where it is and which columns to read.
        dropped: documents that cannot be read are counted here by reason, and left out.

    Raises:
        BadInput: a file or column is missing or of the wrong type; the message names what there is.
    """
    if isinstance(config, FolderConfig):
        yield from _read_folder(config, dropped)
    else:
        for row, where in _rows(config):
            document = _document(row, config, where, dropped)
            if document is not None:
                yield document


def content_unit(content: str | Sequence[int]) -> str:
    """A name for a document by its content: equal documents are one unit."""
    text = content if isinstance(content, str) else " ".join(map(str, content))
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]


def _document(
    row: Mapping[str, Any], config: TableConfig, where: str, dropped: Counter[str]
) -> Document | None:
    """Check one row of a table."""
    content = row[config.text or config.token_ids or ""]
    if content is None:
        dropped["no content"] += 1
        return None
    if config.text is not None:
        if not isinstance(content, str):
            raise BadInput(f"{where}: column {config.text!r} must hold text, found {type(content).__name__}")
    elif not (isinstance(content, list) and all(type(item) is int and item >= 0 for item in content)):
        raise BadInput(f"{where}: column {config.token_ids!r} must hold lists of token ids, integers from 0")
    unit = None if config.unit is None else row[config.unit]
    if config.unit is not None and unit is None:
        raise BadInput(f"{where}: column {config.unit!r}, the unit, is empty")
    return Document(
        text=content if config.text is not None else None,
        token_ids=content if config.text is None else None,
        unit=content_unit(content) if unit is None else str(unit),
        groups={name: _group_value(row[name]) for name in config.groups},
        where=where,
    )


def _group_value(value: object) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _wanted(config: TableConfig) -> list[str]:
    """The columns to read, each once."""
    named = (config.text, config.token_ids, config.unit, *config.groups)
    return list(dict.fromkeys(name for name in named if name is not None))


def _require(columns: Sequence[str], config: TableConfig, where: str) -> None:
    for name in _wanted(config):
        if name not in columns:
            raise BadInput(f"{where} has no column {name!r}; {nearest(name, columns)}")


def _rows(config: FileTableConfig | HuggingFaceTableConfig) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The rows of a table, each with file and row for messages."""
    if isinstance(config, HuggingFaceTableConfig):
        yield from _huggingface_rows(config)
        return
    read = {"parquet": _parquet_rows, "jsonl": _jsonl_rows, "csv": _csv_rows}[config.format]
    for path in _table_files(config):
        yield from read(path, config)


def _table_files(config: FileTableConfig) -> list[Path]:
    """The file, or the files that a glob fits, in the order of their names."""
    assert config.path is not None, "the config's own check wants a path"
    if config.path.is_file():
        return [config.path]
    pattern = config.path.name
    found = (
        sorted(path for path in config.path.parent.glob(pattern) if path.is_file()) if "*" in pattern else []
    )
    if not found:
        raise BadInput(f"dataset: there is no file {config.path}")
    return found


def _parquet_rows(path: Path, config: TableConfig) -> Iterator[tuple[Mapping[str, Any], str]]:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise BadInput(f"{path} is not a Parquet file: {error}") from error
    _require(file.schema_arrow.names, config, str(path))
    index = 0
    for batch in file.iter_batches(batch_size=ROWS, columns=_wanted(config)):
        for row in batch.to_pylist():
            yield row, f"{path} row {index}"
            index += 1


def _jsonl_rows(path: Path, config: TableConfig) -> Iterator[tuple[Mapping[str, Any], str]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path} line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:  # UnicodeDecodeError is one
                raise BadInput(f"{where} is not JSON in UTF-8: {error}") from error
            if not isinstance(row, dict):
                raise BadInput(f"{where} must be a JSON object, found {type(row).__name__}")
            _require(list(row), config, where)
            yield row, where


def _csv_rows(path: Path, config: TableConfig) -> Iterator[tuple[Mapping[str, Any], str]]:
    if config.token_ids is not None:
        raise BadInput(
            f"{path}: a CSV file cannot hold lists of token ids; give text, or use Parquet or JSON lines"
        )
    csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, is less than a source file can have
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        try:
            _require(list(reader.fieldnames or ()), config, str(path))
            for row in reader:
                if None in row or None in row.values():
                    raise BadInput(f"{path} line {reader.line_num}: not as many fields as the header names")
                yield row, f"{path} line {reader.line_num}"
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadInput(f"{path} near line {reader.line_num} is not CSV in UTF-8: {error}") from error


def _huggingface_rows(config: HuggingFaceTableConfig) -> Iterator[tuple[Mapping[str, Any], str]]:
    try:
        import datasets
    except ImportError as error:
        raise BadInput(
            "dataset.format huggingface needs the package datasets: pip install 'saeinterp-mcp[pipeline]'"
        ) from error
    if config.path is not None:
        where = str(config.path)
        try:
            table = datasets.load_from_disk(where)
        except FileNotFoundError as error:
            raise BadInput(f"dataset: {where} is not a folder written by datasets' save_to_disk") from error
        if isinstance(table, datasets.DatasetDict):
            splits = list(table)
            if config.split not in table:
                raise BadInput(f"dataset: {where} has splits; give dataset.split, one of {', '.join(splits)}")
            table = table[config.split]
    else:
        where = f"{config.hub} {config.split}"
        table = datasets.load_dataset(
            config.hub, config.subset, split=config.split, revision=config.revision, streaming=True
        )
    if table.column_names is not None:
        _require(table.column_names, config, where)
        table = table.select_columns(_wanted(config))
    for index, row in enumerate(table):
        if index == 0:
            _require(list(row), config, where)
        yield row, f"{where} row {index}"


def _folder_files(config: FolderConfig) -> list[Path]:
    assert config.path is not None, "the config's own check wants a path"
    if not config.path.is_dir():
        raise BadInput(f"dataset: there is no folder {config.path}")
    fits: set[Path] = set()
    for pattern in config.include:
        fits.update(path for path in config.path.glob(pattern) if path.is_file())
    for pattern in config.exclude:
        fits.difference_update(config.path.glob(pattern))
    if not fits:
        raise BadInput(f"dataset: no file in {config.path} fits {', '.join(config.include)}")
    return sorted(fits, key=lambda path: path.relative_to(config.path or path).as_posix())


def _read_folder(config: FolderConfig, dropped: Counter[str]) -> Iterator[Document]:
    assert config.path is not None, "the config's own check wants a path"
    for path in _folder_files(config):
        try:
            text = path.read_bytes().decode("utf-8")  # keeps \r\n as it is
        except UnicodeDecodeError:
            dropped["not UTF-8"] += 1
            continue
        relative = path.relative_to(config.path)
        yield Document(
            text=text,
            token_ids=None,
            unit=relative.as_posix() if config.unit == "path" else content_unit(text),
            groups={name: _path_part(relative, index) for name, index in config.path_parts.items()},
            where=str(path),
        )


def _path_part(relative: Path, index: int) -> str | None:
    """A part of a relative path; None where the path is too short to have it."""
    return relative.parts[index] if -len(relative.parts) <= index < len(relative.parts) else None
