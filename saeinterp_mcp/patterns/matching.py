"""Does an explanation describe what activates the feature? Every phrase against the examples, and against those of
random features."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.patterns.baseline import (
    MIN_RANDOM,
    above_by_chance,
    cut_group,
    percentile_among,
    percentile_sorted,
    percentiles_among,
)
from saeinterp_mcp.patterns.lexical import LexicalBaseline, Said
from saeinterp_mcp.patterns.phrases import named
from saeinterp_mcp.patterns.records import (
    CORE,
    Background,
    Claimed,
    Coherence,
    Floats,
    Group,
    Matched,
    MatchType,
    Ngram,
    Vectors,
    Verdict,
)
from saeinterp_mcp.patterns.semantic import SemanticBaseline, nearness
from saeinterp_mcp.patterns.words import stems


class MatchBaseline:
    """Random features' examples, indexed once for the phrases of every feature."""

    def __init__(
        self,
        background: Background,
        is_set: bool = False,
        core: int = CORE,
        other_phrases: tuple[Vectors, Sequence[int]] | None = None,
    ) -> None:
        """Take the examples, and (directions (n, d), feature of each) of phrases about other features, for
        `shuffled_percentile`."""
        groups = [group for group in background.groups if group.windows]
        self._places = {group.feature: i for i, group in enumerate(groups)}
        self._n_windows = max((len(group.windows) for group in groups), default=0)
        self._lexical = LexicalBaseline(groups, core, is_set)
        has_vectors = bool(groups) and all(group.vectors is not None for group in groups)
        self._semantic = SemanticBaseline(groups) if has_vectors else None
        self._other_phrases = other_phrases

    def match(self, claims: Sequence[Claimed], group: Group, percentile: float = 95.0) -> list[Matched]:
        """Every phrase of every explanation against the examples of `group`; its own feature is not in the baseline.

        A phrase matches lexically when a term of it is in at least two cores (one, where there is only one) and its
        share lies above `percentile` of the random features; semantically when its mean of the TOP closest windows is.
        A phrase without terms and without a vector, and every phrase where there are no examples or fewer than
        MIN_RANDOM random features, is not tested (match None) and counts in no rate.

        Random features have as many windows as `group`, or fewer where the background has no more: then `group` is cut
        to as many (see `baseline.nested_order`).
        """
        if self._n_windows:
            group = cut_group(group, self._n_windows)
        without = self._places.get(group.feature)
        n_random = len(self._places) - (without is not None)
        if not group.windows or n_random < MIN_RANDOM:
            return [_untested(claimed) for claimed in claims]
        said = self._said(claims, group, without)
        near = self._near(claims, group, without)
        return [
            _judged(claimed, said_here, near_here, n_random, percentile)
            for claimed, said_here, near_here in zip(claims, said, near, strict=True)
        ]

    def match_many(
        self, items: Iterable[tuple[Sequence[Claimed], Group]], percentile: float = 95.0
    ) -> list[list[Matched]]:
        """`match` of each."""
        return [self.match(claims, group, percentile) for claims, group in items]

    def _said(self, claims: Sequence[Claimed], group: Group, without: int | None) -> list[list[Said | None]]:
        """Of each phrase; phrases of one text, which several explanations may have, are looked for once."""
        texts = list(dict.fromkeys(phrase.text for claimed in claims for phrase in claimed.phrases))
        found = self._lexical.said([named(text) for text in texts], group.windows, without)
        of_text = dict(zip(texts, found, strict=True))
        return [[of_text[phrase.text] for phrase in claimed.phrases] for claimed in claims]

    def _near(self, claims: Sequence[Claimed], group: Group, without: int | None) -> "list[_Near | None]":
        """Of each explanation; None where it or the examples have no vectors. Equal vectors go through once."""
        rows = [row for claimed in claims if claimed.vectors is not None for row in claimed.vectors]
        if self._semantic is None or group.vectors is None or not rows:
            return [None] * len(claims)
        place = {key: i for i, key in enumerate(dict.fromkeys(row.tobytes() for row in rows))}
        distinct = np.stack(list({row.tobytes(): row for row in rows}.values()))
        here = nearness(distinct, group.vectors)
        random = self._semantic.near(distinct, len(group.windows), without)
        others: Floats | None = None
        if self._other_phrases is not None:
            directions, features = self._other_phrases
            others = np.sort(nearness(directions[np.asarray(features) != group.feature], group.vectors))
        found: list[_Near | None] = []
        for claimed in claims:
            if claimed.vectors is None or not claimed.phrases:
                found.append(None)
                continue
            mine = [place[row.tobytes()] for row in claimed.vectors]
            found.append(_Near(here[mine], random[mine], others))
        return found


class _Near(NamedTuple):
    """How near phrases come."""

    here: Floats
    """(p,) to the examples."""
    random: Floats
    """(p, G) to those of random features."""
    others: Floats | None
    """Phrases about other features to these examples, ascending."""


