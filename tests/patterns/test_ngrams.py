from hypothesis import given, settings
from hypothesis import strategies as st

from saeinterp_mcp.patterns.ngrams import (
    char_ngrams,
    common_ngrams,
    core_of,
    jaccard,
    ngram_sets,
    word_ngrams,
)
from saeinterp_mcp.patterns.records import Ngram, Occurrence, Window
from tests.patterns.windows import window


def test_a_core_of_five_tokens_is_five_tokens() -> None:
    whole = window("a b c d e f g h", at=4, start=10)
    assert core_of(whole, 5, False) == whole._replace(tokens=(" c", " d", " e", " f", " g"), start=12, at=2)


def test_a_core_is_shifted_at_the_ends() -> None:
    assert core_of(window("a b c d e f g h", at=0, start=10), 5, False).tokens == (
        " a",
        " b",
        " c",
        " d",
        " e",
    )
    last = core_of(window("a b c d e f g h", at=7, start=10), 5, False)
    assert (last.tokens, last.start, last.at) == ((" d", " e", " f", " g", " h"), 13, 4)


def test_a_set_is_its_own_core() -> None:
    whole = Window(3, 0, 1.0, tuple("abcdefgh"), 0, 0)
    assert core_of(whole, 5, True) == whole


def test_character_ngrams_know_where_they_begin() -> None:
    assert char_ngrams("abab", 2) == {"ab": [0, 2], "ba": [1]}
    assert char_ngrams("ab", 3) == {}


def test_white_space_counts_as_one_space_and_is_no_ngram_alone() -> None:
    assert char_ngrams("a \n\t b", 2) == {"a ": [0], " b": [1]}
    assert char_ngrams(" \n ", 1) == {}


def test_word_ngrams_are_in_lower_case() -> None:
    text = "Don't stop, don't"
    assert word_ngrams(text, 1) == {"don't": [0, 12], "stop": [6]}
    assert word_ngrams(text, 2) == {"don't stop": [0], "stop don't": [6]}


@settings(deadline=None)
@given(st.text(alphabet="abC \n\t'’.é", max_size=20))
def test_sets_hold_the_ngrams_that_have_places(text: str) -> None:
    slow = [frozenset(char_ngrams(text, n)) for n in (1, 2, 4)] + [
        frozenset(word_ngrams(text, n)) for n in (1, 2)
    ]
    assert list(ngram_sets(text, (1, 2, 4), (1, 2))) == slow


def test_jaccard_of_two_empty_sets_is_not_known() -> None:
    assert jaccard(set(), set()) is None
    assert jaccard({"a"}, set()) == 0
    assert jaccard({"a", "b"}, frozenset({"b", "c"})) == 1 / 3


def test_the_ngram_that_most_windows_share_is_found_with_its_places() -> None:
    cores = [
        Window(7, 0, 1.0, (" the", " king", "dom"), 20, 1),
        Window(8, 0, 1.0, (" a", " King", "dom"), 40, 1),
        Window(9, 0, 1.0, (" two", " x"), 0, 0),
    ]
    found = {(one.kind, one.size): one for one in common_ngrams(cores, sizes=(4,))}
    # ingd, ngdo, gdom are each in two cores once: the first by its letters
    assert found["char", 4] == Ngram(
        "gdom", 4, "char", 2, 2, (Occurrence(7, (21,), ((8, 12),)), Occurrence(8, (41,), ((6, 10),)))
    )
    assert found["word", 1] == Ngram(
        "kingdom", 1, "word", 2, 2, (Occurrence(7, (21,), ((5, 12),)), Occurrence(8, (41,), ((3, 10),)))
    )
    assert ("word", 2) not in found, "no pair of words is in two cores"


def test_windows_count_before_repeats() -> None:
    cores = [window("aa aa aa zz"), window("zz zz", prompt=1), window("qq", prompt=2)]
    found = {(one.kind, one.size): one for one in common_ngrams(cores, sizes=(2,))}
    assert (found["char", 2].text, found["char", 2].n_windows, found["char", 2].n_occurrences) == (" z", 2, 3)
    assert (found["word", 1].text, found["word", 1].n_windows, found["word", 1].n_occurrences) == ("zz", 2, 3)
    assert found["word", 1].occurrences == (
        Occurrence(0, (3,), ((10, 12),)),
        Occurrence(1, (0, 1), ((1, 3), (4, 6))),
    )


def test_nothing_is_common_to_one_window() -> None:
    assert common_ngrams([window("alone here")]) == ()
    assert common_ngrams([]) == ()


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab \n", max_size=6), max_size=6), st.integers(2, 4))
def test_offsets_are_those_of_the_text(tokens: list[str], size: int) -> None:
    cores = [Window(0, 0, 1.0, tuple(tokens), 5, 0), Window(1, 0, 1.0, tuple(tokens), 9, 0)]
    text = "".join(tokens)
    for ngram in common_ngrams(cores, sizes=(size,)):
        assert ngram.n_windows == 2
        for place in ngram.occurrences:
            shift = {0: 5, 1: 9}[place.prompt]
            for position, (start, end) in zip(place.positions, place.offsets, strict=True):
                piece = text[start:end]
                assert " ".join(piece.lower().split()) == " ".join(ngram.text.lower().split())
                # the token that the place is said to be in
                before = len("".join(tokens[: position - shift]))
                assert before <= start < before + len(tokens[position - shift])
