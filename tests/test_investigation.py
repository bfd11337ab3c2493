"""docs/investigation.md: every call is made again in a fresh labels file, every number and evidence id compared."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.faces.cli import make_app
from saeinterp_mcp.operations.label_get import label_get
from saeinterp_mcp.operations.label_save import label_save
from saeinterp_mcp.operations.test_rule import test_rule as ask_test_rule
from saeinterp_mcp.store.open import open_store
from tests.conftest import PYCODE, ROOT
from tests.test_demo_features import numbers, written

TEXT = (ROOT / "docs" / "investigation.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^(?=## )", TEXT, flags=re.MULTILINE)
FEATURE = 1596
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
ID = re.compile(r"\b(?:lb|nt)-[0-9a-f]{12}\b")
TIME = re.compile(r"\d{4}-\d\d-\S+Z")
EVIDENCE = re.compile(r"ev-[0-9a-f]{16}")
FROM_THE_PARQUET_FILES = {"19.5 %", "98.5 %", "86.1 %", "96.1 %", "257", "137", "165", "1630"}


class Call(NamedTuple):
    """A command of the document: what it printed there, None where its answer is quoted in the prose instead."""

    section: int
    words: list[str]
    printed: str | None


def calls() -> Iterator[Call]:
    for index, section in enumerate(SECTIONS):
        for block in BLOCK.findall(section):
            lines = block.splitlines()
            for line, after in zip(lines, [*lines[1:], ""], strict=True):
                if line.startswith("$ "):
                    yield Call(index, shlex.split(line[2:])[1:], after)
                elif line.startswith("saeinterp "):
                    yield Call(index, shlex.split(line)[1:], None)


class Session:
    """The document's calls, made in its order; ids of notes and labels are those of this session."""

    def __init__(self, store: Path, labels: Path) -> None:
        self.end = ["--labels", str(labels)]
        self.store, self.ids = store, dict[str, str]()
        self.answers: dict[str, list[Any]] = {}
        self.of_section: list[list[Any]] = [[] for _ in SECTIONS]
        self.wrong: list[tuple[str, str | None]] = []
        for call in calls():
            if call.printed is None:
                self._ask(call)
            else:
                self._compare(call)

    def _run(self, words: Sequence[str], *more: str) -> str:
        here = [str(self.store) if word == "demo-store" else self.ids.get(word, word) for word in words]
        done = CliRunner().invoke(make_app(), [*here, *self.end, *more])
        return done.stdout if done.exit_code == 0 else done.stderr

    def _ask(self, call: Call) -> None:
        answer = json.loads(self._run(call.words, "--json"))
        self.answers.setdefault(answer["evidence"], []).append(answer)
        self.of_section[call.section].append(answer)

    def _compare(self, call: Call) -> None:
        assert call.printed is not None
        printed, shown = (TIME.sub("TIME", s) for s in (self._run(call.words).splitlines()[0], call.printed))
        self.ids |= zip(ID.findall(shown), ID.findall(printed), strict=False)
        expected = ID.sub(lambda found: self.ids.get(found[0], found[0]), shown)
        if printed != expected:
            self.wrong.append((printed, call.printed))


