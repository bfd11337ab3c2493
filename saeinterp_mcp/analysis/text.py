"""Corpus text as it may be shown: control characters visible, marks that cannot be forged, lengths capped."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

MARK_OPEN, MARK_CLOSE = "<<", ">>"
_BYTE = re.compile(r"(?:<0x[0-9A-F]{2}>)+")
_WHITE = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
MAX_TOKEN = 80
_INVISIBLE = frozenset(
    chr(c)
    for first, last in (
        (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164, 0x3164),
        (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF), (0x2800, 0x2800),
    )
    for c in range(first, last + 1)
)  # fmt: skip
"""Letters and marks that Unicode draws as nothing (Default_Ignorable_Code_Point beyond category Cf): variation
selectors and fillers, in which text can be hidden; and the empty Braille pattern."""
MAX_SIDE = 500
"""Characters of an example that are shown on either side of its marked token, and of that."""
LINES = ("text", "notes")
"""Fields of labels and notes whose line breaks are kept."""


def visible(text: str) -> str:
    """Text with every control, format, invisible, surrogate or unassigned character spelled `\\u{...}`.

    Line breaks become ⏎, tabs ⇥. Tag characters, bidi overrides, zero width marks and ANSI escapes cannot act or hide.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_WHITE.get(c) or (c if _shown(c) else f"\\u{{{ord(c):x}}}") for c in text)


def _shown(character: str) -> bool:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return not hidden and character not in _INVISIBLE


def visible_lines(text: str) -> str:
    """The same, with its line breaks."""
    return "\n".join(visible(line) for line in text.split("\n"))


def visible_values(value: Any, name: str = "") -> Any:
    """Every string of a JSON value, keys too, as it may be shown: the last gate before a face, whatever came there."""
    if isinstance(value, str):
        return visible_lines(value) if name in LINES else visible(value)
    if isinstance(value, dict):
        return {visible(key): visible_values(part, key) for key, part in value.items()}
    return [visible_values(part) for part in value] if isinstance(value, list) else value


def visible_token(token: str) -> str:
    """A token for a table cell or a list."""
    text = visible(token[: MAX_TOKEN + 1])  # not all of it: to escape a million characters takes a second
    longer = max(len(text), len(token)) - MAX_TOKEN
    return f"{text[:MAX_TOKEN]}[+{longer} chars]" if longer > 0 else text


def shortened(text: str, room: int) -> str:
    """The text, or its beginning and how much is left out."""
    return text if len(text) <= room else f"{text[:room]}[+{len(text) - room} chars]"


def join_bytes(text: str) -> str:
    """Runs of `<0xE2>` bytes that make up UTF-8 together become their characters; the others stay."""

    def decoded(match: re.Match[str]) -> str:
        raw = bytes(int(h, 16) for h in re.findall(r"<0x(..)>", match.group()))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return match.group()

    return _BYTE.sub(decoded, text)


def sequence_text(tokens: Sequence[str], at: int, first: int, before: int, after: int) -> str:
    """Tokens around position `at`, that one marked `<<so>>`; marks in the corpus are spelled `‹‹` and `››`.

    So is a single `<` or `>` that touches a mark: which characters are marked can be read in one way only.

    Args:
        tokens: of the whole sample.
        at: the marked position.
        first: the first position that may be shown (BOS is left out).
        before: tokens shown before it.
        after: tokens shown after it.
    """
    start, stop = max(first, at - before), min(len(tokens), at + 1 + after)

    def plain(part: str) -> str:
        return visible(join_bytes(part)).replace(MARK_OPEN, "‹‹").replace(MARK_CLOSE, "››")

    head, marked, tail = "".join(tokens[start:at]), tokens[at], "".join(tokens[at + 1 : stop])
    left, right = start > first or len(head) > MAX_SIDE, stop < len(tokens) or len(tail) > MAX_SIDE
    rest = "…" if len(marked) > MAX_SIDE else ""
    head, marked, tail = plain(head[-MAX_SIDE:]), plain(marked[:MAX_SIDE]) + rest, plain(tail[:MAX_SIDE])
    if head.endswith("<"):
        head = head[:-1] + "‹"
    if marked.startswith("<"):
        marked = "‹" + marked[1:]
    if marked.endswith(">"):
        marked = marked[:-1] + "›"
    if tail.startswith(">"):
        tail = "›" + tail[1:]
    text = head + MARK_OPEN + marked + MARK_CLOSE + tail
    return ("…" if left else "") + text + ("…" if right else "")


def set_text(tokens: Sequence[str]) -> str:
    """The tokens of a set, in alphabetic order."""
    return shortened(", ".join(visible_token(t) for t in sorted(tokens)), 8 * MAX_SIDE)
