"""What explanations are set against: how alike a feature's examples are, and what each phrase comes to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from saeinterp_mcp.clients.embedding import Embedder, default_embedder
from saeinterp_mcp.errors import BadInput, Unavailable
from saeinterp_mcp.labels.similarity import directions_of
from saeinterp_mcp.operations.explanation_texts import Said
from saeinterp_mcp.operations.pattern_examples import baselines, group_of
from saeinterp_mcp.patterns.ngrams import common_ngrams, core_of
from saeinterp_mcp.patterns.records import CORE, Claimed, Coherence, Group, Matched, Ngram, Vectors, Window
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.validation.claims import Method, claims_of

PERCENTILE = 95.0


class Totals(NamedTuple):
    """All explanations together."""

    n_tested: int
    n_matches: int
    rate: float | None
    rate_by_chance: float | None
    rate_percentile: float | None


class View(NamedTuple):
    """A feature's examples, and each explanation against them."""

    coherence: Coherence
    ngrams: tuple[Ngram, ...]
    windows: tuple[Window, ...]
    is_set: bool
    matched: tuple[Matched | None, ...]
    """One an explanation, in their order; None of one that failed."""
    totals: Totals
    baseline: str
    """What percentiles are among, in words."""
    model: str | None
    """The text embedder; None: texts are compared by their words only."""
    seed: int | None
    warnings: tuple[str, ...]


def store_view(store: Store, feature: int, said: Sequence[Said], seed: int) -> View:
    """From the store alone: windows chosen and compared now."""
    embedder, warnings = _embedder()
    try:
        group = group_of(store, feature, seed, embedder)
        random = baselines(store, seed, embedder.name if embedder else None)
    except (BadInput, Unavailable) as error:
        if embedder is None:
            raise
        embedder, warnings = None, [by_words(str(error))]
        group, random = group_of(store, feature, seed, None), baselines(store, seed, None)
    claims = claimed(store, said, embedder)
    matched = match_all(random.matching.match([*claims, *together(claims)], group), said)
    return View(
        coherence=random.coherence.of(group),
        ngrams=ngrams_of(group, not store.is_sequence),
        windows=group.windows,
        is_set=not store.is_sequence,
        matched=matched[0],
        totals=matched[1],
        baseline=random.described,
        model=embedder.name if embedder else None,
        seed=seed,
        warnings=tuple(warnings),
    )


def _embedder() -> tuple[Embedder | None, list[str]]:
    """The default one where it can be used, and else what to say."""
    embedder = default_embedder()
    reason = embedder.why_not()
    return (embedder, []) if reason is None else (None, [by_words(reason)])


def by_words(reason: str) -> str:
    """What is said where there are no directions of texts."""
    return f"semantic is null, phrases are matched by their words only: {reason}"


def claimed(
    store: Store, said: Sequence[Said], embedder: Embedder | None, method: Method = "phrase"
) -> list[Claimed]:
    """The phrases of explanations that did not fail, with their directions."""

    def vectors_of(texts: Sequence[str]) -> Vectors:
        assert embedder is not None, "asked only where there is one"
        return directions_of(store.labels, embedder, texts)

    ok = [(one.explainer, one.text) for one in said if one.status == "ok"]
    return claims_of(ok, vectors_of if embedder else None, method)


def together(claims: Sequence[Claimed]) -> list[Claimed]:
    """All phrases as if one had said them, after the others: what the rates of all are worked out of."""
    if len(claims) < 2:
        return []
    phrases = tuple(phrase for claim in claims for phrase in claim.phrases)
    vectors = [claim.vectors for claim in claims if claim.vectors is not None]
    return [Claimed("", "", phrases, np.concatenate(vectors) if vectors else None)]


def match_all(matched: Sequence[Matched], said: Sequence[Said]) -> tuple[tuple[Matched | None, ...], Totals]:
    """Matches of `[*claims, *together(claims)]` by explanation, and of all."""
    n_ok = sum(one.status == "ok" for one in said)
    of_ok = iter(matched[:n_ok])
    by_explanation = tuple(next(of_ok) if one.status == "ok" else None for one in said)
    if not matched:
        return by_explanation, Totals(0, 0, None, None, None)
    every = matched[-1]
    return by_explanation, Totals(
        every.n_tested, every.n_matches, every.rate, every.rate_by_chance, every.rate_percentile
    )


def ngrams_of(group: Group, is_set: bool, core: int = CORE) -> tuple[Ngram, ...]:
    """N-grams that the cores of examples share."""
    return common_ngrams([core_of(window, core, is_set) for window in group.windows], is_set=is_set)
