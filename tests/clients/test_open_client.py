"""One word names a language model."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saeinterp_mcp.clients.anthropic import AnthropicClient
from saeinterp_mcp.clients.local import LocalClient, name_of
from saeinterp_mcp.clients.open_client import SPECS, open_client
from saeinterp_mcp.clients.openai import OpenAIClient
from saeinterp_mcp.clients.recorded import RecordedClient
from saeinterp_mcp.errors import BadInput
from tests.clients.asking import REQUEST

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "pycode" / "model"


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("anthropic:claude-haiku-4-5", AnthropicClient),
        ("anthropic:claude-haiku-4-5@https://proxy.example/claude", AnthropicClient),
        ("openai:gpt-5", OpenAIClient),
        ("openai:llama3:8b@http://127.0.0.1:11434/v1", OpenAIClient),
        ("openai:org/model@v2@http://127.0.0.1:8000/v1", OpenAIClient),
    ],
)
def test_a_client_has_the_name_that_it_was_opened_by(spec: str, kind: type) -> None:
    client = open_client(f" {spec}\n")
    assert (type(client), client.name) == (kind, spec)


def test_a_local_model_is_opened_by_its_folder_and_named_by_its_weights() -> None:
    client = open_client(f"local:{MODEL}")
    assert (type(client), client.name) == (LocalClient, name_of(MODEL))


def test_recorded_replies_are_opened_by_their_file(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    file.write_text("", encoding="utf-8")
    client = open_client(f"recorded:{file}")
    assert (type(client), client.name) == (RecordedClient, f"recorded:{file}")


@pytest.mark.parametrize(
    "spec", ["", "claude", "anthropic", "anthropic:", "mistral:large", ":x", "OPENAI:gpt"]
)
def test_what_names_no_model_is_told_what_there_is(spec: str) -> None:
    with pytest.raises(BadInput) as error:
        open_client(spec)
    assert str(error.value) == f"{spec!r} names no language model; there are:\n{SPECS}"


@pytest.mark.parametrize("spec", ["openai:http://127.0.0.1:8000/v1", "openai: @http://127.0.0.1:8000/v1"])
def test_a_server_without_a_model_is_refused(spec: str) -> None:
    with pytest.raises(BadInput, match="names no model; a server is given as in openai:MODEL@http"):
        open_client(spec)


@pytest.mark.parametrize(
    "url",
    ["https://user:secret@host/v1", "https://host/v1?key=secret", "https://secret@host/v1"],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInput) as error:
        open_client(f"openai:gpt@{url}")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["http:///v1", "http://127.0.0.1:port/v1", "http://[::1/v1", "http://h:99999"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match=r"give it as in http://127.0.0.1:8000/v1"):
        open_client(f"openai:gpt@{url}")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        open_client(f"local:{tmp_path}")
    assert str(error.value) == f"{tmp_path} holds no language model: there is no config.json in it"


def test_a_file_of_replies_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there are no recorded replies: .* does not exist or is not a file"):
        open_client(f"recorded:{tmp_path / 'none.jsonl'}")


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_sdk_is_imported_before_something_is_asked() -> None:
    code = "import sys; from saeinterp_mcp.clients.open_client import open_client\n"
    code += "one, two = open_client('anthropic:claude'), open_client('openai:gpt')\n"
    code += "print({'anthropic', 'openai', 'httpx2', 'torch'} & set(sys.modules))"
    assert run_python(code) == "set()\n"


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_a_missing_sdk_says_what_to_install(provider: str) -> None:
    code = f"import sys, asyncio; sys.modules[{provider!r}] = None\n"
    code += "from saeinterp_mcp.clients.open_client import open_client\n"
    code += f"print(open_client('{provider}:m').why_not())"
    assert run_python(code) == (
        f"{provider}:m needs a package that is not installed; pip install 'saeinterp-mcp[{provider}]'\n"
    )


def test_what_is_missing_can_be_asked_before_anything_is(monkeypatch: pytest.MonkeyPatch) -> None:
    client = open_client("openai:gpt")
    assert client.why_not() is None
    asyncio.run(client.close())
    assert REQUEST.key("a") != REQUEST.key("b")
