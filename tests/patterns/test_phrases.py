import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeinterp_mcp.patterns.phrases import holds, named, split_phrases, split_phrases_compat, terms
from saeinterp_mcp.patterns.words import stem


def texts(explanation: str) -> list[str]:
    phrases = split_phrases(explanation)
    assert [one.chunk_index for one in phrases] == list(range(len(phrases)))
    assert all(explanation[one.start : one.end] == one.text for one in phrases)
    return [one.text for one in phrases]


@pytest.mark.parametrize(
    ("explanation", "expected"),
    [
        ("Words about law, courts and judges.", ["Words about law", "courts", "judges"]),
        ("Cats AND dogs Or birds; but not fish", ["Cats", "dogs", "birds", "not fish"]),
        ("android, candor, butter", ["android", "candor", "butter"]),  # and, or, but inside words
        ("rock-and-roll music", ["rock-and-roll music"]),
        ('the token "a, b and c" in code', ['the token "a, b and c" in code']),
        ("the call `f(x, y) or z` alone", ["the call `f(x, y) or z` alone"]),
        ("“to be, or not to be” quoted", ["“to be, or not to be” quoted"]),
        ("names (Ann, Bob and Cy), places", ["names (Ann, Bob and Cy)", "places"]),
        ("nested (a, [b, c], d) stays", ["nested (a, [b, c], d) stays"]),
        ("numbers like 1,000 or 2.5", ["numbers like 1,000", "2.5"]),
        ("verbs, e.g. run, i.e. motion vs. rest", ["verbs", "e.g. run", "i.e. motion vs. rest"]),
        ("verbs, e.g., run", ["verbs", "e.g., run"]),
        ("colours, shapes etc. in art", ["colours", "shapes etc. in art"]),
        ("colours etc. Also shapes.", ["colours etc", "Also shapes"]),
        ("U.S. politics and J. S. Bach", ["U.S. politics", "J. S. Bach"]),
        ("First sentence. Second one! Third?", ["First sentence", "Second one", "Third"]),
        ("a list:\n- one thing\n* another\n3. a third", ["a list", "one thing", "another", "a third"]),
        ("the dogs' bowls, and don't stop", ["the dogs' bowls", "don't stop"]),
        ("an unclosed (bracket, and more", ["an unclosed (bracket", "more"]),
        ('an unclosed "quote, and more', ['an unclosed "quote', "more"]),
        ('5" pipes, 6" pipes', ['5" pipes', '6" pipes']),
        ("-ing endings, .py files, --flags, C++", ["-ing endings", ".py files", "--flags", "C++"]),
        ("self.foo and np.array calls", ["self.foo", "np.array calls"]),
        ('the quote """ alone', ['the quote """ alone']),
        ('"!"', ['"!"']),
        ("and, or; but.", []),
        (" … — ", []),
        ("", []),
    ],
)
def test_explanations_are_cut_where_one_claim_ends(explanation: str, expected: list[str]) -> None:
    assert texts(explanation) == expected


@pytest.mark.parametrize("opener", ["such as", "like", "including", "e.g.", "for example,", "namely:"])
def test_a_list_of_quoted_examples_is_one_phrase(opener: str) -> None:
    explanation = f"""animals {opener} "cat", 'dog', `cow` and "hen", also plants"""
    assert texts(explanation) == [f"""animals {opener} "cat", 'dog', `cow` and "hen\"""", "also plants"]


def test_a_list_of_quoted_texts_that_nothing_announces_is_cut() -> None:
    assert texts('the tokens "cat", "dog"') == ['the tokens "cat"', '"dog"']
    assert texts('such as cats, dogs and "hens"') == ["such as cats", "dogs", '"hens"']


def test_sentences_are_cut_at_their_ends_alone() -> None:
    found = split_phrases('Cats, e.g. "Tom. Or not", and dogs. Birds; U.S. law.', "sentence")
    assert [one.text for one in found] == ['Cats, e.g. "Tom. Or not", and dogs', "Birds", "U.S. law"]


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab ,.;andorbut()[]\"'`“”1\n-_"), max_size=80))
def test_phrases_are_true_to_the_text_and_lose_no_letter(text: str) -> None:
    check(text)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_breaks_the_splitter(text: str) -> None:
    check(text)
    split_phrases_compat(text)
    split_phrases_compat(text, "sentence")
    terms(text)


