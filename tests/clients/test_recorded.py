"""Replies written down and said again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.clients.base import Client, Reply, Request, Usage
from saeinterp_mcp.clients.open_client import open_client
from saeinterp_mcp.clients.recorded import RecordedClient, record
from saeinterp_mcp.errors import BadInput
from tests.clients.asking import REQUEST, spec
from tests.providers.fake_server import Refused, fake_server

OTHER = REQUEST.model_copy(update={"user": "Another?"})


def say(client: Client, *requests: Request) -> list[Reply]:
    async def run() -> list[Reply]:
        try:
            return [await client.ask(one) for one in requests]
        finally:
            await client.close()

    return asyncio.run(run())


def test_what_was_recorded_is_said_again_without_the_provider(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    with fake_server(lambda system, user, schema: Refused() if user == "Another?" else {"é": 1}) as server:
        client = record(open_client(spec("anthropic", server)), file)
        first = say(client, REQUEST, OTHER)
        assert (client.name, server.n_requests) == (spec("anthropic", server), 2)
    again = open_client(f"recorded:{file}")
    assert say(again, OTHER, REQUEST, REQUEST) == [first[1], first[0], first[0]]
    assert (first[0].value, first[1].outcome) == ({"é": 1}, "refused")


def test_a_question_that_is_not_in_the_file_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    write(file, line("anthropic:m", REQUEST, "one"))
    [reply] = say(RecordedClient(file), OTHER)
    assert (reply.outcome, reply.reason) == ("failed", "not recorded")
    assert reply.detail == "the file holds 1 replies, by anthropic:m"


def test_the_same_words_with_another_limit_or_schema_are_another_question(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    write(file, line("anthropic:m", REQUEST, "one"))
    changed: list[dict[str, Any]] = [{"max_tokens": 301}, {"answer_schema": {}}, {"system": "You judge"}]
    replies = say(RecordedClient(file), *[REQUEST.model_copy(update=one) for one in changed])
    assert [reply.reason for reply in replies] == ["not recorded"] * 3


def test_of_two_replies_the_later_counts_and_a_line_that_was_cut_off_does_not(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    write(file, line("a:m", REQUEST, "one"), line("a:m", REQUEST, "two"), line("b:m", OTHER, "three"))
    with file.open("a", encoding="utf-8") as end:
        end.write(line("a:m", REQUEST, "four")[:-20])
    assert [reply.text for reply in say(RecordedClient(file), REQUEST, OTHER)] == ["two", "three"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    write(file, line("a:m", REQUEST, "one"), "{nonsense")
    with pytest.raises(BadInput, match=r"replies.jsonl, line 2 is no JSON"):
        RecordedClient(file)
    write(file, json.dumps({"client": "a:m", "key": "k", "reply": {"outcome": "maybe"}}))
    with pytest.raises(BadInput, match=r"replies.jsonl, line 1: reply.outcome: Input should be 'answered'"):
        RecordedClient(file)


def line(client: str, request: Request, text: str) -> str:
    """As somebody would write it by hand."""
    reply = {"outcome": "answered", "text": text, "value": {}, "usage": Usage(output_tokens=1).model_dump()}
    return json.dumps({"client": client, "key": request.key(client), "reply": reply})


def write(file: Path, *lines: str) -> None:
    file.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
