"""Phrases that several explainers say: groups in which each is like every other."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from saeinterp_mcp.patterns.phrases import terms
from saeinterp_mcp.patterns.records import Phrase, Vectors

Floats = NDArray[np.float64]
DIGITS = 6
"""Similarities are rounded, so that a last bit never decides who is in a group."""


class Said(NamedTuple):
    """A phrase and who said it."""

    explainer: str
    phrase: Phrase


class Aligned(NamedTuple):
    """Phrases that mean the same."""

    members: tuple[int, ...]
    """Places among the phrases given, ascending."""
    similarity: float
    """Mean over all pairs."""
    least: float
    """Of its least alike pair."""


def in_order(said: Sequence[Said]) -> list[Said]:
    """By explainer, then by their order in the text: no other order is ever used, so that of the input is no matter."""
    return sorted(said, key=lambda one: (one.explainer, one.phrase.chunk_index, one.phrase.start))


def align(
    said: Sequence[Said], similarity: Floats, threshold: float, min_explainers: int = 2
) -> list[Aligned]:
    """Groups by complete linkage: in a group every pair reaches the threshold.

    Args:
        said: phrases of one feature, `in_order`.
        similarity: (n, n) of all pairs.
        threshold: least similarity in a group.
        min_explainers: who must be in it.
    """
    if len(said) < 2:
        return []
    distance = np.round(1 - similarity, DIGITS)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(np.maximum(distance, 0), checks=False), "complete")
    labels = fcluster(tree, round(1 - threshold, DIGITS) + 10**-DIGITS / 2, "distance")
    found = []
    for label in dict.fromkeys(labels.tolist()):
        members = np.flatnonzero(labels == label)
        explainers = {said[i].explainer for i in members.tolist()}
        if len(members) > 1 and len(explainers) >= min_explainers:
            found.append(_aligned(members, similarity))
    return found


def _aligned(members: NDArray[np.int64], similarity: Floats) -> Aligned:
    pairs = similarity[np.ix_(members, members)][np.triu_indices(len(members), 1)]
    return Aligned(tuple(members.tolist()), float(pairs.mean()), float(pairs.min()))


def align_compat(
    said: Sequence[Said], similarity: Floats, threshold: float, min_explainers: int = 2
) -> list[Aligned]:
    """As SAE_vis did: each phrase in turn takes every later one of another explainer that is like it; who comes first
    decides, and members are not compared with each other. `said` is in the order of its table."""
    used: set[int] = set()
    found = []
    for i, one in enumerate(said):
        if i in used:
            continue
        others = [
            j
            for j in range(i + 1, len(said))
            if j not in used and said[j].explainer != one.explainer and similarity[i, j] >= threshold
        ]
        explainers = {said[j].explainer for j in [i, *others]}
        # members found for a group that is not kept stay used, as there
        used.update(others)
        if others and len(explainers) >= min_explainers:
            used.add(i)
            cosines = similarity[i, others]
            # its own entry is the mean of the others', which leaves the mean what it was
            found.append(Aligned((i, *others), float(cosines.mean()), float(cosines.min())))
    return found


def cosines(vectors: Vectors) -> Floats:
    """(n, n) cosines of directions."""
    wide = vectors.astype(np.float64)
    return np.asarray(np.round(wide @ wide.T, DIGITS))


def shared_terms(texts: Sequence[str]) -> Floats:
    """(n, n) Dice coefficients of the sets of terms, where there are no vectors; 0 for phrases that name nothing."""
    sets = [frozenset(terms(text)) for text in texts]
    found = np.zeros((len(sets), len(sets)))
    for i, a in enumerate(sets):
        for j in range(i, len(sets)):
            total = len(a) + len(sets[j])
            found[i, j] = found[j, i] = 2 * len(a & sets[j]) / total if total else 0.0
    return found
