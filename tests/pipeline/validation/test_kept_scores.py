"""What search and comparisons average is what `features.parquet` holds, where sources say other words or test alike."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from pipeline.validation.run import run_validation
from saeinterp_mcp.validation import comparisons
from saeinterp_mcp.validation.folder import OTHER_TEXTS, Validation
from saeinterp_mcp.validation.metrics import Selected, metric, scores
from tests.pipeline.validation.conftest import STAGES
from tests.pipeline.validation.results_folder import SAE_ID, trials, write_results
from tests.worlds import Quiet

TEXTS = {1: "one", 2: "two", 3: "Explanation could not be parsed.", 4: "four", 5: "five"}
OTHERS = {**TEXTS, 2: "another", 3: "three", 4: "Explanation could not be parsed."}
N = 6


def validated(folder: Path, scorers: tuple[str, str], *, compat: bool = False) -> Validation:
    """Sources z and b of explainer A; b has other words for 2, 3 and 4. By fuzz z hits 8 of 10, b 6; 5 is z's alone."""
    first = {i: trials(8, 2, 9, 1) for i in TEXTS}
    second = {i: trials(6, 4, 6, 4) for i in OTHERS if i != 5}
    sources = [
        {
            "name": name,
            "path": str(write_results(folder / name, texts, {"fuzz": fuzz}, "A")),
            "llm_scorer": by,
        }
        for name, texts, fuzz, by in zip("zb", (TEXTS, OTHERS), (first, second), scorers, strict=True)
    ]
    given = {"name": "planted", "sae_id": SAE_ID, "out": str(folder / "out"), "data_sources": sources}
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump({**given, "embedder": {"model": "none"}, "compat": compat}))
    return Validation(run_validation(config, progress=Quiet(), stages=STAGES))


def nested_means(found: Validation) -> dict[int, float]:
    """Mean of the fuzz scores in `features.parquet`, by feature."""
    means = {}
    for row in found.table("features").collect().iter_rows(named=True):
        known = [one["fuzz"] for one in row["scores"] if one["fuzz"] is not None]
        if known:
            means[row["feature_id"]] = float(np.mean(known))
    return means


@pytest.mark.parametrize(
    ("scorers", "expected"),
    [
        (("P", "Q"), {1: (0.85 + 0.6) / 2, 2: 0.85, 4: 0.85, 5: 0.85}),
        # alike: z is the first of the config, though not by name
        (("P", "P"), {1: 0.85, 2: 0.85, 4: 0.85, 5: 0.85}),
    ],
)
def test_search_averages_the_scores_that_the_tables_keep(
    scorers: tuple[str, str], expected: dict[int, float], tmp_path: Path
) -> None:
    found = validated(tmp_path, scorers)
    assert found.document(OTHER_TEXTS) == {"b": [2, 3, 4]}
    values = metric(found, "score_fuzz", N).values
    searched = {i: float(v) for i, v in enumerate(values) if v == v}
    assert searched == pytest.approx(expected)
    assert searched == pytest.approx(nested_means(found))


def test_scorers_are_compared_over_the_same_words_only(tmp_path: Path) -> None:
    found = validated(tmp_path, ("P", "Q"))
    tests = comparisons.kept_scores(found, np.ones(N, bool), Selected())
    assert tests.select("feature", "scorer", pl.col("score").round(3)).rows() == [
        *((1, "P", 0.85), (1, "Q", 0.6)),
        *((2, "P", 0.85), (4, "P", 0.85), (5, "P", 0.85)),
    ]
    (pair,) = comparisons.compare_scorers(tests)
    assert pair.n == 1


def test_with_compat_scores_of_other_words_count_as_they_do_in_the_tables(tmp_path: Path) -> None:
    found = validated(tmp_path, ("P", "Q"), compat=True)
    assert sorted(scores(found)["feature"].to_list()) == [1, 1, 2, 2, 3, 3, 4, 4, 5]
