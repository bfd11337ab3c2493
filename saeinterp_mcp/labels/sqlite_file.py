"""A SQLite file of ours: its mark, its schema number and how an older one gets there, its errors.

Safe for many processes: write-ahead log, short transactions. The schema number is `user_version`; older files are
brought up to date by migrations, newer and foreign ones are refused, and no file is ever replaced.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from saeinterp_mcp.errors import BadInput, BadStore

if TYPE_CHECKING:
    import sqlite3

BUSY_SECONDS = 30.0
"""How long to wait for other processes that write."""
T = TypeVar("T")


class SqliteFile(ABC):
    """Nothing is kept open by `read` and `write`, so a server never stands in the way of another process."""

    noun: ClassVar[str]
    """For messages: `labels file`."""
    purpose: ClassVar[str]
    """What is kept there, and how to name another one: a sentence that a message ends with."""
    advice: ClassVar[str]
    """What to do about one that is damaged or foreign."""
    newer: ClassVar[str]
    """What to do about one of a newer version."""
    application_id: ClassVar[int]
    """Marks the file as ours, so that somebody's other database is not taken for one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    @property
    @abstractmethod
    def migrations(self) -> Sequence[Sequence[str]]:
        """Statements that lead from schema number i to i + 1."""

    def read(self, work: "Callable[[sqlite3.Connection], T]", empty: T) -> T:
        """Read without making a file; an older one is brought up to date first."""
        if not self.path.exists():
            return empty

        def look() -> T:
            with closing(self.connect("rw" if os.access(self.path.parent, os.W_OK) else "ro")) as connection:
                version = self._version(connection)
                if not version:
                    return empty
                if version < len(self.migrations):
                    self._upgrade(connection)
                with transaction(connection, "DEFERRED"):
                    return work(connection)

        return self.guarded(look)

    def write(self, work: "Callable[[sqlite3.Connection], T]") -> T:
        """One transaction, on disk when it returns."""

        def change() -> T:
            with closing(self.open()) as connection, transaction(connection):
                return work(connection)

        return self.guarded(change)

    def open(self) -> "sqlite3.Connection":
        """A connection of any thread to the file, made if need be and brought up to date."""
        connection = self.connect("rwc")
        try:
            self._upgrade(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def connect(self, mode: Literal["rw", "rwc", "ro"]) -> "sqlite3.Connection":
        """A connection to the file as it is."""
        import sqlite3  # a server asked its name need not load it

        location = f"{self.path.resolve().as_uri()}?mode={mode}"
        if mode == "ro" and not self.path.with_name(self.path.name + "-wal").exists():
            location += "&immutable=1"  # a write-ahead log cannot be read in a folder that cannot be written
        return sqlite3.connect(
            location, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )

    def guarded(self, work: Callable[[], T]) -> T:
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
                raise BadInput(f"{self.path} cannot be used: {error}. {self.purpose}") from error
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                    raise  # a bug of ours
                raise BadStore(self.path, f"a {self.noun}", str(error), self.advice) from error

    def _upgrade(self, connection: "sqlite3.Connection") -> None:
        if self._version(connection) == len(self.migrations):
            return
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        with transaction(connection):
            if (version := self._version(connection)) < len(self.migrations):
                migrate(connection, version, self.migrations, self.application_id)

    def _version(self, connection: "sqlite3.Connection") -> int:
        """The schema number of the file; 0 for one that is still empty."""
        ask = connection.execute
        version, owner = (
            int(ask(f"PRAGMA {name}").fetchone()[0]) for name in ("user_version", "application_id")
        )
        if owner != self.application_id and ask("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            expected = f"a {self.noun} of saeinterp"
            raise BadStore(self.path, expected, "another program's database", self.advice)
        if version > len(self.migrations):
            expected = f"a {self.noun} of schema {len(self.migrations)} or older"
            raise BadStore(self.path, expected, f"schema {version}", self.newer)
        return version


@contextmanager
def transaction(connection: "sqlite3.Connection", kind: str = "IMMEDIATE") -> Iterator[None]:
    """All of it is kept, or nothing when it raises."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk ends it by itself
            connection.execute("ROLLBACK")
        raise


def migrate(
    connection: "sqlite3.Connection", version: int, migrations: Sequence[Sequence[str]], application_id: int
) -> None:
    """Bring tables up to date, in the transaction that is open."""
    for migration in migrations[version:]:
        for statement in migration:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {application_id}")
    connection.execute(f"PRAGMA user_version = {len(migrations)}")
