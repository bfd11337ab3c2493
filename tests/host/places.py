"""Stores that a session of Claude Code may write labels beside."""

import os
import shutil
from pathlib import Path


def own_copy(store: Path, folder: Path) -> Path:
    """The store again, its files the same ones (a store is only read), so that its labels file lies in `folder`."""
    return Path(shutil.copytree(store, folder / store.name, copy_function=os.link))
