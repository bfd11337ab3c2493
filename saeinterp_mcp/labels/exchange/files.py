"""Reading and writing files: bounded lines, one JSON document, and files that are whole or not there."""

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.records import BadLine

MAX_LINE = 1 << 20
"""Bytes of a line."""
MAX_DOCUMENT = 256 << 20
"""Bytes of a JSON document, which is read whole."""
_GIT_MARKS = (b"<<<<<<< ", b"=======\n", b"=======\r\n", b">>>>>>> ", b"||||||| ")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to read, unpacked where its name ends in .gz.

    Raises:
        BadInput: it is not there, cannot be read, or is no gzip file.
    """
    if path.exists() and not path.is_file():  # it is read more than once
        raise BadInput(f"{path} is no file")
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]  # GzipFile reads like any other
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path} is no whole gzip file: {error}") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def lines_of(path: Path) -> Iterator[tuple[str, bytes | BadLine]]:
    """(where, content) of the lines of a file that are not blank; a line that is too long is bad."""
    with opened(path) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            where = f"line {number}"
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield where, BadLine(where, f"longer than {MAX_LINE} bytes")
            elif line.strip():
                yield where, line


def object_in(where: str, line: bytes) -> dict[str, Any]:
    """The JSON object that a line is.

    Raises:
        BadLine: it is none.
    """
    if line.startswith(_GIT_MARKS):
        raise BadLine(where, "a conflict mark of git; take the marks out, both versions may stay")
    value = _parsed(where, line)
    if not isinstance(value, dict):
        raise BadLine(where, f"expected a JSON object, found {type(value).__name__}")
    return value


def document(path: Path) -> Any:
    """The JSON document that a file is.

    Raises:
        BadInput: it is none, or too big.
    """
    with opened(path) as file:
        content = file.read(MAX_DOCUMENT + 1)
    if len(content) > MAX_DOCUMENT:
        raise BadInput(f"{path} is longer than {MAX_DOCUMENT} bytes, too much for one JSON document")
    try:
        return _parsed(str(path), content)
    except BadLine as error:
        raise BadInput(str(error)) from error


def _parsed(where: str, content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise BadLine(where, f"not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise BadLine(where, f"not JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)[:40]!r} is given twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def write_whole(path: Path, pieces: Iterable[bytes]) -> int:
    """Write a file under another name and give it its own when it is whole; packed where it ends in .gz. Its size.

    Raises:
        BadInput: it cannot be written there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            with partial.open("wb") as file:
                if path.suffix == ".gz":
                    with gzip.GzipFile("", "wb", 5, file, mtime=0) as packed:  # no name, no time: same bytes
                        packed.writelines(pieces)
                else:
                    file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            size = partial.stat().st_size
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}") from error
    return size
