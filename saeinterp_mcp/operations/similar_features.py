"""Which features are like this one?"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from saeinterp_mcp.errors import BadInput, NotInStore
from saeinterp_mcp.operations.base import Feature, Seed, SplitArgument, TableResult, Where, digits, sealed
from saeinterp_mcp.operations.features_search import feature_metrics
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import NEIGHBOURS

MEASURE = {
    "decoder": "cosine of decoder directions",
    "coactivation": "phi coefficient of firing (correlation of firing as 0 and 1)",
}


class SimilarFeatures(TableResult):
    """Features, most alike first."""

    by: str
    measure: str


def similar_features(
    store: Store,
    feature: Feature,
    by: Annotated[
        Literal["decoder", "coactivation"], Field(description="Decoder direction, or firing on the same rows")
    ] = "coactivation",
    limit: Annotated[int, Field(ge=1, le=NEIGHBOURS, description="Features shown")] = 10,
    where: Where = None,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> SimilarFeatures:
    """Features most like this one, by decoder direction or by firing on the same rows.

    random_percentile: share of random pairs of features with a lower score.
    """
    store.check_feature(feature)
    if where is not None:
        raise BadInput("similar_features is precomputed over whole splits and takes no where; leave it out")
    prefix = f"neighbours/{by}"
    if not store.backend.has(f"{prefix}/features"):
        raise NotInStore(f"store {store.name!r} holds no {by} neighbours: it was made without a decoder")
    warnings = []
    if by == "coactivation":
        store.need_full_coverage("similar_features by coactivation")
        if split == "all":
            warnings.append("coactivation neighbours are those of the explain split")
    others = store.list_of_feature(f"{prefix}/features", feature)[:limit]
    scores = store.list_of_feature(f"{prefix}/scores", feature)[:limit].astype(np.float64)
    random = store.backend.column(f"{prefix}/random")
    percentile = 100 * np.searchsorted(random, scores, side="left") / len(random)
    rates = feature_metrics(store, "explain")["firing_rate"]
    rows: list[list[Any]] = [
        [int(f), float(s), float(p), None, float(rates[f])]
        for f, s, p in zip(others, scores, percentile, strict=True)
    ]
    total = len(store.list_of_feature(f"{prefix}/features", feature))
    best = ""
    if rows:
        chance = digits(float(np.quantile(random, 0.99)))
        best = f"; nearest is {rows[0][0]} at {digits(rows[0][1])} (random pairs: 99 % under {chance})"
    result = SimilarFeatures(
        operation="similar_features",
        store=store.name,
        basis="weights" if by == "decoder" else "observed",
        summary=f"{len(rows)} features most like {feature} by {MEASURE[by]}{best}.",
        warnings=warnings,
        seed=None if by == "decoder" else seed,
        split=None if by == "decoder" else "explain",
        feature=feature,
        by=by,
        measure=MEASURE[by],
        columns=["feature", "score", "random_percentile", "label", "firing_rate"],
        rows=rows,
        more=total - len(rows) or None,
    )
    return sealed(result, store, {"feature": feature, "by": by, "limit": limit})
