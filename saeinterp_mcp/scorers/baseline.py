"""The search label sits the same trials, with no model: what any label that a model wrote has to be better than."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

from saeinterp_mcp.excerpts.records import Excerpt
from saeinterp_mcp.excerpts.search_label import SearchLabel, predicts, search_label
from saeinterp_mcp.excerpts.words import Vocabulary, words_of
from saeinterp_mcp.scorers.base import Answer, Scorer, Trial
from saeinterp_mcp.scorers.grading import HIGHEST
from saeinterp_mcp.store.base import Store


def baseline_answers(
    store: Store, feature: int, scorer: Scorer, trials: Sequence[Trial], seed: int = 0
) -> dict[str, Answer]:
    """Answers of the feature's search label, to be graded by the scorer that made the trials.

    Args:
        store: that the trials are from.
        feature: that they are about.
        scorer: that made them.
        trials: all of them.
        seed: of the excerpts that the label is learnt from (explain split).

    Raises:
        NotInStore: the store is sampled.
        UnknownName: no such feature.
    """
    label = _label_of(store, feature, seed)
    return {t.trial_id: _answer(store, label, scorer.name, t) for t in trials}


@lru_cache(maxsize=256)
def _label_of(store: Store, feature: int, seed: int) -> SearchLabel:
    """Kept for the other tests of a feature: it takes longer than anything else in a test."""
    return search_label(store, feature, seed=seed)


def _answer(store: Store, label: SearchLabel, name: str, trial: Trial) -> Answer:
    if name == "intruder":
        sure = [predicts(store, label, e) for e in trial.excerpts]
        return float(sure.index(min(sure)) + 1)
    excerpt = trial.excerpts[0]
    anywhere = predicts(store, label, excerpt)
    if name == "fuzzing":
        # a word of the label elsewhere in the excerpt is no yes, but better than none
        return _at(store, label, excerpt, trial.marked) or anywhere / 2
    if name != "simulation":
        return anywhere
    if not store.is_sequence:
        return [HIGHEST * anywhere]
    return [HIGHEST * _at(store, label, excerpt, [i]) for i in range(len(excerpt.tokens))]


def _at(store: Store, label: SearchLabel, excerpt: Excerpt, places: Iterable[int]) -> float:
    """As `predicts`, of the words at these tokens alone."""
    forms = Vocabulary(tuple(word.word for word in label.words)) if label.vocabulary else None
    here = {w for i in places for w in words_of(store, excerpt._replace(at=i)).within(forms).here}
    odds = [word.log_odds for word in label.words if word.word in here]
    return 1 / (1 + math.exp(-max(odds))) if odds else 0.0
