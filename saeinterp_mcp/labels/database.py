"""The labels file: labels, notes, queue, held-out tests and what was answered, in one SQLite database.

It lies beside the folder of the store and is named like it (`demo-store` and `demo-store.labels.sqlite`), or where
`--labels` says; a file may serve many stores, each under its lineage. A store read over HTTP has no place of its own.

Safe for many processes, and no file is ever replaced: see `labels.sqlite_file`.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.labels.schema import APPLICATION_ID, MIGRATIONS, SUFFIX
from saeinterp_mcp.labels.sqlite_file import SqliteFile, migrate, transaction

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")


class LabelDatabase(ABC):
    """Where labels and all that belongs to them are kept; `labels.revisions` and its neighbours know the tables."""

    name: str
    """For messages."""

    @abstractmethod
    def read(self, work: "Callable[[sqlite3.Connection], T]", empty: T) -> T:
        """What `work` finds in one state of the database; `empty` where there is none yet.

        Raises:
            BadInput: it cannot be read there.
            BadStore: what is there is no labels file, is damaged or newer.
        """

    @abstractmethod
    def write(self, work: "Callable[[sqlite3.Connection], T]") -> T:
        """What `work` gives, in one transaction: all of it is kept, or nothing when it raises.

        Raises:
            BadInput: it cannot be written there.
            BadStore: what is there is no labels file, is damaged or newer.
        """


class LabelsInMemory(LabelDatabase):
    """Of a store that lives in memory, and goes with it."""

    name = "the labels of a store in memory"

    def __init__(self) -> None:
        import sqlite3

        self._lock = threading.RLock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        with transaction(self._connection):
            migrate(self._connection, 0, MIGRATIONS, APPLICATION_ID)

    def read(self, work: "Callable[[sqlite3.Connection], T]", empty: T) -> T:
        """One thread after the other."""
        with self._lock:
            return work(self._connection)

    def write(self, work: "Callable[[sqlite3.Connection], T]") -> T:
        """One thread after the other."""
        with self._lock, transaction(self._connection):
            return work(self._connection)


class LabelFile(SqliteFile, LabelDatabase):
    """Labels in a file."""

    noun = "labels file"
    purpose = (
        "Labels, notes, held-out tests and evidence are kept there; name a file that can be written with "
        "--labels FILE"
    )
    advice = "Restore it from a copy, move it away, or name another file with --labels."
    newer = "A newer saeinterp wrote it: use that one, or name another file with --labels."
    application_id = APPLICATION_ID

    @property
    def migrations(self) -> Sequence[Sequence[str]]:
        """Of the labels file."""
        return MIGRATIONS


def labels_beside(folder: Path) -> LabelFile:
    """The labels file of a store in a folder: beside it, under its name."""
    place = folder.resolve()
    return LabelFile(place.with_name(place.name + SUFFIX))


def copy_labels(old: Path, new: Path) -> bool:
    """Give a store the labels of the generation it comes from; whether there were any. A file that is there stays.

    Raises:
        BadStore: the old labels file is damaged.
    """
    import sqlite3

    source, target = labels_beside(old).path, labels_beside(new).path
    if not source.exists() or target.exists():
        return False
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"{source.as_uri()}?mode=rw", uri=True)) as from_,
            closing(sqlite3.connect(partial)) as to,
        ):
            from_.backup(to)
    except sqlite3.DatabaseError as error:
        partial.unlink(missing_ok=True)
        raise BadStore(source, "a labels file", str(error), LabelFile.advice) from error
    partial.rename(target)
    return True


def now() -> str:
    """The time of a write: UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
