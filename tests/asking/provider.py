"""A provider of our own, small enough to count on: it says which questions it was asked, in order, however we died."""

import asyncio
import json
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from saeinterp_mcp.clients.base import BatchClient, BatchState, NotKnownYet, Reply, Request, Usage

NAME = "anthropic:claude-haiku-4-5"


class Provider(socketserver.ThreadingTCPServer):
    """One JSON line in, one out; batches end at the second look."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.wait_seconds = 0.0
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def answer(self, line: dict[str, Any]) -> dict[str, Any]:
        match line["what"]:
            case "ask":
                with self.lock:
                    self.asked.append(line["user"])
                time.sleep(self.wait_seconds)
                return {"answer": line["user"].upper()}
            case "submit":
                with self.lock:
                    batch_id = f"batch-{len(self.batches)}"
                    self.batches[batch_id] = {"mark": line["mark"], "requests": line["requests"], "looks": 0}
                return {"id": batch_id}
            case "state":
                batch = self.batches[line["id"]]
                batch["looks"] += 1
                return {"ended": batch["looks"] >= 2, "n": len(batch["requests"])}
            case "collect":
                requests = self.batches[line["id"]]["requests"]
                return {name: user.upper() for name, user in reversed(requests.items())}
            case _:
                found = [name for name, one in self.batches.items() if one["mark"] == line["mark"]]
                return {"id": found[0] if found else None}


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline()
        if line.endswith(b"\n"):
            assert isinstance(self.server, Provider)
            answer = json.dumps(self.server.answer(json.loads(line))).encode() + b"\n"
            try:
                self.wfile.write(answer)
            except OSError:
                return  # whoever asked was killed


@contextmanager
def provider() -> Iterator[Provider]:
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class ProviderClient(BatchClient):
    """Asks it. The sum of the letters is the usage, so that totals can be worked out."""

    def __init__(self, port: int, name: str = NAME) -> None:
        self.name, self._port = name, port

    async def ask(self, request: Request) -> Reply:
        try:
            return replied((await self.say(what="ask", user=request.user))["answer"])
        except OSError as error:
            return Reply(outcome="failed", reason="connection", detail=str(error))

    async def submit(self, requests: Mapping[str, Request], mark: str) -> str:
        asked = {name: request.user for name, request in requests.items()}
        return str((await self.say(what="submit", requests=asked, mark=mark))["id"])

    async def state(self, batch_id: str) -> BatchState:
        said = await self.say(what="state", id=batch_id)
        return BatchState(batch_id=batch_id, ended=said["ended"], n_done=0, n_total=said["n"])

    async def collect(self, batch_id: str) -> dict[str, Reply]:
        return {name: replied(text) for name, text in (await self.say(what="collect", id=batch_id)).items()}

    async def find(self, mark: str, ids: frozenset[str], since: str) -> str | None:
        found = (await self.say(what="find", mark=mark))["id"]
        return None if found is None else str(found)

    async def say(self, **line: Any) -> dict[str, Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**24)
        try:
            writer.write(json.dumps(line).encode() + b"\n")
            await writer.drain()
            answer = await reader.readline()
        finally:
            writer.close()
            await writer.wait_closed()
        if not answer:
            raise NotKnownYet("the connection broke")
        return dict(json.loads(answer))


def replied(text: str) -> Reply:
    usage = Usage(input_tokens=len(text), output_tokens=3)
    return Reply(outcome="answered", text=json.dumps({"said": text}), value={"said": text}, usage=usage)


SCHEMA = {"type": "object", "properties": {"said": {"type": "string"}}}


def question(i: int | str, max_tokens: int = 100) -> Request:
    return Request(system="Say it louder.", user=f"question {i}", answer_schema=SCHEMA, max_tokens=max_tokens)
