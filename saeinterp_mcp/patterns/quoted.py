"""Which stretches of an explanation belong together: quotes, backticks and brackets."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

LONGEST = 300
"""Characters that a quote may have: an apostrophe or a sign for inches must not swallow the rest of a text."""
_CURVED = {"“": "”", "„": "“”", "«": "»", "‹": "›", "「": "」", "『": "』", "‘": "’"}
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_BACKTICKS = re.compile(r"`{1,8}")


class Quote(NamedTuple):
    """A quoted stretch."""

    start: int
    """Of the mark that opens it."""
    end: int
    """After the mark that closes it."""
    inner: str
    """What is between the marks."""


def quotes(text: str) -> list[Quote]:
    """Quoted stretches, none inside another, in their order; a mark without its fellow within LONGEST is none."""
    closing = _closings(text)
    found: list[Quote] = []
    at = 0
    for opener in re.finditer("[\"'`“„«‹「『‘]", text):
        start = opener.start()
        if start < at or not _may_open(text, start):
            continue
        width, end = _close_of(text, start, closing)
        if end is not None and (inner := text[start + width : end]):
            found.append(Quote(start, end + width, inner))
            at = end + width
    return found


def _may_open(text: str, at: int) -> bool:
    """A straight mark right after a letter or digit is an apostrophe, feet or inches, or closes something."""
    mark, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if mark == '"':
        return not before.isalnum()
    if mark == "'":
        # ' s' in "the dogs' bowls" follows a letter; "'em" closes nowhere near, mostly
        return not before.isalnum() and before != "_" and bool(after) and not after.isspace()
    if mark == "‘":
        return not before.isalnum()
    return True


def _closings(text: str) -> dict[str, list[int]]:
    """Mark to the places where it may close."""
    found: dict[str, list[int]] = {}
    for match in re.finditer("[\"'”“»›」』’]", text):
        at, mark = match.start(), match.group()
        after = text[at + 1 : at + 2]
        if mark in "'’" and (after.isalnum() or after == "_"):
            continue  # don't
        found.setdefault(mark, []).append(at)
    for match in _BACKTICKS.finditer(text):
        found.setdefault(match.group(), []).append(match.start())
    return found


def _close_of(text: str, start: int, closing: dict[str, list[int]]) -> tuple[int, int | None]:
    """(characters of the mark, where the mark that closes it begins)."""
    mark = text[start]
    if mark == "`":
        run = _BACKTICKS.match(text, start)
        assert run is not None, "it begins with a backtick"
        mark = run.group()
        marks: str | tuple[str, ...] = (mark,)
    else:
        marks = tuple(_CURVED.get(mark, mark))
    first = start + len(mark)
    ends = []
    for one in marks:
        places = closing.get(one, [])
        i = bisect_left(places, first)
        if i < len(places) and places[i] - first <= LONGEST:
            ends.append(places[i])
    return len(mark), min(ends, default=None)


def brackets(text: str, quoted: list[Quote]) -> list[tuple[int, int]]:
    """(start, end) of bracketed stretches; brackets in quotes, and those without a fellow, are none."""
    starts = [one.start for one in quoted]
    open_: list[tuple[str, int]] = []
    pairs: list[tuple[int, int]] = []
    for match in re.finditer(r"[()\[\]{}]", text):
        at, mark = match.start(), match.group()
        i = bisect_right(starts, at) - 1
        if i >= 0 and at < quoted[i].end:
            continue
        if mark in _BRACKETS:
            open_.append((_BRACKETS[mark], at))
        elif open_ and open_[-1][0] == mark:
            pairs.append((open_.pop()[1], at + 1))
    return pairs


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans as one each where they overlap, ascending."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if not found or start >= found[-1][1]:
            found.append((start, end))
        else:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
    return found
