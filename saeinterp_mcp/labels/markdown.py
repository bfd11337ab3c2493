"""Text that somebody else wrote, inside a Markdown document of ours: it reads as it is and makes no structure."""

import re

from saeinterp_mcp.analysis.text import visible

_SPECIAL = re.compile(r"[\\`*_\[\]<>&#|~${}]")
_LINE_START = re.compile(r"(?:[-+:=]|\d{1,9}[.)])")
_LINKED = re.compile(r"(?:@|://|(?<=www)\.|(?<=mailto):|(?<=xmpp):)+", re.IGNORECASE)
"""What makes renderers link bare addresses, escaped or not; inside a code span of its own it cannot."""


def inline(text: str) -> str:
    """A text in one line of Markdown; its line breaks are shown as ⏎."""
    shown = visible(text).strip()
    parts, done = [], 0
    for found in _LINKED.finditer(shown):
        parts += [_escaped(shown[done : found.start()]), f"`{found.group()}`"]
        done = found.end()
    line = "".join([*parts, _escaped(shown[done:])])
    start = _LINE_START.match(line)
    return f"{line[: start.end() - 1]}\\{line[start.end() - 1 :]}" if start else line


def quoted(text: str) -> list[str]:
    """A text as the lines of a block quote; its own line breaks stay, blanks at the start of a line too."""
    lines = text.split("\n")
    found = []
    for i, line in enumerate(lines):
        last = i + 1 == len(lines) or not lines[i + 1].strip()
        indent = "&nbsp;" * (len(line) - len(line.lstrip(" ")))
        words = inline(line)
        found.append(f"> {indent}{words}" + ("" if last else "\\") if words else ">")
    return found


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)
