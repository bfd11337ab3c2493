"""Text that would like to be obeyed reaches a reader escaped, and only in the fields that quote."""

import json
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import StdioServerParameters
from mcp.types import PromptReference, ResourceTemplateReference

from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.faces.answering import shown_error
from saeinterp_mcp.faces.mcp import build
from saeinterp_mcp.faces.render import as_text
from saeinterp_mcp.operations import OPERATIONS
from tests.faces.conftest import SERVER, Caller, connected, text_of
from tests.faces.hostile_calls import QUOTES, calls, faults, hidden, leaves
from tests.faces.hostile_world import HARMLESS, MARK, PAYLOADS, World, world

NAMES = [operation.name for operation in OPERATIONS]


@pytest.fixture(autouse=True)
def by_words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text model is started: what it is given is what is matched by words too."""
    monkeypatch.setenv("SAEINTERP_EMBEDDER", "none")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("clean"), HARMLESS)


@pytest.fixture(scope="module", params=["memory", "stdio"])
def caller(request: pytest.FixtureRequest, hostile: World) -> Iterator[Caller]:
    yield from client_of(hostile, request.param)


@pytest.fixture(scope="module")
def clean_caller(clean: World) -> Iterator[Caller]:
    yield from client_of(clean, "memory")


def client_of(made: World, how: str) -> Iterator[Caller]:
    given = [
        "--store",
        str(made.folder / "seq"),
        "--store",
        str(made.folder / "gear"),
        "--labels",
        str(made.labels),
    ]
    target: Any = StdioServerParameters(
        command=SERVER[0], args=[*SERVER[1:], "serve", *given], env={"SAEINTERP_EMBEDDER": "none"}
    )
    yield from connected(build(made.stores) if how == "memory" else target)


@pytest.mark.parametrize("tool", [*NAMES, "weapon_sweep"])
def test_no_answer_shows_what_is_unseen_or_quotes_a_text_outside_the_fields_for_it(
    tool: str, hostile: World
) -> None:
    found: list[str] = []
    n_answers = n_quoting = 0
    for store in ("seq", "gear"):
        for call in calls(hostile.tools[tool], store, hostile.ids):
            if tool == "weapon_sweep" and store == "seq":
                continue
            try:
                body = hostile.ask(tool, **call)
            except SaeInterpError as error:
                told = {"error": shown_error(error)}
                found += [f"{call}: {fault}" for fault in error_faults(told["error"], call)]
                continue
            n_answers += 1
            n_quoting += any(MARK.search(text) for _, text in leaves(body))
            found += [f"{call}: {fault}" for fault in faults(body, call)]
            found += [f"{call}: {fault}" for fault in text_faults(as_text(body), body)]
    assert found == []
    assert n_answers >= 2
    assert n_quoting or tool in NEVER_QUOTE


NEVER_QUOTE = {"family_sweep", "family_heatmap"}
"""Their answers hold names, levels and numbers only. Of the others one answer at least quotes, or nothing was tried."""


def error_faults(text: str, asked: Any) -> Iterator[str]:
    """What is wrong with an error: something unseen, or text that the caller did not bring."""
    if unseen := hidden(text, breaks=True):
        yield f"{unseen} in error {text[:200]!r}"
    if foreign := set(MARK.findall(text)) - set(MARK.findall(str(asked))):
        yield f"{foreign} quoted in error {text[:300]!r}"
    if len(text) > 2_100:
        yield f"{len(text)} characters of error"


def text_faults(text: str, body: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the text of an answer: something unseen, or lines that only look like ours."""
    if unseen := hidden(text, breaks=True):
        yield f"{unseen} in the text"
    lines = text.split("\n")
    if sum(line.startswith("Warning:") for line in lines) > len(body["warnings"]):
        yield "a warning in the text that is none"
    if sum(line.startswith("store ") for line in lines) > 1:
        yield "a last line that is none"


def test_a_client_sees_every_tool_answer_and_refuse_without_anything_unseen(
    caller: Caller, hostile: World
) -> None:
    found = []
    for tool, entry in hostile.tools.items():
        store = "gear" if tool == "weapon_sweep" else "seq"
        first, *others = calls(entry, store, hostile.ids, PAYLOADS[24:37], every=13)
        for call in [first, *(other for other in others if MARK.search(str(other)))]:
            result = caller.call(tool, **call)
            if result.is_error:
                found += [f"{tool} {call}: {fault}" for fault in error_faults(text_of(result), call)]
                continue
            assert result.structured_content is not None
            found += [f"{tool} {call}: {fault}" for fault in faults(result.structured_content, call)]
            found += [f"{tool} {call}: {f}" for f in text_faults(text_of(result), result.structured_content)]
    assert found == []


def offers(made: Caller) -> dict[str, Any]:
    """Everything a server says before it is asked about a feature."""
    said = {name: made.portal.call(getattr(made.client, f"list_{name}")) for name in LISTS}
    shown = {name: listed.model_dump(mode="json") for name, listed in said.items()}
    for prompt, arguments in PROMPTS:
        shown[f"{prompt} {arguments}"] = made.portal.call(
            made.client.get_prompt, prompt, arguments
        ).model_dump(mode="json")
    return shown | {"instructions": made.client.instructions}


