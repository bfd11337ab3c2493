"""Questions, answers and each time one was sent: the statements about them. A call that is `sent` has no answer yet."""

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from saeinterp_mcp.asking.budget import Size, Spent, used
from saeinterp_mcp.asking.prices import Rate
from saeinterp_mcp.clients.base import Reply, Request, Usage
from saeinterp_mcp.labels.database import now

if TYPE_CHECKING:
    import sqlite3

CallState = Literal["sent", "answered", "failed", "uncertain"]
"""sent: under way, or in a batch; answered: refused, truncated and invalid too, as they were paid for; failed: no
answer came; uncertain: the process ended before one could come, so that it may have been paid for."""
MAYBE_PAID = ("timeout", "connection", "bad_answer")
"""Failures after which the provider may have done the work."""
MAX_DETAIL = 500


class Item(NamedTuple):
    """A question, and what it is asked for."""

    feature: int
    purpose: str
    """`explain`, `score:detection`, ...: reports count by it."""
    request: Request


class Call(NamedTuple):
    """One time that a question was sent."""

    call: int
    key: str
    run: str
    feature: int
    purpose: str
    batch: int | None
    state: CallState
    reason: str | None
    detail: str | None
    sent_at: str
    size: Size
    usage: Usage | None
    usd: float | None

    @property
    def may_be_paid(self) -> bool:
        """Whether it has no answer, and the provider may have charged for it."""
        return self.state == "uncertain" or (self.state == "failed" and self.reason in MAYBE_PAID)

    def worth(self, rate: Rate) -> Spent:
        """What it counts against a ceiling: what it took, where that is known; else at most what it may have."""
        batch = self.batch is not None
        if self.usage is not None:
            return used(self.usage, self.usd if self.usd is not None else rate.cost(self.usage, batch))
        if self.state == "failed" and not self.may_be_paid:
            return Spent(1)
        return self.size.worth(rate, batch)

    def as_reply(self) -> Reply:
        """Of one without an answer: what to tell the caller."""
        if self.state == "failed":
            return Reply(outcome="failed", reason=self.reason, detail=self.detail, usage=self.usage)
        words = f"sent at {self.sent_at} by {self.run}, and no answer is on record; it may have been paid for"
        return Reply(outcome="failed", reason="uncertain", detail=f"{words}, and is not to be repeated")


def worth(reply: Reply, size: Size, rate: Rate, batch: bool) -> Spent:
    """What a call with this reply counts against a ceiling; see `Call.worth`."""
    if reply.usage is not None:
        return used(reply.usage, rate.cost(reply.usage, batch))
    if reply.outcome == "failed" and reply.reason not in MAYBE_PAID:
        return Spent(1)
    return size.worth(rate, batch)


def price_of(reply: Reply, rate: Rate, batch: bool) -> float | None:
    """Dollars to write down: of a failure only where the provider told what it used."""
    return None if reply.outcome == "failed" and reply.usage is None else rate.cost(reply.usage, batch)


_CALL = (
    "SELECT id, key, run, feature, purpose, batch, state, reason, detail, sent_at, input_estimate, output_estimate, "
    "input_tokens, output_tokens, cached_tokens, written_tokens, usd FROM calls"
)


def reply_of(connection: "sqlite3.Connection", key: str) -> Reply | None:
    """The answer on record."""
    row = connection.execute("SELECT reply FROM requests WHERE key = ?", (key,)).fetchone()
    return None if row is None or row[0] is None else Reply.model_validate(unpacked(row[0]))


def request_of(connection: "sqlite3.Connection", key: str) -> Request | None:
    """The question on record."""
    row = connection.execute("SELECT request FROM requests WHERE key = ?", (key,)).fetchone()
    return None if row is None else Request.model_validate(unpacked(row[0]))


def newest_call(connection: "sqlite3.Connection", key: str) -> Call | None:
    """The last time that a question was sent."""
    row = connection.execute(f"{_CALL} WHERE key = ? ORDER BY id DESC LIMIT 1", (key,)).fetchone()
    return None if row is None else _call(row)


def calls_of_run(connection: "sqlite3.Connection", run: str) -> Iterator[Call]:
    """In the order of sending."""
    return map(_call, connection.execute(f"{_CALL} WHERE run = ? ORDER BY id", (run,)))


def calls_of_batch(connection: "sqlite3.Connection", batch: int) -> list[Call]:
    """In the order of sending."""
    return list(map(_call, connection.execute(f"{_CALL} WHERE batch = ? ORDER BY id", (batch,))))


