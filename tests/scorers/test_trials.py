"""What trials are made of: held-out, silent where it is said, of equal classes, one a unit, in an order that tells
nothing."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeinterp_mcp.errors import BadInput, NotInStore
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.scorers.base import Trial
from saeinterp_mcp.scorers.fuzzing import SHARE_OF_STRONGEST
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World

TESTED = (0, 1, 5, 6, 7)
"""Features of the documents that fire often enough."""


def n_of(name: str) -> int:
    return 10 if name == "intruder" else 40


def on_texts() -> list[tuple[str, int]]:
    return [(name, feature) for name in SCORERS for feature in TESTED]


def units(trials: tuple[Trial, ...]) -> list[int]:
    return [e.unit for t in trials for e in t.excerpts]


@pytest.mark.parametrize(("name", "feature"), on_texts())
def test_activations_are_those_of_the_world_and_silent_is_silent(
    texts: Store, written: World, name: str, feature: int
) -> None:
    for trial in SCORERS[name].make(texts, feature, n_of(name), 1):
        for place, e in enumerate(trial.excerpts, 1):
            source = int(texts.source[e.sample])
            tokens = written.samples[source].tokens
            here = range(e.start, e.start + len(e.tokens))
            assert e.tokens == tuple(tokens[p] for p in here)
            assert (texts.row_sample[e.row], texts.row_position[e.row]) == (e.sample, e.start + e.at)
            true = [np.float32(written.activations.get((feature, source, p), 0)) for p in here]
            assert np.array_equal(np.array(e.activations, np.float32), np.array(true))
            fires = any(true)
            if name == "intruder":
                assert fires == (place != trial.truth)
            elif name == "fuzzing":
                at_marks = [true[i] > SHARE_OF_STRONGEST * max(true) for i in trial.marked]
                assert trial.marked
                assert all(at_marks) == (trial.kind == "firing") == any(at_marks)
                assert fires == (trial.kind in ("firing", "wrong_mark"))
                assert all(true[i] == 0 for i in trial.marked) or trial.kind == "firing"
            else:
                assert fires == (trial.kind == "firing")


@pytest.mark.parametrize(("name", "feature"), on_texts())
def test_trials_are_of_held_out_units_and_of_each_once(texts: Store, name: str, feature: int) -> None:
    trials = SCORERS[name].make(texts, feature, n_of(name), 2)
    used = units(trials)
    assert min(used) >= texts.n_units("explain")
    assert len(set(used)) == len(used)
    rows = [e.row for t in trials for e in t.excerpts]
    assert min(rows) >= texts.n_rows("explain")
    assert [t.trial_id for t in trials] == [f"t{i}" for i in range(1, len(trials) + 1)]


@pytest.mark.parametrize("name", [name for name in SCORERS if name != "intruder"])
@settings(max_examples=25, deadline=None)
@given(feature=st.sampled_from(TESTED), n=st.integers(20, 61), seed=st.integers(0, 2**31))
def test_classes_are_of_equal_size_whatever_is_asked_for(
    texts: Store, name: str, feature: int, n: int, seed: int
) -> None:
    trials = SCORERS[name].make(texts, feature, n, seed)
    kinds = Counter(t.kind for t in trials)
    assert 2 * kinds["firing"] == len(trials)
    assert 20 <= len(trials) <= n
    assert len(set(units(trials))) == len(trials)
    assert trials == SCORERS[name].make(texts, feature, n, seed)


def test_a_third_of_the_silent_ones_is_of_each_kind(texts: Store) -> None:
    kinds = Counter(t.kind for t in SCORERS["detection"].make(texts, 1, 40, 0))
    assert kinds == {"firing": 20, "random": 7, "near_miss": 7, "similar": 6}
    kinds = Counter(t.kind for t in SCORERS["fuzzing"].make(texts, 6, 40, 0))
    assert kinds == {"firing": 20, "random": 5, "near_miss": 5, "similar": 5, "wrong_mark": 5}


def test_what_one_kind_cannot_give_comes_from_the_others(sets: Store) -> None:
    kinds = Counter(t.kind for t in SCORERS["detection"].make(sets, 0, 40, 0))
    assert kinds["similar"] == 0
    assert kinds["firing"] == kinds["random"] + kinds["near_miss"] == 20


def test_firing_trials_are_spread_over_the_range_of_activations(texts: Store) -> None:
    rows, values = texts.activations(0)
    held = values[rows >= texts.n_rows("explain")]
    trials = SCORERS["detection"].make(texts, 0, 40, 0)
    drawn = [e.activations[e.at] for t in trials for e in t.excerpts if t.kind == "firing"]
    tenths = np.searchsorted(np.quantile(held, np.arange(0.1, 1, 0.1)), drawn)
    assert len(set(tenths.tolist())) >= 8


@pytest.mark.parametrize("name", list(SCORERS))
def test_another_seed_draws_another_set(texts: Store, name: str) -> None:
    one, other = (SCORERS[name].make(texts, 0, n_of(name), seed) for seed in (0, 1))
    assert set(units(one)) != set(units(other))


def test_two_features_do_not_share_an_order_of_answers(texts: Store) -> None:
    keys = [[t.truth for t in SCORERS["detection"].make(texts, f, 40, 0)] for f in TESTED]
    assert len({tuple(key) for key in keys}) == len(TESTED)


def test_marks_stand_in_the_same_places_whether_right_or_wrong(texts: Store) -> None:
    marks: dict[bool, list[int]] = {True: [], False: []}
    for seed in range(12):
        for t in SCORERS["fuzzing"].make(texts, 0, 40, seed):
            marks[t.kind == "firing"] += [i - t.excerpts[0].at for i in t.marked]
    right, wrong = (Counter(marks[side]) for side in (True, False))
    assert right[0] / sum(right.values()) == pytest.approx(wrong[0] / sum(wrong.values()), abs=0.1)
    assert sum(wrong.values()) / sum(right.values()) == pytest.approx(1, abs=0.15)


def test_what_cannot_be_tested_is_refused_with_the_reason(texts: Store, sets: Store) -> None:
    for name, scorer in SCORERS.items():
        with pytest.raises(NotInStore, match="feature 3 never fires in the heldout split"):
            scorer.make(texts, 3, 40, 0)
        least = 40 if name == "intruder" else 10
        with pytest.raises(NotInStore, match=f"feature 4 fires in . different excerpts .* needs {least}"):
            scorer.make(texts, 4, 40, 0)
        with pytest.raises(BadInput, match="a test of 9 trials cannot be graded: ask for"):
            scorer.make(texts, 0, 9, 0)
    with pytest.raises(NotInStore, match=r"feature 2 is silent in . excerpts .* it fires nearly everywhere"):
        SCORERS["detection"].make(texts, 2, 40, 0)
    with pytest.raises(NotInStore, match="feature 2 is silent in 0 excerpts"):
        SCORERS["detection"].make(sets, 2, 40, 0)
    with pytest.raises(NotInStore, match="holds sets, and a set has one activation"):
        SCORERS["fuzzing"].make(sets, 0, 40, 0)


def test_a_set_is_one_trial_with_one_number(sets: Store) -> None:
    trials = SCORERS["simulation"].make(sets, 0, 40, 0)
    assert all(isinstance(t.truth, list) and len(t.truth) == 1 for t in trials)
    strongest = max(t.truth[0] for t in trials if isinstance(t.truth, list))
    assert strongest == 10
    for t in trials:
        assert ("swim_2" in t.excerpts[0].tokens) == (t.kind == "firing")


def test_no_wrong_mark_falls_on_a_token_that_fires(texts: Store) -> None:
    """Feature 7 fires on two tokens in a row, so that a pattern of two marks beside them would hit one."""
    n_wrong = 0
    for seed in range(10):
        for trial in SCORERS["fuzzing"].make(texts, 7, 40, seed):
            at_marks = [trial.excerpts[0].activations[i] for i in trial.marked]
            assert (max(at_marks) > 0) == (trial.kind == "firing")
            n_wrong += trial.kind == "wrong_mark"
    assert n_wrong > 20
