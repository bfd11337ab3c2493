"""Sorts more activations than fit in memory, over worker processes, into two arrays of a store.

Two passes over disjoint parts. *Scatter*: each part of the input is read once and its entries (major, minor, value)
are written to a file, divided into ranges of majors. *Sort*: each range is gathered from all files, sorted, and
written at its final place. Ranges are cut so that one fits in the memory of a worker, and their places follow from
counting, so nobody waits for anybody and the result does not depend on how the input was divided. Each finished file
is kept under its own name; a run that was killed goes on with what is there.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipeline.parallel import run_tasks
from saeinterp_mcp.store.raw_arrays import write_span

Ints = NDArray[np.int64]
ENTRY = np.dtype([("major", "<u4"), ("minor", "<u4"), ("value", "<f4")])
BYTES_PER_ENTRY = 64
"""What sorting an entry takes at its peak."""
LARGEST_RANGE = 1 << 21
SMALLEST_RANGE = 1 << 12
RADIX = 1 << 16


class Entries(NamedTuple):
    """Some entries: three arrays of one length."""

    major: NDArray[Any]
    minor: NDArray[Any]
    value: NDArray[np.float32]


class Part(ABC):
    """A part of the input; picklable, and the same at each reading."""

    @abstractmethod
    def batches(self, dropped: dict[str, int]) -> Iterator[Entries]:
        """Its entries in batches that fit in memory; counts in `dropped`, by reason, what it leaves out."""


class Ranges(NamedTuple):
    """Ranges of majors, in blocks of 2^shift majors, that are sorted one at a time."""

    shift: int
    of_block: NDArray[np.uint32]
    """(blocks,) the first range of each block."""
    pieces: NDArray[np.uint32]
    """(blocks,) into how many ranges a block is cut, by its minors; above 1 only where it alone is too much."""
    n_minors: int
    first_block: Ints
    """(ranges + 1,) the first block of each range."""

    @property
    def n(self) -> int:
        """Number of ranges."""
        return len(self.first_block) - 1

    def of(self, entries: Entries) -> NDArray[np.uint32]:
        """The range of each entry."""
        block = entries.major >> np.uint32(self.shift)
        found = self.of_block[block]
        pieces = self.pieces[block]
        if (pieces > 1).any():
            found = found + (entries.minor.astype(np.uint64) * pieces // np.uint64(self.n_minors)).astype(
                np.uint32
            )
        return np.asarray(found, np.uint32)


def cut_ranges(counts: Ints, shift: int, n_minors: int, limit: int) -> Ranges:
    """Ranges of at most `limit` entries, as far as a block (cut by its minors, when 2^shift is 1) allows.

    Args:
        counts: (blocks,) about how many entries each block of 2^shift majors has.
        shift: a range holds at most 2^16 majors where this is above 0, so that they sort by radix.
        n_minors: minors are below it, spread evenly where a block has more than `limit`.
        limit: entries.
    """
    ends = np.cumsum(counts)
    most = RADIX >> shift if shift else len(counts)
    of_block = np.zeros(len(counts), np.uint32)
    pieces = np.ones(len(counts), np.uint32)
    first_block: list[int] = []
    block = 0
    while block < len(counts):
        before = int(ends[block - 1]) if block else 0
        stop = int(np.searchsorted(ends, before + limit, side="right"))
        stop = min(max(stop, block + 1), block + most, len(counts))
        of_block[block:stop] = len(first_block)
        n = 1
        if shift == 0 and stop == block + 1 and counts[block] > limit:
            n = min(-(-int(counts[block]) // limit), n_minors)
            pieces[block] = n
        first_block += [block] * n
        block = stop
    return Ranges(shift, of_block, pieces, n_minors, np.array([*first_block, len(counts)], np.int64))


class Spread(NamedTuple):
    """The file of one part, divided by range."""

    path: Path
    offsets: Ints
    """(batches, ranges + 1) entry in the file where each batch's ranges begin."""


class Scattered(NamedTuple):
    """What scattering left of one part."""

    spread: Spread
    counts: Ints
    """(blocks of 2^10 minors,) entries."""
    dropped: dict[str, int]


MINOR_SHIFT = 10


