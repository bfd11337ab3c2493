"""Asks in a process of its own, to be killed: `python -m tests.asking.worker JSON`. Prints each question it has a
reply to, once it has it; `dies` is the step of a batch at which it kills itself."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saeinterp_mcp.asking.asker import Asker
from saeinterp_mcp.asking.batches import BatchPace
from saeinterp_mcp.asking.giving_up import GiveUp
from saeinterp_mcp.asking.ledger import Ledger
from saeinterp_mcp.clients.base import BatchClient, BatchState, Reply, Request
from saeinterp_mcp.clients.open_client import open_client
from tests.asking.provider import ProviderClient, question

LINEAGE, STORE = "lineage", "fingerprint"
PACE = BatchPace(poll_seconds=0.01, max_poll_seconds=0.02, found_after_seconds=0, max_requests=7)
NEVER = GiveUp(in_a_row=10**6, share=1)


class Dying(BatchClient):
    """Asks by another, and kills its process at a step."""

    def __init__(self, client: BatchClient, dies: str | None) -> None:
        self.name, self._client, self._dies = client.name, client, dies

    async def ask(self, request: Request) -> Reply:
        return await self._client.ask(request)

    async def submit(self, requests: Mapping[str, Request], mark: str) -> str:
        self._at("before submit")
        batch_id = await self._client.submit(requests, mark)
        self._at("after submit")
        return batch_id

    async def state(self, batch_id: str) -> BatchState:
        self._at("before a look")
        return await self._client.state(batch_id)

    async def collect(self, batch_id: str) -> dict[str, Reply]:
        replies = await self._client.collect(batch_id)
        self._at("after collect")
        return replies

    async def find(self, mark: str, ids: frozenset[str], since: str) -> str | None:
        return await self._client.find(mark, ids, since)

    async def close(self) -> None:
        await self._client.close()

    def _at(self, step: str) -> None:
        if step == self._dies:
            os.kill(os.getpid(), signal.SIGKILL)


def client_of(told: dict[str, Any]) -> BatchClient:
    """Of the small provider, or with a real SDK."""
    client = open_client(told["spec"]) if "spec" in told else ProviderClient(told["port"])
    assert isinstance(client, BatchClient)
    return Dying(client, told.get("dies"))


def say(i: int, reply: Reply) -> None:
    what = reply.text if reply.outcome == "answered" else f"{reply.outcome} {reply.reason}"
    os.write(1, (json.dumps([i, what]) + "\n").encode())


async def work(told: dict[str, Any]) -> None:
    ledger = Ledger(Path(told["ledger"]))
    config = {"run": told.get("run", "one")}
    client = client_of(told)
    n = told["n"]
    with ledger.begin("test", config, LINEAGE, STORE, n) as run:
        asker = Asker(
            client,
            run,
            concurrency=told.get("concurrency", 4),
            never_repeat=told.get("never_repeat", False),
            give_up=NEVER,
            pace=PACE,
        )
        async with asker:
            if told.get("batch"):
                replies = await asker.ask_batch([(i, "test", question(i)) for i in range(n)])
                for i, reply in enumerate(replies):
                    say(i, reply)
            else:

                async def one(i: int) -> None:
                    say(i, await asker.ask(i, "test", question(i)))

                await asyncio.gather(*(one(i) for i in range(n)))
    ledger.close()


if __name__ == "__main__":
    os.write(1, b'"ready"\n')
    asyncio.run(work(json.loads(sys.argv[1])))
