"""Bytes of arrays on disk, as Zarr v3 lays them out without compression: written at a place or one after another.

The metadata is zarr-python's; the bytes are ours, because several processes write one array, each its own span, and
because the length of some arrays is known only at their end. A sharded array is files of `SHARD` entries (one
shorter file, if that is all) with an index of the inner chunks at the end of each.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARD = 2**24
INNER_CHUNK = 2**16


def shard_rows(n: int) -> int:
    """Entries of a shard of an array of `n`."""
    return -(-max(1, min(n, SHARD)) // INNER_CHUNK) * INNER_CHUNK


def allocate_shards(folder: Path, n: int, fill: NDArray[Any]) -> None:
    """Make the shard files of a sharded array in full length, with their indexes; what is there is kept.

    Args:
        folder: of the array.
        n: entries.
        fill: one entry, the fill value, that pads the last inner chunk.
    """
    rows = shard_rows(n)
    for i, start in enumerate(range(0, n, rows)):
        path = folder / "c" / str(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        used = min(rows, n - start)
        chunks = -(-used // INNER_CHUNK)
        index = _shard_index(chunks, rows // INNER_CHUNK, INNER_CHUNK * fill.itemsize)
        size = chunks * INNER_CHUNK * fill.itemsize
        if path.is_file() and path.stat().st_size == size + len(index):
            continue
        with path.open("wb") as file:
            file.truncate(size)
            file.seek(used * fill.itemsize)
            file.write(np.repeat(fill, chunks * INNER_CHUNK - used).tobytes())
            file.seek(size)
            file.write(index)


def _shard_index(used: int, chunks: int, chunk_bytes: int) -> bytes:
    import google_crc32c

    index = np.full((chunks, 2), 2**64 - 1, "<u8")
    index[:used, 0] = np.arange(used, dtype=np.uint64) * np.uint64(chunk_bytes)
    index[:used, 1] = chunk_bytes
    content = index.tobytes()
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


def write_span(folder: Path, n: int, start: int, block: NDArray[Any]) -> None:
    """Write `block` at entry `start` of an allocated sharded array of `n` entries; any process, any order."""
    rows = shard_rows(n)
    data = np.ascontiguousarray(block)
    done = 0
    while done < len(data):
        shard, offset = divmod(start + done, rows)
        part = data[done : done + rows - offset]
        descriptor = os.open(folder / "c" / str(shard), os.O_WRONLY)
        try:
            _write_all(descriptor, part.data.cast("B"), offset * data.itemsize)
        finally:
            os.close(descriptor)
        done += len(part)


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class GrowingFile:
    """The one chunk file of a plain array whose length is not known yet."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self._dtype = path, dtype
        self.n = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")

    def add(self, block: NDArray[Any]) -> None:
        """Append entries."""
        data = np.ascontiguousarray(block, self._dtype)
        self._file.write(data.data.cast("B") if data.size else b"")
        self.n += len(data)

    def close(self) -> None:
        """No more entries."""
        self._file.close()


def read_span(folder: Path, n: int, start: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Entries `start : start + count` of an allocated sharded array of `n` entries."""
    rows = shard_rows(n)
    pieces, done = [], 0
    while done < count:
        shard, offset = divmod(start + done, rows)
        size = min(count - done, rows - offset)
        pieces.append(np.fromfile(folder / "c" / str(shard), dtype, size, offset=offset * dtype.itemsize))
        done += size
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype)
