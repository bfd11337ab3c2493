"""Ranges of indices, one after the other: how compressed rows are gathered."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def expand_ranges(starts: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.int64]:
    """The indices start .. start + count - 1 of each range, one range after the other."""
    counts = np.asarray(counts, dtype=np.int64)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    shift = np.asarray(starts, dtype=np.int64) - (ends - counts)
    return np.asarray(np.arange(total, dtype=np.int64) + np.repeat(shift, counts))
