"""What other people's formats say beyond a label, kept in its notes so that it can be written again.

The last line of the notes then is `consolidated: {...}` or `neuronpedia: {...}`: fields of theirs that we have no
place for.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from saeinterp_mcp.labels.records import Label


def with_rest(notes: str | None, format_name: str, rest: Mapping[str, Any]) -> str | None:
    """Notes with a last line that holds what has no other place."""
    if not rest:
        return notes or None
    line = f"{format_name}: {json.dumps(rest, ensure_ascii=False, sort_keys=True)}"
    return f"{notes}\n{line}" if notes else line


def without_rest(notes: str | None, format_name: str) -> tuple[str | None, dict[str, Any]]:
    """(notes, what their last line holds)."""
    head, _, last = (notes or "").rpartition("\n")
    mark = f"{format_name}: "
    if last.startswith(mark):
        try:
            rest = json.loads(last.removeprefix(mark))
        except ValueError:
            rest = None
        if isinstance(rest, dict):
            return head or None, rest
    return notes or None, {}


def one_line(text: str) -> str:
    """Text without line breaks and runs of blanks, as labels have it."""
    return " ".join(text.split())


def utc(time: Any) -> str:
    """Somebody's ISO time as ours (a time without zone is taken for UTC); empty where it is none."""
    try:
        found = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        return ""
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return found.strftime("%Y-%m-%dT%H:%M:%SZ") if found.year >= 1000 else ""


def in_use(labels: list[Label]) -> list[Label]:
    """Those that other programs should show: not retired, not refuted."""
    return [label for label in labels if not label.retired and label.status != "refuted"]
