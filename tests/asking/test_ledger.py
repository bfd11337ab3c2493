"""Runs: one process each, found again, and counted from what is on record."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from saeinterp_mcp.asking import calls
from saeinterp_mcp.asking.asker import Asker, ask_all
from saeinterp_mcp.asking.budget import Budget, size_of
from saeinterp_mcp.asking.calls import Item
from saeinterp_mcp.asking.ledger import Ledger, ledger_beside
from saeinterp_mcp.asking.prices import load_prices
from saeinterp_mcp.asking.runs import RunLock, is_at, is_held
from saeinterp_mcp.asking.schema import MIGRATIONS
from saeinterp_mcp.clients.base import Reply, Request, Usage
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.labels.database import LabelFile
from tests.asking.provider import NAME, question
from tests.asking.test_asker import Scripted, a_run, asked, failure
from tests.conftest import ROOT

HOLDER = """
import sys
from pathlib import Path
from saeinterp_mcp.asking.budget import Budget, size_of
from saeinterp_mcp.asking.calls import Item
from saeinterp_mcp.asking.ledger import Ledger
run = Ledger(Path(sys.argv[1])).begin("test", {"name": "one"}, "lineage", "fingerprint", 5)
print(run.run, flush=True)
sys.stdin.readline()
run.finish("stopped", "because I was told to")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.runs.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path)) as one:
        yield one


def holder(path: Path) -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def test_looking_where_nothing_was_asked_makes_no_file(tmp_path: Path) -> None:
    ledger = ledger_beside(tmp_path / "store")
    assert ledger.path == tmp_path / "store.runs.sqlite"
    assert ledger.runs_of("lineage") == []
    assert ledger.run_status("run-0") is None
    assert ledger.reply("0" * 16) is None
    assert ledger.answered(["0" * 16]) == set()
    assert ledger.paid(["0" * 16]) == 0
    assert ledger.costs_of("run-0") == {}
    assert list(tmp_path.iterdir()) == []


def test_the_same_kind_config_and_store_are_the_same_run_and_nothing_else_is(ledger: Ledger) -> None:
    def run_of(
        kind: str = "explain",
        store: str = "f1",
        lineage: str = "l",
        settings: object = None,
        **config: object,
    ) -> str:
        with ledger.begin(kind, config, lineage, store, 3, {"concurrency": settings}) as run:
            return run.run

    one = run_of(a=1, b=[2])
    assert one == run_of(b=[2], a=1) == run_of(a=1, b=[2], settings=8)
    assert one.startswith("run-")
    others = [run_of(a=2, b=[2]), run_of("score", a=1, b=[2]), run_of(store="f2", a=1, b=[2])]
    assert len({one, *others}) == 4
    assert len(ledger.runs_of("l")) == 4
    assert ledger.runs_of("another lineage") == []
    (status,) = [run for run in ledger.runs_of("l") if run.run == one]
    assert (status.config, status.settings) == ({"a": 1, "b": [2]}, {"concurrency": 8})


def test_a_run_that_a_process_works_on_is_refused_with_who_that_is(path: Path, ledger: Ledger) -> None:
    other = holder(path)
    assert other.stdout is not None
    run = other.stdout.readline().strip()
    with pytest.raises(
        BadInput, match=rf"{run} is being worked on by process {other.pid}, last heard of at 20"
    ):
        ledger.begin("test", {"name": "one"}, "lineage", "fingerprint")
    assert ledger.runs_of("lineage")[0].state == "running"
    with ledger.begin("test", {"name": "other"}, "lineage", "fingerprint"):
        pass
    other.communicate("go\n")
    status = ledger.run_status(run)
    assert status is not None
    assert (status.state, status.why, status.n_total) == ("stopped", "because I was told to", 5)
    with a_run(ledger) as again:
        assert again.run == run
        with pytest.raises(BadInput, match=f"being worked on by process {os.getpid()}"):
            ledger.begin("test", {"name": "one"}, "lineage", "fingerprint")
    assert not list(path.parent.glob("*.lock"))


