"""What a run does, does again, leaves out, and publishes. (Maps take long to import, and have tests of their own.)"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from examples.validation.make_world import N_FEATURES, explanation, write_world
from pipeline.__main__ import app
from pipeline.config import Execution
from pipeline.stage import Progress
from pipeline.validation.run import run_validation
from pipeline.validation.stages import VALIDATION_STAGES
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.tables import BY_NAME

STAGES = tuple(stage for stage in VALIDATION_STAGES if not stage.name.endswith("_maps"))
NAMES = [stage.name for stage in STAGES]
SAE_ID = "planted--sae--layers.5"


class Heard:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    @contextmanager
    def working(self, stage: str) -> Iterator[Progress]:
        yield lambda done, total: None

    def that_ran(self) -> list[str]:
        return [line.split(":")[0] for line in self.lines if ": runs, " in line]


def validate(config: Path, **options: Any) -> Heard:
    heard = Heard()
    run_validation(config, progress=heard, stages=STAGES, **options)
    return heard


def all_bytes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world whose run is done."""
    folder = tmp_path_factory.mktemp("finished")
    assert validate(write_world(folder)).that_ran() == NAMES
    return folder


@pytest.fixture
def world(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "world")
    return tmp_path / "world"


def test_a_second_run_does_nothing_and_says_so(world: Path) -> None:
    before = all_bytes(world / "out")
    inode = (world / "out").stat().st_ino
    heard = validate(world / "validate.yaml")
    assert heard.that_ran() == []
    assert sum(": skipped, fingerprint " in line for line in heard.lines) == len(NAMES)
    assert heard.lines[-1] == f"{world / 'out'}: nothing changed, left as it was"
    assert all_bytes(world / "out") == before
    assert (world / "out").stat().st_ino == inode


def test_a_changed_score_redoes_scores_features_and_comparison(world: Path) -> None:
    path = world / "alpha_e-judge_s" / "scores" / "fuzz" / "layers.5_latent0.txt"
    items = json.loads(path.read_text(encoding="utf-8"))
    for item in items:
        item["correct"], item["prediction"] = False, not item["activating"]
    path.write_text(json.dumps(items), encoding="utf-8")
    assert validate(world / "validate.yaml").that_ran() == ["scores", "features", "llm_comparison"]
    fuzz = Validation(world / "out").of_feature("scores", 0).filter(pl.col("method") == "fuzz")
    assert fuzz["score"].to_list() == [0.0, 1.0]  # alpha all wrong now, beta all right


def test_a_changed_explanation_redoes_what_reads_explanations(world: Path) -> None:
    path = world / "beta_e-judge_s" / "explanations" / "layers.5_latent2.txt"
    path.write_text(json.dumps("something else"), encoding="utf-8")
    assert [name for name in validate(world / "validate.yaml").that_ran() if name != "scores"] == [
        "explanation_embeddings", "features", "explanation_alignment", "pattern_matching", "llm_comparison",
    ]  # fmt: skip


def test_a_changed_activation_redoes_what_reads_activations(world: Path) -> None:
    path = world / "activations.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    line = json.loads(lines[0])
    line["sparseValues"] = [[4, 99.0]]
    path.write_text("\n".join([json.dumps(line), *lines[1:]]) + "\n", encoding="utf-8")
    assert validate(world / "validate.yaml").that_ran() == [
        "activation_examples", "activation_embeddings", "activation_similarity", "interfeature_similarity",
        "pattern_matching",
    ]  # fmt: skip


