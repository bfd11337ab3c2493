"""The stage `explanation_embeddings`: every explanation once, decoded, with its state and its direction."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.validation.config import EmbedderConfig, ExplanationEmbeddingsConfig
from pipeline.validation.stages.explanation_embeddings import (
    EXPLANATION_EMBEDDINGS,
    OTHER_TEXTS,
    VECTORS,
    _decoded,
)
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.validation.tables import EXPLANATION_EMBEDDINGS as TABLE
from tests.pipeline.validation.results_folder import (
    SAE_ID,
    given_table,
    left_by,
    rows,
    sidecar,
    source,
    write_results,
)

NAME = "explanation_embeddings"
TEXTS = {
    3: 'the word "cat"\nin a list',
    4: "Explanation could not be parsed.",
    5: "x" * 2001,
    6: "  ",
    10: "numbers",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both modes, with the real model: torch is loaded once."""
    base = tmp_path_factory.mktemp("embedded")
    folder = write_results(base / "a_e-b_s", TEXTS, explainer="A")
    for name, compat in (("right", False), ("compat", True)):
        left_by(
            EXPLANATION_EMBEDDINGS,
            base / name,
            data_sources=(source(folder),),
            embedder=EmbedderConfig(),
            compat=compat,
        )
    return base


def test_texts_are_decoded_and_what_is_no_explanation_has_no_vector(made: Path) -> None:
    found = rows(made / "right", NAME)
    assert [(row["feature_id"], row["status"], row["vector"]) for row in found] == [
        (3, "ok", 0),
        (4, "unparsed", None),
        (5, "runaway", None),
        (6, "empty", None),
        (10, "ok", 1),
    ]
    assert [row["explanation_text"] for row in found] == list(TEXTS.values())
    assert [row["embedding"] is None for row in found] == [False, True, True, True, False]
    assert found[0]["sae_id"] == SAE_ID
    assert sidecar(made / "right", NAME)["result_stats"]["by_status"] == {
        "empty": 1,
        "ok": 2,
        "runaway": 1,
        "unparsed": 1,
    }


def test_the_vectors_of_the_file_are_those_of_the_table_and_of_length_one(made: Path) -> None:
    vectors = np.load(made / "right" / VECTORS, mmap_mode="r", allow_pickle=False)
    listed = [row["embedding"] for row in rows(made / "right", NAME) if row["embedding"] is not None]
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.array(listed, np.float32))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_compat_embeds_the_file_as_it_stands_and_failed_ones_too(made: Path) -> None:
    found = rows(made / "compat", NAME)
    assert found[0]["explanation_text"] == r"the word \"cat\"\nin a list"
    assert [row["vector"] for row in found] == [0, 1, 2, 3, 4]
    right = {row["feature_id"]: row["embedding"] for row in rows(made / "right", NAME)}
    assert found[4]["embedding"] == right[10]
    assert found[0]["embedding"] != right[3]


def test_words_only_leave_a_table_without_vectors(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "a_e-b_s", TEXTS)
    out = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "out", data_sources=(source(folder),))
    assert {row["embedding"] for row in rows(out, NAME)} == {None}
    assert not (out / VECTORS).exists()
    again = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "again", data_sources=(source(folder),))
    for path in out.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_an_explainer_has_one_text_a_feature_and_other_ones_are_told(tmp_path: Path) -> None:
    first = write_results(tmp_path / "a_e-b_s", {3: "one", 4: "two"}, explainer="A")
    later = write_results(tmp_path / "a_e-c_s", {3: "another", 4: " two\n", 5: "five"}, explainer="A")
    other = write_results(tmp_path / "b_e-c_s", {3: "three"}, explainer="B")
    sources = tuple(source(folder) for folder in (first, later, other))
    out = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "out", data_sources=sources)
    key = ("feature_id", "llm_explainer", "explanation_text", "data_source")
    assert [tuple(row[name] for name in key) for row in rows(out, NAME)] == [
        (3, "A", "one", "a_e-b_s"),
        (3, "B", "three", "b_e-c_s"),
        (4, "A", "two", "a_e-b_s"),
        (5, "A", "five", "a_e-c_s"),
    ]
    assert json.loads((out / OTHER_TEXTS).read_text(encoding="utf-8")) == {"a_e-c_s": [3]}
    assert (
        "a_e-c_s: 1 explanations are other texts than those of an earlier source by the same explainer, the first of "
        "feature 3; the earlier ones are kept"
    ) in sidecar(out, NAME)["warnings"]
    reversed_ = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "reversed", data_sources=sources[::-1])
    assert rows(reversed_, NAME, feature_id=3, llm_explainer="A")[0]["explanation_text"] == "another"


