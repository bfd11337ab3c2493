"""Hold the server to the MCP project's own test tools: its Inspector and its conformance suite.

    python -m tests.conformance.run [--store PATH]

Node and the tools are installed by npm, once, into `.conformance/`. Without --store a small planted store is made.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saeinterp_mcp.config import VERSION
from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.store.open import open_store
from tests.npm import installed

FOLDER = ".conformance"
PACKAGES = (
    "node@22",
    "@modelcontextprotocol/inspector@2.12.0",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
)
ERAS = ("legacy", "modern")
HANDSHAKE, STATELESS, EXTENSION = "2025-11-25", "2026-07-28", "extension"
SCENARIOS = {
    "server-initialize": (HANDSHAKE,),
    "server-session-lifecycle": (HANDSHAKE,),
    "ping": (HANDSHAKE,),
    "completion-complete": (HANDSHAKE, STATELESS),
    "tools-list": (HANDSHAKE, STATELESS),
    "resources-list": (HANDSHAKE, STATELESS),
    "prompts-list": (HANDSHAKE, STATELESS),
    "sep-2164-resource-not-found": (STATELESS,),
    "caching": (STATELESS,),
    "http-header-validation": (STATELESS,),
    "dns-rebinding-protection": (HANDSHAKE, STATELESS),
    "server-sse-multiple-streams": (HANDSHAKE, STATELESS),
    "sep-2640-skills-enumeration": (EXTENSION,),
    "sep-2640-skills-manifest": (EXTENSION,),
}
"""The scenarios that need no fixture tools, and the protocol versions they apply to; at others they do nothing."""
OK, FAILED, TOOL_ERROR = 0, 1, 5
"""Exit codes of the Inspector."""


class Report:
    """Counts what passed and says what did not."""

    def __init__(self) -> None:
        self.passed, self.failed = 0, 0

    def check(self, what: str, holds: bool, seen: str) -> None:
        """One line for each check; what was seen only when it fails."""
        self.passed, self.failed = self.passed + holds, self.failed + (not holds)
        print(
            f"{'ok  ' if holds else 'FAIL'} {what}" + ("" if holds else f"\n     {seen.strip()[-1500:]}"),
            flush=True,
        )


def install() -> dict[str, str]:
    """Node and the tools in `.conformance/`; returns the environment that finds them first."""
    try:
        commands = installed(FOLDER, PACKAGES) / ".bin"
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
    return {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}


Inspector = Callable[..., subprocess.CompletedProcess[str]]
"""Called with an era and the Inspector's options."""


