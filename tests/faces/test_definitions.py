"""What every host pays for, and what a change of wording changes."""

import inspect
import re

import pytest

from saeinterp_mcp.config import shipped_text
from saeinterp_mcp.faces.arguments import Entry, entries, said_once
from tests.faces.snapshot import SNAPSHOT, as_json, definitions, n_tokens

BUDGET = 4500
EACH = pytest.mark.parametrize("entry", entries(), ids=lambda e: e.name)


def test_all_definitions_together_stay_under_the_budget() -> None:
    assert n_tokens(definitions()) <= BUDGET


def test_definitions_change_only_on_purpose() -> None:
    kept = SNAPSHOT.read_text(encoding="utf-8")
    assert as_json() == kept, (
        "if this is meant, run `python -m tests.faces.snapshot` and review the difference"
    )


@EACH
def test_every_argument_is_described_in_a_line_to_the_shell_and_but_for_common_ones_to_hosts(
    entry: Entry,
) -> None:
    for name, argument in entry.arguments.model_fields.items():
        assert 0 < len(argument.description or "") <= 110, f"{entry.name}: {name}"
        schema = entry.input_schema["properties"][name]
        said = said_once(name, argument.description)
        assert schema.get("description") == (None if said else argument.description)
        assert "title" not in schema


@EACH
def test_a_description_says_what_it_answers_in_a_few_lines(entry: Entry) -> None:
    assert 40 <= len(entry.description) <= 450
    assert re.fullmatch(r"[a-z_]{1,40}", entry.name)
    assert not re.search(r"IMPORTANT|MUST|Raises", entry.description)


@EACH
def test_an_operation_is_plain_and_asks_a_store(entry: Entry) -> None:
    function = entry.operation.function
    assert not inspect.iscoroutinefunction(function)
    assert next(iter(inspect.signature(function).parameters)) in ("store", "stores")
    assert ("image" in entry.arguments.model_fields) == (entry.operation.picture is not None)


def test_the_prompt_names_tools_that_exist() -> None:
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", shipped_text("prompts", "investigate.md")))
    assert named <= {entry.name for entry in entries()}
    assert "feature_overview" in named
