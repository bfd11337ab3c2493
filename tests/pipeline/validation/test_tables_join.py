"""All tables join on (feature_id, sae_id), and two runs leave the same bytes."""

import hashlib
from itertools import permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from examples.validation.make_world import DEAD, N_FEATURES, NO_DIRECTION
from pipeline.config import Execution
from pipeline.stage import Stage
from pipeline.validation import population
from pipeline.validation.config import ValidationRun
from pipeline.validation.stages.activation_embeddings import ACTIVATION_EMBEDDINGS
from pipeline.validation.stages.activation_similarity import ACTIVATION_SIMILARITY
from pipeline.validation.stages.explanation_alignment import EXPLANATION_ALIGNMENT
from pipeline.validation.stages.pattern_matching import PATTERN_MATCHING
from saeinterp_mcp.validation.tables import BY_NAME
from tests.pipeline.validation.conftest import Made, validated

KEY = ["feature_id", "sae_id"]
EVERY = set(range(N_FEATURES))
FEATURES = {
    "activation_examples": EVERY,
    "explanation_embeddings": EVERY,
    "features": EVERY,
    "scores": EVERY,
    "activation_embeddings": EVERY,
    "activation_example_similarity": EVERY,
    "interfeature_similarity": EVERY - {DEAD, NO_DIRECTION},
    "explanation_alignment": EVERY,
    "ex_act_pattern_matching": EVERY,
}
"""Table to the features that it holds."""
ONE_ROW = (
    "activation_embeddings",
    "activation_example_similarity",
    "explanation_alignment",
    "ex_act_pattern_matching",
)


def keys(made: Made, table: str) -> pl.DataFrame:
    return made.folder.table(table).select(KEY).collect()


def test_every_table_with_features_is_joined_here(by_words: Made) -> None:
    there = {
        name for name, table in BY_NAME.items() if "feature_id" in table.schema and by_words.folder.has(name)
    }
    assert there == set(FEATURES)


@pytest.mark.parametrize(("left", "right"), list(permutations(FEATURES, 2)))
def test_every_pair_of_tables_joins_without_a_cast(by_words: Made, left: str, right: str) -> None:
    a, b = keys(by_words, left), keys(by_words, right)
    assert set(a["feature_id"]) == FEATURES[left]
    joined = a.join(b, on=KEY, how="inner")
    rows = dict(b.group_by("feature_id").len().iter_rows())
    assert len(joined) == sum(rows.get(feature, 0) for feature in a["feature_id"].to_list())
    assert set(joined["feature_id"]) == FEATURES[left] & FEATURES[right]
    if right in ONE_ROW:
        assert len(a.join(b, on=KEY, how="left")) == len(a)


def test_one_spelling_of_the_sae_in_all_of_them(by_words: Made) -> None:
    for table in (*FEATURES, "prompts"):
        found = by_words.folder.table(table).select(pl.col("sae_id").cast(pl.String).unique()).collect()
        assert found["sae_id"].to_list() == ["planted--sae--layers.5"]


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_two_runs_leave_equal_bytes(by_words: Made, tmp_path: Path) -> None:
    assert bytes_of(validated(tmp_path).folder.path) == bytes_of(by_words.folder.path)


def test_runs_with_vectors_leave_equal_bytes(embedded: Made, tiny_embedder: str, tmp_path: Path) -> None:
    again = validated(tmp_path, tiny_embedder)
    assert bytes_of(again.folder.path) == bytes_of(embedded.folder.path)


def run(stage: Stage[Any], made: Made, out: Path, workers: int = 1, stop: Any = None) -> None:
    """One stage over the inputs of a world that was validated, in blocks of 16 features."""
    out.mkdir(exist_ok=True)
    config = stage.config_of(ValidationRun.load(made.config))
    inputs = {name: made.work / name for name in stage.inputs}
    stage.run(config, inputs, out, stop or (lambda done, total: None), Execution(workers=workers))


def test_two_workers_leave_the_bytes_of_one(
    by_words: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population, "BLOCK", 16)
    for stage in (ACTIVATION_SIMILARITY, PATTERN_MATCHING):
        for workers in (1, 2):
            run(stage, by_words, tmp_path / f"{stage.name}-{workers}", workers)
        assert bytes_of(tmp_path / f"{stage.name}-1") == bytes_of(tmp_path / f"{stage.name}-2")


SHARDED = (ACTIVATION_EMBEDDINGS, ACTIVATION_SIMILARITY, EXPLANATION_ALIGNMENT, PATTERN_MATCHING)


@pytest.mark.parametrize("stage", SHARDED, ids=lambda stage: stage.name)
def test_a_stage_that_was_stopped_goes_on_and_leaves_the_same_bytes(
    embedded: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage[Any]
) -> None:
    monkeypatch.setattr(population, "BLOCK", 16)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(stage, embedded, whole)

    def stop(done: int, total: int) -> None:
        if len(list((parts / "shards").glob("*.parquet"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stage, embedded, parts, stop=stop)
    assert len(list((parts / "shards").glob("*.parquet"))) == 2
    first = parts / "shards" / f"{next((parts / 'shards').glob('*-00000.parquet')).name}"
    made_at = first.stat().st_mtime_ns
    seen: list[int] = []
    run(
        stage,
        embedded,
        parts,
        stop=lambda done, total: seen.append(first.stat().st_mtime_ns) if first.exists() else None,
    )
    assert set(seen) == {made_at}, "what was done was not done again"
    assert bytes_of(parts) == bytes_of(whole)
