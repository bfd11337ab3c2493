"""Versions: which states of a label or note have been in which database, so that files can be merged.

A version is `<revision>-<hash of the content>`, as `3-9f02c1aa04be`. A line of a file carries the versions it was
made from, oldest first, so that whoever reads it sees whether it goes on from what he has.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.labels.records import Label, Note

if TYPE_CHECKING:
    import sqlite3

VERSION = re.compile(r"[1-9][0-9]{0,8}-[0-9a-f]{12}")
_NOT_CONTENT = ("label_id", "note_id", "revision", "made_at")
_NOTHING = (None, "", False)


def content_hash(record: Label | Note) -> str:
    """Names what a record says, whenever and by which revision it came to say it; an empty field is a missing one."""
    said = {
        name: value
        for name, value in record.model_dump().items()
        if name not in _NOT_CONTENT
        and value != ()
        and not any(value is n or (value == n and isinstance(value, str)) for n in _NOTHING)
    }
    return fingerprint(said)[:12]


def version_of(record: Label | Note) -> str:
    """The version that a revision is."""
    return f"{record.revision}-{content_hash(record)}"


def revision_in(version: str) -> int:
    """The revision in a version."""
    return int(version.partition("-")[0])


def hash_in(version: str) -> str:
    """The content hash in a version."""
    return version.partition("-")[2]


def in_order(versions: Iterable[str]) -> list[str]:
    """By revision, then hash; each once."""
    return sorted(set(versions), key=lambda version: (revision_in(version), version))


def taken_versions(connection: "sqlite3.Connection", record_id: str) -> set[str]:
    """Versions that a label or note had, or took in, elsewhere."""
    found = connection.execute("SELECT version FROM taken_versions WHERE record = ?", (record_id,))
    return {str(row[0]) for row in found}


def all_taken(connection: "sqlite3.Connection") -> dict[str, list[str]]:
    """Record id to the versions it took in."""
    found: dict[str, list[str]] = {}
    for record_id, version in connection.execute("SELECT record, version FROM taken_versions"):
        found.setdefault(str(record_id), []).append(str(version))
    return found


def take(connection: "sqlite3.Connection", record_id: str, versions: Iterable[str]) -> None:
    """Remember versions from elsewhere."""
    insert = "INSERT OR IGNORE INTO taken_versions (record, version) VALUES (?, ?)"
    connection.executemany(insert, [(record_id, version) for version in versions])


def continues(based_on: Sequence[str], ours: str) -> bool:
    """Whether what was made from `based_on` goes on from ours: one of them, or with the same content as the last."""
    return ours in based_on or (bool(based_on) and hash_in(based_on[-1]) == hash_in(ours))
