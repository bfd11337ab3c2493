"""A backend in a folder: uncompressed Zarr v3 arrays read by our own positional reads, and Parquet tables.

zarr-python writes the arrays and can always read them; the hot path never goes through its indexing, because the
same bytes cost 0.04 ms by `preadv` and 2.5 ms that way. The two long arrays are sharded (2^24 entries a shard, 2^16
a chunk); their shard index is checked once to be contiguous. All others have plain chunks: a chunk file is the
bytes of its entries.
"""

import json
import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.store.base import AnyArray, Backend, Ints, Postings
from saeinterp_mcp.store.manifest import (
    Manifest,
    read_manifest,
)
from saeinterp_mcp.store.raw_arrays import INNER_CHUNK

if TYPE_CHECKING:
    import polars as pl

TABLES = "tables"
REBUILD = "Make the store again."
ADVISED = 4_096
"""Activations from which on a feature is announced before it is read."""
ADVISED_BYTES = 512 << 10
"""Announced at a time: kernels cut longer advice short."""
SCRATCH = 1 << 21
"""Activations of the largest feature whose rows are read into kept memory."""


class _Array(NamedTuple):
    """Where an array's bytes are: files of `rows_per_file` entries of `entry_bytes` each."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows_per_file: int
    files: tuple[Path, ...]
    entry_bytes: int
    """Bytes of one entry along the first axis."""


class ZarrBackend(Backend):
    """A published store folder; with `draft`, the folders of a store that the pipeline is still writing."""

    def __init__(self, path: Path, *others: Path, draft: Manifest | None = None) -> None:
        assert not others or draft is not None, "a published store is one folder"
        self.path = path
        self.folder = None if others or draft else path
        self._folders = (path, *others)
        self._manifest = draft or read_manifest(path)
        self._array = cache(self._open_array)
        self._descriptor = cache(lambda file: os.open(file, os.O_RDONLY))
        self._column = cache(self._read_column)
        self._mapped = cache(self._map_file)
        self._table = cache(self._read_table)
        self._rooms = threading.local()

    def manifest(self) -> Manifest:
        """What the store holds."""
        return self._manifest

    def has(self, name: str) -> bool:
        """Whether the store holds the array."""
        return self._folder_of(f"{name}/zarr.json") is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        return self._array(name).shape

    def span(self, name: str, start: int, stop: int) -> AnyArray:
        """Entries `start:stop`, by one positional read for each file touched."""
        array = self._array(name)
        out = np.empty((max(0, stop - start), *array.shape[1:]), dtype=array.dtype)
        if out.size:
            self._fill(array, start, stop, out.data.cast("B"))
        return out

    def postings(self, feature: int) -> Postings:
        """Where a feature fires. Both arrays are announced to the kernel before either is read."""
        if len(self._manifest.segments) > 1:
            return super().postings(feature)
        start, stop = (int(i) for i in self._column("features/indptr")[feature : feature + 2])
        n = stop - start
        if n >= ADVISED:
            self._advise(start, stop)
        rows, values = self._array("features/rows"), np.empty(n, np.float32)
        scratch = self._scratch(n)
        if n:
            self._fill(rows, start, stop, scratch.data.cast("B"))
            self._fill(self._array("features/values"), start, stop, values.data.cast("B"))
        return Postings(scratch.astype(np.int64), values)

    def prefetch(self, features: Sequence[int]) -> None:
        """Announce features that will be read soon, so that the disk works on all of them at once."""
        if len(self._manifest.segments) > 1:
            return
        indptr = self._column("features/indptr")
        for feature in sorted(features):
            self._advise(int(indptr[feature]), int(indptr[feature + 1]))

    def _advise(self, start: int, stop: int) -> None:
        if not hasattr(os, "posix_fadvise"):  # not on every system
            return
        for name in ("features/rows", "features/values"):
            array = self._array(name)
            for at in range(start * 4, stop * 4, ADVISED_BYTES):
                file, offset = divmod(at, array.rows_per_file * 4)
                length = min(ADVISED_BYTES, stop * 4 - at)
                os.posix_fadvise(self._descriptor(array.files[file]), offset, length, os.POSIX_FADV_WILLNEED)

    def _scratch(self, n: int) -> NDArray[np.uint32]:
        """Room for rows before they are widened, kept by thread: fresh memory costs more than the copy."""
        if n > SCRATCH:
            return np.empty(n, np.uint32)
        room = getattr(self._rooms, "room", None)
        if room is None or len(room) < n:
            room = self._rooms.room = np.empty(max(n, 1 << 16), np.uint32)
        return np.asarray(room[:n])

    def _fill(self, array: _Array, start: int, stop: int, view: memoryview) -> None:
        """Entries `start:stop` into `view`, file by file."""
        done = 0
        while start < stop:
            index, offset = divmod(start, array.rows_per_file)
            n = min(stop - start, array.rows_per_file - offset)
            size = n * array.entry_bytes
            self._read_into(array.files[index], offset * array.entry_bytes, view[done : done + size])
            start, done = start + n, done + size

    def _read_into(self, file: Path, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset`."""
        descriptor, size = self._descriptor(file), len(view)
        while view:
            got = os.preadv(descriptor, [view], offset)
            if not got:
                raise BadStore(file, f"{size} bytes at {offset}", f"{size - len(view)} bytes", REBUILD)
            view, offset = view[got:], offset + got

    def _read_file(self, file: Path) -> bytes:
        return file.read_bytes()

    def _size_of(self, file: Path) -> int:
        return file.stat().st_size

    def _map(self, file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> AnyArray:
        # as a plain array: indexing a memmap costs more than the read
        return np.asarray(np.memmap(file, dtype=dtype, mode="r", shape=shape))

    def column(self, name: str) -> AnyArray:
        """The whole array: memory-mapped when it lies in one plain file, else read."""
        return self._column(name)

    def gather(self, name: str, index: Ints) -> AnyArray:
        """Entries of an array, in the order of `index`; reads only what it needs, in however many files it lies."""
        array = self._array(name)
        if len(array.files) < 2 or len(array.shape) > 1:
            return super().gather(name, index)
        out = np.empty(len(index), array.dtype)
        file, offset = np.divmod(index, array.rows_per_file)
        for i in np.unique(file).tolist():
            here = file == i
            out[here] = self._mapped(name, i)[offset[here]]
        return out

    def table(self, name: str) -> "pl.DataFrame":
        """A table, kept after the first read."""
        return self._table(name)

    def _read_column(self, name: str) -> AnyArray:
        array = self._array(name)
        if 0 in array.shape:
            return np.empty(array.shape, dtype=array.dtype)
        if len(array.files) == 1:
            return self._map(array.files[0], array.dtype, array.shape)
        whole = self.span(name, 0, array.shape[0])
        whole.flags.writeable = False
        return whole

    def _map_file(self, name: str, file: int) -> AnyArray:
        array = self._array(name)
        n = min(array.rows_per_file, array.shape[0] - file * array.rows_per_file)
        return self._map(array.files[file], array.dtype, (n,))

    def _read_table(self, name: str) -> "pl.DataFrame":
        import polars as pl  # a tenth of a second that only some questions need

        path = (self._folder_of(f"{TABLES}/{name}.parquet") or self._folders[0]) / TABLES / f"{name}.parquet"
        try:
            return pl.read_parquet(self._read_file(path))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise BadStore(path, "a Parquet table", str(error).splitlines()[0], REBUILD) from error

    def _folder_of(self, file: str) -> Path | None:
        return next((folder for folder in self._folders if (folder / file).is_file()), None)

    def _open_array(self, name: str) -> _Array:
        path = (self._folder_of(f"{name}/zarr.json") or self._folders[0]) / name
        meta_path = path / "zarr.json"
        try:
            meta = json.loads(self._read_file(meta_path))
            shape = tuple(int(n) for n in meta["shape"])
            dtype = np.dtype(str(meta["data_type"])).newbyteorder("<")
            grid = tuple(int(n) for n in meta["chunk_grid"]["configuration"]["chunk_shape"])
            codec = meta["codecs"][0]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadStore(meta_path, "metadata of a Zarr v3 array", f"{error!r}", REBUILD) from error
        whole_rows = grid[1:] == tuple(max(1, n) for n in shape[1:])
        if not whole_rows or len(meta["codecs"]) != 1 or codec["name"] not in ("bytes", "sharding_indexed"):
            raise BadStore(
                meta_path, "uncompressed chunks of whole rows", f"codecs {meta['codecs']}", REBUILD
            )
        n_files = -(-shape[0] // grid[0]) if 0 not in shape else 0
        tail = ["0"] * (len(shape) - 1)
        files = tuple(path.joinpath("c", str(i), *tail) for i in range(n_files))
        if codec["name"] == "sharding_indexed":
            for i, file in enumerate(files):
                self._check_shard(file, min(grid[0], shape[0] - i * grid[0]), grid[0], dtype.itemsize)
        entry_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        return _Array(shape, dtype, grid[0], files, entry_bytes)

    def _check_shard(self, file: Path, n_entries: int, shard: int, itemsize: int) -> None:
        """Refuse a shard whose inner chunks do not lie one after the other from its first byte."""
        n_chunks = shard // INNER_CHUNK
        index = np.empty((n_chunks, 2), "<u8")
        self._read_into(file, self._size_of(file) - n_chunks * 16 - 4, index.data.cast("B"))
        used = -(-n_entries // INNER_CHUNK)
        size = INNER_CHUNK * itemsize
        expected = np.stack(
            [np.arange(used, dtype=np.uint64) * np.uint64(size), np.full(used, size, np.uint64)], 1
        )
        if not np.array_equal(index[:used], expected):
            raise BadStore(file, "inner chunks in order without gaps", "another order", REBUILD)
