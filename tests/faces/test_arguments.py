"""A signature becomes arguments; a checked call becomes an answer of bounded size."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.faces.answering import answer
from saeinterp_mcp.faces.arguments import entries
from saeinterp_mcp.operations.base import MAX_CHARACTERS
from saeinterp_mcp.store.served import ServedStores
from tests.faces.made_up import PNG, entry


@pytest.fixture
def stores(seq: Path) -> ServedStores:
    return ServedStores.open([str(seq)])


def test_the_description_is_the_docstring_without_what_programmers_read() -> None:
    assert entry("many_kinds").description == "What it answers.\nWhen to use it, in two lines."


def test_the_input_schema_is_short_and_closed() -> None:
    assert entry("many_kinds").input_schema == {
        "type": "object",
        "additionalProperties": False,
        "required": ["feature", "names"],
        "properties": {
            "feature": {"type": "integer"},
            "names": {"type": "array", "items": {"type": "string"}, "description": "Names"},
            "share": {"type": "number"},
            "which": {"enum": ["one", "two"], "default": "one"},
            "exact": {"type": "boolean"},
            "store": {"type": "string"},
        },
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "many_kinds: feature: Field required; names: Field required"),
        (
            {"feature": 1, "names": []},
            "many_kinds: names: List should have at least 1 item after validation, not 0",
        ),
        ({"feature": 1, "names": ["a"], "which": "x"}, "many_kinds: which: Input should be 'one' or 'two'"),
        (
            {"feature": 1, "names": ["a"], "share": 2},
            "many_kinds: share: Input should be less than or equal to 1",
        ),
        ({"feature": 1, "names": ["a"], "share": True}, "many_kinds: share: true is not a value it takes"),
        (
            {"feature": 1, "name": ["a"]},
            "many_kinds has no argument 'name' (did you mean 'names'?). "
            "Arguments: feature, names, share, which, exact, store.",
        ),
        (
            {"feature": 1, "names": ["\ud800"]},
            "many_kinds: names: holds half a character (a lone surrogate), which is not text",
        ),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        entry("many_kinds").check(given)
    assert str(refused.value) == message


def test_null_stands_for_an_optional_argument_left_out(stores: ServedStores) -> None:
    given = {"feature": 1, "names": ["a"], "share": None, "store": None}
    assert answer(entry("many_kinds"), stores, given).body["summary"] == "1 ['a'] None one False"


def test_where_several_stores_are_served_one_must_be_named(both: ServedStores) -> None:
    sweep = next(e for e in entries() if e.name == "group_sweep")
    with pytest.raises(UnknownName, match=r"^several stores are served; say which with store: seq, gear$"):
        answer(sweep, both, {"feature": 0, "by": "weapon"})
    with pytest.raises(UnknownName, match=r"^no store 'gaer' is served; nearest: 'gear'$"):
        answer(sweep, both, {"feature": 0, "by": "weapon", "store": "gaer"})
    assert answer(sweep, both, {"feature": 0, "by": "weapon", "store": "gear"}).body["store"] == "gear"


def test_weapon_sweep_is_group_sweep_by_weapon_where_a_store_has_weapons(
    both: ServedStores, stores: ServedStores
) -> None:
    offered = {e.name: e for e in entries(both)}
    given = {"feature": 0, "store": "gear"}
    by_weapon = answer(offered["group_sweep"], both, {**given, "by": "weapon"}).body
    assert answer(offered["weapon_sweep"], both, given).body == by_weapon
    assert by_weapon["operation"] == "group_sweep"
    assert "by" not in offered["weapon_sweep"].input_schema["properties"]
    assert "weapon_sweep" not in {e.name for e in entries(stores)}


def test_too_long_a_page_is_cut_where_its_cursor_goes_on(stores: ServedStores) -> None:
    found = entry("long_list")
    seen: list[int] = []
    cursor = None
    while True:
        body = answer(found, stores, {"feature": 0, "cursor": cursor}).body
        assert len(json.dumps(body, separators=(",", ":"))) <= MAX_CHARACTERS
        seen += [row[0] for row in body["rows"]]
        assert (body["more"] or 0) == 150 - len(seen)
        if (cursor := body["next_cursor"]) is None:
            break
        assert body["warnings"][-1].endswith("rows to keep the answer short; next_cursor continues")
    assert seen == list(range(150))


def test_too_long_a_table_loses_its_last_rows_and_says_how_many(stores: ServedStores) -> None:
    body = answer(entry("long_table"), stores, {"feature": 0}).body
    assert len(json.dumps(body, separators=(",", ":"))) <= MAX_CHARACTERS
    kept = len(body["rows"])
    assert 10 < kept < 20
    assert [row[0] for row in body["rows"]] == list(range(kept))
    assert body["more"] == 50 - kept
    assert body["warnings"] == [
        f"{50 - kept} rows left out to keep the answer short; narrow the question, or read the whole table as resource "
        f"saeinterp://evidence/{body['evidence']} (`saeinterp evidence show` at the shell)"
    ]


def test_what_is_no_evidence_points_at_no_resource(stores: ServedStores) -> None:
    listed = entry("long_table")
    about_labels = replace(listed, operation=replace(listed.operation, is_evidence=False))
    (warning,) = answer(about_labels, stores, {"feature": 0}).body["warnings"]
    assert warning.endswith("rows left out to keep the answer short; narrow the question")


def test_the_picture_is_drawn_only_when_asked_for_and_never_in_the_answer(stores: ServedStores) -> None:
    plain = answer(entry("pictured"), stores, {"feature": 0})
    drawn = answer(entry("pictured"), stores, {"feature": 0, "image": True})
    assert plain.picture is None
    assert drawn.picture == PNG
    assert plain.body == drawn.body
