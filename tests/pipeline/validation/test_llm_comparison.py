"""How far scorers and explainers agree: every coefficient by a second formula, and a planted world."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.validation.agreement_tables import Scored, agreement_tables
from pipeline.validation.config import DataSource, ExplanationEmbeddingsConfig
from pipeline.validation.consistency import (
    agreement,
    consistency,
    consistency_of_sae_vis,
    largest_spread,
    mean_of_known,
    pearson,
    rv_coefficient,
    rv_of_shapes,
    z_scores,
)
from pipeline.validation.stages.explanation_embeddings import EXPLANATION_EMBEDDINGS
from pipeline.validation.stages.llm_comparison import FILE, LLM_COMPARISON, _joined
from pipeline.validation.stages.scores import SCORES
from saeinterp_mcp.analysis.sampling import rng
from tests.pipeline.validation.results_folder import (
    given_table,
    left_by,
    similarities,
    source,
    trials,
    write_results,
)

Floats = NDArray[np.float64]
N = 40


def correlated(n: int = 200, noise: float = 0.5) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    return x, x + noise * generator.normal(size=(n, 2))


def test_rv_is_that_of_configurations() -> None:
    x, y = correlated()
    # Robert and Escoufier: tr(S T) / sqrt(tr(S^2) tr(T^2)) of S = XX', T = YY', centred
    s, t = ((m - m.mean(0)) @ (m - m.mean(0)).T for m in (x, y))
    assert rv_coefficient(x, y) == pytest.approx(
        np.trace(s @ t) / math.sqrt(np.trace(s @ s) * np.trace(t @ t))
    )
    assert rv_coefficient(x, x) == pytest.approx(1)
    turned = x @ np.array([[0.0, 3.0], [-3.0, 0.0]]) + 7
    assert rv_coefficient(x, turned) == pytest.approx(1)


def test_of_one_column_it_is_the_square_of_pearsons_r() -> None:
    x, y = correlated()
    r = stats.pearsonr(x[:, 0], y[:, 0]).statistic
    assert rv_coefficient(x[:, :1], y[:, :1]) == pytest.approx(r**2)


def test_shuffled_rows_have_no_rv_and_the_number_of_sae_vis_does_not_see_them() -> None:
    x, y = correlated(2000)
    shuffled = y[np.random.default_rng(1).permutation(len(y))]
    assert rv_coefficient(x, y) > 0.7
    assert rv_coefficient(x, shuffled) < 0.01
    assert rv_of_shapes(x, shuffled) == pytest.approx(rv_of_shapes(x, y))
    assert rv_of_shapes(x, shuffled) > 0.95
    assert rv_of_shapes(x, y) == pytest.approx(
        np.linalg.norm((x - x.mean(0)) @ (y - y.mean(0)).T) ** 2
        / np.linalg.norm((x - x.mean(0)).T @ (x - x.mean(0)))
        / np.linalg.norm((y - y.mean(0)).T @ (y - y.mean(0)))
    )


def test_shapes_are_of_rows_cut_to_the_shorter_matrix() -> None:
    x, y = correlated()
    assert rv_of_shapes(x, y[:50]) == pytest.approx(rv_of_shapes(x[:50], y[:50]))


def test_p_is_small_where_rows_belong_together_and_even_where_not() -> None:
    x, y = correlated(40)
    found = agreement(x, y, 99, rng(0, "a"))
    assert found.p == 0.01
    assert found.rv == pytest.approx(rv_coefficient(x, y))
    assert found.shuffled < 0.15
    generator = np.random.default_rng(2)
    unrelated = [
        agreement(generator.normal(size=(30, 2)), generator.normal(size=(30, 2)), 19, rng(i, "b")).p
        for i in range(300)
    ]
    assert 0.02 < np.mean(np.array(unrelated) <= 0.05) < 0.09
    assert np.mean(unrelated) == pytest.approx(0.525, abs=0.05)


def test_what_does_not_vary_has_no_rv() -> None:
    x, y = correlated(20)
    found = agreement(x, np.ones((20, 2)), 9, rng(0))
    assert all(math.isnan(value) for value in found)
    assert math.isnan(rv_of_shapes(x, np.ones((20, 2))))
    assert math.isnan(pearson(x[:, 0], np.ones(20)).value)
    assert rv_coefficient(x, np.c_[y[:, 0], np.ones(20)]) > 0


def test_pearson_and_its_interval_are_those_of_scipy() -> None:
    x, y = correlated(60)
    expected = stats.pearsonr(x[:, 0], y[:, 0])
    interval = expected.confidence_interval(0.95)
    assert pearson(x[:, 0], y[:, 0]) == pytest.approx(
        (expected.statistic, interval.low, interval.high), abs=1e-9
    )
    assert math.isnan(pearson(x[:3, 0], y[:3, 0]).low)


def test_the_largest_spread_is_that_of_half_zeros_and_half_ones() -> None:
    for k in (2, 3, 4, 5, 7):
        extremes = [np.std([1.0] * m + [0.0] * (k - m), ddof=1) for m in range(k + 1)]
        assert largest_spread(k) == pytest.approx(max(extremes))


def test_consistency_does_not_depend_on_other_features_and_that_of_sae_vis_does() -> None:
    values = np.array([[0.5, 0.7, 0.6], [0.2, 0.9, np.nan], [0.4, np.nan, np.nan], [0.5, 0.5, 0.5]])
    found = consistency(values)
    assert found[0] == pytest.approx(1 - 0.1 / math.sqrt(1 / 3))
    assert found[1] == pytest.approx(1 - np.std([0.2, 0.9], ddof=1) / math.sqrt(0.5))
    assert math.isnan(found[2])
    assert found[3] == 1
    assert consistency(values[:1])[0] == found[0]
    assert consistency_of_sae_vis(values)[:2].tolist() == [round(1 - 0.1 / np.std([0.2, 0.9], ddof=1), 3), 0]
    assert consistency_of_sae_vis(values[:1])[0] == 0


def test_z_scores_leave_out_what_is_unknown() -> None:
    assert z_scores(np.array([1.0, 2.0, np.nan, 3.0])).tolist() == [
        -1,
        0,
        pytest.approx(np.nan, nan_ok=True),
        1,
    ]
    assert np.isnan(z_scores(np.array([2.0, 2.0]))).all()
    np.testing.assert_array_equal(mean_of_known(np.array([[1.0, np.nan], [np.nan, np.nan]])), [1.0, np.nan])


def test_rows_are_joined_by_feature_and_not_by_their_places() -> None:
    a = Scored(np.array([1, 2, 5, 9]), np.array([0.1, 0.2, 0.5, 0.9]))
    b = Scored(np.array([2, 5, 7, 9]), np.array([2.0, 5.0, 7.0, 9.0]))
    features, matrix = _joined([a, b])
    assert features.tolist() == [2, 5, 9]
    assert matrix.tolist() == [[0.2, 2.0], [0.5, 5.0], [0.9, 9.0]]


def planted(tmp_path: Path, *, compat: bool = False) -> dict[str, Any]:
    """Features of true quality; scorers P and Q see it, R answers anything. A and B explain alike.

    Feature 0 of A is unparsed, R knows the features from 3 on only, and the embedding knows nothing.
    """
    generator = np.random.default_rng(0)
    quality = generator.integers(4, 17, N)
    texts = {i: "Explanation could not be parsed." if i == 0 else f"text {i}" for i in range(N)}
    sources: list[DataSource] = []
    for scorer in "PQR":
        scores: dict[str, dict[int, Any]] = {"fuzz": {}, "detection": {}, "embedding": {}}
        for i in range(3 if scorer == "R" else 0, N):
            for method in ("fuzz", "detection"):
                seen = quality[i] if scorer in "PQ" else generator.integers(4, 17)
                hits = int(seen + generator.integers(-2, 3))
                scores[method][i] = trials(hits, 20 - hits, 15, 5)
            scores["embedding"][i] = similarities(
                [(0, generator.random()), (1, 0.5), (-1.0, generator.random())]
            )
        folder = write_results(tmp_path / f"a_e-{scorer}_s", texts, scores, "A")
        sources.append(source(folder, llm_scorer=scorer))
    vectors = generator.normal(size=(N, 8))
    entries = [
        {
            "feature_id": i,
            "llm_explainer": name,
            "explanation_text": texts[i] if name == "A" else f"said {i}",
            "embedding": (vectors[i] + 0.1 * j).tolist(),
            "data_source": f"{name}_e-P_s",
        }
        for j, name in enumerate("AB")
        for i in range(N)
    ]
    section = ExplanationEmbeddingsConfig(given=given_table(tmp_path / "given.parquet", entries))
    given: dict[str, Any] = {"data_sources": tuple(sources), "compat": compat}
    inputs = {
        "explanation_embeddings": left_by(
            EXPLANATION_EMBEDDINGS, tmp_path / "explained", explanation_embeddings=section, **given
        ),
        "scores": left_by(SCORES, tmp_path / "scores", **given),
    }
    out = left_by(LLM_COMPARISON, tmp_path / "out", inputs, **given)
    again = left_by(LLM_COMPARISON, tmp_path / "again", inputs, **given)
    assert (out / FILE).read_bytes() == (again / FILE).read_bytes()
    found: dict[str, Any] = json.loads((out / FILE).read_text(encoding="utf-8"))
    return found


def test_scorers_that_see_the_same_agree_and_one_that_answers_anything_does_not(tmp_path: Path) -> None:
    found = planted(tmp_path)
    scorers = found["scorer_consistency"]["A"]
    assert set(scorers) == {"P vs Q", "P vs R", "Q vs R"}
    # rows are joined by feature, and the failed explanation takes no part
    assert (scorers["P vs Q"]["n"], scorers["P vs R"]["n"]) == (N - 1, N - 3)
    assert scorers["P vs Q"]["rv"] > 0.7
    assert scorers["P vs Q"]["p"] == 0.01
    assert scorers["P vs R"]["rv"] < 0.2
    assert scorers["P vs R"]["p"] > 0.05
    assert scorers["P vs Q"]["shuffled"] < 0.15
    correlation = scorers["P vs Q"]["correlations"]["fuzz"]
    assert correlation["low"] < correlation["pearson"] < correlation["high"]
    assert correlation["pearson"] > 0.8
    assert (
        scorers["P vs R"]["correlations"]["fuzz"]["low"]
        < 0
        < scorers["P vs R"]["correlations"]["fuzz"]["high"]
    )
    assert found["metadata"]["n_failed_explanations"] == 1
    with_failed = scorers["P vs Q"]["with_failed"]
    assert with_failed["n"] == N
    assert with_failed["rv"] == pytest.approx(scorers["P vs Q"]["rv"], abs=0.1)
    assert "with_failed" not in scorers["P vs R"]  # R has not seen the one that failed


def test_explainers_agree_beside_texts_of_different_features(tmp_path: Path) -> None:
    pair = planted(tmp_path)["explainer_consistency"]["A vs B"]
    assert (pair["n"], pair["explainers"]) == (N - 1, ["A", "B"])
    assert pair["mean_cosine"] > 0.9
    assert abs(pair["random"]) < 0.2
    assert pair["effect"] == pytest.approx((pair["mean_cosine"] - pair["random"]) / (1 - pair["random"]))
    assert pair["median_percentile"] > 99


def test_the_embedding_is_no_part_of_quality(tmp_path: Path) -> None:
    found = planted(tmp_path)
    columns = found["explanations"]["columns"]
    assert "z_embedding" not in columns
    row = dict(zip(columns, found["explanations"]["rows"][0], strict=True))
    assert (row["feature_id"], row["llm_explainer"]) == (1, "A")
    assert row["overall_score"] == pytest.approx((row["z_fuzz"] + row["z_detection"]) / 2, abs=1e-6)
    assert 0 <= row["llm_scorer_consistency_fuzz"] <= 1
    assert len(found["explanations"]["rows"]) == 2 * N - 1
    feature = dict(zip(found["features"]["columns"], found["features"]["rows"][0], strict=True))
    assert feature["llm_explainer_consistency"] is None  # feature 0: of one of two
    assert feature["cross_explanation_metric_consistency_fuzz"] is None


@pytest.mark.parametrize(("compat", "expected"), [(False, [None, 0.146447]), (True, [0.0, 0.146447])])
def test_an_overall_score_needs_fuzz_and_detection(compat: bool, expected: list[float | None]) -> None:
    """z of detection: 0, 1, -1; of fuzz: none, -0.707107, 0.707107."""
    fuzz = Scored(np.array([1, 2]), np.array([0.4, 0.8]))
    detection = Scored(np.array([0, 1, 2]), np.array([0.5, 0.8, 0.2]))
    given = {("A", "P", "fuzz"): fuzz, ("A", "P", "detection"): detection}
    tables = agreement_tables({"A": np.arange(3)}, given, {}, compat=compat)
    at = tables["explanations"]["columns"].index("overall_score")
    assert [row[at] for row in tables["explanations"]["rows"]][:2] == expected


def test_compat_gives_numbers_alone_and_takes_failed_explanations_in(tmp_path: Path) -> None:
    found = planted(tmp_path, compat=True)
    scorers = found["scorer_consistency"]["A"]
    assert all(isinstance(value, float) for value in scorers.values())
    assert scorers["P vs R"] > 0.4  # where the right one is under .2: shapes of covariances
    assert isinstance(found["explainer_consistency"]["A vs B"], float)
    assert "z_embedding" in found["explanations"]["columns"]
    assert len(found["explanations"]["rows"]) == 2 * N
    assert "n_failed_explanations" in found["metadata"]


def test_too_few_common_features_are_said(tmp_path: Path) -> None:
    texts = {i: f"text {i}" for i in range(6)}
    folders = [
        write_results(
            tmp_path / f"a_e-{s}_s", texts, {"fuzz": {i: trials(i, 9 - i, 5, 5) for i in texts}}, "A"
        )
        for s in "PQ"
    ]
    sources = tuple(source(folder, llm_scorer=scorer) for folder, scorer in zip(folders, "PQ", strict=True))
    inputs = {
        "explanation_embeddings": left_by(EXPLANATION_EMBEDDINGS, tmp_path / "e", data_sources=sources),
        "scores": left_by(SCORES, tmp_path / "s", data_sources=sources),
    }
    out = left_by(LLM_COMPARISON, tmp_path / "out", inputs, data_sources=sources)
    pair = json.loads((out / FILE).read_text(encoding="utf-8"))["scorer_consistency"]["A"]["P vs Q"]
    assert (pair["rv"], pair["p"], pair["metrics"]) == (None, None, [])
    assert pair["reason"] == "6 features have scores of both; at least 10 are needed"
    assert pair["correlations"]["fuzz"] == {"n": 6, "pearson": None, "low": None, "high": None}


def test_without_scores_and_vectors_the_file_says_nothing_and_is_whole(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "a_e-b_s", {1: "one"})
    explained = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "e", data_sources=(source(folder),))
    out = left_by(LLM_COMPARISON, tmp_path / "out", {"explanation_embeddings": explained})
    found = json.loads((out / FILE).read_text(encoding="utf-8"))
    assert (found["explainer_consistency"], found["scorer_consistency"]) == ({}, {})
    assert found["explanations"]["rows"] == [[1, "an explainer", None, None, None, None, None]]
