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
    *("made_at", "fingerprint", "auroc", "n_failed", "cost", "baseline"),
)


def judged_test(method: str, claim: str, judge: str, n: int, seed: int) -> str:
    """Names a test by a judge: the same words, judge and trials are the same test."""
    return fingerprint([method, claim, judge, n, seed])


def record_test(database: LabelDatabase, test: HeldoutTest) -> int:
    """Keep a test, once; how many different tests of that feature on that store there are now, this one included."""
    values = {**test.model_dump(), "made_at": now()}
    names = ", ".join(f'"{name}"' for name in values)
    slots = ", ".join(f":{name}" for name in values)
    insert = f"INSERT OR IGNORE INTO heldout_tests ({names}) VALUES ({slots})"

    def write(connection: "sqlite3.Connection") -> int:
        connection.execute(insert, values)
        return _count(connection, test.store, test.feature)

    return database.write(write)


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


def _count(connection: "sqlite3.Connection", lineage: str, feature: int) -> int:
    count = "SELECT count(DISTINCT test) FROM heldout_tests WHERE store = ? AND feature = ?"
    return int(connection.execute(count, (lineage, feature)).fetchone()[0])
