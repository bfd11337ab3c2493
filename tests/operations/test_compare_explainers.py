"""compare_explainers: pairs over common features and scorers only, failures as counts, and what store_status says."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from pipeline.validation.publish import publish_tables
from saeinterp_mcp.errors import BadStore, NotInStore, UnknownName
from saeinterp_mcp.operations.compare_explainers import CompareExplainers, compare_explainers
from saeinterp_mcp.operations.store_status import store_status
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import memory_store
from saeinterp_mcp.store.served import ServedStores
from saeinterp_mcp.validation.folder import MANIFEST, EmbedderRecord, FileRecord, folder_beside
from tests.operations.validated import (
    ALPHA,
    BETA,
    SAE,
    N,
    directions,
    frame,
    fuzz,
    make,
    scores,
    tables,
    world,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("validated"))


def rows(found: CompareExplainers, table: str) -> list[dict[str, Any]]:
    one = getattr(found, table)
    return [dict(zip(one.columns, row, strict=True)) for row in one.rows]


def test_explainers_are_compared_over_features_and_scorers_that_both_have(store: Store) -> None:
    """beta's explanations of 20 to 24 failed, so 20 features are common; alpha is 0.2 better on each."""
    (detection, found) = rows(compare_explainers(store), "explainers")
    assert (found["a"], found["b"], found["measure"], found["n"]) == (BETA, ALPHA, "fuzz", 20)
    means = [
        np.mean([np.mean([fuzz(f, e, s) for s in ("judge", "other")]) for f in range(20)])
        for e in (BETA, ALPHA)
    ]
    assert (found["mean_a"], found["mean_b"]) == pytest.approx(tuple(means))
    assert found["value"] == pytest.approx(-0.2)
    assert (found["low"], found["high"]) == pytest.approx((-0.2, -0.2))
    assert detection["mean_a"] == pytest.approx(found["mean_a"] - 0.1)


def noisy(seed: int = 1) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [{**row, "score": row["score"] and row["score"] + 0.1 * generator.normal()} for row in scores()]


def test_a_difference_has_the_interval_of_a_paired_t_test(tmp_path: Path) -> None:
    made = noisy()
    store = make(tmp_path, tables() | {"scores": frame("scores", made)})
    by = {
        (r["feature_id"], r["llm_explainer"], r["llm_scorer"]): r["score"]
        for r in made
        if r["method"] == "fuzz"
    }
    x, y = (
        np.array([np.mean([by[f, e, s] for s in ("judge", "other")]) for f in range(20)])
        for e in (BETA, ALPHA)
    )
    truth = stats.ttest_rel(x, y).confidence_interval()
    found = rows(compare_explainers(store), "explainers")[1]
    assert (found["value"], found["low"], found["high"]) == pytest.approx(((x - y).mean(), *truth), rel=1e-5)
    u, v = (
        np.array([np.mean([by[f, e, s] for e in (BETA, ALPHA)]) for f in range(20)])
        for s in ("judge", "other")
    )
    scorer = rows(compare_explainers(store), "scorers")[1]
    r = stats.pearsonr(u, v)
    assert (scorer["a"], scorer["b"], scorer["measure"], scorer["n"]) == ("judge", "other", "fuzz", 20)
    interval: Any = r.confidence_interval()
    pearson = (r.statistic, *interval)
    assert (scorer["correlation"], scorer["correlation_low"], scorer["correlation_high"]) == pytest.approx(
        pearson, rel=1e-5
    )
    assert scorer["difference"] == pytest.approx((u - v).mean(), rel=1e-5)


def test_under_20_common_features_there_is_a_reason_and_no_number(store: Store) -> None:
    found = compare_explainers(store, "max<=10")
    assert found.n_features == 11, "those that never fire have a maximum of 0"
    for row in [*rows(found, "explainers"), *rows(found, "scorers")]:
        assert row["n"] == 10
        assert row["reason"] == "10 common features; 20 are needed"
        assert {row.get(name) for name in ("value", "difference", "low", "high", "correlation")} == {None}


def test_cells_count_tests_failures_and_scores_below_chance(store: Store) -> None:
    found = {(r["explainer"], r["scorer"], r["measure"]): r for r in rows(compare_explainers(store), "cells")}
    cell = found[ALPHA, "judge", "fuzz"]
    assert (cell["n"], cell["n_null"], cell["trials"], cell["share_failed"]) == (29, 0, 100.0, 0.2)
    assert cell["share_below_chance"] == pytest.approx(5 / 29, rel=1e-5), "0.4 to 0.48"
    assert found[ALPHA, "judge", "simulation"]["n_null"] == 1
    assert found[ALPHA, "judge", "simulation"]["mean"] is None
    assert found[BETA, "other", "fuzz"]["share_failed"] == 0.0
    assert found[BETA, "other", "fuzz"]["n"] == 20


def test_what_is_uneven_is_said(store: Store) -> None:
    found = compare_explainers(store)
    told = " ".join(found.warnings)
    assert "2 pairs compare tests of different numbers of trials" in told
    assert "cells have different n" in told
    assert "5 explanations failed" in told
    assert "not corrected for their number" in found.summary
    assert found.basis == "judged"


def test_rows_are_selected_by_where_as_in_a_search(store: Store) -> None:
    found = compare_explainers(store, "scorer=judge and max>5")
    assert rows(found, "scorers") == []
    assert {row["scorer"] for row in rows(found, "cells")} == {"judge"}
    assert rows(found, "explainers")[0]["n"] == 15, "features 5 to 19"
    with pytest.raises(UnknownName, match="there is no scorer"):
        compare_explainers(store, "scorer=nobody")


