import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.set_views import draw_view, removal_probabilities, view_generator


def test_how_many_tokens_go_follows_the_power_law() -> None:
    generator = np.random.default_rng(0)
    n = 20_000
    removed = np.bincount([5 - len(draw_view(5, generator, 1.2)) for _ in range(n)], minlength=6)
    # k ** 1.2 for k = 1 to 4 is 1, 2.297, 3.737, 5.278; their sum is 12.312
    expected = np.array([0, 1, 2.2974, 3.7372, 5.2780, 0]) / 12.3126
    error = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(removed / n - expected) <= 4 * error).all()
    assert removal_probabilities(5, 1.2) == pytest.approx(expected[1:5], abs=1e-5)


def test_which_tokens_go_is_uniform() -> None:
    generator = np.random.default_rng(1)
    kept = np.concatenate([draw_view(5, generator, 1.2) for _ in range(20_000)])
    # 1 - E[k] / 5 with E[k] = sum k ** 2.2 / sum k ** 1.2 = 3.0796
    assert np.bincount(kept) / 20_000 == pytest.approx([1 - 3.0796 / 5] * 5, abs=0.014)


def test_the_exponent_zero_makes_every_number_as_likely() -> None:
    assert removal_probabilities(4, 0.0).tolist() == pytest.approx([1 / 3] * 3)


def test_the_view_of_one_token_is_empty_and_so_is_that_of_none() -> None:
    assert draw_view(1, np.random.default_rng(0), 1.2).tolist() == []
    assert draw_view(0, np.random.default_rng(0), 1.2).tolist() == []


@given(st.integers(2, 60), st.integers(0, 2**32), st.floats(0, 5))
def test_a_view_is_a_true_part_in_the_sets_order(n_tokens: int, seed: int, exponent: float) -> None:
    kept = draw_view(n_tokens, np.random.default_rng(seed), exponent)
    assert 1 <= len(kept) < n_tokens
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert kept.min() >= 0
    assert kept.max() < n_tokens


def test_a_set_has_views_of_its_own() -> None:
    def views(seed: int, row: int) -> list[list[int]]:
        generator = view_generator(seed, row)
        return [draw_view(20, generator, 1.2).tolist() for _ in range(3)]

    assert views(0, 7) == views(0, 7)
    assert views(0, 7) != views(0, 8)
    assert views(0, 7) != views(1, 7)
