"""Skills over MCP (SEP-2640): the list, one of them, and the files behind their digests."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from mcp import MCPError
from mcp.server import MCPServer
from mcp.types import INVALID_PARAMS, METHOD_NOT_FOUND, Request, RequestParams, Result, TextResourceContents
from pydantic import ConfigDict

from saeinterp_mcp.faces.skills import SkillsExtension, skills_extension
from tests.conftest import ROOT
from tests.faces.conftest import Caller, connected

EXTENSION = "io.modelcontextprotocol/skills"
NAMES = (
    "decoder", "interpret-loadouts", "investigate", "label-batch", "labeler", "overview", "runner", "sceptic", "triage",
)  # fmt: skip


class Loose(RequestParams):
    """Whatever a test sends."""

    model_config = ConfigDict(extra="allow")


class Anything(Result):
    """Whatever comes back."""

    model_config = ConfigDict(extra="allow")


class SkillsRequest(Request[Loose, Literal["skills/list", "skills/get"]]):
    """A request of the extension."""


def ask(caller: Caller, method: Literal["skills/list", "skills/get"], **params: str) -> dict[str, Any]:
    request = SkillsRequest(method=method, params=Loose.model_validate(params))
    result = caller.portal.call(caller.client.session.send_request, request, Anything)
    found: dict[str, Any] = result.model_dump(by_alias=True)
    return found


def read(caller: Caller, uri: str) -> TextResourceContents:
    (content,) = caller.portal.call(caller.client.read_resource, uri).contents
    assert isinstance(content, TextResourceContents)
    return content


@pytest.fixture(scope="module")
def host() -> Iterator[Caller]:
    yield from connected(MCPServer("test", extensions=[skills_extension()]))


def test_the_server_says_that_it_has_skills(host: Caller) -> None:
    assert host.client.server_capabilities.extensions == {EXTENSION: {}}


def test_the_nine_skills_are_listed_by_name_with_their_frontmatter_as_written(host: Caller) -> None:
    answer = ask(host, "skills/list")
    assert (answer["resultType"], answer["cacheScope"], answer["ttlMs"]) == ("complete", "public", 3_600_000)
    assert [skill["uri"] for skill in answer["skills"]] == [f"skill://{name}/SKILL.md" for name in NAMES]
    for skill, name in zip(answer["skills"], NAMES, strict=True):
        text = (ROOT / "skills" / name / "SKILL.md").read_text(encoding="utf-8")
        assert skill["frontmatter"] == yaml.safe_load(text.split("---\n")[1])


def test_a_skill_names_all_its_files_and_each_reads_as_its_digest_says(host: Caller) -> None:
    for name in NAMES:
        skill = ask(host, "skills/get", uri=f"skill://{name}/SKILL.md")["skill"]
        folder = ROOT / "skills" / name
        on_disk = {f"skill://{name}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.md")}
        assert {file["uri"] for file in skill["resources"]} == on_disk
        for file in skill["resources"]:
            content = read(host, file["uri"])
            data = content.text.encode("utf-8")
            assert content.mime_type == "text/markdown"
            assert file["size"] == len(data)
            assert file["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()


def test_one_skill_is_the_same_as_in_the_list(host: Caller) -> None:
    listed = ask(host, "skills/list")["skills"]
    assert [ask(host, "skills/get", uri=skill["uri"])["skill"] for skill in listed] == listed


def test_a_skill_is_an_ordinary_resource_under_its_own_name_for_hosts_without_the_extension(
    host: Caller,
) -> None:
    found = {resource.uri: resource for resource in host.portal.call(host.client.list_resources).resources}
    entry = found["skill://sceptic/SKILL.md"]
    assert entry.name == "sceptic"
    assert entry.description is not None
    assert entry.description.startswith("Try to break a claim")
    assert found["skill://investigate/references/wording.md"].name == "investigate/references/wording.md"


@pytest.mark.parametrize("uri", ["skill://nothing/SKILL.md", "skill://investigate", "../investigate", ""])
def test_an_unknown_skill_is_refused_with_those_that_there_are(host: Caller, uri: str) -> None:
    with pytest.raises(MCPError) as refused:
        ask(host, "skills/get", uri=uri)
    assert refused.value.error.code == INVALID_PARAMS
    names = ", ".join(f"skill://{name}/SKILL.md" for name in NAMES)
    assert refused.value.error.message == f"no such skill; these are served: {names}"


def test_a_cursor_is_refused_because_there_is_one_page(host: Caller) -> None:
    with pytest.raises(MCPError, match="knows no cursor"):
        ask(host, "skills/list", cursor="2")


def test_a_file_that_no_entry_lists_is_not_served(host: Caller) -> None:
    for uri in ("skill://investigate/references/../SKILL.md", "skill://investigate/references/none.md"):
        with pytest.raises(MCPError):
            read(host, uri)


def test_a_host_of_the_older_era_reads_the_files_and_is_told_that_the_method_is_not_there() -> None:
    for caller in connected(MCPServer("test", extensions=[skills_extension()]), "legacy"):
        assert read(caller, "skill://triage/SKILL.md").text.startswith("---\nname: triage\n")
        with pytest.raises(MCPError) as refused:
            ask(caller, "skills/list")
        assert refused.value.error.code == METHOD_NOT_FOUND


def test_hidden_files_and_caches_are_no_part_of_a_skill(tmp_path: Path) -> None:
    home = tmp_path / "small"
    for name in ("SKILL.md", "references/b.md", "references/.DS_Store", "__pycache__/x.pyc", ".git/config"):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("---\nname: small\ndescription: d\n---\n# é\r\n", encoding="utf-8", newline="")
    (tmp_path / "not-a-skill").mkdir()
    (skill,) = SkillsExtension(tmp_path).skills.values()
    assert [file.uri for file in skill.files] == ["skill://small/SKILL.md", "skill://small/references/b.md"]
    assert skill.entry["frontmatter"] == {"name": "small", "description": "d"}
    assert skill.entry["resources"][0]["size"] == len("---\nname: small\ndescription: d\n---\n# é\r\n") + 1
