"""The other side of the MCP face: a client that starts a server and asks it, as a host does."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from mcp import Client, StdioServerParameters
from mcp.types import TextContent


class Reply(NamedTuple):
    """What a tool gave a client: `structured` is None for an error, whose words are in `text`."""

    structured: dict[str, Any] | None
    text: str
    seconds: float


class Session:
    """A client's side of a running server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def instructions(self) -> str:
        """What the server says of itself before any tool is called."""
        return self._client.instructions or ""

    async def tools(self) -> list[str]:
        """Names of the tools."""
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Reply:
        """Call a tool and time it."""
        start = time.perf_counter()
        result = await self._client.call_tool(tool, dict(arguments))
        seconds = time.perf_counter() - start
        text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
        return Reply(None if result.is_error else result.structured_content, text, seconds)


@asynccontextmanager
async def open_client(command: Sequence[str]) -> AsyncIterator[Session]:
    """Start a server as a child process and talk to it over stdio, as a host does."""
    async with Client(StdioServerParameters(command=command[0], args=list(command[1:]))) as client:
        yield Session(client)
