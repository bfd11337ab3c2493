"""Replies that were written down: replayed without a provider, or added to by asking one."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from saeinterp_mcp.clients.base import Client, Reply, Request
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen, describe_validation


class Recorded(Frozen):
    """A line of the file."""

    client: str
    """The name of the client that was asked."""
    key: str
    """`request.key(client)`."""
    reply: Reply


class RecordedClient(Client):
    """Says again what was said; a question that is not in the file is `failed`, `not recorded`."""

    def __init__(self, file: Path) -> None:
        """Raises BadInput where the file is missing or damaged."""
        self.name = f"recorded:{file}"
        self._replies = {one.key: one.reply for one in _lines(file)}
        self._clients = sorted({one.client for one in _lines(file)})

    async def ask(self, request: Request) -> Reply:
        """Of the clients in the file, the first that was asked this."""
        for client in self._clients:
            if (reply := self._replies.get(request.key(client))) is not None:
                return reply
        said = f"the file holds {len(self._replies)} replies, by {', '.join(self._clients) or 'nobody'}"
        return Reply(outcome="failed", reason="not recorded", detail=said)


class RecordingClient(Client):
    """Asks another, and adds each reply to a file before it is given."""

    def __init__(self, client: Client, file: Path) -> None:
        """`file`: made where it is not there, else added to; of two replies to a question the later counts."""
        self.name, self._client, self._file = client.name, client, file

    def why_not(self) -> str | None:
        """As the other says."""
        return self._client.why_not()

    async def ask(self, request: Request) -> Reply:
        """As the other does."""
        reply = await self._client.ask(request)
        line = Recorded(client=self.name, key=request.key(self.name), reply=reply)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")
        return reply

    async def close(self) -> None:
        """The other too."""
        await self._client.close()


def record(client: Client, file: Path) -> RecordingClient:
    """The same client, whose replies are kept in a file."""
    return RecordingClient(client, file)


def _lines(file: Path) -> Iterator[Recorded]:
    if not file.is_file():
        raise BadInput(f"there are no recorded replies: {file} does not exist or is not a file")
    whole, _, _ = file.read_text(encoding="utf-8").rpartition(
        "\n"
    )  # what was cut off while written is left out
    for number, line in enumerate(whole.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield Recorded.model_validate(json.loads(line))
        except json.JSONDecodeError as error:
            raise BadInput(f"{file}, line {number} is no JSON: {error}") from error
        except ValidationError as error:
            raise BadInput(f"{file}, line {number}: {describe_validation(error)}") from error
