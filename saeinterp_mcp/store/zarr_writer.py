"""Writes a store folder: arrays through zarr-python or as raw bytes beside its metadata, tables, the manifest last."""

import os
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.base import AnyArray, Growing, StoreWriter
from saeinterp_mcp.store.layout import NO_INDEX, spec_of
from saeinterp_mcp.store.manifest import FORMAT, FORMAT_VERSION, Manifest, list_files, write_manifest
from saeinterp_mcp.store.raw_arrays import INNER_CHUNK, SHARD, GrowingFile, allocate_shards, shard_rows
from saeinterp_mcp.store.zarr_store import TABLES

if TYPE_CHECKING:
    import polars as pl

SHARDED = ("features/rows", "features/values", "rows/features", "rows/values")
"""The long arrays; those of later segments too."""


def _fill_value(dtype: np.dtype[Any]) -> Any:
    """A value no chunk consists of: zarr drops chunks equal to the fill value."""
    if dtype.kind == "f":
        return float("nan")
    return {"u1": 255, "u2": 65535, "u4": NO_INDEX, "i8": -(2**63)}[dtype.str[1:]]


class ZarrWriter(StoreWriter):
    """Writes a store folder; what it holds before `publish` is not a store and is refused."""

    def __init__(self, path: Path) -> None:
        import zarr

        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._root = zarr.open_group(str(path), mode="a", zarr_format=3)
        self._root.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION})
        self._arrays: dict[str, Any] = {}

    def create(self, name: str, shape: Sequence[int], dtype: str, one_chunk: bool = False) -> None:
        """Announce an array; an earlier one of that name is replaced."""
        spec = spec_of(name)
        if dtype not in spec.dtype.split("|"):
            raise AssertionError(f"{name} is {dtype}, the layout says {spec.dtype}")
        kind = np.dtype("<" + dtype)
        sharded = _is_sharded(name)
        row_bytes = kind.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        rows = max(1, min(int(shape[0]), SHARD if len(shape) == 1 else SHARD * 4 // max(1, row_bytes)))
        if one_chunk:
            rows = max(1, int(shape[0]))
        elif sharded:
            rows = shard_rows(int(shape[0]))
        chunk = (rows, *(max(1, int(n)) for n in shape[1:]))
        self._arrays[name] = self._root.create_array(
            name,
            shape=tuple(int(n) for n in shape),
            dtype=kind,
            chunks=(INNER_CHUNK,) if sharded else chunk,
            shards=chunk if sharded else None,
            compressors=None,
            filters=None,
            fill_value=_fill_value(kind),
            overwrite=True,
            config={"write_empty_chunks": True},
        )

    def write(self, name: str, start: int, block: AnyArray) -> None:
        """Write a block; blocks of the long arrays must begin at a multiple of the shard size."""
        if len(block) == 0 or block.size == 0:
            return
        self._arrays[name][start : start + len(block)] = block

    def allocate(self, name: str, n: int, dtype: str) -> None:
        """Create a sharded array to be filled by `raw_arrays.write_span`; what is there already is kept."""
        try:
            kept = self._root[name].shape == (n,)
        except KeyError:
            kept = False
        if not kept:
            self.create(name, (n,), dtype)
        kind = np.dtype("<" + dtype)
        allocate_shards(self.path / name, n, np.array([_fill_value(kind)], kind))

    def grow(self, name: str, dtype: str) -> "GrowingArray":
        """Begin a one-dimensional array whose length is known when it is closed."""
        return GrowingArray(self, name, dtype)

    def table(self, name: str, frame: "pl.DataFrame") -> None:
        """Write a Parquet table (zstd)."""
        folder = self.path / TABLES
        folder.mkdir(exist_ok=True)
        frame.write_parquet(folder / f"{name}.parquet", compression="zstd", statistics=False)

    def grow_table(self, name: str) -> "GrowingTable":
        """Begin a table that comes in parts."""
        return GrowingTable(self.path / TABLES / f"{name}.parquet")

    def publish(self, manifest: Manifest) -> Manifest:
        """Hash every file, flush to disk, write the manifest last."""
        complete = manifest.model_copy(update={"files": list_files(self.path)})
        # together, so that the disk's journal is written once and not for every file
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(_flush, (self.path / name for name in complete.files)))
        write_manifest(self.path, complete)
        return complete


class GrowingArray(Growing):
    """A plain array, one chunk, written as it comes."""

    def __init__(self, writer: ZarrWriter, name: str, dtype: str) -> None:
        self._writer, self._name, self._dtype = writer, name, dtype
        path = writer.path / (name.replace("/", ".") + ".growing")
        self._file = GrowingFile(path, np.dtype("<" + dtype))

    def add(self, block: AnyArray) -> None:
        """Append entries."""
        self._file.add(block)

    def close(self) -> None:
        """Give the array its length and its place."""
        self._file.close()
        self._writer.create(self._name, (self._file.n,), self._dtype, one_chunk=True)
        if self._file.n:
            place = self._writer.path / self._name / "c" / "0"
            place.parent.mkdir(exist_ok=True)
            self._file.path.rename(place)
        else:
            self._file.path.unlink()


class GrowingTable(Growing):
    """A Parquet table (zstd) written by row groups."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._path = path
        self._writer: Any = None

    def add(self, block: "pl.DataFrame") -> None:
        """Append rows."""
        import pyarrow.parquet as pq

        table = block.to_arrow()
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path, table.schema, compression="zstd", write_statistics=False
            )
        self._writer.write_table(table)

    def close(self) -> None:
        """No more rows."""
        assert self._writer is not None, "a table has at least one part, be it empty"
        self._writer.close()


def _is_sharded(name: str) -> bool:
    return "/".join(name.split("/")[-2:]) in SHARDED


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def new_store_folder(out: Path) -> Path:
    """A temporary folder beside `out`, to be renamed to it when it is whole.

    Raises:
        BadInput: `out` exists.
    """
    if out.exists():
        raise BadInput(f"{out} exists; a store is never written over. Name another folder or remove it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent / f"{out.name}.tmp-{uuid.uuid4().hex[:8]}"


def move_into_place(folder: Path, out: Path) -> None:
    """Rename a finished folder to its final name and flush the parent.

    Raises:
        BadInput: `out` has come into being meanwhile; the finished folder is removed.
    """
    try:
        folder.rename(out)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise BadInput(f"{out} exists; a store is never written over ({error.strerror}).") from error
    descriptor = os.open(out.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
