"""Planted stores, and a client on each transport in each protocol era."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, TextContent

from saeinterp_mcp.faces.mcp import build
from saeinterp_mcp.store.served import ServedStores
from tests.faces.hostile_world import PAYLOADS, World, world
from tests.faces.planted import sequence_store, set_store

SERVER = [sys.executable, "-m", "saeinterp_mcp"]


@dataclass(frozen=True)
class Caller:
    """A connected client, used from plain functions."""

    portal: BlockingPortal
    client: Client

    def call(self, tool: str, **arguments: Any) -> CallToolResult:
        result: CallToolResult = self.portal.call(self.client.call_tool, tool, arguments)
        return result

    def error(self, tool: str, **arguments: Any) -> str:
        """The text of a call that is refused."""
        result = self.call(tool, **arguments)
        assert result.is_error, f"{tool}({arguments}) must be refused"
        assert result.structured_content is None
        return text_of(result)


def text_of(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


@pytest.fixture(scope="session")
def stores_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    sequence_store(folder)
    set_store(folder)
    return folder


@pytest.fixture(scope="session")
def seq(stores_folder: Path) -> Path:
    return stores_folder / "seq"


@pytest.fixture(scope="session")
def gear(stores_folder: Path) -> Path:
    return stores_folder / "gear"


@pytest.fixture(scope="session")
def both(seq: Path, gear: Path) -> ServedStores:
    return ServedStores.open([str(seq), str(gear)])


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("hostile"), PAYLOADS)


@pytest.fixture(scope="session")
def http_url(seq: Path) -> Iterator[str]:
    command = [*SERVER, "serve", "--store", str(seq), "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("serving http://127.0.0.1:"), first
        yield first.split()[1]
        process.terminate()
        process.communicate()


@pytest.fixture(
    scope="session",
    params=[f"{how}-{era}" for how in ("memory", "stdio", "http") for era in ("legacy", "auto")],
)
def caller(request: pytest.FixtureRequest, seq: Path) -> Iterator[Caller]:
    """A client of a server over `seq`: in memory, of a child process, and over loopback; both protocol eras."""
    how, era = request.param.split("-")
    target: Any
    if how == "memory":
        target = build(ServedStores.open([str(seq)]))
    elif how == "stdio":
        target = StdioServerParameters(command=SERVER[0], args=[*SERVER[1:], "serve", "--store", str(seq)])
    else:
        target = request.getfixturevalue("http_url")
    yield from connected(target, era)


def connected(target: Any, era: str = "auto") -> Iterator[Caller]:
    """Connect for as long as the generator is held."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Client(target, mode=era)) as client,
    ):
        yield Caller(portal, client)


def run_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("SAEINTERP_")}
    return subprocess.run(
        [*SERVER, *arguments],
        env={**known, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
