"""How things are timed: contenders taken by turns, medians, warm and cold, and the machine's own bounds beside them."""

import gc
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROUNDS = 15
CALLS = 3
"""Timed calls of each contender in a round, after one that is not timed and brings its data back into the caches."""
READ_BYTES = 1 << 22


def warm(contenders: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median milliseconds of each contender; they take turns, so that a slow minute of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    for _ in range(rounds):
        for name, call in contenders.items():
            call()
            for _ in range(CALLS):
                times[name].append(_milliseconds(call))
    return {name: median(values) for name, values in times.items()}


class Cold:
    """A contender for `cold`: what it reads, and how it is made ready anew each time."""

    def __init__(self, files: Sequence[Path], prepare: Callable[[], Callable[[], Any]]) -> None:
        self.files = files
        self.prepare = prepare
        """Opens what may be open before the clock starts, and returns the call that is timed."""


def cold(contenders: Mapping[str, Cold], rounds: int = ROUNDS) -> dict[str, float]:
    """Median milliseconds of each contender with its files out of the page cache and newly opened.

    The hypervisor's cache, inodes and directory entries stay warm, which flatters formats of many files.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            before = _open_files()
            call = contender.prepare()
            drop_from_cache(contender.files)
            times[name].append(_milliseconds(call))
            del call
            _close_new(before, contender.files)
    return {name: median(values) for name, values in times.items()}


def _milliseconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter_ns()
    result = call()
    elapsed = (time.perf_counter_ns() - started) / 1e6
    del result
    return elapsed


def drop_from_cache(files: Iterable[Path]) -> None:
    """Write files to disk and take them out of the page cache (mapped pages stay)."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _open_files() -> dict[int, str]:
    """This process's descriptors and what they are of, without the listing's own, which is closed again."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


def _close_new(before: dict[int, str], files: Sequence[Path]) -> None:
    """Close what a contender left open: a store keeps its descriptors for as long as the process lives."""
    gc.collect()
    names = {str(file) for file in files}
    for number, target in _open_files().items():
        if target in names and number not in before:
            os.close(number)


def memcpy(n_bytes: int) -> Callable[[], Any]:
    """A copy of so many bytes between buffers that are already there: the bound of a warm read."""
    source, target = np.ones(n_bytes, np.uint8), np.ones(n_bytes, np.uint8)
    return lambda: np.copyto(target, source)


def sequential_bandwidth(files: Sequence[Path], rounds: int = ROUNDS) -> float:
    """Bytes a second of a cold read from beginning to end, the median over rounds: the bound of a cold read."""
    buffer = bytearray(READ_BYTES)

    def read() -> int:
        total = 0
        for file in files:
            with file.open("rb", buffering=0) as handle:
                while n := handle.readinto(buffer):
                    total += n
        return total

    rates = []
    for _ in range(rounds):
        drop_from_cache(files)
        started = time.perf_counter()
        n = read()
        rates.append(n / (time.perf_counter() - started))
    return median(rates)