def test_a_run_whose_process_was_killed_is_interrupted_and_can_go_on(path: Path, ledger: Ledger) -> None:
    other = holder(path)
    assert other.stdout is not None
    other.stdout.readline()
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    assert ledger.runs_of("lineage")[0].state == "interrupted"
    with a_run(ledger) as run:
        assert ledger.runs_of("lineage")[0].state == "running"
        run.progress(2, counts={"unclear": 1})
    (status,) = ledger.runs_of("lineage")
    assert (status.state, status.n_done, status.n_total, status.counts) == ("done", 2, 5, {"unclear": 1})


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (ZeroDivisionError("a bug"), "failed", "ZeroDivisionError: a bug"),
        (KeyboardInterrupt(), "stopped", "interrupted by the user"),
    ],
)
def test_a_run_that_is_left_by_an_error_says_so(
    ledger: Ledger, error: BaseException, state: str, why: str
) -> None:
    with pytest.raises(type(error)), a_run(ledger):
        raise error
    (status,) = ledger.runs_of("lineage")
    assert (status.state, status.why) == (state, why)
    assert not list(ledger.path.parent.glob("*.lock"))


def test_the_numbers_of_a_run_are_the_sums_of_its_calls(ledger: Ledger) -> None:
    usages = {
        1: Usage(input_tokens=100, output_tokens=10),
        2: Usage(input_tokens=7, output_tokens=20, cached_tokens=1000),
        3: Usage(input_tokens=5, output_tokens=30, written_tokens=500),
    }

    def behave(n: int, _: object) -> Reply:
        if n == 4:
            return failure("rate_limit")
        return Reply(outcome="refused" if n == 3 else "answered", usage=usages[n])

    client = Scripted(behave)
    with a_run(ledger) as run:
        asker = Asker(client, run, concurrency=1)
        purposes = ["explain", "score:detection", "score:detection", "explain"]
        ask_all(asker, [(i // 2, purpose, question(i)) for i, purpose in enumerate(purposes)])
        keys = [question(i).key(NAME) for i in range(4)]
        assert ledger.answered([*keys, "f" * 16]) == set(keys[:3])
        assert ledger.paid(keys[:2]) == pytest.approx((100 + 7 + 100) / 1e6 + 30 * 5 / 1e6)
    (status,) = ledger.runs_of("lineage")
    assert (status.n_calls, status.n_answered, status.n_failed) == (4, 3, {"rate_limit": 1, "refused": 1})
    tokens = (status.input_tokens, status.output_tokens, status.cached_tokens, status.written_tokens)
    assert tokens == (112, 60, 1000, 500)
    assert status.usd == pytest.approx((112 + 1000 * 0.1 + 500 * 1.25 + 60 * 5) / 1e6)
    assert (status.by_purpose["explain"].n_calls, status.by_purpose["score:detection"].output_tokens) == (
        2,
        50,
    )
    costs = ledger.costs_of(status.run)
    assert (costs[0].n_calls, costs[0].input_tokens, costs[1].n_answered) == (2, 107, 1)
    assert costs[1].usd == pytest.approx((5 + 500 * 1.25 + 30 * 5) / 1e6)
    assert status.started_at <= status.changed_at


def test_dollars_are_unknown_if_any_are_and_tokens_that_were_not_told_are_counted(ledger: Ledger) -> None:
    client = Scripted(lambda n, _: Reply(outcome="answered", usage=None if n == 2 else Usage(input_tokens=3)))
    with a_run(ledger) as run:
        asked(client, run, 1)
        assert ledger.runs_of("lineage")[0].usd == pytest.approx(3e-6)
        asked(client, run, 2)
        assert ledger.paid([question(1).key(NAME)]) == pytest.approx(3e-6)
        assert ledger.paid([question(i).key(NAME) for i in (1, 2)]) is None
    (status,) = ledger.runs_of("lineage")
    assert (status.usd, status.input_tokens, status.n_without_usage) == (None, 3, 1)


def test_a_run_without_a_price_that_goes_on_with_one_counts_what_it_had_spent(ledger: Ledger) -> None:
    """Written down without dollars, and worth what the tokens cost now."""
    own = ledger.path.with_name("prices.yaml")
    own.write_text("{as_of: '2026-11', models: {'openai:new': {input: 10, output: 0}}}", encoding="utf-8")
    client = Scripted(lambda *_: Reply(outcome="answered", usage=Usage(input_tokens=1000)), name="openai:new")
    with a_run(ledger) as run:
        asked(client, run, 1, 2)
        asker = Asker(client, run, Budget(max_usd=1), prices=load_prices(own))
    spent = asker.account.spent
    assert (spent.calls, spent.tokens, round(spent.usd * 1e6)) == (2, 2000, 20_000)


def test_the_seconds_of_a_run_add_up_over_its_starts(ledger: Ledger) -> None:
    seconds = []
    for _ in range(3):
        with a_run(ledger):
            pass
        seconds.append(ledger.runs_of("lineage")[0].seconds)
    assert 0 < seconds[0] < seconds[1] < seconds[2] < 10


def test_it_is_read_where_nothing_can_be_written(ledger: Ledger) -> None:
    with a_run(ledger) as run:
        asked(Scripted(), run, 1)
    ledger.close()
    ledger.path.parent.chmod(0o500)
    try:
        assert [status.n_answered for status in Ledger(ledger.path).runs_of("lineage")] == [1]
    finally:
        ledger.path.parent.chmod(0o700)


def alien(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")


def labels(path: Path) -> None:
    LabelFile(path).write(lambda connection: None)


def newer(path: Path) -> None:
    ledger = Ledger(path)
    with a_run(ledger):
        pass
    ledger.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            alien,
            "expected a ledger of runs of saeinterp; found another program's database. Restore it from a copy",
        ),
        (
            labels,
            "expected a ledger of runs of saeinterp; found another program's database. Restore it from a copy",
        ),
        (
            newer,
            "expected a ledger of runs of schema 1 or older; found schema 2. A newer saeinterp wrote it: use that",
        ),
    ],
)
def test_another_file_in_its_place_is_refused_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], words: str
) -> None:
    make(path)
    before = path.read_bytes()
    for look in (lambda: Ledger(path).runs_of("lineage"), lambda: a_run(Ledger(path)).__enter__()):
        with pytest.raises(BadStore, match=words):
            look()
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.lock"))


