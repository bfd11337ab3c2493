"""What is sent to the providers, whole: this is the contract with them."""

import pytest

from saeinterp_mcp.clients.base import Request
from tests.clients.asking import REQUEST, ask, with_client
from tests.providers.behaviour import smallest
from tests.providers.fake_server import fake_server

LONG = Request(system="Judge. " * 700, user="x", answer_schema=REQUEST.answer_schema)


def test_a_question_to_claude_is_sent_so() -> None:
    with fake_server() as server:
        ask("anthropic", server)
        assert server.bodies() == [
            {
                "model": "claude",
                "max_tokens": 300,
                "system": "You judge.",
                "messages": [{"role": "user", "content": "Does it fire?"}],
                "thinking": {"type": "disabled"},
                "output_config": {
                    "format": {
                        "type": "json_schema",
                        "schema": {
                            "type": "object",
                            "properties": {
                                "fires": {"type": "boolean"},
                                "probability": {
                                    "type": "integer",
                                    "description": "{minimum: 0, maximum: 100}",
                                },
                                "why": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                            },
                            "required": ["fires", "probability", "why"],
                            "additionalProperties": False,
                        },
                    }
                },
            }
        ]


def test_a_question_to_openai_is_sent_so() -> None:
    with fake_server() as server:
        ask("openai", server)
        assert server.bodies() == [
            {
                "model": "gpt",
                "max_completion_tokens": 300,
                "temperature": 0,
                "seed": 0,
                "messages": [
                    {"role": "system", "content": "You judge."},
                    {"role": "user", "content": "Does it fire?"},
                ],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "answer",
                        "strict": True,
                        "schema": {
                            "type": "object",
                            "properties": {
                                "fires": {"type": "boolean"},
                                "probability": {"type": "integer", "minimum": 0, "maximum": 100},
                                "why": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                            },
                            "required": ["fires", "probability", "why"],
                            "additionalProperties": False,
                        },
                    },
                },
            }
        ]


def test_long_instructions_are_kept_in_claudes_cache_and_read_from_it() -> None:
    async def twice(client):  # type: ignore[no-untyped-def]
        return [await client.ask(LONG), await client.ask(LONG)]

    with fake_server() as server:
        first, second = with_client("anthropic", server, twice)
        assert server.bodies()[0]["system"] == [
            {"type": "text", "text": LONG.system, "cache_control": {"type": "ephemeral"}}
        ]
    tokens = len(LONG.system) // 4
    assert (first.usage.written_tokens, first.usage.cached_tokens, first.usage.input_tokens) == (tokens, 0, 0)
    assert (second.usage.written_tokens, second.usage.cached_tokens) == (0, tokens)


def test_what_openai_read_from_its_cache_is_counted_apart() -> None:
    async def twice(client):  # type: ignore[no-untyped-def]
        return [await client.ask(LONG), await client.ask(LONG)]

    with fake_server() as server:
        first, second = with_client("openai", server, twice)
    tokens = len(LONG.system) // 4
    assert (first.usage.input_tokens, first.usage.cached_tokens) == (tokens, 0)
    assert (second.usage.input_tokens, second.usage.cached_tokens) == (0, tokens)


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_half_a_surrogate_pair_in_a_corpus_is_sent_as_a_question_mark(provider: str) -> None:
    with fake_server() as server:
        reply = ask(provider, server, REQUEST.model_copy(update={"user": "bad \ud800 text"}))
        assert reply.outcome == "answered"
        assert server.bodies()[0]["messages"][-1]["content"] == "bad ? text"


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_the_provider_counts_the_tokens(provider: str) -> None:
    with fake_server(lambda system, user, schema: "{" + " " * 98 + "}") as server:
        usage = ask(provider, server).usage
    assert usage is not None
    # a quarter of the letters: "You judge." is 2 tokens, "Does it fire?" 3, the answer of 100 letters 25
    assert (usage.input_tokens, usage.output_tokens) == (5, 25)


def test_the_answer_of_the_fake_fits_the_schema_that_reached_it() -> None:
    with fake_server() as server:
        reply = ask("openai", server)
    assert reply.value == {"fires": False, "probability": 0, "why": ""} == smallest(REQUEST.answer_schema)
