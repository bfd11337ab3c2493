"""Servers that do not know an option: found out once, remembered, and told in the reply."""

import asyncio
from typing import Any

import pytest

from saeinterp_mcp.clients.base import Reply
from saeinterp_mcp.clients.refusals import Refusals
from tests.clients.asking import REQUEST, ask, with_client
from tests.providers.fake_server import Failure, fake_server

WORDS = """You judge.

Answer with one JSON object and nothing else: no text before or after it, no code fence. It fits this JSON schema:
{"type": "object", "properties": {"fires": {"type": "boolean"}, "probability": {"type": "integer", "minimum": 0, \
"maximum": 100}, "why": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["fires", "probability", \
"why"], "additionalProperties": false}"""


async def three_times(client: Any) -> list[Reply]:
    return [await client.ask(REQUEST) for _ in range(3)]


@pytest.mark.parametrize(
    ("provider", "refuses", "n_tries"),
    [
        ("openai", "json_schema", 2),
        ("openai", "temperature", 2),
        ("openai", "seed", 2),
        ("openai", "max_completion_tokens", 2),
        ("openai", "json_schema json_object", 3),
        ("openai", "json_schema json_object max_completion_tokens seed temperature", 6),
        ("anthropic", "thinking", 2),
        ("anthropic", "output_config", 2),
        ("anthropic", "output_config thinking", 3),
    ],
)
def test_an_option_that_is_refused_is_left_out_from_then_on(
    provider: str, refuses: str, n_tries: int
) -> None:
    refused = frozenset(refuses.split())
    with fake_server(lambda system, user, schema: '{"fires": true}', refuses=refused) as server:
        replies = with_client(provider, server, three_times)
        assert server.n_requests == n_tries + 2
        last = server.bodies()[-1]
    names = sorted("json_schema" if name == "output_config" else name for name in refused)
    assert [(reply.outcome, reply.detail) for reply in replies] == [
        ("answered", f"asked without {', '.join(names)}")
    ] * 3
    assert not refused & {*last, last.get("response_format", {}).get("type")}


def test_without_a_schema_the_answer_is_asked_for_in_words() -> None:
    with fake_server(lambda system, user, schema: {}, refuses=frozenset({"json_schema"})) as server:
        ask("openai", server)
        body = server.bodies()[-1]
    assert body["messages"][0]["content"] == WORDS
    assert body["response_format"] == {"type": "json_object"}
    with fake_server(lambda system, user, schema: {}, refuses=frozenset({"output_config"})) as server:
        ask("anthropic", server)
        assert server.bodies()[-1]["system"] == WORDS


def test_an_older_server_is_told_the_limit_by_its_older_name() -> None:
    with fake_server(refuses=frozenset({"max_completion_tokens"})) as server:
        ask("openai", server)
        body = server.bodies()[-1]
    assert body["max_tokens"] == 300


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_without_a_schema_talk_and_thoughts_around_the_answer_are_passed_over(provider: str) -> None:
    said = '<think>maybe {"fires": false}?</think>\nSure! {"fires": true} Hope this helps. {}'
    refuses = frozenset({"json_schema", "output_config"})
    with fake_server(lambda system, user, schema: said, refuses=refuses) as server:
        reply = ask(provider, server)
    assert (reply.value, reply.text) == ({"fires": True}, said)


def test_sixteen_at_once_find_out_together_and_all_are_answered() -> None:
    async def at_once(client: Any) -> list[Reply]:
        replies = await asyncio.gather(*(client.ask(REQUEST) for _ in range(16)))
        return [*replies, await client.ask(REQUEST)]

    with fake_server(refuses=frozenset({"temperature", "seed"})) as server:
        replies = with_client("openai", server, at_once)
        assert server.n_requests <= 3 * 16 + 1
        assert "temperature" not in server.bodies()[-1]
    assert {reply.outcome for reply in replies} == {"answered"}


def test_one_question_that_is_too_long_does_not_change_how_the_others_are_asked() -> None:
    """vLLM says `'max_tokens' or 'max_completion_tokens' is too large` of a long prompt."""
    said = "'max_tokens' or 'max_completion_tokens' is too large: 1000. The maximum context length is 2048 tokens"

    def behave(system: str, user: str, schema: dict[str, Any]) -> Any:
        return Failure(400, said) if "long" in user else {"fires": True}

    async def long_then_short(client: Any) -> list[Reply]:
        return [await client.ask(REQUEST.model_copy(update={"user": user})) for user in ("long", "short")]

    with fake_server(behave) as server:
        too_long, short = with_client("openai", server, long_then_short)
        assert "max_completion_tokens" in server.bodies()[-1]
    assert (too_long.outcome, too_long.reason) == ("failed", "bad_request")
    assert said in str(too_long.detail)
    assert (short.outcome, short.detail) == ("answered", None)


def test_a_batch_of_which_every_entry_was_refused_teaches_the_next_one() -> None:
    async def two_batches(client: Any) -> list[dict[str, Reply]]:
        found = []
        for number in range(2):
            batch = await client.submit({f"q{number}": REQUEST, f"r{number}": REQUEST}, f"mark {number}")
            assert (await client.state(batch)).ended
            found.append(await client.collect(batch))
        return found

    with fake_server(polls=0, refuses=frozenset({"temperature"})) as server:
        first, second = with_client("openai", server, two_batches)
    assert {(reply.outcome, reply.reason) for reply in first.values()} == {("failed", "bad_request")}
    assert {reply.outcome for reply in second.values()} == {"answered"}


def test_a_batch_in_which_only_some_entries_were_refused_teaches_nothing() -> None:
    refusals = Refusals({"temperature": ("temperature",)})
    bad = Reply(outcome="failed", reason="bad_request", detail="temperature is not supported")
    refusals.learn([bad, Reply(outcome="answered", value={})])
    assert refusals.known == frozenset()
    refusals.learn([])
    assert refusals.known == frozenset()
    refusals.learn([bad, bad])
    assert refusals.known == {"temperature"}
