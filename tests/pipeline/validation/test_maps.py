"""Pictures and clusters as the stages leave them; few and tiny ones, because umap-learn compiles for seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.stage import Stage, Summary
from pipeline.validation.clusters import adjusted_rand
from pipeline.validation.config import MapsConfig, ValidationRun
from pipeline.validation.stages.explanation_maps import EXPLANATION_MAPS
from pipeline.validation.stages.feature_maps import FEATURE_MAPS
from pipeline.validation.umap_points import draw, nearest
from pipeline.validation.writing import read_table
from saeinterp_mcp.validation.tables import EXPLANATION_EMBEDDINGS, MERGES

Vectors = NDArray[np.float32]
TOPICS = np.repeat(np.arange(3), 24)
TEXTS = ("words in quotes", "numbers of years", "brackets that close")
MAPS = MapsConfig(n_clusters=(3, 40), n_stability=2)


def unit(vectors: NDArray[np.float64]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def planted(seed: int = 0) -> Vectors:
    """72 directions around three topics."""
    generator = np.random.default_rng(seed)
    return unit(generator.normal(size=(3, 16))[TOPICS] + 0.3 * generator.normal(size=(72, 16)))


def config(maps: MapsConfig = MAPS, compat: bool = False) -> ValidationRun:
    return ValidationRun(name="world", sae_id="my/sae", maps=maps, compat=compat)


def run(stage: Stage[Any], given: Path, out: Path, told: ValidationRun, workers: int = 1) -> Summary:
    out.mkdir()
    return stage.run(
        stage.config_of(told),
        {stage.inputs[0]: given},
        out,
        lambda done, total: None,
        Execution(workers=workers),
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_neighbours(folder: Path, vectors: Vectors, weights: bool = True) -> Path:
    folder.mkdir()
    features, cosines = nearest(vectors, 5)
    np.savez(
        folder / "neighbours.npz",
        allow_pickle=False,
        features=features.astype(np.uint32),
        cosines=cosines.astype(np.float32),
    )
    if weights:
        np.save(folder / "decoder.npy", vectors, allow_pickle=False)
    return folder


def write_explanations(folder: Path, vectors: Vectors | None) -> Path:
    """24 features with one explanation of each of three sources; the first of them could not be parsed."""
    folder.mkdir()
    rows = [
        {
            "feature_id": feature,
            "sae_id": "my--sae",
            "data_source": f"source_{k}",
            "llm_explainer": f"model {k}",
            "embedding": None,
            "explanation_text": TEXTS[k],
            "explanation_method": "quantiles",
            "status": "ok" if feature or k else "unparsed",
            "vector": None if vectors is None or feature + k == 0 else 24 * k + feature,
            "raw_sha256": None,
        }
        for feature in range(24)
        for k in range(3)
    ]
    frame = pl.DataFrame(rows, schema=EXPLANATION_EMBEDDINGS.schema)
    frame.write_parquet(folder / EXPLANATION_EMBEDDINGS.file)
    if vectors is not None:
        np.save(folder / "explanations.npy", vectors, allow_pickle=False)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both stages leave of the planted topics."""
    folder = tmp_path_factory.mktemp("maps")
    run(FEATURE_MAPS, write_neighbours(folder / "decoder", planted()), folder / "features", config())
    run(EXPLANATION_MAPS, write_explanations(folder / "texts", planted()), folder / "explanations", config())
    return folder


def test_features_of_a_topic_are_drawn_and_clustered_together(features: Path) -> None:
    drawn = read(features / "features" / "umap_embeddings.json")
    assert [one["feature_id"] for one in drawn["feature_embeddings"]] == list(range(72))
    places = np.array([[one["umap_x"], one["umap_y"]] for one in drawn["feature_embeddings"]])
    middles = np.array([places[k == TOPICS].mean(axis=0) for k in range(3)])
    nearest_middle = np.linalg.norm(places[:, None] - middles, axis=2).argmin(axis=1)
    assert nearest_middle.tolist() == TOPICS.tolist()
    spread = drawn["metadata"]["statistics"]["umap_x"]
    assert spread["min"] == pytest.approx(places[:, 0].min(), abs=1e-6)
    clustered = read(features / "features" / "feature_clustering.json")
    assert clustered["cluster_assignments"] == {
        "3_clusters": {str(feature): int(topic) for feature, topic in enumerate(TOPICS)}
    }
    assert clustered["stability"]["3_clusters"]["mean"] == 1
    assert clustered["stability"]["3_clusters"]["noise"] < 0.8
    assert clustered["metadata"]["notes"] == ["40 clusters are left out: there are 72 points"]
    centroid = clustered["cluster_statistics"]["3_clusters"][1]["centroid"]
    np.testing.assert_allclose(centroid, middles[1], atol=2e-6)


def test_features_of_a_topic_merge_first(features: Path) -> None:
    merges = read_table(MERGES, features / "features" / MERGES.file)
    assert merges["sae_id"].cast(pl.String).unique().to_list() == ["my--sae"]
    assert merges["merge"].to_list() == list(range(len(merges)))
    assert len(merges) == 69  # five neighbours each, all of the own topic: three clusters are left
    assert sorted(merges["size"].to_list())[-3:] == [24, 24, 24]


