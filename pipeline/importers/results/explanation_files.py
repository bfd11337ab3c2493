"""One file of an explanation: a JSON string, as delphi writes it, or plain text."""

import hashlib
import json
from pathlib import Path

from pipeline.importers.results.records import Explanation, Problem, Status

FAILED = ("explanation could not be parsed", "no explanation found")
"""What delphi writes where there is no explanation."""
MOST_BYTES = 1 << 28
"""Larger files are nobody's explanation or score."""


class Content:
    """The bytes of a file, and their hash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: Problem | None = None
        self.text, self.sha256 = "", ""
        try:
            if path.stat().st_size > MOST_BYTES:
                self.problem = Problem(path, "foreign", f"more than {MOST_BYTES >> 20} MiB")
                return
            content = path.read_bytes()
        except OSError as error:
            self.problem = Problem(path, "foreign", error.strerror or "cannot be read")
            return
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self.text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.problem = Problem(path, "foreign", f"not UTF-8 at byte {error.start}")
            return
        if not self.text.strip():
            self.problem = Problem(path, "empty", "nothing is in it")


def read_explanation(path: Path, feature: int, runaway_characters: int) -> Explanation | Problem:
    """What a file holds, or why it is passed over."""
    content = Content(path)
    if content.problem is not None:
        return content.problem
    text, plain = content.text, False
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError):
        if text.lstrip().startswith('"'):
            return Problem(path, "truncated", "a JSON string without its end")
        decoded, plain = text.strip(), True
    if isinstance(decoded, dict | list):
        return Problem(
            path, "foreign", f"a JSON {'object' if isinstance(decoded, dict) else 'list'}, no string"
        )
    if decoded is None:
        decoded = ""
    elif not isinstance(decoded, str):
        decoded, plain = text.strip(), True
    whole = without_halves(decoded)
    return Explanation(feature, whole, status_of(whole, runaway_characters), path, content.sha256, plain)


def status_of(text: str, runaway_characters: int) -> Status:
    """Whether a text is an explanation."""
    stripped = text.strip()
    if not stripped:
        return "empty"
    if stripped.rstrip(".").casefold() in FAILED:
        return "unparsed"
    return "runaway" if len(text) > runaway_characters else "ok"


def without_halves(text: str) -> str:
    """Halves of surrogate pairs (JSON can spell them, UTF-8 cannot) as U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
