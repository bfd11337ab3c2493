"""Which rows to show for a feature: spread over its range, from its core, near misses, silent ones.

All come from the `explain` split. Nothing here opens a store.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.sampling import one_per_unit
from saeinterp_mcp.store.layout import REGION_UPPER_EDGES, REGIONS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
PRIOR_ROWS = 1.0
INDEX_BITS = np.uint64(2**32 - 1)
CORE_EDGES = REGION_UPPER_EDGES[REGIONS.index("core") - 1 : REGIONS.index("core") + 1]


def spread_over_quantiles(
    rows: Ints,
    values: NDArray[np.float32],
    row_unit: NDArray[np.integer],
    limit: int,
    generator: np.random.Generator,
) -> Ints:
    """Up to `limit` firing rows, one from each of `limit` equal slices of the sorted activations, strongest first.

    `rows` ascend. Inside a slice the row is drawn by `generator`; a unit already shown is avoided while the slice has
    another.
    """
    ordered = _strongest_first(values)
    edges = np.linspace(0, len(ordered), min(limit, len(ordered)) + 1).astype(np.int64)
    seen: set[int] = set()
    taken = []
    for start, stop in pairwise(edges):
        part = ordered[start:stop]
        part = (part[generator.permutation(len(part))[:16]] & INDEX_BITS).astype(np.int64)
        fresh = [i for i in part.tolist() if int(row_unit[rows[i]]) not in seen]
        pick = (fresh or part.tolist())[0]
        seen.add(int(row_unit[rows[pick]]))
        taken.append(pick)
    return rows[np.array(sorted(taken, key=lambda i: (-values[i], rows[i])), np.int64)]


def _strongest_first(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """(n,) sorted by (-activation, index), the index in the low 32 bits of each."""
    # the bits of positive floats are ordered as they are, and one sort of integers is 15 times faster than lexsort
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    keys = (~bits).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(len(values), dtype=np.uint64)
    keys.sort()
    return keys


def from_core(
    rows: Ints,
    values: NDArray[np.float32],
    maximum: float,
    row_unit: NDArray[np.integer],
    limit: int,
    generator: np.random.Generator,
) -> Ints:
    """Up to `limit` rows drawn from the core region, at most one a unit; none when the region is unknown."""
    if not np.isfinite(maximum):
        return np.zeros(0, np.int64)
    shares = values.astype(np.float64) / maximum
    core = np.flatnonzero((shares > CORE_EDGES[0]) & (shares <= CORE_EDGES[1]))
    return one_per_unit(rows[core[generator.permutation(len(core))]], row_unit, limit)


def token_log_odds(n_firing: Floats, n: Floats | float, all_firing: Floats | float, all_n: float) -> Floats:
    """Shrunken log-odds that a row with the token fires, against all rows; the arguments broadcast.

    ln((k + a p) / (n - k + a (1 - p))) - ln(p / (1 - p)) with p the overall firing rate and a = 1 pseudo-row: an
    informative Dirichlet prior (Monroe et al. 2008, Fightin' Words, section 3.5), so nothing is infinite.
    """
    rate = np.clip(all_firing / all_n, 0.5 / all_n, 1 - 0.5 / all_n)
    odds = (n_firing + PRIOR_ROWS * rate) / (n - n_firing + PRIOR_ROWS * (1 - rate))
    return np.asarray(np.log(odds) - np.log(rate / (1 - rate)))
