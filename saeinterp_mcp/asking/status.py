"""How runs stand, for reports and `store_status`: counted from the calls, so that it is right after any end."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from saeinterp_mcp.asking.runs import RunState, config_of, is_held, lock_path
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    import sqlite3

_SUMS = (
    "count(*), total(state = 'answered'), total(state = 'sent'), total(state = 'uncertain'), total(again), "
    "total(input_tokens), total(output_tokens), total(cached_tokens), total(written_tokens), total(usd), "
    "total(state = 'answered' AND usd IS NULL), total(state = 'answered' AND input_tokens IS NULL)"
)


class Taken(Frozen):
    """What calls took."""

    n_calls: int
    """Requests sent, each time one was sent."""
    n_answered: int
    """Those refused, truncated or invalid too: they were paid for."""
    n_under_way: int
    """Sent, or in a batch, without an answer yet; of a run that is interrupted they turn out uncertain."""
    n_uncertain: int
    """Sent, and no answer can come any more; they may have been paid for."""
    n_asked_again: int
    """Sent in place of an uncertain one."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    written_tokens: int
    n_without_usage: int
    """Answers of which the provider told no tokens: they are missing from the sums."""
    usd: float | None
    """Of answers; None if the price or usage of any is unknown."""


class FeatureCost(Taken):
    """Of one feature."""


class RunStatus(Taken):
    """One run."""

    run: str
    kind: str
    state: RunState
    why: str | None
    """Of one that is stopped or failed."""
    fingerprint: str
    """Of the store."""
    config: dict[str, Any]
    settings: dict[str, Any]
    n_total: int | None
    """Features."""
    n_done: int
    counts: dict[str, int]
    n_failed: dict[str, int]
    """Calls by reason to which no answer came, and why; and answers by outcome that were not what was asked for."""
    by_purpose: dict[str, Taken]
    """The same for each purpose."""
    seconds: float
    """Worked on, over all starts."""
    started_at: str
    changed_at: str


_RUN = (
    "SELECT run, kind, state, why, fingerprint, config, settings, n_total, n_done, counts, seconds, started_at, "
    "changed_at FROM runs"
)


def status_of(
    connection: "sqlite3.Connection", ledger: Path, by: Literal["store", "run"], value: str
) -> list[RunStatus]:
    """Runs of a store, or one of them; the newest first."""
    found = connection.execute(f"{_RUN} WHERE {by} = ? ORDER BY started_at DESC, run", (value,)).fetchall()
    return [_status(connection, ledger, row) for row in found]


def costs_of(connection: "sqlite3.Connection", run: str) -> dict[int, FeatureCost]:
    """Feature to what its calls took."""
    ask = f"SELECT feature, {_SUMS} FROM calls WHERE run = ? GROUP BY feature ORDER BY feature"
    return {row[0]: FeatureCost(**_taken(row[1:])) for row in connection.execute(ask, (run,))}


def _status(connection: "sqlite3.Connection", ledger: Path, row: tuple[Any, ...]) -> RunStatus:
    run, kind, state, why, fingerprint, config, settings, n_total, n_done, counts, *times = row
    if state == "running" and not is_held(lock_path(ledger, run)):
        state = "interrupted"
    asked = f"SELECT purpose, {_SUMS} FROM calls WHERE run = ? GROUP BY purpose ORDER BY purpose"
    by_purpose = {found[0]: found[1:] for found in connection.execute(asked, (run,))}
    sums = [sum(column) for column in zip(*by_purpose.values(), strict=True)] or [0] * 12
    return RunStatus(
        run=run,
        kind=kind,
        state=state,
        why=why,
        fingerprint=fingerprint,
        config=config_of(config),
        settings=config_of(settings),
        n_total=n_total,
        n_done=n_done,
        counts=config_of(counts),
        n_failed=_failures(connection, run),
        by_purpose={purpose: Taken(**_taken(found)) for purpose, found in by_purpose.items()},
        **dict(zip(("seconds", "started_at", "changed_at"), times, strict=True)),
        **_taken(sums),
    )


def _failures(connection: "sqlite3.Connection", run: str) -> dict[str, int]:
    ask = (
        "SELECT CASE WHEN state = 'failed' THEN coalesce(reason, 'no reason given') ELSE outcome END AS why, count(*) "
        "FROM calls WHERE run = ? AND (state = 'failed' OR (state = 'answered' AND outcome <> 'answered')) "
        "GROUP BY why ORDER BY count(*) DESC, why"
    )
    return dict(connection.execute(ask, (run,)).fetchall())


def _taken(sums: Any) -> dict[str, Any]:
    calls, answered, sent, uncertain, again, n_in, n_out, cached, written, usd, unpriced, untold = sums
    counts = {
        "n_calls": calls,
        "n_answered": answered,
        "n_under_way": sent,
        "n_uncertain": uncertain,
        "n_asked_again": again,
        "input_tokens": n_in,
        "output_tokens": n_out,
        "cached_tokens": cached,
        "written_tokens": written,
        "n_without_usage": untold,
    }
    return {**{name: int(value) for name, value in counts.items()}, "usd": None if unpriced else usd}
