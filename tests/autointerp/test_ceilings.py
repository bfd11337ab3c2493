"""Ceilings and estimates: a run stops where it was told to, goes on from there, and costs what was foretold."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.operations.store_status import store_status
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.served import ServedStores
from tests.autointerp import scripted_model
from tests.autointerp.running import JUDGE, WRITER, explained, labels, pipeline, report, rows, scored
from tests.providers.fake_server import FakeServer, fake_server

PRICES = """as_of: "2026-11"
models:
  "openai:writer": {input: 10, output: 100, batch: 0.5}
  "anthropic:judge": {input: 1, output: 10, batch: 0.5}
"""
FEATURES = ("--features", "0,5,6")


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES, encoding="utf-8")
    return file


def status(store: Path) -> dict[str, Any]:
    """What `store_status` tells of the only run."""
    found = store_status(ServedStores([open_store(store)])).model_dump(mode="json")["stores"][0]["runs"]
    assert len(found) == 1
    return dict(found[0])


def test_a_ceiling_of_calls_stops_the_run_which_goes_on_when_it_is_raised(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        done = scored(server, store, *FEATURES, "--trials", "20", "--max-calls", "5")
        assert (done.code, server.n_requests) == (2, 5)
        assert "the ceiling of 5 calls for this run is reached" in done.out
        assert "raise --max-calls and start again to go on from here" in done.out
        assert report(store)["state"] == "stopped"
        assert "  stopped (the ceiling of 5 calls" in pipeline(server, "runs", store).out
        assert status(store)["state"] == "stopped"
        again = scored(server, store, *FEATURES, "--trials", "20", "--max-calls", "5")
        assert (again.code, server.n_requests) == (2, 5), "the ceiling is of the run, not of a start"
        assert scored(server, store, *FEATURES, "--trials", "20", "--max-calls", "9").code == 0
        assert server.n_requests == 9
        bodies = [json.dumps(body, sort_keys=True) for body in server.bodies()]
        assert len(set(bodies)) == 9, "it did not start over"
    assert report(store)["state"] == "done"
    assert status(store)["state"] == "done"
    assert len(rows(store, "runs")) == 1
    assert [len(of) for of in labels(store).values()] == [1, 1, 1]


def test_a_ceiling_of_dollars_is_kept_and_the_cost_is_that_of_the_tokens(store: Path, prices: Path) -> None:
    told = (*FEATURES, "--trials", "20", "--prices", prices)
    with fake_server(scripted_model.knows) as server:
        done = scored(server, store, *told, "--max-usd", "0.13", "--concurrency", "1")
        assert done.code == 2
        assert "the ceiling of 0.13 dollars for this run is reached" in done.out
        n_first = server.n_requests
        assert 0 < n_first < 9
        spent = report(store)["usage"]["US dollars"]
        assert 0 < spent <= 0.13
        assert scored(server, store, *told, "--max-usd", "5").code == 0
        assert server.n_requests == 9
    calls = rows(store, "calls")
    by_hand = sum(
        (call["input_tokens"] * 10 + call["output_tokens"] * 100) / 1e6
        if call["purpose"] == "explain"
        else (call["input_tokens"] * 1 + call["output_tokens"] * 10) / 1e6
        for call in calls
    )
    found = report(store)
    assert found["usage"]["US dollars"] == pytest.approx(by_hand)
    assert sum(row["usd"] for row in found["rows"]) == pytest.approx(by_hand)
    explained_for = sum(label["cost"] for [label] in labels(store).values())
    judged_for = sum(row["cost"] for row in rows(store, "heldout_tests"))
    assert explained_for + judged_for == pytest.approx(by_hand, rel=1e-4), "labels and tests bear their cost"


def test_a_ceiling_of_a_feature_ends_the_feature_and_not_the_run(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        done = scored(server, store, *FEATURES, "--trials", "20", "--max-calls-per-feature", "2")
        assert (done.code, server.n_requests) == (0, 3), (
            "a test that would be cut off in the middle is not begun"
        )
    found = report(store)
    assert (found["state"], found["untested"]) == ("done", {"detection: ceiling of the feature": 3})
    assert [row["state"] for row in found["rows"]] == ["labelled"] * 3
    with fake_server(scripted_model.knows) as server:
        assert explained(server, store, "--features", "1", "--max-calls-per-feature", "0").code == 0
        assert server.n_requests == 0


def test_an_unknown_price_and_a_ceiling_in_dollars_are_refused_before_anything_is_done(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        done = scored(server, store, "--queue", "2", "--max-usd", "1")
        assert (done.code, server.n_requests, done.out) == (2, 0, "")
    assert "a ceiling in dollars cannot be held: price unknown" in done.err
    assert "Traceback" not in done.err
    assert not store.with_name("store.labels.sqlite").exists(), "nothing is claimed"
    assert not store.with_name("store.runs.sqlite").exists(), "and no run is on record"


def forecast(words: str) -> dict[str, tuple[int, int, int]]:
    """Purpose to calls, tokens in, and most tokens out, as a dry run tells them."""
    found = re.findall(
        r"^(\S+) by \S+: ([\d,]+) calls.*?, about ([\d,]+) tokens in, at most ([\d,]+) out",
        words,
        re.MULTILINE,
    )
    return {name: tuple(int(n.replace(",", "")) for n in numbers) for name, *numbers in found}  # type: ignore[misc]


def sent(store: Path) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    for call in rows(store, "calls"):
        n, n_in, n_out = found.get(call["purpose"], (0, 0, 0))
        n_read = call["input_tokens"] + call["cached_tokens"] + call["written_tokens"]
        found[call["purpose"]] = (n + 1, n_in + n_read, n_out + call["output_tokens"])
    return found


def dry(server: FakeServer, store: Path, *told: object) -> str:
    done = scored(server, store, *told, "--dry-run", by="detection,simulation")
    assert done.code == 0, done.err
    return done.out


def test_a_dry_run_asks_and_claims_nothing_and_foretells_the_calls_exactly(store: Path, prices: Path) -> None:
    told = ("--features", "0,3,5,6", "--trials", "20", "--prices", prices)
    with fake_server(scripted_model.knows) as server:
        said = dry(server, store, *told)
        assert server.n_requests == 0
        assert not store.with_name("store.runs.sqlite").exists()
        assert not store.with_name("store.labels.sqlite").exists()
        assert "1 of these 4 have nothing to explain" in said
        assert scored(server, store, *told, by="detection,simulation").code == 0
        foretold, taken = forecast(said), sent(store)
        assert {name: n[0] for name, n in foretold.items()} == {name: n[0] for name, n in taken.items()}
        for name, (_, n_in, n_out) in taken.items():
            assert 0.8 * n_in < foretold[name][1] < 2 * n_in, "tokens in within a factor of two"
            assert n_out <= foretold[name][2]
        usd = report(store)["usage"]["US dollars"]
        most = float(re.search(r"Together: at most \$(\d+\.\d+)", said)[1])  # type: ignore[index]
        assert usd <= most
        left = forecast(dry(server, store, *told))
        assert [n[0] for n in left.values()] == [0, 0, 0], "all of it is done"


def test_a_dry_run_of_the_queue_claims_nothing(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        said = dry(server, store, "--queue", "2")
        assert said.startswith("2 features; nothing was asked.")
        assert server.n_requests == 0
    assert not store.with_name("store.labels.sqlite").exists()


def test_a_dry_run_after_a_ceiling_tells_what_is_left(store: Path) -> None:
    told = (*FEATURES, "--trials", "20")
    with fake_server(scripted_model.knows) as server:
        assert scored(server, store, *told, "--max-calls", "5", "--concurrency", "1").code == 2
        said = scored(server, store, *told, "--dry-run").out
        assert sum(n[0] for n in forecast(said).values()) == 4
        assert scored(server, store, *told).code == 0
        assert server.n_requests == 9


def test_an_unknown_price_is_said_to_be_unknown(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        said = scored(server, store, *FEATURES, "--dry-run").out
        assert "price unknown [price unknown; give it in a file with --prices FILE" in said
        assert said.endswith("Together: unknown.\n")
        assert scored(server, store, *FEATURES).code == 0
    assert report(store)["usage"]["US dollars"] is None
    assert {label["cost"] for [label] in labels(store).values()} == {None}


def test_names_of_models_are_in_the_estimate(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        said = scored(server, store, *FEATURES, "--dry-run").out
    assert f"explain by {WRITER}: 3 calls" in said
    assert f"score:detection by {JUDGE}: 12 calls" in said
