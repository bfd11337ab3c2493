import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.artifact import Artifact, ArtifactWriter, Identity, changed_values
from pipeline.config import CollectConfig, Execution, OutputsConfig, RunConfig
from pipeline.fingerprint import FileHashes
from pipeline.progress import LogReporter, summary_line
from pipeline.runner import run_stages, sole_use
from pipeline.stage import Progress, Stage, Summary
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen
from tests.pipeline.conftest import STAGES, SmallRun
from tests.pipeline.recorded import Recorder

ROOT = Path(__file__).parents[2]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


CHILD = """
import sys
from pathlib import Path
from pipeline.config import Execution, RunConfig
from pipeline.progress import LogReporter
from pipeline.runner import run_stages, sole_use
from tests.pipeline.conftest import STAGES
run = RunConfig.load(Path(sys.argv[1]))
run_stages(STAGES, run, execution=Execution(device="cpu"), progress=LogReporter(interval_seconds=0))
"""


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    small_run: SmallRun, built: dict[str, Path]
) -> None:
    small_run.config()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, "-c", CHILD, str(small_run.folder / "run.yaml")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as child:
        assert child.stderr is not None
        lines = []
        for line in child.stderr:
            lines.append(line)
            if (
                line.startswith("collect_activations: ")
                and " of " in line
                and len(partial_parts(small_run)) >= 2
            ):
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL, "".join(lines)
    kept = {path: path.stat().st_mtime_ns for path in partial_parts(small_run)}
    assert kept
    # What a kill in the middle of a write leaves behind must not end up in the artifact.
    (
        small_run.folder / "small.work/collect_activations.partial/activations/part-00099.parquet.tmp"
    ).write_bytes(b"x")

    artifacts = small_run.build()

    assert "collect_activations: goes on from an unfinished artifact" in small_run.said.lines
    assert small_run.said.first("tokenize_dataset").endswith("is done")
    for path, written in kept.items():
        final = artifacts["collect_activations"] / "activations" / path.name
        assert final.stat().st_mtime_ns == written, "a finished shard was written again"
    for stage, folder in artifacts.items():
        assert content(folder) == content(built[stage]), stage


def partial_parts(run: SmallRun) -> list[Path]:
    folder = run.folder / "small.work" / "collect_activations.partial" / "activations"
    return sorted(folder.glob("*.parquet"))


class CountConfig(Frozen):
    """Sections of the two stages below."""

    collect: CollectConfig


class DoubleConfig(Frozen):
    outputs: OutputsConfig


CALLS: Counter[str] = Counter()


