"""Lines of JSON in strangers' files: bounded, unpacked, and what is bad refused with its place or counted."""

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from pydantic_core import from_json

from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.records import shown

MAX_LINE = 64 << 20
"""Bytes of a line, unpacked."""
MAX_DOCUMENT = 1 << 30
"""Bytes of a document that is read whole, unpacked: a small file may unpack to more than there is memory."""
FLOAT32_MAX, FLOAT64_MAX = 3.4028234663852886e38, 1.7976931348623157e308
SKIP = "Repair it, or leave such parts out with --bad-files skip"


class BadPart(Exception):
    """A line, record or file that cannot be taken in."""

    def __init__(self, kind: str, why: str) -> None:
        self.kind = kind
        """In a few words of ours: what counts are kept by."""
        self.why = shown(why)
        """What is wrong with this one."""
        super().__init__(self.why)


class BadParts:
    """What was bad: the first of them ends the import, or all are counted by kind, as `--bad-files` says."""

    def __init__(self, policy: Literal["skip", "stop"]) -> None:
        self.skips = policy == "skip"
        self.counts: Counter[str] = Counter()

    def met(self, path: Path, where: str, bad: BadPart) -> None:
        """Count it.

        Raises:
            BadInput: bad parts end the import.
        """
        if not self.skips:
            place = f"{path}, {where}" if where else f"{path}"
            raise BadInput(f"{place}: {bad.why}. {SKIP}")
        self.counts[bad.kind] += 1

    def notes(self) -> tuple[str, ...]:
        """How many were left out, by kind."""
        return tuple(f"left out, {kind}: {n}" for kind, n in sorted(self.counts.items()))


def lines_in(path: Path, bad: BadParts) -> Iterator[tuple[int, bytes]]:
    """(number from 1, content) of the lines that are not blank.

    Of a file that is cut off or damaged on the way, those before it come first.

    Raises:
        BadInput: the file cannot be read; or bad parts end the import.
    """
    number = 0
    try:
        with _opened(path) as file:
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE)
                    bad.met(path, f"line {number}", BadPart("line too long", f"longer than {MAX_LINE} bytes"))
                elif line.strip():
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        bad.met(path, f"after line {number}", BadPart("damaged gzip file", f"no whole gzip file: {error}"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def document(path: Path) -> Any:
    """A JSON file that is read whole, unpacked where its name ends in .gz.

    Raises:
        BadInput: it cannot be read, is no JSON, or is too big.
    """
    try:
        with _opened(path) as file:
            content = file.read(MAX_DOCUMENT + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path} is no whole gzip file: {error}") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_DOCUMENT:
        raise BadInput(f"{path} is longer than {MAX_DOCUMENT} bytes, too much for one JSON document")
    try:
        return from_json(content)
    except ValueError as error:
        raise BadInput(f"{path} is no JSON: {visible(str(error))}") from error


def record_in(line: bytes) -> dict[str, Any]:
    """The JSON object that a line is.

    Raises:
        BadPart: it is none.
    """
    try:
        value = from_json(line)
    except ValueError as error:
        raise BadPart("no JSON", f"no JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise BadPart("no JSON object", f"expected a JSON object, found {type(value).__name__}")
    return value


def natural(value: Any, name: str) -> int:
    """A whole number from 0 that fits u32, given as a number or as a string of digits.

    Raises:
        BadPart: it is none.
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 11:
        value = int(value)
    if type(value) is not int or not 0 <= value < 2**32 - 1:
        raise BadPart(f"{name} is no index", f"{name} is {_quoted(value)}, expected a whole number from 0")
    return value


def is_number(value: Any) -> bool:
    """Whether it is a finite number that fits a double; JSON may hold integers of hundreds of digits."""
    return type(value) in (int, float) and abs(value) <= FLOAT64_MAX


def strings(value: Any, name: str) -> list[str]:
    """A list of strings.

    Raises:
        BadPart: it is none.
    """
    if not isinstance(value, list) or not set(map(type, value)) <= {str}:
        raise BadPart(
            f"{name} is no list of strings", f"{name} is {_quoted(value)}, expected a list of strings"
        )
    return value


def _quoted(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]  # GzipFile reads like any other
    return path.open("rb")
