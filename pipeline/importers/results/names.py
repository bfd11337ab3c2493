"""What a file is about, by its name: `<hookpoint>_latent<number>.txt`, or `{module}_feature{N}.txt` of older files."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".txt", ".json")
_NAME = re.compile(r"(?P<hookpoint>.+)_(?:latent|feature)(?P<feature>[0-9]{1,10})", re.DOTALL)
MOST_FEATURES = 2**32 - 1
LEFTOVERS = ("._", ".DS_Store", "Thumbs.db", ".gitkeep")
"""Beginnings of names that desktops and git leave in folders: nobody's results."""


class Named(NamedTuple):
    """A file and what its name says."""

    path: Path
    relative: str
    """Its place in the folder, with `/`."""
    hookpoint: str | None
    """As the name spells it; None where the name is of no such form."""
    feature: int


def files_of(folder: Path) -> Iterator[Named]:
    """Every file below a folder in the order of names, but those that desktops leave.

    A hookpoint with `/` in it makes subfolders of explanations: delphi takes it into the name as it is.
    """
    for place, subfolders, names in os.walk(folder):
        subfolders.sort()
        for name in sorted(names):
            if name.startswith(LEFTOVERS):
                continue
            path = Path(place, name)
            yield named(path, path.relative_to(folder).as_posix())


def named(path: Path, relative: str) -> Named:
    """What a file is about, by its place in the folder."""
    stem = relative.removesuffix(path.suffix)
    match = _NAME.fullmatch(stem) if path.suffix in SUFFIXES else None
    if match is None or int(match["feature"]) >= MOST_FEATURES:
        return Named(path, relative, None, -1)
    return Named(path, relative, match["hookpoint"], int(match["feature"]))


def same(spelled: str, hookpoint: str) -> bool:
    """Whether a file's name spells this hookpoint and no other: delphi writes `--` for `/` in names of scores."""
    return spelled in (hookpoint, hookpoint.replace("/", "--"))
