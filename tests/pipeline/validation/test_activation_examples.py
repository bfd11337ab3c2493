"""The prompts in which features fire: of JSON lines, of a table, of a store; nothing taken in that is wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from examples.validation.make_world import (
    DEAD,
    N_FEATURES,
    ONCE,
    fires_in,
    make_prompts,
    pairs_of,
    strength,
    write_world,
)
from pipeline.config import Execution
from pipeline.stage import Summary
from pipeline.validation.config import ValidationRun
from pipeline.validation.stages.activation_examples import ACTIVATION_EXAMPLES as STAGE
from pipeline.validation.writing import read_table
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.memory_store import World, WorldSample
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.validation.tables import ACTIVATION_EXAMPLES, PROMPTS
from tests.worlds import builds, import_world

SAE_ID = "planted--sae--layers.5"


def write_lines(folder: Path, **sections: Any) -> Path:
    """The world without explanations, which are many files."""
    return write_world(folder, data_sources=[], **sections)


def run(config: Path, out: Path, workers: int = 1) -> Summary:
    told = ValidationRun.load(config)
    out.mkdir(parents=True)
    section = STAGE.config_of(told)
    STAGE.external(section)
    return STAGE.run(section, {}, out, lambda done, total: None, Execution(workers=workers))


def examples(out: Path) -> pl.DataFrame:
    return read_table(ACTIVATION_EXAMPLES, out / ACTIVATION_EXAMPLES.file)


def prompts(out: Path) -> list[list[str]]:
    tokens: list[list[str]] = read_table(PROMPTS, out / PROMPTS.file)["prompt_tokens"].to_list()
    return tokens


def sidecar(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (out / f"{ACTIVATION_EXAMPLES.file}.metadata.json").read_text(encoding="utf-8")
    )
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "world")


def change_lines(config: Path, changes: dict[int, Any]) -> None:
    """Replace lines (from 1): text as it is, anything else as JSON; a dictionary changes keys."""
    path = config.parent / "activations.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, change in changes.items():
        old = json.loads(lines[number - 1])
        lines[number - 1] = change if isinstance(change, str) else json.dumps({**old, **change})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_each_line_becomes_a_row_by_feature_and_prompt(config: Path, tmp_path: Path) -> None:
    summary = run(config, tmp_path / "out")
    frame = examples(tmp_path / "out")
    expected = sum(len(fires_in(i)) + 2 for i in range(N_FEATURES))
    assert (summary.n_in, summary.n_kept, len(frame)) == (expected, expected, expected)
    keys = list(zip(frame["feature_id"].to_list(), frame["prompt_id"].to_list(), strict=True))
    assert keys == sorted(keys)
    tokens = make_prompts()
    for row in frame.iter_rows(named=True):
        feature, prompt = row["feature_id"], row["prompt_id"]
        fires = prompt in fires_in(feature)
        pairs = pairs_of(feature, prompt, tokens[prompt]) if fires else []
        assert row["prompt_tokens"] == tokens[prompt]
        assert row["prompt_length"] == len(tokens[prompt])
        assert row["num_activations"] == len(pairs)
        found = [(one["token_position"], one["activation_value"]) for one in row["activation_pairs"]]
        assert found == [(position, pytest.approx(value)) for position, value in pairs]
        assert row["max_activation"] == (strength(feature, prompt) if fires else None)
        mean = sum(value for _, value in pairs) / len(pairs) if fires else None
        assert row["mean_activation"] == (pytest.approx(mean) if fires else None)
    assert prompts(tmp_path / "out") == tokens
    assert sidecar(tmp_path / "out")["result_stats"] == {
        "kind": "sequence",
        "left_out": {},
        "n_activations": int(frame["num_activations"].sum()),
        "n_features": N_FEATURES,
        "n_prompts": 40,
        "n_silent": 2 * N_FEATURES,
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "activation_examples.parquet", "activation_examples.parquet.metadata.json", "prompts.parquet",
        "prompts.parquet.metadata.json",
    ]  # fmt: skip


def test_the_order_of_lines_changes_nothing(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "one")
    path = config.parent / "activations.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(reversed(lines)), encoding="utf-8")
    run(config, tmp_path / "two")
    for name in (ACTIVATION_EXAMPLES.file, PROMPTS.file):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "line 3: no JSON"),
    "no object": ("[1]", "expected a JSON object, found list"),
    "no feature": ({"index": "x"}, "index is 'x', expected a whole number from 0"),
    "negative feature": ({"index": "-1"}, "index is '-1', expected a whole number from 0"),
    "no such prompt": ({"dataSetPromptId": 40}, "prompt 40 is not in 0 to 39"),
    "prompt from the end": ({"dataSetPromptId": -1}, "dataSetPromptId is -1, expected a whole number from 0"),
    "no pairs": ({"sparseValues": None}, "sparseValues is missing or no list"),
    "pair of three": ({"sparseValues": [[1, 2, 3]]}, r"\[1, 2, 3\] is no \[position, activation\]"),
    "pair of words": ({"sparseValues": [["1", 2]]}, r"\['1', 2\] is no \[position, activation\]"),
    "pair of truths": ({"sparseValues": [[True, 2]]}, r"\[True, 2\] is no \[position, activation\]"),
    "outside": ({"sparseValues": [[4000, 2.0]]}, "position 4000 is not in prompt 2, which has 46 tokens"),
    "half a position": ({"sparseValues": [[1.5, 2.0]]}, r"position 1\.5 is not in prompt 2"),
    "twice": ({"sparseValues": [[1, 2.0], [3, 2.0], [1, 2.0]]}, "position 1 is there twice"),
    "negative": ({"sparseValues": [[1, -2.0]]}, r"activation -2\.0 is negative"),
    "too large": ({"sparseValues": [[1, 1e39]]}, r"activation 1e\+39 is not finite in float32"),
    "not a number": ('{"index": "0", "dataSetPromptId": 2, "sparseValues": [[1, NaN]]}', "line 3: "),
    "repeated": ({"dataSetPromptId": 0}, "its feature and prompt stood in line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_ends_the_run_or_is_counted(config: Path, tmp_path: Path, name: str) -> None:
    change, message = BAD[name]
    length = len(make_prompts()[2])
    change_lines(config, {3: change})
    with pytest.raises(BadInput, match=message.replace("46", str(length))) as caught:
        run(config, tmp_path / "out")
    assert f"{config.parent / 'activations.jsonl'}, line 3: " in str(caught.value)
    assert "set activation_examples.bad_files to skip" in str(caught.value)
    write_lines(config.parent, activation_examples={"bad_files": "skip"})
    change_lines(config, {3: change})
    summary = run(config, tmp_path / "skipped")
    frame = examples(tmp_path / "skipped")
    assert len(frame) == summary.n_kept == 693
    assert sum(summary.dropped.values()) == 1
    assert sidecar(tmp_path / "skipped")["warnings"] == list(summary.notes)


def test_a_file_of_rubbish_is_refused(config: Path, tmp_path: Path) -> None:
    (config.parent / "activations.jsonl").write_bytes(b"\xff\xfe\x00rubbish\n\n")
    write_world_section = {"bad_files": "skip"}
    (config.parent / "prompts.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadInput, match=r"prompts\.json must hold a JSON list of prompts"):
        run(config, tmp_path / "one")
    text = config.read_text(encoding="utf-8")
    write_lines(config.parent, activation_examples=write_world_section)
    (config.parent / "activations.jsonl").write_bytes(b"\xff\xfe\x00rubbish\n\n")
    with pytest.raises(BadInput, match="holds no line that can be taken in"):
        run(config, tmp_path / "two")
    assert text != config.read_text(encoding="utf-8")


def test_a_bad_prompt_is_empty_and_keeps_the_numbers_of_the_others(config: Path, tmp_path: Path) -> None:
    write_lines(config.parent, activation_examples={"bad_files": "skip"})
    path = config.parent / "prompts.json"
    tokens = json.loads(path.read_text(encoding="utf-8"))
    tokens[3] = ["a", 4]
    path.write_text(json.dumps(tokens), encoding="utf-8")
    summary = run(config, tmp_path / "out")
    assert prompts(tmp_path / "out")[3:5] == [[], tokens[4]]
    firing = sum(3 in fires_in(i) for i in range(N_FEATURES))
    assert summary.dropped == {"position outside its prompt": firing}
    assert "left out, prompts that are no list of tokens: 1" in summary.notes


def test_an_activation_of_zero_is_none_unless_compat(config: Path, tmp_path: Path) -> None:
    values = {"sparseValues": [[1, 0.0], [3, 2.0]]}
    change_lines(config, {1: values, 2: {"sparseValues": [[1, 0]]}})
    summary = run(config, tmp_path / "right")
    first = examples(tmp_path / "right").row(0, named=True)
    assert first["activation_pairs"] == [{"token_position": 3, "activation_value": 2.0}]
    assert examples(tmp_path / "right").row(1, named=True)["max_activation"] is None
    assert "2 numbers left out, activation of 0" in summary.notes
    write_lines(config.parent, compat=True)
    change_lines(config, {1: values})
    run(config, tmp_path / "compat")
    first = examples(tmp_path / "compat").row(0, named=True)
    assert (first["num_activations"], first["mean_activation"]) == (2, 1.0)


def given_table(config: Path, tmp_path: Path) -> pl.DataFrame:
    """The world's examples with the types, spelling and order that SAE_vis writes."""
    run(config, tmp_path / "lines")
    pairs = pl.List(pl.Struct({"token_position": pl.Int64, "activation_value": pl.Float64}))
    return (
        examples(tmp_path / "lines")
        .reverse()
        .with_columns(
            pl.lit("planted/sae/layers.5").cast(pl.Categorical).alias("sae_id"),
            pl.col("activation_pairs").cast(pairs),
            pl.col("num_activations").cast(pl.UInt16),
        )
        .drop("mean_activation", "prompt_length")
    )


