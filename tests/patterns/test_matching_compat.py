import numpy as np
import pytest

from saeinterp_mcp.patterns.matching_compat import (
    AlignedPhrase,
    CompatMatch,
    CompatMismatch,
    Context,
    compat_matching,
    compat_pattern,
)


def phrase(text: str, x: float, y: float, explainer: str = "one", index: int = 0) -> AlignedPhrase:
    return AlignedPhrase(text, explainer, index, np.array([x, y], np.float32))


LEXICAL = Context("king", np.array([[1.0, 0], [1, 0]], np.float32))
SEMANTIC = Context("semantic_context", np.array([[0.0, 1]], np.float32))


def test_thresholds_are_strict() -> None:
    assert compat_pattern(0.31, 0.31) == "both"
    assert compat_pattern(0.3, 0.31) == "lexical"
    assert compat_pattern(0.31, 0.3) == "semantic"
    assert compat_pattern(None, 0.1) == "none"


def test_nothing_tested_is_a_rate_of_zero_as_it_was() -> None:
    found = compat_matching("none", LEXICAL, SEMANTIC, [phrase("a", 1, 0)])
    assert (found.matches, found.mismatches, found.n_mismatches, found.rate) == ((), (), 0, 0.0)


def test_one_context_is_averaged_before_the_cosine() -> None:
    far_apart = Context("king", np.array([[1.0, 0], [0, 1]], np.float32))
    found = compat_matching("lexical", far_apart, None, [phrase("a", 1, 0)])
    assert found.matches[0].similarity == pytest.approx(0.5**0.5)


def test_a_phrase_that_both_tests_refuse_is_a_mismatch_twice() -> None:
    refused = phrase("b", -1, -1)
    found = compat_matching("both", LEXICAL, SEMANTIC, [phrase("a", 1, 0), refused])
    assert [one.phrase.text for one in found.matches] == ["a"]
    assert [(one.item, one.mismatch_type) for one in found.mismatches] == [
        ("b", "explanation_only"),
        ("b", "explanation_only"),
        ("semantic_context", "activation_only"),
    ]
    assert (found.n_mismatches, found.rate) == (2, 1 / 3)


def test_matches_of_both_kinds_are_one_with_the_higher_similarity() -> None:
    found = compat_matching("both", LEXICAL, SEMANTIC, [phrase("a", 0.6, 0.8)])
    match = found.matches[0]
    assert (len(found.matches), match.match) == (1, "both")
    assert match.similarity == pytest.approx(0.8)
    assert found.rate == 1


def test_phrases_of_one_text_are_one_match_and_several_mismatches() -> None:
    same = [phrase("a", 1, 0, index=0), phrase("a", 1, 0, index=3), phrase("a", 1, 0, explainer="two")]
    found = compat_matching("lexical", LEXICAL, None, same)
    assert found.matches == (CompatMatch(same[0], 1.0, "lexical"), CompatMatch(same[2], 1.0, "lexical"))
    none = compat_matching("lexical", LEXICAL, None, [one._replace(vector=-one.vector) for one in same])
    assert none.n_mismatches == 3
    assert none.mismatches[-1] == CompatMismatch("king", "ngram", "activation_only", None, None)


def test_a_context_without_windows_tests_nothing() -> None:
    empty = Context("semantic_context", np.zeros((0, 2), np.float32))
    assert compat_matching("semantic", None, empty, [phrase("a", 1, 0)]).mismatches == ()


def test_the_threshold_itself_matches() -> None:
    at = phrase("a", 0.5, 0.75**0.5)
    assert compat_matching("lexical", LEXICAL, None, [at], threshold=0.5).matches[0].similarity >= 0.5
    assert not compat_matching("lexical", LEXICAL, None, [phrase("a", 0, 1)], threshold=0.5).matches
