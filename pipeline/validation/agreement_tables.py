"""Per explanation and per feature: where scorers and explainers agree, as columns and rows for the JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.validation.consistency import (
    consistency,
    consistency_of_sae_vis,
    mean_of_known,
    z_scores,
)
from pipeline.validation.cosines import Pair

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
DIGITS = 6


class Scored(NamedTuple):
    """Scores of one method that one scorer gave to one explainer."""

    features: Ints
    """(n,) ascending."""
    values: Floats
    """(n,) none null."""


Scores = Mapping[tuple[str, str, str], Scored]
"""(explainer, scorer, method) to its scores."""


def scores_of(kept: pl.DataFrame) -> dict[tuple[str, str, str], Scored]:
    """Scores that are known, of kept rows with feature_id, llm_explainer, llm_scorer, method and score."""
    known = kept.filter(pl.col("score").is_not_null()).sort("feature_id")
    known = known.with_columns(pl.col("llm_scorer").fill_null(""))
    parts = known.partition_by("llm_explainer", "llm_scorer", "method", as_dict=True)
    return {
        (str(key[0]), str(key[1]), str(key[2])): Scored(
            part["feature_id"].to_numpy().astype(np.int64), part["score"].to_numpy().astype(np.float64)
        )
        for key, part in sorted(parts.items())
    }


def agreement_tables(
    explained: Mapping[str, Ints], scores: Scores, pairs: Mapping[tuple[str, str], Pair], *, compat: bool
) -> dict[str, Any]:
    """`explanations` and `features`, each {columns, rows}.

    z-scores are over all explanations; `overall_score` is their mean where all are known (with `compat` that of the
    known ones, as SAE_vis had it). The ROC-AUC of the embedding says little about an
    explanation and takes part only with `compat`. A consistency is 1 less a spread over the largest there can be among
    as many numbers from 0 to 1; z-scores have no largest one, so what SAE_vis made of those is there only with
    `compat`, over the largest observed.

    Args:
        explained: explainer to its features, ascending.
        scores: of these explanations.
        pairs: cosines of two explainers.
        compat: as SAE_vis computed it.
    """
    methods = ("embedding", "fuzz", "detection") if compat else ("fuzz", "detection")
    alike = consistency_of_sae_vis if compat else consistency
    by_scorer = {method: _matrix(explained, scores, method) for method in methods}
    means = {method: mean_of_known(matrix) for method, matrix in by_scorer.items()}
    z = {f"z_{method}": z_scores(means[method]) for method in methods}
    stacked = np.stack(list(z.values()), axis=1)
    overall = mean_of_known(stacked) if compat else stacked.mean(axis=1)
    columns: dict[str, Floats] = {**z, "overall_score": overall}
    for method in ("fuzz", "detection"):
        columns[f"llm_scorer_consistency_{method}"] = alike(by_scorer[method])
    if compat:
        columns["within_explanation_metric_consistency"] = alike(stacked)
    features = np.unique(np.concatenate([*explained.values(), np.zeros(0, np.int64)]))
    across = {
        f"cross_explanation_metric_consistency_{method}": alike(
            _by_explainer(explained, features, means[method])
        )
        for method in methods
    }
    if compat:
        across["cross_explanation_overall_score_consistency"] = alike(
            _by_explainer(explained, features, overall)
        )
    across["llm_explainer_consistency"] = _mean_cosine(features, pairs)
    names = [name for name, mine in explained.items() for _ in mine]
    ids = [feature for mine in explained.values() for feature in mine.tolist()]
    return {
        "explanations": _table({"feature_id": ids, "llm_explainer": names}, columns),
        "features": _table({"feature_id": features.tolist()}, across),
    }


def _matrix(explained: Mapping[str, Ints], scores: Scores, method: str) -> Floats:
    """(explanations, scorers) of one method."""
    scorers = sorted({scorer for _, scorer, kind in scores if kind == method})
    blocks = []
    for explainer, features in explained.items():
        block = np.full((len(features), max(1, len(scorers))), np.nan)
        for j, scorer in enumerate(scorers):
            found = scores.get((explainer, scorer, method))
            if found is not None:
                _, at, of = np.intersect1d(features, found.features, assume_unique=True, return_indices=True)
                block[at, j] = found.values[of]
        blocks.append(block)
    return np.concatenate(blocks) if blocks else np.zeros((0, 1))


def _by_explainer(explained: Mapping[str, Ints], features: Ints, values: Floats) -> Floats:
    """(features, explainers) of a number of each explanation."""
    found = np.full((len(features), max(1, len(explained))), np.nan)
    start = 0
    for j, mine in enumerate(explained.values()):
        found[np.searchsorted(features, mine), j] = values[start : start + len(mine)]
        start += len(mine)
    return found


def _mean_cosine(features: Ints, pairs: Mapping[tuple[str, str], Pair]) -> Floats:
    total, n = np.zeros(len(features)), np.zeros(len(features))
    for pair in pairs.values():
        at = np.searchsorted(features, pair.features)
        total[at] += pair.cosines
        n[at] += 1
    return np.asarray(np.divide(total, n, out=np.full(len(features), np.nan), where=n > 0))


def _table(keys: Mapping[str, Sequence[Any]], columns: Mapping[str, Floats]) -> dict[str, Any]:
    known = [
        [None if np.isnan(value) else round(value, DIGITS) for value in column.tolist()]
        for column in columns.values()
    ]
    return {
        "columns": [*keys, *columns],
        "rows": [list(row) for row in zip(*keys.values(), *known, strict=True)],
    }
