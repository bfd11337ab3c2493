"""Files of finished folders in new ones without copying: a store is never written to, so one file may serve many."""

import shutil
from collections.abc import Callable
from pathlib import Path


def link_file(source: Path, target: Path) -> None:
    """Hard-link a file; copy it where the file system cannot link. One that is there already is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def link_tree(source: Path, target: Path, wanted: Callable[[Path], bool] = lambda name: True) -> None:
    """Link every file of a tree whose relative path is wanted."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and wanted(name):
            link_file(path, target / name)


def link_array(source: Path, target: Path, name: str) -> None:
    """Link one array of a store, with the metadata of the groups it lies in."""
    link_tree(source / name, target / name)
    for group in Path(name).parents:
        if (source / group / "zarr.json").is_file():
            link_file(source / group / "zarr.json", target / group / "zarr.json")
