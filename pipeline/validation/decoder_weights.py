"""Decoder directions in files of several makers, a block of features at a time."""

import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.errors import BadInput, nearest

Matrix = NDArray[Any]
Found = TypeVar("Found")
NAMES = ("W_dec", "w_dec", "decoder.weight")
"""The last one is (d_model, n_features): turned round."""
MAX_HEADER = 100 << 20
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class Weights(NamedTuple):
    """A decoder: (n_features, d_model)."""

    n_features: int
    d_model: int
    blocks: Callable[[int], Iterator[Matrix]]
    """Rows in order, some at a time; the last block may be smaller."""


def open_weights(path: Path) -> Weights:
    """W_dec (or decoder.weight) of `.npy`, `.npz` or `.safetensors`.

    Raises:
        BadInput: another kind of file, damaged, or without such a matrix.
    """
    return _read(path, {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors})


def n_features_of(path: Path) -> int:
    """How many features the decoder of such a file has, by its header alone.

    Raises:
        BadInput: as `open_weights`.
    """
    return _read(
        path,
        {
            ".npy": lambda file: _npy(file).n_features,
            ".npz": _n_features_of_npz,
            ".safetensors": lambda file: _safetensors(file).n_features,
        },
    )


def _read(path: Path, openers: Mapping[str, Callable[[Path], Found]]) -> Found:
    if path.suffix.lower() not in openers:
        raise BadInput(
            f"{path}: decoder weights are read from {', '.join(openers)}; write the matrix down once with "
            "np.save(FILE, W_dec)"
        )
    try:
        return openers[path.suffix.lower()](path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, struct.error) as error:
        raise BadInput(f"{path} holds no decoder that can be read: {visible(str(error))[:200]}") from error


def of_matrix(shape: tuple[int, ...], rows: Callable[[int, int], Matrix]) -> Weights:
    """Weights of something that gives any rows."""
    if len(shape) != 2 or not all(shape):
        raise ValueError(f"expected a matrix (n_features, d_model), found the shape {tuple(shape)}")

    def blocks(size: int) -> Iterator[Matrix]:
        for start in range(0, shape[0], size):
            yield rows(start, min(start + size, shape[0]))

    return Weights(shape[0], shape[1], blocks)


def _npy(path: Path) -> Weights:
    matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    _need_floats(matrix.dtype)
    return of_matrix(matrix.shape, lambda start, stop: matrix[start:stop])


def _npz(path: Path) -> Weights:
    name, shape, fortran, dtype = _npz_header(path)
    _need_floats(dtype)
    if fortran or name == "decoder.weight":
        # columns of a file that is read from its start: the whole matrix it is
        with np.load(path, allow_pickle=False) as arrays:
            matrix = arrays[name].T if name == "decoder.weight" else arrays[name]
        return of_matrix(matrix.shape, lambda start, stop: matrix[start:stop])
    if len(shape) != 2 or not all(shape):
        raise ValueError(f"expected a matrix (n_features, d_model), found the shape {shape}")

    def blocks(size: int) -> Iterator[Matrix]:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            _header(file)
            for start in range(0, shape[0], size):
                n = min(size, shape[0] - start)
                content = file.read(n * shape[1] * dtype.itemsize)
                yield np.frombuffer(content, dtype).reshape(n, shape[1])

    return Weights(shape[0], shape[1], blocks)


def _n_features_of_npz(path: Path) -> int:
    name, shape, _, _ = _npz_header(path)
    if len(shape) != 2 or not all(shape):
        raise ValueError(f"expected a matrix (n_features, d_model), found the shape {shape}")
    return shape[1] if name == "decoder.weight" else shape[0]


def _npz_header(path: Path) -> tuple[str, tuple[int, ...], bool, np.dtype[Any]]:
    """The name of the decoder in the archive, and its header."""
    with zipfile.ZipFile(path) as archive:
        name = _chosen([name.removesuffix(".npy") for name in archive.namelist()])
        with archive.open(f"{name}.npy") as file:
            return name, *_header(file)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _safetensors(path: Path) -> Weights:
    """A header in JSON, then raw numbers: read here, for the library knows no bfloat16 without torch."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise ValueError("its header has no possible length")
        header = json.loads(file.read(length))
    name = _chosen([key for key in header if key != "__metadata__"])
    kind, shape = header[name]["dtype"], tuple(int(n) for n in header[name]["shape"])
    begin, end = header[name]["data_offsets"]
    if kind not in FLOATS:
        raise ValueError(f"{name} is {kind}; decoders are {', '.join(FLOATS)}")
    dtype = np.dtype(FLOATS[kind])
    if end - begin != math.prod(shape) * dtype.itemsize or 8 + length + end > size:
        raise ValueError(f"{name} is cut off")
    matrix = np.memmap(path, dtype, mode="r", offset=8 + length + begin, shape=shape)
    turned = matrix.T if name == "decoder.weight" else matrix
    widen = _from_bfloat16 if kind == "BF16" else np.asarray
    return of_matrix(turned.shape, lambda start, stop: widen(turned[start:stop]))


def _from_bfloat16(block: Matrix) -> Matrix:
    """The upper half of a float32 is a bfloat16."""
    return (np.ascontiguousarray(block).astype(np.uint32) << 16).view(np.float32)


def _chosen(names: list[str]) -> str:
    for name in NAMES:
        if name in names:
            return name
    raise ValueError(f"none of {', '.join(NAMES)} is in it; {nearest(NAMES[0], names)}")


def _need_floats(dtype: "np.dtype[Any]") -> None:
    if dtype.kind != "f":
        raise ValueError(f"expected floats, found {dtype}")
