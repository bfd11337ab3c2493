from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from saeinterp_mcp.patterns.baseline import cut_group, percentile_among
from saeinterp_mcp.patterns.lexical import read_core
from saeinterp_mcp.patterns.matching import MatchBaseline, Unsaid, activation_only
from saeinterp_mcp.patterns.ngrams import common_ngrams, core_of
from saeinterp_mcp.patterns.phrases import holds, named
from saeinterp_mcp.patterns.records import (
    Background,
    Claimed,
    Coherence,
    Group,
    Matched,
    Phrase,
    Verdict,
    Window,
)
from tests.patterns.windows import claimed, group, unit, window


def hand_background(n: int = 25) -> Background:
    """Of 25 random features 5 have `shared` in both of their windows; all lie on one side."""
    return Background(
        tuple(
            group(
                100 + f,
                [window(f"{'shared' if f < 5 else 'plain'} x{f}", prompt=i, quantile=i) for i in range(2)],
                np.array([[0.0, 1], [0, 1]]),
            )
            for f in range(n)
        )
    )


MINE = group(1, [window("shared rare"), window("rare shared", at=1)], np.array([[1.0, 0], [0.6, 0.8]]))


def only(found: Sequence[Matched]) -> Matched:
    assert len(found) == 1
    return found[0]


def test_words_by_hand() -> None:
    matched = only(MatchBaseline(hand_background()).match([claimed("shared, rare, absent, words")], MINE))
    assert [(v.match, v.term, v.lexical, v.lexical_percentile) for v in matched.verdicts] == [
        ("none", "shared", 1.0, 100 * (20 + 5 / 2) / 25),
        ("lexical", "rare", 1.0, 100.0),
        ("none", None, 0.0, 50.0),
        (None, None, None, None),  # it names nothing, and has no vector
    ]
    assert (matched.n_tested, matched.n_matches, matched.rate) == (3, 1, 1 / 3)
    # by chance: `shared` is in 5 of 25, each of which is above (20 + 4 / 2) / 24 = 91.7 % of the others
    assert (matched.rate_by_chance, matched.rate_percentile) == (0, 100)


def test_the_rate_by_chance_is_that_of_the_same_phrases_on_random_features() -> None:
    baseline = MatchBaseline(hand_background())
    matched = only(baseline.match([claimed("shared, rare, absent")], MINE, percentile=80))
    assert matched.rate == 2 / 3
    assert matched.rate_by_chance == pytest.approx(5 / 25 / 3)
    matched = only(baseline.match([claimed("shared, absent")], MINE, percentile=80))
    assert (matched.rate, matched.rate_percentile) == (1 / 2, 100 * (20 + 5 / 2) / 25)


def test_meaning_by_hand() -> None:
    phrases = claimed("alpha, beta", np.array([[1.0, 0], [0, 1]]))
    matched = only(MatchBaseline(hand_background()).match([phrases], MINE))
    assert [(v.match, v.semantic_percentile) for v in matched.verdicts] == [("semantic", 100), ("none", 0)]
    assert [v.semantic for v in matched.verdicts] == [pytest.approx(0.8), pytest.approx(0.4)]
    assert (matched.rate_by_chance, matched.rate_percentile) == (0, 100)


def test_the_three_closest_windows_count() -> None:
    windows = [window("w", prompt=i, quantile=i) for i in range(4)]
    mine = group(1, windows, np.array([[1.0, 0], [0.6, 0.8], [0, 1], [-1, 0]]))
    background = Background(tuple(group(100 + i, windows, np.ones((4, 2))) for i in range(20)))
    matched = only(MatchBaseline(background).match([claimed("alpha", np.array([[1.0, 0]]))], mine))
    assert matched.verdicts[0].semantic == pytest.approx((1 + 0.6 + 0) / 3)
    assert matched.verdicts[0].semantic_percentile == 0  # 0.533 against 0.707


def test_a_term_in_one_core_of_several_is_no_pattern() -> None:
    mine = group(1, [window("solo"), window("other"), window("third")])
    matched = only(MatchBaseline(hand_background()).match([claimed("solo")], mine))
    found = [(v.match, v.term, v.lexical, v.lexical_percentile) for v in matched.verdicts]
    assert found == [("none", "solo", 1 / 2, 50.0)]  # of the two that are compared
    alone = only(MatchBaseline(hand_background()).match([claimed("solo")], group(1, [window("solo")])))
    assert alone.verdicts[0].match == "lexical"


def test_of_more_windows_than_random_features_have_the_first_are_compared() -> None:
    mine = group(1, [window("solo", quantile=q) for q in (0, 0, 1, 1)])
    matched = only(MatchBaseline(hand_background()).match([claimed("solo")], mine))
    assert matched == only(MatchBaseline(hand_background()).match([claimed("solo")], cut_group(mine, 2)))


