"""What the records of an export for Neuronpedia share: whose they are, their ids, and how lines are written."""

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from saeinterp_mcp.errors import BadInput

BATCH = 1_024
"""Features of a file."""
LEVEL = 5
"""Of gzip, as theirs."""
CREATOR = "clkht01d40000jv08hvalcvly"
"""The user that Neuronpedia's own converters name when nobody says who."""


class Origin(NamedTuple):
    """Whose export it is, in Neuronpedia's names."""

    model_id: str
    layer: str
    """The source: `12-gemmascope-res-16k`."""
    creator_id: str = CREATOR
    creator_name: str = "saeinterp"
    release: str | None = None

    @property
    def source_set(self) -> str:
        """The source without its layer and suffix."""
        return self.layer.partition("-")[2].partition("__")[0] or self.layer

    @property
    def release_name(self) -> str:
        """Of the release; default the source set."""
        return self.release or self.source_set

    def check(self) -> None:
        """Refuse what names no folders.

        Raises:
            BadInput: a name is missing, or is a path.
        """
        for option, name in (("--model-id", self.model_id), ("--layer", self.layer)):
            if not name:
                raise BadInput(
                    f"an export for Neuronpedia needs {option}: its names of the model (gemma-2-2b) and of the source "
                    "(12-gemmascope-res-16k)"
                )
            if "/" in name or "\\" in name or name.startswith("."):
                raise BadInput(
                    f"{option} {name[:80]!r} becomes a folder, so it holds no slash and begins with no dot"
                )


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """JSON lines, packed where the name ends in .gz; the same records give the same bytes."""
    text = "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in records)
    content = text.encode("utf-8", "surrogatepass")
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=LEVEL, mtime=0)
    path.write_bytes(content)


def cuid(*parts: object) -> str:
    """An id as theirs look, of 25 characters, that depends on what it names only."""
    number = int.from_bytes(hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest(), "big")
    letters = ""
    for _ in range(24):
        number, digit = divmod(number, 36)
        letters += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
    return "c" + letters