def use_table(config: Path, frame: pl.DataFrame, **keys: Any) -> None:
    frame.write_parquet(config.parent / "given.parquet", row_group_size=100)
    given = {"given": "given.parquet", "activations_input_path": None, "prompts_input_path": None}
    write_lines(config.parent, activation_examples={**given, **keys})


def test_a_table_of_sae_vis_becomes_the_same_as_its_lines(config: Path, tmp_path: Path) -> None:
    use_table(config, given_table(config, tmp_path))
    run(config, tmp_path / "out")
    name = ACTIVATION_EXAMPLES.file
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "lines" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop("prompt_tokens"), "has no column 'prompt_tokens'"),
        (lambda frame: frame.with_columns(pl.lit("other/sae").alias("sae_id")), "is of the SAE 'other--sae'"),
        (lambda frame: pl.concat([frame, frame.head(1)]), "feature 59, prompt 1: is there twice"),
        (
            lambda frame: frame.with_columns(pl.col("feature_id").cast(pl.Float64)),
            "feature_id must hold whole numbers, found double",
        ),
        (
            lambda frame: frame.with_columns(pl.col("feature_id").cast(pl.Int64) - 1),
            "feature_id must be from 0",
        ),
        (
            lambda frame: frame.with_columns(pl.col("prompt_tokens").list.head(30)),
            "a position is not in prompt",
        ),
        (
            lambda frame: frame.with_columns(
                pl.when(pl.int_range(pl.len()) == 0)
                .then(["x"])
                .otherwise("prompt_tokens")
                .alias("prompt_tokens")
            ),
            "row 3: prompt 1 has other tokens than in an earlier row",
        ),
        (
            lambda frame: frame.with_columns(
                pl.col("activation_pairs").list.eval(
                    pl.struct(
                        pl.element().struct.field("token_position"),
                        -pl.element().struct.field("activation_value"),
                    )
                )
            ),
            "is negative or not finite",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    config: Path, tmp_path: Path, change: Any, message: str
) -> None:
    use_table(config, change(given_table(config, tmp_path)))
    with pytest.raises(BadInput, match=message):
        run(config, tmp_path / "out")


