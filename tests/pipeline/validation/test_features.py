"""The stage `features`: a row for each feature and explainer, with likenesses and scores nested in it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from pipeline.validation import cosines
from pipeline.validation.config import DataSource, ExplanationEmbeddingsConfig, ScoresConfig
from pipeline.validation.cosines import Explained, compare
from pipeline.validation.stages.explanation_embeddings import EXPLANATION_EMBEDDINGS
from pipeline.validation.stages.features import FEATURES
from pipeline.validation.stages.scores import SCORES
from saeinterp_mcp.validation.tables import FEATURES as TABLE
from tests.pipeline.validation.results_folder import (
    given_table,
    left_by,
    rows,
    sidecar,
    source,
    trials,
    write_results,
)

N = 24
UNPARSED = "Explanation could not be parsed."
Floats = NDArray[np.float64]


def directions(seed: int) -> Floats:
    """(N, 8) of length 1."""
    found = np.random.default_rng(seed).normal(size=(N, 8))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def planted(tmp_path: Path) -> tuple[Path, Floats, Floats]:
    """Explainers A and B say nearly the same of each feature; B has no explanation of 5, and an unparsed one of 7."""
    a = directions(0)
    b = a + 0.1 * directions(1)
    entries = [
        {
            "feature_id": i,
            "llm_explainer": name,
            "explanation_text": UNPARSED if (name, i) == ("B", 7) else f"{name}{i}",
            "embedding": vectors[i].tolist(),
        }
        for name, vectors in (("A", a), ("B", b))
        for i in range(N)
        if (name, i) != ("B", 5)
    ]
    section = ExplanationEmbeddingsConfig(given=given_table(tmp_path / "given.parquet", entries))
    out = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "explained", explanation_embeddings=section)
    return out, a.astype(np.float32).astype(float), b.astype(np.float32).astype(float)


def cosine(x: Floats, y: Floats) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_likeness_is_the_cosine_and_its_percentile_that_among_different_features(tmp_path: Path) -> None:
    explained, a, b = planted(tmp_path)
    out = left_by(FEATURES, tmp_path / "out", {"explanation_embeddings": explained})
    known = [i for i in range(N) if i not in (5, 7)]
    random = [cosine(a[i], b[j]) for i in range(N) for j in known if i != j]
    for i in known:
        for mine, other in (("A", "B"), ("B", "A")):
            (row,) = rows(out, "features", feature_id=i, llm_explainer=mine)
            (found,) = row["semantic_similarity"]
            expected = cosine(a[i], b[i])
            assert found["explainer"] == other
            assert found["cosine_similarity"] == pytest.approx(expected, abs=1e-6)
            assert found["percentile"] == pytest.approx(100 * np.mean(np.array(random) < expected), abs=0.01)
            assert found["percentile"] > 99


def test_what_is_no_explanation_has_no_likeness(tmp_path: Path) -> None:
    explained, _, _ = planted(tmp_path)
    out = left_by(FEATURES, tmp_path / "out", {"explanation_embeddings": explained})
    assert [row["semantic_similarity"] for row in rows(out, "features", feature_id=7)] == [[], None]
    assert [row["status"] for row in rows(out, "features", feature_id=7)] == ["ok", "unparsed"]
    assert [row["semantic_similarity"] for row in rows(out, "features", feature_id=5)] == [[]]


def test_under_twenty_features_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    vectors = directions(0)
    entries = [
        {
            "feature_id": i,
            "llm_explainer": name,
            "explanation_text": f"{i}",
            "embedding": vectors[i].tolist(),
        }
        for name in "AB"
        for i in range(19)
    ]
    section = ExplanationEmbeddingsConfig(given=given_table(tmp_path / "given.parquet", entries))
    explained = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "explained", explanation_embeddings=section)
    out = left_by(FEATURES, tmp_path / "out", {"explanation_embeddings": explained})
    (found,) = rows(out, "features", feature_id=3, llm_explainer="A")[0]["semantic_similarity"]
    assert found == {"explainer": "B", "cosine_similarity": pytest.approx(1), "percentile": None}


def test_of_many_features_pairs_are_drawn_and_never_of_one_feature() -> None:
    vectors = np.eye(300, dtype=np.float32)
    mine = Explained(np.arange(300), np.arange(300))
    one, again = (compare(vectors, mine, mine, seed, ("A", "B")) for seed in (0, 0))
    assert len(one.random) == cosines.N_RANDOM < 300 * 299
    assert one.random.max() == 0  # of one feature it would be 1
    np.testing.assert_array_equal(one.random, again.random)
    assert one.percentiles is not None
    assert set(one.percentiles.tolist()) == {100.0}


def test_ties_count_half() -> None:
    pair = cosines.Pair(np.arange(2), np.array([0.5, 0.2]), np.array([0.1, 0.2, 0.2, 0.9]))
    assert pair.percentiles is not None
    assert pair.percentiles.tolist() == [75.0, 50.0]


def test_nearest_features_come_nearest_first_and_places_without_one_are_left_out(tmp_path: Path) -> None:
    explained, _, _ = planted(tmp_path)
    folder = tmp_path / "decoder"
    folder.mkdir()
    missing = 2**32 - 1
    np.savez(
        folder / "neighbours.npz",
        features=np.array([[4, 2], [0, missing], [missing, missing]], np.uint32),
        cosines=np.array([[0.3, 0.6], [0.5, np.nan], [np.nan, np.nan]], np.float32),
    )
    inputs = {"explanation_embeddings": explained, "decoder_similarities": folder}
    out = left_by(FEATURES, tmp_path / "out", inputs)
    found = [
        rows(out, "features", feature_id=i, llm_explainer="B")[0]["decoder_similarity"] for i in range(4)
    ]
    assert found[0] == [
        {"feature_id": 2, "cosine_similarity": pytest.approx(0.6)},
        {"feature_id": 4, "cosine_similarity": pytest.approx(0.3)},
    ]
    assert [one["feature_id"] for one in found[1]] == [0]
    assert found[2:] == [None, None]


def scored(tmp_path: Path, *, compat: bool = False) -> tuple[dict[str, Path], tuple[DataSource, ...]]:
    """Two sources of explainer A with scorers of their own; the second one explained feature 2 in other words."""
    texts = {1: "one", 2: "two", 3: UNPARSED, 4: "four"}
    fuzz = {i: trials(8, 2, 9, 1) for i in texts}
    first = write_results(
        tmp_path / "a_e-p_s", texts, {"fuzz": fuzz, "detection": {1: trials(9, 1, 1, 9)}}, "A"
    )
    other = {i: trials(6, 4, 6, 4) for i in (1, 2, 3)}
    second = write_results(tmp_path / "a_e-q_s", {**texts, 2: "another"}, {"fuzz": other}, "A")
    sources = (source(first, llm_scorer="Q"), source(second, llm_scorer="P"))
    given: dict[str, Any] = {"data_sources": sources, "compat": compat}
    inputs = {
        "explanation_embeddings": left_by(EXPLANATION_EMBEDDINGS, tmp_path / "explained", **given),
        "scores": left_by(SCORES, tmp_path / "scores", **given),
    }
    return inputs, sources


def test_scores_are_nested_by_scorer_in_the_order_of_names(tmp_path: Path) -> None:
    inputs, sources = scored(tmp_path)
    out = left_by(FEATURES, tmp_path / "out", inputs, data_sources=sources)
    (row,) = rows(out, "features", feature_id=1)
    p, q = row["scores"]
    assert (p["scorer"], p["fuzz"], p["detection"], p["n_fuzz"], p["n_detection"]) == (
        "P",
        0.6,
        None,
        20,
        None,
    )
    assert (q["scorer"], q["fuzz"], q["detection"]) == ("Q", pytest.approx(0.85), 0.5)
    assert q["fuzz_low"] < 0.85 < q["fuzz_high"]
    assert (q["simulation"], q["embedding"], q["surprisal"], q["n_failed"]) == (None, None, None, 0)


def test_scores_of_other_words_are_left_out(tmp_path: Path) -> None:
    inputs, sources = scored(tmp_path)
    out = left_by(FEATURES, tmp_path / "out", inputs, data_sources=sources)
    (row,) = rows(out, "features", feature_id=2)
    assert [one["scorer"] for one in row["scores"]] == ["Q"]
    assert sidecar(out, "features")["warnings"] == [
        "1 scores left out: they are of other words than the explanation that is kept"
    ]


def test_an_explanation_that_failed_has_no_scores_but_counts_of_trials(tmp_path: Path) -> None:
    inputs, sources = scored(tmp_path)
    out = left_by(FEATURES, tmp_path / "out", inputs, data_sources=sources)
    (row,) = rows(out, "features", feature_id=3)
    assert row["status"] == "unparsed"
    assert [(one["scorer"], one["fuzz"], one["fuzz_low"], one["n_fuzz"]) for one in row["scores"]] == [
        ("P", None, None, 20),
        ("Q", None, None, 20),
    ]


def test_compat_keeps_scores_of_failed_explanations_and_other_words(tmp_path: Path) -> None:
    inputs, sources = scored(tmp_path, compat=True)
    out = left_by(FEATURES, tmp_path / "out", inputs, data_sources=sources, compat=True)
    assert [[one["fuzz"] for one in row["scores"]] for row in rows(out, "features")] == [
        [0.6, 0.85],
        [0.6, 0.85],
        [0.6, 0.85],
        [0.85],
    ]


def test_of_two_tests_alike_the_first_source_of_the_config_counts(tmp_path: Path) -> None:
    inputs, sources = scored(tmp_path)
    alike = (sources[0], sources[1].model_copy(update={"llm_scorer": "Q"}))
    for name, order, expected in (("one", alike, 0.85), ("two", alike[::-1], 0.6)):
        scores = left_by(SCORES, tmp_path / f"{name}-scores", data_sources=order)
        out = left_by(FEATURES, tmp_path / name, inputs | {"scores": scores}, data_sources=order)
        (row,) = rows(out, "features", feature_id=1)
        assert [one["fuzz"] for one in row["scores"]] == [pytest.approx(expected)]
        said = sidecar(out, "features")["warnings"]
        assert any("an earlier source has one of the same kind" in one for one in said)


def test_a_feature_without_scores_keeps_its_row(tmp_path: Path) -> None:
    inputs, sources = scored(tmp_path)
    only = ScoresConfig(scoring_methods=("simulation",))
    none = left_by(SCORES, tmp_path / "none", data_sources=sources, scores=only)
    for name, given in (("empty", inputs | {"scores": none}), ("without", {**inputs})):
        if name == "without":
            del given["scores"]
        out = left_by(FEATURES, tmp_path / name, given, data_sources=sources)
        assert [row["scores"] for row in rows(out, "features")] == [[], [], [], []]


def test_the_table_joins_scores_and_is_the_same_twice(tmp_path: Path) -> None:
    inputs, sources = scored(tmp_path)
    one, two = (left_by(FEATURES, tmp_path / name, inputs, data_sources=sources) for name in ("one", "two"))
    assert (one / TABLE.file).read_bytes() == (two / TABLE.file).read_bytes()
    features = pl.read_parquet(one / TABLE.file)
    scores = pl.read_parquet(inputs["scores"] / "scores.parquet")
    joined = features.join(scores, on=["feature_id", "sae_id", "llm_explainer"], how="inner")
    assert len(joined) == len(scores)
    assert json.loads((one / f"{TABLE.file}.metadata.json").read_text(encoding="utf-8"))["total_rows"] == 4