def check(text: str) -> None:
    phrases = split_phrases(text)
    end = 0
    for phrase in phrases:
        assert text[phrase.start : phrase.end] == phrase.text
        assert phrase.start >= end
        for cut in (text[end : phrase.start],):
            assert only_separators(cut)
        end = phrase.end
    assert only_separators(text[end:])


def only_separators(between: str) -> bool:
    """And, or, but, numbers of entries, and no letter else."""
    words = "".join(c if c.isalpha() else " " for c in between).split()
    return all(word.lower() in ("and", "or", "but") for word in words)


@pytest.mark.parametrize(
    "bad", ['"', "'", "`", "(", ")(", "a, ", "e.g. ", '"a", ', ".", "“", "```", "such as 'a', "]
)
def test_long_texts_take_time_in_proportion(bad: str) -> None:
    text = bad * (20_000 // len(bad))
    start = time.process_time()
    split_phrases(text)
    terms(text)
    assert time.process_time() - start < 2


def test_compat_cuts_everywhere_as_the_original_did() -> None:
    text = 'Words like "a, b" and (c or d), E And F.'
    cut = split_phrases_compat(text)
    assert [one.text for one in cut] == ['Words like "a', 'b"', "(c", "d)", "E And F."]
    assert all(text[one.start : one.end] == one.text for one in cut)
    assert [one.text for one in split_phrases_compat("One. Two; three! ", "sentence")] == [
        "One", "Two", "three",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        (("name", "names", "named", "naming"), "nam"),
        (("plan", "plans", "planned", "planning"), "plan"),
        (("call", "calls", "called", "calling"), "call"),
        (("class", "classes"), "class"),
        (("city", "cities"), "city"),
        (("quick", "quickly"), "quick"),
        (("string", "strings"), "string"),
        (("status",), "status"),
        (("king",), "king"),
    ],
)
def test_forms_of_a_word_meet(forms: tuple[str, ...], expected: str) -> None:
    assert {stem(form) for form in forms} == {expected}


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ('the word "self." alone', ('"self."', "alon")),
        ("'self.'", ('"self."',)),
        ("`x, y` or “z”", ('"x, y"', '"z"')),
        ("This feature activates on tokens about courts", ("court",)),
        ("words and patterns in the text", ()),
        ("getUserName in user_names", ("user", "nam")),
        ("GPUs, HTTPServer", ("gpu", "http", "server")),
        ("about 1,000 euros in 1999", ("1,000", "euro", "1999")),
        ("cafés naïfs", ("café", "naïf")),
        ('"cat," "dog" in a list', ('"cat"', '"dog"', "list")),
        ("a b c", ()),
        ("", ()),
    ],
)
def test_terms_are_what_a_phrase_names(phrase: str, expected: tuple[str, ...]) -> None:
    assert terms(phrase) == expected


def test_terms_are_shown_as_the_phrase_has_them() -> None:
    assert [(one.key, one.shown) for one in named('Running "Do" Runs')] == [
        ("run", "Running"),
        ('"Do"', '"Do"'),
    ]


@pytest.mark.parametrize(
    ("term", "text", "expected"),
    [
        ("import", "importing it", True),  # whole stemmed words
        ("port", "importing it", False),
        ("nam", "get_user_names()", True),
        ("nam", "getUserName()", True),
        ('"port"', "importing it", True),  # quoted: by letters
        ('"Port"', "importing it", False),
        ('"port"', "PORT 80", True),  # small letters stand for capitals
        ('"):"', "def f(x):", True),
        ('"\\n"', "a\nb", True),  # as explanations write it
        ('"⏎"', "a\nb", True),
        ('"""', "a", False),
        ("comma", "a, b", True),  # the name of a sign
        ("parenthesis", "f(x)", True),
        ("comma", "a; b", False),
    ],
)
def test_a_text_holds_words_whole_and_quotes_by_their_letters(term: str, text: str, expected: bool) -> None:
    assert holds(term, tuple(text.split(" ")), text) is expected


def test_a_quoted_token_is_found_as_it_stands_in_the_store() -> None:
    assert holds('"swim_speed"', ("swim_speed", "ink"), "ink, swim speed")
    assert holds('" ▁the "', ("▁the",), " the")
    assert not holds('"swim_sp"', ("swim_speed", "ink"), "ink, swim speed")
