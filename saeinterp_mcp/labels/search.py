"""Labels and notes by their words (SQLite's FTS5)."""

import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import sqlite3

_WORD = re.compile(r"\w+")
MAX_WORDS = 16


def matching(
    connection: "sqlite3.Connection", kind: Literal["label", "note"], lineage: str, query: str
) -> list[int]:
    """Ids of rows of `labels` or `notes` whose newest revision holds all words of the query, best first.

    The last word may be the beginning of one. A query without a letter or digit is looked up as it stands.
    """
    table, words = f"{kind}s", f"{kind}_words"
    asked = _WORD.findall(query)[:MAX_WORDS]
    if not asked:
        column = "text"
        like = "%" + query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        found = connection.execute(
            f"SELECT t.id FROM {words} w JOIN {table} t ON t.id = w.rowid "
            f"WHERE w.{column} LIKE ? ESCAPE '\\' AND t.store = ? ORDER BY t.id",
            (like, lineage),
        )
    else:
        found = connection.execute(
            f"SELECT t.id FROM {words} w JOIN {table} t ON t.id = w.rowid "
            f"WHERE {words} MATCH ? AND t.store = ? ORDER BY rank, t.id",
            (" ".join(f'"{word}"' for word in asked) + "*", lineage),
        )
    return [int(row[0]) for row in found]


def index_words(
    connection: "sqlite3.Connection", kind: Literal["label", "note"], row: int, values: dict[str, str | None]
) -> None:
    """Make a row findable by these words alone; by none when `values` is empty."""
    connection.execute(f"DELETE FROM {kind}_words WHERE rowid = ?", (row,))
    if values:
        names = ", ".join(values)
        slots = ", ".join("?" * len(values))
        connection.execute(
            f"INSERT INTO {kind}_words (rowid, {names}) VALUES (?, {slots})", (row, *values.values())
        )
