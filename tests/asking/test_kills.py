"""Processes that are killed while they ask: no answer that was given out is lost, and hardly any is paid for twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.asking.ledger import Ledger
from tests.asking.provider import NAME, Provider, provider, question
from tests.asking.worker import LINEAGE
from tests.conftest import ROOT
from tests.providers.fake_server import FakeServer, fake_process, fake_server

N, CONCURRENCY, KILLS = 120, 4, 12
STEPS = ("before submit", "after submit", "before a look", "after collect")


@pytest.fixture
def server() -> Iterator[Provider]:
    with provider() as one:
        yield one


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.runs.sqlite"


def start(path: Path, server: Provider | None, **told: Any) -> "subprocess.Popen[str]":
    port = server.port if server else None
    what = json.dumps({"ledger": str(path), "port": port, "n": N, "concurrency": CONCURRENCY, **told})
    command = [sys.executable, "-m", "tests.asking.worker", what]
    keys = {"OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none"}
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, env={**os.environ, **keys}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == '"ready"\n'
    return process


def said(process: "subprocess.Popen[str]") -> dict[int, str]:
    """What a process told of before its end; a line may be cut."""
    assert process.stdout is not None
    lines = [line for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    return dict(json.loads(line) for line in lines)


def kill_some(path: Path, server: Provider, never_repeat: bool) -> dict[int, str]:
    """Start it again and again, kill it at random moments, and let it finish: what it had told of in all."""
    draw, told = random.Random(6), dict[int, str]()
    server.wait_seconds = 0.004
    for _ in range(KILLS):
        process = start(path, server, never_repeat=never_repeat)
        n_before = len(server.asked)
        until = time.monotonic() + 20
        while len(server.asked) == n_before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)  # so that each of them is killed while it asks
        time.sleep(draw.uniform(0, 0.012))
        process.send_signal(signal.SIGKILL)
        now_told = said(process)
        assert process.returncode == -signal.SIGKILL
        check_on_record(path, now_told)
        told |= now_told
    last = start(path, server, never_repeat=never_repeat)
    end = said(last)
    assert last.returncode == 0
    assert sorted(end) == list(range(N))
    assert all(end[i] == text for i, text in told.items() if "failed" not in text)
    return end


def check_on_record(path: Path, told: dict[int, str]) -> None:
    ledger = Ledger(path)
    for i, text in told.items():
        reply = ledger.reply(question(i).key(NAME))
        assert reply is not None or text == "failed uncertain"
        assert reply is None or reply.text == text
    ledger.close()


def test_a_run_killed_twelve_times_ends_complete_and_asks_at_most_its_concurrency_again_each_time(
    path: Path, server: Provider
) -> None:
    end = kill_some(path, server, never_repeat=False)
    assert end == {i: json.dumps({"said": f"QUESTION {i}"}) for i in range(N)}
    asked = Counter(server.asked)
    assert set(asked) == {f"question {i}" for i in range(N)}
    assert N < len(server.asked) <= N + CONCURRENCY * KILLS
    check_on_record(path, end)
    (status,) = Ledger(path).runs_of(LINEAGE)
    assert (status.state, status.n_answered, status.n_under_way) == ("done", N, 0)
    assert status.n_uncertain == status.n_asked_again == status.n_calls - N
    assert len(server.asked) <= status.n_calls <= N + CONCURRENCY * KILLS, (
        "what was written need not have left"
    )


def test_with_never_repeat_no_question_is_sent_twice(path: Path, server: Provider) -> None:
    end = kill_some(path, server, never_repeat=True)
    assert set(Counter(server.asked).values()) == {1}
    lost = {i for i, text in end.items() if text == "failed uncertain"}
    assert len(lost) <= CONCURRENCY * KILLS
    (status,) = Ledger(path).runs_of(LINEAGE)
    assert (status.n_answered, status.n_uncertain, status.n_asked_again) == (N - len(lost), len(lost), 0)
    assert lost, "a kill that lost nothing would prove nothing"


def test_two_processes_with_two_runs_share_every_question(path: Path, server: Provider) -> None:
    server.wait_seconds = 0.002
    both = [start(path, server, run=name) for name in ("one", "other")]
    ends = [said(process) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert ends[0] == ends[1] == {i: json.dumps({"said": f"QUESTION {i}"}) for i in range(N)}
    assert sorted(server.asked) == sorted(f"question {i}" for i in range(N)), "each was paid for once"
    one, other = Ledger(path).runs_of(LINEAGE)
    assert one.n_calls + other.n_calls == N


def test_who_waits_for_another_process_that_dies_asks_itself(path: Path, server: Provider) -> None:
    server.wait_seconds = 30
    dying = start(path, server, run="one", n=4)
    wait_until(lambda: len(server.asked) == 4)
    server.wait_seconds = 0
    waiting = start(path, server, run="other", n=4)
    wait_until(
        lambda: any(
            run.kind == "test" and run.config == {"run": "other"} for run in Ledger(path).runs_of(LINEAGE)
        )
    )
    assert len(server.asked) == 4, "they are under way"
    dying.kill()
    said(dying)
    assert len(said(waiting)) == 4
    assert len(server.asked) == 8
    status = {run.config["run"]: run for run in Ledger(path).runs_of(LINEAGE)}
    assert (status["one"].state, status["one"].n_uncertain) == ("interrupted", 4)
    assert (status["other"].state, status["other"].n_asked_again) == ("done", 4)


def wait_until(done: Any) -> None:
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("step", STEPS)
def test_a_batch_killed_at_any_step_is_recovered_without_a_second_one(
    path: Path, server: Provider, step: str
) -> None:
    n = 5
    dying = start(path, server, batch=True, n=n, dies=step)
    assert said(dying) == {}
    assert dying.returncode == -signal.SIGKILL
    assert len(server.batches) == (0 if step == "before submit" else 1)
    again = start(path, server, batch=True, n=n)
    assert said(again) == {i: json.dumps({"said": f"QUESTION {i}"}) for i in range(n)}
    assert again.returncode == 0
    assert len(server.batches) == 1
    (status,) = Ledger(path).runs_of(LINEAGE)
    lost = n if step == "before submit" else 0
    assert (status.n_calls, status.n_uncertain, status.n_asked_again) == (n + lost, lost, lost)
    assert (status.state, status.n_answered) == ("done", n)


def test_batches_killed_at_random_moments_are_handed_in_once(path: Path, server: Provider) -> None:
    draw = random.Random(7)
    for _ in range(6):
        process = start(path, server, batch=True, n=40, never_repeat=True)
        time.sleep(draw.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        check_on_record(path, said(process))
    end = said(start(path, server, batch=True, n=40, never_repeat=True))
    handed = Counter(user for batch in server.batches.values() for user in batch["requests"].values())
    assert set(handed.values()) == {1}
    for i in range(40):
        expected = json.dumps({"said": f"QUESTION {i}"}) if f"question {i}" in handed else "failed uncertain"
        assert end[i] in (expected, "failed batch_lost")


@contextmanager
def specs_of_both() -> Iterator[dict[str, tuple[str, FakeServer]]]:
    """Both SDKs, each with a fake of its own."""
    with fake_server(polls=0) as one, fake_server(polls=1) as other:
        yield {
            "anthropic": (f"anthropic:judge@{one.url}", one),
            "openai": (f"openai:judge@{other.openai_url}", other),
        }


@pytest.mark.parametrize("sdk", ["anthropic", "openai"])
def test_a_batch_of_a_real_sdk_killed_before_its_id_is_written_is_found_again(path: Path, sdk: str) -> None:
    with specs_of_both() as specs:
        spec, fake = specs[sdk]
        dying = start(path, None, spec=spec, batch=True, n=3, dies="after submit")
        assert said(dying) == {}
        assert fake.n_batched == 3
        if (
            sdk == "anthropic"
        ):  # its ids are told when it has ended, and this provider works while it is looked at
            urllib.request.urlopen(f"{fake.url}/v1/messages/batches/batch_1").close()
        again = start(path, None, spec=spec, batch=True, n=3)
        assert said(again) == dict.fromkeys(range(3), '{"said": ""}')
        assert (fake.n_batched, fake.n_requests) == (3, 0)
    (status,) = Ledger(path).runs_of(LINEAGE)
    assert (status.n_calls, status.n_answered, status.state) == (3, 3, "done")


def test_a_run_with_a_real_sdk_killed_three_times_asks_no_more_again_than_was_under_way(
    path: Path, tmp_path: Path
) -> None:
    log, n, kills = tmp_path / "asked.jsonl", 150, 3
    with fake_process("echo", log) as fake:
        spec, draw = f"openai:judge@{fake.openai_url}", random.Random(8)
        for round_ in range(kills):
            process = start(path, None, spec=spec, n=n)
            wait_until(lambda: log.exists() and n_lines(log) > 25 * (round_ + 1))  # noqa: B023 - used at once
            time.sleep(draw.uniform(0, 0.02))
            process.kill()
            told = said(process)
            assert process.returncode == -signal.SIGKILL
            ledger = Ledger(path)
            on_record = {i: ledger.reply(question(i).key(spec)) for i in told}
            assert {i: reply.text for i, reply in on_record.items() if reply} == told
            ledger.close()
        assert len(said(start(path, None, spec=spec, n=n))) == n
        assert n <= fake.n_requests <= n + CONCURRENCY * kills
        assert fake.n_requests == n_lines(log)
    (status,) = Ledger(path).runs_of(LINEAGE)
    assert (status.n_answered, status.state, status.usd) == (n, "done", 0)
    assert status.n_uncertain == status.n_asked_again == status.n_calls - n > 0


def n_lines(log: Path) -> int:
    return log.read_bytes().count(b"\n")
