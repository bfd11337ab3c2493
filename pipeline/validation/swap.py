"""A folder gets another's place in one step: who reads it sees the old one or the new one, whole."""

import ctypes
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2
NEW, REPLACED = ".tmp-", ".replaced-"


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, gone at the end; nobody else publishes beside it meanwhile."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(out.parent, os.O_RDONLY)
    folder = out.with_name(f"{out.name}{NEW}{os.getpid()}")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _clean(out)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _clean(out: Path) -> None:
    """What killed runs left: half a new folder, or an old one that was being replaced."""
    replaced = _left(out, REPLACED)
    if replaced and not out.exists():
        replaced.pop().rename(out)
    for left in [*replaced, *_left(out, NEW)]:
        shutil.rmtree(left, ignore_errors=True)


def _left(out: Path, mark: str) -> list[Path]:
    """Folders of processes, by their numbers: another name of that kind is somebody's own."""
    start = f"{out.name}{mark}"
    return [
        path
        for path in out.parent.iterdir()
        if path.name.startswith(start) and path.name[len(start) :].isdigit()
    ]


def swap(folder: Path, out: Path) -> None:
    """Give `folder` the name `out`; what had it gets the other name, or is removed. Readers see one or the other."""
    if not out.exists():
        folder.rename(out)
    elif not _exchange(folder, out):
        # no exchange on this system: for a moment neither is there; a run that is killed then puts the old one back
        old = out.with_name(f"{out.name}{REPLACED}{os.getpid()}")
        out.rename(old)
        folder.rename(out)
        shutil.rmtree(old)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step (renameat2 of Linux); False where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))
