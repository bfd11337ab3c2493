"""A language-model provider on 127.0.0.1 that speaks both APIs and behaves as a test says.

    with fake_server(behave) as server:
        client = open_client(f"openai:judge@{server.openai_url}")
        ...
        assert server.n_requests == 3

`python -m tests.providers.fake_server --behaviour NAME` is the same in a process of its own, for tests that kill or
measure; it prints its URL. `GET /_log` has what it was asked, `GET /_counts` how often, `POST /_fail` plants failures.
"""

import argparse
import asyncio
import importlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.providers.behaviour import (
    NAMED,
    Behaviour,
    Expired,
    Failure,
    HangUp,
    Refused,
    Slow,
    Truncated,
    answers_smallest,
)
from tests.providers.fake_anthropic import anthropic_routes
from tests.providers.fake_openai import openai_routes
from tests.providers.provider import Batch, Provider

__all__ = [
    "Expired",
    "Failure",
    "FakeProcess",
    "FakeServer",
    "HangUp",
    "Refused",
    "Slow",
    "Truncated",
    "fake_process",
    "fake_server",
]

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = ("POST /v1/messages", "POST /v1/chat/completions")


class FakeServer:
    """A fake in a thread of this process."""

    def __init__(self, url: str, provider: Provider) -> None:
        self.url, self.provider = url, provider

    @property
    def openai_url(self) -> str:
        """What `base_url` of an OpenAI-compatible server is."""
        return f"{self.url}/v1"

    @property
    def n_requests(self) -> int:
        """Questions asked directly, those that failed and the SDK's own retries among them."""
        counts = self.counts()
        return sum(counts.get(name, 0) for name in QUESTIONS)

    @property
    def n_batched(self) -> int:
        """Questions in batches."""
        return self.counts()["batched"]

    def counts(self) -> dict[str, int]:
        """`METHOD path` to how often it was asked, and `batched`."""
        return self.provider.counts()

    def batches(self) -> dict[str, Batch]:
        """Those it has taken, by id."""
        return self.provider.batches

    def log(self, path: str | None = None) -> list[dict[str, Any]]:
        """What it was asked, in order: method, path, query, retry (of the SDK, from 0), body."""
        return [entry for entry in self.provider.log if path in (None, entry["path"])]

    def bodies(self, path: str | None = None) -> list[Any]:
        """The bodies alone, of questions where no path is given."""
        paths = [name.split()[1] for name in QUESTIONS] if path is None else [path]
        return [entry["body"] for entry in self.log() if entry["path"] in paths]

    def fail(self, *failures: Failure, path: str | None = None) -> None:
        """Answer the next requests so, whatever they ask; those to a path alone where one is given."""
        self.provider.failing.extend((path, one) for one in failures)

    def behave(self, behaviour: Behaviour) -> None:
        """Behave so from now on."""
        self.provider.behave = behaviour


@contextmanager
def fake_server(behave: Behaviour = answers_smallest, **settings: Any) -> Iterator[FakeServer]:
    """A provider that behaves so; `settings` are fields of `Provider` (polls, refuses, log_file, ...)."""
    provider = Provider(behave, **settings)
    with _listening() as listening:
        server = _Server(_config(provider))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        _wait_for(lambda: server.started)
        try:
            yield FakeServer(f"http://127.0.0.1:{listening.getsockname()[1]}", provider)
        finally:
            server.should_exit = True
            thread.join(5)
            assert not thread.is_alive(), "the fake server does not end"


class FakeProcess(FakeServer):
    """A fake in a process of its own, asked over HTTP."""

    def __init__(self, url: str, pid: int) -> None:
        self.url, self.pid = url, pid

    def counts(self) -> dict[str, int]:
        return dict(_get(f"{self.url}/_counts"))

    def log(self, path: str | None = None) -> list[dict[str, Any]]:
        return [entry for entry in _get(f"{self.url}/_log") if path in (None, entry["path"])]

    def fail(self, *failures: Failure, path: str | None = None) -> None:
        body = [{"path": path, "failure": asdict(one)} for one in failures]
        urllib.request.urlopen(f"{self.url}/_fail", json.dumps(body).encode()).close()

    def behave(self, behaviour: Behaviour) -> None:
        raise NotImplementedError("it behaves as it was started")


@contextmanager
def fake_process(
    behaviour: str = "smallest", log_file: Path | None = None, polls: int = 2
) -> Iterator[FakeProcess]:
    """`behaviour`: a name in NAMED, or `module:function` of a behaviour."""
    command = [sys.executable, "-m", "tests.providers.fake_server", "--behaviour", behaviour]
    command += ["--polls", str(polls), *(["--log", str(log_file)] if log_file else [])]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        url = child.stdout.readline().strip()
        assert url.startswith("http"), "the fake says where it listens"
        yield FakeProcess(url, child.pid)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _app(provider: Provider) -> Starlette:
    async def log(_: Request) -> JSONResponse:
        return JSONResponse(provider.log)

    async def counts(_: Request) -> JSONResponse:
        return JSONResponse(provider.counts())

    async def fail(request: Request) -> JSONResponse:
        planted = await request.json()
        provider.failing.extend((one["path"], Failure(**one["failure"])) for one in planted)
        return JSONResponse({})

    own = [
        Route("/_log", log),
        Route("/_counts", counts),
        Route("/_fail", fail, methods=["POST"]),
    ]
    return Starlette(routes=[*own, *anthropic_routes(provider), *openai_routes(provider)])


class _Server(uvicorn.Server):
    """Ends at once: a test starts and ends one, and uvicorn waits for its tick and for its connections."""

    async def main_loop(self) -> None:
        while not self.should_exit:
            await asyncio.sleep(0.005)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)


def _listening() -> socket.socket:
    """Of a named protocol: asyncio sends small packets at once on no other, and each answer would take 40 ms."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(512)
    return listening


def _config(provider: Provider) -> uvicorn.Config:
    return uvicorn.Config(_app(provider), log_level="critical", access_log=False, lifespan="off", ws="none")


def _wait_for(done: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "the fake server does not start"
        time.sleep(0.002)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url) as response:
        return json.load(response)


def named(behaviour: str) -> Behaviour:
    """The behaviour of a name, or of `module:function`."""
    if behaviour in NAMED:
        return NAMED[behaviour]()
    module, _, function = behaviour.partition(":")
    found: Behaviour = getattr(importlib.import_module(module), function)
    return found


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--behaviour", default="smallest", help=f"{', '.join(NAMED)} or module:function")
    parser.add_argument("--polls", type=int, default=2)
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    provider = Provider(named(given.behaviour), polls=given.polls, log_file=given.log)
    with _listening() as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(_config(provider)).run([listening])


if __name__ == "__main__":
    main()