def count(
    config: CountConfig, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    CALLS["count"] += 1
    (out / "n.txt").write_text(str(config.collect.batch_tokens), encoding="utf-8")
    progress(1, 1)
    return Summary(n_in=3, n_kept=2, dropped={"odd": 1})


def double(
    config: DoubleConfig, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    CALLS["double"] += 1
    number = int((inputs["count"] / "n.txt").read_text(encoding="utf-8"))
    (out / "n.txt").write_text(str(2 * number), encoding="utf-8")
    return Summary(n_in=1, n_kept=1)


def read_words(config: CountConfig) -> dict[str, Path]:
    return {"words/words.txt": WORDS}


WORDS = Path()
TWO_STAGES = (
    Stage(name="count", config=CountConfig, run=count, modules=("pipeline.batches",), external=read_words),
    Stage(name="double", config=DoubleConfig, run=double, inputs=("count",)),
)


@pytest.fixture
def two(small_run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> SmallRun:
    """A run of two stages that need no model."""
    words = small_run.folder / "words.txt"
    words.write_text("a b", encoding="utf-8")
    monkeypatch.setattr(sys.modules[__name__], "WORDS", words)
    CALLS.clear()
    return small_run


def run_two(run: SmallRun, only: str | None = None, batch_tokens: int = 8, n_features: int = 20) -> Recorder:
    config = run.config(collect={"batch_tokens": batch_tokens}, outputs={"n_features": n_features})
    said = Recorder()
    run_stages(TWO_STAGES, config, only=only, progress=said)
    return said


def result(run: SmallRun, stage: str = "double") -> str:
    return (run.folder / "small.work" / stage / "n.txt").read_text(encoding="utf-8")


def test_a_second_run_does_nothing_and_says_so(two: SmallRun) -> None:
    assert run_two(two).first("count") == "count: runs, not built yet"
    said = run_two(two)
    assert [line.split(", ")[0] for line in said.lines] == ["count: skipped", "double: skipped"]
    assert CALLS == {"count": 1, "double": 1}
    assert result(two) == "16"


def test_a_changed_setting_reruns_what_depends_on_it_and_says_why(two: SmallRun) -> None:
    run_two(two)
    said = run_two(two, batch_tokens=9)
    assert said.first("count") == "count: runs, config changed: collect.batch_tokens 8 -> 9"
    assert said.first("double") == "double: runs, input changed: count"
    assert result(two) == "18"
    said = run_two(two, batch_tokens=9, n_features=3)
    assert said.first("count").startswith("count: skipped")
    assert said.first("double") == "double: runs, config changed: outputs.n_features 20 -> 3"


def test_a_changed_file_reruns_its_stage(two: SmallRun) -> None:
    run_two(two)
    WORDS.write_text("a b c", encoding="utf-8")
    assert run_two(two).first("count") == "count: runs, file changed: words/words.txt"


def test_changed_code_reruns_its_stage(two: SmallRun) -> None:
    run_two(two)
    path = two.folder / "small.work" / "count" / "artifact.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["identity"]["code"]["pipeline.batches"] = "0" * 64
    record["fingerprint"] = "0" * 64
    path.write_text(json.dumps(record), encoding="utf-8")
    assert run_two(two).first("count") == "count: runs, code changed: pipeline.batches"


def test_a_run_in_another_folder_has_the_same_fingerprints(two: SmallRun, tmp_path: Path) -> None:
    run_two(two)
    moved = tmp_path / "elsewhere"
    shutil.copytree(two.folder / "small.work", moved / "small.work")
    shutil.copy(two.folder / "documents.parquet", moved / "documents.parquet")
    said = run_two(SmallRun(moved, two.sections))
    assert [line.split(", ")[0] for line in said.lines] == ["count: skipped", "double: skipped"]


def test_a_damaged_artifact_is_built_again(two: SmallRun) -> None:
    run_two(two)
    path = two.folder / "small.work" / "double" / "n.txt"
    path.write_text("160", encoding="utf-8")
    assert run_two(two).first("double") == (
        f"double: runs, damaged: {path}: expected 2 bytes; found 3 bytes. Delete the folder and build again."
    )
    assert result(two) == "16"


def test_one_stage_alone_wants_its_inputs_done(two: SmallRun) -> None:
    with pytest.raises(BadInput) as error:
        run_two(two, only="double")
    assert str(error.value) == "double reads count, which is not done (not built yet); run without --only"
    run_two(two, only="count")
    assert CALLS == {"count": 1}
    run_two(two, only="double")
    assert CALLS == {"count": 1, "double": 1}
    with pytest.raises(BadInput) as error:
        run_two(two, only="dubble")
    assert str(error.value) == "there is no stage 'dubble'; nearest: 'double'"


def test_two_builds_in_one_folder_are_refused(two: SmallRun) -> None:
    run_two(two)
    work = two.folder / "small.work"
    with sole_use(work), pytest.raises(BadInput) as error:
        run_two(two)
    assert str(error.value) == (
        f"another build is running in {work}; wait for it, or give this run another `work`"
    )
    run_two(two)


def identity(config: int = 1) -> Identity:
    return Identity(stage="s", config={"n": config}, inputs={}, files={}, code={})


def test_an_unfinished_artifact_is_kept_for_its_own_fingerprint_only(tmp_path: Path) -> None:
    first = ArtifactWriter(tmp_path, identity())
    assert first.open() is None
    (first.folder / "half.txt").write_text("half", encoding="utf-8")
    assert ArtifactWriter(tmp_path, identity()).open() is None
    assert (first.folder / "half.txt").exists()
    assert ArtifactWriter(tmp_path, identity(2)).open() == "config changed: n 1 -> 2"
    assert not (first.folder / "half.txt").exists()
    (first.folder / "partial.json").write_text("{", encoding="utf-8")
    assert ArtifactWriter(tmp_path, identity(2)).open() == "it does not say what it is for"


def test_a_new_artifact_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for number in (1, 2):
        writer = ArtifactWriter(tmp_path, identity(number))
        writer.open()
        (writer.folder / f"{number}.txt").write_text("x", encoding="utf-8")
        writer.finish(Summary(n_in=1, n_kept=1))
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["2.txt", "artifact.json"]
    assert Artifact.read(tmp_path / "s").fingerprint == identity(2).fingerprint
    assert not (tmp_path / "s.partial").exists()


def test_a_run_killed_before_the_last_rename_is_finished(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path, identity())
    writer.open()
    (writer.folder / "a.txt").write_text("x", encoding="utf-8")
    writer.finish(Summary(n_in=1, n_kept=1))
    before = content(tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / "s.partial")
    again = ArtifactWriter(tmp_path, identity())
    assert again.open() is None
    again.finish(Summary(n_in=1, n_kept=1))
    assert content(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("text", "found"), [(None, "none"), ("{}", "something else (ValidationError)"), ("{", "something else")]
)
def test_a_folder_that_is_no_artifact_is_refused(text: str | None, found: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "artifact.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadStore, match=r"found " + found.replace("(", r"\(").replace(")", r"\)")):
        Artifact.read(tmp_path)


def test_no_artifact_holds_a_path_or_a_time(built: dict[str, Path]) -> None:
    for folder in built.values():
        text = (folder / "artifact.json").read_text(encoding="utf-8")
        assert str(folder.parent.parent) not in text
        assert str(ROOT) not in text
        assert "seconds" not in text


def test_every_module_that_a_stage_uses_is_in_its_fingerprint() -> None:
    # These decide how a run is organised, or only hold settings, which are hashed by value.
    infrastructure = {"config", "source_config", "stage", "artifact", "fingerprint", "progress", "runner"}
    for stage in STAGES:
        for module in stage.modules:
            source = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
            lines = [
                line.split() for line in source.splitlines() if line.strip().startswith("from pipeline.")
            ]
            used = {words[1] for words in lines} - {f"pipeline.{name}" for name in infrastructure}
            assert used <= set(stage.modules), f"{stage.name}: {module}"


def test_changes_are_named_at_any_depth_and_long_values_are_cut() -> None:
    old = {"a": {"b": 1, "c": [1]}, "d": None}
    new = {"a": {"b": 2, "c": [1]}, "e": "x" * 100}
    assert changed_values(old, new) == ["a.b 1 -> 2", f'e null -> "{"x" * 56}...']


def test_hashes_of_many_files_are_one(tmp_path: Path) -> None:
    inputs = {}
    for index in range(21):
        inputs[f"d/{index}"] = tmp_path / str(index)
        inputs[f"d/{index}"].write_text(str(index), encoding="utf-8")
    one = FileHashes(tmp_path / "memory.json").of_inputs(inputs)
    assert list(one) == ["d (21 files)"]
    (tmp_path / "3").write_text("other", encoding="utf-8")
    assert FileHashes(tmp_path / "memory.json").of_inputs(inputs) != one


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": 1, "a": "π"}) == canonical_json({"a": "π", "b": 1}) == '{"a":"π","b":1}'


def test_the_summary_line_says_what_was_dropped_and_why() -> None:
    summary = Summary(n_in=1200, n_kept=1100, dropped={"bos": 90, "empty": 10, "none": 0}, notes=("a note",))
    assert summary_line("collect", summary, 3.21, "0123456789abcdef") == (
        "collect: 1,200 in, 1,100 kept, 100 dropped (90 bos, 10 empty), 3.2 s, fingerprint 0123456789ab\n"
        "  note: a note"
    )


def test_log_lines_are_seconds_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with LogReporter(interval_seconds=3600).working("collect") as advance:
        for done in range(1000):
            advance(done, 1000)
    captured = capsys.readouterr()
    assert captured.err == "collect: starts\n"
    assert captured.out == ""


def test_a_config_names_file_and_field_of_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: x\nmodel: {hub: gpt2}\nsae: {path: s, release: r}\n"
        "dataset: {format: parquet, path: d, text: t, token_ids: i}\nfamilies: [{name: f}]\nextra: 1\n",
        encoding="utf-8",
    )
    with pytest.raises(BadInput) as error:
        RunConfig.load(path)
    assert str(error.value) == (
        f"{path}: model: Value error, a hub name needs a revision (a commit hash):"
        " its content may change under the name;"
        " sae: Value error, give either path (a local SAELens directory) or release and sae_id, not both;"
        " dataset.parquet: Value error, give either text (a column of text)"
        " or token_ids (a column of token ids),"
        " not both;"
        " families.0: a family has levels, match or position_family; extra: Extra inputs are not permitted"
    )


def test_naming_the_stages_does_not_load_torch() -> None:
    """A plain install has no torch, and imports bundles all the same."""
    check = "import sys, pipeline.stages, pipeline.runner; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)
