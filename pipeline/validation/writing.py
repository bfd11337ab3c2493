"""How stages leave tables: shard by shard, checked against the declared schema, with a sidecar about what made
them."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from pipeline.fingerprint import write_whole
from pipeline.parallel import one_thread_each, run_tasks
from pipeline.stage import Progress
from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.validation.tables import REMAKE, Table

SHARDS = "shards"
ROW_GROUP = 4_096
"""Rows of a group of a Parquet file: what a question about one feature reads."""


def blocks(n: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of consecutive blocks."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def write_table(table: Table, frame: pl.DataFrame, path: Path) -> None:
    """Write a frame whole, then rename it, after its types were checked.

    Raises:
        BadStore: other columns or types than declared: a bug of the stage, told like a damaged file.
    """
    table.check(frame, path)
    temporary = path.with_name(path.name + ".tmp")
    frame.write_parquet(temporary, compression="zstd", row_group_size=ROW_GROUP, statistics=True)
    temporary.replace(path)


def read_table(table: Table, path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """A table that a stage left.

    Raises:
        BadStore: missing, damaged, or of another schema.
    """
    try:
        frame = pl.scan_parquet(path)
        table.check(frame, path)
        return (frame if columns is None else frame.select(columns)).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadStore(path, f"the table {table.name}", str(error).splitlines()[0], REMAKE) from error


def shard_path(out: Path, name: str, index: int) -> Path:
    """Where a shard is while its stage works."""
    return out / SHARDS / f"{name}-{index:05d}.parquet"


def run_shards(
    out: Path,
    tasks: Sequence[Any],
    task: Callable[[Any], int],
    done: Callable[[Any], bool],
    workers: int,
    progress: Progress,
) -> None:
    """Run the tasks whose shards are not there yet: a stage that was killed goes on with them.

    `task` is picklable, writes its own shard by rename, and gives back how many rows it holds.
    """
    (out / SHARDS).mkdir(exist_ok=True)
    left = [one for one in tasks if not done(one)]
    before = len(tasks) - len(left)
    with one_thread_each():
        for _ in run_tasks(task, left, workers, lambda n, total: progress(before + n, before + total)):
            pass


def write_blocks(table: Table, out: Path, frames: Iterable[pl.DataFrame], row_group: int = ROW_GROUP) -> int:
    """Frames, one after the other, become the file of a table. Its number of rows.

    Bounded by the largest frame, not by the table.
    """
    final = out / table.file
    temporary = final.with_name(final.name + ".tmp")
    schema = table.empty().to_arrow().schema
    rows = 0
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for frame in frames:
            table.check(frame, final)
            rows += len(frame)
            writer.write_table(frame.to_arrow().cast(schema), row_group_size=row_group)
    temporary.replace(final)
    return rows


def merge_shards(table: Table, out: Path, n: int) -> int:
    """Shards 0 .. n-1 of a table, one after the other, become its file; the shards are removed. Its number of rows.

    Bounded by the largest shard, not by the table.
    """
    paths = [shard_path(out, table.name, i) for i in range(n)]
    rows = write_blocks(table, out, (read_table(table, path) for path in paths))
    for path in paths:
        path.unlink()
    if not any((out / SHARDS).iterdir()):
        (out / SHARDS).rmdir()
    return rows


def write_sidecar(
    table: Table,
    out: Path,
    sae_id: str,
    config: Mapping[str, Any],
    counts: Mapping[str, Any],
    warnings: Sequence[str],
) -> None:
    """`TABLE.parquet.metadata.json`: what made the table. Hashes of inputs are added when it is published.

    Holds no times, so that two runs leave equal bytes.
    """
    path = out / table.file
    content = {
        "sae_id": sae_id,
        "total_rows": pq.ParquetFile(path).metadata.num_rows,
        "schema": {name: str(dtype) for name, dtype in table.schema.items()},
        "config_used": dict(config),
        "result_stats": dict(counts),
        "warnings": list(warnings),
    }
    write_whole(
        path.with_name(path.name + ".metadata.json"),
        json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n",
    )


def write_json(path: Path, value: Any) -> None:
    """A JSON companion: keys sorted, numbers strict (NaN is refused), written whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def rows_by_feature(frame: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """(feature, its rows) of a frame that is sorted by `feature_id`: slices, not a search each."""
    ids = frame["feature_id"].to_numpy()
    if not len(ids):
        return
    starts = [0, *((ids[1:] != ids[:-1]).nonzero()[0] + 1).tolist(), len(ids)]
    for start, stop in pairwise(starts):
        yield int(ids[start]), frame.slice(start, stop - start)


def fsync_folder(folder: Path) -> None:
    """What was renamed in it stays renamed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
