"""The one connection of a process that writes to the ledger, in a thread of its own."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from saeinterp_mcp.labels.sqlite_file import SqliteFile, transaction

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")
AT_ONCE = 500
"""Writes in one transaction, at most: other processes get their turn in between."""


class Writer:
    """Whatever waits is committed together, so that many askers share the cost of reaching the disk.

    A write is on disk when its future has a result, and no sooner; what is not written yet when the process ends was
    never told to be. Every commit is flushed (`synchronous` FULL): it outlives the process, killed at any moment, and
    the power as well.
    """

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._jobs: queue.SimpleQueue[tuple[Callable[[Any], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def submit(self, work: "Callable[[sqlite3.Connection], T]") -> "Future[T]":
        """What `work` will give, once it is committed; its error, or the file's, if it is not.

        Work that raises takes what is committed with it down as well, so it should raise for bugs alone.
        """
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()  # whoever waits may be cancelled; what is to be written is not
        with self._lock:
            if self._thread is None:
                # a daemon: a caller that falls over must not hang at its end, and half a transaction is none
                self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
                self._thread.start()
            self._jobs.put((work, done))
        return done

    def close(self) -> None:
        """Finish what was submitted, and let go of the file; the next write opens it again."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._jobs.put(None)
                thread.join()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while (jobs := self._next()) is not None:
                try:
                    if connection is None:
                        connection = self._file.guarded(self._file.open)
                        connection.execute("PRAGMA synchronous = FULL")
                    results = self._file.guarded(lambda c=connection, j=jobs: _all(c, j))  # type: ignore[misc]
                except BaseException as error:
                    for _, done in jobs:
                        done.set_exception(error)
                else:
                    for (_, done), result in zip(jobs, results, strict=True):
                        done.set_result(result)
        finally:
            if connection is not None:
                connection.close()

    def _next(self) -> list[tuple[Callable[[Any], Any], "Future[Any]"]] | None:
        """All that waits, at least one; None when it is time to end."""
        job = self._jobs.get()
        if job is None:
            return None
        jobs = [job]
        while len(jobs) < AT_ONCE:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # for the next round
                break
            jobs.append(job)
        return jobs


def _all(
    connection: "sqlite3.Connection", jobs: list[tuple[Callable[[Any], Any], "Future[Any]"]]
) -> list[Any]:
    with transaction(connection):
        return [work(connection) for work, _ in jobs]