LISTS = ("tools", "prompts", "resources", "resource_templates")
PROMPTS = [
    *(("investigate", {"feature": one}) for one in ("12", "all of them", PAYLOADS[0], PAYLOADS[25])),
    ("investigate", {"feature": "3", "store": "seq"}),
    ("investigate", {"feature": "3", "store": PAYLOADS[0]}),
    ("sceptic", {"feature": PAYLOADS[33], "store": PAYLOADS[26]}),
    ("triage", {"n": PAYLOADS[43], "store": "gear"}),
]


def test_definitions_instructions_and_prompts_are_those_of_a_harmless_store(
    caller: Caller, clean_caller: Caller
) -> None:
    ours, theirs = offers(caller), offers(clean_caller)
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    assert "seq (6 features, kind sequence" in ours["instructions"]
    assert not MARK.search(json.dumps(ours["tools"]) + json.dumps(ours["instructions"]))
    digits = {prompt: json.dumps(ours[f"{prompt} {given}"]) for prompt, given in PROMPTS}
    assert not any(word in text for text in digits.values() for word in ("Ignore", "pwn", "evil"))


@pytest.mark.parametrize("tool", NAMES)
def test_a_wrong_call_is_refused_in_the_same_words_whatever_the_store_holds(
    tool: str, hostile: World, clean: World
) -> None:
    compared = 0
    for store in ("seq", "gear"):
        wrong = [
            "zzz nothing of the kind",
            "m9",
            "module=zzz",
            'module="zzz nothing of the kind"',
            'weapon="zzz nothing of the kind"',
            "weapon=bow",
            "lv3",
            "token:lv",
            "source=harm",
            "99999",
        ]
        for call in [
            *calls(hostile.tools[tool], store, {}, wrong, every=1),
            {"feature": 99},
            {"stroe": "seq"},
        ]:
            told = [refusal(made, tool, call) for made in (hostile, clean)]
            if told[0] is not None and told[1] is not None:
                # how many excerpts there are is the stores' own
                ours, theirs = (re.sub(r"in \d+ ", "in N ", one) for one in told if one)
                assert ours == theirs
                compared += 1
    assert compared >= 2


def refusal(made: World, tool: str, call: dict[str, Any]) -> str | None:
    try:
        made.ask(tool, **call)
    except SaeInterpError as error:
        return shown_error(error)
    return None


def test_resources_and_completions_show_nothing_unseen(caller: Caller, hostile: World) -> None:
    read = caller.portal.call
    uris = ["saeinterp://summary", f"saeinterp://evidence/{hostile.ids['evidence']}"]
    uris += [f"saeinterp://{store}/feature/{f}" for store in ("seq", "gear") for f in range(6)]
    for uri in uris:
        (content,) = read(caller.client.read_resource, uri).contents
        body = json.loads(content.text)  # type: ignore[union-attr]
        for path, text in leaves(body):
            breaks = path[-1] in ("notes", "text")
            assert hidden(text, breaks) == [], (uri, path)
            assert set(path) & QUOTES or not MARK.search(text), (uri, path, text)
    prompt = PromptReference(type="ref/prompt", name="investigate")
    feature = ResourceTemplateReference(type="ref/resource", uri="saeinterp://{store}/feature/{id}")
    for ref, names in (
        (prompt, ("store", "feature")),
        (feature, ("store", "feature", "family", "group", "by")),
    ):
        for name in names:
            for typed in ("", *PAYLOADS[24:36]):
                done = read(caller.client.complete, ref, {"name": name, "value": typed})
                assert [one for one in done.completion.values if hidden(one) or MARK.search(one)] == []


def test_the_labels_file_keeps_every_character_and_an_answer_escapes_it(hostile: World) -> None:
    with sqlite3.connect(hostile.labels) as file:
        kept = [row[0] for row in file.execute("SELECT notes FROM label_revisions WHERE revision = 1")]
        texts = [row[0] for row in file.execute("SELECT text FROM label_revisions WHERE revision = 1")]
        authors = {row[0] for row in file.execute("SELECT author FROM label_revisions WHERE revision = 1")}
    assert kept[: len(PAYLOADS)] == [f"{text}\n{text}" for text in PAYLOADS]
    assert texts[: len(PAYLOADS)] == [" ".join(text[:500].split()) for text in PAYLOADS]
    assert {text[:100] for text in PAYLOADS} <= authors
    shown = [
        label["notes"] for label in hostile.ask("label_get", feature=1, store="gear", limit=100)["labels"]
    ]
    assert any("\\u{1b}[31mpwn25\\u{1b}[0m\\u{1b}[2J\n\\u{1b}[31m" in one for one in shown)


def test_no_tool_takes_a_path_an_address_or_a_command(hostile: World) -> None:
    names = {name for entry in hostile.tools.values() for name in entry.input_schema["properties"]}
    assert names
    parts = {part for name in names for part in name.split("_")}
    assert not parts & {"path", "file", "folder", "url", "uri", "host", "command", "code", "pattern", "regex"}