def scatter(ranges: Ranges, folder: Path, item: tuple[int, Part]) -> Scattered:
    """Write a part's entries by range; what is there is kept."""
    index, part = item
    path, marker = folder / f"part-{index:05d}.bin", folder / f"part-{index:05d}.npz"
    n_blocks = (ranges.n_minors >> MINOR_SHIFT) + 1
    if marker.is_file():
        with np.load(marker, allow_pickle=False) as kept:
            if path.is_file() and _file_crc(path) == int(kept["crc"]):
                spread = Spread(path, kept["offsets"])
                return Scattered(spread, kept["counts"], json.loads(str(kept["dropped"])))
    dropped: dict[str, int] = {}
    offsets, counts, at, crc = [], np.zeros(n_blocks, np.int64), 0, 0
    with path.open("wb") as file:
        for batch in part.batches(dropped):
            target = ranges.of(batch)
            order = np.argsort(target.astype(np.uint16) if ranges.n <= RADIX else target, kind="stable")
            entries = np.empty(len(order), ENTRY)
            for name, column in zip(("major", "minor", "value"), batch, strict=True):
                entries[name] = column[order]
            file.write(entries.data)
            crc = google_crc32c.extend(crc, entries.tobytes())
            counts += np.bincount(batch.minor >> np.uint32(MINOR_SHIFT), minlength=n_blocks)
            offsets.append(at + np.concatenate([[0], np.cumsum(np.bincount(target, minlength=ranges.n))]))
            at += len(order)
    table = np.array(offsets, np.int64).reshape(len(offsets), ranges.n + 1)
    partial_marker = marker.with_suffix(".tmp")
    with partial_marker.open("wb") as file:
        np.savez(file, offsets=table, counts=counts, dropped=json.dumps(dropped), crc=crc)
    partial_marker.rename(marker)
    return Scattered(Spread(path, table), counts, dropped)


def _file_crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = google_crc32c.extend(crc, block)
    return int(crc)


class Sorted(NamedTuple):
    """What sorting left of one range."""

    counts: Ints
    """(majors of the range's blocks,) entries."""
    twice: tuple[int, int] | None
    """A (major, minor) that is there more than once."""


class Target(NamedTuple):
    """Where the sorted entries go: two allocated arrays of a store, both of `n` entries."""

    minors: Path
    values: Path
    n: int


def sort_range(
    ranges: Ranges,
    scattered: Sequence[Spread],
    starts: Ints,
    target: Target,
    folder: Path,
    minors_ascend: bool,
    index: int,
) -> Sorted:
    """Gather a range, sort it and write it; one that is there already, with the right bytes, is kept."""
    first = int(ranges.first_block[index]) << ranges.shift
    last_block = max(int(ranges.first_block[index + 1]), int(ranges.first_block[index]) + 1)
    n_majors = (last_block << ranges.shift) - first
    marker = folder / f"range-{index:05d}.npz"
    entries = _gather(scattered, index)
    if marker.is_file():
        with np.load(marker, allow_pickle=False) as kept:
            if int(kept["crc"]) == _crc(target, int(starts[index]), len(entries)):
                return Sorted(kept["counts"], None)
    local = entries["major"] - np.uint32(first)
    order = _order(local, n_majors, entries["minor"], ranges.n_minors, minors_ascend)
    local, minor = local[order], np.ascontiguousarray(entries["minor"])[order]
    same = np.flatnonzero((local[1:] == local[:-1]) & (minor[1:] == minor[:-1]))
    if len(same):
        return Sorted(np.zeros(0, np.int64), (int(local[same[0]]) + first, int(minor[same[0]])))
    value = np.ascontiguousarray(entries["value"])[order]
    write_span(target.minors, target.n, int(starts[index]), minor)
    write_span(target.values, target.n, int(starts[index]), value)
    counts = np.bincount(local, minlength=n_majors)
    partial_marker = marker.with_suffix(".tmp")
    with partial_marker.open("wb") as file:
        np.savez(file, counts=counts, crc=_crc_of(minor, value))
    partial_marker.rename(marker)
    return Sorted(counts, None)


def _order(
    local: NDArray[np.uint32], n_majors: int, minor: NDArray[np.uint32], n_minors: int, minors_ascend: bool
) -> Ints:
    """What sorts by (major, minor)."""
    if minors_ascend and n_majors <= RADIX:
        return np.argsort(local.astype(np.uint16), kind="stable")
    index_bits, minor_bits = len(local).bit_length(), max(1, n_minors - 1).bit_length()
    key = local.astype(np.uint64) << np.uint64(minor_bits) | minor
    if max(1, n_majors - 1).bit_length() + minor_bits + index_bits > 64:
        return np.argsort(key)
    # numpy sorts 64-bit numbers eight times as fast as it finds their order, so the index travels with the key
    key = np.sort(key << np.uint64(index_bits) | np.arange(len(key), dtype=np.uint64))
    return (key & np.uint64((1 << index_bits) - 1)).astype(np.int64)


