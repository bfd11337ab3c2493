"""Activations of a bundle, sorted by feature and by row, out of core and over worker processes."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.config import Execution
from pipeline.importers.bundle import BundleConfig, read_config
from pipeline.importers.bundle_activations import (
    PART_ROWS,
    FilePart,
    activation_files,
    activation_parts,
    count_features,
    read_part,
)
from pipeline.linking import link_tree
from pipeline.parallel import run_tasks
from pipeline.sorting import (
    BYTES_PER_ENTRY,
    LARGEST_RANGE,
    MINOR_SHIFT,
    SMALLEST_RANGE,
    Entries,
    Part,
    Sorter,
    Target,
    cut_ranges,
)
from pipeline.stages.order_samples import DRAFT, PLACING
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.base import Store, segment_prefix
from saeinterp_mcp.store.manifest import Manifest
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.raw_arrays import read_span
from saeinterp_mcp.store.zarr_store import ZarrBackend
from saeinterp_mcp.store.zarr_writer import ZarrWriter

Ints = np.ndarray
SPOOL = "spool"
ACTIVATIONS = ("indptr", "rows", "features", "values")
BATCH = 1 << 20
RESERVED_BYTES = 400 << 20
"""What Python, its libraries and the columns of samples take of the memory allowed."""


@dataclass(frozen=True)
class BundlePart(Part):
    """Row groups of a bundle: feature, row, activation."""

    file: FilePart
    config: BundleConfig
    placing: Path
    negatives: str | None

    def batches(self, dropped: dict[str, int]) -> Iterator[Entries]:
        """Checked and placed; what lies at an excluded position is dropped."""
        lengths, first_row = (
            np.load(self.placing / f"{n}.npy", mmap_mode="r", allow_pickle=False)
            for n in ("lengths", "first_row")
        )
        rank, excluded = (
            np.load(self.placing / f"{n}.npy", allow_pickle=False) for n in ("rank", "excluded")
        )
        for batch in read_part(self.file, self.config, lengths, self.negatives, dropped):
            row, feature, value = first_row[batch.sample], batch.feature, batch.value
            if self.config.kind == "sequence":
                counted = ~excluded[batch.position]
                row = row + rank[batch.position]
                if not counted.all():
                    dropped["excluded_position"] = dropped.get("excluded_position", 0) + int((~counted).sum())
                    row, feature, value = row[counted], feature[counted], value[counted]
            yield Entries(feature.astype(np.uint32), row.astype(np.uint32), value)


@dataclass(frozen=True)
class PostingsPart(Part):
    """A span of activations that are stored by feature."""

    folder: Path
    """Of the arrays `rows` and `values`."""
    indptr: Path
    """A .npy file, (F+1,)."""
    n: int
    """Entries of the arrays."""
    start: int
    stop: int
    by_row: bool
    """Whether the row is the major."""
    row_map: Path | None = None
    """A .npy file: the new row of each row."""

    def batches(self, dropped: dict[str, int]) -> Iterator[Entries]:
        """Nothing is dropped."""
        indptr = np.load(self.indptr, allow_pickle=False)
        moved = None if self.row_map is None else np.load(self.row_map, mmap_mode="r", allow_pickle=False)
        for start in range(self.start, self.stop, BATCH):
            stop = min(start + BATCH, self.stop)
            rows = read_span(self.folder / "rows", self.n, start, stop - start, np.dtype("<u4"))
            values = read_span(self.folder / "values", self.n, start, stop - start, np.dtype("<f4"))
            first, last = (int(i) for i in np.searchsorted(indptr, [start, stop - 1], side="right") - 1)
            edges = np.clip(indptr[first : last + 2], start, stop)
            features = np.repeat(np.arange(first, last + 1, dtype=np.uint32), np.diff(edges))
            rows = rows if moved is None else moved[rows].astype(np.uint32)
            yield Entries(rows, features, values) if self.by_row else Entries(features, rows, values)


def largest_range(execution: Execution) -> int:
    """Entries that one worker may sort at once in the memory allowed."""
    if execution.max_memory_gb is None:
        return LARGEST_RANGE
    each = (execution.max_memory_gb * 2**30 - RESERVED_BYTES) / execution.workers
    return int(np.clip(each // (2 * BYTES_PER_ENTRY), SMALLEST_RANGE, LARGEST_RANGE))


def write_postings(
    bundle: Path,
    placed: Path,
    out: Path,
    negatives: str | None = None,
    execution: Execution | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    limit: int | None = None,
    base: Path | None = None,
) -> Manifest:
    """Write `features/*` and `rows/*` and the whole draft of the manifest. Goes on with what a killed run left.

    Args:
        bundle: where the activations are.
        placed: what `order_samples` left.
        out: folder of the arrays.
        negatives: as `read_part`.
        execution: workers and memory.
        progress: told (done, total).
        limit: entries sorted at once; default from the memory allowed.
        base: the store that is appended to. Its activations are linked, not written again; only where it would have
            too many segments they are sorted together with the new ones.

    Raises:
        BadInput: an activation does not fit, or is there twice.
    """
    config = read_config(bundle)
    draft = Manifest.model_validate_json((placed / DRAFT).read_text(encoding="utf-8"))
    execution = execution or Execution()
    files = activation_parts(activation_files(bundle))
    named = list(run_tasks(partial(count_features, config.n_features), files, execution.workers))
    counts = sum(named, np.zeros(config.n_features, np.int64))
    parts: list[Part] = [BundlePart(file, config, placed / PLACING, negatives) for file in files]
    n_rows = int(np.load(placed / PLACING / "n_rows.npy", allow_pickle=False))
    writer, prefix, n_before = ZarrWriter(out), "", 0
    if base is not None:
        store = open_store(base)
        if len(draft.segments) == 1:
            old, old_counts = parts_of_store(store, placed / PLACING, out / SPOOL)
            parts, counts = [*old, *parts], counts + old_counts
        else:
            prefix = segment_prefix(len(draft.segments) - 1)
            n_before = store.manifest.n_activations
            link_tree(base, out, is_activations)
    sorting = Sorting(writer, prefix, config.n_features, n_rows, execution, progress, limit)
    found = sorting.run(parts, counts)
    if isinstance(found, tuple):
        raise _duplicate(files, placed / PLACING, config, negatives, *found)
    dropped = dict(draft.dropped)
    for reason, n in sorting.dropped.items():
        dropped[reason] = dropped.get(reason, 0) + n
    update = {
        "n_activations": n_before + found,
        "dropped": {k: v for k, v in sorted(dropped.items()) if v},
    }
    manifest = draft.model_copy(update=update)
    (out / DRAFT).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest


def is_activations(name: Path) -> bool:
    """Whether a file of a store belongs to the activations of a segment, or to the group they lie in."""
    parts = name.parts[2:] if name.parts[0] == "segments" else name.parts
    return len(parts) > 1 and parts[0] in ("features", "rows") and parts[1] in ("zarr.json", *ACTIVATIONS)


def parts_of_store(store: Store, row_maps: Path, spool: Path) -> tuple[list[Part], Ints]:
    """All activations of a store, to be sorted anew, and how many each feature has.

    Args:
        store: on disk, with `segment-K.npy` for each segment in `row_maps`: the new row of each of its rows.
        row_maps: a folder.
        spool: where the offsets are copied to.
    """
    assert isinstance(store.backend, ZarrBackend), "a store that is appended to lies in a folder"
    spool.mkdir(exist_ok=True)
    parts: list[Part] = []
    counts = np.zeros(store.manifest.n_features, np.int64)
    for segment in range(len(store.manifest.segments)):
        indptr = np.asarray(store.backend.column(f"{segment_prefix(segment)}features/indptr"))
        np.save(spool / f"segment-{segment}.npy", indptr)
        counts += np.diff(indptr)
        folder, n = store.backend.path / f"{segment_prefix(segment)}features", int(indptr[-1])
        parts += [
            PostingsPart(
                folder,
                spool / f"segment-{segment}.npy",
                n,
                start,
                min(start + PART_ROWS, n),
                by_row=False,
                row_map=row_maps / f"segment-{segment}.npy",
            )
            for start in range(0, n, PART_ROWS)
        ]
    return parts, counts


class Sorting:
    """Parts to the postings of one segment, both ways round.

    Args:
        writer: of the folder.
        prefix: of the arrays' names: "" or "segments/1/".
        n_features: F.
        n_rows: rows of the segment.
        execution: workers and memory.
        progress: told (done, total).
        limit: entries sorted at once.
    """

    def __init__(
        self,
        writer: ZarrWriter,
        prefix: str,
        n_features: int,
        n_rows: int,
        execution: Execution,
        progress: Callable[[int, int], None],
        limit: int | None = None,
    ) -> None:
        self._writer, self._prefix = writer, prefix
        self._n_features, self._n_rows = n_features, n_rows
        self._workers, self._progress = execution.workers, progress
        self._limit = limit or largest_range(execution)
        self._spool = writer.path / SPOOL
        self.dropped: dict[str, int] = {}

    def run(self, parts: list[Part], counts: Ints) -> int | tuple[int, int]:
        """How many activations there are; or a (feature, row) that is there twice.

        Args:
            parts: feature, row, activation.
            counts: (F,) about how many entries each feature has.
        """
        self._spool.mkdir(exist_ok=True)
        by_feature = Sorter(
            self._spool / "features",
            cut_ranges(counts, 0, self._n_rows, self._limit),
            self._workers,
            lambda done, total: self._progress(done, 2 * total),
        )
        n = by_feature.scatter(parts)
        self.dropped = by_feature.dropped
        features = self._target("features", "rows", n)
        per_feature, twice = by_feature.sort(features, self._n_features)
        if twice is not None:
            return twice
        row_blocks = by_feature.minor_counts
        indptr = self._put_indptr("features", per_feature)
        np.save(self._spool / "indptr.npy", indptr)
        step = max(self._limit, 1)
        again: list[Part] = [
            PostingsPart(
                features.minors.parent,
                self._spool / "indptr.npy",
                n,
                start,
                min(start + step, n),
                by_row=True,
            )
            for start in range(0, n, step)
        ]
        by_row = Sorter(
            self._spool / "rows",
            cut_ranges(row_blocks, MINOR_SHIFT, self._n_features, self._limit),
            self._workers,
            lambda done, total: self._progress(total + done, 2 * total),
            minors_ascend=True,
        )
        by_row.scatter(again)
        per_row, _ = by_row.sort(self._target("rows", "features", n), self._n_rows)
        self._put_indptr("rows", per_row)
        shutil.rmtree(self._spool)
        return n

    def _target(self, name: str, minors: str, n: int) -> Target:
        self._writer.allocate(f"{self._prefix}{name}/{minors}", n, "u4")
        self._writer.allocate(f"{self._prefix}{name}/values", n, "f4")
        folder = self._writer.path / f"{self._prefix}{name}"
        return Target(folder / minors, folder / "values", n)

    def _put_indptr(self, name: str, counts: Ints) -> Ints:
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        growing = self._writer.grow(f"{self._prefix}{name}/indptr", "i8")
        growing.add(indptr)
        growing.close()
        return indptr


def _duplicate(
    files: list[FilePart], placing: Path, config: BundleConfig, negatives: str | None, feature: int, row: int
) -> BadInput:
    """The error for an activation that is there twice, with the place of the second one."""
    first_row, rank, excluded = (
        np.load(placing / f"{n}.npy", allow_pickle=False) for n in ("first_row", "rank", "excluded")
    )
    at_or_before = np.where(first_row <= row, first_row, -1)
    sample = int(np.flatnonzero(at_or_before == at_or_before.max())[-1])
    position = 0
    if config.kind == "sequence":
        position = int(np.flatnonzero((rank == row - first_row[sample]) & ~excluded)[0])
        lengths = np.load(placing / "lengths.npy", allow_pickle=False)
        candidates = np.flatnonzero(at_or_before == at_or_before.max())
        sample = int(candidates[lengths[candidates] > position][0])
    kept = pl.col("value") != 0 if negatives == "abs" else pl.col("value") > 0
    seen = 0
    for path in dict.fromkeys(file.path for file in files):
        frame = (
            pl.scan_parquet(path, glob=False)
            .with_row_index()
            .filter(
                (pl.col("feature") == feature)
                & (pl.col("sample") == sample)
                & (pl.col("position") == position)
                & kept
            )
        )
        for index in frame.select("index").collect()["index"].to_list():
            seen += 1
            if seen == 2:
                return BadInput(
                    f"{path}, row {index}: feature {feature}, sample {sample}, position {position} "
                    "is there more than once"
                )
    raise AssertionError("a duplicate that was sorted side by side is not in the files")