def test_a_file_that_is_no_table_is_refused(config: Path, tmp_path: Path) -> None:
    use_table(config, given_table(config, tmp_path))
    path = config.parent / "given.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="is no table that can be read"):
        run(config, tmp_path / "out")


def test_two_sources_are_refused(config: Path, tmp_path: Path) -> None:
    write_lines(config.parent, activation_examples={"given": "activations.jsonl"})
    with pytest.raises(BadInput, match=r"a table \(given\) and JSON lines too; leave one of them out"):
        run(config, tmp_path / "out")


def a_text_store(folder: Path) -> Path:
    """Feature 0 fires on `w` at 1 + sample / 10 in 30 samples, 20 and 21 of one unit; feature 1 once in a long one."""
    samples = [
        WorldSample(("a", "w", "b", str(i)), unit="same" if i in (20, 21) else f"u{i}") for i in range(30)
    ]
    activations = {(0, i, 1): 1 + i / 10 for i in range(30)}
    activations |= {(0, i, 2): 0.5 for i in range(30)}
    for copy in range(8):  # one of them is in the explain split
        samples.append(WorldSample(tuple(f"t{i}" for i in range(400)), unit=f"long{copy}"))
        activations |= {(1, 30 + copy, 300): 5.0, (1, 30 + copy, 310): 2.0, (1, 30 + copy, 10): 3.0}
    return import_world(World("sequence", 3, tuple(samples), activations), folder)


