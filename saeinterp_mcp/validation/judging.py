"""Explanations of one feature against its examples: what a row of ex_act_pattern_matching tells."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saeinterp_mcp.patterns.matching import MatchBaseline, Unsaid, activation_only
from saeinterp_mcp.patterns.records import Claimed, Coherence, Group, Matched, Ngram, Vectors


class Judged(NamedTuple):
    """All explanations of a feature."""

    each: tuple[Matched, ...]
    """In the order of the explanations."""
    together: Matched | None
    """The phrases of all of them as if one had said them; None without explanations."""
    unsaid: tuple[Unsaid, ...]
    """What the examples share and no phrase says."""


def judge(
    baseline: MatchBaseline,
    claims: Sequence[Claimed],
    group: Group,
    coherence: Coherence,
    ngrams: Sequence[Ngram],
    percentile: float,
) -> Judged:
    """Match every phrase, explanation by explanation and all together.

    Args:
        baseline: random features' examples.
        claims: the explanations.
        group: the feature's examples.
        coherence: of these examples.
        ngrams: that they share.
        percentile: above which a similarity counts.
    """
    if not claims:
        return Judged((), None, tuple(activation_only([], ngrams, coherence)))
    asked = list(claims) if len(claims) == 1 else [*claims, _joined(claims)]
    found = baseline.match(asked, group, percentile)
    together = found[-1]
    return Judged(
        tuple(found[: len(claims)]), together, tuple(activation_only(together.verdicts, ngrams, coherence))
    )


def _joined(claims: Sequence[Claimed]) -> Claimed:
    """One explanation with the phrases of all."""
    parts = [one.vectors for one in claims if one.phrases]
    vectors: Vectors | None = None
    if parts and all(part is not None for part in parts):
        vectors = np.concatenate([part for part in parts if part is not None])
    return Claimed("", "", tuple(phrase for one in claims for phrase in one.phrases), vectors)
