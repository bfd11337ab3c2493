"""What a server offers beside its tools: resources, prompts, and completions of their arguments."""

import json
import re
from collections.abc import Callable
from typing import Any

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from saeinterp_mcp.config import shipped_text
from saeinterp_mcp.errors import NotInStore, SaeInterpError, UnknownName
from saeinterp_mcp.faces.answering import answer, shown_error
from saeinterp_mcp.faces.arguments import Entry
from saeinterp_mcp.operations.evidence_replay import whole_answer
from saeinterp_mcp.operations.features_search import feature_metrics
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.served import ServedStores

JSON = "application/json"
MAX_COMPLETIONS = 100
"""As the protocol says."""


def add_resources(server: MCPServer[Any], by_name: dict[str, Entry], stores: ServedStores) -> None:
    """What is served, a feature with its labels, and the whole answer behind an evidence id."""

    def ask(tool: str, **arguments: Any) -> dict[str, Any]:
        return answer(by_name[tool], stores, arguments).body

    if "store_status" in by_name:

        @server.resource("saeinterp://summary", name="summary", title="What is served", mime_type=JSON)
        async def summary() -> str:
            return await _read(lambda: ask("store_status"))

    if {"feature_overview", "label_get"} <= by_name.keys():

        @server.resource(
            "saeinterp://{store}/feature/{id}",
            name="feature",
            title="A feature and its labels",
            description="The overview of a feature in full, and its labels with evidence and scores",
            mime_type=JSON,
        )
        async def feature(store: str, id: str) -> str:
            def both() -> dict[str, Any]:
                if not id.isdecimal():
                    raise UnknownName(f"no feature {id!r}: a feature is a number")
                which = {"feature": int(id), "store": store}
                overview = ask("feature_overview", detail="detailed", **which)
                return {"overview": overview, "labels": ask("label_get", limit=100, **which)["labels"]}

            return await _read(both)

    @server.resource(
        "saeinterp://evidence/{id}",
        name="evidence",
        title="The answer behind an evidence id",
        description="The recorded call, asked again, with every row of its tables",
        mime_type=JSON,
    )
    async def evidence(id: str) -> str:
        return await _read(lambda: whole_answer(stores, id))


async def _read(ask: Callable[[], dict[str, Any]]) -> str:
    """JSON of what `ask` gives, in a worker thread; errors in our words."""
    try:
        return json.dumps(await anyio.to_thread.run_sync(ask), ensure_ascii=False)
    except (UnknownName, NotInStore) as error:
        raise ResourceNotFoundError(shown_error(error)) from error
    except SaeInterpError as error:
        raise ResourceError(shown_error(error)) from error


def add_prompts(server: MCPServer[Any], stores: ServedStores) -> None:
    """The wordings of `prompts/`, with names of served stores and numbers alone put in."""

    def filled(name: str, number: str, slot: str, store: str) -> str:
        where = f", store {store}" if store in stores.by_name else ""
        return shipped_text("prompts", f"{name}.md").format(**{slot: number, "store": where})

    @server.prompt(
        title="Investigate a feature", description="Find out what a feature means, and how sure that is"
    )
    def investigate(feature: str, store: str = "") -> str:
        return filled("investigate", _digits(feature), "feature", store)

    @server.prompt(
        title="Doubt a label",
        description="Try to refute what was concluded about a feature, then say what stands",
    )
    def sceptic(feature: str, store: str = "") -> str:
        return filled("sceptic", _digits(feature), "feature", store)

    @server.prompt(
        title="Sort features", description="Which features are worth an investigation, which are weak or dead"
    )
    def triage(n: str = "10", store: str = "") -> str:
        return filled("triage", _digits(n), "n", store)


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)[:9] or "?"


def add_completions(server: MCPServer[Any], stores: ServedStores) -> None:
    """Names of stores, families and groups, and features by importance, that begin as was typed."""

    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        named = (context.arguments or {}).get("store") if context else None
        names = await anyio.to_thread.run_sync(lambda: _names(stores, argument.name, named))
        if names is None:
            return None
        found = [name for name in names if name.lower().startswith(argument.value.lower())]
        shown = found[:MAX_COMPLETIONS]
        return Completion(values=shown, total=len(found), has_more=len(found) > len(shown))

    server.completion()(complete)  # type: ignore[no-untyped-call]


def _names(stores: ServedStores, argument: str, store: str | None) -> list[str] | None:
    """What an argument may be; None where that is unknown."""
    if argument == "store":
        return list(stores.by_name)
    asked = stores.by_name.get(store) if store else next(iter(stores.by_name.values()))
    if asked is None:
        return None
    if argument in ("family", "family_x", "family_y"):
        return list(asked.families)
    if argument in ("group", "by"):
        return list(asked.groups)
    return _features(asked) if argument in ("feature", "seed_feature", "id") else None


def _features(store: Store) -> list[str]:
    """The most important first; in order where nobody has counted them."""
    n = store.manifest.n_features
    if store.manifest.straight is not None:
        return [str(f) for f in range(n)]
    importance = feature_metrics(store, "explain")["importance"]
    return [str(f) for f in sorted(range(n), key=lambda f: (-importance[f], f))]
