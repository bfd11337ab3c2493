"""Which rows to show for a feature: spread over its range, from its core, near misses, silent ones.

All come from the `explain` split. Nothing here opens a store.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.firing import region_of
from saeinterp_mcp.analysis.sampling import one_per_unit
from saeinterp_mcp.store.layout import REGIONS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
PRIOR_ROWS = 1.0


def spread_over_quantiles(
    rows: Ints,
    values: NDArray[np.float32],
    row_unit: NDArray[np.integer],
    limit: int,
    generator: np.random.Generator,
) -> Ints:
    """Up to `limit` firing rows, one from each of `limit` equal slices of the sorted activations, strongest first.

    Inside a slice the row is drawn by `generator`; a unit already shown is avoided while the slice has another.
    """
    order = np.lexsort((rows, -values))
    edges = np.linspace(0, len(order), min(limit, len(order)) + 1).astype(np.int64)
    seen: set[int] = set()
    taken = []
    for start, stop in pairwise(edges):
        part = order[start:stop]
        part = part[generator.permutation(len(part))[:16]]
        fresh = [i for i in part.tolist() if int(row_unit[rows[i]]) not in seen]
        pick = (fresh or part.tolist())[0]
        seen.add(int(row_unit[rows[pick]]))
        taken.append(pick)
    return rows[np.array(sorted(taken, key=lambda i: (-values[i], rows[i])), np.int64)]


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
    core = rows[region_of(values, maximum) == REGIONS.index("core")]
    return one_per_unit(core[generator.permutation(len(core))], row_unit, limit)


def token_log_odds(n_firing: Floats, n: Floats | float, all_firing: Floats | float, all_n: float) -> Floats:
    """Shrunken log-odds that a row with the token fires, against all rows; the arguments broadcast.

    ln((k + a p) / (n - k + a (1 - p))) - ln(p / (1 - p)) with p the overall firing rate and a = 1 pseudo-row: an
    informative Dirichlet prior (Monroe et al. 2008, Fightin' Words, section 3.5), so nothing is infinite.
    """
    rate = np.clip(all_firing / all_n, 0.5 / all_n, 1 - 0.5 / all_n)
    odds = (n_firing + PRIOR_ROWS * rate) / (n - n_firing + PRIOR_ROWS * (1 - rate))
    return np.asarray(np.log(odds) - np.log(rate / (1 - rate)))
