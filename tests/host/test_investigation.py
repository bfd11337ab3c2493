"""A scripted model in the real Claude Code investigates a feature of the demo, with our plugin and with the server."""

import json
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.faces.arguments import commands, entries
from saeinterp_mcp.faces.mcp import instructions
from saeinterp_mcp.operations.base import MAX_CHARACTERS
from saeinterp_mcp.store.served import ServedStores
from tests.conftest import ROOT
from tests.faces.conftest import run_cli
from tests.host.claude_code import Session, converse
from tests.host.fake_model import Call, Reading
from tests.host.investigation import (
    FEATURE,
    FOLLOWS,
    PREDICTION,
    RESOURCE_TOOL,
    TEXT,
    TWO,
    WITHOUT_TWO,
    investigation,
)
from tests.host.places import own_copy

WRITERS = ("label_save", "note_save")
NOT_ASKED_OF_US = (*WRITERS, RESOURCE_TOOL)
AFTERWARDS = ("label_get", "note_get", "evidence_replay")
"""Read what the session has written; the others say the same before and after."""


@dataclass(frozen=True)
class Place:
    """A conversation, and where it was held."""

    session: Session
    server: str
    """The host's name for ours."""
    prefix: str
    """Of tool names."""
    store: Path
    labels: Path

    def readings(self, tool: str) -> list[Reading]:
        return [reading for reading in self.session.model.readings if reading.call.tool == tool]


