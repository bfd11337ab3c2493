"""Target 17 and the questions: real servers, real clients, over stdio and streamable HTTP."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mcp import Client

from benchmarks.storage.bench import Bench
from benchmarks.storage.findings import Finding, QuestionTimes
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.faces.mcp_client import Session, open_client

N_FEATURES = 60
N_DENSEST = 10
N_READERS = 16
CALLS_PER_READER = 20
MAX_POSTINGS = 200
SLOW = ("feature_overview", "family_sweep", "family_heatmap", "group_sweep")
QUICK = ("feature_overview", "similar_features", "feature_examples", "store_status")

Call = tuple[str, dict[str, Any]]


def calls_for(bench: Bench, feature: int) -> dict[str, Call]:
    """Each question about one feature, by the name it has in the table."""
    x, y = bench.heatmap_families
    calls: dict[str, Call] = {
        "feature_overview": ("feature_overview", {"feature": feature}),
        "family_sweep": ("family_sweep", {"feature": feature, "family": x}),
        "family_heatmap": ("family_heatmap", {"feature": feature, "family_x": x, "family_y": y}),
        "group_sweep": ("group_sweep", {"feature": feature, "by": bench.primary_group}),
        "similar_features": ("similar_features", {"feature": feature}),
        "feature_examples": ("feature_examples", {"feature": feature}),
        "store_status": ("store_status", {}),
    }
    has = bench.store.backend.has
    if not has("neighbours/coactivation/features"):
        del calls["similar_features"]
    if not has("examples/spread"):
        del calls["feature_examples"]
    return calls


def some_features(bench: Bench) -> list[int]:
    """60 live features, the 10 densest among them."""
    n_firing = bench.store.backend.column("stats/n_firing")[:, 1]
    densest = np.argsort(-n_firing, kind="stable")[:N_DENSEST]
    others = np.setdiff1d(np.flatnonzero(n_firing), densest)
    drawn = rng(0, "questions").choice(others, min(N_FEATURES - N_DENSEST, len(others)), replace=False)
    return [int(f) for f in (*densest, *drawn)]


def time_questions(bench: Bench) -> list[QuestionTimes]:
    """Every question over stdio for 60 features; a first round over three of them is thrown away."""

    async def ask() -> dict[str, list[float]]:
        times: dict[str, list[float]] = {}
        features = some_features(bench)
        command = [sys.executable, "-m", "saeinterp_mcp", "serve", "--store", str(bench.store_folder)]
        async with open_client(command) as session:
            await _round(session, bench, features[:3], {})
            await _round(session, bench, features, times)
        return times

    return [_summary(bench, name, "stdio", values) for name, values in asyncio.run(ask()).items()]


async def _round(session: Session, bench: Bench, features: list[int], times: dict[str, list[float]]) -> None:
    for feature in features:
        for name, (tool, arguments) in calls_for(bench, feature).items():
            reply = await session.call(tool, arguments)
            assert reply.structured is not None, f"{tool} {arguments}: {reply.text}"
            times.setdefault(name, []).append(1000 * reply.seconds)


def _summary(
    bench: Bench, name: str, transport: str, values: list[float], per_second: float | None = None
) -> QuestionTimes:
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return QuestionTimes(
        world=bench.name,
        n_activations=bench.store.manifest.n_activations,
        question=name,
        transport=transport,
        n_calls=len(values),
        p50=float(p50),
        p95=float(p95),
        slowest=max(values),
        calls_per_second=per_second,
    )


@asynccontextmanager
async def _http_server(store: Path) -> AsyncIterator[str]:
    """A server on a free port of this machine; yields its address."""
    command = [sys.executable, "-m", "saeinterp_mcp", "serve", "--store", str(store), "--http", "127.0.0.1:0"]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log) as server:
        try:
            said = b""
            while b"/mcp\n" not in said:
                assert server.poll() is None, f"the server has ended: {said.decode()}"
                await asyncio.sleep(0.05)
                log.seek(0)
                said = log.read()
            yield said.split(b"serving ", 1)[1].split()[0].decode()
        finally:
            server.terminate()


def time_readers(bench: Bench, n_readers: int = N_READERS) -> list[QuestionTimes]:
    """Readers at once over streamable HTTP, each asking its own features all four questions."""

    async def ask() -> tuple[list[float], float]:
        features = some_features(bench)
        times: list[float] = []
        async with _http_server(bench.store_folder) as url:
            start = asyncio.Event()
            tasks = [asyncio.create_task(reader(url, features, i, start, times)) for i in range(n_readers)]
            await asyncio.sleep(0)
            started = time.perf_counter()
            start.set()
            await asyncio.gather(*tasks)
            return times, time.perf_counter() - started

    async def reader(
        url: str, features: list[int], index: int, start: asyncio.Event, times: list[float]
    ) -> None:
        async with Client(url) as client:
            await start.wait()
            for k in range(CALLS_PER_READER):
                feature = features[(index * CALLS_PER_READER + k) % len(features)]
                tool, arguments = calls_for(bench, feature)[SLOW[k % len(SLOW)]]
                began = time.perf_counter()
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, f"{tool} {arguments}"
                times.append(1000 * (time.perf_counter() - began))

    values, seconds = asyncio.run(ask())
    transport = f"http, {n_readers} reader{'s' if n_readers > 1 else ''}"
    return [_summary(bench, "four questions by turns", transport, values, len(values) / seconds)]


def target_17(bench: Bench, times: list[QuestionTimes]) -> list[Finding]:
    """A summary over stdio in 5 ms; no answer holds more than about 200 postings."""
    found = [
        Finding(
            target=17,
            world=bench.name,
            case=f"`{t.question}`, p50",
            measured=t.p50,
            limit=5,
            unit="ms",
            how=f"{t.n_calls} calls; the SDK's client checks each answer against its schema; p95 {t.p95:.1f} ms",
        )
        for t in times
        if t.world == bench.name and t.transport == "stdio" and t.question in QUICK
    ]
    return [*found, *_largest_answer(bench)]


def _largest_answer(bench: Bench) -> list[Finding]:
    """Asks for far too many examples, by the largest limit that is not refused."""
    if not bench.store.backend.has("examples/spread"):
        return []

    async def ask() -> int:
        command = [sys.executable, "-m", "saeinterp_mcp", "serve", "--store", str(bench.store_folder)]
        async with open_client(command) as session:
            call = {"feature": some_features(bench)[0], "pick": "top"}
            refused = await session.call("feature_examples", {**call, "limit": MAX_POSTINGS + 1})
            assert refused.structured is None, "a limit above 200 is refused"
            reply = await session.call("feature_examples", {**call, "limit": MAX_POSTINGS})
            assert reply.structured is not None, reply.text
            return len(reply.structured["rows"])

    return [
        Finding(
            target=17,
            world=bench.name,
            case="postings in the longest answer",
            measured=asyncio.run(ask()),
            limit=MAX_POSTINGS,
            unit="rows",
            how="feature_examples with limit 200 for the densest feature; 201 is refused",
        )
    ]