def test_fewer_windows_are_compared_with_as_few() -> None:
    """Any of 4 windows comes closer to a phrase than one: a feature with one window is compared with one each."""
    windows = [window("w", prompt=i, quantile=i) for i in range(4)]
    vectors = np.array([[0.0, 1], [1, 0], [1, 0], [1, 0]])
    background = Background(tuple(group(100 + i, windows, vectors) for i in range(20)))
    mine = group(1, windows[:1], np.array([[0.6, 0.8]]))
    matched = only(MatchBaseline(background).match([claimed("alpha", np.array([[1.0, 0]]))], mine))
    assert matched.verdicts[0].semantic_percentile == 100  # 0.6 against 0
    later = tuple(window("ww" if i else "vv", quantile=i) for i in range(4))
    background = Background(tuple(group(100 + i, later) for i in range(20)))
    matched = only(MatchBaseline(background).match([claimed("ww")], group(1, [window("ww")])))
    assert matched.verdicts[0].lexical_percentile == 100, "the one core that counts is `vv`"


@pytest.mark.parametrize(
    ("background", "mine"),
    [(hand_background(), group(1, [])), (hand_background(19), MINE), (Background(()), MINE)],
    ids=["no examples", "few random features", "no random features"],
)
def test_what_cannot_be_tested_is_untested(background: Background, mine: Group) -> None:
    phrases = claimed("shared, rare", np.eye(2))
    matched = only(MatchBaseline(background).match([phrases], mine))
    assert [v.match for v in matched.verdicts] == [None, None]
    assert matched == Matched("one", matched.verdicts, 0, 0, None, None, None)


def test_an_explanation_without_phrases_has_no_rate() -> None:
    assert only(MatchBaseline(hand_background()).match([claimed("...")], MINE)) == Matched(
        "one", (), 0, 0, None, None, None
    )


def test_without_vectors_of_the_examples_words_alone_are_tested() -> None:
    bare = MINE._replace(vectors=None)
    matched = only(MatchBaseline(hand_background()).match([claimed("rare, words", np.eye(2))], bare))
    assert [(v.match, v.semantic) for v in matched.verdicts] == [("lexical", None), (None, None)]
    assert matched.n_tested == 1


def test_a_feature_is_left_out_of_its_own_baseline() -> None:
    inside = hand_background().groups[0]
    verdict = only(MatchBaseline(hand_background()).match([claimed("shared")], inside)).verdicts[0]
    assert verdict.lexical_percentile == 100 * (20 + 4 / 2) / 24
    outside = inside._replace(feature=1)
    verdict = only(MatchBaseline(hand_background()).match([claimed("shared")], outside)).verdicts[0]
    assert verdict.lexical_percentile == 100 * (20 + 5 / 2) / 25


def test_phrases_about_other_features_are_what_a_shuffled_percentile_is_among() -> None:
    others = unit(np.array([[0.0, 1]] * 15 + [[1, 0]] * 10))
    features = [*range(50, 74), 1]  # the last is about this feature: left out
    baseline = MatchBaseline(hand_background(), other_phrases=(others, features))
    matched = only(baseline.match([claimed("alpha", np.array([[1.0, 0]]))], MINE))
    # 15 come to 0.4, and 9 to 0.8 as the phrase does
    assert matched.verdicts[0].shuffled_percentile == pytest.approx(100 * (15 + 9 / 2) / 24)
    few = MatchBaseline(hand_background(), other_phrases=(others[:19], features[:19]))
    assert (
        only(few.match([claimed("alpha", np.array([[1.0, 0]]))], MINE)).verdicts[0].shuffled_percentile
        is None
    )


def test_the_best_term_is_the_one_that_random_features_hold_least() -> None:
    """`shared` and `rare` are in all cores; a phrase with both is told by `rare`."""
    verdict = only(MatchBaseline(hand_background()).match([claimed("shared rare")], MINE)).verdicts[0]
    assert (verdict.match, verdict.term) == ("lexical", "rare")


def test_a_phrase_of_many_terms_is_compared_with_its_own_best_term_elsewhere() -> None:
    """Each random feature has one of ten words in all of its cores, so a phrase of these ten finds one anywhere."""
    names = [f"{letter}word" for letter in "bcdfghklmn"]
    windows = [[window(name, prompt=i, quantile=i) for i in range(2)] for name in names]
    background = Background(tuple(group(100 + i, windows[i % 10]) for i in range(30)))
    mine = group(1, windows[0])
    baseline = MatchBaseline(background)
    alone = only(baseline.match([claimed(names[0])], mine, percentile=90)).verdicts[0]
    assert (alone.match, alone.lexical_percentile) == ("lexical", 100 * (27 + 3 / 2) / 30)
    together = only(baseline.match([claimed(" ".join(names))], mine, percentile=90)).verdicts[0]
    assert (together.match, together.lexical, together.lexical_percentile) == ("none", 1, 50)


