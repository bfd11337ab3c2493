"""Skills over MCP (SEP-2640): the folders of `skills/`, for hosts that ask a server how its tools are meant to be used.

`skills/list` and `skills/get` give a skill's frontmatter and all of its files with size and SHA-256; each file is a
resource `skill://NAME/PATH`, read like any other. A host that knows nothing of skills sees ordinary resources.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mcp import MCPError
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding, ResourceBinding
from mcp.server.mcpserver.resources import TextResource
from mcp.types import INVALID_PARAMS, PaginatedRequestParams, RequestParams
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from saeinterp_mcp.config import shipped_folder
from saeinterp_mcp.frozen import Frozen

ENTRY = "SKILL.md"
FRESH_MS = 3_600_000
"""How long a host may keep an answer: skills change with the installed version alone."""


class SkillFile(Frozen):
    """One file of a skill, as it is shipped."""

    uri: str
    content: bytes

    @property
    def listed(self) -> dict[str, Any]:
        """What an entry says of it."""
        digest = hashlib.sha256(self.content).hexdigest()
        return {"uri": self.uri, "digest": f"sha256:{digest}", "size": len(self.content)}


class Skill(Frozen):
    """A folder with a SKILL.md: what it is for, and all its files, SKILL.md first."""

    frontmatter: dict[str, Any]
    """As written, name and description among it."""
    files: tuple[SkillFile, ...]

    @property
    def uri(self) -> str:
        """Of its SKILL.md: what names it."""
        return self.files[0].uri

    @property
    def entry(self) -> dict[str, Any]:
        """As `skills/list` and `skills/get` give it."""
        listed = [file.listed for file in self.files]
        return {"uri": self.uri, "frontmatter": self.frontmatter, "resources": listed}


class GetSkillParams(RequestParams):
    """Of `skills/get`."""

    uri: str
    """Of a skill's SKILL.md."""


class SkillsExtension(Extension):
    """Serves the skills of one folder."""

    identifier = "io.modelcontextprotocol/skills"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def skills(self) -> dict[str, Skill]:
        """URI to skill, in the order of names; read once."""
        return {skill.uri: skill for skill in skills_in(self._folder)}

    def resources(self) -> Sequence[ResourceBinding]:
        """Every file of every skill."""
        return [
            ResourceBinding(_resource(skill, file)) for skill in self.skills.values() for file in skill.files
        ]

    def methods(self) -> Sequence[MethodBinding]:
        """The two that declaring the extension promises; only the modern era can declare it."""
        eras = frozenset(MODERN_PROTOCOL_VERSIONS)
        return [
            MethodBinding("skills/list", PaginatedRequestParams, self._list, eras),
            MethodBinding("skills/get", GetSkillParams, self._get, eras),
        ]

    async def _list(
        self, ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams
    ) -> HandlerResult:
        if params.cursor is not None:
            raise MCPError(INVALID_PARAMS, "skills/list gives all skills in one answer and knows no cursor")
        return _answer(skills=[skill.entry for skill in self.skills.values()])

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: GetSkillParams) -> HandlerResult:
        skill = self.skills.get(params.uri)
        if skill is None:
            raise MCPError(INVALID_PARAMS, f"no such skill; these are served: {', '.join(self.skills)}")
        return _answer(skill=skill.entry)


def skills_extension() -> SkillsExtension:
    """The skills that are shipped with the code, as an extension for `MCPServer(extensions=[...])`."""
    return SkillsExtension(shipped_folder("skills"))


def skills_in(folder: Path) -> Iterator[Skill]:
    """The skills of a folder: every subfolder that holds a SKILL.md, in the order of names."""
    for entry in sorted(folder.glob(f"*/{ENTRY}")):
        home = entry.parent
        others = [path for path in sorted(home.rglob("*")) if path != entry and _is_shipped(path, home)]
        files = [
            SkillFile(
                uri=f"skill://{home.name}/{path.relative_to(home).as_posix()}", content=path.read_bytes()
            )
            for path in (entry, *others)
        ]
        yield Skill(frontmatter=frontmatter_of(files[0].content.decode("utf-8")), files=tuple(files))


def frontmatter_of(text: str) -> dict[str, Any]:
    """The YAML between the first two lines of three hyphens."""
    import yaml  # only once a server with skills is built

    opening, _, rest = text.partition("\n")
    block, closing, _ = rest.partition("\n---\n")
    assert opening == "---", f"{ENTRY} begins with ---"
    assert closing, f"the frontmatter of {ENTRY} ends with ---"
    found = yaml.safe_load(block)
    assert isinstance(found, dict), f"the frontmatter of {ENTRY} is a mapping"
    return found


def _is_shipped(path: Path, home: Path) -> bool:
    return path.is_file() and not any(part.startswith((".", "__")) for part in path.relative_to(home).parts)


def _resource(skill: Skill, file: SkillFile) -> TextResource:
    """A file as a resource; SKILL.md under the name and description of its skill, as hosts show them."""
    name = str(skill.frontmatter["name"])
    is_entry = file.uri == skill.uri
    path = file.uri.removeprefix(f"skill://{name}/")
    return TextResource(
        uri=file.uri,
        name=name if is_entry else f"{name}/{path}",
        description=str(skill.frontmatter["description"]) if is_entry else f"{path} of the skill {name}",
        mime_type="text/markdown" if path.endswith(".md") else "text/plain",
        text=file.content.decode("utf-8"),
    )


def _answer(**found: Any) -> dict[str, Any]:
    return {"resultType": "complete", **found, "ttlMs": FRESH_MS, "cacheScope": "public"}
