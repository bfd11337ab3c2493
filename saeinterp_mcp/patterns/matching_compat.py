"""Pattern matching as SAE_vis computed it, its errors too, to compare with it.

Only aligned phrases are tested, contexts are averaged, thresholds are fixed, and a feature where nothing was tested has
a match rate of 0.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from saeinterp_mcp.patterns.records import MatchType, PatternType, Vectors


class AlignedPhrase(NamedTuple):
    """A phrase of an aligned group."""

    text: str
    explainer: str
    chunk_index: int
    vector: Vectors
    """(d,) of any length."""


class Context(NamedTuple):
    """What phrases are compared with in one test."""

    item: str
    """What is missing from the explanations when no phrase matches: the n-gram, or `semantic_context`."""
    vectors: Vectors
    """(c, d) of the windows; none where there are none."""


class CompatMatch(NamedTuple):
    """A phrase that matched."""

    phrase: AlignedPhrase
    similarity: float
    match: MatchType


class CompatMismatch(NamedTuple):
    """A phrase or pattern without its fellow."""

    item: str
    item_type: Literal["phrase", "ngram", "semantic_context"]
    mismatch_type: Literal["explanation_only", "activation_only"]
    explainer: str | None
    similarity: float | None


class CompatMatched(NamedTuple):
    """One feature."""

    pattern: PatternType
    matches: tuple[CompatMatch, ...]
    mismatches: tuple[CompatMismatch, ...]
    n_mismatches: int
    """Of phrases; one that no test matched is counted once for each test."""
    rate: float
    """0 when nothing was tested."""


def compat_pattern(
    semantic: float | None, max_jaccard: float | None, semantic_above: float = 0.3, jaccard_above: float = 0.3
) -> PatternType:
    """Which of the two similarities are above their thresholds; one that is not known is not."""
    means = semantic is not None and semantic > semantic_above
    words = max_jaccard is not None and max_jaccard > jaccard_above
    if means and words:
        return "both"
    return "semantic" if means else "lexical" if words else "none"


def compat_matching(
    pattern: PatternType,
    lexical: Context | None,
    semantic: Context | None,
    phrases: Sequence[AlignedPhrase],
    threshold: float = 0.5,
) -> CompatMatched:
    """Test every aligned phrase against the mean vector of each context that the pattern calls for.

    Args:
        pattern: of `compat_pattern`.
        lexical: around the strongest tokens of up to 5 prompts with the n-gram; None without an n-gram.
        semantic: around those of up to 10 rows.
        phrases: of all aligned groups, in their order.
        threshold: cosine from which on a phrase matches.
    """
    matches: dict[tuple[str, str], CompatMatch] = {}
    mismatches: list[CompatMismatch] = []
    tests: list[tuple[Literal["lexical", "semantic"], Context | None]] = [
        ("lexical", lexical if pattern in ("lexical", "both") else None),
        ("semantic", semantic if pattern in ("semantic", "both") else None),
    ]
    for kind, context in tests:
        if context is None or not len(context.vectors):
            continue
        middle = np.asarray(context.vectors, np.float64).mean(axis=0)
        any_matched = False
        for phrase in phrases:
            cosine = _cosine(middle, phrase.vector)
            if cosine >= threshold:
                any_matched = True
                _keep(matches, CompatMatch(phrase, cosine, kind))
            else:
                mismatches.append(
                    CompatMismatch(phrase.text, "phrase", "explanation_only", phrase.explainer, cosine)
                )
        if not any_matched:
            item_type: Literal["ngram", "semantic_context"] = (
                "ngram" if kind == "lexical" else "semantic_context"
            )
            mismatches.append(CompatMismatch(context.item, item_type, "activation_only", None, None))
    left = tuple(one for one in mismatches if (one.item, one.explainer) not in matches)
    n_mismatches = sum(one.item_type == "phrase" for one in left)
    tested = len(matches) + n_mismatches
    return CompatMatched(
        pattern, tuple(matches.values()), left, n_mismatches, len(matches) / tested if tested else 0.0
    )


def _keep(matches: dict[tuple[str, str], CompatMatch], found: CompatMatch) -> None:
    """One match for each text of an explainer: of two kinds it is both, with the higher similarity."""
    key = (found.phrase.text, found.phrase.explainer)
    known = matches.get(key)
    if known is None:
        matches[key] = found
        return
    kind: MatchType = known.match if known.match == found.match else "both"
    better = found if found.similarity > known.similarity else known
    matches[key] = better._replace(match=kind)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.asarray(a, np.float64) @ np.asarray(b, np.float64)) / norms if norms else 0.0
