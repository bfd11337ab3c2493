"""What a server offers beside its tools: resources, prompts, completions."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.types import ResourceTemplateReference, TextContent

from saeinterp_mcp.faces.arguments import entries
from saeinterp_mcp.faces.mcp import build
from saeinterp_mcp.store.served import ServedStores
from tests.faces.conftest import Caller, connected

FEATURE = "saeinterp://{store}/feature/{id}"


@pytest.fixture
def host(seq: Path, gear: Path, tmp_path: Path) -> Iterator[Caller]:
    places = [str(shutil.copytree(place, tmp_path / place.name)) for place in (seq, gear)]
    yield from connected(build(ServedStores.open(places)))


def read(host: Caller, uri: str) -> Any:
    (content,) = host.portal.call(host.client.read_resource, uri).contents
    assert content.mime_type == "application/json"
    return json.loads(content.text)  # type: ignore[union-attr]


def completed(host: Caller, name: str, typed: str, **context: str) -> list[str]:
    template = ResourceTemplateReference(type="ref/resource", uri=FEATURE)
    given = {"name": name, "value": typed}
    found = host.portal.call(lambda: host.client.complete(template, given, context_arguments=context or None))
    return list(found.completion.values)


def test_a_feature_is_a_resource_with_its_overview_and_labels(host: Caller) -> None:
    host.call("label_save", feature=1, text="Swims", store="gear")
    found = read(host, "saeinterp://gear/feature/1")
    overview = host.call("feature_overview", feature=1, store="gear", detail="detailed").structured_content
    assert found["overview"] == overview
    assert found["overview"]["label"] == "Swims"
    assert [label["text"] for label in found["labels"]] == ["Swims"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("saeinterp://gear/feature/9", "feature 9 is not in store 'gear', which has 0 to 3"),
        ("saeinterp://gear/feature/one", "no feature 'one'"),
        ("saeinterp://geer/feature/1", "no store 'geer' is served; nearest: 'gear'"),
        ("saeinterp://evidence/ev-0123456789abcdef", "is not on record"),
        ("saeinterp://evidence/x", "'x' is no evidence id"),
    ],
)
def test_a_resource_that_is_not_there_is_refused_with_the_reason(host: Caller, uri: str, said: str) -> None:
    with pytest.raises(MCPError, match=re.escape(said)):
        read(host, uri)


def test_evidence_is_a_resource_with_the_whole_answer(host: Caller) -> None:
    sweep = host.call("family_sweep", feature=1, family="swim", store="gear").structured_content
    assert sweep is not None
    found = read(host, f"saeinterp://evidence/{sweep['evidence']}")
    assert found["answer"] == sweep
    assert found["call"]["arguments"]["family"] == "swim"
    assert not found["store_changed"]


def test_names_are_completed_from_the_store_that_is_meant(host: Caller) -> None:
    assert completed(host, "store", "") == ["seq", "gear"]
    assert completed(host, "store", "G") == ["gear"]
    assert completed(host, "family", "") == ["fam", "other"]
    assert completed(host, "family", "s", store="gear") == ["swim"]
    assert completed(host, "group", "", store="gear") == ["weapon"]
    assert completed(host, "family", "", store="none") == []
    assert completed(host, "nothing", "") == []


def test_features_are_completed_by_importance(host: Caller) -> None:
    rows = host.call(
        "features_search", by="metric", sort="importance", where="max>=0", store="seq"
    ).structured_content
    assert rows is not None
    assert completed(host, "feature", "", store="seq") == [str(row[0]) for row in rows["rows"]]
    assert completed(host, "feature", "2", store="seq") == completed(host, "id", "2", store="seq") == ["2"]


@pytest.mark.parametrize("name", ["investigate", "sceptic", "triage"])
def test_a_prompt_names_its_subject_and_only_tools_that_exist(host: Caller, name: str) -> None:
    listed = {p.name: p for p in host.portal.call(host.client.list_prompts).prompts}
    slot = "n" if name == "triage" else "feature"
    assert [a.name for a in listed[name].arguments or []] == [slot, "store"]

    def filled(**arguments: str) -> str:
        (message,) = host.portal.call(host.client.get_prompt, name, arguments).messages
        assert isinstance(message.content, TextContent)
        return message.content.text

    text = filled(**{slot: "12 {feature} ignore", "store": "gear"})
    assert re.search(r"\b12\b.*, store gear", text)
    assert "ignore" not in text
    assert "{" not in text
    assert ", store x" not in filled(**{slot: "1", "store": "x"})
    known = {e.name for e in entries()}
    arguments = {a for e in entries() for a in e.arguments.model_fields}
    fields = {a for e in entries() for a in e.result.model_fields}
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", text))
    assert named & known
    assert named - known <= arguments | fields | COLUMNS


COLUMNS = {
    "near_miss",
    "same_rows",
    "n_units",
    "coverage_core",
    "coverage_tail",
    "firing_rate",
    "shuffle_null",
}
"""Values and columns that prompts name."""
