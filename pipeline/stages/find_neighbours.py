"""Features that fire on the same rows, and features of like decoder direction, each beside random pairs."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pipeline.config import Execution
from pipeline.stages.feature_blocks import Block, joined_blocks
from pipeline.stages.store_config import open_draft
from saeinterp_mcp.analysis.sampling import random_pairs
from saeinterp_mcp.store.base import Store, segment_prefix
from saeinterp_mcp.store.layout import N_RANDOM_QUANTILES, NEIGHBOURS, NO_INDEX
from saeinterp_mcp.store.zarr_writer import ZarrWriter

Floats = NDArray[np.float64]
BLOCK = 64
"""Features of a task; four times as many of decoder directions, which all others are read for."""
PHI_CELLS, COSINE_CELLS = 2**20, 2**22
"""Scores held at a time."""
READ = 2**20
"""Numbers of decoder directions read at a time."""
PIECE = 2**30
"""Activations of one matrix: under 2^31, so that its index is of 32 bits."""
COPIED = 2**21
"""Activations copied at a time."""
GATHERED = 2**19
"""Activations gathered at a time; what the processor's cache holds."""
DIGITS = 9
"""Scores are rounded before ranking, so that a last bit never decides an order."""
SLACK = 2e-9
"""More than rounding moves a score."""
SCRATCH = "scratch"


def find_neighbours(
    folders: Sequence[Path],
    out: Path,
    seed: int,
    execution: Execution,
    progress: Callable[[int, int], None] = lambda done, total: None,
    block: int = BLOCK,
    piece: int = PIECE,
) -> None:
    """Write `neighbours/coactivation/*`, and `neighbours/decoder/*` where the store has a decoder.

    Args:
        folders: what `open_draft` takes: the postings and the outputs.
        out: the folder to write into.
        seed: of the random pairs.
        execution: how many workers.
        progress: called with features done and their number, both ways of being near added up.
        block: features of a task; the result does not depend on it, nor on the next.
        piece: activations of one matrix.
    """
    store, writer = open_draft(*folders), ZarrWriter(out)
    scratch = out / SCRATCH
    _write_rows(store, scratch, piece)
    tasks = [_Task(tuple(folders), scratch, "coactivation", seed, block)]
    if store.backend.has("weights/decoder"):
        tasks.append(_Task(tuple(folders), scratch, "decoder", seed, 4 * block))
    for i, task in enumerate(tasks):
        _write(writer, task, store.manifest.n_features, execution.workers, _part_of(progress, i, len(tasks)))
    shutil.rmtree(scratch)


def _part_of(progress: Callable[[int, int], None], part: int, parts: int) -> Callable[[int, int], None]:
    return lambda done, total: progress(part * total + done, parts * total)


class _Task(NamedTuple):
    """What all tasks of one way of being near have in common."""

    folders: tuple[Path, ...]
    scratch: Path
    by: str
    seed: int
    block: int


def _write(
    writer: ZarrWriter, task: _Task, n_features: int, workers: int, progress: Callable[[int, int], None]
) -> None:
    by = task.by
    writer.create(f"neighbours/{by}/features", (n_features, NEIGHBOURS), "u4")
    writer.create(f"neighbours/{by}/scores", (n_features, NEIGHBOURS), "f4")
    random = []
    for first, arrays in joined_blocks(partial(_find, task), n_features, task.block, workers, progress):
        writer.write(f"neighbours/{by}/features", first, arrays["features"])
        writer.write(f"neighbours/{by}/scores", first, arrays["scores"])
        random.append(arrays["random"])
    quantiles = (
        np.quantile(np.concatenate(random), np.linspace(0, 1, N_RANDOM_QUANTILES))
        if n_features > 1
        else np.zeros(N_RANDOM_QUANTILES)
    )
    writer.put(f"neighbours/{by}/random", quantiles.astype(np.float32))


