import numpy as np
import pytest

from saeinterp_mcp.patterns.coherence import CoherenceBaseline, pairwise_cosines
from saeinterp_mcp.patterns.records import Background, Coherence, Group, Window
from tests.patterns.windows import group, unit, window

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def random_group(
    feature: int, k: int, seed: int = 0, planted: str | None = None, shift: float = 0.0
) -> Group:
    """Windows of random words and directions; with a planted word in the middle, and a common direction."""
    rng = np.random.default_rng([seed, feature])
    windows = []
    for i in range(k):
        words = ["".join(rng.choice(list(LETTERS), 6)) for _ in range(9)]
        words[4] = planted or words[4]
        windows.append(window(" ".join(words), at=4, prompt=100 * feature + i, quantile=i // 2))
    vectors = rng.normal(size=(k, 16))
    vectors[:, 0] += shift
    return group(feature, windows, vectors)


@pytest.fixture(scope="module")
def background() -> Background:
    return Background(tuple(random_group(feature, 8) for feature in range(1000, 1100)))


@pytest.fixture(scope="module")
def baseline(background: Background) -> CoherenceBaseline:
    return CoherenceBaseline(background)


def test_cosines_of_all_pairs() -> None:
    vectors = unit(np.array([[1.0, 0], [1, 1], [0, 1]]))
    assert pairwise_cosines(vectors).tolist() == pytest.approx([0.5**0.5, 0, 0.5**0.5], abs=1e-6)
    assert pairwise_cosines(vectors[:1]).tolist() == []


def test_numbers_by_hand() -> None:
    """Cores `ab`, `abc`, `xy`; character pairs {ab}, {ab, bc}, {xy}."""
    windows = [Window(i, i, 1.0, (text,), 0, 0) for i, text in enumerate(["ab", "abc", "xy"])]
    vectors = np.array([[1.0, 0], [0, 1], [0.6, 0.8]])
    found = CoherenceBaseline(Background(())).of(group(1, windows, vectors))
    assert found.semantic == pytest.approx((0 + 0.6 + 0.8) / 3, abs=1e-6)
    assert (found.semantic_min, found.semantic_max) == pytest.approx((0, 0.8), abs=1e-6)
    assert found.semantic_std == pytest.approx(np.std([0, 0.6, 0.8]), abs=1e-6)
    # of three letters abc alone has one: none against one is 0, none against none is not known; nobody has four
    assert list(found.jaccard) == [pytest.approx(1 / 6), 0, None]
    assert list(found.word_jaccard) == [0, None, None]
    assert found.max_jaccard == pytest.approx(1 / 6)
    assert (found.semantic_percentile, found.lexical_percentile, found.pattern) == (None, None, None)


def test_one_window_has_no_coherence(baseline: CoherenceBaseline) -> None:
    nothing = Coherence(
        None, None, None, None, None, (None, None, None), (None, None, None), None, None, None
    )
    assert baseline.of(random_group(1, 1)) == nothing
    assert baseline.of(group(1, [])) == nothing


def test_a_planted_word_is_lexical_and_a_planted_direction_semantic(baseline: CoherenceBaseline) -> None:
    assert baseline.of(random_group(1, 8, planted="kingdom")).pattern == "lexical"
    assert baseline.of(random_group(2, 8, shift=4)).pattern == "semantic"
    assert baseline.of(random_group(3, 8, planted="kingdom", shift=4)).pattern == "both"


def test_nothing_is_found_in_shuffled_windows(baseline: CoherenceBaseline) -> None:
    """Groups like the random ones are above the 95th percentile in about 5 % of cases, in either way."""
    found = [baseline.of(random_group(feature, 8, seed=1)) for feature in range(400)]
    for kind in ("semantic", "lexical"):
        share = np.mean([one.pattern in (kind, "both") for one in found])
        assert 0.02 < share < 0.09
    percentiles = [one.semantic_percentile for one in found if one.semantic_percentile is not None]
    assert 46 < np.mean(percentiles) < 54


def test_without_vectors_letters_alone_decide(background: Background) -> None:
    bare = Background(tuple(one._replace(vectors=None) for one in background.groups))
    found = CoherenceBaseline(bare).of(random_group(1, 8, planted="kingdom")._replace(vectors=None))
    assert (found.semantic, found.semantic_percentile, found.pattern) == (None, None, "lexical")


def test_under_twenty_random_features_there_is_no_percentile(background: Background) -> None:
    found = CoherenceBaseline(Background(background.groups[:19])).of(random_group(1, 4, planted="kingdom"))
    assert found.max_jaccard is not None
    assert (found.lexical_percentile, found.semantic_percentile, found.pattern) == (None, None, None)


def test_a_feature_is_not_compared_with_its_own_windows() -> None:
    """Of 40 random features 20 are alike; to leave one of these out changes what it is compared with."""
    alike = tuple(random_group(feature, 4, planted="kingdom", shift=9) for feature in range(20))
    others = tuple(random_group(feature, 4) for feature in range(20, 40))
    baseline = CoherenceBaseline(Background(alike + others))
    inside, outside = baseline.of(alike[0]), baseline.of(alike[0]._replace(feature=99))
    assert inside.semantic == outside.semantic
    assert inside.semantic_percentile is not None
    assert outside.semantic_percentile is not None
    assert inside.semantic_percentile > outside.semantic_percentile


def test_sets_go_by_their_words() -> None:
    def of(feature: int, names: list[list[str]]) -> Group:
        return group(feature, [Window(i, i, 1.0, tuple(one), 0, 0) for i, one in enumerate(names)])

    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list(LETTERS), 5)) for _ in range(200)]
    background = Background(
        tuple(
            of(100 + f, [rng.choice(names, 4, replace=False).tolist() for _ in range(4)]) for f in range(40)
        )
    )
    planted = of(1, [["ninja", *rng.choice(names, 3, replace=False).tolist()] for _ in range(4)])
    found = CoherenceBaseline(background, is_set=True).of(planted)
    # the one word of seven or fewer that two sets hold together
    assert found.max_jaccard == found.word_jaccard[0]
    assert found.pattern == "lexical"


