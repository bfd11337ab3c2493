"""Sums over units by level, value and token of the features that fire often, so that their intervals cost nothing."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.stages.feature_blocks import Block, joined_blocks
from pipeline.stages.store_config import open_draft
from saeinterp_mcp.analysis.effects import MIN_N, tested
from saeinterp_mcp.analysis.label_sums import FiringUnits, firing_units, label_sums
from saeinterp_mcp.analysis.moments import LabelCounts, moments_of
from saeinterp_mcp.store.base import Floats, Ints, Store
from saeinterp_mcp.store.labels import labels_of_rows, read_counts
from saeinterp_mcp.store.layout import INFLUENCE, LABEL_SUMS, NO_INDEX, SUMMED_FROM
from saeinterp_mcp.store.sums import places_of_labels
from saeinterp_mcp.store.zarr_store import ZarrWriter

BLOCK = 8
"""Features of a task."""
WRITTEN = 2**26
"""Bytes written at a time."""


def sum_labels(
    folders: Sequence[Path],
    out: Path,
    execution: Execution,
    progress: Callable[[int, int], None] = lambda done, total: None,
    block: int = BLOCK,
    summed_from: int = SUMMED_FROM,
) -> int:
    """Write `sums/*` and `influence/*`; how many features they are of.

    Args:
        folders: what `open_draft` takes: the postings and the summaries.
        out: the folder to write into.
        execution: how many workers.
        progress: called with features done and their number.
        block: features of a task; the result does not depend on it.
        summed_from: firings from which a feature counts as dense.
    """
    store, writer = open_draft(*folders), ZarrWriter(out)
    dense = _dense(store, summed_from)
    place = np.full(store.manifest.n_features, NO_INDEX, np.uint32)
    place[dense] = np.arange(len(dense))
    writer.put("sums/place", place)
    n_labels = max((s.stop for s in places_of_labels(store.manifest).values()), default=0)
    shapes = {
        "sums/labels": ((2, n_labels, len(LABEL_SUMS)), "f8"),
        "influence/tokens": ((2, INFLUENCE), "u4"),
        "influence/sums": ((2, INFLUENCE, len(LABEL_SUMS)), "f8"),
        "influence/q": ((2, INFLUENCE), "f8"),
    }
    for name, (shape, dtype) in shapes.items():
        writer.create(name, (len(dense), *shape), dtype)
    written = max(1, WRITTEN // (16 * len(LABEL_SUMS) * (n_labels + INFLUENCE)))
    task = partial(_sum_block, tuple(folders), block, summed_from)
    for first, arrays in joined_blocks(task, len(dense), block, execution.workers, progress, written):
        for name, array in arrays.items():
            writer.write(name, first, array)
    return len(dense)


def _dense(store: Store, summed_from: int) -> Ints:
    if store.manifest.coverage != "full":
        return np.zeros(0, np.int64)
    return np.flatnonzero(store.backend.column("stats/n_firing")[:, 1] >= summed_from)


class _Units(NamedTuple):
    """What the sums of every feature are over."""

    store: Store
    rows: NDArray[np.uint32]
    """(U,) rows of each unit."""
    counts: dict[str, LabelCounts]
    """By label set, both splits."""
    tokens: LabelCounts
    """Of the split `explain`."""


def _sum_block(folders: tuple[Path, ...], size: int, summed_from: int, first: int) -> Block:
    store = open_draft(*folders)
    first_row = store.backend.column("units/first_row")
    units = _Units(
        store,
        np.subtract(first_row[1:], first_row[:-1], dtype=np.uint32, casting="unsafe"),
        {name: read_counts(store, name, "all") for name in places_of_labels(store.manifest)},
        read_counts(store, "tokens", "explain"),
    )
    found = [sums_of_feature(units, int(f)) for f in _dense(store, summed_from)[first : first + size]]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def sums_of_feature(units: _Units, feature: int) -> dict[str, NDArray[Any]]:
    """A feature's entry of every array."""
    rows, values = units.store.activations(feature)
    n = int(np.searchsorted(rows, units.store.n_rows("explain")))
    explain = _firing(units, rows[:n], values[:n])
    first = _by_label(units, rows[:n], explain)
    # a unit lies on one side of the split, so the rest only adds to it
    second = first + _by_label(units, rows[n:], _firing(units, rows[n:], values[n:]))
    return {"sums/labels": np.stack([first, second])} | _influence(units, feature, rows[:n], explain)


def _firing(units: _Units, rows: Ints, values: NDArray[np.float32]) -> FiringUnits:
    return firing_units(units.store.row_unit[rows], values.astype(np.float64), units.rows)


def _by_label(units: _Units, rows: Ints, firing: FiringUnits) -> Floats:
    sums = [
        label_sums(counts, firing, *labels_of_rows(units.store, name, rows))
        for name, counts in units.counts.items()
    ]
    return np.concatenate(sums) if sums else np.zeros((0, len(LABEL_SUMS)))


def _influence(units: _Units, feature: int, rows: Ints, firing: FiringUnits) -> dict[str, NDArray[Any]]:
    """The tokens that the overview shows first, for the split `explain`."""
    store = units.store
    sums = label_sums(units.tokens, firing, *labels_of_rows(store, "tokens", rows))
    largest = float(store.per_feature("stats/max", feature, "explain"))
    effects = tested(*moments_of(units.tokens, sums, firing.totals), largest, MIN_N, False)
    tokens = np.full((2, INFLUENCE), NO_INDEX, np.uint32)
    kept, q = np.full((2, INFLUENCE, len(LABEL_SUMS)), np.nan), np.full((2, INFLUENCE), np.nan)
    for i, best in enumerate(effects.outstanding()):
        pick = best[:INFLUENCE]
        tokens[i, : len(pick)], kept[i, : len(pick)], q[i, : len(pick)] = pick, sums[pick], effects.q[pick]
    return {"influence/tokens": tokens, "influence/sums": kept, "influence/q": q}
