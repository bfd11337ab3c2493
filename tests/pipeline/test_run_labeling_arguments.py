"""What `run_labeling` accepts and refuses, before any model is loaded."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.labeling.asked import asked_features
from pipeline.labeling.given import dataset_section
from pipeline.run_labeling import run_labeling
from saeinterp_mcp.errors import BadInput, UnknownName
from tests.conftest import ROOT

RUNNER = ROOT / "examples" / "autointerp" / "run_llama_labeling.sh"
FORMS = "a list of integers, '11,313,251', or a JSON file with feature_indices and scores"


def json_file(folder: Path, content: object) -> Path:
    path = folder / "features.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_weakness_11_the_seeds_parameters_have_the_seeds_names_order_and_defaults() -> None:
    parameters = inspect.signature(run_labeling).parameters
    assert list(parameters)[:15] == [
        "feature_indices", "model_path", "sae_path", "dataset_path", "sae_id", "output_dir", "n_samples",
        "max_examples_per_feature", "device", "column_name", "minibatch_size_features", "minibatch_size_tokens",
        "label_model_path", "max_examples_for_labeling", "feature_scores",
    ]  # fmt: skip
    defaults = {name: parameters[name].default for name in list(parameters)[5:15]}
    assert defaults == {
        "output_dir": "results",
        "n_samples": 1000,
        "max_examples_per_feature": 20,
        "device": None,
        "column_name": "text",
        "minibatch_size_features": 256,
        "minibatch_size_tokens": 64,
        "label_model_path": None,
        "max_examples_for_labeling": 10,
        "feature_scores": None,
    }


@pytest.mark.parametrize(
    "asked",
    [[11, 313, 251], (11, 313, 251), np.array([11, 313, 251]), "11,313,251", "11 313 251", " [11, 313,251] "],
)
def test_features_are_a_list_or_a_string_in_the_order_given(asked: Any) -> None:
    found = asked_features(asked)
    assert found.features == (11, 313, 251)
    assert (found.scores, found.scores_given) == ((0.0, 0.0, 0.0), False)


@pytest.mark.parametrize("as_text", [True, False])
def test_features_and_scores_are_read_from_a_file(as_text: bool, tmp_path: Path) -> None:
    path = json_file(tmp_path, {"feature_indices": [6, 7], "scores": [0.335, 2]})
    found = asked_features(str(path) if as_text else path)
    assert (found.features, found.scores, found.scores_given) == ((6, 7), (0.335, 2.0), True)


@pytest.mark.parametrize(
    ("asked", "scores", "message"),
    [
        ([1, 2], [0.5], "feature_indices: 2 feature_indices but 1 scores; each feature needs its own"),
        ([3, 1, 3], None, "feature_indices holds 3 more than once; each feature is asked for once"),
        ([1, -4], None, "feature_indices holds -4; features are numbered from 0"),
        ("1,-4", None, "feature_indices holds -4; features are numbered from 0"),
        ([], None, f"feature_indices is empty; give {FORMS}"),
        ("", None, f"feature_indices is empty; give {FORMS}"),
        ([1.0], None, f"feature_indices holds 1.0, which is no integer; give {FORMS}"),
        ([True], None, f"feature_indices holds True, which is no integer; give {FORMS}"),
        (["1"], None, f"feature_indices holds '1', which is no integer; give {FORMS}"),
        (7, None, f"feature_indices is int; give {FORMS}"),
        (None, None, f"feature_indices is NoneType; give {FORMS}"),
        ({"a": 1}, None, f"feature_indices is dict; give {FORMS}"),
        ("none.json", None, f"feature_indices is 'none.json', which is no file here and no numbers; give {FORMS}"),
        ("1,2;3", None, f"feature_indices is '1,2;3', which is no file here and no numbers; give {FORMS}"),
        ([1], [float("nan")], "feature_indices: the score nan is no finite number"),
        ([1], ["high"], "feature_indices: the score 'high' is no finite number"),
    ],
)  # fmt: skip
def test_features_that_do_not_fit_are_refused(asked: Any, scores: Any, message: str) -> None:
    with pytest.raises(BadInput) as error:
        asked_features(asked, scores)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"feature_indices": [1, 2, 3], "scores": [0.5]},
            "{path}: 3 feature_indices but 1 scores; each feature needs its own",
        ),
        ({"feature_indices": [1, 1]}, "{path} holds 1 more than once; each feature is asked for once"),
        (
            {"indices": [1]},
            "{path} must be a JSON object with a list feature_indices, and scores beside it or not",
        ),
        ([1, 2], "{path} must be a JSON object with a list feature_indices, and scores beside it or not"),
        ({"feature_indices": [1], "scores": 3}, "{path}: scores must be a list, found int"),
    ],
)
def test_a_file_of_features_that_does_not_fit_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = json_file(tmp_path, content)
    with pytest.raises(BadInput) as error:
        asked_features(str(path))
    assert str(error.value) == message.format(path=path)


def test_scores_from_two_sides_are_refused(tmp_path: Path) -> None:
    path = json_file(tmp_path, {"feature_indices": [1], "scores": [1]})
    with pytest.raises(BadInput) as error:
        asked_features(path, [2.0])
    assert str(error.value) == f"{path} holds scores, and feature_scores are given too; give one of them"


def test_a_feature_beyond_the_sae_is_refused(pycode_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as error:
        run_labeling([3, 2048, 9000], store=pycode_store, output_dir=tmp_path / "out")
    assert (
        str(error.value)
        == "the SAE has features 0 to 2047, not 2048, 9000; 2 of the 3 asked for are beyond it"
    )


@pytest.mark.parametrize("missing", ["model_path", "sae_path", "dataset_path"])
def test_what_has_no_default_says_so(missing: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        name: "x" for name in ("model_path", "sae_path", "dataset_path") if name != missing
    }
    with pytest.raises(BadInput) as error:
        run_labeling([1], output_dir=tmp_path, **given)
    assert str(error.value) == (
        f"{missing} is not given and has no default; give model_path, sae_path and dataset_path, or store=PATH of a "
        "finished store"
    )


@pytest.mark.parametrize(
    "name",
    ["n_samples", "max_examples_per_feature", "minibatch_size_features", "minibatch_size_tokens",
     "max_examples_for_labeling"],
)  # fmt: skip
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_counts_are_whole_numbers_from_1(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        run_labeling([1], store=tmp_path, **{name: value})
    assert str(error.value) == f"{name} is {value!r}; it must be a whole number from 1"


@pytest.mark.parametrize(
    ("made", "asked", "expected"),
    [
        (["a.parquet"], "a.parquet", {"format": "parquet", "path": "a.parquet"}),
        (["a.jsonl"], "a.jsonl", {"format": "jsonl", "path": "a.jsonl"}),
        (["a.csv"], ".", {"format": "csv", "path": "*.csv"}),
        (["train-0.parquet", "test-0.parquet"], ".", {"format": "parquet", "path": "train*.parquet"}),
        (["data/train-0.parquet"], ".", {"format": "parquet", "path": "data/train*.parquet"}),
        (["state.json", "data-0.arrow"], ".", {"format": "huggingface", "path": "."}),
        (["dataset_dict.json"], ".", {"format": "huggingface", "path": ".", "split": "train"}),
    ],
)  # fmt: skip
def test_a_dataset_is_a_file_or_a_folder_of_any_kind_that_the_pipeline_reads(
    made: list[str], asked: str, expected: dict[str, str], tmp_path: Path
) -> None:
    for name in made:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    where = str((tmp_path / expected["path"]) if expected["path"] != "." else tmp_path)
    found = dataset_section(str(tmp_path / asked), "body", None, {})
    assert found == {**expected, "path": where, "text": "body"}


@pytest.mark.parametrize("column", ["tokens", "token_ids", "input_ids"])
def test_the_column_tokens_holds_token_ids_as_in_the_seed(column: str, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("", encoding="utf-8")
    found = dataset_section(str(tmp_path / "a.parquet"), column, None, {})
    assert found["token_ids"] == column
    assert "text" not in found


def test_a_hub_name_keeps_the_commit_that_the_run_began_with() -> None:
    pinned = {"some/news": "c0ffee"}
    assert dataset_section("some/news", "text", None, pinned) == {
        "format": "huggingface", "hub": "some/news", "revision": "c0ffee", "split": "train", "text": "text",
    }  # fmt: skip
    assert dataset_section("some/news@abc", "text", "test", pinned)["revision"] == "abc"


def test_a_path_that_is_not_there_is_no_hub_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^dataset: there is no .*nothing\.parquet$"):
        dataset_section(str(tmp_path / "nothing.parquet"), "text", None, {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BadInput, match=r"holds no dataset of save_to_disk and no .parquet, .jsonl, .json, .csv file$"
    ):
        dataset_section(str(tmp_path / "empty"), "text", None, {})


def runner(arguments: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The shell runner, with a command in the place of ours that writes down how it was called."""
    (folder / "saeinterp-pipeline").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    (folder / "saeinterp-pipeline").chmod(0o755)
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **variables}
    return subprocess.run(
        ["bash", str(RUNNER), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        (["11,313,251"], ["label", "11,313,251"]),
        (["11 313", "saes/a b", "blocks.19.hook_resid_post"],
         ["label", "11 313", "saes/a b", "blocks.19.hook_resid_post"]),
        (["1", "--store", "my store"], ["label", "1", "--store", "my store"]),
    ],
)  # fmt: skip
def test_the_shell_runner_passes_its_three_arguments_on(
    arguments: list[str], called: list[str], tmp_path: Path
) -> None:
    done = runner(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == called


def test_the_shell_runner_says_what_has_no_default(tmp_path: Path) -> None:
    done = runner([], tmp_path)
    assert done.returncode == 2
    assert "FEATURES has no default" in done.stderr
    text = RUNNER.read_text(encoding="utf-8")
    assert "/home/" not in text
    assert "conda" not in text


def test_the_command_reads_the_seeds_variables_as_defaults(pycode_store: Path, tmp_path: Path) -> None:
    variables = {"OUTPUT_DIR": str(tmp_path / "out"), "MAX_EXAMPLES": "3", "N_SAMPLES": "7", "MODEL_PATH": ""}
    command = [sys.executable, "-m", "pipeline", "label", "2,100", str(pycode_store), "--label-model", "none"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [path.name for path in paths] == ["feature_examples.jsonl", "feature_labels.json"]
    assert [path.parent for path in paths] == [tmp_path / "out"] * 2
    lines = [json.loads(line) for line in paths[0].read_text(encoding="utf-8").splitlines()]
    assert [(line["feature_id"], len(line["examples"])) for line in lines] == [(2, 3), (100, 3)]


def test_a_wrong_call_ends_with_2_and_one_sentence(tmp_path: Path) -> None:
    without = {name: value for name, value in os.environ.items() if not name.endswith("_PATH")}
    command = [sys.executable, "-m", "pipeline", "label", "2,100", "--output-dir", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=without | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: model_path is not given and has no default;")
    assert "Traceback" not in done.stderr
