"""A language model in a child process, as a client and as a measure of surprise."""

import asyncio
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.clients.local import LocalClient, TextModel, name_of
from saeinterp_mcp.clients.worker_process import WorkerProcess
from saeinterp_mcp.errors import BadInput, Unavailable
from tests.clients.asking import REQUEST

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "pycode" / "model"
SMALL = {"type": "object", "properties": {"a": {"type": "integer"}}}
QUESTION = Request(system="Judge.", user="go", answer_schema=SMALL, max_tokens=20)
WORKER = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    user = request.get("generate", {}).get("user")
    if user == "sleep": time.sleep(30)
    if user == "die": sys.exit(3)
    if user == "bad": print(json.dumps({"error": "there is no such model", "kind": "caller"}), flush=True); continue
    print(json.dumps({"model": "m", "fingerprint": "f", "context": 9, "n_prompt": 2, "n_new": 5, **SAID}), flush=True)
"""


@pytest.fixture(scope="module")
def process() -> Iterator[WorkerProcess]:
    process = WorkerProcess()
    yield process
    process.close()


def worker(**said: str) -> WorkerProcess:
    """A child that needs no torch, and says so."""
    return WorkerProcess([sys.executable, "-c", f"SAID = {said!r}\n{WORKER}"], start_seconds=10)


def say(client: LocalClient, *questions: Request, keep: bool = False) -> list[Reply]:
    """`keep`: the child, which takes seconds to start."""

    async def run() -> list[Reply]:
        try:
            return list(await asyncio.gather(*(client.ask(one) for one in questions)))
        finally:
            if not keep:
                await client.close()

    return asyncio.run(run())


def test_the_shipped_model_answers_though_it_knows_no_json(process: WorkerProcess) -> None:
    client = LocalClient(MODEL, process=process)
    again = Request(system="x", user="import os\n", answer_schema=SMALL, max_tokens=12)
    one, two = say(client, again, again, keep=True)
    assert one == two
    assert (one.outcome, one.reason) == ("truncated", "max_tokens")
    assert one.usage is not None
    assert one.usage.output_tokens == 12
    assert str(one.model).startswith("model:")
    assert re.fullmatch(r"local:model#[0-9a-f]{8}", client.name)


def test_a_model_is_named_by_its_weights_wherever_it_lies(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(MODEL, tmp_path / "model"))
    assert name_of(copy) == name_of(MODEL)
    (weights,) = copy.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    assert name_of(copy) != name_of(MODEL)


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(process: WorkerProcess) -> None:
    long = QUESTION.model_copy(update={"user": "x " * 500})
    [reply] = say(LocalClient(MODEL, process=process), long, keep=True)
    assert (reply.outcome, reply.reason) == ("failed", "bad_request")
    assert reply.detail == "prompt too long: 594 tokens, the model reads 256"


def test_losses_come_for_every_text_in_its_order(process: WorkerProcess) -> None:
    model = TextModel(MODEL, process=process)
    texts = [f"import module{i}\n" for i in range(5)]
    losses = model.losses("import os\n", texts)
    assert losses == [model.losses("import os\n", [text])[0] for text in texts]
    assert model.losses("", []) == []
    assert all(isinstance(loss, float) for loss in losses)


def test_a_text_that_is_no_unicode_or_too_long_is_refused(process: WorkerProcess) -> None:
    model = TextModel(MODEL, process=process)
    with pytest.raises(BadInput, match="text 1 holds half a surrogate pair"):
        model.losses("", ["a", "\ud800"])
    with pytest.raises(BadInput, match="text 0 is too long: 301 tokens with the prefix"):
        model.losses("", ["x " * 300])


def test_the_child_is_asked_for_json_in_words() -> None:
    heard = WorkerProcess([sys.executable, "-c", ECHO], start_seconds=10)
    [reply] = say(LocalClient(MODEL, process=heard), QUESTION)
    asked = json.loads(reply.text)
    assert asked["model"] == str(MODEL.resolve())
    assert asked["generate"] == {
        "system": "Judge.\n\nAnswer with one JSON object and nothing else: no text before or after it, no code fence. "
        'It fits this JSON schema:\n{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], '
        '"additionalProperties": false}',
        "user": "go",
        "max_tokens": 20,
    }


ECHO = """
import json, sys
for line in sys.stdin:
    facts = {"model": "m", "fingerprint": "f", "context": 9, "n_prompt": 2, "n_new": 5, "stop": "object"}
    print(json.dumps({**facts, "text": line}), flush=True)
"""


@pytest.mark.parametrize(
    ("text", "stop", "outcome", "reason"),
    [
        ('{"a": 1}', "object", "answered", None),
        ('Sure: {"a": 1}\n', "object", "answered", None),
        ("no idea", "end", "invalid", "no JSON"),
        ("", "end", "invalid", "empty"),
        ('{"a": ', "limit", "truncated", "max_tokens"),
    ],
)
def test_what_the_child_says_is_an_outcome(text: str, stop: str, outcome: str, reason: str | None) -> None:
    [reply] = say(LocalClient(MODEL, process=worker(text=text, stop=stop)), QUESTION)
    assert (reply.outcome, reply.reason, reply.text) == (outcome, reason, text)
    assert reply.value == ({"a": 1} if outcome == "answered" else None)
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (2, 5)


def test_a_child_that_is_too_slow_or_dies_is_a_failure_and_the_next_question_is_answered() -> None:
    client = LocalClient(MODEL, timeout_seconds=0.2, process=worker(text="{}", stop="object"))
    client._process._start_seconds = 0.5
    users = ("sleep", "die", "go")
    replies = say(client, *[QUESTION.model_copy(update={"user": user}) for user in users])
    assert [(reply.outcome, reply.reason) for reply in replies] == [
        ("failed", "timeout"),
        ("failed", "server_error"),
        ("answered", None),
    ]


def test_a_question_that_is_given_up_ends_with_its_client() -> None:
    """Ctrl-C must not wait for an answer that nobody reads."""
    client = LocalClient(MODEL, process=worker(text="{}", stop="object"))

    async def give_up() -> None:
        waiting = asyncio.create_task(client.ask(QUESTION.model_copy(update={"user": "sleep"})))
        await asyncio.sleep(0.3)
        waiting.cancel()
        await client.close()

    started = time.monotonic()
    asyncio.run(give_up())
    assert time.monotonic() - started < 10
    assert [reply.outcome for reply in say(client, QUESTION)] == ["answered"]


def test_a_folder_that_the_child_cannot_read_is_unavailable() -> None:
    client = LocalClient(MODEL, process=worker(text="{}", stop="object"))
    with pytest.raises(Unavailable, match="cannot be asked: there is no such model"):
        say(client, QUESTION.model_copy(update={"user": "bad"}))


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    client = LocalClient(MODEL)
    assert client.why_not() == 'torch is not installed; pip install "saeinterp-mcp[pipeline]"'
    with pytest.raises(Unavailable, match="cannot be used here: torch is not installed"):
        say(client, REQUEST)
    with pytest.raises(Unavailable, match="torch is not installed"):
        TextModel(MODEL).losses("", ["a"])
