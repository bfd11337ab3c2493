"""The data set of the validation benchmark is what it says; how long it takes is in benchmarks/validation."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.validation.__main__ import RESULTS, render
from benchmarks.validation.data_set import (
    HOOKPOINT,
    SOURCES,
    Size,
    explanation,
    own_words,
    vocabulary,
    write_data_set,
)
from benchmarks.validation.measure import Results
from pipeline.validation.config import ValidationRun

TINY = Size(n_features=30, n_prompts=200, n_topics=4, d_model=8, n_scored=3, n_trials=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "set"
    write_data_set(path, TINY)
    return path


def test_a_feature_fires_most_on_its_own_words(folder: Path) -> None:
    words = vocabulary(6_000 + 4 * 24)
    prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    assert {len(prompt) for prompt in prompts} == {127}
    lines = [
        json.loads(line) for line in (folder / "activations.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert all(28 <= n <= 33 for n in Counter(line["index"] for line in lines).values())
    assert len({(line["index"], line["dataSetPromptId"]) for line in lines}) == len(lines)
    for line in lines:
        own = {words[word] for word in own_words(int(line["index"]), TINY).tolist()}
        tokens = prompts[line["dataSetPromptId"]]
        assert all((value > 4) <= (tokens[position] in own) for position, value in line["sparseValues"])


def test_every_fifth_explanation_is_of_another_feature(folder: Path) -> None:
    words = vocabulary(6_000 + 4 * 24)
    named = []
    for feature in range(30):
        path = folder / "one_e-one_s" / "explanations" / f"{HOOKPOINT}_latent{feature}.txt"
        text = json.loads(path.read_text(encoding="utf-8"))
        assert text == explanation(feature, SOURCES["one_e-one_s"], TINY, words)
        own = [words[word].lstrip("▁") for word in own_words(feature, TINY).tolist()]
        named.append(all(word in text for word in own))
    assert [feature for feature, ok in enumerate(named) if not ok] == [4, 9, 14, 19, 24, 29]


def test_the_config_is_one_and_every_file_is_there(folder: Path) -> None:
    run = ValidationRun.load(folder / "validate.yaml")
    assert run.feature_similarities.weights is not None
    assert np.load(run.feature_similarities.weights, allow_pickle=False).shape == (30, 8)
    for source in run.data_sources:
        assert len(list((source.path / "explanations").iterdir())) == 30
        assert sorted(one.name for one in (source.path / "scores").iterdir()) == ["detection", "fuzz"]


def test_saved_results_render() -> None:
    results = Results.model_validate_json(RESULTS.read_text(encoding="utf-8"))
    assert f"| all (target 300 s, 3,000 MB) | {results.seconds:.1f} |" in render(results)
