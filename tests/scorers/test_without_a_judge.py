"""Embedding, surprisal, and the search label that sits every test: answers that are worked out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.excerpts.search_label import search_label
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.scorers.baseline import baseline_answers
from saeinterp_mcp.scorers.embedding import Embedding
from saeinterp_mcp.scorers.surprisal import Surprisal, neutral
from saeinterp_mcp.store.base import Store


class WordVectors:
    """A planted embedder: a text's direction says which of two words it holds."""

    name = "planted"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def why_not(self) -> str | None:
        return None

    def embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.asked = list(texts)
        rows = [[1.0, 2.0 * ("def" in text), 0.5 * ("class" in text)] for text in texts]
        found = np.array(rows, np.float32)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


class Reader:
    """A planted language model: a text with a word of the prefix in it costs less."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.prefixes: list[str] = []

    def losses(self, prefix: str, texts: Sequence[str]) -> list[float | None]:
        self.prefixes.append(prefix)
        told = self.word in prefix
        return [3.0 + len(text) / 50 - (told and self.word in text) for text in texts]


def test_embedding_ranks_by_the_cosine_with_the_claim(texts: Store) -> None:
    scorer, embedder = Embedding(), WordVectors()
    trials = scorer.make(texts, 0, 40, 0)
    answers = scorer.answers("def, the keyword", trials, embedder)
    grade = scorer.grade(trials, answers)
    assert (grade.measure, grade.score, grade.floor, grade.n) == ("auroc", 1.0, 0.5, 40)
    assert embedder.asked[0] == "def, the keyword"
    assert all("⏎" in text or "\n" not in text for text in embedder.asked)
    # (1, 2, 0) and (1, 0, .5), each of length 1: (1 + cosine) / 2
    silent = next(t for t in trials if "class" in t.shown and "def" not in t.shown)
    assert answers[silent.trial_id] == pytest.approx((1 + 1 / math.sqrt(5) / math.sqrt(1.25)) / 2)
    other = scorer.grade(trials, scorer.answers("class", trials, embedder))
    assert other.score is not None
    assert other.score < 0.5
    assert scorer.answers("a claim", [], embedder) == {}


def test_surprisal_ranks_by_what_the_claim_saves(texts: Store) -> None:
    scorer, model = Surprisal(), Reader("def")
    trials = scorer.make(texts, 0, 40, 0)
    grade = scorer.grade(trials, scorer.answers("the word def", trials, model))
    assert (grade.measure, grade.score, grade.n) == ("auroc", 1.0, 40)
    said, unsaid = model.prefixes
    assert said == "Description: the word def\n\nText: "
    assert unsaid == "Description: This is one of\n\nText: "
    # a claim that saves nothing anywhere is at the floor, however long the texts are
    nothing = scorer.answers("the word x", trials, Reader("nowhere"))
    assert set(nothing.values()) == {0.5}
    assert scorer.grade(trials, nothing).score == 0.5


def test_a_text_without_a_loss_stays_unscored(texts: Store) -> None:
    class Deaf(Reader):
        def losses(self, prefix: str, texts: Sequence[str]) -> list[float | None]:
            known = super().losses(prefix, texts)
            told = 2000.0 if self.word in prefix else 0.0
            return [None, float("nan"), float("inf"), told, *known[4:]]

    scorer = Surprisal()
    trials = scorer.make(texts, 0, 40, 0)
    answers = scorer.answers("the word def", trials, Deaf("def"))
    assert set(answers) == {t.trial_id for t in trials[3:]}
    assert answers["t4"] == pytest.approx(0)
    assert scorer.grade(trials, answers).n_failed == 3


@pytest.mark.parametrize("claim", ["a", "the word def", "x" * 300])
def test_the_sentence_about_nothing_is_as_long_as_the_claim(claim: str) -> None:
    assert len(claim) <= len(neutral(claim)) < len(claim) + 12


@pytest.mark.parametrize(
    ("name", "least"), [("detection", 1.0), ("fuzzing", 1.0), ("simulation", 0.6), ("intruder", 1.0)]
)
def test_the_search_label_of_a_word_sits_every_test(texts: Store, name: str, least: float) -> None:
    assert "def" in str(search_label(texts, 0).text)
    scorer = SCORERS[name]
    trials = scorer.make(texts, 0, 10 if name == "intruder" else 40, 3)
    answers = baseline_answers(texts, 0, scorer, trials)
    grade = scorer.grade(trials, answers)
    assert (grade.n, grade.n_failed) == (len(trials), 0)
    assert grade.score is not None
    assert grade.score >= least


def test_a_feature_without_words_has_a_baseline_at_the_floor(texts: Store) -> None:
    assert search_label(texts, 7).text is None
    for name, floor in (("detection", 0.5), ("fuzzing", 0.5), ("simulation", 0.0)):
        trials = SCORERS[name].make(texts, 7, 40, 3)
        grade = SCORERS[name].grade(trials, baseline_answers(texts, 7, SCORERS[name], trials))
        assert grade.score == grade.floor == floor


def test_the_baseline_sees_what_a_judge_sees(texts: Store) -> None:
    """The key of the trials changes no answer."""
    for name in ("detection", "fuzzing", "simulation", "intruder"):
        scorer = SCORERS[name]
        trials = scorer.make(texts, 6, 10 if name == "intruder" else 40, 3)
        lied = [
            t.model_copy(
                update={
                    "truth": 0.0,
                    "kind": "random",
                    "excerpts": tuple(e._replace(activations=(0.0,) * len(e.tokens)) for e in t.excerpts),
                }
            )
            for t in trials
        ]
        assert baseline_answers(texts, 6, scorer, trials) == baseline_answers(texts, 6, scorer, lied)


def test_sets_have_a_baseline(sets: Store) -> None:
    for name in ("detection", "simulation", "embedding"):
        trials = SCORERS[name].make(sets, 1, 40, 3)
        grade = SCORERS[name].grade(trials, baseline_answers(sets, 1, SCORERS[name], trials))
        assert grade.score is not None
        assert grade.score > 0.9
