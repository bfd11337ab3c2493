"""All worlds of the table: a process for each kind, the scripted reader in another."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

from benchmarks.autointerp.planted.measure import measure
from benchmarks.autointerp.planted.records import Graded, Part, Results, part_of
from benchmarks.autointerp.planted.worlds import build
from benchmarks.recover.worlds import WorldKind
from tests.providers.fake_server import FakeServer, fake_process

READER = "benchmarks.autointerp.planted.reader:behave"
N_UNITS: dict[WorldKind, int] = {"set": 2500, "sequence": 1000}
SHUFFLED_PER_STRATUM = 2


@contextmanager
def reader() -> Iterator[FakeServer]:
    """The scripted reader in a process of its own, where both SDKs reach it."""
    with fake_process(READER) as server:
        told = {"OPENAI_BASE_URL": server.openai_url, "ANTHROPIC_BASE_URL": server.url}
        keys = {"OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none"}
        with patch.dict(os.environ, told | keys):
            yield server


def results(seeds: Sequence[int], per_stratum: dict[WorldKind, int], n_trials: int) -> Results:
    """Everything measured anew, a process for each kind of world."""
    started = time.monotonic()
    with ProcessPoolExecutor(len(per_stratum), mp_context=get_context("spawn")) as pool:
        asked = [pool.submit(_measured, kind, seeds, n, n_trials) for kind, n in per_stratum.items()]
        found = [one.result() for one in asked]
    parts, n_requests = [part for part, _ in found], sum(n for _, n in found)
    return Results(
        seeds=tuple(seeds),
        features_per_stratum=per_stratum,
        n_trials=n_trials,
        n_requests=n_requests,
        seconds=round(time.monotonic() - started),
        date=datetime.now(UTC).date().isoformat(),
        parts=tuple(parts),
    )


def _measured(kind: WorldKind, seeds: Sequence[int], per_stratum: int, n_trials: int) -> tuple[Part, int]:
    """The worlds of a kind, and how many requests the reader took."""
    with reader() as server, tempfile.TemporaryDirectory() as folder:
        return _part(Path(folder), kind, seeds, per_stratum, n_trials), server.n_requests


def _part(folder: Path, kind: WorldKind, seeds: Sequence[int], per_stratum: int, n_trials: int) -> Part:
    graded: list[Graded] = []
    for seed in seeds:
        for shuffled in (False, True):
            n = min(per_stratum, SHUFFLED_PER_STRATUM) if shuffled else per_stratum
            place = folder / f"{kind}{seed}{'shuffled' if shuffled else ''}"
            location, truths = build(
                place, kind, seed, shuffled, n_units=N_UNITS[kind], features_per_stratum=n
            )
            graded += measure(location, truths, n_trials)
    return part_of(kind, len(seeds), graded)