def test_labels_are_explanations_of_their_authors(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "a_e-b_s", {3: "one"}, explainer="A")
    (tmp_path / "work" / "inputs").mkdir(parents=True)
    labels = [
        (3, "ann", "draft", 1),
        (3, "ann", "supported", 2),
        (3, "ann", "draft", 3),
        (8, "bob", "unclear", 4),
    ]
    lines = [
        {
            "feature": feature,
            "author": author,
            "text": f"label {i}",
            "label_id": i,
            "status": status,
            "made_at": None,
        }
        for feature, author, status, i in labels
    ]
    path = tmp_path / "work" / "inputs" / "labels.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    out = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "out", data_sources=(source(folder),))
    assert [(row["llm_explainer"], row["explanation_text"]) for row in rows(out, NAME)] == [
        ("A", "one"),
        ("ann", "label 2"),
        ("bob", "label 4"),
    ]
    assert rows(out, NAME, feature_id=8)[0]["explanation_method"] == "label"
    assert (
        "labels: 2 labels left out: their author has another one in use for the same feature"
        in sidecar(out, NAME)["warnings"]
    )
    off = ExplanationEmbeddingsConfig(labels=False)
    without = left_by(
        EXPLANATION_EMBEDDINGS, tmp_path / "off", data_sources=(source(folder),), explanation_embeddings=off
    )
    assert len(rows(without, NAME)) == 1


def test_vectors_of_a_given_table_are_used_as_they_are(tmp_path: Path) -> None:
    entries = [
        {"feature_id": 9, "explanation_text": "one", "embedding": [3.0, 4.0]},
        {"feature_id": 2, "explanation_text": "two", "embedding": [0.0, 0.0]},
        {"feature_id": 5, "explanation_text": "Explanation could not be parsed.", "embedding": [1.0, 0.0]},
        {"feature_id": 7, "explanation_text": "none", "embedding": None},
        {"feature_id": 7, "explanation_text": "x", "embedding": [1.0, 1.0], "sae_id": "another"},
    ]
    section = ExplanationEmbeddingsConfig(given=given_table(tmp_path / "t.parquet", entries))
    out = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "out", explanation_embeddings=section)
    found = [(row["feature_id"], row["status"], row["embedding"], row["vector"]) for row in rows(out, NAME)]
    assert found == [
        (2, "ok", None, None),
        (5, "unparsed", None, None),
        (7, "ok", None, None),
        (9, "ok", [3.0, 4.0], 0),
    ]
    np.testing.assert_allclose(np.load(out / VECTORS, allow_pickle=False), [[0.6, 0.8]], rtol=1e-6)
    said = sidecar(out, NAME)["warnings"]
    assert said[0] == "t.parquet: 1 rows of other SAEs left out"
    assert said[1].startswith("2 explanations have no vector")
    compat = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "c", explanation_embeddings=section, compat=True)
    assert [row["vector"] for row in rows(compat, NAME)] == [None, 0, None, 1]
    again = ExplanationEmbeddingsConfig(given=out / TABLE.file)
    second = left_by(EXPLANATION_EMBEDDINGS, tmp_path / "again", explanation_embeddings=again)
    assert [row["embedding"] for row in rows(second, NAME)] == [row["embedding"] for row in rows(out, NAME)]


@pytest.mark.parametrize(
    ("stripped", "text"),
    [
        ("plain", "plain"),
        (r"the word \"cat\" and \u00e9", 'the word "cat" and é'),
        (r"two\nlines", "two\nlines"),
        (r"the word \"cat" + "\\", 'the word "cat"'),  # its own last quote was stripped too
        (r"\"cat\" first", '"cat" first'),
        (r"a path C:\Users", r"a path C:\Users"),  # no JSON: left as it is
        (r"ends in a backslash \\", "ends in a backslash \\"),
    ],
)
def test_texts_that_lost_their_quotes_are_decoded(stripped: str, text: str) -> None:
    assert _decoded(stripped) == text