def inspector_of(server: Sequence[str], environment: dict[str, str]) -> Inspector:
    """The Inspector's command line, which starts the server anew for each question."""

    def inspector(era: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["mcp-inspector", "--cli", *server, "--protocol-era", era, "--format", "json", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return inspector


def inspect_tools(inspector: Inspector, report: Report) -> None:
    """In both eras: schemas portable, a call answered, a wrong one refused in words."""

    def call(era: str, tool: str, arguments: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        return inspector(
            era, "--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments)
        )

    wrong = {"an unknown feature": {"feature": 10**6}, "an unknown argument": {"feature": 0, "x": 1}}
    for era in ERAS:
        listed = inspector(era, "--method", "tools/list", "--strict")
        report.check(
            f"inspector {era}: tools/list --strict", listed.returncode == OK, listed.stdout + listed.stderr
        )
        asked = call(era, "feature_overview", {"feature": 0})
        whole = asked.returncode == OK and '"structuredContent"' in asked.stdout
        report.check(f"inspector {era}: a call", whole, asked.stdout + asked.stderr)
        for what, arguments in wrong.items():
            refused = call(era, "feature_overview", arguments)
            seen = f"exit code {refused.returncode}\n{refused.stdout}{refused.stderr}"
            report.check(f"inspector {era}: {what}", refused.returncode == TOOL_ERROR, seen)


def inspect_offers(inspector: Inspector, store: str, report: Report) -> None:
    """In both eras: prompts filled in, resources read, an unknown one refused; and the digests of the skills."""

    def check(era: str, what: str, code: int, within: str, *arguments: str) -> str:
        done = inspector(era, "--method", *arguments)
        said = done.stdout + done.stderr
        holds = done.returncode == code and within in said
        report.check(f"inspector {era}: {what}", holds, f"exit code {done.returncode}\n{said}")
        return done.stdout

    overview = ("--tool-name", "feature_overview", "--tool-args-json", '{"feature": 0}')
    for era in ERAS:
        for name, argument in (("investigate", "feature=1"), ("sceptic", "feature=1"), ("triage", "n=5")):
            what = ("prompts/get", "--prompt-name", name, "--prompt-args", argument)
            check(era, f"prompts/get {name}", OK, "of the sparse autoencoder", *what)
        template = "saeinterp://{store}/feature/{id}"
        check(era, f"template {template}", OK, template, "resources/templates/list")
        answered = check(era, "a call that is recorded", OK, "ev-", "tools/call", *overview)
        evidence = re.search(r"ev-[0-9a-f]{16}", answered)
        for uri, within in (
            ("saeinterp://summary", "store_status"),
            (f"saeinterp://{store}/feature/1", "feature_overview"),
            (f"saeinterp://evidence/{evidence[0] if evidence else 'none'}", "feature_overview"),
            ("skill://investigate/SKILL.md", "Investigate a feature"),
        ):
            check(era, f"resources/read {uri}", OK, within, "resources/read", "--uri", uri)
        unknown = ("resources/read", "--uri", f"saeinterp://{store}/feature/1000000")
        check(era, "an unknown resource", FAILED, "features_search finds some", *unknown)
    verify = ("skills/list", "--verify", "--require-digests")
    check("modern", "skills/list --verify --require-digests", OK, '"outcome":"verified"', *verify)


def run_scenarios(url: str, environment: dict[str, str], report: Report) -> None:
    """Each scenario at each version it applies to. Exit code 0 is not enough: its checks must have been made."""
    for scenario, versions in SCENARIOS.items():
        for version in versions:
            with tempfile.TemporaryDirectory() as out:
                command = ["conformance", "server", "--url", url, "-o", out, "--scenario", scenario]
                done = subprocess.run(
                    command if version == EXTENSION else [*command, "--spec-version", version],
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=120,
                    check=False,
                )
                files = list(Path(out).rglob("checks.json"))
                checks = [c for file in files for c in json.loads(file.read_text(encoding="utf-8"))]
            statuses = [str(check["status"]) for check in checks]
            good = (
                done.returncode == 0
                and "SUCCESS" in statuses
                and set(statuses) <= {"SUCCESS", "INFO", "SKIPPED"}
            )
            report.check(
                f"conformance {version} {scenario}: {len(checks)} checks", good, f"{statuses}\n{done.stdout}"
            )


@contextmanager
def http_server(store: Path) -> Iterator[str]:
    """`saeinterp serve --http` on a free port, for as long as the block runs; gives its URL."""
    command = [*serve_command(store), "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None, "stderr is a pipe"
            first = process.stderr.readline()
            if not first.startswith("serving "):
                raise SystemExit(f"the server did not start: {first}{process.stderr.read()}")
            yield first.split()[1]
        finally:
            process.terminate()


def serve_command(store: Path) -> list[str]:
    """The server as a host starts it."""
    return [sys.executable, "-m", "saeinterp_mcp", "serve", "--store", str(store)]


def main() -> None:
    """Install, make a store if none is given, run everything; exit code 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path)
    given: Path | None = parser.parse_args().store
    environment, report = install(), Report()
    print(f"saeinterp {VERSION} against {', '.join(PACKAGES)}")
    with tempfile.TemporaryDirectory() as folder:
        store = given or _planted(Path(folder))
        inspector = inspector_of(serve_command(store), environment)
        inspect_tools(inspector, report)
        inspect_offers(inspector, open_store(store).name, report)
        with http_server(store) as url:
            run_scenarios(url, environment, report)
    print(f"{report.passed} passed, {report.failed} failed")
    raise SystemExit(1 if report.failed else 0)


def _planted(folder: Path) -> Path:
    from tests.faces.planted import sequence_store

    try:
        return sequence_store(folder)
    except SaeInterpError as error:
        raise SystemExit(f"no store to serve: {error}") from error


if __name__ == "__main__":
    main()
