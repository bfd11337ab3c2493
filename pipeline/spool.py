"""Sorts more activations than fit in memory: spread over files by key range, then sorted one file at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ENTRY = np.dtype([("major", "<u4"), ("minor", "<u4"), ("value", "<f4")])
SORT_BYTES_PER_ENTRY = 48


class Spool:
    """Entries (major, minor, value), to be read back in order of (major, minor).

    Args:
        folder: for the files; made when needed.
        n_entries: about how many entries will come.
        n_majors: majors are 0 to n_majors - 1.
        memory: bytes that sorting one file may take.
    """

    def __init__(self, folder: Path, n_entries: int, n_majors: int, memory: int) -> None:
        n_files = max(1, -(-n_entries * SORT_BYTES_PER_ENTRY // memory))
        self._width = -(-n_majors // n_files) or 1
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / f"{i}.bin" for i in range(n_files)]
        for path in self._paths:
            path.unlink(missing_ok=True)

    def add(self, major: NDArray[np.int64], minor: NDArray[np.int64], value: NDArray[np.float32]) -> None:
        """Add entries in any order."""
        entries = np.empty(len(major), ENTRY)
        entries["major"], entries["minor"], entries["value"] = major, minor, value
        target = major // self._width
        if len(self._paths) > 1:
            order = np.argsort(target, kind="stable")
            entries, target = entries[order], target[order]
        for i in np.unique(target):
            start, stop = np.searchsorted(target, [i, i + 1])
            with self._paths[int(i)].open("ab") as file:
                file.write(entries[start:stop].tobytes())

    def sorted_parts(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]]:
        """(major, minor, value) of each file in order; the files are removed as they are read."""
        for path in self._paths:
            if not path.exists():
                continue
            entries = np.fromfile(path, ENTRY)
            key = entries["major"].astype(np.uint64) << np.uint64(32) | entries["minor"]
            order = np.argsort(key, kind="stable")
            yield entries["major"][order], entries["minor"][order], entries["value"][order]
            path.unlink()
