"""OPERATIONS: the one list from which all faces are made."""

from collections.abc import Callable
from dataclasses import dataclass

from saeinterp_mcp.operations.base import Result
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.group_sweep import group_sweep


@dataclass(frozen=True)
class Operation:
    """A question, and how the faces name it.

    The function's first parameter is `store: Store`, or `stores: ServedStores` for a question about all of them; the
    others, with their `Annotated` types and defaults, are the arguments of every face. Its docstring is what an agent
    reads. It is plain and synchronous, returns a `Result`, and raises `SaeInterpError` for a caller's mistake.
    """

    function: Callable[..., Result]
    command: str
    """On the command line; two words make a subcommand."""
    title: str
    picture: Callable[[Result], bytes] | None = None
    """Draws a PNG of the result, when the call asks for it with `image`."""

    @property
    def name(self) -> str:
        """Of the MCP tool: the function's."""
        return self.function.__name__


OPERATIONS: tuple[Operation, ...] = (
    Operation(family_sweep, "family-sweep", "Sweep the levels of a family"),
    Operation(group_sweep, "group-sweep", "Compare groups"),
)
