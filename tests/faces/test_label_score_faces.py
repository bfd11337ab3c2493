"""A test sat through the faces: one document over MCP and at the shell; answers as an object, as text, in a file."""

import json
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.faces.mcp import build
from saeinterp_mcp.faces.render import as_text
from saeinterp_mcp.store.served import ServedStores
from tests.faces.conftest import connected, run_cli, text_of
from tests.operations.judged import CLAIM, make


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sat"))


def shell(place: Path, *arguments: str) -> dict[str, Any]:
    done = run_cli("label", "score", *arguments, "--store", str(place), "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_what_the_shell_hands_out_is_what_mcp_hands_out_and_either_may_answer(
    place: Path, tmp_path: Path
) -> None:
    handed = shell(place, "0", "--text", CLAIM, "--judge", "self")
    for client in connected(build(ServedStores.open([str(place)]))):
        over_mcp = client.call("label_score", feature=0, text=CLAIM, judge="self")
        assert over_mcp.structured_content == handed
        for name, text in handed["trials"]["rows"]:
            assert f"{name} | " in text_of(over_mcp)
            assert text.strip()[:20] in text_of(over_mcp), (
                "all of them, also for hosts that read the text alone"
            )
        wrong = client.error("label_score", feature=0, trial_set=handed["trial_set"], answers="{nonsense")
        assert 'expected a JSON object of trial ids and answers, as in {"t1": 0.9}' in wrong
        assert "lone surrogate" in client.error("label_score", feature=0, answers={"t1": "\ud800"})
    answers = {name: float("def" in text) for name, text in handed["trials"]["rows"]}
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(answers), encoding="utf-8")
    refused = run_cli("label", "score", "0", "--answers", "@no-such-file", "--store", str(place))
    assert (refused.returncode, "no-such-file cannot be read" in refused.stderr) == (2, True)
    graded = shell(place, "0", "--trial-set", handed["trial_set"], "--answers", f"@{file}")
    assert (graded["score"], graded["n"]) == (1.0, 40)
    assert len(as_text(graded)) < 5_000
    replayed = run_cli("evidence", "replay", graded["evidence"], "--store", str(place))
    assert "still holds" in replayed.stdout
    again = run_cli(
        "label", "score", "0", "--trial-set", handed["trial_set"], "--answers", "{}", "--store", str(place)
    )
    assert (again.returncode, "both trial_set and answers" in again.stderr) == (2, True)


def test_answers_in_the_call_itself_are_read_too(place: Path) -> None:
    handed = shell(place, "0", "--text", CLAIM, "--judge", "self", "--seed", "1")
    answers = json.dumps({name: "def" in text for name, text in handed["trials"]["rows"]})
    assert shell(place, "0", "--trial-set", handed["trial_set"], "--answers", answers)["score"] == 1.0


def test_no_judge_no_call(place: Path) -> None:
    done = run_cli("label", "score", "0", "--text", CLAIM, "--store", str(place))
    assert done.returncode == 2
    assert "SAEINTERP_JUDGES" in done.stderr
    done = run_cli(
        "label", "score", "0", "--text", CLAIM, "--store", str(place), SAEINTERP_JUDGE_BUDGET="lots"
    )
    assert (done.returncode, "environment variable SAEINTERP_JUDGE_BUDGET" in done.stderr) == (2, True)
