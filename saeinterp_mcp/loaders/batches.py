"""The seed's batch format: `activations/batch_NNNN.zarr`, [samples, features], and the slow scan of one feature.

A missing chunk is a chunk of zeros in Zarr, so a conversion that was interrupted looks like silence. What it has
finished is told by `conversion_metadata.json`, which is written last; without it the folder is refused.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.loaders.base import Loaded, Negatives, check_feature, firing_only
from saeinterp_mcp.loaders.files import check_count, open_matrix, read_block, read_json

CONVERSION = "conversion_metadata.json"
FINISH = "The conversion was interrupted or its files were mixed; convert again."
TRUST = (
    "An interrupted conversion cannot be told from silence without it: convert again, or say that the arrays are "
    "whole (trust_arrays; --trust-arrays on the command line)."
)


class Batch(NamedTuple):
    """One batch: its array, and where its rows are among all."""

    number: int
    path: Path
    first_row: int
    n_rows: int


class BatchFolder:
    """All batches of one conversion, checked to be whole. Global rows are offsets summed in batch order.

    Args:
        folder: holds `activations/`, and beside it `metadata/` and `conversion_metadata.json`.
        trust_arrays: take the arrays for whole although nothing says that the conversion was finished.

    Raises:
        BadStore: a batch is missing or unlike the others, or the conversion is unfinished.
    """

    def __init__(self, folder: Path, trust_arrays: bool = False) -> None:
        self.folder = folder
        found = batch_files(folder / "activations", ".zarr")
        if not found:
            raise BadStore(
                folder,
                "activations/batch_0000.zarr and those that follow",
                "none",
                "Give the folder that the conversion to the efficient format wrote.",
            )
        self.recorded = self._recorded(trust_arrays)
        batches, first = [], 0
        widths: set[int] = set()
        for number, path in enumerate(found):
            array = open_matrix(path)
            n_rows, width = (int(n) for n in array.shape)
            widths.add(width)
            if len(widths) > 1:
                raise BadStore(path, f"{min(widths - {width})} features, as the others", str(width), FINISH)
            attributes = dict(array.attrs)
            check_count(path, attributes, "batch_index", number, "is its number", FINISH)
            check_count(path, attributes, "n_samples", n_rows, "rows", FINISH)
            check_count(path, attributes, "n_features", width, "columns", FINISH)
            batches.append(Batch(number, path, first, n_rows))
            first += n_rows
        self.batches = tuple(batches)
        self.n_features, self.n_samples = widths.pop(), first
        self._check_recorded()
        self._check_metadata()

    @property
    def n_activations(self) -> int | None:
        """How many numbers are not 0, where the conversion says (our exports do)."""
        return self.recorded.get("n_activations")

    @cached_property
    def metadata(self) -> tuple[Path, ...]:
        """The table of each batch, or none."""
        return tuple(batch_files(self.folder / "metadata", ".parquet"))

    def _recorded(self, trust_arrays: bool) -> dict[str, Any]:
        path = self.folder / CONVERSION
        if path.is_file():
            return read_json(path)
        if not trust_arrays:
            raise BadStore(path, "the record of a finished conversion", "no such file", TRUST)
        return {}

    def _check_recorded(self) -> None:
        path = self.folder / CONVERSION
        check_count(path, self.recorded, "n_batches", len(self.batches), "batches", FINISH)
        check_count(path, self.recorded, "total_samples", self.n_samples, "rows in all batches", FINISH)
        check_count(path, self.recorded, "n_features", self.n_features, "features", FINISH)
        stats = self.recorded.get("batch_stats")
        if isinstance(stats, list) and all(isinstance(s, dict) for s in stats):
            if len(stats) != len(self.batches):
                raise BadStore(path, f"{len(stats)} batches in batch_stats", str(len(self.batches)), FINISH)
            for batch, said in zip(self.batches, stats, strict=True):
                check_count(batch.path, said, "n_samples", batch.n_rows, "rows", FINISH)

    def _check_metadata(self) -> None:
        if not self.metadata:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        if len(self.metadata) != len(self.batches):
            raise BadStore(
                self.folder / "metadata", f"{len(self.batches)} tables", str(len(self.metadata)), FINISH
            )
        for batch, table in zip(self.batches, self.metadata, strict=True):
            try:
                n_rows = pq.read_metadata(table).num_rows
            except (pa.ArrowException, OSError) as error:
                raise BadStore(table, "a Parquet table", str(error).splitlines()[0], FINISH) from error
            if n_rows != batch.n_rows:
                raise BadStore(table, f"{batch.n_rows} rows, as {batch.path.name}", f"{n_rows} rows", FINISH)


def batch_files(folder: Path, suffix: str) -> list[Path]:
    """`batch_NNNN` files in the order of their numbers, which are 0 to n - 1.

    Raises:
        BadStore: a number is missing, or there twice.
    """
    pattern = re.compile(rf"batch_(\d+){re.escape(suffix)}")
    numbered = [
        (int(m[1]), path) for path in folder.glob(f"batch_*{suffix}") if (m := pattern.fullmatch(path.name))
    ]
    for expected, (number, path) in enumerate(sorted(numbered)):
        if number != expected:
            wanted = f"batch_{expected:04d}{suffix}"
            raise BadStore(folder, f"{wanted} before {path.name}", "no such file", FINISH)
    return [path for _, path in sorted(numbered)]


class BatchScanLoader:
    """Reads one feature by a scan of every batch: correct, and as slow as the batches are large."""

    def __init__(
        self, data_dir: Path | None, trust_arrays: bool = False, negatives: Negatives = None
    ) -> None:
        self._folder, self._trust, self._negatives = data_dir, trust_arrays, negatives

    @property
    def is_available(self) -> bool:
        """Whether there is any batch."""
        return self._folder is not None and any((self._folder / "activations").glob("batch_*.zarr"))

    @cached_property
    def batches(self) -> BatchFolder:
        """The batches, checked when they are first needed."""
        assert self._folder is not None, "asked for the batches of no folder"
        return BatchFolder(self._folder, self._trust)

    @property
    def n_features(self) -> int:
        """Columns of the batches."""
        return self.batches.n_features

    @property
    def n_samples(self) -> int | None:
        """Rows of all batches."""
        return self.batches.n_samples

    def load(self, feature_id: int) -> Loaded | None:
        """Where a feature fires; see `ActivationLoader`."""
        if not self.is_available:
            return None
        check_feature(feature_id, self.n_features, self._folder)
        indices, values = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for batch in self.batches.batches:
            array = open_matrix(batch.path)
            step = max(1, int(array.chunks[0]))
            # one band of chunks at a time: zarr decodes whole chunks, all columns of them
            for start in range(0, batch.n_rows, step):
                rows = slice(start, min(start + step, batch.n_rows))
                column = read_block(array, batch.path, rows, feature_id)
                at = np.flatnonzero(column != 0)
                found = firing_only(
                    at + batch.first_row + start, column[at], batch.path, feature_id, self._negatives
                )
                indices.append(found.indices)
                values.append(found.activations)
        return Loaded(np.concatenate(indices), np.concatenate(values))
