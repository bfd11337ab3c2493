"""Writes the seed's formats from a dense matrix, as its own code does: nothing of ours is used."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import polars as pl
import zarr
from numpy.typing import NDArray

Matrix = NDArray[Any]
VOCAB = {"swim_3": 0, "swim_6": 1, "comeback": 2, "ninja": 3, "<NULL>": 4, "<PAD>": 5}
WEAPONS = {"weapon_id_10": 0, "weapon_id_20": 1, "weapon_id_1010": 2}


def save_zarr(path: Path, matrix: Matrix, chunks: tuple[int, int], codec: str, version: int) -> Any:
    if version == 2:
        compressor: Any = (
            numcodecs.Zstd(3) if codec == "zstd" else numcodecs.Blosc("zstd", 3, numcodecs.Blosc.SHUFFLE)
        )
    elif codec == "zstd":
        compressor = zarr.codecs.ZstdCodec(level=3)
    else:
        compressor = zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    array = zarr.create_array(
        str(path),
        shape=matrix.shape,
        dtype=matrix.dtype,
        chunks=chunks,
        compressors=compressor,
        zarr_format=version,
    )
    array[:] = matrix
    return array


def metadata_rows(n: int, first: int, batch: int, generator: np.random.Generator) -> pl.DataFrame:
    """Builds with a thermometer of `swim`, two main-only abilities and weapons; the last row is a null record."""
    swim = generator.integers(0, 3, n)
    tokens = [
        [2] * int(generator.random() < 0.3) + [3] * int(generator.random() < 0.4) + [0, 1][: int(s)]
        for s in swim
    ]
    null = np.arange(first, first + n) % 17 == 16
    tokens = [[4] if is_null else t for t, is_null in zip(tokens, null, strict=True)]
    return pl.DataFrame(
        {
            "batch_id": [batch] * n,
            "sample_id": list(range(n)),
            "ability_tokens": tokens,
            "weapon_id_token": generator.integers(0, 3, n).tolist(),
            "is_null_token": null.tolist(),
            "weapon_name": [""] * n,
            "global_index": list(range(first, first + n)),
        },
        schema={
            "batch_id": pl.Int64,
            "sample_id": pl.Int64,
            "ability_tokens": pl.List(pl.Int64),
            "weapon_id_token": pl.Int64,
            "is_null_token": pl.Boolean,
            "weapon_name": pl.String,
            "global_index": pl.Int64,
        },
    )


def write_batches(
    matrix: Matrix,
    folder: Path,
    cuts: Sequence[int] = (),
    version: int = 3,
    chunk_rows: int = 1000,
    metadata: bool = False,
    record: bool = True,
) -> Path:
    """`activations/batch_NNNN.zarr` cut at the given rows, with the tables and the record of the conversion."""
    edges = [0, *sorted(min(c, len(matrix)) for c in cuts), len(matrix)]
    generator = np.random.default_rng(0)
    (folder / "activations").mkdir(parents=True)
    stats = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        block = matrix[start:stop]
        array = save_zarr(
            folder / "activations" / f"batch_{number:04d}.zarr",
            block,
            (chunk_rows, matrix.shape[1]),
            "zstd",
            version,
        )
        array.attrs.update({"batch_index": number, "n_samples": len(block), "n_features": matrix.shape[1]})
        stats.append({"n_samples": len(block), "n_features": matrix.shape[1]})
        if metadata:
            (folder / "metadata").mkdir(exist_ok=True)
            table = metadata_rows(len(block), start, number, generator)
            table.write_parquet(folder / "metadata" / f"batch_{number:04d}.parquet", compression="zstd")
    if record:
        content = {"n_batches": len(edges) - 1, "total_samples": len(matrix), "batch_stats": stats}
        (folder / "conversion_metadata.json").write_text(json.dumps(content))
    return folder


def write_transposed(matrix: Matrix, folder: Path, version: int = 3, chunk: int = 10000) -> Path:
    """`transposed_activations.zarr` and its record."""
    folder.mkdir(parents=True)
    save_zarr(folder / "transposed_activations.zarr", matrix.T, (1, chunk), "blosc", version)
    n, f = matrix.shape
    record = {"n_features": f, "n_samples": n, "source_batches": 1, "format": "transposed", "shape": [f, n]}
    (folder / "transposed_metadata.json").write_text(json.dumps(record))
    return folder


def write_neurons(matrix: Matrix, folder: Path, indices: str = "int64") -> Path:
    """`neuron_NNNN/acts.npy` and `idxs.npy`."""
    for feature in range(matrix.shape[1]):
        place = folder / f"neuron_{feature:04d}"
        place.mkdir(parents=True)
        at = np.flatnonzero(matrix[:, feature])
        np.save(place / "acts.npy", matrix[at, feature])
        np.save(place / "idxs.npy", at.astype(indices))
    return folder


def write_examples(matrix: Matrix, data: Path, folder: Path, top_k: int = 5, threshold: float = 0.1) -> Path:
    """The examples store of a folder of batches, one row at a time."""
    tables = [pl.read_parquet(p) for p in sorted((data / "metadata").glob("*.parquet"))]
    samples = pl.concat(tables).rows(named=True)
    examples: list[dict[str, Any]] = []
    index: list[dict[str, Any]] = []
    for feature in range(matrix.shape[1]):
        column = matrix[:, feature]
        above = [i for i in range(len(column)) if column[i] > threshold]
        best = sorted(above, key=lambda i: (-float(column[i]), i))[:top_k]
        if not best:
            continue
        start = len(examples)
        for i in best:
            examples.append(
                {
                    "feature_id": feature,
                    "activation": float(column[i]),
                    **{name: samples[i][name] for name in ("batch_id", "sample_id", "global_index")},
                    "ability_tokens_json": json.dumps(samples[i]["ability_tokens"], separators=(",", ":")),
                    "weapon_id": samples[i]["weapon_id_token"],
                    "is_null": samples[i]["is_null_token"],
                }
            )
        index.append(
            {
                "feature_id": feature,
                "start_idx": start,
                "end_idx": len(examples),
                "n_examples": len(best),
                "max_activation": float(column[best[0]]),
                "mean_activation": float(np.mean([float(column[i]) for i in above])),
                "total_activations": len(above),
            }
        )
    folder.mkdir(parents=True)
    pl.DataFrame(examples).write_parquet(folder / "all_examples.parquet", compression="zstd")
    pl.DataFrame(index).write_parquet(folder / "feature_index.parquet", compression="zstd")
    record = {
        "n_features": matrix.shape[1],
        "top_k": top_k,
        "threshold": threshold,
        "total_examples": len(examples),
        "features_with_examples": len(index),
    }
    (folder / "storage_metadata.json").write_text(json.dumps(record))
    return folder


def sparse_matrix(n: int, n_features: int, seed: int = 0, density: float = 0.2) -> Matrix:
    """Random float32 activations; the last feature never fires, nor does row 0."""
    generator = np.random.default_rng(seed)
    matrix = generator.lognormal(size=(n, n_features)).astype(np.float32)
    matrix[generator.random((n, n_features)) >= density] = 0
    matrix[:, -1] = 0
    matrix[:1] = 0
    return matrix