def _gather(scattered: Sequence[Spread], index: int) -> NDArray[Any]:
    pieces = []
    for part in scattered:
        with part.path.open("rb") as file:
            for batch in part.offsets:
                n = int(batch[index + 1] - batch[index])
                if n:
                    file.seek(int(batch[index]) * ENTRY.itemsize)
                    pieces.append(np.fromfile(file, ENTRY, n))
    return np.concatenate(pieces) if pieces else np.zeros(0, ENTRY)


def _crc(target: Target, start: int, n: int) -> int:
    from saeinterp_mcp.store.raw_arrays import read_span

    minor = read_span(target.minors, target.n, start, n, np.dtype("<u4"))
    value = read_span(target.values, target.n, start, n, np.dtype("<f4"))
    return _crc_of(minor, value)


def _crc_of(minor: NDArray[Any], value: NDArray[Any]) -> int:
    return int(google_crc32c.extend(google_crc32c.value(minor.tobytes()), value.tobytes()))


class Sorter:
    """Sorts parts by (major, minor) into two arrays; see the module.

    Args:
        folder: for its files.
        ranges: how majors are divided.
        workers: processes.
        progress: told (done, total), an entry counting once for each pass.
        minors_ascend: the parts, one after the other, come in ascending order of minors.
    """

    def __init__(
        self,
        folder: Path,
        ranges: Ranges,
        workers: int,
        progress: Callable[[int, int], None],
        minors_ascend: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        plan = folder / "plan.txt"
        told = str(google_crc32c.value(ranges.of_block.tobytes() + ranges.pieces.tobytes()))
        if not plan.is_file() or plan.read_text(encoding="ascii") != told:
            for path in folder.iterdir():  # of a run that was allowed another amount of memory
                path.unlink()
            plan.write_text(told, encoding="ascii")
        self._folder, self._ranges, self._workers = folder, ranges, workers
        self._progress, self._minors_ascend = progress, minors_ascend
        self._scattered: list[Scattered] = []

    def scatter(self, parts: Sequence[Part]) -> int:
        """The first pass; how many entries there are."""
        task = partial(scatter, self._ranges, self._folder)
        n_tasks = len(parts) + self._ranges.n
        self._scattered = list(
            run_tasks(
                task, list(enumerate(parts)), self._workers, lambda done, _: self._progress(done, n_tasks)
            )
        )
        return int(sum(part.spread.offsets[:, -1].max(initial=0) for part in self._scattered))

    @property
    def dropped(self) -> dict[str, int]:
        """What the parts left out, by reason."""
        total: dict[str, int] = {}
        for part in self._scattered:
            for reason, n in part.dropped.items():
                total[reason] = total.get(reason, 0) + n
        return total

    @property
    def minor_counts(self) -> Ints:
        """(blocks of 2^10 minors,) entries."""
        none = np.zeros((self._ranges.n_minors >> MINOR_SHIFT) + 1, np.int64)
        return sum((part.counts for part in self._scattered), none)

    def sort(self, target: Target, n_majors: int) -> tuple[Ints, tuple[int, int] | None]:
        """The second pass: (n_majors,) entries of each major, and a (major, minor) that is there twice, if any."""
        n_in_range = np.zeros(self._ranges.n, np.int64)
        for part in self._scattered:
            n_in_range += np.diff(part.spread.offsets, axis=1).sum(0)
        starts = np.concatenate([[0], np.cumsum(n_in_range)])
        spread = [part.spread for part in self._scattered]
        task = partial(sort_range, self._ranges, spread, starts, target, self._folder, self._minors_ascend)
        counts = np.zeros(n_majors, np.int64)
        n_parts = len(self._scattered)

        def advance(done: int, total: int) -> None:
            self._progress(n_parts + done, n_parts + total)

        for index, found in enumerate(run_tasks(task, range(self._ranges.n), self._workers, advance)):
            if found.twice is not None:
                return counts, found.twice
            first = int(self._ranges.first_block[index]) << self._ranges.shift
            here = counts[first : first + len(found.counts)]
            here += found.counts[: len(here)]
        return counts, None
