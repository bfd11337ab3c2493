"""Folders of explanations and scores as delphi writes them, made of a few numbers by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config import Execution
from pipeline.stage import Stage
from pipeline.validation.config import (
    DataSource,
    EmbedderConfig,
    ExplanationEmbeddingsConfig,
    LlmComparisonConfig,
    ScoresConfig,
)

HOOKPOINT = "layers.3"
SAE_ID = "an--sae--layers.3"


def trials(hits: int, misses: int, rejections: int, false_alarms: int) -> list[dict[str, Any]]:
    """Items of fuzz or detection, as many of each kind; those that fire are of quantiles 0 and 1 in turn."""
    said = [(True, True)] * hits + [(True, False)] * misses
    said += [(False, False)] * rejections + [(False, True)] * false_alarms
    return [item(fires, answer, i % 2 if fires else -1.0) for i, (fires, answer) in enumerate(said)]


def item(
    fires: bool, answer: bool | None, distance: float, probability: float | None = None
) -> dict[str, Any]:
    """One trial; no answer is one that could not be read."""
    return {
        "str_tokens": ["a"],
        "activations": [1.0 if fires else 0.0],
        "distance": distance,
        "activating": fires,
        "prediction": answer,
        "probability": probability,
        "correct": None if answer is None else answer == fires,
    }


def failed(n: int, fires: bool = True) -> list[dict[str, Any]]:
    """As many trials without an answer."""
    return [item(fires, None, 0 if fires else -1.0)] * n


def similarities(pairs: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    """Items of embedding: (distance, similarity)."""
    return [{"text": "a", "distance": distance, "similarity": value} for distance, value in pairs]


def simulated(groups: Sequence[tuple[int, float | str]], n: int = 4) -> list[dict[str, Any]]:
    """Groups of a simulation: (distance, correlation)."""
    return [
        {
            "distance": distance,
            "scored_sequence_simulations": [{"true_activations": [0.0] * n}],
            "ev_correlation_score": value,
            "rsquared_score": 0,
            "absolute_dev_explained_score": 0,
        }
        for distance, value in groups
    ]


def write_results(
    folder: Path,
    explanations: Mapping[int, str],
    scores: Mapping[str, Mapping[int, Any]] | None = None,
    explainer: str = "an explainer",
) -> Path:
    """A run directory; `scores` by method and feature."""
    for feature, text in explanations.items():
        _write(folder / "explanations" / f"{HOOKPOINT}_latent{feature}.txt", json.dumps(text))
    for method, of_features in (scores or {}).items():
        for feature, items in of_features.items():
            _write(folder / "scores" / method / f"{HOOKPOINT}_latent{feature}.txt", json.dumps(items))
    _write(
        folder / "run_config.json",
        json.dumps({"sparse_model": "an/sae", "hookpoints": [HOOKPOINT], "explainer_model": explainer}),
    )
    return folder


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def source(folder: Path, **fields: Any) -> DataSource:
    """A data source named as its folder."""
    return DataSource(name=folder.name, path=folder, **fields)


def left_by(
    stage: Stage[Any], out: Path, inputs: Mapping[str, Path] | None = None, workers: int = 1, **sections: Any
) -> Path:
    """The folder that a stage leaves when it is run alone; sections as its config names them."""
    out.mkdir(parents=True, exist_ok=True)
    defaults: dict[str, Any] = {
        "sae_id": SAE_ID,
        "compat": False,
        "seed": 0,
        "data_sources": (),
        "scores": ScoresConfig(),
        "explanation_embeddings": ExplanationEmbeddingsConfig(),
        "embedder": EmbedderConfig(model="none"),
        "llm_comparison": LlmComparisonConfig(n_permutations=99),
        "work": out.parent / "work",
    }
    known = stage.config.model_fields
    config = stage.config(**{name: value for name, value in (defaults | sections).items() if name in known})
    stage.external(config)
    stage.run(config, inputs or {}, out, lambda done, total: None, Execution(workers=workers))
    return out


def sidecar(folder: Path, table: str) -> dict[str, Any]:
    """What stands beside a table."""
    content: dict[str, Any] = json.loads(
        (folder / f"{table}.parquet.metadata.json").read_text(encoding="utf-8")
    )
    return content


def rows(folder: Path, table: str, **where: object) -> list[dict[str, Any]]:
    """Rows of a table that a stage left."""
    frame = pl.read_parquet(folder / f"{table}.parquet")
    return [row for row in frame.to_dicts() if all(row[name] == value for name, value in where.items())]


def given_table(path: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """An `explanation_embeddings.parquet` as SAE_vis wrote it; what an entry does not say is of one X."""
    about = {"sae_id": "an/sae/layers.3", "data_source": "x_e-y_s", "llm_explainer": "X"}
    schema: dict[str, Any] = {
        "feature_id": pl.UInt32,
        "sae_id": pl.Categorical,
        "data_source": pl.Categorical,
        "llm_explainer": pl.Categorical,
        "explanation_text": pl.String,
        "embedding": pl.List(pl.Float32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame([about | dict(one) for one in entries], schema=schema).write_parquet(path)
    return path
