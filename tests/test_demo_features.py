"""docs/demo-features.md says what the tools answer about the demo's store, number by number."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from saeinterp_mcp.demo import DEMO_FEATURE
from saeinterp_mcp.faces.cli import make_app
from saeinterp_mcp.operations.decoder_influence import decoder_influence
from saeinterp_mcp.operations.family_heatmap import family_heatmap
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.similar_features import similar_features
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "demo-features.md").read_text(encoding="utf-8")
TEN = {
    int(f): body for f, body in re.findall(r"^## (\d+): .*?\n(.*?)(?=^## )", TEXT, re.DOTALL | re.MULTILINE)
}
DENSE = TEXT.partition("## The dense ones")[2].partition("\n## ")[0]
QUESTIONS = {
    function.__name__: function
    for function in (
        decoder_influence,
        family_heatmap,
        family_sweep,
        feature_overview,
        group_sweep,
        similar_features,
    )
}

Path_ = tuple[Any, ...]
"""Names of fields; a dict picks the row of a table that has these cells."""
RATE: Path_ = ("firing", "firing_rate")


def token(text: str) -> Path_:
    return ("enhancers", {"token": text})


def kind(value: str, field: str) -> Path_:
    return ("rows", {"value": value}, field)


def promoted(text: str) -> Path_:
    return ("promoted", {"token": text}, "effect")


QUOTED: list[tuple[int, str, dict[str, Any], Path_, str]] = [
    (1308, "feature_overview", {}, RATE, "7.01 %"),
    (1308, "feature_overview", {}, ("families", {"family": "indentation"}, "firing_rate"), "93.5 %"),
    (1308, "family_sweep", {"family": "indentation"}, ("rows", {"level": 5}, "firing_rate"), "34.6 %"),
    (
        1308,
        "family_heatmap",
        {"family_x": "bracket_depth", "family_y": "indentation"},
        ("rows", {"x": 1, "y": 8}, "mean"),
        "6.42",
    ),
    (1308, "decoder_influence", {}, promoted(" if"), "0.924"),
    (921, "feature_overview", {}, RATE, "3.62 %"),
    (921, "feature_overview", {}, (*token(","), "rate_low"), "99.2 %"),
    (921, "feature_overview", {}, (*token(","), "effect"), "12.2"),
    (921, "group_sweep", {"by": "kind", "where": 'token:","'}, kind("docs", "mean"), "11.5"),
    (1803, "feature_overview", {}, RATE, "4.07 %"),
    (1803, "feature_overview", {}, (*token(".__"), "firing_rate"), "54.3 %"),
    (1803, "group_sweep", {"by": "kind", "where": 'token:"."'}, kind("source", "mean"), "12.4"),
    (1803, "decoder_influence", {}, promoted("get"), "0.694"),
    (1631, "feature_overview", {}, RATE, "3.11 %"),
    (1631, "feature_overview", {}, (*token(" ["), "firing_rate"), "93.1 %"),
    (
        1631,
        "family_heatmap",
        {"family_x": "bracket_depth", "family_y": "dunder"},
        ("rows", {"x": 1, "y": 1}, "interaction"),
        "5.24",
    ),
    (1631, "decoder_influence", {}, promoted("self"), "0.984"),
    (1798, "feature_overview", {}, RATE, "3.44 %"),
    (1798, "feature_overview", {"where": 'not token:"_" and not token:"-"'}, RATE, "0.287 %"),
    (1798, "feature_overview", {"where": 'token:" -" or token:"._"'}, RATE, "0.908 %"),
    (1798, "decoder_influence", {}, promoted("to"), "0.556"),
    (805, "feature_overview", {}, RATE, "9.32 %"),
    (
        805,
        "family_sweep",
        {"family": "quote", "scope": "before"},
        ("rows", {"level": 1}, "firing_rate"),
        "41.8 %",
    ),
    (805, "family_sweep", {"family": "quote", "scope": "before"}, ("stratified_effect", "value"), "0.922"),
    (805, "decoder_influence", {}, promoted("',"), "1.18"),
    (1310, "feature_overview", {}, RATE, "7.57 %"),
    (
        1310,
        "family_sweep",
        {"family": "control_flow", "scope": "before", "window": 4},
        ("rows", {"level": 1}, "firing_rate"),
        "37.4 %",
    ),
    (
        1310,
        "family_heatmap",
        {"family_x": "control_flow", "family_y": "comparison", "scope": "before"},
        ("rows", {"x": 1, "y": 1}, "interaction"),
        "0.572",
    ),
    (1310, "group_sweep", {"by": "kind"}, kind("source", "mean"), "0.461"),
    (115, "feature_overview", {}, RATE, "9.27 %"),
    (
        115,
        "family_sweep",
        {"family": "definition", "scope": "before", "window": 4},
        ("stratified_effect", "value"),
        "0.698",
    ),
    (115, "feature_overview", {}, (*token(" get"), "effect"), "7.75"),
    (115, "decoder_influence", {}, promoted("able"), "0.625"),
    (21, "feature_overview", {}, RATE, "5.67 %"),
    (21, "feature_overview", {}, (*token(" a"), "firing_rate"), "55.2 %"),
    (21, "group_sweep", {"by": "kind", "where": 'token:" the"'}, kind("source", "mean"), "11.3"),
    (21, "decoder_influence", {}, promoted(" same"), "0.512"),
    (876, "feature_overview", {}, RATE, "8.3 %"),
    (
        876,
        "family_sweep",
        {"family": "quote", "scope": "before"},
        ("rows", {"level": 2}, "firing_rate"),
        "47.8 %",
    ),
    (
        876,
        "family_sweep",
        {"family": "quote", "scope": "before", "where": "kind=docs"},
        ("rows", {"level": 2}, "mean"),
        "2.23",
    ),
    (876, "similar_features", {"by": "decoder"}, ("rows", {"feature": 805}, "score"), "0.335"),
]


@pytest.fixture(scope="module")
def store(pycode_store: Path) -> Store:
    return open_store(pycode_store)


def written(value: float, like: str) -> str:
    """A number as the document writes it: whole numbers in full, others to 3 digits, rates in percent."""
    if like.endswith(" %"):
        return f"{100 * value:.3g} %"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def at(answer: Any, path: Path_) -> Any:
    """The field of an answer; a dict is the row of the table before it, `rows` being of the answer itself."""
    for step in path:
        if isinstance(step, dict):
            rows = [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]
            (answer,) = [row for row in rows if all(row[name] == cell for name, cell in step.items())]
        elif step != "rows":
            answer = answer[step]
    return answer


def numbers(answer: Any) -> Iterator[float]:
    """All numbers of an answer."""
    if isinstance(answer, dict | list):
        for value in answer.values() if isinstance(answer, dict) else answer:
            yield from numbers(value)
    elif isinstance(answer, int | float) and not isinstance(answer, bool):
        yield answer


@pytest.mark.parametrize(("feature", "question", "arguments", "path", "quoted"), QUOTED)
def test_a_quoted_number_is_the_answer(
    feature: int, question: str, arguments: dict[str, Any], path: Path_, quoted: str, store: Store
) -> None:
    answer = QUESTIONS[question](store, feature, **arguments).model_dump(mode="json")
    assert written(at(answer, path), quoted) == quoted
    assert quoted in TEN[feature]


def test_every_feature_has_three_such_numbers() -> None:
    counts = {feature: sum(row[0] == feature for row in QUOTED) for feature in TEN}
    assert min(counts.values()) >= 3


def test_the_ten_are_those_the_search_gives_in_its_order(store: Store) -> None:
    found = features_search(
        store, by="metric", sort="importance", where="firing_rate<0.1 and max>=2.5", limit=10
    )
    assert [row[found.columns.index("feature")] for row in found.rows] == list(TEN)
    assert DEMO_FEATURE in TEN


@pytest.mark.parametrize("section", [*TEN.values(), DENSE], ids=[*map(str, TEN), "dense"])
def test_each_number_of_a_section_is_in_the_answers_of_its_commands(section: str, pycode_store: Path) -> None:
    prose, _, commands = section.partition("```sh\n")
    answers = []
    for line in commands.partition("```")[0].splitlines():
        arguments = [*shlex.split(line)[1:], "--json"]
        done = CliRunner().invoke(
            make_app(), [str(pycode_store) if a == "demo-store" else a for a in arguments]
        )
        answers.append(json.loads(done.stdout))
    known = list(numbers(answers))
    plain = {written(value, "") for value in known}
    percents = {written(value, " %") for value in known}
    bare = re.sub(r"`[^`]*`", " ", prose)
    said = re.findall(r"(?<![\w.])-?\d+\.\d+(?: %)?|(?<=\(n )\d+", bare)
    for interval in re.findall(r"\[(-?\d[^]]*)\]", bare):
        said += interval.split(", ")
    wrong = [quoted for quoted in said if quoted not in (percents if quoted.endswith(" %") else plain)]
    warned = " ".join(warning for answer in answers for warning in answer["warnings"])
    wrong = [quoted for quoted in wrong if f" {quoted} " not in warned]
    if section == DENSE:
        wrong = [quoted for quoted in wrong if quoted not in {"30313", "99.9 %"}]  # the test below
    assert not wrong


def test_two_features_go_with_the_position_in_the_window(store: Store) -> None:
    n = store.n_rows("explain")
    position = np.asarray(store.row_position[:n])

    def activations(feature: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        column = np.zeros(n)
        rows, values = store.activations(feature, "explain")
        column[rows] = values
        return column

    counter = activations(642)
    assert not counter[position < 64].any()
    late = counter[position >= 192]
    assert f"From position 192 on it fires at {100 * (late > 0).mean():.3g} % (n {len(late)})" in DENSE
    falling = activations(1165)
    means = falling[position < 32].mean(), falling[position >= 128].mean()
    assert "{:.3g} in the first 31 positions of a window and {:.3g} from 128 on".format(*means) in TEXT
