"""A store of 30 features with tables beside it, whose scores and explanations are worked out on paper.

Explainers `lab/alpha` (all features but 29) and `beta` (features 0 to 24; 20 to 24 unparsed), scorers `judge` and
`other` (features 0 to 19 only). alpha's fuzz by judge is 0.4 + 0.02 f; other says 0.1 more, beta has 0.2 less.
Detection is fuzz - 0.1. Cosine of the two explanations of a feature: 0.5 + 0.02 f.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.validation.publish import publish_tables
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World, WorldSample
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.validation.folder import folder_beside
from saeinterp_mcp.validation.tables import BY_NAME
from tests.worlds import import_world

N = 30
ALPHA, BETA = "lab/alpha", "beta"
SAE = "planted--sae"
SAMPLES = 40


def world() -> World:
    """A set world in which feature f fires on every sample from f on, with its number + 1."""
    samples = tuple(WorldSample((f"t{i % 7}", f"u{i}"), unit=f"unit{i}") for i in range(SAMPLES))
    fires = {(f, i, 0): f + 1.0 for f in range(N - 1) for i in range(f, SAMPLES)}
    return World(kind="set", n_features=N, samples=samples, activations=fires, name="planted")


def fuzz(feature: int, explainer: str, scorer: str) -> float:
    return 0.4 + 0.02 * feature - 0.2 * (explainer == BETA) + 0.1 * (scorer == "other")


def status(feature: int, explainer: str) -> str:
    return "unparsed" if explainer == BETA and feature >= 20 else "ok"


def explained() -> list[tuple[int, str]]:
    return [(f, ALPHA) for f in range(N - 1)] + [(f, BETA) for f in range(25)]


def scores() -> list[dict[str, Any]]:
    rows = []
    for f, explainer in explained():
        for scorer in ("judge", "other"):
            if scorer == "other" and f >= 20:
                continue
            for method, less in (("fuzz", 0.0), ("detection", 0.1)):
                score = fuzz(f, explainer, scorer) - less
                test = {"feature_id": f, "sae_id": SAE, "llm_explainer": explainer, "llm_scorer": scorer}
                counts = {"n": 100 if scorer == "judge" else 40, "n_failed": 25 if scorer == "judge" else 0}
                test |= counts | {"chance_low": 0.4, "chance_high": 0.6, "held_out": "leaked"}
                rows.append({**test, "data_source": f"{explainer}_s", "method": method, "score": score})
    # a test without a score
    rows.append({**rows[0], "method": "simulation", "score": None})
    return rows


def cosine(feature: int) -> float:
    return 0.5 + 0.02 * feature


def tables() -> dict[str, pl.DataFrame]:
    key = {"sae_id": SAE, "explanation_method": "quantiles"}
    said = [
        {**key, "feature_id": f, "data_source": e, "llm_explainer": e, "status": status(f, e), "vector": None}
        | {"explanation_text": f"says {e} of {f}"}
        for f, e in explained()
    ]
    near = {f: [{"feature_id": (f + 1) % N, "cosine_similarity": f / N}] for f in range(N)}
    features = []
    for f, e in explained():
        other = BETA if e == ALPHA else ALPHA
        both = f < 20
        similar = [{"explainer": other, "cosine_similarity": cosine(f), "percentile": 90.0}] if both else []
        features.append(
            {
                **key,
                "feature_id": f,
                "llm_explainer": e,
                "decoder_similarity": near[f],
                "status": status(f, e),
            }
            | {"semantic_similarity": similar, "explanation_text": f"says {e} of {f}", "scores": []}
        )
    alike = [
        {"feature_id": f, "sae_id": SAE, "mean_pairwise_similarity": f / N, "semantic_percentile": 3.0 * f}
        | {"max_jaccard": 1 - f / N, "lexical_percentile": None}
        for f in range(N)
    ]
    matched = []
    for f in range(N):
        rates = [(ALPHA, 4, f % 5, 80.0), (BETA, 0 if f >= 20 else 2, 0, None if f >= 20 else 40.0)]
        by = [
            {"explainer_name": e, "num_tested": n, "num_matches": m, "match_percentile": p}
            | {"match_rate": m / n if n else None}
            for e, n, m, p in rates
        ]
        tested = sum(n for _, n, _, _ in rates)
        matched.append(
            {"feature_id": f, "sae_id": SAE, "pattern_type": "none", "match_rate": (f % 5) / tested}
            | {"match_percentile": 70.0, "num_tested": tested, "num_matches": f % 5, "explainers": by}
        )
    rows: dict[str, list[dict[str, Any]]] = {
        "explanation_embeddings": said,
        "features": features,
        "scores": scores(),
        "activation_example_similarity": alike,
        "ex_act_pattern_matching": matched,
    }
    return {name: frame(name, of) for name, of in rows.items()}


def frame(name: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema = BY_NAME[name].schema
    return pl.DataFrame([{column: row.get(column) for column in schema} for row in rows], schema=schema)


def make(folder: Path, given: dict[str, pl.DataFrame] | None = None) -> Store:
    """The store, and its tables beside it."""
    store = open_store(import_world(world(), folder))
    place = folder_beside(folder / "store")
    publish_tables(place, "planted", SAE, N, store.lineage, tables() if given is None else given)
    return store


def directions(n: int, d: int = 8, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random ones of length 1."""
    drawn = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
