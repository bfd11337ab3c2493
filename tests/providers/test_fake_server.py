"""The fake itself: others rely on what it counts."""

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.clients.asking import ask
from tests.providers.fake_server import Failure, fake_process, fake_server
from tests.providers.guard import loopback_only


@pytest.fixture(autouse=True)
def _no_real_provider(monkeypatch: pytest.MonkeyPatch) -> Any:
    with loopback_only():
        monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
        yield


def post(url: str, body: Any) -> Any:
    with urllib.request.urlopen(url, json.dumps(body).encode()) as response:
        return json.load(response)


def test_what_was_asked_is_in_the_file_before_it_is_answered(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    seen = []

    def behave(system: str, user: str, schema: dict[str, Any]) -> dict[str, Any]:
        seen.append(len(log.read_text(encoding="utf-8").splitlines()))
        return {}

    with fake_server(behave, log_file=log) as server:
        for _ in range(3):
            ask("openai", server)
    assert seen == [1, 2, 3]
    assert [json.loads(line)["path"] for line in log.read_text(encoding="utf-8").splitlines()] == [
        "/v1/chat/completions"
    ] * 3


def test_in_a_process_of_its_own_it_counts_and_fails_as_told(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with fake_process("third_fails", log_file=log) as server:
        replies = [ask("anthropic", server) for _ in range(3)]
        server.fail(Failure(401, "bad key"), path="/v1/chat/completions")
        replies += [ask("anthropic", server), ask("openai", server)]
        assert (server.n_requests, server.n_batched) == (5, 0)
        assert server.counts()["POST /v1/messages"] == 4
        assert server.bodies()[0]["model"] == "claude"
        os.kill(server.pid, signal.SIGKILL)
    assert [reply.reason for reply in replies] == [None, None, "bad_request", None, "authentication"]
    assert len(log.read_text(encoding="utf-8").splitlines()) == 5


def test_tokens_are_counted_before_a_question_is_put() -> None:
    asked = {"model": "m", "system": "x" * 40, "messages": [{"role": "user", "content": "y" * 8}]}
    with fake_server() as server:
        assert post(f"{server.url}/v1/messages/count_tokens", asked) == {"input_tokens": 12}
        assert server.n_requests == 0
