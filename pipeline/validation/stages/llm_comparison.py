"""How far explainers agree in what they say, and scorers in what they think of it."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.agreement_tables import Scored, Scores, agreement_tables, scores_of
from pipeline.validation.config import DataSource, LlmComparisonConfig
from pipeline.validation.consistency import MIN_COMMON, agreement, pearson, rv_coefficient, rv_of_shapes
from pipeline.validation.cosines import MIN_FEATURES, Pair, compare
from pipeline.validation.kept_scores import KEYS, kept_scores
from pipeline.validation.stages.explanation_embeddings import OTHER_TEXTS, VECTORS
from pipeline.validation.stages.features import explained_by
from pipeline.validation.writing import read_table, write_json
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.validation.tables import EXPLANATION_EMBEDDINGS, SCORES

FILE = "llm_comparison_stats.json"
TOGETHER = ("fuzz", "detection")
"""Columns of a scorer's matrix: what a scoring model decides about every explanation."""
ALONE = ("fuzz", "detection", "simulation")
"""Methods that are correlated one by one."""
METHODS = {
    False: {
        "explainer_consistency_method": "mean cosine of the two explanations of a feature; `random`: of different "
        "features; `effect`: 0 as unlike as those, 1 the same",
        "scorer_consistency_method": "RV coefficient ||X'Y||^2/(||X'X|| ||Y'Y||) of centred scores joined by feature, "
        "p by shuffling rows; Pearson's r of each metric",
        "description": "Failed explanations take no part.",
    },
    True: {
        "explainer_consistency_method": "mean cosine of the two explanations of a feature",
        "scorer_consistency_method": "||XY'||^2/(||X'X|| ||Y'Y||), as SAE_vis computed it: it compares the shapes of "
        "covariances and does not see which row is which",
        "description": "The numbers of SAE_vis, its errors too; failed explanations take part.",
    },
}


class LlmComparisonStage(Frozen):
    """What the stage sees."""

    sae_id: str
    compat: bool
    seed: int
    data_sources: tuple[DataSource, ...]
    llm_comparison: LlmComparisonConfig


