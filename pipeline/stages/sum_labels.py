"""Sums over units by level, value and token of the features that fire often, so that their intervals cost nothing."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.stages.feature_blocks import Block, joined_blocks
from pipeline.stages.store_config import open_draft
from saeinterp_mcp.analysis.effects import MIN_N, tested
from saeinterp_mcp.analysis.label_sums import firing_units, label_sums, no_sums
from saeinterp_mcp.analysis.moments import LabelCounts, UnitTotals, moments_of
from saeinterp_mcp.store.base import Floats, Ints, Postings, Store
from saeinterp_mcp.store.labels import labels_of_rows, read_counts
from saeinterp_mcp.store.layout import INFLUENCE, LABEL_SUMS, NO_INDEX, SUMMED_FROM
from saeinterp_mcp.store.sums import places_of_labels
from saeinterp_mcp.store.zarr_writer import ZarrWriter

BLOCK = 8
"""Features of a task."""
SUMS = ("sums/labels", "influence/tokens", "influence/sums", "influence/q")
"""Arrays of dense features."""
ROWS = 2**17
"""Firing rows summed at a time; fixed, so that sums have one order."""
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
    n_labels = units_of(store).n_labels
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


class Units(NamedTuple):
    """What the sums of every feature are over."""

    store: Store
    rows: NDArray[np.uint32]
    """(U,) rows of each unit."""
    counts: dict[str, LabelCounts]
    """By label set, both splits; last `tokens`, of the split `explain`."""
    n_labels: int


@lru_cache(maxsize=1)
def _units_of_draft(folders: tuple[Path, ...]) -> Units:
    """Opened once in a process: what is read of the counts stays mapped for all its tasks."""
    return units_of(open_draft(*folders))


def units_of(store: Store) -> Units:
    """What the sums of a store's features are over."""
    first_row, places = store.backend.column("units/first_row"), places_of_labels(store.manifest)
    rows = np.subtract(first_row[1:], first_row[:-1], dtype=np.uint32, casting="unsafe")
    counts = {name: read_counts(store, name, "all") for name in places}
    n_labels = max((place.stop for place in places.values()), default=0)
    return Units(store, rows, counts | {"tokens": read_counts(store, "tokens", "explain")}, n_labels)


def _sum_block(folders: tuple[Path, ...], size: int, summed_from: int, first: int) -> Block:
    units = _units_of_draft(folders)
    features = _dense(units.store, summed_from)[first : first + size]
    found = [sums_of_feature(units, feature) for feature in features.tolist()]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def sums_of_feature(units: Units, feature: int) -> dict[str, NDArray[Any]]:
    """A feature's entry of every array."""
    rows, values = units.store.activations(feature)
    n = int(np.searchsorted(rows, units.store.n_rows("explain")))
    names = list(units.counts)
    explain, of_units = _sums(units, Postings(rows[:n], values[:n]), names)
    # a unit lies on one side of the split, so the rest only adds to it
    rest, _ = _sums(units, Postings(rows[n:], values[n:]), names[:-1])
    labels = np.zeros((2, units.n_labels, len(LABEL_SUMS)))
    for name, place in places_of_labels(units.store.manifest).items():
        labels[:, place] = explain[name], explain[name] + rest[name]
    return {"sums/labels": labels} | _influence(units, feature, explain["tokens"], of_units)


def _sums(units: Units, firing: Postings, names: list[str]) -> tuple[dict[str, Floats], UnitTotals]:
    """Sums by label of each set, and over all units, of the firing rows of a split."""
    sums = {name: no_sums(units.counts[name]) for name in names}
    of_units = np.zeros(len(UnitTotals._fields))
    for rows, values in whole_units(units.store.row_unit, firing):
        part = firing_units(units.store.row_unit[rows], values.astype(np.float64), units.rows)
        of_units += part.totals
        for name in names:
            labels = labels_of_rows(units.store, name, rows)
            sums[name] += label_sums(units.counts[name], part, *labels)
    return sums, UnitTotals(*of_units.tolist())


def whole_units(row_unit: NDArray[Any], firing: Postings, size: int = ROWS) -> Iterator[Postings]:
    """Some thousand firing rows at a time, so that the densest feature needs little memory; units stay whole."""
    rows, values = firing
    start = 0
    while start < len(rows):
        stop = start + size
        if stop < len(rows):
            # the last unit goes on: it belongs to the next part, or is the whole of this one
            unit = row_unit[rows[stop]]
            first = int(np.searchsorted(row_unit[rows[start:stop]], unit)) + start
            stop = first if first > start else int(np.searchsorted(row_unit[rows], unit, side="right"))
        yield Postings(rows[start:stop], values[start:stop])
        start = stop


def _influence(units: Units, feature: int, sums: Floats, of_units: UnitTotals) -> dict[str, NDArray[Any]]:
    """The tokens that the overview shows first, for the split `explain`."""
    largest = float(units.store.per_feature("stats/max", feature, "explain"))
    moments = moments_of(units.counts["tokens"], sums, of_units)
    effects = tested(*moments, largest, MIN_N, first_is_reference=False)
    tokens = np.full((2, INFLUENCE), NO_INDEX, np.uint32)
    kept, q = np.full((2, INFLUENCE, len(LABEL_SUMS)), np.nan), np.full((2, INFLUENCE), np.nan)
    for i, best in enumerate(effects.outstanding()):
        pick = best[:INFLUENCE]
        tokens[i, : len(pick)], kept[i, : len(pick)], q[i, : len(pick)] = pick, sums[pick], effects.q[pick]
    return {"influence/tokens": tokens, "influence/sums": kept, "influence/q": q}
