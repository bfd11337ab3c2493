"""Every way in which a question can end, of both providers, with the real SDKs."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.clients.base import Outcome, Reply
from saeinterp_mcp.clients.open_client import open_client
from saeinterp_mcp.errors import Unavailable
from tests.clients.asking import REQUEST, ask, with_client
from tests.providers.behaviour import Answer, answers_smallest, every_nth
from tests.providers.fake_server import Failure, FakeServer, HangUp, Refused, Slow, Truncated, fake_server

both = pytest.mark.parametrize("provider", ["anthropic", "openai"])
VALUE = {"fires": True, "probability": 90, "why": None}


@both
@pytest.mark.parametrize(
    ("answer", "outcome", "reason", "text"),
    [
        (VALUE, "answered", None, '{"fires": true, "probability": 90, "why": null}'),
        ('```json\n{"fires": true}\n```', "answered", None, '```json\n{"fires": true}\n```'),
        ("It fires, I think.", "invalid", "no JSON", "It fires, I think."),
        ('Sure: {"fires": true}', "invalid", "no JSON", 'Sure: {"fires": true}'),
        ("[1, 2]", "invalid", "no JSON", "[1, 2]"),
        ("", "invalid", "empty", ""),
        ('{"probability": NaN}', "invalid", "no valid JSON", '{"probability": NaN}'),
        ('{"probability": 1e999}', "invalid", "no valid JSON", '{"probability": 1e999}'),
        ('{"why": "\\ud800"}', "invalid", "no valid JSON", '{"why": "\\ud800"}'),
        ('{"a":' * 3000, "invalid", "no JSON", '{"a":' * 3000),
        (Truncated('{"fires": tr'), "truncated", "max_tokens", '{"fires": tr'),
        (Truncated('{"fires": true}'), "truncated", "max_tokens", '{"fires": true}'),
        (Refused("I will not."), "refused", "refusal", "I will not."),
    ],
)
def test_an_outcome_is_data_and_what_was_used_is_known(
    provider: str, answer: Answer, outcome: Outcome, reason: str | None, text: str
) -> None:
    with fake_server(lambda system, user, schema: answer) as server:
        reply = ask(provider, server)
    assert (reply.outcome, reply.reason, reply.text) == (outcome, reason, text)
    assert (reply.value is not None) == (outcome == "answered")
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (5, len(text) // 4)
    assert reply.model == ("claude-20261001" if provider == "anthropic" else "gpt-2026-10-01")
    assert Reply.model_validate_json(reply.model_dump_json()) == reply


@both
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Failure(400, "prompt is too long"), "bad_request"),
        (Failure(401, "bad key"), "authentication"),
        (Failure(402, "no money"), "no_credit"),
        (Failure(403, "not yours"), "authentication"),
        (Failure(404, "model: claude-9 does not exist"), "unknown_model"),
        (Failure(404, "Not Found", code="not_found_error"), "not_found"),
        (Failure(408, "late"), "timeout"),
        (Failure(413, "too large"), "bad_request"),
        (Failure(422, "odd"), "bad_request"),
        (Failure(429, "slow down"), "rate_limit"),
        (Failure(429, "You exceeded your current quota", code="insufficient_quota"), "no_credit"),
        (Failure(500, "oh"), "server_error"),
        (Failure(502, "gateway"), "server_error"),
        (Failure(503, "busy"), "overloaded"),
        (Failure(504, "late"), "timeout"),
        (Failure(529, "busy"), "overloaded"),
    ],
)
def test_a_failure_has_a_reason_that_can_be_counted(provider: str, failure: Failure, reason: str) -> None:
    with fake_server() as server:
        server.fail(failure)
        reply = ask(provider, server, max_retries=0)
    assert (reply.outcome, reply.reason, reply.usage) == ("failed", reason, None)
    assert failure.message in str(reply.detail)


@both
def test_the_sdk_alone_gets_over_a_rate_limit(provider: str) -> None:
    with fake_server() as server:
        server.fail(
            Failure(429, "slow down", {"retry-after": "0.05"}), Failure(529, "busy", {"retry-after": "0.05"})
        )
        started = time.monotonic()
        reply = ask(provider, server)
        took = time.monotonic() - started
        assert reply.outcome == "answered"
        assert [entry["retry"] for entry in server.log()] == [0, 1, 2]
        assert took >= 0.1


@both
def test_a_question_is_not_tried_again_more_often_than_was_said(provider: str) -> None:
    with fake_server() as server:
        server.fail(*[Failure(500, "oh", {"retry-after-ms": "1"})] * 9)
        assert ask(provider, server, max_retries=1).reason == "server_error"
        assert server.n_requests == 2


@both
def test_a_wrong_question_is_asked_once(provider: str) -> None:
    with fake_server(lambda system, user, schema: Failure(400, "prompt is too long")) as server:
        assert ask(provider, server).reason == "bad_request"
        assert server.n_requests == 1


@both
def test_a_connection_that_breaks_is_a_failure(provider: str) -> None:
    with fake_server(lambda system, user, schema: HangUp()) as server:
        reply = ask(provider, server, max_retries=0)
    assert (reply.outcome, reply.reason) == ("failed", "connection")


@both
def test_a_server_that_is_not_there_is_a_failure(provider: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    nobody = FakeServer(f"http://127.0.0.1:{port}", None)  # type: ignore[arg-type]
    reply = ask(provider, nobody, max_retries=0)
    assert (reply.outcome, reply.reason) == ("failed", "connection")


@both
def test_an_answer_that_takes_too_long_is_a_failure(provider: str) -> None:
    with fake_server(lambda system, user, schema: Slow(5, VALUE)) as server:
        started = time.monotonic()
        reply = ask(provider, server, timeout_seconds=0.1, max_retries=0)
    assert (reply.outcome, reply.reason) == ("failed", "timeout")
    assert time.monotonic() - started < 3


@both
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<html>hello</html>", "text/html"),
        ("hello", "application/json"),
        ("null", "application/json"),
        ("{}", "application/json"),
        ('{"error": {"message": "no"}}', "application/json"),
        ('{"choices": []}', "application/json"),
        ('{"choices": [{}], "content": null}', "application/json"),
        ("[]", "application/json"),
    ],
)
def test_a_server_that_speaks_something_else_is_a_failure(provider: str, body: str, kind: str) -> None:
    with speaking(body, kind) as server:
        reply = ask(provider, server, max_retries=0)
    assert (reply.outcome, reply.reason) == ("failed", "bad_answer")


def test_a_local_server_may_leave_out_all_but_the_text() -> None:
    with speaking('{"choices": [{"message": {"content": "{}"}}]}', "application/json") as server:
        reply = ask("openai", server)
    assert reply == Reply(outcome="answered", text="{}", value={})


def test_a_filtered_answer_of_openai_is_a_refusal() -> None:
    body = '{"model": "m", "choices": [{"finish_reason": "content_filter", "message": {"content": "I w"}}]}'
    with speaking(body, "application/json") as server:
        reply = ask("openai", server)
    assert (reply.outcome, reply.reason, reply.text) == ("refused", "content_filter", "I w")


def test_claude_says_why_it_refused_and_where_its_context_ended() -> None:
    body = (
        '{"type": "message", "role": "assistant", "model": "m", "content": [], "usage": {"input_tokens": 7, '
    )
    body += '"output_tokens": 1}, "stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "bio", '
    body += '"explanation": "no"}}'
    with speaking(body, "application/json") as server:
        reply = ask("anthropic", server)
    assert (reply.outcome, reply.detail) == ("refused", "bio: no")
    body = body.replace('"refusal", "stop_details"', '"model_context_window_exceeded", "stop_details"')
    with speaking(body, "application/json") as server:
        assert ask("anthropic", server).outcome == "truncated"


@both
def test_sixteen_questions_wait_together_and_each_gets_its_own_answer(provider: str) -> None:
    def late_echo(system: str, user: str, schema: dict[str, Any]) -> Slow:
        return Slow(0.2, {"said": user})

    async def all_at_once(client: Any) -> list[Reply]:
        requests = [REQUEST.model_copy(update={"user": f"question {i}"}) for i in range(16)]
        return list(await asyncio.gather(*(client.ask(one) for one in requests)))

    with fake_server(late_echo) as server:
        started = time.monotonic()
        replies = with_client(provider, server, all_at_once)
    assert [reply.value for reply in replies] == [{"said": f"question {i}"} for i in range(16)]
    assert time.monotonic() - started < 16 * 0.2 / 2


@both
def test_of_thirty_questions_every_third_fails_and_the_others_are_answered(provider: str) -> None:
    async def one_by_one(client: Any) -> list[Reply]:
        return [await client.ask(REQUEST) for _ in range(30)]

    with fake_server(every_nth(3, Failure(400, "every third"), answers_smallest)) as server:
        replies = with_client(provider, server, one_by_one)
        assert server.n_requests == 30
    assert [reply.outcome for reply in replies] == ["answered", "answered", "failed"] * 10
    assert {reply.reason for reply in replies if reply.outcome == "failed"} == {"bad_request"}


@both
def test_a_question_can_be_given_up_while_it_waits(provider: str) -> None:
    async def give_up(client: Any) -> str:
        waiting = asyncio.create_task(client.ask(REQUEST))
        await asyncio.sleep(0.1)
        waiting.cancel()
        try:
            await waiting
        except asyncio.CancelledError:
            return "given up"
        return "answered"

    with fake_server(lambda system, user, schema: Slow(5, VALUE)) as server:
        assert with_client(provider, server, give_up) == "given up"


@both
def test_a_client_that_was_closed_can_be_asked_on_another_event_loop(provider: str) -> None:
    with fake_server() as server:
        client = open_client(f"{provider}:m@{server.url if provider == 'anthropic' else server.openai_url}")

        async def once() -> Reply:
            try:
                return await client.ask(REQUEST)
            finally:
                await client.close()

        assert [asyncio.run(once()).outcome for _ in range(2)] == ["answered", "answered"]


@pytest.mark.parametrize(
    ("name", "variable"),
    [("anthropic:claude", "ANTHROPIC_API_KEY"), ("openai:gpt", "OPENAI_API_KEY")],
)
def test_a_missing_key_says_what_to_set(
    name: str, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))  # Anthropic's SDK looks for profiles there
    client = open_client(name)
    said = f"{name} needs a key: set the environment variable {variable}"
    assert client.why_not() == said
    with pytest.raises(Unavailable) as error:
        asyncio.run(client.ask(REQUEST))
    assert str(error.value) == said


def test_a_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with fake_server() as server:
        assert ask("openai", server).outcome == "answered"


def test_the_network_beyond_this_machine_is_out_of_reach(reached: list[str]) -> None:
    """The guard itself: without it, a test could ask a real provider."""
    client = open_client("openai:gpt", max_retries=0)

    async def once() -> Reply:
        try:
            return await client.ask(REQUEST)
        finally:
            await client.close()

    reply = asyncio.run(once())
    assert (reply.outcome, reply.reason) == ("failed", "connection")
    assert len(reached) == 1
    reached.clear()


@contextmanager
def speaking(body: str, kind: str) -> Iterator[FakeServer]:
    """A server that says the same to everyone."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield FakeServer(f"http://127.0.0.1:{server.server_address[1]}", None)  # type: ignore[arg-type]
        server.shutdown()