def _untested(claimed: Claimed) -> Matched:
    verdicts = [Verdict(phrase, None, None, None, None, None, None, None) for phrase in claimed.phrases]
    return _rated(claimed, verdicts, None)


def _judged(
    claimed: Claimed, said: Sequence[Said | None], near: _Near | None, n_random: int, percentile: float
) -> Matched:
    verdicts = [Verdict(phrase, None, None, None, None, None, None, None) for phrase in claimed.phrases]
    if named_ones := [i for i, one in enumerate(said) if one is not None]:
        verdicts = _with_words(verdicts, named_ones, [one for one in said if one is not None])
    if near is not None:
        verdicts = _with_meaning(verdicts, near)
    decided = [one._replace(match=_decided(one, percentile)) for one in verdicts]
    return _rated(claimed, decided, _by_chance(said, near, n_random, percentile))


def _with_words(verdicts: Sequence[Verdict], places: Sequence[int], said: Sequence[Said]) -> list[Verdict]:
    percentiles = percentiles_among(
        np.stack([one.random for one in said]), np.array([one.score for one in said])
    )
    assert percentiles is not None, "there are enough random features"
    found = list(verdicts)
    for i, one, value in zip(places, said, percentiles.tolist(), strict=True):
        found[i] = found[i]._replace(term=one.term, lexical=one.share, lexical_percentile=value)
    return found


def _with_meaning(verdicts: Sequence[Verdict], near: _Near) -> list[Verdict]:
    percentiles = percentiles_among(near.random, near.here)
    assert percentiles is not None, "there are enough random features"
    others = near.others if near.others is not None else np.zeros(0)
    return [
        verdict._replace(
            semantic=value,
            semantic_percentile=percentile,
            shuffled_percentile=percentile_sorted(others, value),
        )
        for verdict, value, percentile in zip(verdicts, near.here.tolist(), percentiles.tolist(), strict=True)
    ]


def _decided(verdict: Verdict, percentile: float) -> MatchType | None:
    if verdict.lexical_percentile is None and verdict.semantic_percentile is None:
        return None
    lexical = verdict.lexical_percentile is not None and verdict.lexical_percentile > percentile
    semantic = verdict.semantic_percentile is not None and verdict.semantic_percentile > percentile
    if lexical and semantic:
        return "both"
    return "lexical" if lexical else "semantic" if semantic else "none"


def _by_chance(
    said: Sequence[Said | None], near: _Near | None, n_random: int, percentile: float
) -> NDArray[np.bool_]:
    """(p, G) whether a phrase matches a random feature, by the same rule, that one left out of its own baseline."""
    matched = np.zeros((len(said), n_random), bool)
    named_ones = [i for i, one in enumerate(said) if one is not None]
    if named_ones:
        scores = np.stack([one.random for one in said if one is not None])
        matched[named_ones] = above_by_chance(scores, percentile)
    if near is not None:
        matched |= above_by_chance(near.random, percentile)
    return matched


def _rated(claimed: Claimed, verdicts: Sequence[Verdict], by_chance: NDArray[np.bool_] | None) -> Matched:
    tested = [i for i, one in enumerate(verdicts) if one.match is not None]
    n_matches = sum(verdicts[i].match != "none" for i in tested)
    rate = n_matches / len(tested) if tested else None
    rates = by_chance[tested].mean(axis=0) if by_chance is not None and tested else None
    return Matched(
        claimed.explainer,
        tuple(verdicts),
        len(tested),
        n_matches,
        rate,
        None if rates is None else float(rates.mean()),
        None if rates is None or rate is None else percentile_among(rates, rate),
    )


class Unsaid(NamedTuple):
    """What the examples share and no phrase says."""

    text: str
    """The n-gram; empty for their meaning."""
    kind: Literal["ngram", "semantic_context"]


def activation_only(
    verdicts: Sequence[Verdict], ngrams: Sequence[Ngram], coherence: Coherence
) -> list[Unsaid]:
    """What makes the examples alike and no phrase describes, once each.

    The n-gram that most windows share (the longest of these, words first), of those that no phrase holds, when the
    examples are alike in their letters and no phrase matched these; their meaning, when they are alike in it and no
    phrase matched that.
    """
    matches = {verdict.match for verdict in verdicts}
    found: list[Unsaid] = []
    if coherence.pattern in ("lexical", "both") and not matches & {"lexical", "both"}:
        order = sorted(ngrams, key=lambda one: (-one.n_windows, one.kind != "word", -one.size, one.text))
        unsaid = (
            one for one in order if not any(_holds_ngram(verdict.phrase.text, one) for verdict in verdicts)
        )
        if (first := next(unsaid, None)) is not None:
            found.append(Unsaid(first.text, "ngram"))
    if coherence.pattern in ("semantic", "both") and not matches & {"semantic", "both"}:
        found.append(Unsaid("", "semantic_context"))
    return found


def _holds_ngram(phrase: str, ngram: Ngram) -> bool:
    if ngram.kind == "word":
        return stems(ngram.text) <= stems(phrase) and bool(stems(ngram.text))
    return ngram.text.strip().lower() in phrase.lower()
