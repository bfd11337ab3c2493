from hypothesis import given, settings
from hypothesis import strategies as st

from saeinterp_mcp.patterns.spelling import Spelled, spell


def pieces(spelled: Spelled) -> list[str]:
    return [spelled.text[start:end] for start, end in spelled.spans]


def test_sentencepiece_marks_become_spaces() -> None:
    spelled = spell(["▁The", "▁arch", "itect", "ure", "."])
    assert spelled.text == " The architecture."
    assert pieces(spelled) == [" The", " arch", "itect", "ure", "."]


def test_byte_level_marks_become_spaces_and_line_feeds() -> None:
    spelled = spell(["def", "Ġfoo", "():", "Ċ", "ĠĠ", "Ġreturn"])
    assert spelled.text == "def foo():\n   return"
    assert pieces(spelled) == ["def", " foo", "():", "\n", "  ", " return"]


def test_a_letter_in_two_byte_level_tokens_is_in_the_span_of_both() -> None:
    # é is the bytes C3 A9, which GPT-2 spells Ã and ©
    spelled = spell(["Ġcaf", "Ã", "©", "s"])
    assert spelled == Spelled(" cafés", ((0, 4), (4, 5), (4, 5), (5, 6)))


def test_half_a_letter_at_the_end_of_a_window_is_a_replacement_character() -> None:
    assert spell(["Ġa", "Ã"]) == Spelled(" a�", ((0, 2), (2, 3)))
    assert spell(["Ġ", "Ã", "Ġb"]) == Spelled(" � b", ((0, 1), (1, 2), (2, 4)))


def test_special_tokens_stand_for_themselves_among_byte_level_ones() -> None:
    assert spell(["<｜end▁of▁text｜>", "Ġa"]).text == "<｜end▁of▁text｜> a"


def test_decoded_strings_are_left_as_they_are() -> None:
    assert spell([" il-", "Ġimgħa", " u", " Ċ"]).text == " il-Ġimgħa u Ċ"
    assert spell(["load ", "▁▂▃"]).text == "load ▁▂▃"
    assert spell(["Ã", "©"]).text == "Ã©"


def test_bytes_are_joined_and_belong_to_every_token_of_them() -> None:
    # ▁ itself is E2 96 81: joined bytes are text, and not a mark
    spelled = spell(["▁a", "<0xE2>", "<0x82>", "<0xAC>", "▁b"])
    assert spelled == Spelled(" a€ b", ((0, 2), (2, 3), (2, 3), (2, 3), (3, 5)))


def test_several_letters_in_bytes_have_a_place_each() -> None:
    spelled = spell(["<0xC3>", "<0xA9>", "<0xC3>", "<0xA8>x"])
    assert spelled == Spelled("éèx", ((0, 1), (0, 1), (1, 2), (1, 3)))


def test_bytes_that_make_no_letter_stay() -> None:
    assert spell(["▁a", "<0xE2>", "<0x82>"]).text == " a<0xE2><0x82>"


def test_a_set_is_written_in_alphabetic_order() -> None:
    spelled = spell(["swim_speed", "ink_saver", "ninja"], is_set=True)
    assert spelled.text == "ink saver, ninja, swim speed"
    assert pieces(spelled) == ["swim speed", "ink saver", "ninja"]


def test_nothing_is_spelled_as_nothing() -> None:
    assert spell([]) == Spelled("", ())
    assert spell([], is_set=True) == Spelled("", ())
    assert spell(["", "a", ""]) == Spelled("a", ((0, 0), (0, 1), (1, 1)))


TOKENS = st.lists(
    st.one_of(
        st.sampled_from(["▁", "Ġ", "Ċ", "<0xE2>", "<0x82>", "<0xAC>", "<0x0A>", "Ã", "©", " ", "", "<s>"]),
        st.text(max_size=4),
        st.text(alphabet="ĠĊÃ©âĤ¬abc", max_size=4),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(TOKENS, st.booleans())
def test_spans_lie_in_the_text_and_cover_it_in_order(tokens: list[str], is_set: bool) -> None:
    spelled = spell(tokens, is_set)
    assert len(spelled.spans) == len(tokens)
    assert all(0 <= start <= end <= len(spelled.text) for start, end in spelled.spans)
    if not is_set:
        assert list(spelled.spans) == sorted(spelled.spans)
        covered = {i for start, end in spelled.spans for i in range(start, end)}
        assert covered == set(range(len(spelled.text)))


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=5), max_size=8), st.integers(0, 3))
def test_byte_level_tokens_of_any_text_read_as_that_text(words: list[str], cut: int) -> None:
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in plain}
    table |= {byte: chr(256 + i) for i, byte in enumerate(byte for byte in range(256) if byte not in table)}
    text = " " + " ".join(words)
    raw = "".join(table[byte] for byte in text.encode("utf-8", "replace"))
    width = cut + 1
    tokens = [raw[i : i + width] for i in range(0, len(raw), width)]
    assert spell(tokens).text == text.encode("utf-8", "replace").decode()
