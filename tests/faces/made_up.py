"""Operations that no store needs: for what the real ones do not do on demand."""

import threading
from typing import Annotated, Literal

from pydantic import Field

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.faces.arguments import Entry
from saeinterp_mcp.operations import Operation
from saeinterp_mcp.operations.base import Cursor, Limit, Result, TableResult, page, sealed
from saeinterp_mcp.store.base import Store

PNG = b"\x89PNG\r\n\x1a\nnot really"
_two_calls = threading.Barrier(2)


def broken(store: Store) -> Result:
    """A bug of ours."""
    raise RuntimeError("secret of the server")


def damaged(store: Store) -> Result:
    """A store that turns out damaged."""
    raise BadStore("/s/features", "12 bytes", "3", "Make the store again.")


def meeting(store: Store) -> Result:
    """Answers only when another call is being answered at the same time."""
    _two_calls.wait(timeout=60)
    return Result(operation="meeting", store=store.name, basis="observed", summary="met")


def long_list(store: Store, feature: int, limit: Limit = 100, cursor: Cursor = None) -> TableResult:
    """Rows of 1,000 characters, by pages."""
    rows, following, more = page([[i, "x" * 1000] for i in range(150)], limit, cursor, store, "long_list")
    return sealed(
        _table(store, feature, [list(row) for row in rows], following, more), store, {"limit": limit}
    )


def long_table(store: Store, feature: int) -> TableResult:
    """Rows of 1,000 characters, all at once."""
    return sealed(_table(store, feature, [[i, "x" * 1000] for i in range(50)], None, None), store, {})


def pictured(
    store: Store, feature: int, image: Annotated[bool, Field(description="Also a PNG")] = False
) -> TableResult:
    """A table with a picture."""
    return _table(store, feature, [[1, "a"]], None, None)


def many_kinds(
    store: Store,
    feature: Annotated[int, Field(ge=0, description="Feature index")],
    names: Annotated[list[str], Field(description="Names", min_length=1)],
    share: Annotated[float | None, Field(gt=0, le=1)] = None,
    which: Literal["one", "two"] = "one",
    exact: bool = False,
) -> Result:
    """What it answers.

    When to use it,
    in two lines.

    Raises:
        UnknownName: for programmers.
    """
    said = f"{feature} {names} {share} {which} {exact}"
    return Result(operation="many_kinds", store=store.name, basis="observed", summary=said)


def _table(
    store: Store, feature: int, rows: list[list[object]], following: str | None, more: int | None
) -> TableResult:
    table = {"columns": ["i", "text"], "rows": rows, "next_cursor": following, "more": more}
    return TableResult.model_validate(
        {
            "operation": "t",
            "store": store.name,
            "basis": "observed",
            "summary": "s",
            "feature": feature,
            **table,
        }
    )


def made_up_entries() -> list[Entry]:
    functions = (broken, damaged, meeting, long_list, long_table, many_kinds)
    operations = [Operation(f, f.__name__.replace("_", "-"), f"Title of {f.__name__}") for f in functions]
    operations.append(Operation(pictured, "made pictured", "Title of pictured", picture=lambda result: PNG))
    return [Entry(o, o.name, o.command, o.title) for o in operations]


def entry(name: str) -> Entry:
    return next(e for e in made_up_entries() if e.name == name)