def test_cores_are_what_words_are_looked_for_in() -> None:
    far = group(1, [window("far a b c d e f", at=5, prompt=i) for i in range(2)])
    assert only(MatchBaseline(hand_background()).match([claimed("far")], far)).verdicts[0].lexical == 0
    assert (
        only(MatchBaseline(hand_background(), core=12).match([claimed("far")], far)).verdicts[0].lexical == 1
    )


def test_words_at_the_ends_of_a_core_are_whole() -> None:
    tokens = ("▁the", "▁arch", "itect", "ure", "▁of", "▁old", "▁towers", "▁here")
    core = read_core(Window(0, 0, 1.0, tokens, 0, 4), 5, False)
    assert core.text == "architecture of old towers"
    assert core.tokens.split("\0")[1:-1] == ["itect", "ure", "▁of", "▁old", "▁towers"]


# -- worlds whose answer is known ---------------------------------------------------------------------------------

N_WORDS = 400


class World:
    """Features that fire on a word of their own and lie in a direction of their own, and 60 random features."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        letters = list("bcdfghklmnpqrtvwz")
        self.words = ["".join(self.rng.choice(letters, 7)) for _ in range(N_WORDS)]
        self.directions = unit(self.rng.normal(size=(N_WORDS, 48)))
        self.random = [self.group(1000 + i, int(self.rng.integers(N_WORDS))) for i in range(60)]

    def group(self, feature: int, word: int | None) -> Group:
        windows, vectors = [], self.rng.normal(size=(8, 48)) / 48**0.5
        for i in range(8):
            text = self.rng.choice(self.words, 9).tolist()
            if word is not None:
                text[4] = self.words[word]
                vectors[i] += 0.5 * self.directions[word]
            windows.append(window(" ".join(text), at=4, prompt=i, quantile=i // 2))
        return group(feature, windows, vectors)

    def claim(self, words: list[int | None], explainer: str) -> Claimed:
        """A phrase for each word: its name and its direction; None is gibberish."""
        names = [
            "zxy" + "".join(self.rng.choice(list("aeiou"), 6)) if w is None else self.words[w] for w in words
        ]
        vectors = [self.rng.normal(size=48) if w is None else self.directions[w] for w in words]
        return claimed(", ".join(names), np.stack(vectors), explainer)


def test_true_explanations_are_told_from_half_true_foreign_and_gibberish_ones() -> None:
    world = World()
    baseline = MatchBaseline(Background(tuple(world.random)))
    rates: dict[str, list[float]] = {}
    percentiles: dict[str, list[float]] = {}
    for feature in range(30):
        other = (feature + 7) % N_WORDS
        claims = [
            world.claim([feature, feature], "true"),
            world.claim([feature, other], "half"),
            world.claim([other, other], "other"),
            world.claim([None, None], "gibberish"),
        ]
        for matched in baseline.match(claims, world.group(feature, feature)):
            assert matched.rate is not None
            assert matched.rate_percentile is not None
            rates.setdefault(matched.explainer, []).append(matched.rate)
            percentiles.setdefault(matched.explainer, []).append(matched.rate_percentile)
    mean = {kind: float(np.mean(values)) for kind, values in rates.items()}
    assert mean["true"] == 1
    assert 0.45 < mean["half"] < 0.6
    assert mean["other"] < 0.15
    assert mean["gibberish"] < 0.15
    middle = {kind: float(np.median(values)) for kind, values in percentiles.items()}
    assert middle["true"] > middle["half"] > 80 > 60 > middle["other"]
    assert middle["gibberish"] < 60


def test_nothing_is_found_in_shuffled_data() -> None:
    """Explanations dealt to other features: about 5 % of phrases match by their meaning, fewer by their words (one is
    in two cores only now and then), and rates are what chance gives."""
    world = World(1)
    baseline = MatchBaseline(Background(tuple(world.random)))
    found = [
        only(
            baseline.match(
                [world.claim([int(w) for w in world.rng.integers(0, N_WORDS, 6)], "dealt")],
                world.group(feature, int(world.rng.integers(N_WORDS))),
            )
        )
        for feature in range(250)
    ]
    verdicts = [verdict for one in found for verdict in one.verdicts]
    semantic = np.mean([verdict.match in ("semantic", "both") for verdict in verdicts])
    lexical = np.mean([verdict.match in ("lexical", "both") for verdict in verdicts])
    assert 0.03 < semantic < 0.075
    assert lexical < 0.05
    by_chance = float(np.mean([one.rate_by_chance for one in found if one.rate_by_chance is not None]))
    rate = float(np.mean([one.rate for one in found if one.rate is not None]))
    assert rate == pytest.approx(by_chance, abs=0.02)
    assert 45 < np.mean([one.rate_percentile for one in found if one.rate_percentile is not None]) < 55


def test_many_are_matched_as_each_alone() -> None:
    world = World(2)
    baseline = MatchBaseline(Background(tuple(world.random)))
    items = [
        ([world.claim([f, f + 1, None], "a"), world.claim([f], "b")], world.group(f, f)) for f in range(5)
    ]
    many = baseline.match_many(items)
    assert many == [baseline.match(claims, mine) for claims, mine in items]
    alone = [[only(baseline.match([one], mine)) for one in claims] for claims, mine in items]
    assert many == alone


def test_verdicts_equal_those_of_the_plain_definition() -> None:
    """The inverted index and the products against loops over windows and `holds`."""
    world = World(3)
    groups = world.random[:30]
    baseline = MatchBaseline(Background(tuple(groups)))
    mine = world.group(5, 5)
    text = f'{world.words[5]} or "{world.words[5][:3]}", {world.words[9]}, "e", {world.words[5]} {world.words[7]}'
    vectors = world.rng.normal(size=(5, 48))
    claim = claimed(text, vectors)
    matched = only(baseline.match([claim], mine))
    for i, verdict in enumerate(matched.verdicts):
        scores = [plain_shares(verdict.phrase.text, one) for one in [*groups, mine]]
        ranks = [
            max(rank_among([s[t] for s in scores[:-1]], one[t]) for t in range(len(one))) for one in scores
        ]
        assert verdict.lexical_percentile == pytest.approx(percentile_among(np.array(ranks[:-1]), ranks[-1]))
        near = [plain_nearness(unit(vectors[i]), one) for one in [*groups, mine]]
        assert verdict.semantic == pytest.approx(near[-1], abs=1e-6)
        assert verdict.semantic_percentile == pytest.approx(percentile_among(np.array(near[:-1]), near[-1]))


def rank_among(values: list[float], value: float) -> float:
    return sum(one < value for one in values) + sum(one == value for one in values) / 2


def plain_shares(phrase: str, one: Group) -> list[float]:
    cores = [core_of(w, 5, False).tokens for w in one.windows]
    shares = [
        sum(holds(term.key, core, "".join(core)) for core in cores) / len(cores) for term in named(phrase)
    ]
    return [share if share * len(cores) >= 2 else 0.0 for share in shares]


def plain_nearness(phrase: NDArray[np.floating], one: Group) -> float:
    assert one.vectors is not None
    return float(np.mean(sorted((one.vectors @ phrase).tolist())[-3:]))


# -- what examples share and no phrase says -----------------------------------------------------------------------


def verdict_of(text: str, match: str | None) -> Verdict:
    return Verdict(Phrase(text, 0, len(text), 0), match, None, None, None, None, None, None)  # type: ignore[arg-type]


def coherent(pattern: str | None) -> Coherence:
    return Coherence(None, None, None, None, None, (None,) * 3, (None,) * 3, None, None, pattern)  # type: ignore[arg-type]


NGRAMS = common_ngrams(
    [window("the kingdom come", at=1), window("a kingdom", prompt=1), window("kings", prompt=2)]
)


def test_what_no_phrase_says_is_told_once() -> None:
    silent = [verdict_of("trees", "none"), verdict_of("rivers", "none")]
    assert activation_only(silent, NGRAMS, coherent("both")) == [
        Unsaid(" kin", "ngram"),
        Unsaid("", "semantic_context"),
    ]
    assert activation_only(silent, NGRAMS, coherent("lexical")) == [Unsaid(" kin", "ngram")]
    assert activation_only(silent, NGRAMS, coherent("none")) == []
    assert activation_only(silent, NGRAMS, coherent(None)) == []


def test_what_a_phrase_says_or_matched_is_not_told() -> None:
    said = [verdict_of("kings and Kingdoms", "none")]
    assert activation_only(said, NGRAMS, coherent("lexical")) == []
    assert activation_only([verdict_of("royalty", "lexical")], NGRAMS, coherent("lexical")) == []
    assert activation_only([verdict_of("royalty", "both")], NGRAMS, coherent("both")) == []
    assert activation_only([verdict_of("royalty", "lexical")], NGRAMS, coherent("both")) == [
        Unsaid("", "semantic_context")
    ]
