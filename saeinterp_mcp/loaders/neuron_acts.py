"""The seed's neuron files: `neuron_0000/acts.npy` and `idxs.npy`, a folder for each feature."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.loaders.base import REPAIR, Loaded, Negatives, check_feature, finite_only, firing_only
from saeinterp_mcp.loaders.files import check_count, read_json, read_npy

RECORD = "neuron_acts_metadata.json"
"""Written by our export only: the format itself does not say how many features and samples there are."""


class NeuronActsLoader:
    """Reads one feature from its two files.

    Every feature has its folder, one that never fires too (with empty files): a folder that is missing between
    others is refused, because the extraction may have been interrupted.

    Args:
        neuron_acts_dir: holds `neuron_NNNN/`.
        n_features: how many there are; default what the record says, else the highest number + 1.
        n_samples: how many rows there are; default what the record says, else unknown.
        negatives: what to do with negative activations.
    """

    def __init__(
        self,
        neuron_acts_dir: Path | None,
        n_features: int | None = None,
        n_samples: int | None = None,
        negatives: Negatives = None,
    ) -> None:
        self._folder, self._negatives = neuron_acts_dir, negatives
        self._n_features, self._n_samples = n_features, n_samples

    @property
    def is_available(self) -> bool:
        """Whether any feature's folder is there."""
        # once the folders are listed, a second look at thousands of them for each feature tells nothing new
        return "folders" in self.__dict__ or (
            self._folder is not None and any(self._folder.glob("neuron_*/"))
        )

    @cached_property
    def folders(self) -> dict[int, Path]:
        """Feature to its folder, all there.

        Raises:
            BadStore: a folder is missing between others, is there twice, or the record says another number.
        """
        assert self._folder is not None, "asked for the features of no folder"
        pattern = re.compile(r"neuron_(\d+)")
        found: dict[int, Path] = {}
        for path in sorted(self._folder.glob("neuron_*/")):
            match = pattern.fullmatch(path.name)
            if match is None:
                continue
            if int(match[1]) in found:
                raise BadStore(path, "one folder a feature", f"{found[int(match[1])].name} too", REPAIR)
            found[int(match[1])] = path
        n_features = self._wanted("n_features", self._n_features)
        n_features = max(found, default=-1) + 1 if n_features is None else n_features
        missing = next((f for f in range(n_features) if f not in found), None)
        if missing is not None or len(found) > n_features:
            lacking = (
                f"no neuron_{missing:04d}" if missing is not None else f"neuron_{max(found):04d} beyond them"
            )
            advice = "The extraction was interrupted or files were lost; extract again."
            raise BadStore(self._folder, f"a folder for each of {n_features} features", lacking, advice)
        return found

    @property
    def n_features(self) -> int:
        """Features with a folder."""
        return len(self.folders)

    @cached_property
    def n_samples(self) -> int | None:
        """Rows that `idxs.npy` count in, if anything says."""
        return self._wanted("n_samples", self._n_samples)

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """What the export wrote down, or nothing."""
        path = self._folder / RECORD if self._folder is not None else None
        return read_json(path) if path is not None and path.is_file() else {}

    def _wanted(self, field: str, given: int | None) -> int | None:
        if given is not None and self._folder is not None:
            advice = "Give the number that the files were made with."
            check_count(self._folder / RECORD, self.recorded, field, given, "were asked for", advice)
            return given
        return self.recorded.get(field)

    def load(self, feature_id: int) -> Loaded | None:
        """Where a feature fires; see `ActivationLoader`."""
        if not self.is_available:
            return None
        check_feature(feature_id, self.n_features, self._folder)
        found = self.signed(feature_id)
        path = self.folders[feature_id] / "acts.npy"
        return firing_only(found.indices, found.activations, path, feature_id, self._negatives)

    def signed(self, feature_id: int) -> Loaded:
        """What the files of a feature hold, negative numbers too and in the order of rows; finite, none of it 0.

        Raises:
            BadStore: a file is damaged, or holds what is no activation.
        """
        folder = self.folders[feature_id]
        values, indices = read_npy(folder / "acts.npy"), read_npy(folder / "idxs.npy")
        if len(values) != len(indices) or (indices.dtype.kind == "f" and len(indices)):
            found = f"{len(values)} and {len(indices)} ({indices.dtype})"
            raise BadStore(folder, "as many integers in idxs.npy as numbers in acts.npy", found, REPAIR)
        at = indices.astype(np.int64)
        if (at[1:] <= at[:-1]).any():
            order = np.argsort(at, kind="stable")
            at, values = at[order], values[order]
            if (at[1:] == at[:-1]).any():
                twice = int(at[1:][at[1:] == at[:-1]][0])
                raise BadStore(folder / "idxs.npy", "each row once", f"row {twice} twice", REPAIR)
        limit = self.n_samples
        if len(at) and (at[0] < 0 or (limit is not None and at[-1] >= limit)):
            worst = int(at[0] if at[0] < 0 else at[-1])
            expected = "rows from 0" if limit is None else f"rows 0 to {limit - 1}"
            raise BadStore(folder / "idxs.npy", expected, f"row {worst}", REPAIR)
        return finite_only(at, values, folder / "acts.npy", feature_id)