@pytest.fixture(scope="module")
def session(pycode_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(pycode_store, tmp_path_factory.mktemp("labels") / "fresh.sqlite")


def prose(section: str) -> list[str]:
    """Paragraphs, list items and rows of tables."""
    return [part for part in re.split(r"\n\n|\n(?=[-|])", BLOCK.sub("", section)) if part.strip()]


def quoted(text: str) -> list[str]:
    """Numbers with a decimal point or a percent sign, counts in `(n 12)`, and ends of intervals."""
    bare = re.sub(r"`[^`]*`", " ", text)
    found = re.findall(r"(?<![\w.])-?(?:\d+\.\d+(?: %)?|\d+ %)|(?<=\(n )\d+", bare)
    for interval in re.findall(r"\[(-?\d[^]]*)\]", bare):
        found += interval.split(", ")
    return found


def unknown(said: list[str], answers: Any) -> set[str]:
    known = list(numbers(answers))
    # shares are written in percent; percentiles are in percent already
    percents = {written(v, " %") for v in known} | {f"{v:.3g} %" for v in known}
    plain = {written(v, "") for v in known} | {f"{v:.3g}" for v in known}
    return {n for n in said if n not in (percents if n.endswith(" %") else plain)} - FROM_THE_PARQUET_FILES


def test_what_is_printed_is_what_the_commands_print(session: Session) -> None:
    assert not session.wrong


def test_every_evidence_id_of_the_document_is_that_of_a_call_in_it(session: Session) -> None:
    cited = set(EVIDENCE.findall(TEXT))
    assert len(cited) > 20
    assert cited <= set(session.answers)


@pytest.mark.parametrize("index", range(1, len(SECTIONS)))
def test_a_number_is_in_the_answer_that_is_cited_after_it(index: int, session: Session) -> None:
    before = [answer for answers in session.of_section[: index + 1] for answer in answers]
    wrong = []
    for paragraph in prose(SECTIONS[index]):
        of_paragraph = [session.answers[e] for e in EVIDENCE.findall(paragraph)]
        start = 0
        for cited in EVIDENCE.finditer(paragraph):
            text = paragraph[start : cited.start()]
            wrong += [(n, cited[0]) for n in unknown(quoted(text), of_paragraph)]
            start = cited.end()
        wrong += [(n, "") for n in unknown(quoted(paragraph[start:]), before)]
    assert not wrong


def test_the_gate_refuses_and_lets_pass_as_the_page_on_labels_shows(
    pycode_store: Path, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8")
    end = ["--store", str(pycode_store), "--labels", str(tmp_path / "labels.sqlite")]
    save = ["label", "save", "1308", "--text", "A new line and its indentation", "--author", "me"]
    done = CliRunner().invoke(make_app(), [*save, "--rule", "family:indentation>=1", *end, "--json"])
    label = json.loads(done.stdout)["label_id"]
    (block,) = [b for b in re.findall(r"```console\n(.*?)```", page, re.DOTALL) if "--status supported" in b]
    for asked, printed in zip(*[iter(block.splitlines())] * 2, strict=True):
        words = shlex.split(asked.replace("--store demo-store", ""))[2:]
        done = CliRunner().invoke(make_app(), [label if ID.fullmatch(w) else w for w in words] + end)
        assert (done.stdout or done.stderr).splitlines()[0] == ID.sub(label, printed)


def test_the_label_passes_the_gate_with_a_held_out_test_and_not_without(
    pycode_store: Path, tmp_path: Path, session: Session
) -> None:
    rule = next(c.words[c.words.index("--rule") + 1] for c in calls() if c.words[:2] == ["label", "save"])
    store = open_store(pycode_store, labels=tmp_path / "labels.sqlite")
    like: dict[str, Any] = {"rule": rule, "scope": "before", "window": 1}
    with pytest.raises(BadInput, match="no held-out test of this very rule is on record"):
        label_save(store, FEATURE, text="a claim", status="supported", **like)
    tested = ask_test_rule(store, FEATURE, limit=0, **like)
    assert (tested.n_tests_on_heldout, tested.evidence in TEXT) == (1, True)
    label = label_save(store, FEATURE, text="a claim", status="supported", **like)
    assert (label.status, label.scores[0]["evidence"]) == ("supported", tested.evidence)


class World(NamedTuple):
    """The bundle's Parquet files for one feature: a row is a counted position."""

    token: np.ndarray[Any, Any]
    before: np.ndarray[Any, Any]
    """The token before; empty at the first."""
    depth: np.ndarray[Any, Any]
    activation: np.ndarray[Any, Any]
    opens_parameters: np.ndarray[Any, Any]
    """Whether the bracket before is that of `def NAME(`."""

    def rate(self, rows: np.ndarray[Any, Any]) -> tuple[str, int]:
        """Share that fires, as the document writes it, and rows."""
        return written(float((self.activation[rows] > 0).mean()), " %"), int(rows.sum())


def opens_parameters(tokens: list[str], position: int) -> bool:
    """Going back from the bracket before `position`, over one name, to a `def`."""
    for token in reversed(tokens[max(0, position - 8) : position - 1]):
        if token in ("def", " def"):
            return True
        if "\n" in token or token in ("(", ",", ")", "=", ":", " ="):
            return False
    return False


def world(store: Path, split: str) -> World:
    folder = PYCODE / "bundle"
    table = open_store(store).backend.table("samples")
    samples = set(table.filter(pl.col("split") == split)["source_row"].to_list())
    tokens = pl.read_parquet(folder / "samples.parquet")["tokens"].to_list()
    key = ["sample", "position"]
    cells = pl.read_parquet(folder / "activations.parquet").filter(pl.col("feature") == FEATURE)
    places = pl.DataFrame(
        [(s, p) for s in samples for p in range(1, len(tokens[s]))], schema=key, orient="row"
    )
    for name in ("activations", "positions"):
        frame = cells if name == "activations" else pl.read_parquet(folder / "positions.parquet")
        frame = frame.with_columns(pl.col(key).cast(pl.Int64))
        places = places.join(frame.drop("feature", strict=False), on=key, how="left", maintain_order="left")
    at = [(tokens[s], p) for s, p in places.select(key).iter_rows()]
    return World(
        token=np.array([t[p] for t, p in at]),
        before=np.array([t[p - 1] if p > 1 else "" for t, p in at]),
        depth=places["bracket_depth"].fill_null(0).to_numpy(),
        activation=places["value"].fill_null(0).to_numpy(),
        opens_parameters=np.array([t[p - 1] == "(" and opens_parameters(t, p) for t, p in at]),
    )


def test_the_parquet_files_give_the_rates_again(pycode_store: Path) -> None:
    explain = world(pycode_store, "explain")
    assert explain.rate(explain.depth >= 0) == ("2.85 %", 131471)
    assert explain.rate(explain.token == "self") == ("36 %", 655)
    assert explain.rate(explain.before == "(") == ("86.5 %", 2189)
    assert explain.rate(explain.before == " (") == ("88.1 %", 581)
    assert explain.rate(explain.depth == 1) == ("10.8 %", 25961)
    assert written(float(explain.activation[explain.depth == 1].mean()), "") == "0.396"
    for said in ("2.85 %", "36 %` (n 655)", "86.5 % (n 2189)", "88.1 % (n 581)", "11.5 %] fire (n 25961)"):
        assert said.replace("`", "") in TEXT.replace("`", "")


def test_the_count_of_self_after_a_bracket(pycode_store: Path) -> None:
    explain = world(pycode_store, "explain")
    bracket, name = explain.before == "(", explain.token == "self"
    for title, opens in (
        ("the bracket opens the parameters of a `def`", explain.opens_parameters),
        ("any other `(`", ~explain.opens_parameters),
    ):
        cells = [explain.rate(bracket & opens & which) for which in (name, ~name)]
        row = " | ".join(f"{rate} (n {n})" for rate, n in cells)
        assert f"| {title} | {row} |" in TEXT


def test_the_held_out_confusion_is_counted_again(pycode_store: Path) -> None:
    heldout = world(pycode_store, "heldout")
    holds = np.isin(heldout.before, ["(", " (", "((", "([", "(*", "(_", " [", " {"])
    fires = heldout.activation > 0
    hits, false, missed = (int(rows.sum()) for rows in (holds & fires, holds & ~fires, ~holds & fires))
    assert f"{hits} hits, {false} false alarms, {missed} missed" in TEXT
    assert f"On the {len(fires)} positions" in TEXT
    recall, left_out = hits / (hits + missed), 1 - false / (~fires).sum()
    assert f"{(recall + left_out) / 2:.3g} [0.823, 0.859]" in TEXT


def shown(session: Session, evidence: str) -> list[dict[str, Any]]:
    (answer,) = session.answers[evidence]
    return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]


def test_what_was_read_in_the_examples_is_there(session: Session) -> None:
    begins = re.compile(r"def \w+\(<<self>>")

    def ids(words: str) -> str:
        return str(EVIDENCE.findall(TEXT[TEXT.index(words) :])[0])

    drawn = shown(session, ids("Ten of the 16 drawn"))
    assert [sum(row["token"] == "self" for row in drawn), len(drawn)] == [10, 16]
    assert sum(bool(begins.search(row["text"])) for row in drawn) == 9
    silent = shown(session, ids("Of the 12 silent ones nine"))
    assert [sum(bool(begins.search(row["text"])) for row in silent), len(silent)] == [9, 12]
    spread = [bool(begins.search(row["text"])) for row in shown(session, ids("two that begin parameters"))]
    assert [sum(spread[:7]), sum(spread[7:]), len(spread)] == [0, 2, 12]


def test_the_shipped_labels_come_in_and_keep_their_status(pycode_store: Path, tmp_path: Path) -> None:
    labels = ["--labels", str(tmp_path / "labels.sqlite"), "--store", str(pycode_store)]
    shipped = ROOT / "labels" / "pycode.jsonl"
    done = CliRunner().invoke(make_app(), ["label", "import", str(shipped), *labels])
    assert done.exit_code == 0, done.stderr
    store = open_store(pycode_store, labels=tmp_path / "labels.sqlite")
    page = label_get(store)
    found = list(page.labels)
    while page.next_cursor:
        page = label_get(store, cursor=page.next_cursor)
        found += page.labels
    statuses = [label.status for label in found]
    assert {s: statuses.count(s) for s in sorted(set(statuses))} == {
        "draft": 2,
        "refuted": 1,
        "supported": 9,
        "unclear": 2,
    }
    assert len({label.feature for label in found}) == 12
    cited = sorted({evidence for label in found for evidence in label.evidence})
    for evidence in cited[::8]:
        done = CliRunner().invoke(make_app(), ["evidence", "replay", evidence, *labels, "--json"])
        assert json.loads(done.stdout)["holds"], evidence
