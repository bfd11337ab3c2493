"""The format neuron-acts: a folder of two .npy files for each feature."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.importers.pieces import Entries
from pipeline.importers.source import Source, SourceSection
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.loaders.metadata import count_rows, metadata_files
from saeinterp_mcp.loaders.neuron_acts import RECORD, NeuronActsLoader

FEATURES_OF_A_PIECE = 256


@dataclass(frozen=True)
class NeuronPiece:
    """Some features' files."""

    folder: Path
    n_samples: int
    features: tuple[int, ...]
    negatives: bool

    def entries(self) -> Iterator[Entries]:
        """One block a feature; negative activations keep their sign for the stage that counts them."""
        loader = NeuronActsLoader(self.folder, n_samples=self.n_samples)
        for feature in self.features:
            found = loader.signed(feature) if self.negatives else loader.load(feature)
            assert found is not None, "the folder was there when the pieces were cut"
            yield Entries(found.indices, np.full(len(found.indices), feature), found.activations)


def open_neurons(section: SourceSection) -> Source:
    """The seed's neuron files.

    Raises:
        BadInput: nothing says how many rows there are.
        BadStore: a feature's folder is missing between others.
    """
    given = section.n_samples
    if given is None and section.metadata is not None:
        given = count_rows(metadata_files(section.metadata))
    loader = NeuronActsLoader(section.path, section.n_features, given)
    if not loader.is_available:
        raise BadStore(
            section.path,
            "neuron_0000/acts.npy and idxs.npy",
            "none",
            "Give the folder that holds the neurons' folders.",
        )
    n_samples = loader.n_samples
    if n_samples is None:
        raise BadInput(
            f"{section.path}: neuron files do not say how many samples there are, and silent ones count; give "
            "--metadata DIR or --n-samples N"
        )
    n = loader.n_features
    pieces = [
        NeuronPiece(
            section.path, n_samples, tuple(range(a, min(a + FEATURES_OF_A_PIECE, n))), section.negatives
        )
        for a in range(0, n, FEATURES_OF_A_PIECE)
    ]
    files = {
        f"neurons/{f}/{name}": folder / name
        for f, folder in sorted(loader.folders.items())
        for name in ("acts.npy", "idxs.npy")
    }
    missing = next((path for path in files.values() if not path.is_file()), None)
    if missing is not None:
        raise BadStore(missing, "a .npy file of numbers", "no such file", "Extract again.")
    if loader.recorded:
        files[RECORD] = section.path / RECORD
    return Source(n_rows=n_samples, n_features=n, pieces=tuple(pieces), files=files)
