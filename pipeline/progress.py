"""What a person sees of a run: a bar on a terminal, else a line every few seconds; all of it on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from pipeline.stage import Progress, Summary


class Reporter(Protocol):
    """What the runner tells about a run."""

    def say(self, line: str) -> None:
        """One line about the run: why a stage is skipped, what it did."""
        ...

    def working(self, stage: str) -> AbstractContextManager[Progress]:
        """A context in which a stage works; it yields the stage's progress callback."""
        ...


class TerminalReporter:
    """A bar for the stage that works, lines for those that are done."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        self._console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def working(self, stage: str) -> Iterator[Progress]:
        """Show a bar until the stage ends."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with RichProgress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(stage, total=None)

            def advance(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            yield advance


class LogReporter:
    """A line when a stage starts, one every few seconds while it works, one when it ends."""

    def __init__(self, interval_seconds: float = 5.0, stream: TextIO | None = None) -> None:
        self._interval_seconds = interval_seconds
        self._stream = stream if stream is not None else sys.stderr

    def say(self, line: str) -> None:
        """Write one line."""
        print(line, file=self._stream, flush=True)

    @contextmanager
    def working(self, stage: str) -> Iterator[Progress]:
        """Write how far the stage is, at most one line every `interval_seconds`."""
        self.say(f"{stage}: starts")
        last = time.monotonic()

        def advance(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= self._interval_seconds:
                last = now
                self.say(f"{stage}: {done:,} of {total:,}")

        yield advance


def default_reporter() -> Reporter:
    """A bar on a terminal, lines elsewhere."""
    return TerminalReporter() if sys.stderr.isatty() else LogReporter()


def summary_line(stage: str, summary: Summary, seconds: float, fingerprint: str) -> str:
    """`collect_activations: 1,000 in, 990 kept, 10 dropped (10 bos), 3.2 s, fingerprint 0123456789ab`."""
    n_dropped = sum(summary.dropped.values())
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(summary.dropped.items()) if n)
    dropped = f"{n_dropped:,} dropped" + (f" ({reasons})" if reasons else "")
    counts = f"{summary.n_in:,} in, {summary.n_kept:,} kept, {dropped}"
    line = f"{stage}: {counts}, {seconds:.1f} s, fingerprint {fingerprint[:12]}"
    return "\n".join([line, *(f"  note: {note}" for note in summary.notes)])
