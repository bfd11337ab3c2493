"""An explanation in parts that claim one thing each, with their places in it, and what they name."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from saeinterp_mcp.patterns.quoted import Quote, brackets, merged, quotes
from saeinterp_mcp.patterns.records import Phrase
from saeinterp_mcp.patterns.words import SIGNS, STOP_STEMS, stems, words

_CUT = re.compile(
    r"(?P<comma>[,，、])|(?P<always>[;\n\r；。！？])|(?P<stop>[.!?]+(?=\s|$))"
    r"|(?<![\w'’-])(?:and|or|but)(?![\w'’-])",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?:^|(?<=\n))[ \t]*\d{1,3}[.)](?=\s)")
"""The number of an entry of a list."""
_ABBREVIATION = re.compile(
    r"(?:(?<![\w.])(?:e\.g|i\.e|eg|ie|vs|cf|ca|viz|approx|fig|eq|no|mr|mrs|ms|dr|prof|st|etc|al|inc|ltd|co|jr|sr)"
    r"|(?<!\w)[^\W\d_])$",
    re.IGNORECASE,
)
"""What a full stop may follow without ending a sentence; single letters are initials (U.S., J. S. Bach)."""
_MAY_END = re.compile(r"(?:etc|al|inc|ltd|co|jr|sr)$", re.IGNORECASE)
"""Abbreviations after which a capital letter begins the next sentence."""
_NO_COMMA = re.compile(r"(?<!\w)(?:(?:e\.g|i\.e|eg|ie)\.?|for example|for instance|namely)$", re.IGNORECASE)
_EXAMPLES = re.compile(
    r"\b(?:such as|like|including|for example|for instance|namely|e\.g\.?|i\.e\.?|eg)[\s,:]*$", re.IGNORECASE
)
_BETWEEN = re.compile(r"\s*(?:[,;/]\s*)?(?:(?:and|or)\s+)?", re.IGNORECASE)
"""All that stands between two quoted examples of one list."""
_BEFORE = 32
"""Characters that tell an abbreviation or "for instance" before a place."""
_OUTER = ",:;!?…—–，、；。！？"
_BULLETS = "-*•·.>#"


def split_phrases(text: str, method: Literal["phrase", "sentence"] = "phrase") -> tuple[Phrase, ...]:
    """Cut at commas, semicolons, ends of sentences and lines and the words and, or, but (in any case), but never inside
    quotes, backticks, brackets, numbers, abbreviations (e.g., i.e.) or lists of quoted examples ("such as", "like").

    `sentence` cuts at semicolons and the ends of sentences and lines only. Outer punctuation is not part of a phrase;
    what holds no letter, digit or quoted text is none.
    """
    quoted = quotes(text)
    kept = merged(
        [
            *((one.start, one.end) for one in quoted),
            *brackets(text, quoted),
            *_lists_of_examples(text, quoted),
        ]
    )
    cuts = sorted(
        [*_cuts(text, kept, method == "sentence"), *(match.span() for match in _NUMBERED.finditer(text))]
    )
    return _phrases(text, cuts, [one.start for one in quoted])


def split_phrases_compat(text: str, method: Literal["phrase", "sentence"] = "phrase") -> tuple[Phrase, ...]:
    """As SAE_vis cut: at every comma and the whole lower-case words and, or, but (`sentence`: at . ! ? ;)."""
    pattern = r",|\b(?:and|or|but)\b" if method == "phrase" else r"[.!?;]"
    found: list[Phrase] = []
    begin = 0
    for match in [*re.finditer(pattern, text), None]:
        end = match.start() if match else len(text)
        part = text[begin:end]
        start = begin + len(part) - len(part.lstrip())
        if stripped := part.strip():
            found.append(Phrase(stripped, start, start + len(stripped), len(found)))
        begin = match.end() if match else end
    return tuple(found)


def _lists_of_examples(text: str, quoted: Sequence[Quote]) -> Iterator[tuple[int, int]]:
    """(start, end) of every list of quoted examples that "such as", "like" and their kind announce."""
    end = 0
    for i, first in enumerate(quoted):
        if first.start < end or not _EXAMPLES.search(text[max(0, first.start - _BEFORE) : first.start]):
            continue
        end = first.end
        for one in quoted[i + 1 :]:
            if not _BETWEEN.fullmatch(text, end, one.start):
                break
            end = one.end
        yield first.start, end


def _cuts(text: str, kept: Sequence[tuple[int, int]], only_sentences: bool) -> Iterator[tuple[int, int]]:
    """(start, end) of what stands between phrases."""
    starts = [start for start, _ in kept]
    for match in _CUT.finditer(text):
        at = match.start()
        i = bisect_right(starts, at) - 1
        if i >= 0 and at < kept[i][1]:
            continue
        if only_sentences and not (match["stop"] or match["always"]):
            continue
        before = text[max(0, at - _BEFORE) : at]
        if match["comma"] and (_NO_COMMA.search(before) or _is_in_number(text, at)):
            continue
        if match["stop"] == "." and _is_abbreviated(before, text[match.end() : match.end() + 2]):
            continue
        yield match.span()


def _is_in_number(text: str, at: int) -> bool:
    return text[at - 1 : at].isdigit() and text[at + 1 : at + 2].isdigit()


def _is_abbreviated(before: str, after: str) -> bool:
    return bool(_ABBREVIATION.search(before)) and not (
        _MAY_END.search(before) and (not after.strip() or after[-1].isupper())
    )


def _phrases(text: str, cuts: Sequence[tuple[int, int]], quoted: Sequence[int]) -> tuple[Phrase, ...]:
    found: list[Phrase] = []
    begin = 0
    for cut, after in [*cuts, (len(text), len(text))]:
        start, end = _trimmed(text, begin, cut)
        i = bisect_right(quoted, end - 1) - 1
        if any(map(str.isalnum, text[start:end])) or (i >= 0 and quoted[i] >= start):
            found.append(Phrase(text[start:end], start, end, len(found)))
        begin = max(begin, after)
    return tuple(found)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without its outer punctuation; `-ing`, `.py` and `--flag` keep their marks, bullets do not."""
    while start < end and (
        text[start].isspace()
        or text[start] in _OUTER
        or (text[start] in _BULLETS and (start + 1 == end or text[start + 1].isspace()))
    ):
        start += 1
    while end > start and (
        text[end - 1].isspace()
        or text[end - 1] in _OUTER
        or text[end - 1] == "."
        or (text[end - 1] in _BULLETS and text[end - 2].isspace())
    ):
        end -= 1
    return start, end


