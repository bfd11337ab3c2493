"""The seed's three formats of activations: batch Zarr, transposed Zarr, neuron files."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.exporters.folder import Progress, folder_bytes, ranges, write_json
from pipeline.exporters.metadata import Metadata
from pipeline.exporters.source_rows import opened
from pipeline.exporters.zarr_arrays import LEVEL, ZarrFormat, create_array, open_for_writing
from pipeline.parallel import run_tasks
from saeinterp_mcp.loaders.batches import CONVERSION
from saeinterp_mcp.loaders.neuron_acts import RECORD as NEURON_RECORD
from saeinterp_mcp.loaders.transposed import ARRAY
from saeinterp_mcp.loaders.transposed import RECORD as TRANSPOSED_RECORD

CHUNK_ROWS = 1000
CHUNK_SAMPLES = 10_000
BLOCK_CELLS = 1 << 24
"""Cells of a dense block of features; 64 MB."""
MEGABYTE = 1024**2


def export_batches(
    store: Path, out: Path, batch_size: int, zarr_format: ZarrFormat, workers: int, progress: Progress
) -> dict[str, int]:
    """`activations/batch_NNNN.zarr`, `metadata/batch_NNNN.parquet`, the vocabularies and the record, last."""
    rows = opened(store)
    for name in ("activations", "metadata"):
        (out / name).mkdir()
    task = partial(_write_batch, store=store, out=out, zarr_format=zarr_format)
    batches = list(enumerate(ranges(rows.n, batch_size)))
    stats = list(run_tasks(task, batches, workers, progress))
    Metadata(rows).write_names(out)
    total_in, total_out = (sum(s[name] for s in stats) for name in ("input_size_mb", "output_size_mb"))
    n_activations = int(sum(s["n_activations"] for s in stats))
    record = {
        "n_batches": len(stats),
        "total_samples": rows.n,
        "n_features": rows.n_features,
        "n_activations": n_activations,
        "total_input_size_mb": total_in,
        "total_output_size_mb": total_out,
        "average_compression_ratio": total_in / total_out,
        "batch_size": batch_size,
        "chunk_size": CHUNK_ROWS,
        "compression": "zstd",
        "compression_level": LEVEL,
        "batch_stats": stats,
    }
    write_json(out / CONVERSION, record)
    return {"rows": rows.n, "activations": n_activations, "batches": len(stats)}


def _write_batch(
    batch: tuple[int, tuple[int, int]], store: Path, out: Path, zarr_format: ZarrFormat
) -> dict[str, Any]:
    number, (start, stop) = batch
    rows = opened(store)
    path, table_path = (
        out / "activations" / f"batch_{number:04d}.zarr",
        out / "metadata" / f"batch_{number:04d}.parquet",
    )
    sizes = {"batch_index": number, "n_samples": stop - start, "n_features": rows.n_features}
    shape, chunks = (stop - start, rows.n_features), (CHUNK_ROWS, rows.n_features)
    array = create_array(path, shape, chunks, "zstd", zarr_format, sizes)
    n = 0
    for first, block in rows.blocks(start, stop, CHUNK_ROWS):
        array[first - start : first - start + len(block)] = block
        n += int(np.count_nonzero(block != 0))
    Metadata(rows).table(start, stop, number).write_parquet(
        table_path, compression="zstd", compression_level=LEVEL
    )
    dense = (stop - start) * rows.n_features * 4 / MEGABYTE
    parquet, zarr = table_path.stat().st_size / MEGABYTE, folder_bytes(path) / MEGABYTE
    return {
        "n_samples": stop - start,
        "n_features": rows.n_features,
        "n_activations": n,
        "input_size_mb": dense,
        "parquet_size_mb": parquet,
        "zarr_activations_size_mb": zarr,
        "output_size_mb": parquet + zarr,
        "compression_ratio": dense / (parquet + zarr),
    }


def export_transposed(
    store: Path, out: Path, batch_size: int, zarr_format: ZarrFormat, workers: int, progress: Progress
) -> dict[str, int]:
    """`transposed_activations.zarr`, the tables and vocabularies, and the record, last."""
    rows = opened(store)
    shape = (rows.n_features, rows.n)
    create_array(out / ARRAY, shape, (1, CHUNK_SAMPLES), "blosc", zarr_format)
    blocks = ranges(rows.n_features, max(1, min(100, BLOCK_CELLS // rows.n)))
    n = sum(run_tasks(partial(_write_features, store=store, path=out / ARRAY), blocks, workers, progress))
    _write_tables(store, out, batch_size)
    record = {
        "n_features": rows.n_features,
        "n_samples": rows.n,
        "n_activations": n,
        "source_batches": len(ranges(rows.n, batch_size)),
        "format": "transposed",
        "shape": list(shape),
        "description": "Transposed activations for fast feature-wise access",
    }
    write_json(out / TRANSPOSED_RECORD, record)
    return {"rows": rows.n, "activations": n, "features": rows.n_features}


def _write_features(features: tuple[int, int], store: Path, path: Path) -> int:
    rows = opened(store)
    block = np.zeros((features[1] - features[0], rows.n), np.float32)
    n = 0
    for i, feature in enumerate(range(*features)):
        at, values = rows.firing(feature)
        block[i, at] = values
        n += len(at)
    open_for_writing(path)[features[0] : features[1]] = block
    return n


def export_neurons(
    store: Path, out: Path, batch_size: int, zarr_format: ZarrFormat, workers: int, progress: Progress
) -> dict[str, int]:
    """`neuron_NNNN/acts.npy` and `idxs.npy` of every feature, the tables and vocabularies, and a record."""
    rows = opened(store)
    blocks = ranges(rows.n_features, 256)
    n = sum(run_tasks(partial(_write_neurons, store=store, out=out), blocks, workers, progress))
    _write_tables(store, out, batch_size)
    record = {"n_features": rows.n_features, "n_samples": rows.n, "n_activations": n}
    write_json(out / NEURON_RECORD, record)
    return {"rows": rows.n, "activations": n, "features": rows.n_features}


def _write_neurons(features: tuple[int, int], store: Path, out: Path) -> int:
    rows = opened(store)
    n = 0
    for feature in range(*features):
        at, values = rows.firing(feature)
        folder = out / f"neuron_{feature:04d}"
        folder.mkdir()
        np.save(folder / "acts.npy", values)
        np.save(folder / "idxs.npy", at)
        n += len(at)
    return n


def _write_tables(store: Path, out: Path, batch_size: int) -> None:
    """The tables of formats that have none of their own, where `--metadata` finds them."""
    made = Metadata(opened(store))
    (out / "metadata").mkdir()
    for number, (start, stop) in enumerate(ranges(made.rows.n, batch_size)):
        path = out / "metadata" / f"batch_{number:04d}.parquet"
        made.table(start, stop, number).write_parquet(path, compression="zstd", compression_level=LEVEL)
    made.write_names(out)
