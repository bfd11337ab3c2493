"""A provider that says no and a user who has had enough: the run stops soon, says why, and loses nothing."""

import signal
from pathlib import Path

import pytest

from tests.autointerp import scripted_model
from tests.autointerp.running import (
    JUDGE,
    PATIENCE_SECONDS,
    WRITER,
    explained,
    labels,
    pipeline,
    report,
    rows,
    scored,
    start,
    wait_until,
)
from tests.providers.behaviour import Failure
from tests.providers.fake_server import fake_process, fake_server

TOLD = ("--features", "0,1,2,4,5,6,7", "--trials", "20")


def test_a_wrong_key_stops_the_run_after_the_first_few_and_nothing_is_lost(store: Path) -> None:
    with fake_server(lambda *_: Failure(401, "bad key")) as server:
        done = scored(server, store, *TOLD, "--concurrency", "3")
        assert done.code == 2
        assert server.n_requests <= 3
        assert "the provider says authentication" in done.out
        assert "start again to go on from here" in done.out
    assert report(store)["state"] == "stopped"
    with fake_server(scripted_model.knows) as server:
        assert scored(server, store, *TOLD).code == 0
    assert {row["state"] for row in report(store)["rows"]} == {"labelled", "unclear"}


def test_a_judge_that_fails_leaves_no_empty_test_behind(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        assert explained(server, store, *TOLD[:2]).code == 0
        n_labels = len(labels(store))
        server.behave(lambda *_: Failure(401, "bad key"))
        done = scored(server, store, *TOLD, "--concurrency", "4")
        assert (done.code, rows(store, "heldout_tests")) == (2, [])
        server.behave(scripted_model.knows)
        assert scored(server, store, *TOLD).code == 0
    found = rows(store, "heldout_tests")
    assert (len(found), {row["n_failed"] for row in found}) == (3, {0})
    assert len(labels(store)) == n_labels


def test_a_run_that_fails_too_often_stops(store: Path) -> None:
    with fake_server(scripted_model.judge_rubbish) as server:
        done = scored(server, store, "--features", "0,5,6", "--trials", "100")
        assert done.code == 2
        assert "10 requests in a row failed; failures so far: invalid" in done.out
        assert server.n_requests < 3 + 30


def test_ctrl_c_waits_for_what_is_under_way_and_asks_nothing_new(store: Path, tmp_path: Path) -> None:
    with fake_process("tests.autointerp.test_stops:slowly", tmp_path / "log") as server:
        told = ("explain", store, "--model", WRITER, "--score", "detection", "--judge", JUDGE, *TOLD)
        with start(server, *told, "--concurrency", 2) as process:
            wait_until(lambda: server.n_requests >= 2, process)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 2, err
        assert "stopped: stopped by the user" in out
        assert "Traceback" not in err
        n_asked = server.n_requests
        calls = rows(store, "calls")
        assert (n_asked, {call["state"] for call in calls}) == (len(calls), {"answered"})
        assert n_asked <= 3, "the two under way, and at most one that was sent before the signal came"
        assert len(labels(store)) == n_asked
    assert pipeline(None, "runs", store).out.count("stopped (stopped by the user)") == 1
    with fake_server(scripted_model.knows) as other:
        assert scored(other, store, *TOLD, "--concurrency", "2").code == 0
        assert other.bodies("/v1/chat/completions") != []
        assert len(other.bodies("/v1/chat/completions")) == 7 - n_asked
    assert report(store)["state"] == "done"


def slowly(system: str, user: str, schema: dict[str, object]) -> object:
    """Takes a while."""
    from tests.providers.behaviour import Slow

    return Slow(1.0, scripted_model.knows(system, user, schema))  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"])
def test_a_missing_key_is_said_before_anything_is_claimed(
    store: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(missing)
    told = ("--model", WRITER, "--score", "detection", "--judge", JUDGE, "--queue", "2")
    done = pipeline(None, "explain", store, *told)
    assert done.code == 2
    assert "cannot be asked here" in done.err
    assert missing in done.err
    assert not store.with_name("store.labels.sqlite").exists()
    assert not store.with_name("store.runs.sqlite").exists()
