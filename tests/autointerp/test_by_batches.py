"""`--batch`: the same results by the providers' message batches alone, whatever happens in between."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.autointerp import scripted_model
from tests.autointerp.running import (
    JUDGE,
    PATIENCE_SECONDS,
    WRITER,
    explained,
    finished,
    labels,
    pipeline,
    report,
    rows,
    scored,
    start,
    wait_until,
)
from tests.providers.behaviour import Failure
from tests.providers.fake_server import FakeServer, fake_process, fake_server

TOLD = ("--features", "0,2,3,5,6", "--trials", "20", "--controls", "2")
BATCH = ("--batch", "--poll-seconds", "0.02")
ALONE = ("POST /v1/messages", "POST /v1/chat/completions")


def written(store: Path) -> list[tuple[Any, ...]]:
    names = (
        "feature",
        "text",
        "explanation",
        "status",
        "confidence",
        "author",
        "source",
        "notes",
        "evidence",
    )
    return sorted(
        tuple(label[name] if name != "notes" else label[name].partition(";")[2] for name in names)
        for of in labels(store).values()
        for label in of
    )


def judged_on_record(store: Path) -> list[tuple[Any, ...]]:
    names = ("feature", "method", "text", "score", "low", "high", "n", "n_failed", "baseline")
    return sorted(tuple(row[name] for name in names) for row in rows(store, "heldout_tests"))


def submitted(server: FakeServer) -> int:
    counts = server.counts()
    assert sum(counts.get(name, 0) for name in ALONE) <= 4, (
        "of each client one question a start goes ahead alone"
    )
    return counts.get("POST /v1/messages/batches", 0) + counts.get("POST /v1/batches", 0)


def handed_in(store: Path) -> int:
    """Batches whose id is on record."""
    return sum(row["batch_id"] is not None for row in rows(store, "batches"))


def asked(server: FakeServer) -> int:
    """Questions, in batches and alone."""
    return server.n_batched + server.n_requests


def test_batches_give_the_same_labels_and_scores_as_single_questions(store: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other" / "store", copy_function=shutil.copy))
    with fake_server(scripted_model.knows) as server:
        assert scored(server, store, *TOLD, by="detection,fuzzing").code == 0
        n_alone = server.n_requests
    with fake_server(scripted_model.knows) as server:
        done = scored(server, other, *TOLD, *BATCH, by="detection,fuzzing")
        assert done.code == 0, done.err
        assert submitted(server) == 3, "one to explain, one to score, one for the controls"
        assert asked(server) == n_alone
        assert server.n_requests == 2, "one for each client"
        assert scored(server, other, *TOLD, *BATCH, by="detection,fuzzing").code == 0
        assert submitted(server) == 3, "a second run does nothing"
    assert written(other) == written(store)
    assert judged_on_record(other) == judged_on_record(store)
    same = ("rows", "methods", "left_out", "untested")
    one, two = report(store), report(other)
    for content in (one, two):
        for row in content["rows"]:
            row["label_id"] = None
    assert {name: one[name] for name in same} == {name: two[name] for name in same}


@pytest.mark.parametrize("moment", ["explaining", "judging"])
def test_killed_between_handing_in_and_collecting_no_batch_is_handed_in_again(
    store: Path, tmp_path: Path, moment: str
) -> None:
    with fake_process("tests.autointerp.scripted_model:knows", tmp_path / "log", polls=8) as server:
        told = ("explain", store, "--model", WRITER, "--score", "detection", "--judge", JUDGE, *TOLD[:4])
        with start(server, *told, *BATCH) as process:
            n = 1 if moment == "explaining" else 2
            # its id is on record; a kill before that is tests/asking/test_batches.py's (here a batch ends by being
            # asked after, which nobody does who does not know its id)
            wait_until(lambda: submitted(server) == n and handed_in(store) == n, process)
            process.send_signal(signal.SIGKILL)
        last = finished(server, *told, *BATCH)
        assert last.code == 0, last.err
        assert submitted(server) == 2
    found = report(store)
    assert (found["state"], len(found["rows"])) == ("done", 5)
    assert found["usage"]["asked again after a kill"] == 0
    assert sum(bool(row["scores"]) for row in found["rows"]) == 3


def test_what_expires_or_errs_in_a_batch_is_unscored_and_asked_again_by_the_next_start(store: Path) -> None:
    told = ("--features", "0,5,6", "--trials", "60", *BATCH)
    for behave, reason in (
        (scripted_model.third_expires(), "expired"),
        (scripted_model.model(scripted_model.every_third(Failure(500, "no"))), "server_error"),
    ):
        with fake_server(scripted_model.knows) as server:
            assert explained(server, store, *told[:2]).code == 0
        with fake_server(behave) as server:
            done = scored(server, store, *told)
            assert done.code == 0, done.err
            n_batched = asked(server)
            assert submitted(server) == 1
        [found] = [content for content in reports(store) if "score" in content["config"]]
        n_lost = n_batched // 3
        assert found["usage"]["failed, by reason"][reason] == n_lost
        assert sum(score["n_failed"] for row in found["rows"] for score in row["scores"]) == 10 * n_lost
        assert all(score["n"] + score["n_failed"] == 60 for row in found["rows"] for score in row["scores"])
    assert n_batched == 6, "of 18 questions a third expired, and these alone were asked again"


def reports(store: Path) -> list[dict[str, Any]]:
    return [report(store, folder.name) for folder in store.with_name("store.runs").iterdir()]


def test_a_ceiling_holds_in_batches_and_nothing_goes_alone(store: Path) -> None:
    told = ("--features", "0,5,6", "--trials", "20", *BATCH)
    with fake_server(scripted_model.knows) as server:
        done = scored(server, store, *told, "--max-calls", "5")
        assert (done.code, asked(server)) == (2, 5)
        assert "the ceiling of 5 calls for this run is reached" in done.out
        submitted(server)
        assert scored(server, store, *told, "--max-calls-per-feature", "2").code == 0
        submitted(server)
        assert asked(server) == 7, "feature 0 has had its 3; the others one more each"
        assert scored(server, store, *told).code == 0
        submitted(server)
        assert asked(server) == 9
    assert report(store)["state"] == "done"


def test_ctrl_c_does_not_wait_for_a_batch_which_is_collected_by_the_next_start(
    store: Path, tmp_path: Path
) -> None:
    with fake_process("tests.autointerp.scripted_model:knows", tmp_path / "log", polls=2) as server:
        told = ("explain", store, "--model", WRITER, "--features", "0,5", "--batch")
        with start(server, *told, "--poll-seconds", "300") as process:
            wait_until(lambda: any(name.startswith("GET /v1/batches/") for name in server.counts()), process)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_SECONDS / 4)
        assert process.returncode == 2, err
        assert "stopped: stopped by the user" in out
        last = finished(server, *told, "--poll-seconds", "0.02")
        assert last.code == 0, last.err
        assert submitted(server) == 1
    assert sorted(labels(store)) == [0, 5]


def test_a_client_without_batches_is_refused_at_the_start(store: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing.jsonl").write_text("", encoding="utf-8")
    told = ("--model", f"recorded:{tmp_path / 'nothing.jsonl'}", "--queue", "2", "--batch")
    done = pipeline(None, "explain", store, *told)
    assert done.code == 2
    assert "knows no message batches; leave --batch out" in done.err
    assert not store.with_name("store.runs.sqlite").exists()


def test_what_a_model_refuses_is_known_before_thousands_are_handed_in(store: Path) -> None:
    refused = frozenset({"temperature", "seed", "max_completion_tokens"})
    with fake_server(scripted_model.knows, refuses=refused) as server:
        done = explained(server, store, *TOLD[:2], *BATCH)
        assert done.code == 0, done.err
        assert submitted(server) == 1
        assert server.n_batched == 3, "of four that fire one went ahead alone"
    assert report(store)["usage"]["failed, by reason"] == {}


def test_a_model_that_thinks_is_given_room(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        assert scored(server, store, "--features", "0", "--trials", "20", "--think-tokens", "4000").code == 0
        limits = [body.get("max_tokens") or body["max_completion_tokens"] for body in server.bodies()]
    assert limits[0] == 5000
    assert set(limits[1:]) == {4500}