def test_a_lock_is_held_by_one_and_free_when_it_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    lock = RunLock.take(path)
    assert lock is not None
    assert is_held(path)
    assert RunLock.take(path) is None
    lock.release()
    assert not is_held(path)
    second = RunLock.take(path)
    assert second is not None
    lock.release()
    assert is_held(path), "letting go twice takes nothing from the next"
    second.release()
    path.write_bytes(b"")
    assert not is_held(path), "left by a process that was killed"


def test_a_status_is_json(ledger: Ledger) -> None:
    with a_run(ledger) as run:
        asked(Scripted(), run, 1)
    (status,) = ledger.runs_of("lineage")
    assert json.loads(status.model_dump_json())["state"] == "done"


def test_a_lock_file_that_was_taken_away_meanwhile_is_not_the_lock(tmp_path: Path) -> None:
    """Opened before the one before let go of it, locked after: another process may hold the new one by then."""
    path = tmp_path / "lock"
    with path.open("ab") as opened:
        assert is_at(path, opened)
        path.unlink()
        assert not is_at(path, opened)
        path.write_bytes(b"")
        assert not is_at(path, opened)


def test_what_became_uncertain_after_it_was_looked_up_is_not_claimed(ledger: Ledger) -> None:
    item, key = Item(1, "test", question(1)), question(1).key(NAME)
    with a_run(ledger) as run:

        def claim(connection: sqlite3.Connection, never_repeat: bool) -> int | None:
            return calls.claim(connection, run.run, NAME, key, item, size_of(item.request), never_repeat)

        assert ledger.write(lambda c: claim(c, True)) == 1
        assert ledger.write(lambda c: claim(c, False)) is None, "it is under way"
        ledger.write(lambda c: calls.lose(c, "run = ?", run.run))
        assert ledger.write(lambda c: claim(c, True)) is None
        assert ledger.write(lambda c: claim(c, False)) == 2
        (status,) = ledger.runs_of("lineage")
        assert (status.n_calls, status.n_uncertain, status.n_under_way, status.n_asked_again) == (2, 1, 1, 1)


def test_text_that_no_file_takes_is_kept_all_the_same(ledger: Ledger) -> None:
    odd = 'half \ud83d, a "quote", \x00 and \u2028'
    reply = Reply(outcome="answered", text=json.dumps({"a": odd}), value={"a": odd}, usage=None)
    client = Scripted(lambda *_: reply)
    with a_run(ledger) as run:
        asker = Asker(client, run)
        request = Request(system=odd, user=odd, answer_schema={})
        assert ask_all(asker, [(1, "test", request)]) == [reply]
        assert ledger.reply(request.key(NAME)) == reply
