"""The seed's examples store: the strongest rows of each feature, with their tokens."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.exporters.folder import Progress, ranges, write_json
from pipeline.exporters.metadata import Metadata
from pipeline.exporters.source_rows import opened
from pipeline.parallel import run_tasks

EXAMPLES = {
    "feature_id": pl.Int64,
    "activation": pl.Float64,
    "batch_id": pl.Int64,
    "sample_id": pl.Int64,
    "global_index": pl.Int64,
    "ability_tokens_json": pl.String,
    "weapon_id": pl.Int64,
    "is_null": pl.Boolean,
}
INDEX = {
    "feature_id": pl.Int64,
    "start_idx": pl.Int64,
    "end_idx": pl.Int64,
    "n_examples": pl.Int64,
    "max_activation": pl.Float64,
    "mean_activation": pl.Float64,
    "total_activations": pl.Int64,
}


def export_examples(
    store: Path, out: Path, batch_size: int, top_k: int, threshold: float, workers: int, progress: Progress
) -> dict[str, int]:
    """`all_examples.parquet`, `feature_index.parquet`, the vocabularies and `storage_metadata.json`.

    The strongest rows come first, equal ones in the order of rows; mean and total are of all rows above the
    threshold.
    """
    import pyarrow.parquet as pq

    rows = opened(store)
    task = partial(_examples, store=store, batch_size=batch_size, top_k=top_k, threshold=threshold)
    index: list[dict[str, Any]] = []
    n = 0
    schema = pl.DataFrame(schema=EXAMPLES).to_arrow().schema
    with pq.ParquetWriter(
        out / "all_examples.parquet", schema, compression="zstd", compression_level=3
    ) as writer:
        for table, entries in run_tasks(task, ranges(rows.n_features, 256), workers, progress):
            for entry in entries:
                index.append({**entry, "start_idx": n, "end_idx": n + entry["n_examples"]})
                n += entry["n_examples"]
            writer.write_table(table.to_arrow().cast(schema))
    pl.DataFrame(index, schema=INDEX).write_parquet(out / "feature_index.parquet", compression="zstd")
    Metadata(rows).write_names(out)
    record = {
        "n_features": rows.n_features,
        "top_k": top_k,
        "threshold": threshold,
        "total_examples": n,
        "features_with_examples": len(index),
    }
    write_json(out / "storage_metadata.json", record)
    return {"features": len(index), "examples": n}


def _examples(
    features: tuple[int, int], store: Path, batch_size: int, top_k: int, threshold: float
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    rows = opened(store)
    made = Metadata(rows)
    columns: dict[str, list[Any]] = {name: [] for name in EXAMPLES}
    index = []
    for feature in range(*features):
        at, values = rows.firing(feature)
        above = values > np.float32(threshold)
        at, values = at[above], values[above]
        if not len(at):
            continue
        best = np.lexsort((at, -values))[:top_k]
        index.append(
            {
                "feature_id": feature,
                "n_examples": len(best),
                "max_activation": float(values[best[0]]),
                "mean_activation": float(values.mean(dtype=np.float64)),
                "total_activations": len(at),
            }
        )
        for row, value in zip(at[best].tolist(), values[best].tolist(), strict=True):
            for name, cell in _example(made, feature, row, value, batch_size):
                columns[name].append(cell)
    return pl.DataFrame(columns, schema=EXAMPLES), index


def _example(
    made: Metadata, feature: int, row: int, value: float, batch_size: int
) -> Iterator[tuple[str, Any]]:
    _, _, stored = made.rows.samples_at(row, row + 1)
    _, ids = made.tokens(row, row + 1)
    yield "feature_id", feature
    yield "activation", value
    yield "batch_id", row // batch_size
    yield "sample_id", row % batch_size
    yield "global_index", row
    yield "ability_tokens_json", json.dumps(ids.tolist(), separators=(",", ":"))
    yield "weapon_id", int(made.weapons(stored)[0])
    yield "is_null", bool(made.is_null(stored)[0])
