"""The format npz: the seed's raw chunks, plain dense .npy files, and sparse matrices as SciPy saves them.

An archive is read as a stream, so that a compressed matrix of any size needs the memory of a block.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.importers.pieces import BAND_CELLS, Entries, Matrix, Piece, checked, cut, dense_entries
from pipeline.importers.source import Source, SourceSection
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.loaders.base import REPAIR, to_float32

HIDDEN = "hidden_activations"
SPARSE_MEMBERS = {"csr": ("indices", "data"), "csc": ("indices", "data"), "coo": ("row", "col", "data")}


class Header(NamedTuple):
    """What the first bytes of a .npy say."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def read_header(stream: Any, path: Path) -> Header:
    """Read the header of a .npy stream.

    Raises:
        BadStore: it is none, or its content is pickled.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        header = Header(*read(stream))
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise BadStore(path, "an array as NumPy saves it", str(error).splitlines()[0], REPAIR) from error
    if header.dtype.hasobject:
        raise BadInput(f"{path} holds pickled objects, which are never opened; save its numbers as float32")
    return header


@contextmanager
def member(path: Path, name: str) -> Iterator[tuple[Any, Header]]:
    """A stream over one array of an .npz file, after its header.

    Raises:
        BadStore: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            yield stream, read_header(stream, path)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError) as error:
        raise BadStore(path, f"a readable array {name!r}", str(error).splitlines()[0], REPAIR) from error


