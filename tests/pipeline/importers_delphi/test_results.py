"""Explanations and scores of delphi, both generations, and of SAE_vis: what a file is, says, and is passed over for."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.importers.results.open_results import open_results
from pipeline.importers.results.score_files import fires
from saeinterp_mcp.errors import BadInput
from tests.pipeline.importers_delphi.folders import RUN, Everything, tried, tried_of_old, write

GOOD = json.dumps("a good one")
MODELS = {"explainer": "E", "scorer": "S"}


def opened(folder: Path, files: dict[str, Any], **options: Any) -> Everything:
    return Everything(open_results(write(folder, files), **{**MODELS, **options}))


def test_a_run_of_delphi_is_read_whole() -> None:
    results = open_results(RUN)
    found = Everything(results)
    assert (results.hookpoint, results.sae_id) == ("h.0", "example--tiny-sae--h.0")
    assert (results.explainer, results.scorer) == ("example/explainer-1b", "example/explainer-1b")
    assert results.notes == (
        "run_config.json names one model, example/explainer-1b: it is taken for explainer and scorer",
    )
    states = {one.feature: one.status for one in found.explanations}
    failed = {4: "unparsed", 7: "empty", 11: "runaway"}
    assert states == {**dict.fromkeys((1, 3, 5, 6, 9, 10), "ok"), **failed}
    assert found.explanations[0].text == 'The words "dog" and "river",\n often after the – naïvely.'
    assert found.told == []
    order = [(one.method, one.feature) for one in found.scores]
    assert order == sorted(order)
    explained = sorted(states)
    assert order == [
        *(("detection", feature) for feature in explained),
        *((method, 1) for method in ("embedding",)),
        ("embedding", 3),
        ("example_embedding", 1),
        *(("fuzz", feature) for feature in explained),
        ("intruder", 1),
        ("intruder", 3),
        ("simulation", 1),
        ("simulation", 3),
    ]
    files = {path.relative_to(RUN).as_posix() for path in RUN.rglob("*latent*.txt")}
    assert set(results.files) == {*files, "run_config.json"}


def test_every_item_of_delphis_own_scorers_is_kept() -> None:
    found = Everything(open_results(RUN))
    for method, n_failed in (("detection", 5), ("fuzz", 5)):
        items = json.loads((RUN / "scores" / method / "h.0_latent9.txt").read_text(encoding="utf-8"))
        answers = found.score(method, 9).answers
        said = [(a.activating, a.prediction, a.correct, a.distance) for a in answers]
        assert said == [
            tuple(i[k] for k in ("activating", "prediction", "correct", "distance")) for i in items
        ]
        assert sum(answer.prediction is None for answer in answers) == n_failed
    groups = json.loads((RUN / "scores" / "simulation" / "h.0_latent1.txt").read_text(encoding="utf-8"))
    simulated = found.score("simulation", 1).simulated
    assert [(s.distance, s.correlation) for s in simulated] == [
        (g["distance"], None if g["ev_correlation_score"] == "nan" else g["ev_correlation_score"])
        for g in groups
    ]
    assert [s.n for s in simulated] == [8 * len(g["scored_sequence_simulations"]) for g in groups]
    choices = found.score("intruder", 1).answers
    items = json.loads((RUN / "scores" / "intruder" / "h.0_latent1.txt").read_text(encoding="utf-8"))
    assert [a.prediction for a in choices] == [None if i["sample"] is None else i["correct"] for i in items]
    assert any(i["sample"] is None for i in items)
    assert {a.n_choices for a in choices if a.prediction is not None} == {3}


def test_what_fires_in_an_embedding_is_known_by_the_kind_of_its_distance() -> None:
    """A neighbour that is less than unlike has a distance above 0, and SAE_vis took it for a text that fires."""
    assert fires([0, 3, -1.0, 0.25, -0.0, None]) == [True, True, False, False, False, False]
    assert fires([-1, 0, 2]) == [False, True, True]
    # another writer: floats everywhere, so the sign has to do
    assert fires([0.0, 3.0, -1.0]) == [True, True, False]


def test_an_older_file_is_told_by_its_keys(tmp_path: Path) -> None:
    items = [
        tried_of_old(True, 1, 1, False, correct=True),
        tried_of_old(True, -1, 10, False, correct=False),
        tried_of_old(False, 0, -1, False),
    ]
    found = opened(
        tmp_path,
        {
            "explanations/.transformer.h.0_feature12.txt": GOOD,
            "scores/recall/.transformer.h.0_feature12.txt": items,
            "scores/mine/.transformer.h.0_feature12.txt": [tried_of_old(True, 1, 1, True, probability=0.0)],
        },
    )
    detection = found.score("detection", 12)
    assert detection.generation == "article_version"
    assert [(a.activating, a.prediction, a.correct, a.distance) for a in detection.answers] == [
        (True, True, True, 1.0),
        (True, None, None, 10.0),
        (False, False, None, -1.0),
    ]
    # nobody asked for probabilities: older files then say 0 everywhere
    assert [a.value for a in found.score("fuzz", 12).answers] == [None]


def test_activating_counts_and_not_the_sign_of_the_distance(tmp_path: Path) -> None:
    items = [tried(False, True, 0.25), tried(True, False, 0, 0.5)]
    found = opened(tmp_path, {"explanations/a_latent1.txt": GOOD, "scores/fuzz/a_latent1.txt": items})
    assert [(a.activating, a.value) for a in found.scores[0].answers] == [(False, None), (True, 0.5)]


@pytest.mark.parametrize("folder", ["fuzz", "fuzzing", "Fuzz-logprobs"])
def test_a_method_is_known_by_content_and_by_any_likely_name(folder: str, tmp_path: Path) -> None:
    files = {
        "explanations/a_latent1.txt": GOOD,
        f"scores/{folder}/a_latent1.txt": [tried(True, True, 0)],
        "scores/x/a_latent1.json": [{"text": "t", "distance": 2, "similarity": 0.5}],
        "scores/y/a_latent1.txt": [
            {
                "text": "t",
                "distance": 0,
                "no_explanation": [3.0, 1.0],
                "explanation": [1.0, 2.0],
                "activations": [],
            }
        ],
        "scores/z/a_latent1.txt": [tried(True, True, 0)],
    }
    found = opened(tmp_path, files)
    assert sorted(one.method for one in found.scores) == ["embedding", "fuzz", "surprisal"]
    assert found.score("surprisal", 1).answers[0].value == 0.5
    assert [(p.kind, p.reason) for p in found.problems] == [
        ("foreign", "neither its content nor the folder 'z' tells fuzz from detection")
    ]


def test_layers_3_never_takes_files_of_layers_30(tmp_path: Path) -> None:
    files = {
        **{f"explanations/layers.{layer}_latent1.txt": json.dumps(layer) for layer in ("3", "30")},
        **{f"scores/fuzz/layers.{layer}_latent1.txt": [tried(True, True, 0)] for layer in ("3", "30")},
    }
    with pytest.raises(
        BadInput, match=r"holds 2 hookpoints, name one \(--hookpoint\): 'layers.3', 'layers.30'"
    ):
        opened(tmp_path, files)
    found = opened(tmp_path, {}, hookpoint="layers.3")
    assert [(one.feature, one.text) for one in found.explanations] == [(1, "3")]
    assert [one.path.name for one in found.scores] == ["layers.3_latent1.txt"]
    assert found.told == []
    with pytest.raises(
        BadInput, match=r"no file of the hookpoint 'layers.31'; nearest: 'layers.3', 'layers.30'"
    ):
        opened(tmp_path, {}, hookpoint="layers.31")
    # Gemma Scope is asked for by another name than its files have; the other layer is then a stray
    config = {
        "hookpoints": ["layer_30/width_16k/average_l0_120"],
        "sparse_model": "google/gemma-scope-9b-pt-res",
    }
    results = open_results(write(tmp_path, {"run_config.json": config}), "E", "S")
    assert (results.hookpoint, results.sae_id) == (
        "layers.30",
        "google--gemma-scope-9b-pt-res--layer_30--width_16k--average_l0_120",
    )
    assert Everything(results).told == [("unnamed", "layers.3_latent1.txt")] * 2


def test_a_slash_of_a_hookpoint_is_a_folder_in_explanations_and_dashes_in_scores(tmp_path: Path) -> None:
    files = {
        "explanations/blocks/3_latent7.txt": GOOD,
        "scores/detection/blocks--3_latent7.txt": [tried(True, True, 0)],
    }
    results = open_results(write(tmp_path, files), "E", "S")
    assert results.hookpoint == "blocks/3"
    found = Everything(results)
    assert [one.feature for one in found.explanations] == [one.feature for one in found.scores] == [7]


def test_bad_files_are_told_and_never_raise(tmp_path: Path) -> None:
    deep = "[" * 100_000
    files: dict[str, Any] = {
        "explanations/a_latent1.txt": GOOD,
        "explanations/a_latent01.txt": GOOD,
        "explanations/a_latent2.txt": GOOD[:-3],
        "explanations/a_latent3.txt": b"\xff\xfe\x00",
        "explanations/a_latent4.txt": "",
        "explanations/a_latent5.txt": {"explanation": "in an object"},
        "explanations/notes.txt": "by hand",
        "explanations/.DS_Store": "a desktop's",
        "explanations/a_latent99999999999.txt": GOOD,
        "scores/readme.md": "by hand",
        "scores/fuzz/a_latent1.txt": json.dumps([tried(True, True, 0)])[:-4],
        "scores/fuzz/a_latent2.txt": deep,
        "scores/fuzz/a_latent3.txt": "[1, 2]",
        "scores/fuzz/a_latent4.txt": [{**tried(True, True, 0), "activating": "yes"}],
        "scores/fuzz/a_latent77.txt": [tried(True, True, 0)],
        "scores/fuzzing/a_latent5.txt": [tried(True, True, 0)],
        "scores/fuzz/a_latent5.txt": [tried(True, True, 0)],
        "scores/simulation/a_latent1.txt": [{"scored_sequence_simulations": [3], "ev_correlation_score": 1}],
    }
    found = opened(tmp_path, files)
    assert sorted(found.told) == sorted(
        [
            ("duplicate", "a_latent01.txt"),
            ("truncated", "a_latent2.txt"),
            ("foreign", "a_latent3.txt"),
            ("empty", "a_latent4.txt"),
            ("foreign", "a_latent5.txt"),
            ("unnamed", "notes.txt"),
            ("unnamed", "a_latent99999999999.txt"),
            ("foreign", "readme.md"),
            ("truncated", "a_latent1.txt"),
            ("truncated", "a_latent2.txt"),
            ("foreign", "a_latent3.txt"),
            ("foreign", "a_latent4.txt"),
            ("orphan", "a_latent77.txt"),
            ("duplicate", "a_latent5.txt"),
            ("foreign", "a_latent1.txt"),
        ]
    )
    assert [one.feature for one in found.explanations] == [1]
    assert [(one.feature, one.folder) for one in found.scores] == [(5, "fuzz")]


def test_states_of_explanations(tmp_path: Path) -> None:
    texts = {
        1: "No explanation found",
        2: "explanation could not be parsed",
        3: " \n ",
        4: "x" * 51,
        5: "Explanation could not be parsed. Or could it?",
        6: "half \ud800 of one",
    }
    files: dict[str, Any] = {f"explanations/a_latent{i}.txt": json.dumps(t) for i, t in texts.items()}
    files["explanations/a_latent7.txt"] = "plain, no JSON"
    files["explanations/a_latent8.txt"] = "null"
    found = opened(tmp_path, files, runaway_characters=50)
    assert {one.feature: one.status for one in found.explanations} == {
        1: "unparsed", 2: "unparsed", 3: "empty", 4: "runaway", 5: "ok", 6: "ok", 7: "ok", 8: "empty"
    }  # fmt: skip
    assert [(one.text, one.plain) for one in found.explanations[5:7]] == [
        ("half � of one", False),
        ("plain, no JSON", True),
    ]


def test_numbers_that_are_none_are_none(tmp_path: Path) -> None:
    group = {"scored_sequence_simulations": [{"true_activations": [0, 1]}], "ev_correlation_score": "nan"}
    files = {
        "explanations/a_latent1.txt": GOOD,
        "scores/simulation/a_latent1.txt": [{**group, "distance": 0}, {**group, "distance": 1}],
        "scores/embedding/a_latent1.txt": '[{"text": "", "distance": null, "similarity": NaN},'
        '{"text": "", "distance": 1, "similarity": 1e999}]',
    }
    found = opened(tmp_path, files)
    assert [(s.distance, s.correlation, s.n) for s in found.score("simulation", 1).simulated] == [
        (0, None, 2),
        (1, None, 2),
    ]
    first, second = found.score("embedding", 1).answers
    assert math.isnan(first.distance)
    assert (first.activating, first.value, second.activating, second.value) == (False, None, True, None)


def test_who_explained_and_scored(tmp_path: Path) -> None:
    files = {"explanations/a_latent1.txt": GOOD, "scores/fuzz/a_latent1.txt": [tried(True, True, 0)]}
    bare = write(tmp_path / "bare", files)
    with pytest.raises(BadInput, match="nobody says which model explained"):
        open_results(bare)
    with pytest.raises(BadInput, match="nobody says which model scored"):
        open_results(bare, explainer="E")
    assert open_results(write(tmp_path / "only", {"explanations/a_latent1.txt": GOOD}), "E").scorer is None
    named = open_results(write(tmp_path / "llama_e-qwen_s", files))
    assert (named.explainer, named.scorer, len(named.notes)) == ("llama", "qwen", 2)
    rescored = {**files, "run_config.json": {"explainer": "none", "explainer_model": "J"}}
    with pytest.raises(BadInput, match="nobody says which model explained"):
        open_results(write(tmp_path / "rescored", rescored))
    results = open_results(tmp_path / "rescored", explainer="E")
    assert (results.explainer, results.scorer) == ("E", "J")


def test_a_damaged_run_config_says_nothing(tmp_path: Path) -> None:
    files = {"explanations/a_latent1.txt": GOOD, "run_config.json": '{"explainer_model": "M'}
    why = "run_config.json is no JSON object and was not read: Unterminated string starting at: line 1 column 21"
    why += " (char 20)"
    with pytest.raises(BadInput) as error:
        open_results(write(tmp_path, files))
    assert str(error.value) == (
        f"{tmp_path}: nobody says which model explained ({why}); give it (--explainer)"
    )
    results = open_results(tmp_path, "E")
    assert results.notes == (why,)
    assert sorted(results.files) == ["explanations/a_latent1.txt", "run_config.json"]
    write(tmp_path, {"run_config.json": "[]"})
    with pytest.raises(BadInput, match="was not read: it is JSON of another kind"):
        open_results(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no results: neither explanations/"):
        open_results(write(tmp_path, {"explanations/readme.txt": "nothing"}))
