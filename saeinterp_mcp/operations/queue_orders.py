"""In which order features are offered for labelling, and the numbers behind each place."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.labels.disagreement import Disagreement, disagreements
from saeinterp_mcp.labels.queue import Candidates, done_features
from saeinterp_mcp.labels.revisions import labelled_features
from saeinterp_mcp.operations.base import digits
from saeinterp_mcp.operations.features_search import below_floor, feature_metrics
from saeinterp_mcp.store.base import Bools, Store

if TYPE_CHECKING:
    import sqlite3


class Order(NamedTuple):
    """Features in their order."""

    candidates: Candidates
    """Those that the database leaves."""
    why: Callable[[int], str]
    """The numbers behind a feature's place."""
    nothing: str
    """What to say when the database leaves none."""
    observed: bool
    """Whether it rests on stored activations alone."""


class Closeness(NamedTuple):
    """A neighbour's place in a stored list."""

    rank: int
    measure: str
    score: float
    percentile: float


def by_importance(store: Store) -> Order:
    """Most important first: mean activation x effect norm, in the explain split."""
    if store.manifest.straight is not None:
        nothing = (
            "nobody added one, and this store does not hold its activations, so which features matter most is not "
            "known; import them without --straight to have an order"
        )
        return Order(_none, str, nothing, False)
    order, n_left_out = _important(store)
    metrics = feature_metrics(store, "explain")
    rank = {feature: i + 1 for i, feature in enumerate(order)}

    def why(feature: int) -> str:
        parts = f"mean activation {digits(metrics['mean'][feature])}"
        if np.isfinite(metrics["effect_norm"]).all():
            parts += f" x effect norm {digits(metrics['effect_norm'][feature])}"
        place = f"rank {rank[feature]} of {len(order)}"
        return f"importance {digits(metrics['importance'][feature])} ({parts}), {place}"

    nothing = (
        f"all {len(order)} features have a label or are done, skipped or claimed ({n_left_out} more never fire or are "
        "under the store's floor)"
    )
    return Order(unlabelled(store.lineage, order), why, nothing, True)


def unlabelled(lineage: str, order: Sequence[int]) -> Candidates:
    """Those of an order that have no label in use and are not done."""

    def look(connection: "sqlite3.Connection") -> list[int]:
        out = labelled_features(connection, lineage) | done_features(connection, lineage).keys()
        return [feature for feature in order if feature not in out]

    return look


def _none(connection: "sqlite3.Connection") -> Sequence[int]:
    return ()


@lru_cache(maxsize=8)
def _important(store: Store) -> tuple[tuple[int, ...], int]:
    """(features worth labelling, most important first; how many are not)."""
    importance = feature_metrics(store, "explain")["importance"]
    left_out = below_floor(store)
    order = np.lexsort((np.arange(len(importance)), -np.nan_to_num(importance, nan=-np.inf)))
    return tuple(order[~left_out[order]].tolist()), int(left_out.sum())


def by_cluster(store: Store, seed_feature: int) -> Order:
    """Most like a feature first, by its better place among its neighbours by coactivation and by decoder."""
    store.check_feature(seed_feature)
    close = _neighbours(store, seed_feature)
    left_out = _left_out(store)
    order = [f for f in sorted(close, key=lambda f: (close[f][0], f)) if left_out is None or not left_out[f]]

    def why(feature: int) -> str:
        places = [
            f"{one.measure} {digits(one.score)} (number {one.rank} of its neighbours, above "
            f"{digits(one.percentile)} % of random pairs)"
            for one in close[feature]
        ]
        return f"like feature {seed_feature}: {'; '.join(places)}"

    nothing = (
        f"all {len(order)} stored neighbours of feature {seed_feature} have a label or are done, skipped or claimed "
        f"({len(close) - len(order)} more never fire or are under the store's floor)"
    )
    return Order(unlabelled(store.lineage, order), why, nothing, True)


def _left_out(store: Store) -> Bools | None:
    """Features not worth labelling; None where nobody has counted firings."""
    return below_floor(store) if store.manifest.straight is None else None


def _neighbours(store: Store, feature: int) -> dict[int, list[Closeness]]:
    """Neighbour to its places in the lists that the store holds, better place first."""
    found = dict[int, list[Closeness]]()
    for by, measure in (("coactivation", "phi of firing"), ("decoder", "cosine of decoder directions")):
        prefix = f"neighbours/{by}"
        if not store.backend.has(f"{prefix}/features"):
            continue
        others = store.list_of_feature(f"{prefix}/features", feature)
        scores = store.list_of_feature(f"{prefix}/scores", feature).astype(np.float64)
        random = store.backend.column(f"{prefix}/random")
        percentiles = 100 * np.searchsorted(random, scores, side="left") / max(len(random), 1)
        for i, (other, score) in enumerate(zip(others.tolist(), scores.tolist(), strict=True)):
            found.setdefault(other, []).append(Closeness(i + 1, measure, score, float(percentiles[i])))
    if not found:
        raise NotInStore(
            f"store {store.name!r} holds no neighbours of feature {feature}; take another strategy, or put features "
            "first with action add"
        )
    return {other: sorted(places, key=lambda one: one.rank) for other, places in found.items()}


def by_disagreement(store: Store) -> Order:
    """Features whose labels in use disagree most first."""
    found = dict[int, Disagreement]()

    def candidates(connection: "sqlite3.Connection") -> Sequence[int]:
        found.update((one.feature, one) for one in disagreements(connection, store.lineage))
        return list(found)

    def why(feature: int) -> str:
        if feature not in found:
            return "its labels do not disagree now"
        one = found[feature]
        sides = " and ".join(f"{side.label_id} ({side.status})" for side in (one.one, one.other))
        if {one.one.status, one.other.status} == {"supported", "refuted"}:
            how = (
                f"say nearly the same, yet one is supported and one refuted (words alike {digits(one.score)})"
            )
        else:
            how = f"differ in their words by {digits(one.score)} of 1"
        return f"of its {one.n_labels} labels in use {sides} {how}"

    nothing = "no feature has labels in use that disagree and were not judged since"
    return Order(candidates, why, nothing, False)
