"""The stage `scores`: folders, given files and our own tests become one table and `scores.json` files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.importers.results.records import LEAK
from pipeline.validation.config import ExplanationEmbeddingsConfig, ScoresConfig
from pipeline.validation.score_summaries import MIXED, PLAIN
from pipeline.validation.stages.scores import SCORES, _score_source, _Task
from saeinterp_mcp.errors import BadInput
from tests.pipeline.validation.results_folder import (
    SAE_ID,
    failed,
    left_by,
    rows,
    sidecar,
    similarities,
    simulated,
    source,
    trials,
    write_results,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(
        tmp_path / "a_e-b_s",
        {2: "one", 10: "two"},
        {
            "fuzz": {2: trials(8, 2, 9, 1) + failed(5), 10: trials(4, 6, 10, 0)},
            "detection": {2: trials(5, 0, 0, 0)},
            "simulation": {2: simulated([(0, 0.5), (1, 0.8), (2, "nan")])},
            "embedding": {2: similarities([(0, 0.9), (1, 0.3), (-1.0, 0.1), (-1.0, 0.4), (0.25, 0.95)])},
        },
    )


def given_file(path: Path, name: str, scores: dict[str, Any], **metadata: Any) -> Path:
    """A `scores.json` as SAE_vis wrote it."""
    about = {"data_source": name, "scoring_methods": ["fuzz"], "sae_id": "an/sae/layers.3", **metadata}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metadata": about, "latent_scores": scores}), encoding="utf-8")
    return path


def entry(score: float | None, n: int, n_failed: int = 0) -> dict[str, Any]:
    return {
        "average_score": score,
        "total_examples": n,
        "failure_count": n_failed,
        "success_count": n - n_failed,
        "variance": None,
    }


def test_a_row_is_a_test_of_an_explanation(folder: Path, tmp_path: Path) -> None:
    out = left_by(SCORES, tmp_path / "out", data_sources=(source(folder, llm_scorer="judge"),))
    (fuzz,) = rows(out, "scores", feature_id=2, method="fuzz")
    assert (fuzz["tp"], fuzz["fn"], fuzz["tn"], fuzz["fp"]) == (8, 2, 9, 1)
    assert (fuzz["n"], fuzz["n_failed"], fuzz["n_batches_failed"]) == (20, 5, 1)
    assert fuzz["score"] == fuzz["balanced_accuracy"] == pytest.approx(0.85)
    assert (fuzz["sae_id"], fuzz["llm_explainer"], fuzz["llm_scorer"]) == (SAE_ID, "an explainer", "judge")
    content = (folder / "scores" / "fuzz" / "layers.3_latent2.txt").read_bytes()
    assert fuzz["raw_sha256"] == hashlib.sha256(content).hexdigest()
    assert [(row["feature_id"], row["method"]) for row in rows(out, "scores")] == [
        (2, "detection"),
        (2, "embedding"),
        (2, "fuzz"),
        (2, "simulation"),
        (10, "fuzz"),
    ]


def test_one_class_alone_has_no_score_and_a_neighbours_text_is_silent(folder: Path, tmp_path: Path) -> None:
    out = left_by(SCORES, tmp_path / "out", data_sources=(source(folder),))
    (detection,) = rows(out, "scores", method="detection")
    assert (detection["score"], detection["accuracy"]) == (None, 1.0)
    assert detection["reason"] == "answers to 5 texts that fire and 0 silent ones: both are needed"
    (embedding,) = rows(out, "scores", method="embedding")
    # .9 over .1 and .4; .3 over .1; .95 is of a neighbour
    assert embedding["score"] == pytest.approx(3 / 6)
    (simulation,) = rows(out, "scores", method="simulation")
    assert (simulation["score"], simulation["n"], simulation["n_failed"]) == (0.5, 4, 1)
    assert simulation["quantiles"] == [
        {"quantile": 0, "n": 4, "value": 0.8},
        {"quantile": 1, "n": 4, "value": None},
    ]


def test_each_score_of_delphi_says_that_its_examples_may_have_leaked(folder: Path, tmp_path: Path) -> None:
    out = left_by(SCORES, tmp_path / "out", data_sources=(source(folder),))
    assert {row["held_out"] for row in rows(out, "scores")} == {"leaked"}
    assert LEAK in sidecar(out, "scores")["warnings"]


def test_bad_files_are_counted_and_the_rest_is_read(folder: Path, tmp_path: Path) -> None:
    (folder / "scores" / "fuzz" / "layers.3_latent10.txt").write_text("[{", encoding="utf-8")
    out = left_by(SCORES, tmp_path / "out", data_sources=(source(folder),))
    assert [row["feature_id"] for row in rows(out, "scores", method="fuzz")] == [2]
    (said,) = [one for one in sidecar(out, "scores")["warnings"] if "truncated" in one]
    assert said.startswith(
        "a_e-b_s: 1 truncated file passed over, the first scores/fuzz/layers.3_latent10.txt: JSON that does not end"
    )
    with pytest.raises(BadInput, match=r"layers\.3_latent10\.txt: truncated: .*`bad_files: skip`"):
        left_by(
            SCORES,
            tmp_path / "stopped",
            data_sources=(source(folder),),
            scores=ScoresConfig(bad_files="stop"),
        )


def test_scores_of_features_that_the_sae_does_not_have_are_told_or_stop(folder: Path, tmp_path: Path) -> None:
    path = given_file(tmp_path / "given.json", "x_e-y_s", {"2": {"fuzz": entry(0.5, 4)}, "11": {}})
    sections: dict[str, Any] = {"n_features": 10, "data_sources": (source(folder),)}
    out = left_by(SCORES, tmp_path / "out", scores=ScoresConfig(given=(path,)), **sections)
    assert {row["feature_id"] for row in rows(out, "scores")} == {2}
    why = "is not in the SAE, which by its store or weights has 0 to 9"
    said = sidecar(out, "scores")["warnings"]
    assert f"given.json: 1 features left out, the first: feature 11 {why}" in said
    assert (
        f"a_e-b_s: 1 foreign file passed over, the first scores/fuzz/layers.3_latent10.txt: feature 10 {why}"
        in said
    )
    with pytest.raises(BadInput, match=r"layers\.3_latent10\.txt: foreign: feature 10 is not in the SAE"):
        left_by(SCORES, tmp_path / "stopped", scores=ScoresConfig(bad_files="stop"), **sections)
    with pytest.raises(BadInput, match=r"given\.json: feature 11 is not in the SAE"):
        left_by(
            SCORES, tmp_path / "given", scores=ScoresConfig(bad_files="stop", given=(path,)), n_features=10
        )


def test_compat_writes_what_sae_vis_wrote(folder: Path, tmp_path: Path) -> None:
    out = left_by(SCORES, tmp_path / "out", data_sources=(source(folder),), compat=True)
    content = json.loads((out / "scores" / "a_e-b_s" / "scores.json").read_text(encoding="utf-8"))
    assert list(content["latent_scores"]) == ["10", "2"]
    nothing = entry(None, 0)
    assert content["latent_scores"] == {
        "10": {"fuzz": entry(0.7, 20), "detection": nothing, "simulation": nothing, "embedding": nothing},
        "2": {
            "fuzz": entry(17 / 20, 25, 5),
            "detection": entry(1.0, 5),
            "simulation": {
                **entry(None, 3, 1),
                "average_score": pytest.approx(0.65),
                "variance": pytest.approx(0.045),
            },
            "embedding": {**entry(None, 5), "average_score": pytest.approx((2 + 1 + 2) / 6)},
        },
    }
    assert [row["score"] for row in rows(out, "scores", feature_id=2)] == [
        1.0,
        pytest.approx(5 / 6),
        0.85,
        pytest.approx(0.65),
    ]


def test_right_mode_keeps_the_shape_and_puts_the_right_score_in(folder: Path, tmp_path: Path) -> None:
    out = left_by(SCORES, tmp_path / "out", data_sources=(source(folder),))
    content = json.loads((out / "scores" / "a_e-b_s" / "scores.json").read_text(encoding="utf-8"))
    fuzz = content["latent_scores"]["10"]["fuzz"]
    assert (fuzz["average_score"], fuzz["accuracy"]) == (pytest.approx(0.7), 0.7)
    assert (fuzz["total_examples"], fuzz["failure_count"], fuzz["tp"], fuzz["fn"]) == (20, 0, 4, 6)
    simulation = content["latent_scores"]["2"]["simulation"]
    assert (simulation["average_score"], simulation["total_examples"]) == (0.5, 3)
    assert content["metadata"]["sae_id"] == SAE_ID


def test_our_own_file_given_back_makes_the_same_rows(folder: Path, tmp_path: Path) -> None:
    made = left_by(SCORES, tmp_path / "out", data_sources=(source(folder, llm_scorer="b"),))
    given = ScoresConfig(given=(made / "scores" / "a_e-b_s" / "scores.json",))
    again = left_by(SCORES, tmp_path / "again", scores=given)
    other = {"llm_explainer", "held_out", "raw_sha256"}
    expected = [{k: v for k, v in row.items() if k not in other} for row in rows(made, "scores")]
    assert [{k: v for k, v in row.items() if k not in other} for row in rows(again, "scores")] == expected


def test_a_given_file_keeps_its_plain_accuracy_and_says_so(tmp_path: Path) -> None:
    methods = {"fuzz": entry(0.6, 100, 20), "embedding": entry(0.4, 80), "simulation": entry(0.3, 11)}
    given = ScoresConfig(given=(given_file(tmp_path / "s.json", "x_e-y_s", {"7": methods}, llm_scorer="Y"),))
    out = left_by(SCORES, tmp_path / "out", scores=given)
    embedding, fuzz, simulation = rows(out, "scores")
    assert (fuzz["score"], fuzz["accuracy"], fuzz["balanced_accuracy"]) == (0.6, 0.6, None)
    assert (fuzz["n"], fuzz["n_failed"], fuzz["reason"], fuzz["held_out"]) == (80, 20, PLAIN, "unknown")
    assert fuzz["low"] < 0.6 < fuzz["high"]
    assert (embedding["score"], embedding["auroc"], embedding["chance_low"]) == (0.4, 0.4, None)
    assert (simulation["score"], simulation["reason"]) == (None, MIXED)
    assert (fuzz["llm_explainer"], fuzz["llm_scorer"]) == ("x", "Y")
    assert f"x_e-y_s: {PLAIN}" in sidecar(out, "scores")["warnings"]
    compat = left_by(SCORES, tmp_path / "compat", scores=given, compat=True)
    assert [(row["score"], row["reason"]) for row in rows(compat, "scores")] == [
        (0.4, None),
        (0.6, None),
        (0.3, None),
    ]


def test_the_explainer_of_a_given_file_is_that_of_the_table_with_its_prefix(tmp_path: Path) -> None:
    table = tmp_path / "explanations.parquet"
    pl.DataFrame({"data_source": ["x_e-z_s"], "llm_explainer": ["lab/X-70b"]}).write_parquet(table)
    given = ScoresConfig(given=(given_file(tmp_path / "s.json", "x_e-y_s", {"7": {"fuzz": entry(0.6, 9)}}),))
    section = ExplanationEmbeddingsConfig(given=table)
    out = left_by(SCORES, tmp_path / "out", scores=given, explanation_embeddings=section)
    assert [(row["llm_explainer"], row["llm_scorer"]) for row in rows(out, "scores")] == [("lab/X-70b", "y")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no scores.json: Expecting"),
        ("[]", "is no scores.json"),
        ('{"metadata": {"data_source": "x_e-y_s"}, "latent_scores": {"one": {}}}', "invalid literal"),
        ('{"metadata": {"data_source": "x_e-y_s"}, "latent_scores": {"-1": {}}}', "below 0"),
        ('{"metadata": {"data_source": "x_e-y_s"}, "latent_scores": {"1": {"fuzz": {}}}}', "Field required"),
        (
            '{"metadata": {"data_source": "x_e-y_s"}, "latent_scores": {"1": {"fuzz": '
            '{"average_score": 0.5, "total_examples": 3, "failure_count": 9}}}}',
            "9 of 3 examples failed",
        ),
        (
            '{"metadata": {"data_source": "x_e-y_s", "sae_id": "another/sae"}, "latent_scores": {}}',
            "is of the SAE 'another--sae', and this run of 'an--sae--layers.3'",
        ),
        ('{"metadata": {"data_source": "x"}, "latent_scores": {}}', "nobody says who explained"),
    ],
)
def test_a_given_file_that_is_none_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        left_by(SCORES, tmp_path / "out", scores=ScoresConfig(given=(path,)))


def test_scores_that_are_given_twice_are_refused(folder: Path, tmp_path: Path) -> None:
    path = given_file(tmp_path / "s.json", "a_e-b_s", {"2": {"fuzz": entry(0.5, 9)}})
    with pytest.raises(BadInput, match="the scores of data source 'a_e-b_s' are given twice"):
        left_by(SCORES, tmp_path / "out", data_sources=(source(folder),), scores=ScoresConfig(given=(path,)))


def test_a_method_that_is_not_asked_for_is_left_out_and_an_unknown_one_refused(
    folder: Path, tmp_path: Path
) -> None:
    only = ScoresConfig(scoring_methods=("fuzz",))
    out = left_by(SCORES, tmp_path / "out", data_sources=(source(folder),), scores=only)
    assert {row["method"] for row in rows(out, "scores")} == {"fuzz"}
    assert "a_e-b_s: 1 files of simulation left out" in sidecar(out, "scores")["warnings"]
    with pytest.raises(BadInput, match="there is no scoring method 'fuzzing'; nearest: 'fuzz'"):
        left_by(SCORES, tmp_path / "no", scores=ScoresConfig(scoring_methods=("fuzzing",)))


def write_inputs(work: Path, labels: list[dict[str, Any]], tests: list[dict[str, Any]]) -> None:
    (work / "inputs").mkdir(parents=True)
    for name, records in (("labels", labels), ("tests", tests)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (work / "inputs" / f"{name}.jsonl").write_text(text, encoding="utf-8")


def label(text: str, label_id: int, status: str = "draft") -> dict[str, Any]:
    made = f"2026-01-0{label_id}T00:00:00Z"
    return {
        "feature": 4,
        "author": "ann",
        "text": text,
        "label_id": label_id,
        "status": status,
        "made_at": made,
    }


def held_out(text: str, score: float | None, n: int, method: str = "fuzzing") -> dict[str, Any]:
    interval = {"low": None if score is None else score - 0.1, "high": None if score is None else score + 0.1}
    about = {"feature": 4, "author": "ann", "text": text, "label_id": 1, "method": method, "judge": "judge"}
    return {**about, "score": score, **interval, "n": n, "n_failed": 1}


def test_our_own_tests_count_for_the_words_that_are_in_use(tmp_path: Path) -> None:
    labels = [label("old", 1), label("supported", 2, "supported"), label("newest", 3)]
    tests = [
        held_out("old", 0.9, 40),
        held_out("supported", 0.7, 20),
        held_out("supported", 0.6, 40),
        held_out("supported", 0.8, 40),
        held_out("supported", 0.75, 40, "detection"),
        held_out("supported", None, 3, "embedding"),
        held_out("supported", 1.0, 40, "rule"),
    ]
    write_inputs(tmp_path / "work", labels, tests)
    out = left_by(SCORES, tmp_path / "out")
    found = rows(out, "scores")
    assert [(row["method"], row["score"], row["n"]) for row in found] == [
        ("detection", 0.75, 40),
        ("embedding", None, 3),
        ("fuzz", 0.6, 40),
    ]
    assert {
        (row["held_out"], row["data_source"], row["llm_explainer"], row["llm_scorer"]) for row in found
    } == {("yes", "labels", "ann", "judge")}
    assert (found[2]["balanced_accuracy"], found[2]["balanced_low"]) == (0.6, 0.5)
    assert found[1]["reason"] == "too few trials were answered"
    assert sidecar(out, "scores")["warnings"] == [
        "labels: 2 tests left out: of other methods, or of words no longer in use",
        "labels: 2 repeated tests left out: the one with most trials counts, then the lower score",
    ]
    none = left_by(
        SCORES, tmp_path / "none", explanation_embeddings=ExplanationEmbeddingsConfig(labels=False)
    )
    assert rows(none, "scores") == []


def test_two_workers_and_a_run_that_was_killed_leave_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    other = write_results(tmp_path / "c_e-b_s", {2: "three"}, {"fuzz": {2: trials(3, 3, 3, 3)}})
    sources = (source(folder), source(other))
    one = left_by(SCORES, tmp_path / "one", data_sources=sources)
    two = left_by(SCORES, tmp_path / "two", data_sources=sources, workers=2)
    # killed in its second source
    killed = tmp_path / "killed"
    (killed / "shards").mkdir(parents=True)
    _score_source(_Task(0, sources[0], ScoresConfig(), False, SAE_ID, killed))
    (killed / "shards" / "scores-00001.parquet.tmp").write_bytes(b"half")
    before = (killed / "scores" / "a_e-b_s" / "scores.json").stat().st_ino
    left_by(SCORES, killed, data_sources=sources)
    assert (killed / "scores" / "a_e-b_s" / "scores.json").stat().st_ino == before
    for folder_of in (two, killed):
        for path in sorted(p for p in one.rglob("*") if p.is_file()):
            assert (folder_of / path.relative_to(one)).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in one.iterdir()) == [
        "scores",
        "scores.parquet",
        "scores.parquet.metadata.json",
    ]


def test_no_scores_at_all_leave_an_empty_table_of_the_same_types(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "a_e-b_s", {2: "one"})
    out = left_by(SCORES, tmp_path / "out", data_sources=(source(folder),))
    assert rows(out, "scores") == []
    assert not (out / "scores").exists()


def test_only_files_of_scores_are_hashed(folder: Path, tmp_path: Path) -> None:
    known = SCORES.config(
        sae_id=SAE_ID,
        compat=False,
        data_sources=(source(folder),),
        scores=ScoresConfig(),
        explanation_embeddings=ExplanationEmbeddingsConfig(),
        work=tmp_path,
    )
    names = set(SCORES.external(known))
    assert "a_e-b_s/scores/fuzz/layers.3_latent2.txt" in names
    assert not any("explanations" in name for name in names)
    assert str(tmp_path) not in json.dumps(known.model_dump(mode="json"))
