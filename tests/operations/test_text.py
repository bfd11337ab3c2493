"""Corpus text is shown whole and harmless: nothing in it can act, hide, or pass for our own marks."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeinterp_mcp.analysis.text import (
    MARK_CLOSE,
    MARK_OPEN,
    MAX_TOKEN,
    join_bytes,
    sequence_text,
    set_text,
    visible,
    visible_token,
)

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
ZERO_WIDTH = "\u00ad\u180e\u200b\u200c\u200d\u2060\ufeff"
TAGS = "".join(map(chr, range(0xE0000, 0xE0080)))
SELECTORS = "".join(map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]))
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
CONTROLS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
TRICKS = CONTROLS + BIDI + ZERO_WIDTH + TAGS + SELECTORS + FILLERS

hostile = st.text(
    st.one_of(
        st.characters(),  # any code point, lone surrogates too
        st.characters(categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"]),
        st.sampled_from(TRICKS),
        st.sampled_from("<>‹›…⏎\\u{}0xE2"),
    ),
    max_size=30,
)
byte = st.integers(0, 255).map(lambda b: f"<0x{b:02X}>")
tokens = st.lists(
    st.one_of(hostile, byte, st.sampled_from(["<", ">", "<<", ">>", "<0x", "E2>", "<0x3C>", "<0x3E>"])),
    min_size=1,
    max_size=12,
)


def assert_harmless(text: str) -> None:
    found = {c for c in text if unicodedata.category(c) in HIDDEN}
    assert not found, sorted(map(ascii, found))
    assert not set(text) & set(TRICKS)
    text.encode("utf-8")  # no lone surrogate


@given(hostile)
def test_visible_text_holds_nothing_that_acts_or_hides(text: str) -> None:
    assert_harmless(visible(text))


@given(hostile)
def test_a_visible_token_is_harmless_and_short(text: str) -> None:
    shown = visible_token(text)
    assert_harmless(shown)
    assert len(shown) <= MAX_TOKEN + len("[+9999 chars]")


@given(st.lists(hostile, max_size=6))
def test_the_text_of_a_set_is_harmless(words: list[str]) -> None:
    assert_harmless(set_text(words))


@given(tokens=tokens, data=st.data())
def test_the_text_of_a_sequence_is_harmless_and_marks_one_token(
    tokens: list[str], data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(tokens) - 1))
    at = data.draw(st.integers(first, len(tokens) - 1))
    text = sequence_text(tokens, at, first, data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4)))
    assert_harmless(text)
    assert text.count(MARK_OPEN) == text.count(MARK_CLOSE) == 1
    before, marked_and_after = text.split(MARK_OPEN)
    marked, after = marked_and_after.split(MARK_CLOSE)
    # and the split cannot be read another way
    assert not before.endswith("<")
    assert not marked.startswith("<")
    assert not marked.endswith(">")
    assert not after.startswith(">")


@pytest.mark.parametrize(
    "character", [*BIDI, *ZERO_WIDTH, *CONTROLS, *FILLERS, *"\u2028\u2029\ud800\ufe0f\U000e0041\U000e01ef"]
)
def test_every_known_trick_is_spelled_out(character: str) -> None:
    spelled = {"\n": "⏎", "\t": "⇥", "\r": "␍"}.get(character, f"\\u{{{ord(character):x}}}")
    assert visible(f"a{character}b") == f"a{spelled}b"


def test_an_escape_sequence_of_a_terminal_does_nothing() -> None:
    assert visible("\x1b[31mred\x1b[0m\x07") == r"\u{1b}[31mred\u{1b}[0m\u{7}"


def test_plain_text_is_left_as_it_is() -> None:
    text = "def naïve(x): return 'ありがとう' + \"π≈3\" \\ <ok>"
    assert visible(text) == text


@given(
    st.text(
        st.characters(
            exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"],
            exclude_characters=TRICKS,
            codec="utf-8",
        )
    )
)
def test_what_may_be_shown_is_shown_unchanged(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("tokens", "at", "expected"),
    [
        (["a", "b", "c"], 1, "a<<b>>c"),
        (["<<", "b", ">>"], 1, "‹‹<<b>>››"),
        (["<<<", "b", ">>>"], 1, "‹‹‹<<b>>››>"),
        (["if a ", "<", " b"], 1, "if a <<‹>> b"),
        (["x<<fake>>", "b"], 1, "x‹‹fake››<<b>>"),
        (["<", "<", "b", ">", ">"], 2, "‹‹<<b>>››"),
        (["a", "<b>", "c"], 1, "a<<‹b›>>c"),
        (["a<", "b", ">c"], 1, "a‹<<b>>›c"),
        (["<0x3C><0x3C>", "b", "<0x3E>", "<0x3E>"], 1, "‹‹<<b>>››"),
    ],
    ids=[
        "plain",
        "whole",
        "and one more",
        "a sign",
        "inside",
        "in pieces",
        "in the token",
        "beside the token",
        "as bytes",
    ],
)
def test_marks_in_the_corpus_cannot_pass_for_ours(tokens: list[str], at: int, expected: str) -> None:
    assert sequence_text(tokens, at, 0, 9, 9) == expected


def test_the_text_is_cut_with_dots_where_more_follows() -> None:
    words = ["<bos>", *"abcdefg"]
    assert sequence_text(words, 4, 1, 2, 1) == "…bc<<d>>e…"
    assert sequence_text(words, 1, 1, 9, 9) == "<<a>>bcdefg"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_bytes_of_whole_characters_are_joined(text: str) -> None:
    spelled = "".join(f"<0x{b:02X}>" for b in text.encode("utf-8"))
    assert join_bytes(f"a{spelled}b") == f"a{text}b"


@given(st.binary(min_size=1, max_size=6))
def test_bytes_that_are_no_text_stay_as_they_are(raw: bytes) -> None:
    spelled = "".join(f"<0x{b:02X}>" for b in raw)
    try:
        expected = raw.decode("utf-8")
    except UnicodeDecodeError:
        expected = spelled
    assert join_bytes(spelled) == expected


def test_bytes_split_over_tokens_are_joined_beside_the_mark() -> None:
    assert sequence_text(["<0xC3>", "<0xA9>", "x"], 2, 0, 9, 9) == "é<<x>>"
    # the mark keeps the bytes of one character apart: they stay spelled
    assert sequence_text(["<0xC3>", "<0xA9>", "x"], 1, 0, 9, 9) == "<0xC3><<‹0xA9›>>x"


def test_bytes_cannot_smuggle_a_control_character() -> None:
    assert sequence_text(["<0xE2><0x80><0xAE>", "x"], 1, 0, 9, 9) == r"\u{202e}<<x>>"
    assert sequence_text(["<0x1B>", "x"], 1, 0, 9, 9) == r"\u{1b}<<x>>"


def test_a_long_token_is_cut_and_says_by_how_much() -> None:
    assert visible_token("x" * 100) == "x" * 80 + "[+20 chars]"
    assert visible_token("x" * 80) == "x" * 80


def test_a_set_is_shown_in_alphabetic_order() -> None:
    assert set_text(["swim", "a\nb", "ninja"]) == "a⏎b, ninja, swim"
