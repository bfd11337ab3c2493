"""Skills and prompts say nothing that is not there: tools, arguments, values, fields, commands, links, sizes."""

import csv
import inspect
import json
import keyword
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
import yaml

from examples.loadout.game import MAIN_ONLY, STACKABLE, THRESHOLDS
from saeinterp_mcp.faces.arguments import Entry, entries
from saeinterp_mcp.faces.cli import make_app
from saeinterp_mcp.labels.records import CATEGORIES
from saeinterp_mcp.store.layout import REGIONS
from tests.conftest import ROOT

SKILLS = sorted(path.parent for path in (ROOT / "skills").glob("*/SKILL.md"))
PAGES = sorted((ROOT / "skills").rglob("*.md"))
PROMPTS = sorted((ROOT / "prompts").glob("*.md"))
FIELDS = {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
"""What every host accepts in the frontmatter; some refuse a skill with any other."""
OUR_TOOLS = "mcp__plugin_saeinterp_saeinterp mcp__saeinterp"
"""Our server, as the plugin names it and as a person who adds it does: whoever starts a skill is not asked again for
each of its tools. All that they write is the labels file, to which only is added."""
BYTES_PER_TOKEN = 3.5

ENTRIES = {entry.name: entry for entry in entries()}
EACH_SKILL = pytest.mark.parametrize("folder", SKILLS, ids=lambda folder: folder.name)
EACH_PAGE = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT / "skills").as_posix()
)
EACH_TEXT = pytest.mark.parametrize("page", [*PAGES, *PROMPTS], ids=lambda p: p.relative_to(ROOT).as_posix())


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The text without fenced blocks and frontmatter."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text_of(page), flags=re.DOTALL)
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


# shape


def test_the_nine_skills_are_there() -> None:
    assert [folder.name for folder in SKILLS] == [
        "decoder",
        "interpret-loadouts",
        "investigate",
        "label-batch",
        "labeler",
        "overview",
        "runner",
        "sceptic",
        "triage",
    ]


@EACH_SKILL
def test_the_frontmatter_is_plain_and_has_portable_fields_alone(folder: Path) -> None:
    opening, block, _ = text_of(folder / "SKILL.md").split("---\n", 2)
    assert opening == ""
    found = yaml.safe_load(block)
    assert found.keys() <= FIELDS
    assert found["name"] == folder.name
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", folder.name)
    assert 100 < len(found["description"]) < 600, (
        "what it does and when to use it, well under the 1,024 allowed"
    )
    assert found["license"] == "Apache-2.0"
    assert len(found["compatibility"]) <= 500
    assert found["allowed-tools"] == OUR_TOOLS
    for line in block.splitlines():
        field, value = line.split(": ", 1)
        assert ": " not in value, f"{field}: a colon and a space end a plain value for strict readers"
        assert not value.startswith(("[", "{", "'", '"')), f"{field}: strict readers take plain values only"


def test_the_tools_that_skills_allow_are_those_of_the_plugin() -> None:
    plugin = json.loads((ROOT / ".claude-plugin" / "plugin.json").read_text(encoding="utf-8"))["name"]
    (server,) = json.loads((ROOT / ".mcp.json").read_text(encoding="utf-8"))["mcpServers"]
    assert OUR_TOOLS.split() == [f"mcp__plugin_{plugin}_{server}", f"mcp__{server}"]


@EACH_PAGE
def test_a_page_is_short_enough_to_be_read_whole(page: Path) -> None:
    text = text_of(page)
    assert text.count("\n") < 500
    assert len(text.encode("utf-8")) / BYTES_PER_TOKEN < 5_000
    assert text.endswith("\n")
    assert "\r" not in text


@EACH_SKILL
def test_links_lead_to_files_of_the_same_skill_and_every_reference_is_linked(folder: Path) -> None:
    linked: set[Path] = set()
    for page in folder.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
            path = (page.parent / target).resolve()
            assert path.is_file(), f"{page.name} links to {target}"
            assert folder.resolve() in path.parents, "a skill may be installed without its neighbours"
            linked.add(path)
    assert {path.resolve() for path in folder.rglob("*.md") if path.name != "SKILL.md"} <= linked


@EACH_PAGE
def test_skills_that_are_named_are_there(page: Path) -> None:
    names = {folder.name for folder in SKILLS}
    named = set(re.findall(r"\bskill `([^`]+)`", prose(page)))
    assert named <= names


# what is named in backticks


def choices(annotation: Any) -> set[str]:
    """The values of every Literal in a type."""
    if get_origin(annotation) is Literal:
        return set(map(str, get_args(annotation)))
    return set().union(*(choices(part) for part in get_args(annotation)), set())


def argument_values() -> dict[tuple[str, str], set[str]]:
    """(tool, argument) to the values it may have, where these are listed."""
    found = {}
    for entry in ENTRIES.values():
        for name, field in entry.arguments.model_fields.items():
            if values := choices(field.annotation):
                found[entry.name, name] = values
    return found


VALUES = argument_values()


