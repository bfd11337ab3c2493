"""A checked call answered, the same for every face: the store picked, the answer recorded, its size capped."""

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from saeinterp_mcp.analysis.text import shortened, visible_lines, visible_values
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.faces.arguments import Entry
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.labels.evidence import record_answer
from saeinterp_mcp.labels.records import RecordedAnswer
from saeinterp_mcp.operations.base import MAX_CHARACTERS, Result
from saeinterp_mcp.store.served import ServedStores

LISTS = ("labels", "entries")
"""Fields of answers that are lists of records and come in pages."""
LONGEST = 300
"""Characters of a string in an answer that is too long in spite of all."""
MAX_ERROR, END_OF_ERROR = 2_000, 400
"""Characters of an error, and of its end, which says what to try, when there are more."""


class Answer(NamedTuple):
    """`body` is the answer as JSON values; `picture` a PNG, when one was asked for."""

    body: dict[str, Any]
    picture: bytes | None = None


def answer(
    entry: Entry,
    stores: ServedStores,
    given: Mapping[str, Any],
    who: Mapping[str, str | None] = MappingProxyType({}),
) -> Answer:
    """Check the arguments, ask the operation, record the answer, and cut what is too long.

    Args:
        entry: what is asked.
        stores: of whom.
        given: the arguments.
        who: `author` and `author_kind` of what is written, where the call does not say.

    Raises:
        SaeInterpError: the caller's mistake, or a damaged store.
    """
    arguments = {**entry.check(given), **entry.fixed}
    if entry.operation.writes:
        unsaid = {name: value for name, value in who.items() if arguments.get(name, value) is None}
        arguments |= {name: value for name, value in unsaid.items() if name in arguments}
    result, body = _within_cap(entry, stores, arguments)
    draw = entry.operation.picture
    return Answer(body, draw(result) if draw and arguments.get("image") else None)


def shown_error(error: Exception) -> str:
    """An error in words that no face has to fear: what it quotes made visible, and not too long."""
    text = visible_lines(str(error))
    left_out = len(text) - MAX_ERROR
    if left_out <= 0:
        return text
    return f"{text[: MAX_ERROR - END_OF_ERROR]}[+{left_out} chars]{text[-END_OF_ERROR:]}"


def _ask(entry: Entry, stores: ServedStores, arguments: dict[str, Any]) -> Result:
    rest = {name: value for name, value in arguments.items() if name != "store"}
    if entry.takes_all_stores:
        return entry.operation.function(stores, **rest, store=arguments["store"])
    return entry.operation.function(stores.pick(arguments["store"]), **rest)


def _record(entry: Entry, stores: ServedStores, arguments: dict[str, Any], result: Result) -> None:
    """Keep what was asked and answered, so that it can be cited and asked again."""
    if not entry.operation.is_evidence or not result.evidence:
        return
    several = entry.takes_all_stores and arguments["store"] is None
    about = list(stores.by_name.values()) if several else [stores.pick(arguments["store"])]
    left_out = ("image",) if entry.takes_all_stores else ("image", "store")
    recorded = RecordedAnswer(
        evidence=result.evidence,
        store=",".join(store.lineage for store in about),
        fingerprint=",".join(store.fingerprint for store in about),
        operation=entry.operation.name,
        arguments={name: value for name, value in arguments.items() if name not in left_out},
        digest=fingerprint(result.bare),
        result=result.bare,
    )
    for database in {store.labels.name: store.labels for store in about if store.labels}.values():
        try:
            record_answer(database, recorded)
        except BadInput as error:
            _say_once(str(error))


@lru_cache(maxsize=8)
def _say_once(error: str) -> None:
    logging.getLogger(__name__).warning("answers are not recorded, so labels cannot cite them: %s", error)


def _within_cap(
    entry: Entry, stores: ServedStores, arguments: dict[str, Any]
) -> tuple[Result, dict[str, Any]]:
    """The answer, and its body in at most MAX_CHARACTERS of JSON.

    A question with `limit` and `cursor` is asked again with a smaller limit, so that the cursor goes on at the first
    row left out. Otherwise rows are dropped from the end of the main table (then of named tables). The evidence stays
    that of the operation's own result, which the same call gives again.
    """
    result = _ask(entry, stores, arguments)
    body = _body(result)
    listed = next((name for name in LISTS if name in body), "rows")
    n_rows = len(body.get(listed, []))
    pages = {"limit", "cursor"} <= arguments.keys()
    while pages and (size := _size(body)) > MAX_CHARACTERS and len(body.get(listed, [])) > 1:
        n = len(body[listed])
        arguments = {**arguments, "limit": min(n - 1, max(1, int(0.95 * n * MAX_CHARACTERS / size)))}
        result = _ask(entry, stores, arguments)
        body = _body(result)
    _record(entry, stores, arguments, result)
    if pages and (shown := len(body.get(listed, []))) < n_rows:
        body["warnings"].append(
            f"cut to {shown} of {n_rows} {'rows' if listed == 'rows' else 'entries'} to keep the answer short; "
            "next_cursor continues"
        )
    if _size(body) > MAX_CHARACTERS:
        _drop_rows(body, entry.operation.is_evidence)
    if _size(body) > MAX_CHARACTERS:
        body = _shortened(body)
        body["warnings"].append(f"strings of more than {LONGEST} characters are cut to keep the answer short")
    return result, body


def _body(result: Result) -> dict[str, Any]:
    """The answer as JSON values, every string of it as it may be shown."""
    body: dict[str, Any] = visible_values(result.model_dump(mode="json"))
    return body


def _shortened(value: Any) -> Any:
    """A JSON value with its long strings cut, keys too."""
    if isinstance(value, dict):
        return {shortened(name, LONGEST): _shortened(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shortened(part) for part in value]
    return shortened(value, LONGEST) if isinstance(value, str) else value


def _drop_rows(body: dict[str, Any], is_evidence: bool) -> None:
    body["warnings"].append("")
    dropped = 0
    while _size(body) > MAX_CHARACTERS - 200 and (table := _longest_table(body)):
        n = max(1, len(table["rows"]) // 20)
        del table["rows"][-n:]
        dropped += n
        if table is body:
            body["more"] = (body.get("more") or 0) + n
    if not dropped:
        del body["warnings"][-1]
        return
    whole = (
        f", or read the whole table as resource saeinterp://evidence/{body['evidence']} (`saeinterp evidence show` at "
        "the shell)"
    )
    body["warnings"][-1] = (
        f"{dropped} rows left out to keep the answer short; narrow the question{whole if is_evidence else ''}"
    )


def _longest_table(body: dict[str, Any]) -> dict[str, Any] | None:
    """The main table while it has rows, then the named table with most characters."""
    if body.get("rows"):
        return body
    tables = [v for v in body.values() if isinstance(v, dict) and v.get("rows") and "columns" in v]
    return max(tables, key=_size, default=None)


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
