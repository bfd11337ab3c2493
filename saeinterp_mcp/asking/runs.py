"""A run: the process that asks, under a lock that the kernel lets go of however the process ends."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Self

from saeinterp_mcp.asking.calls import lose
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import canonical_json, fingerprint
from saeinterp_mcp.labels.database import now

if TYPE_CHECKING:
    import sqlite3

    from saeinterp_mcp.asking.ledger import Ledger

RunState = Literal["running", "stopped", "done", "failed", "interrupted"]
"""stopped: before its end, for a reason (a ceiling, too many failures, the user); failed: by an error; interrupted: its
process ended without a word. Only `done` is complete; all can be started again."""
LOOK_SECONDS = 1.0
"""How long a new run tries to get its lock: another process may be looking whether it is held."""


class RunLock:
    """A file that is locked while a run is worked on, and gone afterwards."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file

    @classmethod
    def take(cls, path: Path, wait_seconds: float = 0.0) -> "RunLock | None":
        """The lock; None if another has it."""
        until = time.monotonic() + wait_seconds
        while True:
            try:
                file = path.open("ab")
            except OSError as error:
                raise BadInput(
                    f"{path.parent} cannot be written: {error.strerror}. What is asked is written down beside the "
                    "store; where its folder is read-only, beside the labels file: name one with --labels FILE"
                ) from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_at(path, file):
                    return cls(path, file)
            except BlockingIOError:
                if time.monotonic() >= until:
                    file.close()
                    return None
                time.sleep(0.02)
            file.close()

    def release(self) -> None:
        """Let the next one have it."""
        if not self._file.closed:  # a second time it would take away the lock of the next one
            self._path.unlink(missing_ok=True)
            self._file.close()


def is_held(path: Path) -> bool:
    """Whether a process works on the run of that lock."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether a file is still there under its name: the one before may have taken it away meanwhile."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def lock_path(ledger: Path, run: str) -> Path:
    """Beside the ledger."""
    return ledger.with_name(f"{ledger.name}.{run}.lock")


class Run:
    """One run that this process works on, from `Ledger.begin`; leaving it as a context ends it."""

    def __init__(self, ledger: "Ledger", run: str, lock: RunLock, seconds: float) -> None:
        self.ledger, self.run = ledger, run
        self._lock, self._seconds = lock, seconds
        self._began = time.monotonic()
        self._ended = False

    @property
    def seconds(self) -> float:
        """Worked on so far, in this process and before it."""
        return self._seconds + time.monotonic() - self._began

    def progress(
        self, n_done: int, n_total: int | None = None, counts: Mapping[str, int] | None = None
    ) -> None:
        """How many features are done; `counts` are any others that a report shows."""
        values = {
            "n_done": n_done,
            "n_total": n_total,
            "counts": None if counts is None else canonical_json(counts),
        }
        self._set({name: value for name, value in values.items() if value is not None})

    def finish(self, state: Literal["done", "stopped", "failed"], why: str | None = None) -> None:
        """End it, and say how."""
        if self._ended:
            return
        try:
            self._set({"state": state, "why": why})
        finally:
            self._ended = True
            self._lock.release()

    def touch(self, connection: "sqlite3.Connection") -> None:
        """Part of any write of the run: it lives."""
        self._update(connection, {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Done, unless it was said otherwise or something is raised."""
        if kind is None:
            self.finish("done")
        elif issubclass(kind, KeyboardInterrupt | SystemExit):
            self.finish("stopped", "interrupted by the user")
        else:
            with contextlib.suppress(Exception):  # the error that is under way says more
                self.finish("failed", f"{kind.__name__}: {error}"[:1000])

    def _set(self, values: dict[str, Any]) -> None:
        self.ledger.write(lambda c: self._update(c, values))

    def _update(self, connection: "sqlite3.Connection", values: dict[str, Any]) -> None:
        values = {**values, "seconds": self.seconds, "changed_at": now()}
        names = ", ".join(f"{name} = ?" for name in values)
        connection.execute(f"UPDATE runs SET {names} WHERE run = ?", (*values.values(), self.run))


def begin(
    ledger: "Ledger",
    kind: str,
    config: Mapping[str, Any],
    lineage: str,
    store: str,
    n_total: int | None,
    settings: Mapping[str, Any],
) -> Run:
    """See `Ledger.begin`."""
    run = run_id(kind, config, store)
    lock = RunLock.take(lock_path(ledger.path, run), LOOK_SECONDS)
    if lock is None:
        raise BadInput(_busy(ledger, run))
    try:
        seconds = ledger.write(lambda c: _begin(c, run, kind, config, lineage, store, n_total, settings))
        for other in ledger.runs_under_way():
            if other != run:
                ledger.bury(other)
    except BaseException:
        lock.release()
        raise
    return Run(ledger, run, lock, seconds)


def run_id(kind: str, config: Mapping[str, Any], store: str) -> str:
    """The same run, whoever starts it: what it does and of which store (its fingerprint, not its lineage)."""
    return f"run-{fingerprint([kind, config, store])}"


def _begin(
    connection: "sqlite3.Connection",
    run: str,
    kind: str,
    config: Mapping[str, Any],
    lineage: str,
    store: str,
    n_total: int | None,
    settings: Mapping[str, Any],
) -> float:
    """Write it down as running: the seconds that it has run before."""
    lose(connection, "batch IS NULL AND run = ?", run)
    row = connection.execute("SELECT seconds, n_total FROM runs WHERE run = ?", (run,)).fetchone()
    if row is None:
        connection.execute(
            "INSERT INTO runs (run, kind, store, fingerprint, config, settings, state, pid, n_total, n_done, counts, "
            "seconds, started_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?, 0, '{}', 0, ?, ?)",
            (
                run,
                kind,
                lineage,
                store,
                canonical_json(config),
                canonical_json(settings),
                os.getpid(),
                n_total,
            )
            + (now(),) * 2,
        )
        return 0.0
    connection.execute(
        "UPDATE runs SET state = 'running', why = NULL, settings = ?, pid = ?, n_total = ?, changed_at = ? "
        "WHERE run = ?",
        (canonical_json(settings), os.getpid(), row[1] if n_total is None else n_total, now(), run),
    )
    return float(row[0])


def _busy(ledger: "Ledger", run: str) -> str:
    ask = "SELECT pid, changed_at FROM runs WHERE run = ?"
    row = ledger.file.read(lambda c: c.execute(ask, (run,)).fetchone(), None)
    who = f"process {row[0]}, last heard of at {row[1]}" if row else "another process"
    return (
        f"{run} is being worked on by {who}. Wait for it, or stop that process and start again: what is answered stays "
        "answered"
    )


def config_of(text: str) -> dict[str, Any]:
    """A config or settings, as they were written."""
    return dict(json.loads(text))
