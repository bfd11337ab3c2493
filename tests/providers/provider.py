"""What both pretended providers share: how they behave, what they were asked, what comes next."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tests.providers.behaviour import Answer, Behaviour, Failure, Slow

CACHEABLE_TOKENS = 1024
"""A shorter system text is never cached."""


@dataclass
class Batch:
    """Requests handed in together."""

    batch_id: str
    asked: dict[str, dict[str, Any]]
    """Id to body, in the order handed in."""
    metadata: dict[str, str]
    polls_left: int
    created: datetime
    input_file: str = ""
    answers: dict[str, Answer] | None = None
    """Worked out when the batch ends."""


@dataclass
class Provider:
    """State of a fake."""

    behave: Behaviour
    polls: int = 2
    """How often a batch is asked about before it has ended."""
    refuses: frozenset[str] = frozenset()
    """What this server answers with 400 when it is in a body: `temperature`, `thinking`, `json_schema`, ..."""
    log_file: Path | None = None
    """Gets a line for each request before it is answered."""
    batch_status: str = "completed"
    """How batches of the OpenAI kind end: `completed`, `failed`, `expired`, `cancelled`."""
    log: list[dict[str, Any]] = field(default_factory=list)
    failing: deque[tuple[str | None, Failure]] = field(default_factory=deque)
    """Answers to the next requests to a path, or to any (None), whatever they ask."""
    loses_batches: bool = False
    """Whether a batch is taken and the connection closed instead of telling its id."""
    batches: dict[str, Batch] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    systems: set[str] = field(default_factory=set)
    """Seen before: in the cache."""
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    async def received(self, request: Request, body: Any) -> Failure | None:
        """Write a request down; the failure that is planted for it, if one is."""
        entry = {
            "method": request.method,
            "path": request.url.path,
            "query": dict(request.query_params),
            "retry": int(request.headers.get("x-stainless-retry-count", 0)),
            "body": body,
        }
        self.log.append(entry)
        if self.log_file is not None:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        for planted in self.failing:
            if planted[0] in (None, request.url.path):
                self.failing.remove(planted)
                return planted[1]
        return None

    def counts(self) -> dict[str, int]:
        """`METHOD path` to how often; `batched` counts the entries of batches."""
        found = Counter(f"{entry['method']} {entry['path']}" for entry in self.log)
        found["batched"] = sum(len(batch.asked) for batch in self.batches.values())
        return dict(found)

    def refusal(self, body: dict[str, Any]) -> Failure | None:
        """What this server says to options that it does not know."""
        given = {*body, body.get("response_format", {}).get("type")}
        for name in sorted(self.refuses & given):
            where = "response_format" if name.startswith("json_") else name
            return Failure(400, f"Unsupported parameter: '{where}' ({name}) is not supported", {}, where)
        return None

    async def answer(self, system: str, user: str, schema: dict[str, Any]) -> Answer:
        """As behaved, after the time that takes."""
        found = self.behave(system, user, schema)
        if isinstance(found, Slow):
            await asyncio.sleep(found.seconds)
            return found.answer
        return found

    def cached(self, system: str) -> tuple[int, int]:
        """Tokens (read from, written to) the cache for a system text."""
        n = n_tokens(system)
        if n < CACHEABLE_TOKENS:
            return 0, 0
        if system in self.systems:
            return n, 0
        self.systems.add(system)
        return 0, n

    def submit(self, asked: dict[str, dict[str, Any]], metadata: dict[str, str]) -> Batch:
        """Take a batch."""
        batch_id = f"batch_{next(self.numbers)}"
        batch = Batch(batch_id, asked, metadata, self.polls, datetime.now(UTC))
        self.batches[batch_id] = batch
        return batch

    def newest(self, query: Any) -> tuple[list[Batch], bool]:
        """A page of batches, newest first, and whether there are more."""
        everything = list(reversed(self.batches.values()))
        names = [batch.batch_id for batch in everything]
        after = query.get("after_id") or query.get("after")
        start = names.index(after) + 1 if after else 0
        limit = int(query.get("limit", 20))
        return everything[start : start + limit], len(everything) > start + limit


def n_tokens(text: str) -> int:
    """As these providers count: a quarter of the letters."""
    return len(text) // 4


def hung_up() -> Response:
    """Less than was announced: uvicorn closes the connection."""

    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    return StreamingResponse(nothing(), headers={"content-length": "1000"})