def with_vectors(folder: Path) -> tuple[Store, np.ndarray[Any, Any]]:
    """alpha's direction of feature f is v_f, beta's v_f + noise."""
    store = make(folder)
    of = directions(N)
    near = of + 0.4 * directions(N, seed=9)
    vectors = np.concatenate([of, near / np.linalg.norm(near, axis=1, keepdims=True)]).astype(np.float32)
    place = folder_beside(folder / "store")
    said = store.need_validation.table("explanation_embeddings").collect()
    at = pl.col("feature_id") + pl.when(pl.col("llm_explainer").cast(pl.String) == BETA).then(N).otherwise(0)
    said = said.with_columns(vector=at.cast(pl.UInt32))
    publish_tables(place, "planted", SAE, N, store.lineage, {"explanation_embeddings": said})
    (place / "vectors").mkdir()
    np.save(place / "vectors" / "explanations.npy", vectors)
    manifest = store.need_validation.manifest
    size = (place / "vectors" / "explanations.npy").stat().st_size
    record = EmbedderRecord(name="all-MiniLM-L6-v2", fingerprint="0cfc83afb449f81d", dimensions=8)
    files = {**manifest.files, "vectors/explanations.npy": FileRecord(bytes=size, sha256="0" * 64)}
    changed = manifest.model_copy(update={"files": files, "embedder": record})
    temporary = place / "manifest.tmp"
    temporary.write_text(changed.model_dump_json(), encoding="utf-8")
    temporary.replace(place / MANIFEST)
    return store, vectors


def test_meanings_are_beside_those_of_different_features(tmp_path: Path) -> None:
    store, vectors = with_vectors(tmp_path)
    found = rows(compare_explainers(store), "explainers")[0]
    own = np.einsum("ij,ij->i", vectors[:20], vectors[N : N + 20])
    assert (found["measure"], found["n"]) == ("cosine", 20)
    assert found["value"] == pytest.approx(own.mean(), abs=1e-5)
    half = stats.t.ppf(0.975, 19) * own.std(ddof=1) / np.sqrt(20)
    assert (found["low"], found["high"]) == pytest.approx((own.mean() - half, own.mean() + half), abs=1e-5)
    every = vectors[:20] @ vectors[N : N + 20].T
    by_chance = (every.sum() - np.trace(every)) / (20 * 19)
    assert found["by_chance"] == pytest.approx(by_chance, abs=0.02)
    assert found["percentile"] > 95
    assert compare_explainers(store) == compare_explainers(store)
    assert compare_explainers(store, seed=1) != compare_explainers(store)


def test_similar_features_take_stored_explanations_of_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saeinterp_mcp.operations.similar_features import similar_features

    monkeypatch.setenv("SAEINTERP_EMBEDDER", "none")
    store, vectors = with_vectors(tmp_path)
    with pytest.raises(NotInStore):
        similar_features(store, 0, by="explanation")
    monkeypatch.delenv("SAEINTERP_EMBEDDER")
    found = similar_features(store, 0, by="explanation", limit=3)
    both = vectors @ vectors[[0, N]].T
    best = {f: max(both[f].max(), both[N + f].max() if f < 20 else -1) for f in range(1, N - 1)}
    assert [row[0] for row in found.rows] == sorted(best, key=lambda f: -best[f])[:3]
    assert found.rows[0][1] == pytest.approx(max(best.values()), abs=1e-5)
    assert [row[5] for row in found.rows] == [None] * 3, "no labels"
    assert found.rows[0][2] is not None
    assert found.warnings == []


def test_without_tables_it_is_refused_with_how_to_make_them() -> None:
    with pytest.raises(NotInStore, match="`saeinterp-pipeline validate CONFIG` makes them"):
        compare_explainers(memory_store(world()))


def test_the_status_of_a_store_tells_what_lies_beside_it_and_what_is_wrong_with_it(store: Store) -> None:
    (status,) = store_status(ServedStores([store])).stores
    found = status.validation
    assert found is not None
    assert (found.explanations, found.n_features_explained) == ({"ok": 49, "unparsed": 5}, 29)
    assert (found.explainers, found.scorers) == ([BETA, ALPHA], ["judge", "other"])
    assert found.sae_id == SAE
    assert "score_fuzz" in found.metrics
    assert "score_embedding" not in found.metrics, "nobody scored so"
    told = "\n".join(found.warnings)
    assert "5 explanations by beta failed (unparsed, empty or runaway); they are in no mean" in told
    assert "189 of 189 scores are of examples that the explainer may have seen (leaked): optimistic" in told
    assert "20 % of the trials of fuzz for lab/alpha by judge failed" in told or "more cells" in told
    assert "80 % of the scores of fuzz for beta by judge are below chance" in told


def test_a_store_without_tables_has_the_status_it_had() -> None:
    bare = store_status(ServedStores([memory_store(world())])).model_dump(mode="json")
    assert "validation" not in bare["stores"][0]


def test_tables_of_another_store_are_told_of_and_not_used(tmp_path: Path) -> None:
    store = make(tmp_path)
    place = folder_beside(tmp_path / "store") / MANIFEST
    place.write_text(place.read_text(encoding="utf-8").replace(store.lineage, "0" * 16), encoding="utf-8")
    status = store_status(ServedStores([store]))
    assert status.stores[0].validation is None
    assert any("the tables beside it cannot be read" in one for one in status.warnings)
    with pytest.raises(BadStore, match="tables of the store"):
        compare_explainers(store)
