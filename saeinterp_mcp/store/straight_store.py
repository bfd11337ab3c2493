"""A backend whose activations stay in somebody else's files: samples and labels are its own, the rest is read anew.

It answers every question about one feature, from all stored activations, with the same numbers as a store that was
imported in full; only slower, since a feature is read from its files and summarised when it is asked for. Questions
that need every feature at once are refused with the way to a full store.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.summaries import SUMMARY_SHAPES, summarise
from saeinterp_mcp.errors import BadStore, NotInStore
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.loaders.base import ActivationLoader
from saeinterp_mcp.loaders.storage_config import StorageConfig
from saeinterp_mcp.store.base import AnyArray, Ints, Postings
from saeinterp_mcp.store.layout import NO_INDEX
from saeinterp_mcp.store.manifest import Manifest, StraightSource
from saeinterp_mcp.store.zarr_store import ZarrBackend

KEPT_FEATURES = 32
"""Features whose activations and summaries are kept for the next question."""
FOLDER = {
    "batch-zarr": "data_dir",
    "transposed-zarr": "transposed_dir",
    "neuron-acts": "neuron_acts_dir",
}
SUFFIXES = {"batch-zarr": "activations", "transposed-zarr": "transposed_activations.zarr", "neuron-acts": ""}


def list_source(folder: Path) -> str:
    """Hash of the names and sizes of all files below a folder."""
    found = ((p.relative_to(folder).as_posix(), p.stat().st_size) for p in folder.rglob("*") if p.is_file())
    return fingerprint(sorted(found))


class StraightBackend(ZarrBackend):
    """Samples and labels from a store folder, activations from the files it names."""

    def __init__(self, path: Path, draft: Manifest | None = None) -> None:
        super().__init__(path, draft=draft)
        straight = self._manifest.straight
        assert straight is not None, "only a store without activations of its own is opened like this"
        self._loader = open_loader(straight)
        self._store_row = self.column("source/store_row")
        self._unit_rows: NDArray[np.float64] = np.diff(self.column("units/first_row")).astype(np.float64)
        self._postings = lru_cache(KEPT_FEATURES)(self._load)
        self._summary = lru_cache(KEPT_FEATURES)(self._summarise)

    def has(self, name: str) -> bool:
        """Whether the array is there or can be worked out for one feature."""
        return name in SUMMARY_SHAPES or super().has(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        if name in SUMMARY_SHAPES:
            return (self._manifest.n_features, *SUMMARY_SHAPES[name][0])
        return super().shape(name)

    def span(self, name: str, start: int, stop: int) -> AnyArray:
        """Entries of an array; summaries are worked out for the features asked for."""
        if name in SUMMARY_SHAPES:
            shape, dtype = SUMMARY_SHAPES[name]
            entries = [self._summary(feature)[name] for feature in range(start, stop)]
            return np.stack(entries) if entries else np.zeros((0, *shape), dtype)
        return super().span(name, start, stop)

    def column(self, name: str) -> AnyArray:
        """The whole array.

        Raises:
            NotInStore: it would need the activations of every feature.
        """
        if name in SUMMARY_SHAPES:
            raise self._needs_all("a search over all features")
        return super().column(name)

    def postings(self, feature: int) -> Postings:
        """Where a feature fires, from its files."""
        return self._postings(feature)

    def prefetch(self, features: Sequence[int]) -> None:
        """The files are read when they are asked for."""

    def firing_at(self, rows: Ints) -> tuple[Ints, Ints, NDArray[np.float32]]:
        """Refused: it would need the activations of every feature.

        Raises:
            NotInStore: always.
        """
        raise self._needs_all("what fires at a row")

    def _needs_all(self, question: str) -> NotInStore:
        straight = self._manifest.straight
        assert straight is not None, "checked when opened"
        return NotInStore(
            f"{question} needs the activations of all {self._manifest.n_features} features, and this store is served "
            f"straight from {straight.folder}. Import it without --straight: "
            f"saeinterp-pipeline import {straight.format} {straight.folder} --out STORE"
        )

    def _load(self, feature: int) -> Postings:
        found = self._loader.load(feature)
        if found is None:
            raise BadStore(self._manifest.straight, "the files of the activations", "none", "Restore them.")
        rows = self._store_row[found.indices]
        counted = rows != NO_INDEX
        rows, values = rows[counted].astype(np.int64), found.activations[counted]
        order = np.argsort(rows)
        return Postings(rows[order], values[order])

    def _summarise(self, feature: int) -> dict[str, AnyArray]:
        rows, values = self.postings(feature)
        n = int(np.searchsorted(rows, self._manifest.n_explain["rows"]))
        unit = self.column("rows/unit")
        return summarise((rows[:n], values[:n]), (rows, values), unit, self._unit_rows)


def open_loader(straight: StraightSource) -> ActivationLoader:
    """The loader of a source, which must be as it was when the store was made.

    Raises:
        BadStore: its files are gone or others.
    """
    folder = Path(straight.folder)
    advice = "Restore the files, or import them again."
    if not folder.is_dir():
        raise BadStore(folder, f"the {straight.format} files of the activations", "no such folder", advice)
    if list_source(folder / SUFFIXES[straight.format]) != straight.listing:
        raise BadStore(folder, "the files that were there when the store was made", "others", advice)
    config = StorageConfig(
        model_type="straight",
        trust_arrays=straight.trust_arrays,
        negatives=straight.negatives,
        **{FOLDER[straight.format]: folder},
    )
    return config.loader()
