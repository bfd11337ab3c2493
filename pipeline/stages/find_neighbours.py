"""Features that fire on the same rows, and features of like decoder direction, each beside random pairs."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from saeinterp_mcp.analysis.sampling import random_pairs
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import N_RANDOM_QUANTILES, NEIGHBOURS, NO_INDEX
from saeinterp_mcp.store.zarr_store import ZarrWriter

BLOCK = 1024


def find_neighbours(
    store: Store,
    writer: ZarrWriter,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `neighbours/coactivation/*`, and `neighbours/decoder/*` where the store has a decoder."""
    _write(writer, "coactivation", store.manifest.n_features, _phi(store), seed, progress)
    if store.backend.has("weights/decoder"):
        decoder = store.backend.column("weights/decoder").astype(np.float64)
        lengths = np.linalg.norm(decoder, axis=1, keepdims=True)
        unit = np.divide(decoder, lengths, out=np.zeros_like(decoder), where=lengths > 0)
        _write(writer, "decoder", len(unit), lambda first, stop: unit[first:stop] @ unit.T, seed, progress)


def _phi(store: Store) -> Callable[[int, int], NDArray[np.float64]]:
    """Phi (Pearson correlation of firing as 0 and 1) over `explain` rows; 0 for a feature that never fires."""
    n = store.n_rows("explain")
    stop = int(store.backend.column("rows/indptr")[n])
    by_row = sparse.csr_array(
        (
            np.ones(stop, np.int32),
            store.backend.span("rows/features", 0, stop).astype(np.int32),
            store.backend.span("rows/indptr", 0, n + 1),
        ),
        shape=(n, store.manifest.n_features),
    )
    by_feature = by_row.T.tocsr()
    fires = np.diff(by_feature.indptr).astype(np.float64)
    spread = np.sqrt(fires * (n - fires))

    def block(first: int, stop: int) -> NDArray[np.float64]:
        both = (by_feature[first:stop] @ by_row).toarray().astype(np.float64)
        scale = np.outer(spread[first:stop], spread)
        covered = n * both - np.outer(fires[first:stop], fires)
        return np.asarray(np.divide(covered, scale, out=np.zeros_like(both), where=scale > 0))

    return block


def _write(
    writer: ZarrWriter,
    by: str,
    n_features: int,
    scores_of: Callable[[int, int], NDArray[np.float64]],
    seed: int,
    progress: Callable[[int, int], None],
) -> None:
    features = np.full((n_features, NEIGHBOURS), NO_INDEX, np.uint32)
    scores = np.full((n_features, NEIGHBOURS), np.nan, np.float32)
    first_of_pair, second_of_pair = random_pairs(n_features, seed, by)
    random = np.zeros(len(first_of_pair))
    k = min(NEIGHBOURS, n_features - 1)
    for first in range(0, n_features, BLOCK):
        stop = min(first + BLOCK, n_features)
        block = scores_of(first, stop)
        pairs = slice(*np.searchsorted(first_of_pair, [first, stop]))
        random[pairs] = block[first_of_pair[pairs] - first, second_of_pair[pairs]]
        block[np.arange(stop - first), np.arange(first, stop)] = -np.inf
        # rounded before ranking, so that a last bit never decides an order
        block = np.round(block, 9)
        best = np.argpartition(-block, k - 1, axis=1)[:, :k] if k else np.zeros((stop - first, 0), np.int64)
        value = np.take_along_axis(block, best, axis=1)
        order = np.lexsort((best, -value), axis=1)
        features[first:stop, :k] = np.take_along_axis(best, order, axis=1)
        scores[first:stop, :k] = np.take_along_axis(value, order, axis=1)
        progress(stop, n_features)
    writer.put(f"neighbours/{by}/features", features)
    writer.put(f"neighbours/{by}/scores", scores)
    quantiles = (
        np.quantile(random, np.linspace(0, 1, N_RANDOM_QUANTILES))
        if n_features > 1
        else np.zeros(N_RANDOM_QUANTILES)
    )
    writer.put(f"neighbours/{by}/random", quantiles.astype(np.float32))