def _find(task: _Task, first: int) -> Block:
    store = open_draft(*task.folders)
    n = store.manifest.n_features
    measure = _Cosine(store) if task.by == "decoder" else _Phi(store, task.scratch)
    stop = min(first + task.block, n)
    step = max(1, measure.cells // n)
    parts = [
        _nearest(measure.scores, n, start, min(start + step, stop), task)
        for start in range(first, stop, step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _nearest(
    scores_of: Callable[[int, int], Floats], n_features: int, first: int, stop: int, task: _Task
) -> Block:
    scores = scores_of(first, stop)
    first_of_pair, second_of_pair = random_pairs(n_features, task.seed, task.by)
    pairs = slice(*np.searchsorted(first_of_pair, [first, stop]))
    random = scores[first_of_pair[pairs] - first, second_of_pair[pairs]]
    scores[np.arange(stop - first), np.arange(first, stop)] = -np.inf
    features = np.full((stop - first, NEIGHBOURS), NO_INDEX, np.uint32)
    values = np.full((stop - first, NEIGHBOURS), np.nan, np.float32)
    k = min(NEIGHBOURS, n_features - 1)
    for i, (row, floor) in enumerate(zip(scores, _floors(scores, k), strict=True)):
        features[i, :k], values[i, :k] = _largest(row, floor, k)
    return {"features": features, "scores": values, "random": random}


def _floors(scores: Floats, k: int) -> Floats:
    """For each row a score that at least k reach, close to the k-th largest: that of the maxima of many groups."""
    groups = 4 * NEIGHBOURS
    width = scores.shape[1] // groups
    if width < 2 or not k:
        return np.full(len(scores), -np.inf)
    maxima = scores[:, : groups * width].reshape(len(scores), width, groups).max(axis=1)
    return np.asarray(np.partition(maxima, groups - k, axis=1)[:, groups - k])


def _largest(scores: Floats, floor: float, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The k largest of rounded scores and where they are, by (-score, index)."""
    at = np.flatnonzero(scores >= floor - SLACK)
    value = np.round(scores[at], DIGITS)
    if 0 < k < len(at):
        cut = np.partition(value, len(value) - k)[len(value) - k]
        above = np.flatnonzero(value > cut)
        chosen = np.concatenate([above, np.flatnonzero(value == cut)[: k - len(above)]])
        at, value = at[chosen], value[chosen]
    order = np.lexsort((at, -value))[:k]
    return at[order], value[order]


class _Phi:
    """Phi (Pearson correlation of firing as 0 and 1) over `explain` rows; 0 for a feature that never fires."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self.cells = PHI_CELLS
        self._store, self._n = store, store.n_rows("explain")
        # counts are sums of whole numbers: no order of them changes a result
        self._fires = np.load(scratch / "fires.npy", allow_pickle=False)
        self._spread = np.sqrt(self._fires * (self._n - self._fires))
        self._pieces = _read_rows(scratch, store.manifest.n_features)

    def scores(self, first: int, stop: int) -> Floats:
        """(stop - first, F) phi of some features with all."""
        both = np.stack([self._both(feature) for feature in range(first, stop)]).astype(np.float64)
        scale = np.outer(self._spread[first:stop], self._spread)
        both *= self._n
        both -= np.outer(self._fires[first:stop], self._fires)
        return np.divide(both, scale, out=np.zeros_like(both), where=scale > 0)

    def _both(self, feature: int) -> NDArray[np.int64]:
        """(F,) rows where both fire."""
        rows = self._store.activations(feature, "explain").rows
        n_features = self._store.manifest.n_features
        both = np.zeros(n_features, np.int64)
        for start, matrix in self._pieces:
            inside = slice(*np.searchsorted(rows, [start, start + matrix.shape[0]]))
            local = (rows[inside] - start).astype(np.int32)
            step = max(1, GATHERED * matrix.shape[0] // max(1, matrix.nnz))
            for at in range(0, len(local), step):
                both += np.bincount(matrix[local[at : at + step]].indices, minlength=n_features)
        return both


class _Cosine:
    """Cosine of decoder directions; 0 for a direction of length 0."""

    def __init__(self, store: Store) -> None:
        self.cells = COSINE_CELLS
        self._backend = store.backend
        self._n, self._width = store.backend.shape("weights/decoder")

    def scores(self, first: int, stop: int) -> Floats:
        """(stop - first, F) cosine of some directions with all."""
        mine = self._unit(first, stop)
        step = max(1, READ // max(1, self._width))
        scores = np.empty((stop - first, self._n))
        for start in range(0, self._n, step):
            end = min(start + step, self._n)
            scores[:, start:end] = mine @ self._unit(start, end).T
        return scores

    def _unit(self, start: int, stop: int) -> Floats:
        decoder = self._backend.span("weights/decoder", start, stop).astype(np.float64)
        lengths = np.linalg.norm(decoder, axis=1, keepdims=True)
        return np.asarray(np.divide(decoder, lengths, out=np.zeros_like(decoder), where=lengths > 0))


def _write_rows(store: Store, scratch: Path, size: int) -> None:
    """Files that workers map: the features firing at each `explain` row, and how often each fires.

    The store's own are in shards and of 64 bits, which no sparse matrix can be laid over.
    """
    scratch.mkdir()
    n = store.n_rows("explain")
    indptr = _offsets(store, n)
    fires = np.zeros(store.manifest.n_features)
    row = piece = 0
    while row < n:
        stop = _last_within(indptr, row, size)
        begin, end = int(indptr[row]), int(indptr[stop])
        np.save(scratch / f"indptr-{piece}.npy", (indptr[row : stop + 1] - begin).astype(np.int32))
        features = np.lib.format.open_memmap(
            scratch / f"features-{piece}.npy", mode="w+", dtype=np.int32, shape=(end - begin,)
        )
        while row < stop:
            upto = min(_last_within(indptr, row, COPIED), stop)
            part = _features_of(store, indptr, row, upto)
            features[int(indptr[row]) - begin : int(indptr[upto]) - begin] = part
            fires += np.bincount(part, minlength=len(fires))
            row = upto
        features.flush()
        piece += 1
    np.save(scratch / "fires.npy", fires)


def _offsets(store: Store, n: int) -> NDArray[np.int64]:
    """(n+1,) where the activations of each of the first rows begin, all segments counted."""
    segments = len(store.manifest.segments)
    if segments == 1:
        return store.backend.column("rows/indptr")[: n + 1]
    counts = np.zeros(store.manifest.n_rows, np.int64)
    for k in range(segments):
        here = np.diff(store.backend.column(f"{segment_prefix(k)}rows/indptr"))
        counts[store.backend.column(f"segments/{k}/store_row")] = here
    return np.concatenate([[0], np.cumsum(counts[:n])])


def _last_within(indptr: NDArray[np.int64], row: int, size: int) -> int:
    """The row after the last one whose activations, from `row` on, are at most `size`; at least one row."""
    return max(row + 1, int(np.searchsorted(indptr, indptr[row] + size, side="right")) - 1)


def _features_of(store: Store, indptr: NDArray[np.int64], row: int, stop: int) -> NDArray[Any]:
    """Features firing at some rows, row by row."""
    if len(store.manifest.segments) == 1:
        return store.backend.span("rows/features", int(indptr[row]), int(indptr[stop]))
    return store.firing_at(np.arange(row, stop))[1]


def _read_rows(scratch: Path, n_features: int) -> list[tuple[int, "sparse.csr_array[np.int32]"]]:
    """(first row, rows x features) of each piece, mapped."""
    pieces, row = [], 0
    for i in range(len(list(scratch.glob("indptr-*.npy")))):
        indptr, features = (
            np.asarray(np.load(scratch / f"{name}-{i}.npy", mmap_mode="r", allow_pickle=False))
            for name in ("indptr", "features")
        )
        # only the places are asked for; the features stand in for the values, which cost memory
        matrix = sparse.csr_array((features, features, indptr), shape=(len(indptr) - 1, n_features))
        pieces.append((row, matrix))
        row += matrix.shape[0]
    return pieces
