"""The real Claude Code, of one version, run without a terminal, a login or a network."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.host.fake_model import FakeModel, Script, served
from tests.npm import installed

FOLDER = ".claude-code"
PACKAGES = ("@anthropic-ai/claude-code@2.1.329", "@anthropic-ai/mcpb@2.1.2")
VERSION = PACKAGES[0].rpartition("@")[2]
QUIET = {
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}
"""Nothing is asked of anybody but the model."""
WHOLE = {
    "MCP_CONNECTION_NONBLOCKING": "0",
    "MCP_TIMEOUT": "120000",
    "MCP_CONNECT_TIMEOUT_MS": "120000",
    "ENABLE_TOOL_SEARCH": "false",
}
"""The first request waits for the servers, on a busy machine too, and shows every tool, not their names alone."""


def tools() -> Path:
    """The folder of what npm installed."""
    return installed(FOLDER, PACKAGES)


def program() -> Path:
    """The binary for this machine, installed if it is not yet."""
    machine = {"x86_64": "x64", "AMD64": "x64", "aarch64": "arm64"}.get(
        platform.machine(), platform.machine()
    )
    package = f"claude-code-{sys.platform}-{machine}"
    found = tools() / "@anthropic-ai" / package / "claude"
    assert found.is_file(), f"{PACKAGES[0]} has no program for {sys.platform} {machine}"
    return found


@dataclass(frozen=True)
class Session:
    """What one run of Claude Code showed to both sides."""

    model: FakeModel
    events: list[dict[str, Any]]
    """Its output, a record a line."""

    @property
    def init(self) -> dict[str, Any]:
        """Its first event: which servers are connected, which tools and commands there are."""
        return next(event for event in self.events if event.get("subtype") == "init")

    @property
    def last_words(self) -> str:
        """What the person at the terminal reads in the end."""
        assert self.events[-1]["type"] == "result", self.events[-1]
        assert not self.events[-1]["is_error"], self.events[-1]
        return str(self.events[-1]["result"])


def environment(home: Path, **more: str) -> dict[str, str]:
    """A clean one, so that nothing of whoever runs the tests gets in; the programs of this Python come first."""
    home.mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", **QUIET, **WHOLE, **more}


def converse(
    script: Script, prompt: str, *options: str, home: Path, folder: Path, variables: Mapping[str, str]
) -> Session:
    """Run `claude -p PROMPT` in `folder` against a model that follows the script, to its end.

    Its web traffic is sent to a proxy that is not there, so what it might ask of others fails at once.
    """
    model = FakeModel(script)
    with served(model) as url:
        done = run(
            *("-p", prompt, *options, "--output-format", "stream-json", "--verbose"),
            folder=folder,
            variables=environment(
                home,
                ANTHROPIC_BASE_URL=url,
                ANTHROPIC_API_KEY="none",
                HTTPS_PROXY="http://127.0.0.1:9",
                HTTP_PROXY="http://127.0.0.1:9",
                NO_PROXY="127.0.0.1",
                **variables,
            ),
        )
    if model.failure is not None:
        raise model.failure
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    session = Session(model, [json.loads(line) for line in done.stdout.splitlines()])
    assert model.requests, f"no server was connected: {session.init['mcp_servers']}"
    return session


def run(*arguments: str, folder: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the binary once."""
    return subprocess.run(
        [program(), *arguments],
        cwd=folder,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=180,
        check=False,
    )
