"""The report of a run whose corpus and model are hostile: nothing in it acts, and its numbers are right."""

import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from saeinterp_mcp.store.memory_store import World, WorldSample
from tests.autointerp import scripted_model
from tests.autointerp.running import labels, report, rows, scored
from tests.providers.fake_server import fake_server
from tests.worlds import import_world

HOSTILE = (
    " <script>alert(1)</script>",
    " <img src=x onerror=alert(1)>",
    " | a | b |",
    " [click](http://evil.example)",
    " ```",
    " \x1b[31mred\x1b[0m",
    " \u202egnp.exe",
    " &lt;b&gt;",
)
"""Each is what one feature fires on."""


@pytest.fixture
def hostile_store(tmp_path: Path) -> Path:
    generator = np.random.default_rng(5)
    samples, activations = [], {}
    for i in range(320):
        tokens = ["<bos>", *generator.choice([" a", " b", " c", " d"], 12).tolist()]
        feature = i % (2 * len(HOSTILE))
        if feature < len(HOSTILE):
            at = int(generator.integers(1, 12))
            tokens[at] = HOSTILE[feature]
            activations[feature, i, at] = round(float(generator.lognormal(0.5, 0.5)), 3)
        samples.append(WorldSample(tuple(tokens), unit=f"u{i}"))
    world = World(
        kind="sequence",
        n_features=len(HOSTILE),
        samples=tuple(samples),
        activations=activations,
        excluded_positions=(0,),
        name="hostile",
    )
    return import_world(world, tmp_path)


class Tags(HTMLParser):
    """Every tag and attribute that a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_nothing_of_a_hostile_corpus_acts_in_the_report(hostile_store: Path) -> None:
    with fake_server(scripted_model.eager) as server:
        done = scored(server, hostile_store, "--features", "all", "--trials", "20", "--controls", "3")
    assert done.code == 0, done.err
    found = report(hostile_store)
    texts = [row["label"] for row in found["rows"] if row["label"]]
    assert any("<script>" in text for text in texts), "the model copied what it was shown"
    folder = hostile_store.with_name("store.runs") / found["run"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    seen = Tags()
    seen.feed(page)
    assert seen.tags <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "span", "div", "table", "thead"),
        *("tbody", "tr", "th", "td", "figure", "figcaption", "svg", "rect", "line", "text", "tspan", "title"),
    }
    assert not [name for name in seen.attributes if name.startswith("on") or name in ("src", "href")]
    assert "url(" not in page
    assert "@import" not in page
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for text in (page, markdown, done.out, done.err):
        assert "\x1b" not in text
        assert "\u202e" not in text
    plain = re.sub(r"\\.", "", markdown.partition("## Worst labels")[2].partition("## Left out")[0])
    for mark in ("<", "`", "[", "]("):
        assert mark not in re.sub(r"\[[-\d.]+, [-\d.]+\]", "", plain)
    widths = {line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("| ")}
    assert widths <= {3, 4, 13}, "no cell ends a row or adds a column"


def test_the_numbers_of_a_report_are_those_of_the_ledger_and_the_labels(store: Path, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        'as_of: "2026-11"\nmodels:\n  "openai:writer": {input: 10, output: 100}\n'
        '  "anthropic:judge": {input: 1, output: 10}\n',
        encoding="utf-8",
    )
    told = ("--features", "all", "--trials", "40", "--prices", prices, "--controls", "2")
    with fake_server(scripted_model.knows) as server:
        done = scored(server, store, *told, by="detection,fuzzing,simulation")
    assert done.code == 0, done.err
    found, calls, tests = report(store), rows(store, "calls"), rows(store, "heldout_tests")
    usage = found["usage"]
    assert (usage["requests sent"], usage["answered"]) == (len(calls), len(calls))
    for shown, column in (("input tokens", "input_tokens"), ("output tokens", "output_tokens")):
        assert usage[shown] == sum(call[column] for call in calls)
    assert usage["US dollars"] == pytest.approx(sum(call["usd"] for call in calls))
    written = [label for of in labels(store).values() for label in of]
    assert sum(row["state"] == "unclear" for row in found["rows"]) == sum(
        label["status"] == "unclear" for label in written
    )
    for summary in found["methods"]:
        of = [test for test in tests if test["method"] == summary["method"]]
        assert summary["n_labels"] == len(of) == 3
        assert summary["mean"] == pytest.approx(fmean(test["score"] for test in of))
        assert summary["baseline_mean"] == pytest.approx(fmean(test["baseline"] for test in of))
        assert summary["n_above_floor"] == sum(test["low"] > test["floor"] for test in of)
        assert summary["n_above_baseline"] == sum(test["score"] > test["baseline"] for test in of)
        assert (summary["n_trials"], sum(summary["counts"])) == (sum(test["n"] for test in of), 3)
        assert summary["n_controls"] == 2
        assert summary["control_mean"] < summary["mean"]
    by_feature = {row["feature"]: row["usd"] for row in found["rows"]}
    for feature, usd in by_feature.items():
        assert usd == pytest.approx(sum(call["usd"] for call in calls if call["feature"] == feature))
    page = (store.with_name("store.runs") / found["run"] / "report.html").read_text(encoding="utf-8")
    for summary in found["methods"]:
        assert f'<td class="n">{summary["mean"]:.3f}</td>' in page
    assert f"{len(calls):,}" in page
    assert "://" not in page
    assert "<script" not in page


def test_wrong_labels_are_no_test_of_any_label(store: Path) -> None:
    with fake_server(scripted_model.knows) as server:
        assert scored(server, store, "--features", "0,6", "--trials", "20", "--controls", "2").code == 0
    assert len(rows(store, "heldout_tests")) == 2
    assert [call["purpose"] for call in rows(store, "calls", "purpose LIKE 'control%'")] == [
        "control:detection"
    ] * 4
    [summary] = report(store)["methods"]
    assert summary["n_controls"] == 2
    assert summary["control_mean"] < 0.6
