"""The format examples: the strongest samples of each feature, with their tokens. The store of it is `sampled`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.importers.pieces import Entries, checked
from pipeline.importers.source import Source, SourceSection
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.loaders.base import REPAIR, to_float32
from saeinterp_mcp.loaders.files import check_count, read_json
from saeinterp_mcp.loaders.metadata import IS_NULL, TOKENS, WEAPON, MetadataTable

EXAMPLES, INDEX, RECORD = "all_examples.parquet", "feature_index.parquet", "storage_metadata.json"
WHO = ["batch_id", "sample_id"]
"""What names a sample: `global_index` is shared by several where batches differ in size."""
COLUMNS = ("feature_id", "activation", *WHO, "ability_tokens_json", "weapon_id", "is_null")
MIXED = "The files of different conversions are mixed, or one was cut; make the examples again."


@dataclass(frozen=True)
class ExamplesPiece:
    """All activations of the examples."""

    path: Path
    negatives: bool

    def entries(self) -> Iterator[Entries]:
        """One block: there are no more than some hundred a feature."""
        table = read_examples(self.path)
        row = sample_rows(table)["row"].to_numpy()
        value = to_float32(table["activation"].to_numpy())
        feature = table["feature_id"].to_numpy().astype(np.int64)
        keep = value != 0
        found = Entries(row[keep].astype(np.int64), feature[keep], value[keep])
        yield checked(found, self.path, self.negatives)


def open_examples(section: SourceSection) -> Source:
    """The seed's examples store.

    Raises:
        BadInput: nothing says how many features there are.
        BadStore: the index is not of these examples, or one sample has two lists of tokens.
    """
    path = section.path / EXAMPLES
    table = read_examples(path)
    record_path = section.path / RECORD
    record = read_json(record_path) if record_path.is_file() else {}
    check_count(record_path, record, "total_examples", len(table), "examples", MIXED)
    n_features = section.n_features or record.get("n_features")
    if n_features is None:
        raise BadInput(
            f"{section.path} does not say how many features there are ({RECORD} is missing); give --n-features"
        )
    highest = int(table["feature_id"].max() or 0) if len(table) else 0  # type: ignore[arg-type]
    if highest >= n_features:
        raise BadStore(path, f"features 0 to {n_features - 1}", f"feature {highest}", MIXED)
    files = {EXAMPLES: path}
    index_path = section.path / INDEX
    if not index_path.is_file():
        raise BadStore(index_path, "the index of the examples", "no such file", MIXED)
    _check_index(index_path, table)
    files |= {INDEX: index_path} | ({RECORD: record_path} if record else {})
    samples = sample_rows(table)
    n_rows = int(samples["row"].max() or -1) + 1 if len(samples) else 0  # type: ignore[arg-type]
    if not n_rows:
        raise BadInput(f"{path} holds no example")
    return Source(
        n_rows=n_rows,
        n_features=int(n_features),
        pieces=(ExamplesPiece(path, section.negatives),),
        files=files,
        tables=partial(sample_tables, path),
        coverage="sampled",
        provenance={name: record[name] for name in ("top_k", "threshold") if name in record},
        notes=("only chosen examples are there; rates and means of all samples cannot be known from them",),
    )


def read_examples(path: Path) -> pl.DataFrame:
    """The table of examples.

    Raises:
        BadStore: missing, damaged, or without a column.
    """
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadStore(path, "a table of examples", str(error).splitlines()[0], REPAIR) from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise BadStore(path, f"a column {missing[0]!r}", f"{', '.join(table.columns)}", REPAIR)
    holes = [name for name in COLUMNS if table[name].null_count()]
    if holes:
        row = int(table[holes[0]].is_null().arg_max() or 0)
        raise BadStore(path, f"{holes[0]} in every row", f"null in row {row}", REPAIR)
    return table


def sample_rows(table: pl.DataFrame) -> pl.DataFrame:
    """The examples with `row`: which distinct sample each is, in the order of batch and sample."""
    samples = table.select(WHO).unique().sort(WHO).with_row_index("row")
    return table.join(samples, on=WHO, how="left", maintain_order="left")


def sample_tables(path: Path) -> Iterator[MetadataTable]:
    """The distinct samples, as one table of metadata.

    Raises:
        BadStore: a sample has two lists of tokens, or tokens that are no JSON list of integers.
    """
    table = sample_rows(read_examples(path))
    said = ["row", "ability_tokens_json", "weapon_id", "is_null"]
    samples = table.select(said).unique().sort(said)
    twice = samples.filter(pl.col("row").is_duplicated())
    if len(twice):
        at = table.filter(pl.col("row") == twice["row"][0]).row(0, named=True)
        named = f"batch {at['batch_id']}, sample {at['sample_id']}"
        raise BadStore(path, f"one list of tokens for {named}", "two", MIXED)
    tokens = [_tokens(path, text) for text in samples["ability_tokens_json"]]
    columns: dict[str, Any] = {
        TOKENS: pa.array(tokens, pa.list_(pa.int64())),
        WEAPON: pa.array(samples["weapon_id"].cast(pl.Int64).to_numpy()),
        IS_NULL: pa.array(samples["is_null"].cast(pl.Boolean).to_list(), pa.bool_()),
    }
    yield MetadataTable(path, 0, pa.table(columns), 0)


def _tokens(path: Path, text: str) -> list[int]:
    try:
        tokens = json.loads(text)
    except ValueError:
        tokens = None
    if not isinstance(tokens, list) or not all(type(t) is int for t in tokens):
        raise BadStore(path, "ability_tokens_json to be a JSON list of integers", repr(text[:40]), REPAIR)
    return tokens


def _check_index(path: Path, table: pl.DataFrame) -> None:
    try:
        index = pl.read_parquet(path).sort("feature_id")
        said = index.select("feature_id", "start_idx", "end_idx", "n_examples").cast(pl.Int64)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadStore(path, "the index of the examples", str(error).splitlines()[0], MIXED) from error
    said = said.filter(pl.col("n_examples") > 0)
    feature = table["feature_id"].to_numpy().astype(np.int64)
    there, start, n = np.unique(feature, return_index=True, return_counts=True)
    found = pl.DataFrame(
        {"feature_id": there, "start_idx": start, "end_idx": start + n, "n_examples": n},
        schema=dict.fromkeys(said.columns, pl.Int64),
    )
    if not said.equals(found):
        differing = sorted(set(found.rows()) ^ set(said.rows()))[0]
        raise BadStore(
            path, f"the places of the examples in {EXAMPLES}", f"feature {differing[0]} elsewhere", MIXED
        )
