"""Which feature is labelled next, and by whom: a feature is given to one worker at a time.

Features that somebody added come first, then an order that the caller computes. A claim is held for HELD_HOURS; after
that its worker is taken for dead and the feature returns to the queue. Each change is one transaction.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.database import LabelDatabase, now
from saeinterp_mcp.labels.records import QueueEntry, QueueState

if TYPE_CHECKING:
    import sqlite3

HELD_HOURS = 24
FIELDS = tuple(QueueEntry.model_fields)
_SELECT = f"SELECT {', '.join(FIELDS)} FROM queue WHERE store = ?"
_NEWEST = "SELECT max(r.id) FROM labels l JOIN label_revisions r ON r.label = l.id WHERE l.store = ? AND l.feature = ?"
Candidates = Callable[["sqlite3.Connection"], Sequence[int]]
"""Features that may be given, in their order, as the database stands."""


class Claim(NamedTuple):
    """What a worker was given."""

    feature: int | None
    """None when nothing is left."""
    before: QueueEntry | None
    """How it stood; None for one that the queue had not met."""
    remaining: int
    """Features that can be given after it."""


def claim(database: LabelDatabase, lineage: str, worker: str | None, candidates: Candidates) -> Claim:
    """Give the next feature to a worker: of those that were added the first, else of the candidates."""

    def write(connection: "sqlite3.Connection") -> Claim:
        waiting, computed = _left(connection, lineage, candidates)
        if not waiting and not computed:
            return Claim(None, None, 0)
        feature = (waiting or computed)[0]
        before = entry_of(connection, lineage, feature)
        values: dict[str, Any] = {"worker": worker, "revision": None}
        if not waiting:
            values["priority"] = None
        _change(connection, lineage, feature, "claimed", values)
        return Claim(feature, before, len(waiting) + len(computed) - 1)

    return database.write(write)


def remaining(database: LabelDatabase, lineage: str, candidates: Candidates) -> int:
    """How many features can be given."""

    def look(connection: "sqlite3.Connection") -> int:
        return sum(map(len, _left(connection, lineage, candidates)))

    return database.read(look, 0)


def add(
    database: LabelDatabase,
    lineage: str,
    feature: int,
    worker: str | None,
    reason: str | None = None,
    priority: float = 0,
) -> QueueEntry:
    """Put a feature first, also one that is labelled, done or skipped; higher priorities, then earlier ones, first.

    Raises:
        BadInput: somebody is at work on it.
    """

    def write(connection: "sqlite3.Connection") -> QueueEntry:
        before = entry_of(connection, lineage, feature)
        if before and _is_held(before):
            raise BadInput(
                f"feature {feature} is claimed since {before.changed_at}; it can be added again once it "
                "is done or skipped"
            )
        if before and before.state != "added":
            connection.execute("DELETE FROM queue WHERE store = ? AND feature = ?", (lineage, feature))
        why = reason or (before.reason if before else None)
        values = {"worker": worker, "reason": why, "priority": priority, "revision": None}
        return _change(connection, lineage, feature, "added", values)

    return database.write(write)


def skip(
    database: LabelDatabase, lineage: str, feature: int, worker: str | None, reason: str | None
) -> QueueEntry:
    """Leave a feature out until somebody adds it.

    Raises:
        BadInput: no reason is given, or another worker is at work on it.
    """
    if not (reason and reason.strip()):
        raise BadInput(f"to skip feature {feature} needs a reason, for those who wonder why it was left out")

    def write(connection: "sqlite3.Connection") -> QueueEntry:
        _check_mine(connection, lineage, feature, worker)
        return _change(connection, lineage, feature, "skipped", {"worker": worker, "reason": reason})

    return database.write(write)


def done(
    database: LabelDatabase, lineage: str, feature: int, worker: str | None, reason: str | None = None
) -> QueueEntry:
    """Count a feature as done, claimed or not.

    Raises:
        BadInput: another worker is at work on it.
    """

    def write(connection: "sqlite3.Connection") -> QueueEntry:
        _check_mine(connection, lineage, feature, worker)
        given = {"reason": reason} if reason else {}
        newest = connection.execute(_NEWEST, (lineage, feature)).fetchone()[0]
        return _change(connection, lineage, feature, "done", {"worker": worker, "revision": newest, **given})

    return database.write(write)


def complete(connection: "sqlite3.Connection", lineage: str, feature: int) -> None:
    """Whoever had claimed a feature is done: it was labelled. Inside a transaction, after the label was written."""
    connection.execute(
        f"UPDATE queue SET state = 'done', changed_at = ?, revision = ({_NEWEST}) "
        "WHERE store = ? AND feature = ? AND state = 'claimed'",
        (now(), lineage, feature, lineage, feature),
    )


def entry_of(connection: "sqlite3.Connection", lineage: str, feature: int) -> QueueEntry | None:
    """How a feature stands; None for one that the queue has not met."""
    row = connection.execute(f"{_SELECT} AND feature = ?", (lineage, feature)).fetchone()
    return QueueEntry(**dict(zip(FIELDS, row, strict=True))) if row else None


def done_features(connection: "sqlite3.Connection", lineage: str) -> dict[int, int]:
    """Features that are done to the newest revision of their labels then, 0 where they had none."""
    ask = "SELECT feature, coalesce(revision, 0) FROM queue WHERE store = ? AND state = 'done'"
    return {int(feature): int(revision) for feature, revision in connection.execute(ask, (lineage,))}


def count_states(connection: "sqlite3.Connection", lineage: str) -> dict[str, int]:
    """Features by state."""
    ask = "SELECT state, count(*) FROM queue WHERE store = ? GROUP BY state"
    return {str(state): int(n) for state, n in connection.execute(ask, (lineage,))}


def _left(
    connection: "sqlite3.Connection", lineage: str, candidates: Candidates
) -> tuple[list[int], list[int]]:
    """Features that can be given: those that were added, in their order, and the other candidates."""
    held_since = _hours_ago(HELD_HOURS)
    ask = (
        "SELECT feature FROM queue WHERE store = ? AND priority IS NOT NULL "
        "AND (state = 'added' OR (state = 'claimed' AND changed_at < ?)) ORDER BY priority DESC, id"
    )
    waiting = _features(connection, ask, lineage, held_since)
    taken = (
        "SELECT feature FROM queue WHERE store = ? "
        "AND (state = 'skipped' OR (state = 'claimed' AND changed_at >= ?))"
    )
    out = {*waiting, *_features(connection, taken, lineage, held_since)}
    return waiting, [feature for feature in candidates(connection) if feature not in out]


def _features(connection: "sqlite3.Connection", ask: str, *values: Any) -> list[int]:
    return [int(row[0]) for row in connection.execute(ask, values)]


def _change(
    connection: "sqlite3.Connection", lineage: str, feature: int, state: QueueState, values: dict[str, Any]
) -> QueueEntry:
    values = {**values, "state": state, "changed_at": now()}
    names: Collection[str] = values.keys()
    connection.execute(
        f"INSERT INTO queue (store, feature, {', '.join(names)}) VALUES (?, ?, {', '.join('?' * len(names))}) "
        f"ON CONFLICT (store, feature) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in names)}",
        (lineage, feature, *values.values()),
    )
    entry = entry_of(connection, lineage, feature)
    assert entry is not None, "it was just written"
    return entry


def _check_mine(connection: "sqlite3.Connection", lineage: str, feature: int, worker: str | None) -> None:
    """Who names himself may not put away what another, who named himself too, is at work on."""
    entry = entry_of(connection, lineage, feature)
    if entry and _is_held(entry) and worker and entry.worker and worker != entry.worker:
        raise BadInput(
            f"another worker claimed feature {feature} at {entry.changed_at}; leave worker out to put it away all the "
            "same"
        )


def _is_held(entry: QueueEntry) -> bool:
    return entry.state == "claimed" and entry.changed_at >= _hours_ago(HELD_HOURS)


def _hours_ago(hours: float) -> str:
    """In the form of `now()`, which sorts by time."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600 * hours))