def test_a_changed_section_redoes_its_stage_and_what_reads_it(world: Path) -> None:
    config = yaml.safe_load((world / "validate.yaml").read_text(encoding="utf-8"))
    config["explanation_alignment"] = {"similarity_threshold": 0.5}
    (world / "validate.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert validate(world / "validate.yaml").that_ran() == ["explanation_alignment", "pattern_matching"]
    config["llm_comparison"] = {"n_permutations": 49}
    (world / "validate.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert validate(world / "validate.yaml").that_ran() == ["llm_comparison"]


TELLING = """
import sys
from pathlib import Path
from contextlib import nullcontext
from pipeline.validation.run import run_validation
from tests.pipeline.validation.test_run import STAGES
class Telling:
    def say(self, line):
        print(line, flush=True)
    def working(self, stage):
        return nullcontext(lambda done, total: print(stage, "works", flush=True))
run_validation(Path(sys.argv[1]), progress=Telling(), stages=STAGES)
"""


def test_a_run_in_another_place_that_is_killed_twice_ends_with_equal_bytes(
    finished: Path, tmp_path: Path
) -> None:
    config = write_world(tmp_path / "again")
    for last in ("scores: runs", "activation_similarity works"):
        with subprocess.Popen(
            [sys.executable, "-c", TELLING, str(config)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert any(line.startswith(last) for line in process.stdout)
            process.kill()
        assert not (tmp_path / "again" / "out").exists()
    heard = validate(config, execution=Execution(workers=2))
    assert "activation_similarity: goes on from an unfinished artifact" in heard.lines
    assert "scores: skipped" in "".join(heard.lines)
    assert all_bytes(tmp_path / "again" / "out") == all_bytes(finished / "out")


def test_tables_have_the_declared_columns_and_join(finished: Path) -> None:
    published = Validation(finished / "out")
    assert (published.manifest.sae_id, published.manifest.n_features) == (SAE_ID, N_FEATURES)
    names = [name for name in BY_NAME if published.has(name)]
    assert set(names) == set(BY_NAME) - {"published_features", "neighbours", "feature_merges"}
    features = published.table("features").collect()
    assert len(features) == sum(
        explanation(source, i) is not None for source in ("alpha", "beta") for i in range(N_FEATURES)
    )
    for name in names:
        frame = published.table(name).collect()
        keys = [key for key in ("feature_id", "sae_id") if key in frame.columns]
        joined = features.join(frame, on=keys, how="inner", suffix="_of_other")
        assert len(joined) >= len(features) * 0.9, name
        assert frame["sae_id"].unique().to_list() == [SAE_ID], name


def test_a_sidecar_names_what_made_its_table(finished: Path) -> None:
    path = finished / "out" / "master" / "features.parquet.metadata.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    manifest = Validation(finished / "out").manifest
    assert content["total_rows"] == 114
    assert content["made_by"]["fingerprint"] == manifest.stages["features"]
    assert content["made_by"]["inputs"] == {
        name: manifest.stages[name] for name in ("decoder_similarities", "explanation_embeddings", "scores")
    }
    examples = json.loads(
        (path.parent / "activation_examples.parquet.metadata.json").read_text(encoding="utf-8")
    )
    digest = hashlib.sha256((finished / "activations.jsonl").read_bytes()).hexdigest()
    assert examples["made_by"]["files"]["activations.jsonl"] == digest


def test_nothing_published_tells_of_this_machine(finished: Path) -> None:
    for path in (finished / "out").rglob("*.json"):
        assert str(finished) not in path.read_text(encoding="utf-8"), path


def test_the_manifest_names_every_file_with_its_hash(finished: Path) -> None:
    found = all_bytes(finished / "out")
    found.pop("manifest.json")
    assert {name: one.sha256 for name, one in Validation(finished / "out").manifest.files.items()} == found


def test_stages_without_inputs_are_left_out_and_say_what_they_need(tmp_path: Path) -> None:
    config = write_world(tmp_path, data_sources=[], activation_examples=None)
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    del content["activation_examples"]
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    heard = validate(config)
    assert heard.that_ran() == ["decoder_similarities"]
    assert heard.lines[0] == (
        "activation_examples: left out, it needs activation_examples.activations_input_path (and "
        "prompts_input_path), or activation_examples.given, or a store"
    )
    assert (
        "pattern_matching: left out, it needs activation_examples and activation_embeddings"
        in heard.lines[-5]
    )
    assert not Validation(tmp_path / "out").has("features")


def test_without_a_decoder_features_are_made_without_neighbours(world: Path) -> None:
    config = yaml.safe_load((world / "validate.yaml").read_text(encoding="utf-8"))
    del config["feature_similarities"]
    (world / "validate.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    heard = validate(world / "validate.yaml")
    # nobody says any more how many features there are
    assert heard.that_ran() == [
        "scores", "explanation_embeddings", "features", "explanation_alignment", "pattern_matching",
        "llm_comparison",
    ]  # fmt: skip
    published = Validation(world / "out")
    assert not published.has("interfeature_similarity")
    assert published.table("features").collect()["decoder_similarity"].null_count() == 114
    assert published.vectors("decoder") is None


def test_features_that_the_sae_does_not_have_are_told_and_passed_over(world: Path) -> None:
    path = world / "alpha_e-judge_s" / "explanations" / "layers.5_latent500.txt"
    path.write_text(json.dumps("no feature"), encoding="utf-8")
    validate(world / "validate.yaml")
    published = Validation(world / "out")
    assert published.manifest.n_features == N_FEATURES
    assert published.table("features").collect()["feature_id"].to_numpy().max() < N_FEATURES
    assert (
        "explanation_embeddings: alpha_e-judge_s: 1 foreign file passed over, the first "
        "explanations/layers.5_latent500.txt: feature 500 is not in the SAE, which by its store or weights has 0 to 59"
    ) in published.manifest.warnings


def test_weights_with_fewer_features_than_activations_are_warned_of(world: Path) -> None:
    np.save(world / "decoder.npy", np.ones((10, 8), np.float32), allow_pickle=False)
    validate(world / "validate.yaml")
    manifest = Validation(world / "out").manifest
    told = "decoder_similarities: weights hold 10 features, activations reach 59: they are of two SAEs"
    assert told in manifest.warnings
    assert manifest.n_features == N_FEATURES


def test_a_run_without_any_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "validate.yaml"
    path.write_text("{name: none, sae_id: a/b, out: out}", encoding="utf-8")
    with pytest.raises(BadInput, match=r"names no input: give activation_examples\.activations_input_path"):
        validate(path)
    assert not (tmp_path / "out").exists()


def test_only_runs_one_stage_and_publishes_when_nothing_waits(world: Path) -> None:
    config = yaml.safe_load((world / "validate.yaml").read_text(encoding="utf-8"))
    config["llm_comparison"] = {"n_permutations": 49}
    (world / "validate.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    heard = validate(world / "validate.yaml", only="llm_comparison")
    assert heard.that_ran() == ["llm_comparison"]
    assert heard.lines[-1] == f"{world / 'out'}: published"
    config["scores"] = {"scoring_methods": ["fuzz"]}
    (world / "validate.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    before = all_bytes(world / "out")
    heard = validate(world / "validate.yaml", only="scores")
    assert heard.lines[-1] == "not published: features, llm_comparison are not done; run without --only"
    assert all_bytes(world / "out") == before
    with pytest.raises(BadInput, match=r"no stage 'feature'; nearest: 'features'"):
        validate(world / "validate.yaml", only="feature")


def test_a_file_that_is_missing_is_told_before_anything_runs(tmp_path: Path) -> None:
    config = write_world(tmp_path, feature_similarities={"weights": "no.npy"})
    heard = Heard()
    with pytest.raises(
        BadInput, match=r"no\.npy does not exist or is no file; feature_similarities needs it"
    ):
        run_validation(config, progress=heard, stages=STAGES)
    assert heard.that_ran() == []


@pytest.mark.parametrize("content", ["{}", '{"format": "saeinterp-store"}', "{", None])
def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, content: str | None) -> None:
    config = write_world(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine", encoding="utf-8")
    if content is not None:
        (tmp_path / "out" / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match="exists and is no folder of tables that can be read"):
        validate(config)
    assert (tmp_path / "out" / "precious").read_text(encoding="utf-8") == "mine"


def test_work_inside_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="which is replaced as a whole; name another"):
        validate(write_world(tmp_path, work="out/work"))


def test_a_missing_published_file_is_put_back(world: Path) -> None:
    (world / "out" / "master" / "scores.parquet").unlink()
    heard = validate(world / "validate.yaml")
    assert heard.that_ran() == []
    assert heard.lines[-1].endswith(": published")
    assert len(Validation(world / "out").table("scores").collect()) == 456


def test_the_command_says_what_was_published(tmp_path: Path) -> None:
    config = write_world(tmp_path, data_sources=[])
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    del content["feature_similarities"]
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    done = CliRunner().invoke(app, ["validate", str(config)])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'out'}: 60 features of {SAE_ID}",
        "  master/activation_embeddings.parquet: 60 rows",
        "  master/activation_example_similarity.parquet: 60 rows",
        "  master/activation_examples.parquet: 694 rows",
        "  master/prompts.parquet: 40 rows",
        "  texts compared by their words only",
        "  warning: activation_embeddings: no embedder: examples have no vectors, and are compared by their words only",
        "  warning: activation_example_similarity: no embedder: the meaning of examples was not compared",
    ]
    assert "decoder_similarities: left out, it needs feature_similarities.weights or .given" in done.stderr
