"""The child process that does what needs torch (`python -m pipeline.worker`): started on first use, then kept."""

import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from saeinterp_mcp.errors import BadInput, Unavailable

CODE = Path(__file__).resolve().parents[2]
"""The folder that holds this package, and `pipeline` beside it: both come in one wheel."""
COMMAND = (sys.executable, "-P", "-m", "pipeline.worker")
"""-P: what lies in the working directory is never taken for ours."""
START_SECONDS = 120.0
"""Beyond the limit of an answer, for a child that has just been started: it loads torch and a model first."""
INSTALL = 'pip install "saeinterp-mcp[pipeline]"'


class TooSlow(Unavailable):
    """The worker did not answer in time."""


class _Died(Exception):
    """The child ended in the middle of a request."""


class WorkerProcess:
    """One child that answers one request at a time; safe for many threads, which wait for each other."""

    def __init__(self, command: Sequence[str] = COMMAND, start_seconds: float = START_SECONDS) -> None:
        self._command, self._start_seconds = tuple(command), start_seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._killed: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return self._child.pid if self._child else None

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a request. A child that has died is started again, once.

        Args:
            request: what `pipeline.worker` takes.
            seconds: limit of the answer; after it the child is killed, and the next request starts a new one.

        Raises:
            BadInput: the worker says what is wrong with the request.
            Unavailable: it cannot be started, died twice, is too slow (TooSlow), or failed.
        """
        if not self._lock.acquire(timeout=self._start_seconds + seconds):
            raise TooSlow(
                f"the worker was busy with other requests for {self._start_seconds + seconds:g} s; try again"
            )
        try:
            try:
                answer = self._exchange(request, seconds)
            except _Died:
                answer = self._exchange(request, seconds)
        except _Died as death:
            raise Unavailable(f"the worker (python -m pipeline.worker) died, twice: {death}") from death
        except BaseException:
            self._end()  # an answer that nobody read would be taken for that of the next request
            raise
        finally:
            self._lock.release()
        if "error" not in answer:
            return answer
        if answer.get("kind") == "caller":
            raise BadInput(str(answer["error"]))
        raise Unavailable(f"the worker failed, which is a bug of saeinterp: {answer['error']}")

    def close(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def kill(self) -> None:
        """End the child now, and fail the request that it is at."""
        self._killed = self._child
        if self._killed is not None:
            self._killed.kill()

    def _exchange(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        child, limit = self._child, seconds
        if child is None or child.poll() is not None:
            self._end()
            child, limit = self._start(), seconds + self._start_seconds
        assert child.stdin is not None, "it is a pipe"
        assert child.stdout is not None, "it is a pipe"
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()  # ends a write or read that waits

        timer = threading.Timer(limit, stop)
        timer.daemon = True
        timer.start()
        try:
            child.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:
            line = b""
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            return dict(json.loads(line))
        if child is self._killed:
            raise Unavailable("the worker was stopped in the middle of a request")
        if late.is_set():
            raise TooSlow(
                f"the worker did not answer within {limit:g} s and was stopped; ask for less, or try again"
            )
        child.kill()
        raise _Died(f"exit status {child.wait()}; {self._last_words()}")

    def _start(self) -> "subprocess.Popen[bytes]":
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        paths = (str(CODE), os.environ.get("PYTHONPATH"))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        try:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment,
            )
        except OSError as error:
            raise Unavailable(f"the worker ({' '.join(self._command)}) cannot be started: {error}") from error
        atexit.register(self._end)
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            atexit.unregister(self._end)
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None, "both are pipes"
                with contextlib.suppress(OSError):  # what was not sent yet cannot be sent any more
                    pipe.close()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _last_words(self) -> str:
        assert self._stderr is not None, "it is opened with the child"
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return f"its last words: {lines[-1][:300]}" if lines else "it said nothing"


def missing(*packages: str) -> str | None:
    """Which of some packages the worker would not find, in words with what to do; None when all are there.

    Nothing is imported: torch would cost seconds and stay in the process.
    """
    if not (CODE / "pipeline" / "worker.py").is_file():
        return f"this installation has no pipeline package; {INSTALL}"
    absent = [name for name in packages if not _is_installed(name)]
    if not absent:
        return None
    return f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed; {INSTALL}"


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # blocked, or set to None in sys.modules
        return False
