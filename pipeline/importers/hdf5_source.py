"""The format hdf5: one dataset `activations`, [samples, features]."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.importers.pieces import BAND_CELLS, Entries, Matrix, cut, dense_entries
from pipeline.importers.source import Source, SourceSection
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.loaders.base import REPAIR

DATASET = "activations"


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The dataset.

    Raises:
        BadInput: h5py is not installed.
        BadStore: the file is damaged, or holds no such dataset.
    """
    try:
        import h5py
    except ImportError as error:
        raise BadInput("hdf5 needs h5py: pip install 'saeinterp-mcp[pipeline]'") from error
    try:
        with h5py.File(path, "r") as file:
            if DATASET not in file or not isinstance(file[DATASET], h5py.Dataset):
                names = ", ".join(sorted(file)) or "nothing"
                raise BadStore(
                    path, f"a dataset {DATASET!r}", names, "Give the file of the chunked collection."
                )
            yield file[DATASET]
    except OSError as error:
        raise BadStore(path, "a whole HDF5 file", str(error).splitlines()[0], REPAIR) from error


@dataclass(frozen=True)
class Hdf5Piece:
    """Rows `start` to `stop` - 1."""

    of: Matrix
    start: int
    stop: int

    def entries(self) -> Iterator[Entries]:
        """Bands of whole chunks."""
        with opened(self.of.path) as data:
            rows = _chunk_rows(data)
            step = rows * max(1, BAND_CELLS // max(1, rows * data.shape[1]))
            for start in range(self.start, self.stop, step):
                block = np.asarray(data[start : min(start + step, self.stop)])
                yield from dense_entries(block, self.of._replace(first_row=start))


def _chunk_rows(data: Any) -> int:
    return int(data.chunks[0]) if data.chunks else 1


def open_hdf5(section: SourceSection) -> Source:
    """The dataset of a chunked collection.

    Raises:
        BadInput: it is no table of numbers.
        BadStore: the file is damaged.
    """
    with opened(section.path) as data:
        if data.ndim != 2 or data.dtype.kind not in "fiu":
            found = f"shape {list(data.shape)}, {data.dtype}"
            raise BadInput(f"{section.path}: {DATASET} must be numbers [samples, features], found {found}")
        n_rows, n_features = (int(n) for n in data.shape)
        ranges = cut(n_rows, n_features, _chunk_rows(data))
    of = Matrix(section.path, 0, 0, False, section.negatives)
    return Source(
        n_rows=n_rows,
        n_features=n_features,
        pieces=tuple(Hdf5Piece(of, a, b) for a, b in ranges),
        files={f"file/{section.path.name}": section.path},
    )
