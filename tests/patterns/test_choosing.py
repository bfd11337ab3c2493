from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeinterp_mcp.patterns.choosing import (
    boundaries,
    choose_by_quantile,
    choose_by_quantile_compat,
    strongest_position,
    window_bounds,
    window_bounds_compat,
)

SIX_AND_TWO = np.array([5.0, 7, 5, 5, 5, 7, 5, 5], np.float32)


def test_ties_leave_no_bin_empty() -> None:
    chosen = choose_by_quantile(SIX_AND_TWO, np.arange(8), 4, 5, seed=0, feature=3)
    assert chosen.quantile.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(chosen.places.tolist()) == list(range(8))
    assert set(chosen.places[-2:].tolist()) == {1, 5}  # the two of 7.0 are the strongest bin


def test_ties_are_broken_by_what_names_the_prompts_and_not_by_their_order() -> None:
    tie = np.array([40, 10, 30, 20, 50, 60, 70, 80])
    whole = choose_by_quantile(np.full(8, 1.0), tie, 4, 1, seed=1, feature=0)
    back = choose_by_quantile(np.full(8, 1.0), tie[::-1], 4, 1, seed=1, feature=0)
    assert tie[whole.places].tolist() == tie[::-1][back.places].tolist()


def test_fewer_examples_than_quantiles_are_one_a_bin_from_the_weakest_on() -> None:
    chosen = choose_by_quantile(np.array([3.0, 1.0]), np.arange(2), 4, 5, seed=0, feature=0)
    assert (chosen.places.tolist(), chosen.quantile.tolist()) == ([1, 0], [0, 1])


def test_a_feature_that_never_fires_has_no_examples() -> None:
    chosen = choose_by_quantile(np.zeros(0), np.zeros(0, np.int64), 4, 5, seed=0, feature=0)
    assert (chosen.places.tolist(), chosen.quantile.tolist()) == ([], [])


def test_examples_are_spread_inside_their_bin() -> None:
    """Of a bin of 64, four are never nearer than 16 places, round its end."""
    strength = np.arange(64.0)
    for feature in range(50):
        places = np.sort(choose_by_quantile(strength, np.arange(64), 1, 4, seed=0, feature=feature).places)
        assert np.diff([*places, places[0] + 64]).tolist() == [16, 16, 16, 16]


def test_features_and_seeds_start_at_different_places() -> None:
    strength, tie = np.arange(100.0), np.arange(100)
    drawn = {
        (s, f): choose_by_quantile(strength, tie, 4, 1, seed=s, feature=f).places.tolist()
        for s in range(2)
        for f in range(20)
    }
    assert len({tuple(places) for places in drawn.values()}) > 30
    first = [places[0] for places in drawn.values()]
    assert 8 < np.mean(first) < 16, "the middle of the first bin is 12"


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=60),
    st.integers(1, 6),
    st.integers(1, 7),
    st.integers(0, 3),
)
def test_a_smaller_choice_is_part_of_a_larger_one(
    values: list[int], n_quantiles: int, per: int, seed: int
) -> None:
    strength, tie = np.array(values, np.float32), np.arange(len(values)) * 7
    small = choose_by_quantile(strength, tie, n_quantiles, per, seed, 5)
    large = choose_by_quantile(strength, tie, n_quantiles, per + 2, seed, 5)
    for q in range(n_quantiles):
        mine = small.places[small.quantile == q].tolist()
        assert mine == large.places[large.quantile == q].tolist()[: len(mine)]
        assert len(mine) == min(per, len(large.places[large.quantile == q]))
    assert len(set(small.places.tolist())) == len(small.places)
    assert small.quantile.tolist() == sorted(small.quantile.tolist())


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=40), st.integers(1, 6))
def test_bins_differ_in_size_by_one_at_most_and_are_in_order_of_strength(
    values: list[int], n_quantiles: int
) -> None:
    strength = np.array(values, np.float32)
    everything = choose_by_quantile(strength, np.arange(len(values)), n_quantiles, 99, 0, 0)
    sizes = Counter(everything.quantile.tolist())
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert sorted(everything.places.tolist()) == list(range(len(values)))
    bins = [strength[everything.places[everything.quantile == q]] for q in sorted(sizes)]
    assert all(low.max() <= high.min() for low, high in pairwise(bins))


def test_compat_empties_bins_by_ties_as_the_original_did() -> None:
    chosen = choose_by_quantile_compat(SIX_AND_TWO, 4, 9)
    assert chosen.quantile.tolist() == [0, 0, 0, 0, 0, 0, 3, 3]
    assert chosen.places.tolist() == [0, 2, 3, 4, 6, 7, 1, 5]


def test_compat_takes_the_strongest_of_each_bin() -> None:
    # boundaries of 0 .. 8 at 2, 4, 6; what lies on one is in the bin below
    chosen = choose_by_quantile_compat(np.arange(9.0), 4, 2)
    assert chosen.places.tolist() == [2, 1, 4, 3, 6, 5, 8, 7]
    assert chosen.quantile.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_compat_takes_all_of_fewer_than_quantiles() -> None:
    assert choose_by_quantile_compat(np.array([2.0, 9.0, 4.0]), 4, 1).places.tolist() == [0, 2, 1]


def test_boundaries_are_interpolated_quantiles_of_all_strengths() -> None:
    assert boundaries(np.array([1.0, 2, 3, 4, 5]), 4).tolist() == [2, 3, 4]
    assert boundaries(np.array([1.0, 2, 3, 4]), 4).tolist() == [1.75, 2.5, 3.25]
    assert boundaries(np.array([1.0, 2, 3]), 4).tolist() == []


@pytest.mark.parametrize(
    ("length", "at", "width", "expected"),
    [
        (100, 50, 32, (34, 66)),  # 16 before, 15 after
        (100, 50, 5, (48, 53)),
        (100, 0, 5, (0, 5)),  # shifted, not cut
        (100, 99, 5, (95, 100)),
        (100, 1, 32, (0, 32)),
        (20, 3, 32, (0, 20)),
        (5, 2, 5, (0, 5)),
    ],
)
def test_a_window_of_w_tokens_has_w_tokens(
    length: int, at: int, width: int, expected: tuple[int, int]
) -> None:
    assert window_bounds(length, at, width) == expected


@settings(deadline=None)
@given(st.integers(1, 200), st.data(), st.integers(1, 60))
def test_windows_hold_their_strongest_token(length: int, data: st.DataObject, width: int) -> None:
    at = data.draw(st.integers(0, length - 1))
    start, stop = window_bounds(length, at, width)
    assert 0 <= start <= at < stop <= length
    assert stop - start == min(width, length)


def test_compat_windows_lose_a_token_when_odd_and_shrink_at_the_ends() -> None:
    assert window_bounds_compat(100, 50, 32) == (34, 66)
    assert window_bounds_compat(100, 50, 5) == (48, 52)
    assert window_bounds_compat(100, 1, 5) == (0, 3)
    assert window_bounds_compat(100, 99, 5) == (97, 100)


def test_the_first_of_equal_positions_is_the_strongest() -> None:
    assert strongest_position([4, 9, 2], [1.0, 3.0, 3.0]) == 9
