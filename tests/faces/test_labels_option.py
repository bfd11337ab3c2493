"""Where held-out tests are recorded: beside the store, where --labels says, or the environment."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.config import Settings
from saeinterp_mcp.faces.mcp_client import open_client
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.heldout import n_tests
from saeinterp_mcp.store.open import open_store
from tests.faces.conftest import run_cli

RULE = ("test-rule", "0", "--rule", "family:fam>=1", "--json")


@pytest.fixture
def store(seq: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(seq, tmp_path / "seq"))


def recorded(store: Path, labels: Path) -> int | None:
    return n_tests(LabelFile(labels), open_store(store).lineage, 0)


def ask(store: Path, *arguments: str, **environment: str) -> Any:
    done = run_cli(*RULE, "--store", str(store), *arguments, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)["n_tests_on_heldout"]


def test_a_held_out_test_is_recorded_beside_the_store(store: Path, tmp_path: Path) -> None:
    assert ask(store, "--split", "explain") == 0
    assert [ask(store), ask(store, "--where", "module=m1"), ask(store)] == [1, 2, 2]
    assert recorded(store, tmp_path / "seq.labels.sqlite") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["seq", "seq.labels.sqlite"]


def test_the_option_names_the_file_and_wins_over_the_environment(store: Path, tmp_path: Path) -> None:
    mine, ours = tmp_path / "mine.sqlite", tmp_path / "ours.sqlite"
    assert ask(store, SAEINTERP_LABELS=str(ours)) == 1
    assert ask(store, "--labels", str(mine), SAEINTERP_LABELS=str(ours)) == 1
    assert (recorded(store, mine), recorded(store, ours)) == (1, 1)
    assert not (tmp_path / "seq.labels.sqlite").exists()


def test_a_server_records_where_it_was_told_to(store: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.sqlite"
    command = [sys.executable, "-m", "saeinterp_mcp", "serve", "--store", str(store), "--labels", str(mine)]

    async def call() -> Any:
        async with open_client(command) as session:
            reply = await session.call("test_rule", {"feature": 0, "rule": "family:fam>=1"})
            return reply.structured

    assert asyncio.run(call())["n_tests_on_heldout"] == 1
    assert recorded(store, mine) == 1


def test_every_command_about_a_store_takes_the_option() -> None:
    commands = ("test-rule", "serve", "family-sweep", "label save", "label list", "demo")
    takes = [c for c in commands if "--labels" in run_cli(*c.split(), "--help").stdout]
    assert takes == ["test-rule", "serve", "family-sweep", "label save", "label list"]


def test_a_place_that_cannot_be_written_is_a_wrong_call_and_a_damaged_file_bad_data(
    store: Path, tmp_path: Path
) -> None:
    nowhere = run_cli(*RULE, "--store", str(store), "--labels", str(tmp_path / "no" / "such.sqlite"))
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert (
        "held-out tests and evidence are kept there; name a file that can be written with --labels"
        in nowhere.stderr
    )
    (tmp_path / "seq.labels.sqlite").write_bytes(b"SQLite format 3\0" + b"\xa5" * 5000)
    damaged = run_cli(*RULE, "--store", str(store))
    assert (damaged.returncode, damaged.stdout) == (3, "")
    assert damaged.stderr.startswith(
        f"Error: {tmp_path / 'seq.labels.sqlite'}: expected a labels file; found"
    )


def test_settings_read_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAEINTERP_LABELS", raising=False)
    assert Settings.from_environment().labels is None
    monkeypatch.setenv("SAEINTERP_LABELS", "all.sqlite")
    assert Settings.from_environment().labels == Path("all.sqlite")