def properties(schema: Any) -> Iterator[str]:
    """Names of the fields of a JSON schema, nested ones too."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from properties(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from properties(part)


def column_names() -> set[str]:
    """Strings in lists named COLUMNS of the modules of operations: tables name their columns there."""
    found: set[str] = set()
    for name, module in list(sys.modules.items()):
        if name.startswith("saeinterp_mcp.operations."):
            for constant, value in vars(module).items():
                if "COLUMNS" in constant and isinstance(value, list | tuple):
                    found |= {str(column) for column in value}
    return found


ANSWER_FIELDS = {
    name for e in ENTRIES.values() for name in properties(e.result.model_json_schema())
} | column_names()
ARGUMENTS = {name for e in ENTRIES.values() for name in e.arguments.model_fields}
WORDS = {value for values in VALUES.values() for value in values} | set(REGIONS) | set(CATEGORIES["set"])
KNOWN = ENTRIES.keys() | ANSWER_FIELDS | ARGUMENTS | WORDS | {folder.name for folder in SKILLS}
MADE_UP = {"a_b", "w1", "w2", "elif", "queue", "full"}
"""Placeholders and a caller's own words."""
AT_RUN_TIME = {"position", "percentile", "n_tokens", "random_percentile"}
"""Columns that are put together when they are asked for."""
NAMES = KNOWN | MADE_UP | AT_RUN_TIME | {*STACKABLE, *(a for piece in MAIN_ONLY.values() for a in piece)}
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def paragraphs(page: Path) -> list[str]:
    """Lines of a skill, items of a prompt (which is wrapped)."""
    text = prose(page)
    if page in PROMPTS:
        text = re.sub(r"\n(?!\n|\d\. )\s*", " ", text)
    return [line for line in text.splitlines() if line.strip()]


@EACH_TEXT
def test_every_name_in_backticks_is_a_tool_an_argument_a_field_or_a_value(page: Path) -> None:
    named = {span for span in spans(prose(page)) if IDENTIFIER.fullmatch(span)}
    assert {n for n in named if n not in NAMES | COMMAND_WORDS and not keyword.iskeyword(n)} == set()


@EACH_TEXT
def test_arguments_belong_to_a_tool_of_their_paragraph(page: Path) -> None:
    for paragraph in paragraphs(page):
        tools = [ENTRIES[span] for span in spans(paragraph) if span in ENTRIES]
        for span in spans(paragraph):
            if tools and span in ARGUMENTS and span not in ANSWER_FIELDS | ENTRIES.keys():
                takes = [tool.name for tool in tools if span in tool.arguments.model_fields]
                assert takes, f"none of {[tool.name for tool in tools]} takes {span!r}: {paragraph[:200]}"


@EACH_TEXT
def test_a_tool_is_given_arguments_that_it_has(page: Path) -> None:
    """`tool` with `a` value, `b` value: each of them is its own."""
    for paragraph in paragraphs(page):
        for tool, rest in re.findall(
            r"`([a-z_]+)` (?:\(|with )((?:(?!`[a-z]+_[a-z_]+` with)[^.;:|])+)", paragraph
        ):
            if tool in ENTRIES:
                for argument in re.findall(r"`([a-z_]+)`", rest.split(")")[0]):
                    if argument in ARGUMENTS and argument not in ENTRIES:
                        fields = set(ENTRIES[tool].arguments.model_fields)
                        fields |= set(properties(ENTRIES[tool].result.model_json_schema())) | column_names()
                        assert argument in fields, f"{tool} has no {argument!r}: {paragraph[:200]}"


@EACH_TEXT
def test_a_value_after_an_argument_is_one_that_it_takes(page: Path) -> None:
    """`pick` near_miss: where an argument has listed values, the word after it is one of them."""
    for paragraph in paragraphs(page):
        tools = [span for span in spans(paragraph) if span in ENTRIES] or list(ENTRIES)
        for argument, word in re.findall(r"`([a-z_]+)` ([a-z_]+)", paragraph):
            values = set().union(*(VALUES.get((tool, argument), set()) for tool in tools))
            if values and word not in PROSE:
                assert word in values, f"{argument} {word}: {sorted(values)}: {paragraph[:200]}"


PROSE = {
    "a", "and", "for", "from", "holds", "in", "is", "of", "or", "says", "takes", "the", "to", "value", "where", "with",
}  # fmt: skip
"""Words that go on with a sentence rather than name a value."""


# commands


