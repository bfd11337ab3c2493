"""Opening other people's arrays: Zarr of either version, .npy, JSON. What cannot be read is a BadStore."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.loaders.base import REPAIR


def is_zarr(path: Path) -> bool:
    """Whether a folder holds a Zarr array or group of version 2 or 3."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray"))


def open_matrix(path: Path) -> Any:
    """A two-dimensional Zarr array of numbers, version 2 or 3.

    Raises:
        BadStore: there is none, or it is something else.
    """
    import zarr  # a third of a second that only some questions need

    try:
        array = zarr.open_array(str(path), mode="r")
        shape, dtype = array.shape, np.dtype(array.dtype)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadStore(path, "a Zarr array of version 2 or 3", _first_line(error), REPAIR) from error
    if len(shape) != 2 or dtype.kind not in "fiu":
        raise BadStore(
            path,
            "a table of numbers (two axes)",
            f"shape {list(shape)}, {dtype}",
            "Give the folder that the conversion wrote.",
        )
    return array


def read_block(array: Any, path: Path, rows: Any, columns: Any) -> NDArray[Any]:
    """`array[rows, columns]`.

    Raises:
        BadStore: a chunk is damaged.
    """
    try:
        return np.asarray(array[rows, columns])
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        where = f"rows {_shown(rows)}, columns {_shown(columns)}"
        raise BadStore(
            path, f"chunks that can be decoded ({where})", f"a damaged one: {_first_line(error)}", REPAIR
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BadStore: missing, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadStore(path, "a JSON object", _first_line(error), REPAIR) from error
    if not isinstance(content, dict):
        raise BadStore(path, "a JSON object", type(content).__name__, REPAIR)
    return content


def check_count(path: Path, content: dict[str, Any], field: str, found: int, what: str, advice: str) -> None:
    """Refuse arrays that differ from the number their conversion wrote down; a missing field is not checked.

    Raises:
        BadStore: another number.
    """
    if field in content and content[field] != found:
        raise BadStore(path, f"{field} {content[field]}, as it says", f"{found} {what}", advice)


def read_npy(path: Path) -> NDArray[Any]:
    """A .npy file of numbers with one axis (no pickle).

    Raises:
        BadStore: something else, or cut short.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadStore(path, "a .npy file of numbers", _first_line(error), REPAIR) from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "fiu":
        found = f"shape {list(array.shape)}, {array.dtype}" if isinstance(array, np.ndarray) else "an archive"
        raise BadStore(path, "a .npy file of numbers with one axis", found, REPAIR)
    return array


def _shown(part: Any) -> str:
    return f"{part.start} to {part.stop - 1}" if isinstance(part, slice) else str(part)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