def test_two_runs_leave_the_same_bytes(features: Path, tmp_path: Path) -> None:
    run(FEATURE_MAPS, features / "decoder", tmp_path / "again", config())
    names = sorted(path.name for path in (tmp_path / "again").iterdir())
    assert names == [
        "feature_clustering.json",
        "feature_merges.parquet",
        "feature_merges.parquet.metadata.json",
        "umap_embeddings.json",
    ]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (features / "features" / name).read_bytes(), name


def test_two_workers_leave_what_one_does(tmp_path: Path) -> None:
    """Of points too few for a picture, so that no worker has to compile umap-learn."""
    given = write_neighbours(tmp_path / "decoder", planted())
    told = config(MapsConfig(n_clusters=(2,), max_points=4))
    for workers in (1, 2):
        run(FEATURE_MAPS, given, tmp_path / str(workers), told, workers)
    for path in sorted((tmp_path / "1").iterdir()):
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name
    labels = read(tmp_path / "2" / "feature_clustering.json")["cluster_assignments"]["2_clusters"]
    assert sorted(labels) == ["0", "1", "2", "3"]


def test_explanations_are_drawn_by_feature_and_source_and_named_by_their_words(features: Path) -> None:
    drawn = read(features / "explanations" / "explanation_umap.json")["feature_embeddings"]
    assert sorted(drawn) == sorted(f"feature_{feature}" for feature in range(24))
    assert sorted(drawn["feature_0"]) == ["source_1", "source_2"]  # the third could not be parsed
    assert sorted(drawn["feature_7"]["source_0"]) == ["x", "y"]
    clustered = read(features / "explanations" / "explanation_clustering.json")
    labels = clustered["cluster_assignments"]["3_clusters"]
    assert len(labels) == 71
    # 23 of the first topic, so its cluster is the last
    assert {labels[f"feature_{feature}/source_0"] for feature in range(1, 24)} == {2}
    terms = clustered["cluster_terms"]["3_clusters"]
    assert terms == {"0": ["numbers", "years"], "1": ["brackets", "close"], "2": ["quotes"]}


def test_with_compat_the_clusters_are_of_the_picture(features: Path, tmp_path: Path) -> None:
    told = config(MapsConfig(n_clusters=(3,)), compat=True)
    run(FEATURE_MAPS, features / "decoder", tmp_path / "compat", told)
    clustered = read(tmp_path / "compat" / "feature_clustering.json")
    labels = np.array([clustered["cluster_assignments"]["3_clusters"][str(i)] for i in range(72)])
    assert adjusted_rand(labels, TOPICS) == 1
    assert clustered["metadata"]["method"] == "Ward on the picture's places"
    assert clustered["stability"] == {}


def test_what_is_not_mapped_is_told(features: Path, tmp_path: Path) -> None:
    vectors = planted()
    vectors[1] = 0
    given = write_neighbours(tmp_path / "decoder", vectors)
    summary = run(FEATURE_MAPS, given, tmp_path / "few", config(MapsConfig(max_points=4)))
    drawn = read(tmp_path / "few" / "umap_embeddings.json")
    assert drawn["feature_embeddings"] == []
    assert drawn["metadata"]["notes"] == [
        "only the first 4 features are mapped (maps.max_points)",
        "1 features without a direction are left out",
        "10 clusters are left out: there are 3 points",
        "30 clusters are left out: there are 3 points",
        "90 clusters are left out: there are 3 points",
        "no picture: 3 points are too few for a picture; it takes 5",
    ]
    assert (summary.n_in, summary.n_kept, summary.dropped) == (72, 3, {"not mapped": 69})


def test_without_weights_neighbours_still_merge_and_it_is_told(tmp_path: Path) -> None:
    given = write_neighbours(tmp_path / "decoder", planted(), weights=False)
    summary = run(FEATURE_MAPS, given, tmp_path / "out", config())
    assert read(tmp_path / "out" / "umap_embeddings.json")["metadata"]["notes"] == [
        "no picture and no clusters: only neighbours are known, no decoder weights"
    ]
    assert any(note.startswith("single linkage") for note in summary.notes)
    merges = read_table(MERGES, tmp_path / "out" / MERGES.file)
    assert len(merges) == 69
    assert merges["cosine_similarity"].is_sorted(descending=True)


def test_without_vectors_there_is_no_picture_of_explanations(tmp_path: Path) -> None:
    given = write_explanations(tmp_path / "texts", None)
    summary = run(EXPLANATION_MAPS, given, tmp_path / "out", config())
    assert read(tmp_path / "out" / "explanation_umap.json")["feature_embeddings"] == {}
    assert summary.notes == ("no picture and no clusters: explanations have no vectors (embedder none)",)


def test_neighbours_are_exact_and_ties_go_to_the_first() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(300, 8)))
    found, cosines = nearest(vectors, 14)
    wide = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    np.fill_diagonal(wide, -2)
    np.testing.assert_array_equal(found, np.argsort(-wide, axis=1)[:, :14])
    np.testing.assert_allclose(cosines, -np.sort(-wide, axis=1)[:, :14], atol=1e-6)
    same = nearest(np.tile(vectors[:1], (200, 1)), 3)[0]
    assert same[:5].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]


def test_a_few_points_get_the_neighbours_there_are() -> None:
    drawn = draw(planted()[:6], 15, 0.1, seed=2**40)
    assert not isinstance(drawn, str)
    assert drawn.notes == ("n_neighbors is 5, not 15: there are 6 points",)
    assert draw(planted()[:4], 15, 0.1, 0) == "4 points are too few for a picture; it takes 5"
