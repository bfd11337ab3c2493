"""The seed's formats in their real layouts, for the features that are timed, and its way of reading them.

`transposed.zarr` [F, N] in chunks (1, 10000), Blosc (zstd 3, byte shuffle), Zarr v2; `neuron_acts/neuron_NNNN/
{acts,idxs}.npy`; `batch.zarr` [100000, F] in chunks (1000, F), zstd 3; `metadata.parquet`, a row a sample. All rows
of the features that are written are there; the others are left out, because nothing that is timed opens them. In a
sequence world a row of theirs is a position, with its one token: they have no sequences.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numcodecs import Blosc, Zstd
from numpy.typing import NDArray

from benchmarks.storage.samples import samples_of_part, vocabulary
from benchmarks.storage.worlds import DOCUMENT_TOKENS, World
from benchmarks.storage.write_world import value_names
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.frozen import Frozen

SIZES = {"1K": 1_000, "100K": 100_000, "500K": 500_000}
N_RANDOM = 100
CHUNK_ROWS = 10_000
BATCH_ROWS = 100_000
BATCH_CHUNK = 1_000


class Chosen(Frozen):
    """The features that are timed."""

    by_size: dict[str, int]
    """The feature nearest to 1,000, 100,000 and 500,000 activations (at scale 1)."""
    random: tuple[int, ...]
    """100 live features drawn at random."""
    n_firing: tuple[int, ...]
    """(F,) activations of each feature of the world."""

    def n(self, size: str) -> int:
        """Activations of a feature chosen by size."""
        return self.n_firing[self.by_size[size]]


def count_firing(world: World, bundle: Path) -> NDArray[np.int64]:
    """(F,) activations of each feature."""
    counts = np.zeros(world.n_features, np.int64)
    for path in sorted((bundle / "activations").iterdir()):
        column = pq.read_table(path, columns=["feature"])["feature"].to_numpy()
        counts += np.bincount(column, minlength=world.n_features)
    return counts


def choose(world: World, counts: NDArray[np.int64]) -> Chosen:
    """Pick the features to time."""
    by_size = {
        name: int(np.argmin(np.where(counts > 0, np.abs(counts - n * world.scale), np.inf)))
        for name, n in SIZES.items()
    }
    alive = np.flatnonzero(counts)
    drawn = rng(world.seed, "timed features").choice(alive, min(N_RANDOM, len(alive)), replace=False)
    return Chosen(
        by_size=by_size, random=tuple(int(f) for f in drawn), n_firing=tuple(int(n) for n in counts)
    )


def write_seed_layouts(world: World, bundle: Path, folder: Path) -> Chosen:
    """Write all formats into `folder`, which must not exist."""
    partial_folder = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    chosen = choose(world, count_firing(world, bundle))
    wanted = np.zeros(world.n_features, bool)
    wanted[[*chosen.by_size.values(), *chosen.random]] = True
    parts = [_rows_of(world, path, wanted) for path in sorted((bundle / "activations").iterdir())]
    feature, row, value = (np.concatenate([part[i] for part in parts]) for i in range(3))
    for f in np.flatnonzero(wanted).tolist():
        at = feature == f
        _write_neuron(partial_folder / "neuron_acts", f, row[at], value[at])
    _write_transposed(
        world, partial_folder, {f: _of(feature, row, value, f) for f in chosen.by_size.values()}
    )
    _write_batch(world, bundle, partial_folder)
    _write_metadata(world, partial_folder)
    (partial_folder / "chosen.json").write_text(chosen.model_dump_json(), encoding="utf-8")
    partial_folder.rename(folder)
    return chosen


def read_chosen(folder: Path) -> Chosen:
    """Which features the formats hold."""
    return Chosen.model_validate(json.loads((folder / "chosen.json").read_text(encoding="utf-8")))


def _rows_of(world: World, path: Path, wanted: NDArray[np.bool_] | None) -> tuple[NDArray[Any], ...]:
    """(feature, row, value) of one part, of the wanted features or all."""
    columns = pq.read_table(path)
    feature = columns["feature"].to_numpy()
    keep = slice(None) if wanted is None else wanted[feature]
    sample = columns["sample"].to_numpy()[keep].astype(np.int64)
    position = columns["position"].to_numpy()[keep]
    row = sample if world.kind == "set" else sample * DOCUMENT_TOKENS + position
    return feature[keep], row, columns["value"].to_numpy()[keep]


def _of(
    feature: NDArray[Any], row: NDArray[Any], value: NDArray[Any], f: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    return row[feature == f], value[feature == f]


def _write_neuron(folder: Path, feature: int, row: NDArray[Any], value: NDArray[Any]) -> None:
    out = folder / f"neuron_{feature:04d}"
    out.mkdir(parents=True)
    np.save(out / "acts.npy", value.astype(np.float32), allow_pickle=False)
    np.save(out / "idxs.npy", row.astype(np.int64), allow_pickle=False)


def _write_transposed(
    world: World, folder: Path, features: dict[int, tuple[NDArray[Any], NDArray[Any]]]
) -> None:
    array = zarr.create_array(
        str(folder / "transposed.zarr"),
        shape=(world.n_features, world.n_rows),
        chunks=(1, CHUNK_ROWS),
        dtype="float32",
        compressors=Blosc(cname="zstd", clevel=3, shuffle=Blosc.SHUFFLE),
        fill_value=0,
        zarr_format=2,
        config={"write_empty_chunks": True},  # as Zarr 2 did, with which the seed wrote
    )
    for feature, (row, value) in features.items():
        dense = np.zeros(world.n_rows, np.float32)
        dense[row] = value
        array[feature] = dense


def _write_batch(world: World, bundle: Path, folder: Path) -> None:
    """The first 100,000 rows, dense: one of the seed's batches."""
    n = min(BATCH_ROWS, world.n_rows)
    array = zarr.create_array(
        str(folder / "batch.zarr"),
        shape=(n, world.n_features),
        chunks=(min(BATCH_CHUNK, n), world.n_features),
        dtype="float32",
        compressors=Zstd(3),
        fill_value=0,
        zarr_format=2,
    )
    rows_per_part = world.samples_per_part * (1 if world.kind == "set" else DOCUMENT_TOKENS)
    parts = sorted((bundle / "activations").iterdir())[: -(-n // rows_per_part)]
    read = [_rows_of(world, path, None) for path in parts]
    feature, row, value = (np.concatenate([part[i] for part in read]) for i in range(3))
    for start in range(0, n, BATCH_CHUNK):
        stop = min(start + BATCH_CHUNK, n)
        at = slice(*np.searchsorted(row, [start, stop]))
        dense = np.zeros((stop - start, world.n_features), np.float32)
        dense[row[at] - start, feature[at]] = value[at]
        array[start:stop] = dense


def _write_metadata(world: World, folder: Path) -> None:
    """A row for each of ours: tokens as a list of i64, the primary group as an id and a string, the global index."""
    writer: Any = None
    first = 0
    for i in range(world.n_parts):
        part = samples_of_part(world, i)
        group, codes = next(iter(part.groups.items()))
        lengths = part.lengths
        if world.kind == "sequence":
            codes = np.repeat(codes, DOCUMENT_TOKENS)
            lengths = np.ones(len(codes), np.int64)
        n = len(codes)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        names = pa.array(value_names(group, int(codes.max()) + 1))
        table = pa.table(
            {
                "batch_id": np.full(n, i),
                "sample_id": np.arange(n),
                "ability_tokens": pa.ListArray.from_arrays(offsets, pa.array(part.tokens)),
                "weapon_id_token": codes + len(vocabulary(world)),
                "is_null_token": np.zeros(n, bool),
                "weapon_name": names.take(pa.array(codes)),
                "global_index": np.arange(first, first + n),
            }
        )
        writer = writer or pq.ParquetWriter(
            folder / "metadata.parquet", table.schema, compression="zstd", compression_level=3
        )
        writer.write_table(table)
        first += n
    writer.close()


class SeedReader:
    """The seed's reading code, rebuilt: each format to (int64 row ids, float32 activations) of one feature."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files_of_neuron(self, feature: int) -> list[Path]:
        """The two files of a feature."""
        return [
            self.folder / "neuron_acts" / f"neuron_{feature:04d}" / name for name in ("acts.npy", "idxs.npy")
        ]

    def files_of_transposed(self, feature: int) -> list[Path]:
        """The chunks of a feature, and the array's metadata."""
        folder = self.folder / "transposed.zarr"
        return [folder / ".zarray", *sorted(folder.glob(f"{feature}.*"))]

    def neuron(self, feature: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Both files, whole."""
        values, rows = (np.load(path, allow_pickle=False) for path in self.files_of_neuron(feature))
        return rows, values

    def open_transposed(self) -> Any:
        """The array, as zarr-python opens it."""
        return zarr.open_array(str(self.folder / "transposed.zarr"), mode="r")

    def transposed(self, array: Any, feature: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """A row of the transposed array, its non-zero entries."""
        dense = array[feature]
        rows = np.flatnonzero(dense != 0)
        return rows, dense[rows]

    def scan_batch(self, feature: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """A column of one batch, its non-zero entries."""
        dense = zarr.open_array(str(self.folder / "batch.zarr"), mode="r")[:, feature]
        rows = np.flatnonzero(dense != 0)
        return rows, dense[rows]

    def metadata(self) -> pl.DataFrame:
        """The metadata, which the seed holds in memory."""
        return pl.read_parquet(self.folder / "metadata.parquet")

    def join(
        self, metadata: pl.DataFrame, rows: NDArray[np.int64], values: NDArray[np.float32]
    ) -> pl.DataFrame:
        """Activations joined to the metadata: tokens and group of each row."""
        found = pl.DataFrame({"global_index": rows, "activation": values})
        return found.join(metadata, on="global_index", how="inner").select(
            "activation", "weapon_id_token", "ability_tokens"
        )
