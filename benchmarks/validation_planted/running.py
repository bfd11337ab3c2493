"""`validate` over explanations written as folders, one explainer a kind; every explanation's row read back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks.validation_planted.explanations import SHUFFLED, Kind, Told
from pipeline.config import Execution
from pipeline.progress import Reporter
from pipeline.validation.run import run_validation
from pipeline.validation.stages import VALIDATION_STAGES
from pipeline.validation.vectors import open_vectors
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.patterns.phrases import is_literal, terms
from saeinterp_mcp.patterns.records import Matched
from saeinterp_mcp.patterns.words import SIGNS
from saeinterp_mcp.validation.baselines import published_baselines
from saeinterp_mcp.validation.claims import claims_of
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.tables import PATTERN_MATCHING

HOOKPOINT = "layers.0"
NEEDED = (
    "activation_examples",
    "activation_embeddings",
    "activation_similarity",
    "explanation_embeddings",
    "explanation_alignment",
    "pattern_matching",
)
STAGES = tuple(stage for stage in VALIDATION_STAGES if stage.name in NEEDED)
"""What decides the table; scores, neighbours and maps are left out."""
N_SHUFFLED = 100
MIN_EXAMPLES = 8
"""Examples of a feature that true explanations of others are given to: as many as are matched."""


class Outcome(NamedTuple):
    """What became of one explanation."""

    feature: int
    kind: Kind
    set: str
    true: str
    n_tested: int
    by_words: int
    """Phrases that match lexically, some of them by meaning too."""
    by_meaning: int
    n_matched: int
    rate: float | None
    by_chance: float | None
    percentile: float | None
    n_literal: int = 0
    """Tested phrases that quote a text or name a sign (comma, underscore)."""
    literal_matched: int = 0


def write_sources(folder: Path, told: Sequence[Told]) -> list[dict[str, str]]:
    """A folder of explanations for each kind; the `data_sources` of a config."""
    kinds = list(dict.fromkeys(one.kind for one in told))
    for kind in kinds:
        explanations = folder / kind / "explanations"
        explanations.mkdir(parents=True, exist_ok=True)
        for old in explanations.iterdir():
            old.unlink()
        for one in told:
            if one.kind == kind:
                path = explanations / f"{HOOKPOINT}_latent{one.feature}.txt"
                path.write_text(json.dumps(one.text, ensure_ascii=False), encoding="utf-8")
    return [{"name": kind, "path": kind, "llm_explainer": kind} for kind in kinds]


def write_config(folder: Path, name: str, told: Sequence[Told], **sections: Any) -> Path:
    """The sources and `validate.yaml`; its path."""
    config: dict[str, Any] = {
        "name": name,
        "sae_id": f"{name}/sae",
        "out": "out",
        "work": "work",
        "data_sources": write_sources(folder, told),
        "activation_embeddings": {"examples_per_quantile": 2},
        "explanation_embeddings": {"labels": False},
        **sections,
    }
    path = folder / "validate.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def validated(config: Path, progress: Reporter | None = None, workers: int = 1) -> Validation:
    """Run the stages and open what they published."""
    return Validation(
        run_validation(config, execution=Execution(workers=workers), progress=progress, stages=STAGES)
    )


def with_shuffled(folder: Validation, told: Sequence[Told], seed: int) -> list[Told]:
    """The explanations, and true ones dealt in turn to features drawn from those that are not in the list."""
    listed = {one.feature for one in told}
    choices = n_examples_of(folder)
    free = np.array([f for f, n in choices.items() if n >= MIN_EXAMPLES and f not in listed])
    drawn = np.sort(rng(seed, "shuffled").choice(free, N_SHUFFLED, replace=False)).tolist()
    true = [one for one in told if one.kind == "true"]
    dealt = [true[i % len(true)] for i in range(len(drawn))]
    return [
        *told,
        *(one._replace(feature=int(f), kind=SHUFFLED) for f, one in zip(drawn, dealt, strict=True)),
    ]


def n_examples_of(folder: Validation) -> dict[int, int]:
    """Feature to its chosen examples."""
    frame = folder.table("activation_embeddings").select("feature_id", "prompt_ids").collect()
    return dict(zip(frame["feature_id"].to_list(), frame["prompt_ids"].list.len().to_list(), strict=True))


def outcomes(folder: Validation, told: Sequence[Told], work: Path, model: str | None) -> list[Outcome]:
    """Every explanation's row of `explainers` in the table, and its phrases.

    The table has `match_rate_by_chance` of all explanations of a feature together; that of one is asked of the server's
    own baseline, which has to come to the rate and the percentile that the stage wrote.
    """
    frame = folder.table(PATTERN_MATCHING.name).collect()
    rows = {row["feature_id"]: row for row in frame.iter_rows(named=True)}
    published = published_baselines(folder)
    vectors = open_vectors(work, model)
    found = []
    for one in told:
        row = rows[one.feature]
        (mine,) = (entry for entry in row["explainers"] if entry["explainer_name"] == one.kind)
        phrases = [p for p in row["phrases"] if p["explainer_name"] == one.kind]
        types = [p["match_type"] for p in phrases]
        literal = [p["match_type"] for p in phrases if p["match_type"] and _is_literal(p["phrase_text"])]
        claims = claims_of([(one.kind, one.text)], None if vectors is None else vectors.of)
        settings = published.baselines.settings
        group = published.reader.groups([one.feature], settings.per_quantile)[one.feature]
        (asked,) = published.baselines.match.match(claims, group, settings.percentile)
        _check(one, asked, mine)
        found.append(
            Outcome(
                feature=one.feature,
                kind=one.kind,
                set=one.set,
                true=one.true,
                n_tested=mine["num_tested"],
                by_words=sum(t in ("lexical", "both") for t in types),
                by_meaning=sum(t in ("semantic", "both") for t in types),
                n_matched=mine["num_matches"],
                rate=mine["match_rate"],
                by_chance=asked.rate_by_chance,
                percentile=mine["match_percentile"],
                n_literal=len(literal),
                literal_matched=sum(t != "none" for t in literal),
            )
        )
    return found


def _is_literal(phrase: str) -> bool:
    return any(is_literal(term) or term in SIGNS for term in terms(phrase))


def _check(one: Told, asked: Matched, row: dict[str, Any]) -> None:
    for name, here, there in (
        ("match_rate", asked.rate, row["match_rate"]),
        ("match_percentile", asked.rate_percentile, row["match_percentile"]),
    ):
        same = here == there or (here is not None and there is not None and abs(here - there) < 1e-4)
        assert same, (
            f"{name} of {one.kind} of feature {one.feature}: the server says {here}, the table {there}"
        )
