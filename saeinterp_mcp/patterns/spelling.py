"""Tokens become readable text, with the place of each token in it."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from saeinterp_mcp.analysis.text import join_bytes

Spans = tuple[tuple[int, int], ...]

WORD_MARK = "▁"
"""SentencePiece's space."""
_BYTE_MARKS = ("Ġ", "Ċ", "ĉ")
"""Byte-level BPE's space, line feed and tab."""
_BYTES = re.compile(r"(?:<0x[0-9A-F]{2}>)+")
_BYTE_LENGTH = len("<0xE2>")


class Spelled(NamedTuple):
    """A text and where its tokens are in it."""

    text: str
    spans: Spans
    """(first character, character after the last) of each token; a character that several tokens make up together is
    in the span of each."""


def spell(tokens: Sequence[str], is_set: bool = False) -> Spelled:
    """The text that tokens make up: SentencePiece's `▁` and byte-level BPE's `Ġ` are spaces, bytes are joined.

    Tokens of stores are decoded strings already and are put together as they are; those of a set are written in
    alphabetic order with `, ` between them and `_` as a space.
    """
    if is_set:
        return _spelled_set(tokens)
    whole = "".join(tokens)
    if any(mark in whole for mark in _BYTE_MARKS) and _is_byte_level(tokens):
        return _decoded(tokens)
    # in text that was decoded `▁` is a character like others, and there are spaces
    if WORD_MARK in whole and " " not in whole:
        whole = whole.replace(WORD_MARK, " ")
    ends = list(accumulate(map(len, tokens), initial=0))
    if "<0x" in whole:
        whole, ends, begins = _with_bytes_joined(whole, ends)
        return Spelled(whole, tuple(zip(begins[:-1], ends[1:], strict=True)))
    return Spelled(whole, tuple(pairwise(ends)))


def _spelled_set(tokens: Sequence[str]) -> Spelled:
    order = sorted(range(len(tokens)), key=lambda i: (tokens[i], i))
    spans, at = [(0, 0)] * len(tokens), 0
    for i in order:
        spans[i] = (at, at + len(tokens[i]))
        at += len(tokens[i]) + 2
    return Spelled(", ".join(tokens[i].replace("_", " ") for i in order), tuple(spans))


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """GPT-2's table: the character that stands for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _is_byte_level(tokens: Sequence[str]) -> bool:
    """Whether tokens are raw entries of a byte-level vocabulary: a mark begins one of them, and no character stands
    in any that such a vocabulary has not (white space above all; a Maltese text has `Ġ`, and spaces)."""
    if not any(token.startswith(_BYTE_MARKS) for token in tokens):
        return False
    return set().union(*(token for token in tokens if not _is_special(token))) <= _byte_of().keys()


def _is_special(token: str) -> bool:
    """`<|end|>` and its kind stand for themselves."""
    return len(token) > 2 and token[0] == "<" and token[-1] == ">"


def _decoded(tokens: Sequence[str]) -> Spelled:
    table = _byte_of()
    parts = [token.encode() if _is_special(token) else bytes(table[c] for c in token) for token in tokens]
    raw = b"".join(parts)
    text = raw.decode("utf-8", errors="replace")
    ends = list(accumulate(map(len, parts), initial=0))
    if len(text) == len(raw):
        return Spelled(text, tuple(pairwise(ends)))
    places = _characters_of(raw)
    spans = []
    for start, stop in pairwise(ends):
        first = places[start] if start < len(places) else len(text)
        spans.append((first, places[stop - 1] + 1 if stop > start else first))
    return Spelled(text, tuple(spans))


def _characters_of(raw: bytes) -> list[int]:
    """The index of the character, in the text that replaces what is no UTF-8, that each byte is part of."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    places: list[int] = []
    made, waiting = 0, 0
    for i in range(len(raw)):
        waiting += 1
        new = len(decoder.decode(raw[i : i + 1], final=i == len(raw) - 1))
        if new:
            # a byte that ends a bad run makes two characters: one for the run, one for itself
            places += [made] * (waiting - (new - 1)) + [made + 1 + j for j in range(new - 1)]
            made, waiting = made + new, 0
    return places


def _with_bytes_joined(text: str, ends: list[int]) -> tuple[str, list[int], list[int]]:
    """The text with runs of bytes joined, and the places of boundaries in it, as ends and as beginnings of tokens: a
    boundary inside a character is its end for the token before and its beginning for the one after."""
    parts: list[str] = []
    end_of: dict[int, int] = {}
    begin_of: dict[int, int] = {}
    wanted, made, done = set(ends), 0, 0

    def copy(stop: int) -> None:
        nonlocal made, done
        for at in range(done, stop):
            if at in wanted:
                end_of[at] = begin_of[at] = made + at - done
        parts.append(text[done:stop])
        made, done = made + stop - done, stop

    for match in _BYTES.finditer(text):
        joined = join_bytes(match.group())
        if joined == match.group():
            continue
        copy(match.start())
        lengths = [len(character.encode()) for character in joined]
        place_of = [i for i, length in enumerate(lengths) for _ in range(length)]
        starts = set(accumulate(lengths, initial=0))
        for at in range(done, match.end()):
            if at in wanted:
                byte = (at - done) // _BYTE_LENGTH
                begin_of[at] = made + place_of[byte]
                end_of[at] = made + place_of[byte] + (byte not in starts)
        parts.append(joined)
        made, done = made + len(joined), match.end()
    copy(len(text))
    end_of[len(text)] = begin_of[len(text)] = made
    return "".join(parts), [end_of[at] for at in ends], [begin_of[at] for at in ends]
