"""Asking in tests: an event loop for each test, and the request that most of them put."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from saeinterp_mcp.clients.base import BatchClient, Client, Reply, Request
from saeinterp_mcp.clients.open_client import open_client
from tests.providers.fake_server import FakeServer

T = TypeVar("T")
SCHEMA: dict[str, Any] = {
    "title": "Verdict",
    "type": "object",
    "properties": {
        "fires": {"type": "boolean"},
        "probability": {"type": "integer", "minimum": 0, "maximum": 100},
        "why": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Why"},
    },
    "required": ["fires", "probability"],
}
REQUEST = Request(system="You judge.", user="Does it fire?", answer_schema=SCHEMA, max_tokens=300)


def spec(provider: str, server: FakeServer) -> str:
    """The fake as that provider."""
    return f"anthropic:claude@{server.url}" if provider == "anthropic" else f"openai:gpt@{server.openai_url}"


def with_client(provider: str, server: FakeServer, use: Callable[[Any], Awaitable[T]], **settings: Any) -> T:
    """What `use` gives with an open client, which is closed afterwards."""

    async def run() -> T:
        client: Client = open_client(spec(provider, server), **settings)
        assert isinstance(client, BatchClient)
        try:
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(run())


def ask(provider: str, server: FakeServer, request: Request = REQUEST, **settings: Any) -> Reply:
    """One question."""
    reply: Reply = with_client(provider, server, lambda client: client.ask(request), **settings)
    return reply
