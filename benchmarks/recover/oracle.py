"""Investigators that bound the others: who knows the truth, who never claims, who names the best single token."""

from collections.abc import Sequence

import numpy as np

from benchmarks.recover.truth import Claim, Structure, Term, Truth
from saeinterp_mcp.operations.slicing import Scoping, make_slice
from saeinterp_mcp.store.base import Store


def oracle(truths: Sequence[Truth]) -> list[Claim]:
    """What is planted, claimed."""
    return [Claim(feature=t.feature, structure=t.structure, confidence=1.0) for t in truths]


def always_nothing(store: Store, features: Sequence[int]) -> list[Claim]:
    """Nothing, of every feature."""
    return [Claim(feature=feature, structure=None, confidence=0.5) for feature in features]


def best_single_token(store: Store, features: Sequence[int]) -> list[Claim]:
    """The token whose presence best tells firing rows on the explain split, as a term of its family."""
    return [Claim(feature=f, structure=_best_token(store, f), confidence=0.5) for f in features]


def _best_token(store: Store, feature: int) -> Structure | None:
    term_of = {
        token: Term(family=name, threshold=level)
        for name, info in store.families.items()
        for token, level in info.tokens.items()
    }
    part = make_slice(store, feature, "explain", None, Scoping())
    _, firing = part.labels("tokens").moments()
    n, fires = firing.label.n, firing.label.s
    total = float(len(part.firing[0]))
    if not 0 < total < part.n_rows:
        return None
    accuracy = (fires / total + 1 - (n - fires) / (part.n_rows - total)) / 2
    known = np.array([token in term_of for token in store.tokens])
    if not known.any():
        return None
    return Structure(terms=(term_of[store.tokens[int(np.argmax(np.where(known, accuracy, 0)))]],))
