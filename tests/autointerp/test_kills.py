"""500 features of the demo store through the real command, killed at any moment: all done, hardly a call twice."""

import json
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.autointerp.running import (
    JUDGE,
    PATIENCE_SECONDS,
    WRITER,
    everything,
    labels,
    lines,
    report,
    rows,
    start,
    wait_until,
)
from tests.providers.fake_server import QUESTIONS, FakeProcess, fake_process

CONCURRENCY, KILLS = 8, 2


@pytest.fixture
def demo(pycode_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pycode_store, tmp_path / "demo-store", copy_function=shutil.copy))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "asked.jsonl"


@pytest.fixture
def server(log: Path) -> Iterator[FakeProcess]:
    with fake_process("tests.autointerp.scripted_model:eager", log_file=log) as one:
        yield one


def run(server: FakeProcess, store: Path, n: int, *more: object, kill_after: int | None = None) -> str:
    """Explain and score the `n` most important features; killed once so many more requests have come in."""
    told = ("--score", "detection", "--judge", JUDGE, "--trials", 20, "--concurrency", CONCURRENCY)
    n_before = server.n_requests
    with start(server, "explain", store, "--model", WRITER, "--limit", n, *told, *more) as process:
        if kill_after is not None:
            wait_until(lambda: server.n_requests >= n_before + kill_after, process)
            process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == (0 if kill_after is None else -signal.SIGKILL), err
    return out


def asked(log: Path) -> Counter[str]:
    """Each question, as it reached the server, to how often."""
    return Counter(
        json.dumps([entry["path"], entry["body"]], sort_keys=True)
        for entry in lines(log)
        if f"{entry['method']} {entry['path']}" in QUESTIONS
    )


def test_500_features_killed_twice_are_all_done_and_hardly_anything_is_asked_twice(
    server: FakeProcess, demo: Path, log: Path
) -> None:
    n, draw = 500, random.Random(4)
    for _ in range(KILLS):
        run(server, demo, n, kill_after=draw.randrange(150, 550))
        assert rows(demo, "runs")[0]["state"] == "running", "it had no time to say a word"
    run(server, demo, n)

    found = report(demo)
    assert (found["state"], len(found["rows"])) == ("done", n)
    written = labels(demo)
    for row in found["rows"]:
        if row["state"] == "left out":
            assert row["reason"]
            assert row["feature"] not in written
        else:
            [label] = written[row["feature"]]
            assert (row["label"], row["label_id"]) == (label["text"], label["label_id"])
            assert row["state"] == ("unclear" if label["status"] == "unclear" else "labelled")
    n_scored = sum(bool(row["scores"]) for row in found["rows"])
    n_labelled = sum(row["state"] == "labelled" for row in found["rows"])
    assert n_scored + sum(found["untested"].values()) == n_labelled > 450

    questions = asked(log)
    excess = questions.total() - len(questions)
    print(f"{questions.total()} requests, {len(questions)} different ones: {excess} more than once")
    n_again = found["usage"]["asked again after a kill"]
    assert excess <= n_again <= CONCURRENCY * KILLS, "some were written down and never reached it"
    assert questions.total() + n_again - excess == len(rows(demo, "calls")), (
        "the ledger holds each that was sent"
    )

    before = everything(demo)
    run(server, demo, n)
    assert asked(log) == questions, "a further start asks nothing"
    assert everything(demo) == before, "and changes nothing"


def test_never_repeat_asks_nothing_twice(server: FakeProcess, demo: Path, log: Path) -> None:
    for kill_after in (25, 40):
        run(server, demo, 60, "--never-repeat", kill_after=kill_after)
    run(server, demo, 60, "--never-repeat")
    found = report(demo)
    questions = asked(log)
    assert max(questions.values()) == 1
    assert (found["state"], len(found["rows"])) == ("done", 60)
    n_lost = found["usage"]["uncertain (sent before a kill, no answer on record)"]
    assert len([call for call in rows(demo, "calls") if call["state"] == "uncertain"]) == n_lost
    n_unscored = sum(score["n_failed"] for row in found["rows"] for score in row["scores"])
    n_left_out = found["left_out"].get("explainer: uncertain", 0)
    assert n_left_out + n_unscored // 10 == n_lost <= 2 * CONCURRENCY
