"""The record of held-out tests: which rules were tried on data kept back, so that nobody forgets how often.

One SQLite file beside the folder of the store and named like it (`demo-store` and `demo-store.labels.sqlite`), or
where `--labels` says; a file may hold the records of many stores, each under the store's fingerprint. A store read over
HTTP has no place of its own.

Safe for many processes: write-ahead log, one short transaction a record. The schema number is `user_version`; older
files are brought up to date by `MIGRATIONS`, newer and foreign ones are refused, and no file is ever replaced.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    import sqlite3

SUFFIX = ".labels.sqlite"
APPLICATION_ID = 0x5AE1A6E1
"""Marks a file as ours, so that somebody's other database is not taken for one."""
BUSY_SECONDS = 30.0
"""How long to wait for other processes that write."""
MIGRATIONS = (
    """
    CREATE TABLE heldout_tests (
        id INTEGER PRIMARY KEY,
        store TEXT NOT NULL,
        feature INTEGER NOT NULL,
        test TEXT NOT NULL,
        rule TEXT NOT NULL,
        "where" TEXT,
        scope TEXT,
        evidence TEXT NOT NULL,
        arguments TEXT NOT NULL,
        result TEXT NOT NULL,
        balanced_accuracy REAL,
        low REAL,
        high REAL,
        floor REAL,
        made_at TEXT NOT NULL,
        UNIQUE (store, feature, test, evidence)
    )
    """,
)
"""Statement that leads from schema number i to i + 1; only ever appended to."""
ADVICE = "Restore it from a copy, move it away, or name another file with --labels."
NEWER = "A newer saeinterp wrote it: use that one, or name another file with --labels."
T = TypeVar("T")


class HeldoutTest(Frozen):
    """One look at the held-out split."""

    store: str
    """Fingerprint."""
    feature: int
    test: str
    """Fingerprint of rule, where and scope in their normal forms: what makes two tests the same one."""
    rule: str
    """In its normal form."""
    where: str | None
    scope: str | None
    evidence: str
    arguments: str
    """Of the call, as canonical JSON."""
    result: str
    """Fingerprint of the answer."""
    balanced_accuracy: float | None
    low: float | None
    high: float | None
    floor: float | None
    """The balanced accuracy it had to beat."""


class Ledger(ABC):
    """Where held-out tests are recorded."""

    @abstractmethod
    def record(self, test: HeldoutTest) -> int:
        """Keep a test, once; how many different tests of that feature on that store there are now, this one included.

        Raises:
            BadInput: it cannot be written there.
            BadStore: what is there is no record of ours, is damaged or newer.
        """

    @abstractmethod
    def n_tests(self, store: str, feature: int) -> int | None:
        """Different tests of a feature on a store's held-out split; None where the record cannot be read."""


class LedgerInMemory(Ledger):
    """Of a store that lives in memory, and goes with it."""

    def __init__(self) -> None:
        self._tests: set[tuple[str, int, str]] = set()

    def record(self, test: HeldoutTest) -> int:
        """Keep which tests there were."""
        self._tests.add((test.store, test.feature, test.test))
        return self.n_tests(test.store, test.feature)

    def n_tests(self, store: str, feature: int) -> int:
        """Different tests."""
        return sum((s, f) == (store, feature) for s, f, _ in self._tests)


class LedgerFile(Ledger):
    """A SQLite file. Nothing is kept open, so a server never stands in the way of another process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, test: HeldoutTest) -> int:
        """Keep a test in one transaction."""
        values: dict[str, Any] = test.model_dump()
        values["made_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        names = ", ".join(f'"{name}"' for name in values)
        slots = ", ".join(f":{name}" for name in values)
        insert = f"INSERT OR IGNORE INTO heldout_tests ({names}) VALUES ({slots})"

        def write(connection: "sqlite3.Connection") -> int:
            connection.execute(insert, values)
            return _count(connection, test.store, test.feature)

        return self._guarded(lambda: self._in_transaction(write))

    def n_tests(self, store: str, feature: int) -> int | None:
        """Different tests; 0 where there is no file yet."""
        if not self.path.exists():
            return 0
        try:
            return self._guarded(lambda: self._read(store, feature))
        except BadInput:  # a write-ahead log cannot be read in a folder that cannot be written
            return None

    def _read(self, store: str, feature: int) -> int:
        with closing(self._connect("rw")) as connection:
            return _count(connection, store, feature) if self._version(connection) else 0

    def _in_transaction(self, write: Callable[["sqlite3.Connection"], T]) -> T:
        with closing(self._connect("rwc")) as connection:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                self._version(connection)  # a foreign file stays as it is
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._bring_up_to_date(connection)
                found = write(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        return found

    def _bring_up_to_date(self, connection: "sqlite3.Connection") -> None:
        version = self._version(connection)
        if version == len(MIGRATIONS):
            return
        for statement in MIGRATIONS[version:]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _connect(self, mode: Literal["rw", "rwc"]) -> "sqlite3.Connection":
        import sqlite3  # a server asked its name need not load it

        location = f"{self.path.resolve().as_uri()}?mode={mode}"
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
                raise BadInput(
                    f"{self.path} cannot be written: {error}. Held-out tests are recorded there; name a file that can "
                    "be written with --labels FILE, or ask with split explain"
                ) from error
            except sqlite3.DatabaseError as error:
                raise BadStore(self.path, "a labels file", str(error), ADVICE) from error


def _count(connection: "sqlite3.Connection", store: str, feature: int) -> int:
    count = "SELECT count(DISTINCT test) FROM heldout_tests WHERE store = ? AND feature = ?"
    return int(connection.execute(count, (store, feature)).fetchone()[0])


def ledger_beside(folder: Path) -> LedgerFile:
    """The record of a store in a folder: beside it, under its name."""
    place = folder.resolve()
    return LedgerFile(place.with_name(place.name + SUFFIX))