def test_pairs_of_features_by_hand() -> None:
    """Cores {ab} and {ab, bc} against {ab} and {xy}: Jaccards 1, 0, 1/2, 0."""
    a = group(1, [Window(0, 0, 1.0, ("ab",), 0, 0), Window(1, 1, 1.0, ("abc",), 0, 0)], np.eye(2))
    b = group(
        2,
        [Window(2, 0, 1.0, ("ab",), 0, 0), Window(3, 1, 1.0, ("xy",), 0, 0)],
        np.array([[1, 0], [0.6, 0.8]]),
    )
    semantic, semantic_percentile, jaccards, lexical_percentile = CoherenceBaseline(Background(())).of_pair(
        a, b
    )
    assert semantic == pytest.approx((1 + 0.6 + 0 + 0.8) / 4, abs=1e-6)
    assert list(jaccards) == [pytest.approx(1.5 / 4), 0, None]
    assert (semantic_percentile, lexical_percentile) == (None, None)


def test_a_pair_that_shares_a_word_and_a_direction_is_above_random_pairs(baseline: CoherenceBaseline) -> None:
    planted = [random_group(feature, 4, planted="kingdom", shift=4) for feature in (1, 2)]
    found = baseline.of_pair(planted[0], planted[1])
    assert found.semantic_percentile == 100
    assert found.lexical_percentile == 100
    assert baseline.of_pair(planted[1], planted[0]).jaccard == pytest.approx(found.jaccard)


def test_random_pairs_are_spread_over_percentiles(baseline: CoherenceBaseline) -> None:
    found = [
        baseline.of_pair(random_group(f, 4, seed=2), random_group(f + 400, 4, seed=2)) for f in range(400)
    ]
    for i in (1, 3):
        percentiles = np.array([one[i] for one in found], float)
        assert 44 < percentiles.mean() < 56
        assert 0.015 < (percentiles > 95).mean() < 0.10


def test_pairs_without_examples_are_not_measured(baseline: CoherenceBaseline) -> None:
    found = baseline.of_pair(random_group(1, 4), group(2, []))
    assert found == (None, None, (None, None, None), None)


def test_one_seed_one_baseline(background: Background, baseline: CoherenceBaseline) -> None:
    mine = random_group(1, 8)
    assert CoherenceBaseline(background).of(mine) == baseline.of(mine)
    assert CoherenceBaseline(background, seed=1).of(mine) != baseline.of(mine)
