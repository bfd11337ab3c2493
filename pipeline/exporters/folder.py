"""An export's folder: written beside under another name, and renamed when it is whole."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saeinterp_mcp.errors import BadInput

Progress = Callable[[int, int], None]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` if nothing fails and is removed if anything does.

    Raises:
        BadInput: `out` exists.
    """
    if out.exists():
        raise BadInput(f"{out} exists; an export is never written over. Name another folder or remove it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f"{out.name}.tmp-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        yield folder
        try:
            folder.rename(out)
        except OSError as error:
            raise BadInput(f"{out} has come into being meanwhile ({error.strerror})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Indented JSON, as the seed writes it."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below."""
    return sum((Path(place) / name).stat().st_size for place, _, names in os.walk(folder) for name in names)


def ranges(n: int, size: int) -> list[tuple[int, int]]:
    """0 to n - 1 in ranges of `size`."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]