def read_items(stream: Any, n: int, dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    """The next `n` items of a stream."""
    wanted = n * dtype.itemsize
    content = stream.read(wanted)
    if len(content) != wanted:
        raise BadStore(path, f"{wanted} more bytes", f"{len(content)}", REPAIR)
    return np.frombuffer(content, dtype)


def whole_member(path: Path, name: str) -> NDArray[Any]:
    """A small array of an archive."""
    with member(path, name) as (stream, header):
        n = int(np.prod(header.shape, dtype=np.int64))
        return read_items(stream, n, header.dtype, path).reshape(header.shape)


@dataclass(frozen=True)
class NpyPiece:
    """Entries `start` to `stop` - 1 of the slow axis of a .npy file."""

    of: Matrix
    start: int
    stop: int

    def entries(self) -> Iterator[Entries]:
        """Blocks of the memory-mapped file."""
        whole = np.load(self.of.path, mmap_mode="r", allow_pickle=False)
        matrix = whole.T if self.of.by_feature else whole
        step = max(1, BAND_CELLS // max(1, matrix.shape[1]))
        for start in range(self.start, self.stop, step):
            block = np.asarray(matrix[start : min(start + step, self.stop)])
            yield from dense_entries(block, _moved(self.of, start))


@dataclass(frozen=True)
class DenseMember:
    """One dense matrix of an .npz file; read from its start, so it is one piece."""

    of: Matrix
    name: str

    def entries(self) -> Iterator[Entries]:
        """Blocks of the stream."""
        with member(self.of.path, self.name) as (stream, header):
            n, width = header.shape[::-1] if self.of.by_feature else header.shape
            step = max(1, BAND_CELLS // max(1, width))
            for start in range(0, n, step):
                rows = min(step, n - start)
                block = read_items(stream, rows * width, header.dtype, self.of.path).reshape(rows, width)
                yield from dense_entries(block, _moved(self.of, start))


@dataclass(frozen=True)
class SparseMember:
    """One sparse matrix of an .npz file."""

    path: Path
    kind: str
    first_row: int
    shape: tuple[int, int]
    negatives: bool

    def entries(self) -> Iterator[Entries]:
        """Blocks of the streams of its indices and values."""
        pointers = None if self.kind == "coo" else whole_member(self.path, "indptr").astype(np.int64)
        with ExitStack() as stack:
            streams = [stack.enter_context(member(self.path, name)) for name in SPARSE_MEMBERS[self.kind]]
            total = streams[0][1].shape[0]
            step = max(1, BAND_CELLS // 4)
            for start in range(0, total, step):
                n = min(step, total - start)
                *index, data = (read_items(stream, n, header.dtype, self.path) for stream, header in streams)
                first = index[0].astype(np.int64)
                if pointers is None:
                    row, feature = first, index[1].astype(np.int64)
                else:
                    major = np.searchsorted(pointers, np.arange(start, start + n), side="right") - 1
                    row, feature = (major, first) if self.kind == "csr" else (first, major)
                yield self._checked(row, feature, to_float32(data))

    def _checked(
        self, row: NDArray[np.int64], feature: NDArray[np.int64], value: NDArray[np.float32]
    ) -> Entries:
        for axis, (index, limit) in enumerate(zip((row, feature), self.shape, strict=True)):
            if len(index) and (index.min() < 0 or index.max() >= limit):
                raise BadStore(self.path, f"indices 0 to {limit - 1} along axis {axis}", "others", REPAIR)
        keep = value != 0
        found = Entries(row[keep] + self.first_row, feature[keep], value[keep])
        return checked(found, self.path, self.negatives)


def _moved(of: Matrix, start: int) -> Matrix:
    if of.by_feature:
        return of._replace(first_feature=of.first_feature + start)
    return of._replace(first_row=of.first_row + start)


def open_arrays(section: SourceSection) -> Source:
    """Raw chunks, dense .npy files, or sparse .npz files; rows follow one another in the order of their numbers.

    Raises:
        BadInput: the files are of no known form, or are not numbered from one to the next.
        BadStore: one is damaged, or has another number of features.
    """
    files = array_files(section.path)
    pieces: list[Piece] = []
    first, widths = 0, set[int]()
    for path in files:
        found, shape = _open_array(path, first, section.negatives)
        widths.add(shape[1])
        if len(widths) > 1:
            raise BadStore(path, f"{min(widths - {shape[1]})} features, as the others", f"{shape[1]}", REPAIR)
        pieces += found
        first += shape[0]
    return Source(
        n_rows=first,
        n_features=widths.pop(),
        pieces=tuple(pieces),
        files={f"arrays/{path.name}": path for path in files},
        provenance={"n_files": len(files)},
    )


def array_files(place: Path) -> list[Path]:
    """The file, or the .npz or .npy files of a folder in the order of the numbers at the end of their names.

    Raises:
        BadInput: there is none, both kinds, no number, or one missing between others.
    """
    if place.is_file():
        if place.suffix not in (".npz", ".npy"):
            raise BadInput(f"{place} is neither .npz nor .npy")
        return [place]
    kinds = [sorted(place.glob(f"*{suffix}")) for suffix in (".npz", ".npy")]
    if all(kinds) or not any(kinds):
        raise BadInput(
            f"{place} must hold either .npz or .npy files, found {'both' if all(kinds) else 'none'}"
        )
    files = kinds[0] or kinds[1]
    if len(files) == 1:
        return files
    numbers: dict[int, Path] = {}
    stems = set()
    for path in files:
        match = re.fullmatch(r"(.*?)(\d+)", path.stem)
        if match is None:
            raise BadInput(
                f"{path} has no number at the end of its name, so its place among the others is unknown"
            )
        stems.add(match[1])
        numbers[int(match[2])] = path
    if len(stems) > 1 or len(numbers) < len(files):
        raise BadInput(f"{place} holds files of more than one series: {', '.join(sorted(stems))}")
    lowest = min(numbers)
    missing = next((i for i in range(lowest, lowest + len(numbers)) if i not in numbers), None)
    if missing is not None or lowest > 1:
        wanted = 0 if lowest > 1 else missing
        raise BadInput(
            f"{place} lacks number {wanted} of {min(stems)}*; a file is missing, so rows would be lost"
        )
    return [numbers[i] for i in sorted(numbers)]


def _open_array(path: Path, first_row: int, negatives: bool) -> tuple[list[Piece], tuple[int, int]]:
    if path.suffix == ".npy":
        with path.open("rb") as stream:
            header = read_header(stream, path)
        shape = _matrix_shape(path, header)
        n, width = shape[::-1] if header.fortran else shape
        try:
            np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise BadStore(path, f"{n * width} numbers", str(error).splitlines()[0], REPAIR) from error
        of = Matrix(path, first_row, 0, header.fortran, negatives)
        return [NpyPiece(of, a, b) for a, b in cut(n, width, 1)], shape
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise BadStore(path, "an .npz file", str(error).splitlines()[0], REPAIR) from error
    if "format" in names and "shape" in names:
        return _open_sparse(path, first_row, negatives)
    return _open_dense(path, names, first_row, negatives)


def _open_dense(
    path: Path, names: list[str], first_row: int, negatives: bool
) -> tuple[list[Piece], tuple[int, int]]:
    name = HIDDEN if HIDDEN in names else names[0] if len(names) == 1 else None
    if name is None:
        raise BadInput(f"{path} must hold {HIDDEN!r} or one array alone, found: {', '.join(names)}")
    with member(path, name) as (_, header):
        shape = _matrix_shape(path, header)
    if "num_records" in names:
        said = int(whole_member(path, "num_records").reshape(-1)[0])
        if said != shape[0]:
            raise BadStore(path, f"{said} rows, as num_records says", f"{shape[0]}", REPAIR)
    return [DenseMember(Matrix(path, first_row, 0, header.fortran, negatives), name)], shape


def _open_sparse(path: Path, first_row: int, negatives: bool) -> tuple[list[Piece], tuple[int, int]]:
    said = whole_member(path, "format").item()
    kind = said.decode() if isinstance(said, bytes) else str(said)
    if kind not in SPARSE_MEMBERS:
        raise BadInput(f"{path} is a sparse matrix of the form {kind!r}; save it as .tocsr()")
    rows, features = (int(n) for n in whole_member(path, "shape"))
    return [SparseMember(path, kind, first_row, (rows, features), negatives)], (rows, features)


def _matrix_shape(path: Path, header: Header) -> tuple[int, int]:
    if len(header.shape) != 2 or header.dtype.kind not in "fiu":
        raise BadInput(
            f"{path} must hold a table of numbers [samples, features], found shape {list(header.shape)}, {header.dtype}"
        )
    return int(header.shape[0]), int(header.shape[1])
