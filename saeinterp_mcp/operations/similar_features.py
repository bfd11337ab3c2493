"""Which features are like this one?"""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.clients.embedding import default_embedder
from saeinterp_mcp.errors import BadInput, NotInStore
from saeinterp_mcp.labels.similarity import nearest_labels
from saeinterp_mcp.operations.base import (
    Feature,
    ScopeArgument,
    Seed,
    SplitArgument,
    TableResult,
    Where,
    Window,
    digits,
    sealed,
)
from saeinterp_mcp.operations.explanation_texts import stored_explanations
from saeinterp_mcp.operations.features_search import feature_metrics
from saeinterp_mcp.operations.labelled import labelled
from saeinterp_mcp.operations.slicing import Scoping, Slice, make_slice
from saeinterp_mcp.operations.token_profiles import token_profiles
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import NEIGHBOURS
from saeinterp_mcp.store.manifest import SPLITS

MEASURE = {
    "decoder": "cosine of decoder directions",
    "coactivation": "phi coefficient of firing (correlation of firing as 0 and 1)",
    "tokens": "cosine of token shares at the strongest rows, weighted by IDF",
}


class SimilarFeatures(TableResult):
    """Features, most alike first."""

    by: str
    measure: str


def similar_features(
    store: Store,
    feature: Feature,
    by: Annotated[
        Literal["decoder", "coactivation", "tokens", "explanation"],
        Field(description="In what"),
    ] = "coactivation",
    limit: Annotated[int, Field(ge=1, le=NEIGHBOURS, description="Features shown")] = 10,
    where: Where = None,
    scope: ScopeArgument = "at",
    window: Window = 16,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> SimilarFeatures:
    """Features most like this one: direction, rows, tokens of the strongest rows (explain), or meaning of labels and
    explanations.

    random_percentile: share of random pairs with a lower score.
    """
    store.check_feature(feature)
    if by == "explanation":
        return _by_explanation(store, feature, limit)
    if by == "tokens" and (where is not None or scope != "at" or split != "explain"):
        raise BadInput(
            "by tokens compares the strongest rows of the explain split, which where, scope and split cannot change; "
            "leave them out, or ask by coactivation"
        )
    from_weights = by == "decoder"
    prefix = f"neighbours/{by}"
    if by == "tokens":
        if store.manifest.straight is not None:
            raise NotInStore(f"store {store.name!r} holds no strongest rows; import it without --straight")
    elif not store.backend.has(f"{prefix}/features"):
        why = (
            "it was made without a decoder"
            if store.manifest.straight is None or from_weights
            else f"its activations lie in {store.manifest.straight.folder}; import them without --straight"
        )
        raise NotInStore(f"store {store.name!r} holds no {by} neighbours: {why}")
    warnings: list[str] = []
    stored = from_weights or ((where is None or not where.strip()) and split == "explain")
    if by == "coactivation":
        store.need_full_coverage("similar_features by coactivation")
    if by == "tokens":
        profiles = token_profiles(store)
        others, scores = profiles.nearest(feature)
        random = profiles.random
    elif stored:
        others = store.list_of_feature(f"{prefix}/features", feature)
        scores = store.list_of_feature(f"{prefix}/scores", feature).astype(np.float64)
    else:
        part = make_slice(store, feature, split, where, Scoping(scope, window))
        warnings += [*part.warnings, "random pairs are those of the whole explain split"]
        others, scores = _coactivating(part)
    if by != "tokens":
        random = store.backend.column(f"{prefix}/random")
    percentile = 100 * np.searchsorted(random, scores, side="left") / max(len(random), 1)
    rates = feature_metrics(store, "explain")["firing_rate"]
    rows: list[list[Any]] = [
        [int(f), float(s), float(p), None, float(rates[f])]
        for f, s, p in zip(others[:limit], scores, percentile, strict=False)
    ]
    nearest = (
        f"; nearest is {rows[0][0]} at {digits(rows[0][1])} "
        f"(random pairs: 99 % under {digits(float(np.quantile(random, 0.99)))})"
        if rows and len(random)
        else ""
    )
    result = SimilarFeatures(
        operation="similar_features",
        store=store.name,
        basis="weights" if from_weights else "observed",
        summary=f"{len(rows)} features most like {feature} by {MEASURE[by]}{nearest}.",
        warnings=warnings,
        seed=None if from_weights else seed,
        split=None if from_weights else split,
        where=None if from_weights else where,
        feature=feature,
        by=by,
        measure=MEASURE[by],
        columns=["feature", "score", "random_percentile", "label", "firing_rate"],
        rows=rows,
        more=len(others) - len(rows) or None,
    )
    arguments: dict[str, Any] = {"feature": feature, "by": by, "limit": limit}
    if not from_weights:
        arguments |= {"where": where, "scope": scope, "window": window, "split": split, "seed": seed}
    return labelled(sealed(result, store, arguments), store)


def _by_explanation(store: Store, feature: int, limit: int) -> SimilarFeatures:
    """Features by what their labels mean; what a language model makes of texts, not what the features do."""
    embedder = default_embedder()
    stored, warnings = stored_explanations(store, embedder)
    near = nearest_labels(store.labels, store.lineage, embedder, feature=feature, stored=stored)
    known = [one for one in near.found if one.feature < store.manifest.n_features]
    rates = feature_metrics(store, "explain")["firing_rate"]
    rows: list[list[Any]] = [
        [one.feature, one.cosine, one.random_percentile, None, float(rates[one.feature]), one.label_id]
        for one in known[:limit]
    ]
    what, which = ("texts of labels and explanations", "explained") if stored else ("label texts", "labelled")
    measure = f"cosine of {what} ({visible(embedder.name)})"
    random = f" (random pairs: 99 % under {digits(near.random_99)})" if near.random_99 is not None else ""
    nearest = f"; nearest is {rows[0][0]} at {digits(rows[0][1])}{random}" if rows else ""
    result = SimilarFeatures(
        operation="similar_features",
        store=store.name,
        basis="judged",
        summary=f"{len(rows)} of {len(known)} other {which} features most like {feature} by {measure}{nearest}.",
        warnings=[*near.reasons, *warnings],
        feature=feature,
        by="explanation",
        measure=measure,
        columns=["feature", "score", "random_percentile", "label", "firing_rate", "label_id"],
        rows=rows,
        more=len(known) - len(rows) or None,
    )
    arguments = {"feature": feature, "by": "explanation", "limit": limit}
    return labelled(sealed(result, store, arguments), store)


def _coactivating(part: Slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Features by phi coefficient of firing over the rows of a slice, the 64 largest."""
    store, n = part.store, part.n_rows
    n_features = store.manifest.n_features
    if part.mask is None:
        fires = store.backend.column("stats/n_firing")[:, SPLITS.index(part.split)].astype(np.float64)
    else:
        fires = store.count_firing(np.flatnonzero(part.mask)).astype(np.float64)
    both = store.count_firing(part.firing[0]).astype(np.float64)
    own = fires[part.feature]
    scale = np.sqrt(fires * (n - fires)) * np.sqrt(own * (n - own))
    phi = np.divide(n * both - fires * own, scale, out=np.zeros(n_features), where=scale > 0)
    phi[part.feature] = -np.inf
    order = np.lexsort((np.arange(n_features), -np.round(phi, 9)))[: min(NEIGHBOURS, n_features - 1)]
    return order, phi[order]
