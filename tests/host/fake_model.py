"""A Messages server on this machine, in the place of the model: it follows a script and keeps what it was shown."""

import json
import socket
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

JSON = dict[str, Any]


class Call(NamedTuple):
    """A tool the model wants to call, by our name for it; or one of the host's own, by its name."""

    tool: str
    arguments: JSON


class Reading(NamedTuple):
    """What the model reads after a call: `text` is all of it when the answer is one block of text."""

    call: Call
    text: str
    is_error: bool
    blocks: list[JSON]

    @property
    def body(self) -> JSON:
        """The answer as JSON."""
        assert not self.is_error, self.text
        found: JSON = json.loads(self.text)
        return found


Script = Generator[list[Call], list[Reading], str]
"""Yields the calls of one turn, all at once; is sent what they gave; returns the last words."""


class FakeModel:
    """Answers the host's requests. Those that offer tools of an MCP server are the conversation, which has a script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._asked: list[Call] = []
        self.requests: list[JSON] = []
        """Bodies of the conversation's requests."""
        self.readings: list[Reading] = []
        """Every answer the model read, in the order it asked."""
        self.other_paths: list[str] = []
        """What else the host asked this server."""
        self.failure: Exception | None = None
        """Why the script could not go on."""

    @property
    def tools(self) -> dict[str, JSON]:
        """Definitions of our tools as the model saw them, under our names for them."""
        return {_short(tool["name"]): tool for tool in self.requests[0]["tools"] if "__" in tool["name"]}

    @property
    def shown(self) -> str:
        """All that the model was given before its first turn: tools, system prompt, messages."""
        return json.dumps(self.requests[0], ensure_ascii=False)

    @property
    def said_to_it(self) -> list[str]:
        """The blocks of text of the first messages."""
        texts = []
        for message in self.requests[0]["messages"]:
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            texts += [block["text"] for block in blocks if block["type"] == "text"]
        return texts

    def next_turn(self, body: JSON) -> list[JSON]:
        """Content of the model's next message."""
        prefixes = {name.rpartition("__")[0] for name in _names(body) if name.startswith("mcp__")}
        if not prefixes:
            return [{"type": "text", "text": "ok"}]
        (prefix,) = prefixes
        self.requests.append(body)
        try:
            if not self._asked:
                self._asked = next(self._script)
            else:
                self._asked = self._script.send(self._read(body))
        except StopIteration as end:
            return [{"type": "text", "text": str(end.value)}]
        except Exception as error:  # raised again where the test sees it; the host would only ask again
            self.failure = self.failure or error
            return [{"type": "text", "text": "the script failed"}]
        return [
            {
                "type": "tool_use",
                "id": f"toolu_{len(self.requests)}_{i}",
                "name": call.tool if call.tool in _names(body) else f"{prefix}__{call.tool}",
                "input": call.arguments,
            }
            for i, call in enumerate(self._asked)
        ]

    def _read(self, body: JSON) -> list[Reading]:
        """The results of the last turn's calls, in the order of the calls."""
        found = {
            block["tool_use_id"]: block
            for message in body["messages"]
            if isinstance(message["content"], list)
            for block in message["content"]
            if block["type"] == "tool_result"
        }
        turn = len(self.requests) - 1
        readings = [_reading(call, found[f"toolu_{turn}_{i}"]) for i, call in enumerate(self._asked)]
        self.readings += readings
        return readings


def _reading(call: Call, block: JSON) -> Reading:
    content = block["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = "\n".join(part["text"] for part in blocks if part["type"] == "text")
    return Reading(call, text, bool(block.get("is_error")), blocks)


def _names(body: JSON) -> list[str]:
    return [tool["name"] for tool in body.get("tools", [])]


def _short(name: str) -> str:
    return name.rpartition("__")[2]


@contextmanager
def served(model: FakeModel) -> Iterator[str]:
    """The model behind a URL, for as long as the block runs."""

    async def messages(request: Request) -> Response:
        body = await request.json()
        reply = _reply(body, model.next_turn(body))
        if body.get("stream"):
            return StreamingResponse(_events(reply), media_type="text/event-stream")
        return JSONResponse(reply)

    async def anything_else(request: Request) -> Response:
        model.other_paths.append(f"{request.method} {request.url.path}")
        return JSONResponse({})

    app = Starlette(
        routes=[
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/{path:path}", anything_else, methods=["GET", "POST", "HEAD", "PUT"]),
        ]
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _reply(body: JSON, content: list[JSON]) -> JSON:
    calls = any(block["type"] == "tool_use" for block in content)
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


async def _events(reply: JSON) -> AsyncIterator[str]:
    """A reply as the stream of events that the Messages API makes of it."""
    yield _event("message_start", message={**reply, "content": [], "stop_reason": None})
    for index, block in enumerate(reply["content"]):
        if block["type"] == "text":
            start, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield _event("content_block_start", index=index, content_block=start)
        yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    ended = {"stop_reason": reply["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=ended, usage={"output_tokens": 1})
    yield _event("message_stop")


def _event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"