def test_texts_of_a_given_table_are_decoded_in_right_mode_only(tmp_path: Path) -> None:
    entries = [{"feature_id": 1, "explanation_text": r"the \"cat\"", "embedding": [1.0, 0.0]}]
    section = ExplanationEmbeddingsConfig(given=given_table(tmp_path / "t.parquet", entries))
    for compat, text in ((False, 'the "cat"'), (True, r"the \"cat\"")):
        out = left_by(
            EXPLANATION_EMBEDDINGS, tmp_path / str(compat), explanation_embeddings=section, compat=compat
        )
        assert [row["explanation_text"] for row in rows(out, NAME)] == [text]
    assert sidecar(tmp_path / "False", NAME)["warnings"] == [
        "t.parquet: 1 texts decoded, which SAE_vis had left as JSON; their vectors are of that form"
    ]


def test_a_given_table_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    def run(path: Path) -> None:
        section = ExplanationEmbeddingsConfig(given=path)
        left_by(EXPLANATION_EMBEDDINGS, tmp_path / "out", explanation_embeddings=section)

    with pytest.raises(BadInput, match="does not exist or is not a file"):
        run(tmp_path / "missing.parquet")
    (tmp_path / "rubbish.parquet").write_bytes(b"rubbish")
    with pytest.raises(BadInput, match="is no table of explanations"):
        run(tmp_path / "rubbish.parquet")
    pl.DataFrame({"feature_id": [1]}).write_parquet(tmp_path / "lacking.parquet")
    with pytest.raises(BadInput, match="has no column 'sae_id'"):
        run(tmp_path / "lacking.parquet")
    one = {"feature_id": 1, "explanation_text": "a", "embedding": [1.0]}
    with pytest.raises(BadInput, match=r"is of the SAE 'other', and this run of 'an--sae--layers.3'"):
        run(given_table(tmp_path / "other.parquet", [{**one, "sae_id": "other"}]))
    with pytest.raises(BadInput, match=r"have 2 widths \(1, 2\)"):
        run(given_table(tmp_path / "w.parquet", [one, {**one, "feature_id": 2, "embedding": [1.0, 2.0]}]))


def test_files_of_scores_are_not_hashed(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "a_e-b_s", {3: "one"}, {"fuzz": {3: []}})
    config = EXPLANATION_EMBEDDINGS.config(
        sae_id=SAE_ID,
        compat=False,
        data_sources=(source(folder),),
        explanation_embeddings=ExplanationEmbeddingsConfig(),
        embedder=EmbedderConfig(model="none"),
        work=tmp_path,
    )
    assert set(EXPLANATION_EMBEDDINGS.external(config)) == {
        "a_e-b_s/explanations/layers.3_latent3.txt",
        "a_e-b_s/run_config.json",
    }


def test_explanations_of_features_that_the_sae_does_not_have_are_told_or_stop(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "a_e-b_s", {3: "three", 10: "ten"})
    table = given_table(
        tmp_path / "given.parquet",
        [{"feature_id": i, "explanation_text": "given", "embedding": [1.0, 0.0]} for i in (4, 11)],
    )
    sources = (source(folder),)
    out = left_by(
        EXPLANATION_EMBEDDINGS,
        tmp_path / "out",
        n_features=10,
        data_sources=sources,
        explanation_embeddings=ExplanationEmbeddingsConfig(given=table),
    )
    assert [row["feature_id"] for row in rows(out, NAME)] == [3, 4]
    why = "is not in the SAE, which by its store or weights has 0 to 9"
    said = sidecar(out, NAME)["warnings"]
    assert f"given.parquet: 1 features left out, the first: feature 11 {why}" in said
    assert (
        f"a_e-b_s: 1 foreign file passed over, the first explanations/layers.3_latent10.txt: feature 10 {why}"
        in said
    )
    stop = ExplanationEmbeddingsConfig(bad_files="stop")
    with pytest.raises(BadInput, match=r"layers\.3_latent10\.txt: foreign: feature 10 is not in the SAE"):
        left_by(
            EXPLANATION_EMBEDDINGS,
            tmp_path / "stopped",
            n_features=10,
            data_sources=sources,
            explanation_embeddings=stop,
        )
    with pytest.raises(BadInput, match=r"given\.parquet: feature 11 is not in the SAE"):
        left_by(
            EXPLANATION_EMBEDDINGS,
            tmp_path / "given",
            n_features=10,
            explanation_embeddings=stop.model_copy(update={"given": table}),
        )
