"""How foreign text is quoted in rules and shown in messages: nothing invisible, carets under the spot."""

import re
import unicodedata

from saeinterp_mcp.errors import SaeInterpError

Span = tuple[int, int]
"""Where something stands in a text: the index of its first character, and the one after its last."""

_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    chr(c) for c in (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10))
}
"""Printable to Python, invisible to a reader; variation selectors among them."""
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_MEANING = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_CONTEXT = 60
"""Characters shown on either side of a spot, and the longest run of carets."""


class BadEscape(ValueError):
    """A quoted string that does not stand for a text; `span` counts from its opening quote."""

    def __init__(self, problem: str, span: Span) -> None:
        super().__init__(problem)
        self.span = span


def is_hidden(character: str) -> bool:
    """Whether a reader would not see it: controls, odd spaces, joiners, tags, variation selectors."""
    return not character.isprintable() or character in _BLANK_LETTERS or 0xE0000 <= ord(character) <= 0xE0FFF


def escaped(text: str) -> str:
    """The text with every hidden character written as an escape that rules understand."""
    return "".join(_escape(c) if is_hidden(c) else c for c in text)


def _escape(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character < "\u0100":
        return f"\\x{ord(character):02x}"
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def quoted(text: str) -> str:
    """The text as a quoted string of a rule; `unquoted` gives it back."""
    return '"' + escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def unquoted(string: str) -> str:
    r"""What a quoted string stands for.

    A character beyond U+FFFF may be escaped as JSON does it, as two `\uNNNN`.

    Raises:
        BadEscape: an escape that does not exist, or half of such a pair.
    """

    def meaning(match: re.Match[str]) -> str:
        code = match[1] or match[2]
        if code:
            return chr(int(code, 16))
        if match[3] in _MEANING:
            return _MEANING[match[3]]
        problem = f'{match[0]} is no escape; there are \\n, \\t, \\r, \\", \\\\, \\xNN and \\uNNNN'
        raise BadEscape(problem, (match.start() + 1, match.end() + 1))

    text = _ESCAPE.sub(meaning, string[1:-1])
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        problem = "half of a surrogate pair is no character; write both halves, as in \\ud83d\\ude42"
        raise BadEscape(problem, (0, len(string))) from None


def named(name: str) -> str:
    """A name from outside as messages show it: quoted, and cut when it is long."""
    return quoted(name if len(name) <= _CONTEXT else name[:_CONTEXT] + "...")


def placed(kind: type[SaeInterpError], problem: str, text: str, span: Span, *advice: str) -> SaeInterpError:
    """An error that says the problem, shows the text with carets under the spot, then gives advice."""
    return kind("\n".join([problem, point_at(text, span), *advice]))


def point_at(text: str, span: Span) -> str:
    """Two lines: the text around the spot, and carets under it with the column (from 1, in characters)."""
    start, end = span[0], min(max(span[1], span[0] + 1), span[0] + _CONTEXT)
    first, last = max(0, start - _CONTEXT), min(len(text), end + _CONTEXT)
    before = ("..." if first else "") + escaped(text[first:start])
    spot = escaped(text[start:end])
    after = escaped(text[end:last]) + ("..." if last < len(text) else "")
    carets = " " * _width(before) + "^" * max(1, _width(spot))
    return f"  {before}{spot}{after}\n  {carets} column {start + 1}"


def _width(text: str) -> int:
    """Columns of a terminal that the text takes."""
    zero = sum(unicodedata.category(c) in ("Mn", "Me") for c in text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) - zero + wide
