"""The labels file: labels, notes, queue, held-out tests and what was answered, in one SQLite database.

It lies beside the folder of the store and is named like it (`demo-store` and `demo-store.labels.sqlite`), or where
`--labels` says; a file may serve many stores, each under its lineage. A store read over HTTP has no place of its own.

Safe for many processes: write-ahead log, one short transaction a write, nothing kept open. The schema number is
`user_version`; older files are brought up to date by `MIGRATIONS`, newer and foreign ones are refused, and no file is
ever replaced.
"""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.labels.schema import APPLICATION_ID, MIGRATIONS, SUFFIX

if TYPE_CHECKING:
    import sqlite3

BUSY_SECONDS = 30.0
"""How long to wait for other processes that write."""
ADVICE = "Restore it from a copy, move it away, or name another file with --labels."
NEWER = "A newer saeinterp wrote it: use that one, or name another file with --labels."
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
        with _transaction(self._connection):
            _bring_up_to_date(self._connection, 0)

    def read(self, work: "Callable[[sqlite3.Connection], T]", empty: T) -> T:
        """One thread after the other."""
        with self._lock:
            return work(self._connection)

    def write(self, work: "Callable[[sqlite3.Connection], T]") -> T:
        """One thread after the other."""
        with self._lock, _transaction(self._connection):
            return work(self._connection)


class LabelFile(LabelDatabase):
    """A SQLite file. Nothing is kept open, so a server never stands in the way of another process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def read(self, work: "Callable[[sqlite3.Connection], T]", empty: T) -> T:
        """Read without making a file; an older one is brought up to date first."""
        if not self.path.exists():
            return empty

        def look() -> T:
            with closing(self._connect("rw" if os.access(self.path.parent, os.W_OK) else "ro")) as connection:
                version = self._version(connection)
                if not version:
                    return empty
                if version < len(MIGRATIONS):
                    self._upgrade(connection)
                with _transaction(connection, "DEFERRED"):
                    return work(connection)

        return self._guarded(look)

    def write(self, work: "Callable[[sqlite3.Connection], T]") -> T:
        """One transaction, on disk when it returns."""

        def change() -> T:
            with closing(self._connect("rwc")) as connection:
                self._upgrade(connection)
                with _transaction(connection):
                    return work(connection)

        return self._guarded(change)

    def _upgrade(self, connection: "sqlite3.Connection") -> None:
        if (version := self._version(connection)) == len(MIGRATIONS):
            return
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        with _transaction(connection):
            if (version := self._version(connection)) < len(MIGRATIONS):
                _bring_up_to_date(connection, version)

    def _connect(self, mode: Literal["rw", "rwc", "ro"]) -> "sqlite3.Connection":
        import sqlite3  # a server asked its name need not load it

        location = f"{self.path.resolve().as_uri()}?mode={mode}"
        if mode == "ro" and not self.path.with_name(self.path.name + "-wal").exists():
            location += "&immutable=1"  # a write-ahead log cannot be read in a folder that cannot be written
        return sqlite3.connect(location, uri=True, timeout=BUSY_SECONDS, isolation_level=None)

    def _version(self, connection: "sqlite3.Connection") -> int:
        """The schema number of the file; 0 for one that is still empty."""
        ask = connection.execute
        version, owner = (
            int(ask(f"PRAGMA {name}").fetchone()[0]) for name in ("user_version", "application_id")
        )
        if owner != APPLICATION_ID and ask("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise BadStore(self.path, "a labels file of saeinterp", "another program's database", ADVICE)
        if version > len(MIGRATIONS):
            expected, found = f"a labels file of schema {len(MIGRATIONS)} or older", f"schema {version}"
            raise BadStore(self.path, expected, found, NEWER)
        return version

    def _guarded(self, work: Callable[[], T]) -> T:
        """What `work` gives; SQLite's errors become ours. A file that is locked in spite of waiting is tried again."""
        import sqlite3

        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                # some locks (the change to WAL, a recovery) are refused without waiting
                if (
                    error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
                    and time.monotonic() < until
                ):
                    time.sleep(0.01)
                    continue
                if error.sqlite_errorname == "SQLITE_ERROR":
                    raise  # a statement that does not fit the tables: a bug of ours
                raise BadInput(
                    f"{self.path} cannot be used: {error}. Labels, notes, held-out tests and evidence are kept there; "
                    "name a file that can be written with --labels FILE"
                ) from error
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                    raise  # a bug of ours
                raise BadStore(self.path, "a labels file", str(error), ADVICE) from error


@contextmanager
def _transaction(connection: "sqlite3.Connection", kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _bring_up_to_date(connection: "sqlite3.Connection", version: int) -> None:
    for migration in MIGRATIONS[version:]:
        for statement in migration:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


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
        raise BadStore(source, "a labels file", str(error), ADVICE) from error
    partial.rename(target)
    return True


def now() -> str:
    """The time of a write: UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