class Term(NamedTuple):
    """What a phrase names."""

    key: str
    """A stem, or quoted text with straight double quotes around it."""
    shown: str
    """The word or the quoted text as the phrase has it."""


@lru_cache(maxsize=65_536)
def named(text: str) -> tuple[Term, ...]:
    """The terms of a text, each once, in its order."""
    found: dict[str, str] = {}
    at = 0
    for quote in [*quotes(text), None]:
        for key, written in words(text[at : quote.start if quote else len(text)]):
            if key not in STOP_STEMS:
                found.setdefault(key, written)
        if quote is not None:
            inner = _without_list_comma(quote, text)
            found.setdefault(f'"{inner}"', f'"{inner}"')
            at = quote.end
    return tuple(Term(key, shown) for key, shown in found.items())


def terms(text: str) -> tuple[str, ...]:
    """What a phrase names: its words (lower case, stemmed; stop words and words about features left out), and what
    stands in quotes or backticks, as it is written, with its quotes: `"self."` and `'self.'` become `"self."`."""
    return tuple(term.key for term in named(text))


def _without_list_comma(quote: Quote, text: str) -> str:
    """In `"cat," "dog"` the comma is the list's."""
    inner = quote.inner
    if (
        len(inner) > 1
        and inner[-1] == ","
        and inner[-2].isalnum()
        and text[quote.end : quote.end + 1].isspace()
    ):
        return inner[:-1]
    return inner


def is_literal(term: str) -> bool:
    """Whether a term is quoted text rather than a stem."""
    return len(term) > 2 and term[0] == term[-1] == '"'


@lru_cache(maxsize=65_536)
def spellings(literal: str) -> tuple[tuple[str, ...], bool]:
    """(what a text must hold one of, whether its capitals count) for a quoted term: `\\n`, as explanations write a line
    feed, stands for itself and for one; small letters stand for capitals too."""
    inner = literal[1:-1]
    read = inner.replace("\\n", "\n").replace("\\t", "\t").replace("⏎", "\n").replace("⇥", "\t")
    return (inner,) if read == inner else (inner, read), inner != inner.lower()


def holds(term: str, tokens: tuple[str, ...], text: str) -> bool:
    """Whether a text, made of tokens, holds a term: quoted ones by their letters or as one of its tokens, words whole
    and stemmed; the word for a sign (comma) stands for that sign too."""
    if not is_literal(term):
        return term in stems(text) or any(sign in text for sign in SIGNS.get(term, ()))
    wanted, exact = spellings(term)
    if not exact:
        tokens, text = tuple(token.lower() for token in tokens), text.lower()
    return any(one in text or one.strip() in {token.strip() for token in tokens} for one in wanted if one)