def command_lines(page: Path) -> list[str]:
    """Lines of fenced blocks, and commands in backticks."""
    blocks = re.findall(r"^```(?:sh|text)\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)
    found = [line for block in blocks for line in block.splitlines() if line.startswith("saeinterp ")]
    return found + [span for span in spans(prose(page)) if re.match(r"saeinterp [a-z]", span)]


def leaves(command: Any, above: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """(words, command) of every command of the application; `Any`, because typer keeps its own copy of click."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*above, name))
    else:
        yield " ".join(above), command


COMMANDS = dict(leaves(typer.main.get_command(make_app())))
COMMAND_WORDS = {word for command in COMMANDS for word in (command, command.split()[0])}


@EACH_PAGE
def test_every_command_is_understood_with_its_options(page: Path) -> None:
    for line in command_lines(page):
        words = shlex.split(line)[1:]
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in COMMANDS), None)
        assert name, f"no such command: {line}"
        try:
            COMMANDS[name].make_context(name, words[len(name.split()) :])
        except Exception as error:
            error.add_note(line)
            raise


@EACH_PAGE
def test_options_in_backticks_exist(page: Path) -> None:
    known = {option for command in COMMANDS.values() for part in command.params for option in part.opts}
    named = {span.split()[0] for span in spans(prose(page)) if span.startswith("--")}
    assert named - {"--a-b"} <= known


def test_the_table_of_commands_has_every_tool_under_its_command() -> None:
    text = text_of(ROOT / "skills" / "investigate" / "SKILL.md")
    cells = [cell.strip() for row in re.findall(r"^\|(.*)\|$", text, re.MULTILINE) for cell in row.split("|")]
    found: dict[str, str] = {}
    for tool, command in pairwise(cells):
        tools, words = re.findall(r"`([a-z_]+)`", tool), re.findall(r"`([a-z -]+)`", command)
        if tools and set(tools) <= ENTRIES.keys() and len(tools) == len(words):
            found |= dict(zip(tools, words, strict=True))
    for tool, command in found.items():
        assert command == ENTRIES[tool].command
    assert ENTRIES.keys() - found.keys() == {"weapon_sweep", "label_delete"}


# prompts


@pytest.mark.parametrize(
    ("name", "slots"),
    [("investigate", {"feature", "store"}), ("sceptic", {"feature", "store"}), ("triage", {"n", "store"})],
)
def test_a_prompt_has_its_slots_and_no_other_braces(name: str, slots: set[str]) -> None:
    text = text_of(ROOT / "prompts" / f"{name}.md")
    assert {field for _, field, _, _ in Formatter().parse(text) if field is not None} == slots
    filled = text.format(**dict.fromkeys(slots, "7"))
    assert "{" not in filled
    assert max(map(len, text.splitlines())) <= 130


# facts


def test_every_tool_is_used_by_some_skill_and_the_protocol_by_the_prompt() -> None:
    said = "".join(prose(page) for page in PAGES)
    assert [name for name in ENTRIES if f"`{name}`" not in said] == []
    prompt = text_of(ROOT / "prompts" / "investigate.md")
    for tool in (
        "feature_overview",
        "family_sweep",
        "group_sweep",
        "token_influence",
        "test_rule",
        "note_save",
    ):
        assert f"`{tool}`" in prompt


def test_the_reference_of_abilities_has_the_26_and_the_levels() -> None:
    text = text_of(ROOT / "skills" / "interpret-loadouts" / "references" / "abilities.md")
    of_piece = set(re.findall(r"^\| (head|clothes|shoes) \| (\w+) \|", text, re.MULTILINE))
    assert of_piece == {(piece, ability) for piece, abilities in MAIN_ONLY.items() for ability in abilities}
    stackable = set(re.findall(r"^\| ([a-z]+(?:_[a-z]+)+) \|", text, re.MULTILINE))
    assert stackable == set(STACKABLE)
    assert len(of_piece) + len(stackable) == 26
    assert ", ".join(map(str, THRESHOLDS)) in text


def test_the_reference_of_weapons_has_every_kit() -> None:
    text = text_of(ROOT / "skills" / "interpret-loadouts" / "references" / "weapons.md")
    with (ROOT / "examples" / "loadout" / "weapons.csv").open(encoding="utf-8", newline="") as file:
        kits = list(csv.DictReader(file))
    assert len(kits) == 130
    for kit in kits:
        assert f"{kit['weapon']} ({kit['sub']}, {kit['special']})" in text


def test_the_rates_quoted_of_the_demo_feature_are_right(pycode_store: Path) -> None:
    from saeinterp_mcp.operations.family_sweep import family_sweep
    from saeinterp_mcp.store.open import open_store

    store = open_store(str(pycode_store))
    at = family_sweep(store, 1310, "control_flow")
    before = family_sweep(store, 1310, "control_flow", scope="before", window=4)
    rates = [sweep.rows[0][sweep.columns.index("firing_rate")] for sweep in (at, before)]
    said = [f"{100 * float(str(rate)):.0f}" for rate in (*rates, before.baseline.firing_rate)]
    assert said == ["11", "37", "5"]
    text = text_of(ROOT / "skills" / "investigate" / "references" / "experiments.md")
    assert (
        "fires at 11 % and more weakly than elsewhere; with a keyword in the four positions before, at 37 % against 5 %"
        in text
    )


def test_a_signature_is_what_is_checked_against() -> None:
    """That the checks above would see a renamed argument."""
    entry: Entry = ENTRIES["feature_examples"]
    assert "pick" in inspect.signature(entry.operation.function).parameters
    assert VALUES["feature_examples", "pick"] == {"top", "spread", "core", "near_miss", "silent"}
    assert {
        "share_surviving",
        "acts_on",
        "coverage_core",
        "explained_by",
        "beats_floor",
        "q",
    } <= ANSWER_FIELDS
