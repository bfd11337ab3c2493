"""The seed's transposed format: one Zarr array [features, samples] whose chunks are (1, 10000)."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.loaders.base import Loaded, Negatives, check_feature, firing_only
from saeinterp_mcp.loaders.files import check_count, is_zarr, open_matrix, read_block, read_json

ARRAY = "transposed_activations.zarr"
RECORD = "transposed_metadata.json"
FINISH = "The transposition was interrupted or its files were mixed; transpose again."
TRUST = (
    "An interrupted transposition cannot be told from silence without it: transpose again, or say that the array "
    "is whole (trust_arrays; --trust-arrays on the command line)."
)


class TransposedLoader:
    """Reads one feature as one row.

    Args:
        transposed_dir: holds `transposed_activations.zarr` and `transposed_metadata.json`, which is written last.
        trust_arrays: take the array for whole although nothing says that the transposition was finished.
        negatives: what to do with negative activations.
    """

    def __init__(
        self, transposed_dir: Path | None, trust_arrays: bool = False, negatives: Negatives = None
    ) -> None:
        self._folder, self._trust, self._negatives = transposed_dir, trust_arrays, negatives

    @property
    def is_available(self) -> bool:
        """Whether the array is there."""
        return self._folder is not None and is_zarr(self._folder / ARRAY)

    @property
    def path(self) -> Path:
        """The array's folder."""
        assert self._folder is not None, "asked for the array of no folder"
        return self._folder / ARRAY

    @cached_property
    def array(self) -> Any:
        """The array, [features, samples], checked against the record of its making.

        Raises:
            BadStore: it is unfinished, or unlike the record.
        """
        assert self._folder is not None, "asked for the array of no folder"
        array = open_matrix(self.path)
        n_features, n_samples = (int(n) for n in array.shape)
        record = self.recorded
        path = self._folder / RECORD
        check_count(path, record, "n_features", n_features, f"rows in {ARRAY}", FINISH)
        check_count(path, record, "n_samples", n_samples, f"columns in {ARRAY}", FINISH)
        if "shape" in record and list(record["shape"]) != [n_features, n_samples]:
            raise BadStore(path, f"shape {record['shape']}, as it says", f"{[n_features, n_samples]}", FINISH)
        return array

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """What the transposition wrote down at its end.

        Raises:
            BadStore: nothing, so it may be unfinished.
        """
        assert self._folder is not None, "asked for the record of no folder"
        path = self._folder / RECORD
        if path.is_file():
            return read_json(path)
        if not self._trust:
            raise BadStore(path, "the record of a finished transposition", "no such file", TRUST)
        return {}

    @property
    def n_features(self) -> int:
        """Rows of the array."""
        return int(self.array.shape[0])

    @property
    def n_samples(self) -> int | None:
        """Columns of the array."""
        return int(self.array.shape[1])

    def load(self, feature_id: int) -> Loaded | None:
        """Where a feature fires; see `ActivationLoader`."""
        if not self.is_available:
            return None
        check_feature(feature_id, self.n_features, self._folder)
        row = read_block(self.array, self.path, feature_id, slice(0, self.n_samples))
        at = np.flatnonzero(row != 0)
        return firing_only(at, row[at], self.path, feature_id, self._negatives)
