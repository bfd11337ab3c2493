"""Blinded trial sets: what an agent was shown of the held-out units, so that it is graded once and sees none twice."""

import json
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.labels.database import LabelDatabase
from saeinterp_mcp.labels.heldout import insert_test
from saeinterp_mcp.labels.records import HeldoutTest, TrialSetRecord

if TYPE_CHECKING:
    import sqlite3

FIELDS = tuple(TrialSetRecord.model_fields)
_SELECT = f"SELECT {', '.join(FIELDS)} FROM trial_sets"


def keep_set(database: LabelDatabase, record: TrialSetRecord) -> TrialSetRecord:
    """Write down that a set is handed out; the record on file where it was handed out before."""
    values = {**record.model_dump(), "shown": canonical_json(record.shown), "made_at": _now()}
    insert = f"INSERT OR IGNORE INTO trial_sets ({', '.join(FIELDS)}) VALUES ({', '.join('?' * len(FIELDS))})"

    def write(connection: "sqlite3.Connection") -> TrialSetRecord:
        connection.execute(insert, tuple(values[name] for name in FIELDS))
        found = find_set(connection, record.store, record.trial_set)
        assert found is not None, "what was inserted is there"
        return found

    return database.write(write)


def find_set(connection: "sqlite3.Connection", lineage: str, trial_set: str) -> TrialSetRecord | None:
    """A set of a store that was handed out."""
    ask = f"{_SELECT} WHERE trial_set = ? AND store = ?"
    row = connection.execute(ask, (trial_set, lineage)).fetchone()
    return None if row is None else _record(row)


def sets_of(connection: "sqlite3.Connection", lineage: str, feature: int) -> list[TrialSetRecord]:
    """All that were handed out about a feature, of earlier generations too, oldest first."""
    ask = f"{_SELECT} WHERE store = ? AND feature = ? ORDER BY made_at, trial_set"
    return [_record(row) for row in connection.execute(ask, (lineage, feature))]


def known_since(connection: "sqlite3.Connection", lineage: str, feature: int, claim: str) -> str | None:
    """When the words of a claim first came on record (a label, a test, a trial set); None if they have not."""
    asks = (
        "SELECT min(r.made_at) FROM label_revisions r JOIN labels l ON l.id = r.label WHERE l.store = ?1 "
        "AND l.feature = ?2 AND r.text || coalesce(': ' || r.explanation, '') = ?3",
        "SELECT min(made_at) FROM heldout_tests WHERE store = ?1 AND feature = ?2 AND text = ?3",
        "SELECT min(made_at) FROM trial_sets WHERE store = ?1 AND feature = ?2 AND claim = ?3",
    )
    found = [connection.execute(ask, (lineage, feature, claim)).fetchone()[0] for ask in asks]
    return min((str(when) for when in found if when), default=None)


def shown_in_answers(
    connection: "sqlite3.Connection", lineage: str, feature: int, until: str | None
) -> set[int]:
    """Samples (rows of the input) that recorded answers showed with a feature's activation, of all units, by then."""
    ask = (
        "SELECT result FROM answers WHERE store = ? AND operation = 'feature_examples' AND "
        "json_extract(arguments, '$.feature') = ? AND json_extract(arguments, '$.split') = 'all' AND "
        "(?3 IS NULL OR made_at <= ?3)"
    )
    found: set[int] = set()
    for (packed,) in connection.execute(ask, (lineage, feature, until)):
        result = json.loads(zlib.decompress(packed))
        if "sample" in result.get("columns", ()):
            at = result["columns"].index("sample")
            found.update(int(row[at]) for row in result["rows"])
    return found


def keep_grade(database: LabelDatabase, trial_set: str, test: HeldoutTest) -> int:
    """Close a set and keep its test, both or neither; how many tests of that feature there are now.

    Raises:
        BadInput: somebody has closed it.
    """

    def write(connection: "sqlite3.Connection") -> int:
        close = "UPDATE trial_sets SET graded = ? WHERE trial_set = ? AND store = ? AND graded IS NULL"
        if not connection.execute(close, (test.evidence, trial_set, test.store)).rowcount:
            raise BadInput(graded_already(connection, find_set(connection, test.store, trial_set)))
        return insert_test(connection, test)

    return database.write(write)


def graded_already(connection: "sqlite3.Connection", record: TrialSetRecord | None) -> str:
    """What to tell somebody who answers a set again."""
    assert record is not None, "a set that is refused is on record"
    ask = "SELECT score, low, high FROM heldout_tests WHERE store = ? AND evidence = ?"
    row = connection.execute(ask, (record.store, record.graded)).fetchone()
    score = "too few answers for a score" if row is None or row[0] is None else f"score {row[0]:.3g}"
    if row is not None and row[1] is not None:
        score += f" [{row[1]:.3g}, {row[2]:.3g}]"
    return (
        f"trial set {record.trial_set} was graded already: {score} (evidence {record.graded}). A set is graded once, "
        "so that nobody can search for its answers; label_score with judge self and another seed hands out another one"
    )


def _record(row: tuple[object, ...]) -> TrialSetRecord:
    values = dict(zip(FIELDS, row, strict=True))
    return TrialSetRecord.model_validate({**values, "shown": json.loads(str(values["shown"]))})


def _now() -> str:
    """UTC, to the microsecond: of two sets it must be known which was first.

    Compared as text with a time to the second, it comes before the end of that second: a set and a label of one second
    are taken for a set that was seen before.
    """
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