def _run(
    config: LlmComparisonStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    folder = inputs["explanation_embeddings"]
    columns = ["feature_id", "llm_explainer", "status", "vector"]
    explained = read_table(EXPLANATION_EMBEDDINGS, folder / EXPLANATION_EMBEDDINGS.file, columns)
    explained = explained.with_columns(pl.col("llm_explainer", "status").cast(pl.String))
    taking_part = explained if config.compat else explained.filter(pl.col("status") == "ok")
    notes: list[str] = []
    scores, everything = _scores(explained, inputs, config, notes)
    pairs = _pairs(taking_part, folder / VECTORS, config.seed)
    content = {
        "metadata": {
            "sae_id": config.sae_id,
            "compat": config.compat,
            "n_failed_explanations": len(explained) - len(explained.filter(pl.col("status") == "ok")),
            "warnings": notes,
            **METHODS[config.compat],
        },
        "explainer_consistency": {
            f"{a} vs {b}": _explainers_agree(a, b, pair, config.compat) for (a, b), pair in pairs.items()
        },
        "scorer_consistency": _scorers(scores, everything, config, progress),
        **agreement_tables(_features_of(taking_part), scores, pairs, compat=config.compat),
    }
    write_json(out / FILE, content)
    return Summary(n_in=len(explained), n_kept=len(explained), notes=tuple(notes))


def _scores(
    explained: pl.DataFrame, inputs: Mapping[str, Path], config: LlmComparisonStage, notes: list[str]
) -> tuple[Scores, Scores]:
    """Scores of explanations and, apart, the same with those of failed ones; in right mode of the very words."""
    if "scores" not in inputs:
        return {}, {}
    columns = ["feature_id", "llm_explainer", "llm_scorer", "data_source", "method", "score", "reason"]
    table = read_table(SCORES, inputs["scores"] / SCORES.file, columns)
    others = json.loads((inputs["explanation_embeddings"] / OTHER_TEXTS).read_text(encoding="utf-8"))
    kept = kept_scores(table, None if config.compat else others, config.data_sources, notes)
    everything = scores_of(kept)
    if config.compat:
        return everything, everything
    failed = explained.filter(pl.col("status") != "ok")
    return scores_of(kept.join(failed, on=KEYS, how="anti", maintain_order="left")), everything


def _features_of(explained: pl.DataFrame) -> dict[str, NDArray[np.int64]]:
    """Explainer to its features, both ascending."""
    parts = explained.sort("feature_id").partition_by("llm_explainer", as_dict=True)
    return {
        str(key[0]): part["feature_id"].to_numpy().astype(np.int64) for key, part in sorted(parts.items())
    }


def _pairs(explained: pl.DataFrame, path: Path, seed: int) -> dict[tuple[str, str], Pair]:
    """Cosines of every two explainers; none where texts have no vectors."""
    if not path.is_file():
        return {}
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    known = explained.filter(pl.col("vector").is_not_null())
    names = known["llm_explainer"].unique().sort().to_list()
    return {
        (a, b): compare(vectors, explained_by(known, a), explained_by(known, b), seed, (a, b))
        for a, b in combinations(names, 2)
    }


def _explainers_agree(a: str, b: str, pair: Pair, compat: bool) -> Any:
    mean = float(pair.cosines.mean()) if len(pair.cosines) else None
    if compat:
        return mean
    entry: dict[str, Any] = {"explainers": [a, b], "mean_cosine": mean, "n": len(pair.cosines)}
    percentiles = pair.percentiles
    if percentiles is None or mean is None:
        why = f"under {MIN_FEATURES} features of either explainer, or none in common"
        return {**entry, "random": None, "effect": None, "median_percentile": None, "reason": why}
    random = float(pair.random.mean())
    return {
        **entry,
        "random": random,
        "n_random": len(pair.random),
        "effect": (mean - random) / (1 - random) if random < 1 else None,
        "median_percentile": float(np.median(percentiles)),
    }


def _scorers(
    scores: Scores, everything: Scores, config: LlmComparisonStage, progress: Progress
) -> dict[str, Any]:
    """Explainer to pair of scorers to how far they agree about it."""
    explainers = sorted({explainer for explainer, _, _ in scores})
    found: dict[str, Any] = {}
    for done, explainer in enumerate(explainers):
        names = sorted(
            {scorer for who, scorer, method in scores if who == explainer and method in ALONE and scorer}
        )
        found[explainer] = {
            f"{a} vs {b}": _shapes(scores, explainer, a, b)
            if config.compat
            else _scorers_agree(scores, explainer, a, b, config)
            | _with_failed(scores, everything, explainer, a, b)
            for a, b in combinations(names, 2)
        }
        progress(done + 1, len(explainers))
    return found


def _shapes(scores: Scores, explainer: str, a: str, b: str) -> float | None:
    """As SAE_vis: each scorer's own complete rows, in the order of ids as strings."""
    methods = [m for m in TOGETHER if all((explainer, scorer, m) in scores for scorer in (a, b))]
    if not methods:
        return None
    matrices = []
    for scorer in (a, b):
        features, matrix = _joined([scores[explainer, scorer, m] for m in methods])
        order = sorted(range(len(features)), key=lambda i: str(features[i]))
        matrices.append(matrix[order])
    if min(map(len, matrices)) < 2:
        return None
    return _known(rv_of_shapes(*matrices))


def _scorers_agree(
    scores: Scores, explainer: str, a: str, b: str, config: LlmComparisonStage
) -> dict[str, Any]:
    correlations = {
        method: _correlation(scores[explainer, a, method], scores[explainer, b, method])
        for method in ALONE
        if (explainer, a, method) in scores and (explainer, b, method) in scores
    }
    entry: dict[str, Any] = {"scorers": [a, b], "correlations": correlations}
    methods = [m for m in TOGETHER if m in correlations and correlations[m]["n"] >= MIN_COMMON]
    columns = [scores[explainer, scorer, m] for scorer in (a, b) for m in methods]
    features, matrix = _joined(columns) if methods else (np.zeros(0, np.int64), np.zeros((0, 0)))
    entry |= {"metrics": methods, "n": len(features)}
    if len(features) < MIN_COMMON:
        most = len(features) if methods else max((found["n"] for found in correlations.values()), default=0)
        why = f"{most} features have scores of both; at least {MIN_COMMON} are needed"
        return {**entry, "rv": None, "p": None, "shuffled": None, "reason": why}
    generator = rng(config.seed, "rows of scorers", explainer, a, b)
    k = len(methods)
    found = agreement(matrix[:, :k], matrix[:, k:], config.llm_comparison.n_permutations, generator)
    why_not = {"reason": "a scorer gave every feature the same scores"} if math.isnan(found.rv) else {}
    return {
        **entry,
        "rv": _known(found.rv),
        "p": _known(found.p),
        "shuffled": _known(found.shuffled),
        "n_permutations": config.llm_comparison.n_permutations,
        **why_not,
    }


def _with_failed(scores: Scores, everything: Scores, explainer: str, a: str, b: str) -> dict[str, Any]:
    """The RV coefficient if failed explanations took part, where there are any: how much they would move it."""
    methods = [m for m in TOGETHER if all((explainer, scorer, m) in scores for scorer in (a, b))]
    columns = [(explainer, scorer, m) for scorer in (a, b) for m in methods]
    if not methods:
        return {}
    features, matrix = _joined([everything[key] for key in columns])
    if len(features) < MIN_COMMON or len(features) == len(_joined([scores[key] for key in columns])[0]):
        return {}
    k = len(methods)
    return {"with_failed": {"n": len(features), "rv": _known(rv_coefficient(matrix[:, :k], matrix[:, k:]))}}


def _correlation(a: Scored, b: Scored) -> dict[str, Any]:
    features, matrix = _joined([a, b])
    entry: dict[str, Any] = {"n": len(features), "pearson": None, "low": None, "high": None}
    if len(features) < MIN_COMMON:
        return entry
    found = pearson(matrix[:, 0], matrix[:, 1])
    return {**entry, "pearson": _known(found.value), "low": _known(found.low), "high": _known(found.high)}


def _joined(columns: Sequence[Scored]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Features that all columns have, ascending, and the matrix of their values."""
    features = columns[0].features
    for column in columns[1:]:
        features = np.intersect1d(features, column.features, assume_unique=True)
    values = [column.values[np.searchsorted(column.features, features)] for column in columns]
    return features, np.stack(values, axis=1)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


LLM_COMPARISON: Stage[Any] = Stage(
    "llm_comparison",
    LlmComparisonStage,
    _run,
    inputs=("scores", "explanation_embeddings"),
    modules=(
        "pipeline.validation.agreement_tables",
        "pipeline.validation.consistency",
        "pipeline.validation.cosines",
        "pipeline.validation.kept_scores",
        "pipeline.validation.stages.features",
        "pipeline.validation.stages.llm_comparison",
        "saeinterp_mcp.analysis.sampling",
        "saeinterp_mcp.validation.tables",
    ),
)
