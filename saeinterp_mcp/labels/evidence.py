"""The evidence ledger: every answer that was given, so that what cites it can be checked and asked again."""

import json
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.labels.database import LabelDatabase, now
from saeinterp_mcp.labels.records import RecordedAnswer

if TYPE_CHECKING:
    import re
    import sqlite3

FIELDS = tuple(RecordedAnswer.model_fields)
TOLD = "told"
"""In the result of an answer that came in a label file: its summary there, which nobody here has checked."""


def evidence_pattern() -> "re.Pattern[str]":
    """What an id looks like."""
    import re

    return re.compile(r"ev-[0-9a-f]{16}")


def record_answer(database: LabelDatabase, answer: RecordedAnswer) -> None:
    """Keep an answer, once: the same call of the same store has the same id."""
    values = answer.model_dump()
    values["arguments"] = canonical_json(answer.arguments)
    values["result"] = zlib.compress(json.dumps(answer.result, ensure_ascii=False).encode("utf-8"))
    values["made_at"] = now()
    insert = f"INSERT OR REPLACE INTO answers ({', '.join(FIELDS)}) VALUES ({', '.join('?' * len(FIELDS))})"
    known = recorded_answer(database, answer.evidence)
    if known is None or came_in_a_file(known):
        database.write(lambda c: c.execute(insert, tuple(values[name] for name in FIELDS)) and None)


def recorded_answer(database: LabelDatabase, evidence: str) -> RecordedAnswer | None:
    """What is on record under an id."""
    ask = f"SELECT {', '.join(FIELDS)} FROM answers WHERE evidence = ?"
    row = database.read(lambda c: c.execute(ask, (evidence,)).fetchone(), None)
    if row is None:
        return None
    values: dict[str, Any] = dict(zip(FIELDS, row, strict=True))
    values["arguments"] = json.loads(values["arguments"])
    values["result"] = json.loads(zlib.decompress(values["result"]))
    return RecordedAnswer.model_validate(values)


def only_told(store: str, basis: str, summary: str) -> dict[str, Any]:
    """The result of an answer of which a label file tells no more; its words are kept apart from ours."""
    ours = "It came in a label file, which holds the call and not the answer; replay it to see."
    return {"store": store, "basis": basis, "summary": ours, TOLD: summary}


def came_in_a_file(answer: RecordedAnswer) -> bool:
    """Whether only the call and the digest of the answer are here."""
    return TOLD in answer.result


def check_cited(connection: "sqlite3.Connection", lineage: str, cited: Sequence[str]) -> tuple[str, ...]:
    """The ids, each once, if all are on record for this store.

    Raises:
        BadInput: something that is no id.
        UnknownName: an id that no answer about this store had.
    """
    pattern = evidence_pattern()
    ids = tuple(dict.fromkeys(cited))
    if wrong := [one for one in ids if not pattern.fullmatch(one)]:
        raise BadInput(
            f"{wrong[0][:40]!r} is no evidence id; they look like ev-0123456789abcdef and stand in the field "
            "`evidence` of every answer"
        )
    for one in ids:
        row = connection.execute("SELECT store FROM answers WHERE evidence = ?", (one,)).fetchone()
        if row is None or lineage not in str(row[0]).split(","):
            why = "not on record" if row is None else "of another store"
            raise UnknownName(
                f"evidence {one} is {why}; cite the field `evidence` of answers that this server or shell gave about "
                "this store, with the same labels file"
            )
    return ids
