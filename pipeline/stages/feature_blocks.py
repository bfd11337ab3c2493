"""Blocks of features over worker processes, joined again for writing."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.parallel import one_thread_each, run_tasks

Block = dict[str, NDArray[Any]]
"""Name to array, whose first axis is the feature."""
WRITTEN = 4096
"""Features written at a time: a chunk of an array is written anew with every part of it."""


def joined_blocks(
    task: Callable[[int], Block],
    n_features: int,
    size: int,
    workers: int,
    progress: Callable[[int, int], None],
    at_a_time: int = WRITTEN,
) -> Iterator[tuple[int, Block]]:
    """Run `task(first)` for the features first .. first + size - 1 of each block, and yield what it returns in order.

    Yields (first, arrays) of some thousand features (`at_a_time`), so that a writer seldom writes and holds little.
    """
    starts = range(0, n_features, size)
    waiting, written = list[Block](), 0
    with one_thread_each():
        for start, block in zip(starts, run_tasks(task, starts, workers), strict=True):
            waiting.append(block)
            done = min(start + size, n_features)
            if done - written >= at_a_time or done == n_features:
                yield written, {name: np.concatenate([one[name] for one in waiting]) for name in block}
                waiting, written = [], done
            progress(done, n_features)
