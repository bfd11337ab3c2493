"""The ledger: every question that a run puts to a language model, written down before it is sent, and its answer.

One SQLite file beside the store's folder (`demo-store` and `demo-store.runs.sqlite`). An answer is found again by the
fingerprint of its question, in any run, so nothing is paid for twice. Safe for many processes.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from saeinterp_mcp.asking import calls, runs
from saeinterp_mcp.asking.schema import APPLICATION_ID, MIGRATIONS, SUFFIX
from saeinterp_mcp.asking.status import FeatureCost, RunStatus, costs_of, status_of
from saeinterp_mcp.asking.writer import Writer
from saeinterp_mcp.clients.base import Reply
from saeinterp_mcp.labels.sqlite_file import SqliteFile

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")


class RunsFile(SqliteFile):
    """Runs, questions and answers."""

    noun = "ledger of runs"
    purpose = "What was asked and answered is kept there, so nothing is asked without it"
    advice = "Restore it from a copy, or move it away: answers in it are paid for."
    newer = "A newer saeinterp wrote it: use that one."
    application_id = APPLICATION_ID

    @property
    def migrations(self) -> Sequence[Sequence[str]]:
        """Of the ledger."""
        return MIGRATIONS


class Ledger:
    """One file, for one process; any of its threads may use it. Reading makes no file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = RunsFile(path)
        self._writer = Writer(self.file)
        self._reader: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def begin(
        self,
        kind: str,
        config: Mapping[str, Any],
        lineage: str,
        store: str,
        n_total: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> "runs.Run":
        """Start a run, or go on with one: the same kind, config and store are the same run.

        What it had sent and never got an answer to is uncertain from now on, and so is what other dead processes had.

        Args:
            kind: `explain`, `score`, ...
            config: what changes results; JSON.
            lineage: of the store.
            store: fingerprint of the store.
            n_total: how many features it is about.
            settings: what does not change results (ceilings, concurrency), for reports; the newest are kept.

        Raises:
            BadInput: a live process works on it, or the ledger cannot be written.
        """
        return runs.begin(self, kind, config, lineage, store, n_total, settings or {})

    def runs_of(self, lineage: str) -> list[RunStatus]:
        """Runs about a store, the newest first; none, and no file made, where there is none."""
        none = list[RunStatus]()
        return self.file.read(lambda c: status_of(c, self.path, "store", lineage), none)

    def run_status(self, run: str) -> RunStatus | None:
        """How a run stands."""
        none = list[RunStatus]()
        return next(iter(self.file.read(lambda c: status_of(c, self.path, "run", run), none)), None)

    def costs_of(self, run: str) -> dict[int, FeatureCost]:
        """What a run took for each feature."""
        return self.file.read(lambda c: costs_of(c, run), {})

    def reply(self, key: str) -> Reply | None:
        """The answer to a question, by `Request.key(client.name)`."""
        return self.look(lambda c: calls.reply_of(c, key)) if self.path.exists() else None

    def answered(self, keys: Sequence[str]) -> set[str]:
        """Those of the questions that have an answer, which costs nothing any more."""
        return self.look(lambda c: calls.answered(c, keys)) if self.path.exists() else set()

    def paid(self, keys: Sequence[str]) -> float | None:
        """Dollars paid for these questions, in any run, each time they were sent; None if any of it is unknown."""
        return self.look(lambda c: calls.paid(c, keys)) if self.path.exists() else 0.0

    def look(self, work: "Callable[[sqlite3.Connection], T]") -> T:
        """What `work` reads, over a connection that stays open: many small looks cost little. Makes the file."""
        with self._lock:
            if self._reader is None:
                self._reader = self.file.guarded(self.file.open)
            reader = self._reader
            return self.file.guarded(lambda: work(reader))

    def submit(self, work: "Callable[[sqlite3.Connection], T]") -> "Future[T]":
        """What `work` gives, once it is on disk."""
        return self._writer.submit(work)

    def write(self, work: "Callable[[sqlite3.Connection], T]") -> T:
        """What `work` gives; it is on disk when this returns."""
        return self.submit(work).result()

    def runs_under_way(self) -> list[str]:
        """Runs with questions that were sent alone and not answered, whether their process lives or not."""
        ask = "SELECT DISTINCT run FROM calls WHERE state = 'sent' AND batch IS NULL"
        return [row[0] for row in self.look(lambda c: c.execute(ask).fetchall())]

    def lives(self, run: str) -> bool:
        """Whether a process works on a run."""
        return runs.is_held(runs.lock_path(self.path, run))

    def bury(self, run: str) -> bool:
        """What a dead run had under way is uncertain from now on; whether it is dead.

        Batches stay as they are: the provider knows what came of them.
        """
        lock = runs.RunLock.take(runs.lock_path(self.path, run))
        if lock is None:
            return False
        try:
            self.write(lambda c: calls.lose(c, "batch IS NULL AND run = ?", run))
        finally:
            lock.release()
        return True

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        self._writer.close()
        with self._lock:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()


def ledger_beside(folder: Path) -> Ledger:
    """The ledger of a store in a folder: beside it, under its name."""
    place = folder.resolve()
    return Ledger(place.with_name(place.name + SUFFIX))
