"""The arithmetic of the search label, by hand and against scipy's distributions."""

import math

import numpy as np
import pytest
from scipy import stats

from saeinterp_mcp.analysis.search_words import (
    Found,
    Held,
    above_chance,
    chance_of,
    find_words,
    shrunken_log_odds,
    z_scores,
)


def held(*excerpts: str, units: list[int] | None = None) -> Held:
    """Excerpts that hold the words of a string, a word being a letter: a is 0, b is 1."""
    entry = [i for i, words in enumerate(excerpts) for _ in words]
    word = [ord(letter) - ord("a") for words in excerpts for letter in words]
    unit = np.array(units if units is not None else range(len(excerpts)), np.int64)
    return Held(len(excerpts), unit, np.array(entry, np.int64), np.array(word, np.int64))


def test_log_odds_are_those_of_the_paper_with_the_prior_of_all_excerpts() -> None:
    # a: 3 of 4 against 1 of 6; 4 of all 10, so a prior of max(.5, .4) with and .6 without
    difference = shrunken_log_odds(held("a", "a", "ab", "b"), held("a", "b", "b", "b", "b", "b"), 2)
    by_hand = math.log(3.5 / 1.6) - math.log(1.5 / 5.6)
    assert difference[0] == pytest.approx(by_hand)
    assert difference[1] < 0


def test_a_word_that_the_background_lacks_is_not_infinitely_likely() -> None:
    difference = shrunken_log_odds(held(*"aaaaa"), held(*["b"] * 4000), 2)
    assert difference[0] == pytest.approx(math.log(5.5 / 0.998751) - math.log(0.5 / 4000.998751), abs=1e-3)


def test_what_is_sure_is_the_root_of_the_likelihood_ratio_of_two_shares() -> None:
    firing, background = held(*["ab"] * 7, *["b"] * 5), held(*["a"] * 3, *["b"] * 30, *["c"] * 10)
    for word, (k, n, other, m) in enumerate([(7, 12, 3, 43), (12, 12, 30, 43), (0, 12, 10, 43)]):
        table = [[k, n - k], [other, m - other]]
        ratio = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
        sign = 1 if k / n > other / m else -1
        assert z_scores(firing, background, 3)[word] == pytest.approx(sign * math.sqrt(ratio))


def test_chance_is_the_tail_of_a_binomial() -> None:
    counts, chance = np.arange(11), np.full(11, 0.2)
    tail = stats.binom.sf(counts - 1, 10, 0.2)
    for level in (0.3, 0.05, 1e-4):
        expected = (tail <= level) & (counts >= 2)
        assert above_chance(counts, 10, chance, level).tolist() == expected.tolist()


def test_chance_is_that_of_excerpts_or_of_units_whichever_is_larger() -> None:
    # a stands in one of 4 excerpts, but fills one of 2 units; b in 3 of 4, half of the units
    background = held("a", "b", "b", "b", units=[0, 1, 1, 1])
    assert chance_of(background, 3).tolist() == pytest.approx([0.5, 4 / 5, 1 / 5])


def test_the_second_word_is_chosen_where_the_first_is_not() -> None:
    # b stands beside a, c where a does not
    firing = held(*["ab"] * 20, *["c"] * 10)
    background = held(*["a"] * 4, *["b"] * 8, *["c"] * 6, *["d"] * 400)
    found = find_words(firing, background, 4, 4, 0.05)
    assert [(f.word, f.n_firing, f.n_background) for f in found] == [(0, 20, 4), (2, 10, 6)]
    assert all(isinstance(f, Found) and f.log_odds > 0 for f in found)
    # of two as frequent in firing excerpts, the one that the background has less of
    common = held(*["a"] * 4, *["b"] * 40, *["d"] * 400)
    assert find_words(held(*["ab"] * 20, *["c"] * 10), common, 4, 1, 0.05)[0].word == 0
    assert find_words(firing, background, 4, 1, 0.05) == found[:1]


def test_nothing_is_found_where_there_is_nothing() -> None:
    background = held(*["a"] * 50, *["b"] * 50)
    assert find_words(held(*"ab" * 20), background, 2, 4, 0.05) == []
    assert find_words(held("c"), background, 3, 4, 0.05) == []
    assert find_words(held(), held(), 0, 4, 0.05) == []
    # a word in one excerpt is not two units, however rare
    assert find_words(held("c", "a", "b"), background, 3, 4, 1.0) == []
