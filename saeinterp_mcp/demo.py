"""What an agent sees: a real MCP client asks a real server, started as a child process, about one feature."""

import asyncio
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from saeinterp_mcp.config import shipped_bundle
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.faces.terminal import console, show
from saeinterp_mcp.store.open import open_store

if TYPE_CHECKING:
    from saeinterp_mcp.faces.mcp_client import Session

DEMO_FEATURE = 1631
"""Of the shipped pycode store: an opening round bracket (docs/demo-features.md). Each question finds something."""
MAX_ROWS = 12
"""Rows of each table that are printed; the agent gets all of them."""


def run_demo(store: Path, feature: int) -> None:
    """Ask about `feature`, print each call, its time and the answer, then how to add the server to Claude Code.

    Raises:
        BadInput: there is nothing at that place; the message says how to make the store.
        BadStore: there is something else.
    """
    place = store.expanduser().resolve()
    if not place.exists():
        raise BadInput(
            f"there is no store at {store}. Make the demo's store from the activations that are shipped: "
            f"saeinterp-pipeline import bundle {shlex.quote(str(shipped_bundle()))} --out {shlex.quote(str(store))}"
        )
    opened = open_store(place)
    opened.check_feature(feature)
    crossing = [family.name for family in opened.manifest.families if family.of_positions]
    asyncio.run(
        _ask([sys.executable, "-m", "saeinterp_mcp", "serve", "--store", str(place)], feature, crossing)
    )


async def _ask(command: list[str], feature: int, crossing: list[str]) -> None:
    """Ask all the questions.

    Args:
        command: starts the server.
        feature: to ask about.
        crossing: families of positions, which meet the levels of token families at one position.
    """
    from saeinterp_mcp.faces.mcp_client import open_client

    to = console(sys.stdout)
    async with open_client(command) as session:
        tools = await session.tools()
        to.print(Text(f"A host that starts the server is told:\n{session.instructions}\n"))
        to.print(Text(f"and finds {len(tools)} tools: {', '.join(tools)}.\n"))
        demo = _Demo(session, tools, to)
        status = await demo.call("store_status", {})
        await demo.call("features_search", {"limit": 5})
        overview = await demo.call("feature_overview", {"feature": feature})
        families = _families(status, overview)
        if families:
            await demo.call("family_sweep", {"feature": feature, "family": families[0]})
        if len(families) > 1:
            second = next((name for name in [*crossing, *families] if name != families[0]), families[1])
            pair = {"family_x": second, "family_y": families[0]}
            await demo.call("family_heatmap", {"feature": feature, **pair})
        if group := _group(status):
            await demo.call("group_sweep", {"feature": feature, "by": group, "limit": 8})
        await demo.call("decoder_influence", {"feature": feature, "limit": 5})
    to.print(Text("\nTo let Claude Code investigate, in a clone of the repository:", style="bold"))
    to.print(Text(f"claude --plugin-dir .    and there    /saeinterp:investigate {feature}"))
    to.print(Text("\nTo give it these tools alone:", style="bold"))
    to.print(Text(f"claude mcp add saeinterp -- {shlex.join(command)}"))


class _Demo:
    """Calls tools and prints what comes back."""

    def __init__(self, session: "Session", tools: list[str], to: Console) -> None:
        self.session, self.tools, self.to = session, tools, to

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a tool, if the server has it; an error is shown as an agent would read it."""
        if tool not in self.tools:
            return {}
        reply = await self.session.call(tool, arguments)
        asked = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        width = min(self.to.width, 100)
        self.to.print(
            Rule(Text(f"{tool}({asked})   {1000 * reply.seconds:.0f} ms"), align="left"), width=width
        )
        if reply.structured is None:
            self.to.print(Text(reply.text, style="red"))
        else:
            show(reply.structured, self.to, MAX_ROWS)
        self.to.print()
        return reply.structured or {}


def _families(status: Mapping[str, Any], overview: Mapping[str, Any]) -> list[str]:
    """The families to look at: those the feature goes with most, then the others of the store."""
    found = overview.get("families")
    shown: list[str] = []
    if isinstance(found, Mapping) and "family" in found.get("columns", []):
        at = found["columns"].index("family")
        shown = [row[at] for row in found["rows"]]
    stored = [family["name"] for store in status.get("stores", []) for family in store["families"]]
    return list(dict.fromkeys([*shown, *stored]))


def _group(status: Mapping[str, Any]) -> str | None:
    """The primary group, or the first."""
    groups = [group for store in status.get("stores", []) for group in store["groups"]]
    names = [group["name"] for group in sorted(groups, key=lambda g: not g.get("primary"))]
    return names[0] if names else None
