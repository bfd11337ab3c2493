"""Planted numbers come out the same through the memory backend, the folder backend, MCP over stdio and the shell."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.faces.mcp_client import open_client
from saeinterp_mcp.operations import OPERATIONS
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import memory_store
from saeinterp_mcp.store.open import open_store
from tests.worlds import builds, import_world, texts

Call = tuple[str, str, dict[str, Any]]
BUILDS: list[Call] = [
    ("feature_overview", "overview", {"feature": 0, "split": "all"}),
    ("family_sweep", "family-sweep", {"feature": 0, "family": "swim", "min_n": 1, "split": "all"}),
    ("family_heatmap", "heatmap", {"feature": 2, "family_x": "comeback", "family_y": "ninja", "min_n": 1}),
    ("group_sweep", "group-sweep", {"feature": 1, "by": "class", "min_n": 1, "split": "all"}),
    ("decoder_influence", "decoder", {"feature": 0}),
    ("similar_features", "similar", {"feature": 0, "by": "decoder"}),
    ("feature_examples", "examples", {"feature": 0, "pick": "silent"}),
    ("features_search", "search", {"query": "swim_6", "split": "all"}),
    ("features_search", "search", {"sort": "max", "thresholds": [1.5, 3.0]}),
    ("match_patterns", "match-patterns", {"feature": 0}),
    ("test_rule", "test-rule", {"feature": 0, "rule": "family:swim>=3 and not token:ninja", "min_n": 1}),
]
TEXTS: list[Call] = [
    ("feature_overview", "overview", {"feature": 0}),
    ("family_sweep", "family-sweep", {"feature": 1, "family": "keyword", "scope": "before", "window": 1}),
    ("family_sweep", "family-sweep", {"feature": 0, "family": "depth", "where": "kind=code", "split": "all"}),
    ("family_heatmap", "heatmap", {"feature": 0, "family_x": "depth", "family_y": "keyword", "split": "all"}),
    ("group_sweep", "group-sweep", {"feature": 2, "by": "module"}),
    ("feature_examples", "examples", {"feature": 1, "pick": "near_miss", "limit": 3}),
    ("similar_features", "similar", {"feature": 0, "by": "coactivation"}),
    ("token_influence", "token-influence", {"feature": 1, "scope": "before", "window": 1, "limit": 4}),
    (
        "token_influence",
        "token-influence",
        {"feature": 0, "by": "family", "given": "kind=code", "split": "all"},
    ),
    (
        "token_interactions",
        "interactions",
        {"feature": 1, "families": ["keyword", "digits>=1"], "tokens": ["x"], "scope": "sample"},
    ),
    ("token_interactions", "interactions", {"feature": 0, "method": "minimal_cores", "scope": "before"}),
    ("test_rule", "test-rule", {"feature": 0, "rule": "token:def"}),
    ("stability", "stability", {"feature": 0, "method": "shuffle_null", "draws": 19}),
    ("stability", "stability", {"feature": 1, "split": "all", "scope": "before", "window": 1}),
    ("match_patterns", "match-patterns", {"feature": 1, "explanation": "the word def, brackets", "seed": 2}),
]


@pytest.fixture(autouse=True)
def by_words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text model is started."""
    monkeypatch.setenv("SAEINTERP_EMBEDDER", "none")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("faces")
    return {"builds": import_world(builds(), folder / "b"), "texts": import_world(texts(), folder / "t")}


def ask_operation(store: Store, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = next(entry.function for entry in OPERATIONS if entry.name == name)
    return dict(function(store, **arguments).model_dump(mode="json"))


def ask_shell(place: Path, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    words = [sys.executable, "-m", "saeinterp_mcp", command]
    given = dict(arguments)
    if "feature" in given:
        words.append(str(given.pop("feature")))
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(one)]
    done = subprocess.run(
        [*words, "--store", str(place), "--json"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    return dict(json.loads(done.stdout))


def ask_mcp(place: Path, calls: list[Call]) -> list[dict[str, Any]]:
    async def ask() -> list[dict[str, Any]]:
        answers = []
        # a server does not inherit the environment
        command = ["env", "SAEINTERP_EMBEDDER=none", sys.executable, "-m", "saeinterp_mcp", "serve"]
        async with open_client([*command, "--store", str(place)]) as session:
            for tool, _, arguments in calls:
                reply = await session.call(tool, arguments)
                assert reply.structured is not None, reply.text
                answers.append(reply.structured)
        return answers

    return asyncio.run(ask())


@pytest.mark.parametrize("name", ["builds", "texts"])
def test_all_faces_and_backends_give_one_answer(name: str, places: dict[str, Path]) -> None:
    world, calls = {"builds": (builds(), BUILDS), "texts": (texts(), TEXTS)}[name]
    truth, store = memory_store(world), open_store(places[name])
    over_mcp = ask_mcp(places[name], calls)
    for (tool, command, arguments), from_mcp in zip(calls, over_mcp, strict=True):
        here = ask_operation(store, tool, arguments)
        assert from_mcp == here, tool
        assert ask_shell(places[name], command, arguments) == here, tool
        # of another store, so evidence and cursors differ
        true = ask_operation(truth, tool, arguments)
        differs = ("evidence", "next_cursor")
        assert {k: v for k, v in true.items() if k not in differs} == {
            k: v for k, v in here.items() if k not in differs
        }


def test_numbers_worked_out_by_hand_arrive_over_mcp(places: dict[str, Path]) -> None:
    overview, sweep, heatmap, groups, decoder, similar, silent, search, *_ = ask_mcp(places["builds"], BUILDS)
    assert (overview["firing"]["n"], overview["firing"]["n_firing"], overview["firing"]["mean"]) == (
        12,
        5,
        1.75,
    )
    assert [(r[0], r[sweep["columns"].index("effect")]) for r in sweep["rows"]] == [(3, 3.0), (6, 6.0)]
    assert sweep["baseline"]["n"] == 7
    by_class = {r[0]: r[groups["columns"].index("effect")] for r in groups["rows"]}
    assert by_class["roller"] == 0.75
    assert decoder["promoted"]["rows"][0][:2] == ["a", 2.0]
    assert similar["rows"][0][:2] == [2, 0.707107]
    assert {r[2] for r in silent["rows"]} == {0.0}
    assert search["rows"][0][0] == 0
    assert heatmap["rows"]