@pytest.fixture(scope="module", params=["plugin", "server"])
def place(
    request: pytest.FixtureRequest, pycode_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """The same conversation through the plugin and its skill, and through a server that was added by hand."""
    folder = tmp_path_factory.mktemp(request.param)
    store = own_copy(pycode_store, folder)
    if request.param == "plugin":
        server, prefix = "plugin:saeinterp:saeinterp", "mcp__plugin_saeinterp_saeinterp"
        options = ["--plugin-dir", str(ROOT)]
        prompt = f"/saeinterp:investigate {FEATURE}"
    else:
        server, prefix = "saeinterp", "mcp__saeinterp"
        command = [sys.executable, "-m", "saeinterp_mcp", "serve", "--store", str(store)]
        config = {"mcpServers": {"saeinterp": {"command": command[0], "args": command[1:]}}}
        options = ["--mcp-config", json.dumps(config), "--strict-mcp-config"]
        prompt = f"What does feature {FEATURE} mean?"
    session = converse(
        investigation(server),
        prompt,
        *options,
        "--allowedTools",
        f"{prefix},{RESOURCE_TOOL}",
        home=folder / "home",
        folder=folder,
        variables={},
    )
    return Place(session, server, prefix, store, folder / f"{store.name}.labels.sqlite")


def test_the_host_connects_and_offers_our_tools_skills_and_prompts(place: Place) -> None:
    init = place.session.init
    assert (place.server, "connected") in [(s["name"], s["status"]) for s in init["mcp_servers"]]
    offered = {name.removeprefix(f"{place.prefix}__") for name in init["tools"] if name.startswith("mcp__")}
    assert offered == {entry.name for entry in entries()} - {"weapon_sweep"}
    assert f"{place.prefix}__investigate" in init["slash_commands"]
    if place.server.startswith("plugin"):
        skills = {path.parent.name for path in (ROOT / "skills").glob("*/SKILL.md")}
        assert {f"saeinterp:{skill}" for skill in skills} <= set(init["slash_commands"])


def test_the_command_becomes_our_skill_with_its_argument(place: Place) -> None:
    if not place.server.startswith("plugin"):
        assert any(text == f"What does feature {FEATURE} mean?" for text in place.session.model.said_to_it)
        return
    text = (ROOT / "skills" / "investigate" / "SKILL.md").read_text(encoding="utf-8")
    wording = text.split("\n---\n", 1)[1].strip()
    told = next(said for said in place.session.model.said_to_it if said.startswith("Base directory"))
    assert told.startswith(f"Base directory for this skill: {ROOT / 'skills' / 'investigate'}\n")
    assert wording in told
    assert told.endswith(f"\n\nARGUMENTS: {FEATURE}")


def test_the_model_is_shown_every_definition_and_the_instructions_whole(place: Place) -> None:
    shown = place.session.model.tools
    for entry in entries():
        if entry.name != "weapon_sweep":
            assert shown[entry.name]["description"] == entry.description
            assert shown[entry.name]["input_schema"] == entry.input_schema
    ours = instructions(ServedStores.open([str(place.store)]))
    assert any(ours in text for text in place.session.model.said_to_it)


def test_the_conversation_goes_to_its_end_and_asks_nobody_else(place: Place) -> None:
    assert place.session.last_words.startswith(f"Feature {FEATURE}: label ")
    assert len(place.session.model.requests) == 12
    assert place.session.model.other_paths == []


def test_the_model_reads_what_the_shell_prints(place: Place, shell: "Shell") -> None:
    asked = [r for r in place.session.model.readings if not r.is_error and r.call.tool not in NOT_ASKED_OF_US]
    assert len(asked) == 12
    for reading in asked:
        after = reading.call.tool in AFTERWARDS
        printed = (
            at_the_shell(reading.call, place.store, place.labels) if after else shell.prints(reading.call)
        )
        assert reading.body == printed


def test_every_answer_reaches_the_model_whole_and_in_the_right_place(place: Place) -> None:
    assert len(place.session.model.readings) == 22
    for reading in place.session.model.readings:
        assert len(reading.text) <= MAX_CHARACTERS
        assert [block["type"] for block in reading.blocks] == ["text"]
        assert "persisted-output" not in reading.text
        if not reading.is_error and reading.call.tool != RESOURCE_TOOL:
            assert reading.body["operation"] == reading.call.tool
            assert reading.body.get("feature", FEATURE) == FEATURE


def test_a_misspelt_argument_is_answered_with_the_right_one(place: Place) -> None:
    (refused,) = [r for r in place.readings("family_sweep") if r.is_error]
    assert refused.text.startswith(
        "family_sweep has no argument 'famly' (did you mean 'family'?). Arguments: feature, family, "
    )


def test_the_two_sweeps_tell_the_explanations_apart(place: Place) -> None:
    crude, without = [r.body for r in place.readings("family_sweep") if not r.is_error]
    rates = [dict(zip(b["columns"], b["rows"][0], strict=True))["firing_rate"] for b in (crude, without)]
    assert rates == [0.0214310, 0.00281889]
    assert without["baseline"]["firing_rate"] == 0.00278430
    assert without["where"] == WITHOUT_TWO


def test_supported_is_refused_before_the_held_out_test_and_granted_after_it(place: Place) -> None:
    refused, saved = place.readings("label_save")
    assert refused.is_error
    assert "no held-out test of this very rule is on record" in refused.text
    on_explain, held_out = place.readings("test_rule")
    assert (on_explain.body["n_tests_on_heldout"], held_out.body["n_tests_on_heldout"]) == (0, 1)
    numbers = held_out.body
    assert (numbers["low"], numbers["balanced_accuracy"], numbers["high"]) == (0.66001, 0.707644, 0.75894)
    assert saved.body["status"] == "supported"
    assert numbers["evidence"] in saved.body["evidence_ids"]
    (score,) = saved.body["scores"]
    assert score["low"] > score["floor"]


def test_the_label_is_in_the_database_with_its_reasons(place: Place) -> None:
    with closing(sqlite3.connect(place.labels)) as connection:
        rows = connection.execute(
            "SELECT feature, text, status, confidence, author_kind, evidence, retired "
            "FROM label_revisions JOIN labels ON labels.id = label"
        ).fetchall()
        on_record = {row[0] for row in connection.execute("SELECT evidence FROM answers")}
    ((feature, text, status, confidence, author_kind, evidence, retired),) = rows
    assert (feature, text, status, confidence, author_kind, retired) == (
        *(FEATURE, TEXT, "supported", 0.6, "agent"),
        0,
    )
    cited = json.loads(evidence)
    assert len(cited) == 4
    assert set(cited) <= on_record
    (found,) = place.readings("label_get")
    (label,) = found.body["labels"]
    assert (label["text"], label["evidence"]) == (TEXT, cited)
    (replayed,) = place.readings("evidence_replay")
    assert replayed.body["holds"] is True


def test_the_notes_tell_what_was_supposed_predicted_and_seen(place: Place) -> None:
    (found,) = place.readings("note_get")
    notes = {entry["text"]: entry for entry in found.body["entries"]}
    assert (notes[FOLLOWS]["status"], notes[FOLLOWS]["revision"]) == ("refuted", 2)
    assert (notes[TWO]["status"], notes[TWO]["revision"]) == ("supported", 2)
    (seen,) = [entry for entry in notes.values() if entry["kind"] == "observation"]
    assert (seen["supports"], seen["refutes"]) == ([notes[TWO]["note_id"]], [notes[FOLLOWS]["note_id"]])
    sweeps = [reading.body["evidence"] for reading in place.readings("family_sweep") if not reading.is_error]
    assert seen["evidence"] == sweeps
    assert notes[PREDICTION]["made_at"] <= seen["made_at"]


def test_the_whole_answer_behind_an_id_is_a_resource_that_the_model_can_read(place: Place) -> None:
    (read,) = place.readings(RESOURCE_TOOL)
    (content,) = read.body["contents"]
    whole = json.loads(content["text"])
    replayed = place.readings("family_sweep")[-1]
    assert whole["evidence"] == replayed.body["evidence"]
    assert whole["call"]["arguments"]["where"] == WITHOUT_TWO
    assert whole["answer"]["rows"] == replayed.body["rows"]


class Shell:
    """Answers of the command line, with a labels file of its own, each call asked once."""

    def __init__(self, store: Path, labels: Path) -> None:
        self._store, self._labels = store, labels
        self._known: dict[str, Any] = {}

    def prints(self, call: Call) -> Any:
        key = json.dumps(call)
        if key not in self._known:
            self._known[key] = at_the_shell(call, self._store, self._labels)
        return self._known[key]


@pytest.fixture(scope="module")
def shell(pycode_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(pycode_store, tmp_path_factory.mktemp("shell") / "labels.sqlite")


def at_the_shell(call: Call, store: Path, labels: Path) -> Any:
    """What the command that asks the same prints, as JSON."""
    command = next(entry.command for entry in commands() if entry.name == call.tool)
    arguments = dict(call.arguments)
    words = [*command.split(), *(str(arguments.pop(n)) for n in ("feature", "evidence") if n in arguments)]
    for name, value in arguments.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    printed = run_cli(*words, "--store", str(store), "--json", SAEINTERP_LABELS=str(labels))
    assert printed.returncode == 0, printed.stderr
    return json.loads(printed.stdout)