def may_ask(connection: "sqlite3.Connection", key: str, never_repeat: bool) -> bool:
    """Whether a question may be sent: it has no answer, is not under way, and was not lost where that ends it."""
    if reply_of(connection, key) is not None:
        return False
    last = newest_call(connection, key)
    return last is None or not (last.state == "sent" or (never_repeat and last.may_be_paid))


def claim(
    connection: "sqlite3.Connection",
    run: str,
    client: str,
    key: str,
    item: Item,
    size: Size,
    never_repeat: bool,
    batch: int | None = None,
) -> int | None:
    """Write down that a question is about to be sent: the number of the call; None where it must not be."""
    if not may_ask(connection, key, never_repeat):
        return None
    last = newest_call(connection, key)
    if last is None:
        insert = "INSERT OR IGNORE INTO requests (key, client, request) VALUES (?, ?, ?)"
        connection.execute(insert, (key, client, packed(item.request.model_dump(mode="json"))))
    again = last is not None and last.state == "uncertain"
    done = connection.execute(
        "INSERT INTO calls (key, run, feature, purpose, batch, state, again, input_estimate, output_estimate, sent_at) "
        "VALUES (?, ?, ?, ?, ?, 'sent', ?, ?, ?, ?)",
        (key, run, item.feature, item.purpose, batch, again, *size, now()),
    )
    assert done.lastrowid is not None, "a row was inserted"
    return done.lastrowid


def settle(
    connection: "sqlite3.Connection",
    call: int,
    key: str,
    reply: Reply,
    usd: float | None,
    seconds: float | None,
) -> bool:
    """Write down what came of a call; one that is settled stays as it is. Whether anything changed."""
    state: CallState = "failed" if reply.outcome == "failed" else "answered"
    usage = reply.usage
    tokens = (
        (None,) * 4
        if usage is None
        else (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.written_tokens)
    )
    detail = reply.detail[:MAX_DETAIL] if reply.detail else None
    changed = connection.execute(
        "UPDATE calls SET state = ?, outcome = ?, reason = ?, detail = ?, input_tokens = ?, output_tokens = ?, "
        "cached_tokens = ?, written_tokens = ?, usd = ?, done_at = ?, seconds = ? "
        "WHERE id = ? AND state IN ('sent', 'uncertain')",
        (state, reply.outcome, reply.reason, detail, *tokens, usd, now(), seconds, call),
    ).rowcount
    if changed and state == "answered":
        whole = packed(reply.model_dump(mode="json", exclude_defaults=True))
        connection.execute("UPDATE requests SET reply = ? WHERE key = ?", (whole, key))
    return bool(changed)


def lose(connection: "sqlite3.Connection", where: str, value: str | int) -> None:
    """Calls that are under way and whose answer can no longer come are uncertain from now on."""
    connection.execute(
        f"UPDATE calls SET state = 'uncertain', done_at = ? WHERE state = 'sent' AND {where}", (now(), value)
    )


def answered(connection: "sqlite3.Connection", keys: Sequence[str]) -> set[str]:
    """Those that have an answer on record."""
    found = set[str]()
    for i in range(0, len(keys), 500):
        part = keys[i : i + 500]
        ask = f"SELECT key FROM requests WHERE reply IS NOT NULL AND key IN ({', '.join('?' * len(part))})"
        found.update(row[0] for row in connection.execute(ask, part))
    return found


def paid(connection: "sqlite3.Connection", keys: Sequence[str]) -> float | None:
    """Dollars for the answers to these questions; None if one of them is unknown. What was lost is not in it."""
    usd = 0.0
    for i in range(0, len(keys), 500):
        part = keys[i : i + 500]
        ask = (
            "SELECT total(usd), count(*) - count(usd) FROM calls WHERE state = 'answered' "
            f"AND key IN ({', '.join('?' * len(part))})"
        )
        known, n_unknown = connection.execute(ask, part).fetchone()
        if n_unknown:
            return None
        usd += known
    return usd


def spent_by_feature(calls: Iterable[Call], rate: Rate) -> dict[int, Spent]:
    """What calls count against ceilings."""
    spent = dict[int, Spent]()
    for call in calls:
        spent[call.feature] = spent.get(call.feature, Spent()).plus(call.worth(rate))
    return spent


def packed(value: Any) -> bytes:
    """Compressed JSON."""
    return zlib.compress(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii"), 1)


def unpacked(content: bytes) -> Any:
    """What was packed."""
    return json.loads(zlib.decompress(content))


def _call(row: Sequence[Any]) -> Call:
    usage = None
    if row[12] is not None:
        usage = Usage(
            input_tokens=row[12], output_tokens=row[13], cached_tokens=row[14], written_tokens=row[15]
        )
    return Call._make((*row[:10], Size(row[10], row[11]), usage, row[16]))
