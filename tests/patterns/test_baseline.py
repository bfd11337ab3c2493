import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeinterp_mcp.patterns.baseline import (
    above_by_chance,
    cut_group,
    nested_order,
    percentile_among,
    percentile_sorted,
)
from tests.patterns.windows import group, window


def test_ties_count_half() -> None:
    assert percentile_among(np.array([0.0] * 10 + [1] * 8 + [2] * 2), 1) == 100 * (10 + 4) / 20


def test_under_twenty_random_ones_there_is_no_percentile() -> None:
    assert percentile_among(np.zeros(19), 1) is None
    assert percentile_sorted(np.zeros(19), 1) is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=20, max_size=60), st.integers(-1, 6))
def test_the_sorted_way_gives_the_same(values: list[int], value: int) -> None:
    array = np.array(values, float)
    assert percentile_sorted(np.sort(array), value) == pytest.approx(percentile_among(array, value))


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=21, max_size=21), min_size=1, max_size=4),
    st.sampled_from([50.0, 80, 90, 95, 99.9]),
)
def test_each_random_one_is_judged_against_the_others(rows: list[list[int]], percentile: float) -> None:
    values = np.array(rows, float)
    slow = [
        [(percentile_among(np.delete(row, i), row[i]) or 0) > percentile for i in range(len(row))]
        for row in values
    ]
    assert above_by_chance(values, percentile).tolist() == slow


def test_too_few_random_ones_match_nothing_by_chance() -> None:
    assert not above_by_chance(np.arange(20.0)[None], 50).any()


def test_the_first_windows_are_spread_over_quantiles() -> None:
    windows = [window("a", quantile=q) for q in (0, 0, 0, 1, 1, 2)]
    assert nested_order(windows) == [0, 3, 5, 1, 4, 2]
    vectors = np.arange(1.0, 13).reshape(6, 2)
    whole = group(1, windows, vectors)
    cut = cut_group(whole, 4)
    assert [one.quantile for one in cut.windows] == [0, 0, 1, 2]
    assert whole.vectors is not None
    assert cut.vectors is not None
    assert cut.vectors.tolist() == whole.vectors[[0, 1, 3, 5]].tolist()
    assert cut_group(whole, 6) is whole
