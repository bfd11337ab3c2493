"""Features by their labels: those that hold all words of a query, then, when these are few, the near in meaning."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.clients.embedding import default_embedder
from saeinterp_mcp.errors import BadInput, Unavailable
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.revisions import current_labels, labelled_features, precedence
from saeinterp_mcp.labels.similarity import MIN_FEATURES, NearLabel, nearest_labels
from saeinterp_mcp.operations.base import digits
from saeinterp_mcp.store.base import Bools, Store

FEW = 10
"""Features found: with fewer by words, the nearest in meaning fill up to as many."""
FEW_WITHOUT_A_BASELINE = 3
"""The same, by meaning alone, while there are too few labels to say what is near."""
BEYOND_CHANCE = 90.0
"""Percent of random pairs of labels that a label must come closer than, where there are enough labels to tell. Of 34
questions to 40 labels in other words, the label meant passed in 97 %, beside 3 others (median instead: 21 others; 99 %:
85 % passed)."""


class LabelMatches(NamedTuple):
    """Features found by their labels."""

    scores: NDArray[np.float64]
    """(F,) larger is better; -inf for a feature not found."""
    why: Callable[[int], str]
    warnings: list[str]
    by_meaning: Bools
    """(F,) which of them a language model chose."""

    @property
    def found(self) -> Bools:
        """(F,) which features are found."""
        return np.asarray(np.isfinite(self.scores))


def by_label(store: Store, query: str | None, importance: NDArray[np.float64]) -> LabelMatches:
    """Features whose labels hold all words, best first, then the near in meaning; without words all with labels."""
    words = query if query and query.strip() else None
    found = current_labels(store.labels, store.lineage, query=words)
    n_features = store.manifest.n_features
    scores, labels = np.full(n_features, -np.inf), dict[int, Label]()
    for rank, label in enumerate(found):
        f = label.feature
        if f >= n_features:
            continue
        if f not in labels:
            scores[f] = -float(rank) if words else importance[f]
        if f not in labels or precedence(label) < precedence(labels[f]):
            labels[f] = label  # of those that match, the one that the feature is called by
    reasons = {f: f"label {one.label_id} ({one.status}, by {one.author_kind})" for f, one in labels.items()}
    by_meaning = np.zeros(n_features, bool)
    n_labelled = _n_labelled(store)
    warnings: list[str] = []
    if not n_labelled:
        warnings.append("this store has no labels yet")
    elif not labels:
        warnings.append(
            f"no label of the {n_labelled} labelled features holds all these words; try fewer, or the beginning of one"
        )
    # without a baseline (see `_near_in_meaning`) the nearest are shown only where words find nothing
    many = n_labelled >= MIN_FEATURES
    room = (FEW if many else 0 if labels else FEW_WITHOUT_A_BASELINE) - len(labels)
    if words and room > 0 and len(labels) < n_labelled:
        near, said = _near_in_meaning(store, words)
        warnings += said
        others = [one for one in near if one.feature < n_features and one.feature not in labels]
        for rank, one in enumerate(others[:room]):
            scores[one.feature] = -float(len(found) + rank)
            by_meaning[one.feature] = True
            reasons[one.feature] = (
                f"by meaning, cosine {digits(one.cosine, 2)}: label {one.label_id} ({one.status})"
            )
    return LabelMatches(scores, reasons.__getitem__, warnings, by_meaning)


def _near_in_meaning(store: Store, query: str) -> tuple[list[NearLabel], list[str]]:
    """The nearest labels, some of which are found by words too, and what to warn of; none where it cannot be done."""
    try:
        near = nearest_labels(
            store.labels, store.lineage, default_embedder(), query_text=query, limit=2 * FEW
        )
    except (BadInput, Unavailable) as error:
        return [], [f"searched by words only: {error}"]
    warnings = list(near.reasons)
    if near.random_99 is not None:
        warnings.append(f"by meaning: only labels closer than {BEYOND_CHANCE:g} % of random pairs of labels")
    return [
        one for one in near.found if one.random_percentile is None or one.random_percentile >= BEYOND_CHANCE
    ], warnings


def _n_labelled(store: Store) -> int:
    return store.labels.read(lambda c: len(labelled_features(c, store.lineage)), 0) if store.labels else 0
