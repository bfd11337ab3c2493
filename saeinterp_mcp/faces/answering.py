"""A checked call answered, the same for every face: the store picked, the size of the answer capped."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from saeinterp_mcp.faces.arguments import Entry
from saeinterp_mcp.operations.base import MAX_CHARACTERS, Result
from saeinterp_mcp.store.served import ServedStores


class Answer(NamedTuple):
    """`body` is the answer as JSON values; `picture` a PNG, when one was asked for."""

    body: dict[str, Any]
    picture: bytes | None = None


def answer(entry: Entry, stores: ServedStores, given: Mapping[str, Any]) -> Answer:
    """Check the arguments, ask the operation, and cut what is too long.

    Raises:
        SaeInterpError: the caller's mistake, or a damaged store.
    """
    arguments = {**entry.check(given), **entry.fixed}
    result = _ask(entry, stores, arguments)
    body = _within_cap(entry, stores, arguments, result)
    draw = entry.operation.picture
    return Answer(body, draw(result) if draw and arguments.get("image") else None)


def _ask(entry: Entry, stores: ServedStores, arguments: dict[str, Any]) -> Result:
    if entry.takes_all_stores:
        return entry.operation.function(stores, **arguments)
    rest = {name: value for name, value in arguments.items() if name != "store"}
    return entry.operation.function(stores.pick(arguments["store"]), **rest)


def _within_cap(
    entry: Entry, stores: ServedStores, arguments: dict[str, Any], result: Result
) -> dict[str, Any]:
    """The answer, in at most MAX_CHARACTERS of JSON.

    A question with `limit` and `cursor` is asked again with a smaller limit, so that the cursor goes on at the first
    row left out. Otherwise rows are dropped from the end of the main table (then of named tables). The evidence stays
    that of the operation's own result, which the same call gives again.
    """
    body = result.model_dump(mode="json")
    n_rows = len(body.get("rows", []))
    pages = {"limit", "cursor"} <= arguments.keys()
    while pages and (size := _size(body)) > MAX_CHARACTERS and len(body.get("rows", [])) > 1:
        limit = min(len(body["rows"]) - 1, max(1, int(0.95 * len(body["rows"]) * MAX_CHARACTERS / size)))
        body = _ask(entry, stores, {**arguments, "limit": limit}).model_dump(mode="json")
    if pages and (shown := len(body.get("rows", []))) < n_rows:
        body["warnings"].append(
            f"cut to {shown} of {n_rows} rows to keep the answer short; next_cursor continues"
        )
    if _size(body) > MAX_CHARACTERS:
        _drop_rows(body)
    return body


def _drop_rows(body: dict[str, Any]) -> None:
    body["warnings"].append("")
    dropped = 0
    while _size(body) > MAX_CHARACTERS - 200 and (table := _longest_table(body)):
        n = max(1, len(table["rows"]) // 20)
        del table["rows"][-n:]
        dropped += n
        if table is body:
            body["more"] = (body.get("more") or 0) + n
    body["warnings"][-1] = (
        f"{dropped} rows left out to keep the answer short; narrow the question to see them"
    )


def _longest_table(body: dict[str, Any]) -> dict[str, Any] | None:
    """The main table while it has rows, then the named table with most characters."""
    if body.get("rows"):
        return body
    tables = [v for v in body.values() if isinstance(v, dict) and v.get("rows") and "columns" in v]
    return max(tables, key=_size, default=None)


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