def from_store(store: Path, folder: Path, **keys: Any) -> Path:
    path = write_lines(folder, store=store, activation_examples={"activations_input_path": None, **keys})
    text = path.read_text(encoding="utf-8").replace(
        "prompts_input_path: prompts.json", "prompts_input_path: null"
    )
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def text_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_text_store(tmp_path_factory.mktemp("text"))


def test_examples_of_a_store_are_of_the_explain_split_one_a_unit(text_store: Path, tmp_path: Path) -> None:
    run(from_store(text_store, tmp_path / "world"), tmp_path / "out")
    store = open_store(text_store)
    rows = store.activations(0, "explain").rows
    source = store.source[store.row_sample[rows].astype(int)]
    expected = {int(i) for i in source} - ({20} if {20, 21} <= set(source.tolist()) else set())
    frame = examples(tmp_path / "out").filter(pl.col("feature_id") == 0)
    found = {
        int(tokens[3]): row
        for tokens, row in zip(frame["prompt_tokens"], frame.iter_rows(named=True), strict=True)
    }
    assert set(found) == expected
    for number, row in found.items():
        assert row["max_activation"] == pytest.approx(1 + number / 10)
        assert [one["token_position"] for one in row["activation_pairs"]] == [1, 2]
    assert examples(tmp_path / "out").filter(pl.col("feature_id") == 2).is_empty()


def test_a_long_sample_is_cut_around_its_strongest_token(text_store: Path, tmp_path: Path) -> None:
    run(from_store(text_store, tmp_path / "world"), tmp_path / "out")
    row = examples(tmp_path / "out").filter(pl.col("feature_id") == 1).row(0, named=True)
    # the last 256 of 400 tokens: position 300 is in the middle as far as there are tokens after it
    assert row["prompt_tokens"] == [f"t{i}" for i in range(144, 400)]
    found = [(one["token_position"], one["activation_value"]) for one in row["activation_pairs"]]
    assert found == [(156, 5.0), (166, 2.0)]


def test_fewer_examples_are_spread_over_the_strengths(text_store: Path, tmp_path: Path) -> None:
    run(from_store(text_store, tmp_path / "world", examples_per_feature=3), tmp_path / "out")
    store = open_store(text_store)
    values = sorted(store.activations(0, "explain").values.tolist())
    third = [value for value in values if value != 0.5]
    found = examples(tmp_path / "out").filter(pl.col("feature_id") == 0)["max_activation"].sort().to_list()
    n = len(third)
    assert len(found) == 3
    for i, value in enumerate(found):
        assert third[max(0, i * n // 3 - 1)] <= value <= third[min(n - 1, (i + 1) * n // 3)]


def test_workers_and_a_kill_change_no_byte(text_store: Path, tmp_path: Path) -> None:
    config = from_store(text_store, tmp_path / "world")
    run(config, tmp_path / "one")
    run(config, tmp_path / "two", workers=2)
    for name in (ACTIVATION_EXAMPLES.file, PROMPTS.file):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_sets_are_whole_with_one_pair_a_sample(tmp_path: Path) -> None:
    store = import_world(builds(), tmp_path / "builds")
    run(from_store(store, tmp_path / "world"), tmp_path / "out")
    frame = examples(tmp_path / "out").filter(pl.col("feature_id") == 0)
    assert len(frame) > 0
    for row in frame.iter_rows(named=True):
        level = 6.0 if "swim_6" in row["prompt_tokens"] else 3.0
        assert row["activation_pairs"] == [{"token_position": 0, "activation_value": level}]
    assert sidecar(tmp_path / "out")["result_stats"]["kind"] == "set"


def test_the_dead_feature_and_the_one_of_one_prompt_are_there(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "out")
    frame = examples(tmp_path / "out").filter(pl.col("feature_id").is_in([ONCE, DEAD]))
    assert frame.group_by("feature_id", maintain_order=True).agg(
        (pl.col("num_activations") > 0).sum().alias("n")
    ).rows() == [(ONCE, 1), (DEAD, 0)]


def test_a_run_that_was_killed_begins_again_with_what_it_left(config: Path, tmp_path: Path) -> None:
    run(config, tmp_path / "one")
    scratch = tmp_path / "two" / "scratch"
    scratch.mkdir(parents=True)
    (scratch / "feature").write_bytes(b"half")
    told = ValidationRun.load(config)
    STAGE.run(STAGE.config_of(told), {}, tmp_path / "two", lambda done, total: None, Execution())
    assert not scratch.exists()
    shutil.rmtree(tmp_path / "one" / "nothing", ignore_errors=True)
    name = ACTIVATION_EXAMPLES.file
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
