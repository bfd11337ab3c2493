"""Running `saeinterp-pipeline` and looking at what it left, by ways that share nothing with it."""

import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from tests.conftest import ROOT
from tests.providers.fake_server import FakeServer

KEYS = {"OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none"}
WRITER, JUDGE = "openai:writer", "anthropic:judge"
PATIENCE_SECONDS = 600


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def addresses(server: FakeServer) -> dict[str, str]:
    """Environment in which both SDKs reach the fake server, and the names of clients hold no port."""
    return {**KEYS, "OPENAI_BASE_URL": server.openai_url, "ANTHROPIC_BASE_URL": server.url}


def pipeline(server: FakeServer | None, *arguments: object) -> Done:
    """The command in this process, as `main` runs it."""
    from pipeline.__main__ import main

    told = ["saeinterp-pipeline", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        patch.object(sys, "argv", told),
        patch.dict(os.environ, addresses(server) if server else {}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def start(server: FakeServer, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """The command in a process of its own, which does not outlive the test."""
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **addresses(server)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(server: FakeServer, *arguments: object) -> Done:
    """The command in a process of its own, to its end."""
    with start(server, *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return Done(process.returncode, out, err)


def wait_until(there: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    """Until something is there, in a process that works on it."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not there():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.01)


def explained(server: FakeServer, store: Path, *more: object) -> Done:
    """`explain` by the writer; `more` says which features."""
    return pipeline(server, "explain", store, "--model", WRITER, *more)


def scored(server: FakeServer, store: Path, *more: object, by: str = "detection") -> Done:
    """`explain` and then `--score`."""
    return explained(server, store, "--score", by, "--judge", JUDGE, *more)


def rows(store: Path, table: str, which: str = "1") -> list[dict[str, Any]]:
    """Of the labels file, or of the ledger where it has such a table."""
    ledger = table in ("runs", "calls", "requests", "batches")
    path = store.with_name(f"{store.name}.{'runs' if ledger else 'labels'}.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} WHERE {which}")]


def labels(store: Path) -> dict[int, list[dict[str, Any]]]:
    """Feature to its labels, as they are now."""
    with closing(sqlite3.connect(store.with_name(f"{store.name}.labels.sqlite"))) as connection:
        connection.row_factory = sqlite3.Row
        found: dict[int, list[dict[str, Any]]] = {}
        ask = "SELECT l.feature, l.label_id, r.* FROM labels l JOIN label_revisions r ON r.id = l.current ORDER BY l.id"
        for row in connection.execute(ask):
            found.setdefault(row["feature"], []).append(dict(row))
    return found


def everything(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the labels file."""
    with closing(sqlite3.connect(store.with_name(f"{store.name}.labels.sqlite"))) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("label_words_")
        ]
        return {name: sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr) for name in names}


def report(store: Path, run: str | None = None) -> dict[str, Any]:
    """report.json of a run, the only one where none is named."""
    folder = store.with_name(f"{store.name}.runs")
    found = [folder / run] if run else sorted(folder.iterdir())
    assert len(found) == 1, f"one run, not {len(found)}"
    content: dict[str, Any] = json.loads((found[0] / "report.json").read_text(encoding="utf-8"))
    return content


def lines(log: Path) -> Iterator[dict[str, Any]]:
    """Entries of the file in which a fake server keeps what it was asked."""
    with log.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
