"""Held-out tests: which claims were tried on data kept back, so that nobody forgets how often."""

from typing import TYPE_CHECKING

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.labels.database import LabelDatabase, now
from saeinterp_mcp.labels.records import HeldoutTest, Label, Score

if TYPE_CHECKING:
    import sqlite3

COLUMNS = (
    *("method", "score", "low", "high", "floor", "precision", "recall", "n", "judge", "evidence"),
    *("made_at", "fingerprint", "auroc", "n_failed", "cost", "baseline", "n_seen", "low_without_near_misses"),
)


def judged_test(method: str, claim: str, judge: str, n: int, seed: int) -> str:
    """Names a test by a judge: the same words, judge and trials are the same test."""
    return fingerprint([method, claim, judge, n, seed])


def record_test(database: LabelDatabase, test: HeldoutTest) -> int:
    """Keep a test, once; how many different tests of that feature on that store there are now, this one included."""
    return database.write(lambda connection: insert_test(connection, test))


def insert_test(connection: "sqlite3.Connection", test: HeldoutTest) -> int:
    """The same, inside a transaction."""
    values = {**test.model_dump(), "made_at": now()}
    names = ", ".join(f'"{name}"' for name in values)
    slots = ", ".join(f":{name}" for name in values)
    connection.execute(f"INSERT OR IGNORE INTO heldout_tests ({names}) VALUES ({slots})", values)
    return _count(connection, test.store, test.feature)


def n_tests(database: LabelDatabase, lineage: str, feature: int) -> int | None:
    """Different tests of a feature on a store's held-out split; None where the record cannot be read."""
    try:
        return database.read(lambda connection: _count(connection, lineage, feature), 0)
    except BadInput:
        return None


def scores_of(
    connection: "sqlite3.Connection", lineage: str, label: Label, scope: str | None
) -> tuple[Score, ...]:
    """The held-out tests of a label's very words or rule over all rows, oldest first.

    Args:
        connection: of the labels file.
        lineage: of the store.
        label: its rule in its normal form.
        scope: how its rule reads tokens, in the words of `Scoping.in_words`.
    """
    ask = (
        f"SELECT {', '.join(COLUMNS)}, json_extract(arguments, '$.min_n') FROM heldout_tests "
        'WHERE store = ? AND feature = ? AND "where" IS NULL '
        "AND ((method = 'rule' AND rule = ? AND scope IS ?) OR (text = ?)) ORDER BY id"
    )
    found = connection.execute(ask, (lineage, label.feature, label.rule, scope, label.claim))
    return tuple(Score.model_validate(dict(zip((*COLUMNS, "min_n"), row, strict=True))) for row in found)


def tests_of(database: LabelDatabase, lineage: str, feature: int) -> list[HeldoutTest]:
    """All held-out tests of a feature, oldest first."""
    names = tuple(HeldoutTest.model_fields)
    columns = ", ".join(f'"{name}"' for name in names)
    ask = f"SELECT {columns} FROM heldout_tests WHERE store = ? AND feature = ? ORDER BY id"

    def look(connection: "sqlite3.Connection") -> list[HeldoutTest]:
        found = connection.execute(ask, (lineage, feature))
        return [HeldoutTest.model_validate(dict(zip(names, row, strict=True))) for row in found]

    return database.read(look, [])


def _count(connection: "sqlite3.Connection", lineage: str, feature: int) -> int:
    """A trial set that was handed out and never graded is a look too: or only good answers would count."""
    count = (
        "SELECT (SELECT count(DISTINCT test) FROM heldout_tests WHERE store = ?1 AND feature = ?2) + "
        "(SELECT count(*) FROM trial_sets WHERE store = ?1 AND feature = ?2 AND graded IS NULL)"
    )
    return int(connection.execute(count, (lineage, feature)).fetchone()[0])
