"""A reporter that keeps what it is told."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.stage import Progress


class Recorder:
    """Collects the runner's lines and how often each stage reported progress."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: dict[str, list[tuple[int, int]]] = {}

    def say(self, line: str) -> None:
        self.lines.append(line)

    @contextmanager
    def working(self, stage: str) -> Iterator[Progress]:
        steps = self.steps.setdefault(stage, [])

        def advance(done: int, total: int) -> None:
            steps.append((done, total))

        yield advance

    def first(self, stage: str) -> str:
        """The first line about a stage."""
        return next(line for line in self.lines if line.startswith(f"{stage}: "))
