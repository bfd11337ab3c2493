"""What a client sees is the same in memory, over stdio and over HTTP, in both protocol eras."""

import http.client
import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from saeinterp_mcp.faces.answering import answer
from saeinterp_mcp.faces.arguments import entries
from saeinterp_mcp.store.served import ServedStores
from tests.faces.conftest import SERVER, Caller, run_cli, text_of

CALLS: dict[str, dict[str, Any]] = {
    "store_status": {},
    "features_search": {"limit": 3},
    "feature_overview": {"feature": 2},
    "feature_examples": {"feature": 0, "limit": 2},
    "family_sweep": {"feature": 0, "family": "fam"},
    "family_heatmap": {"feature": 0, "family_x": "fam", "family_y": "other", "scope": "before"},
    "group_sweep": {"feature": 0, "by": "module", "limit": 2},
    "similar_features": {"feature": 0},
    "test_rule": {"feature": 0, "rule": "family:fam>=1 and not token:t2"},
    "stability": {"feature": 0, "draws": 19},
}
"""A call that `seq` can answer. An operation that is not here is only checked to be listed."""


WRITES = {"test_rule", "label_score", "label_save", "label_delete", "note_save", "queue_next"}
GROWS = {"label_score", "label_save", "note_save", "queue_next"}


def test_every_operation_is_listed_with_its_schemas_and_as_reading_or_writing(caller: Caller) -> None:
    tools = {tool.name: tool for tool in caller.portal.call(caller.client.list_tools).tools}
    offered = {entry.name for entry in entries()} - {"weapon_sweep"}
    assert set(tools) == offered
    for tool in tools.values():
        hints = tool.annotations
        assert hints is not None
        assert hints.title == tool.title
        assert (hints.read_only_hint, hints.idempotent_hint) == (
            tool.name not in WRITES,
            tool.name not in GROWS,
        )
        assert (hints.destructive_hint, hints.open_world_hint) == (False, tool.name == "label_score")
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None


@pytest.mark.parametrize("tool", CALLS)
def test_a_call_gives_the_operations_result_and_a_short_text(caller: Caller, tool: str, seq: Path) -> None:
    entry = next(e for e in entries() if e.name == tool)
    result = caller.call(tool, **CALLS[tool])
    assert not result.is_error, text_of(result)
    assert result.structured_content == answer(entry, ServedStores.open([str(seq)]), CALLS[tool]).body
    assert result.structured_content["operation"] == tool
    assert text_of(result).startswith(result.structured_content["summary"])
    assert len(text_of(result)) / 3.5 <= 1500


def test_an_unknown_argument_is_refused_with_the_nearest_one(caller: Caller) -> None:
    assert caller.error("family_sweep", feature=0, famly="fam").startswith(
        "family_sweep has no argument 'famly' (did you mean 'family'?). Arguments: feature, family, scope"
    )


def test_a_bad_value_is_refused_in_one_line_without_links(caller: Caller) -> None:
    message = "family_sweep: min_n: Input should be greater than or equal to 1"
    assert caller.error("family_sweep", feature=0, family="fam", min_n=0) == message
    assert caller.error("family_sweep", feature=0) == "family_sweep: family: Field required"
    message = "family_sweep: feature: true is not a value it takes"
    assert caller.error("family_sweep", feature=True, family="fam") == message


def test_an_operations_error_reaches_the_client_whole(caller: Caller) -> None:
    message = "feature 99 is not in store 'seq', which has 0 to 3; features_search finds some"
    assert caller.error("family_sweep", feature=99, family="fam") == message


def test_the_command_line_prints_the_structured_content(caller: Caller, seq: Path) -> None:
    structured = caller.call("group_sweep", feature=0, by="module", where="not token:t2").structured_content
    printed = run_cli(
        "group-sweep", "0", "--by", "module", "--where", "not token:t2", "--store", str(seq), "--json"
    )
    assert printed.returncode == 0, printed.stderr
    assert printed.stderr == ""
    assert json.loads(printed.stdout) == structured
    assert printed.stdout == json.dumps(structured, ensure_ascii=False) + "\n"


def test_many_calls_at_once_get_their_own_answers(caller: Caller) -> None:
    async def all_at_once() -> list[Any]:
        found: list[Any] = [None] * 24

        async def one(i: int) -> None:
            result = await caller.client.call_tool("family_sweep", {"feature": i % 4, "family": "fam"})
            found[i] = result.structured_content

        async with anyio.create_task_group() as group:
            for i in range(24):
                group.start_soon(one, i)
        return found

    answers = caller.portal.call(all_at_once)
    alone = [caller.call("family_sweep", feature=i, family="fam").structured_content for i in range(4)]
    assert answers == [alone[i % 4] for i in range(24)]


def test_the_prompt_names_the_feature_and_only_tools_that_exist(caller: Caller) -> None:
    prompt = caller.portal.call(caller.client.get_prompt, "investigate", {"feature": "12"})
    text = prompt.messages[0].content.text  # type: ignore[union-attr]
    assert text.startswith(
        "Find out what feature 12 of the sparse autoencoder means, with the tools of this server."
    )
    assert "{" not in text


def test_the_summary_resource_is_the_status_as_json(caller: Caller) -> None:
    read = caller.portal.call(caller.client.read_resource, "saeinterp://summary")
    assert json.loads(read.contents[0].text) == caller.call("store_status").structured_content  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [("Host", "evil.example.com", 421), ("Origin", "http://evil.example.com", 403), ("Origin", "null", 403)],
)
def test_a_foreign_host_or_origin_is_turned_away(http_url: str, header: str, value: str, status: int) -> None:
    place = urlsplit(http_url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 0, timeout=30)
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        header: value,
    }
    connection.request("POST", place.path, json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}), headers)
    assert connection.getresponse().status == status
    connection.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com", "[::]"])
def test_only_loopback_is_served(host: str, seq: Path) -> None:
    done = run_cli("serve", "--store", str(seq), "--http", f"{host}:0")
    assert done.returncode == 2
    assert "only loopback (127.0.0.1, ::1, localhost) can be served" in done.stderr


def test_a_port_in_use_is_said_so(http_url: str, seq: Path) -> None:
    done = run_cli("serve", "--store", str(seq), "--http", urlsplit(http_url).netloc)
    assert done.returncode == 2
    assert "cannot be listened on" in done.stderr


def test_the_server_process_loads_neither_torch_nor_the_pipeline(seq: Path, tmp_path: Path) -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    messages: list[dict[str, Any]] = [
        {"method": "initialize", "id": 1, "params": hello},
        {"method": "notifications/initialized"},
    ]
    for i, (name, arguments) in enumerate(CALLS.items(), 2):
        messages.append({"method": "tools/call", "id": i, "params": {"name": name, "arguments": arguments}})
    command = [SERVER[0], "-X", "importtime", *SERVER[1:], "serve", "--store", str(seq)]
    log = tmp_path / "stderr"
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, stdin=-1, stdout=-1, stderr=stderr, encoding="utf-8") as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        for message in messages:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        server.stdin.flush()
        replies = [json.loads(server.stdout.readline()) for m in messages if "id" in m]
        server.stdin.close()
    lines = log.read_text(encoding="utf-8").splitlines()
    assert {reply["id"] for reply in replies} == {m["id"] for m in messages if "id" in m}
    loaded = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    assert "saeinterp_mcp.faces.mcp" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("torch", "transformers", "pipeline")}
