"""Activations as JSON lines: what becomes of them, and every way in which a line can be wrong."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.importers import jsonl_source
from pipeline.importers.convert_source import open_source
from pipeline.importers.prompt_spool import decoded
from pipeline.importers.run_import import import_source
from pipeline.importers.source import SourceSection
from pipeline.verify import verify_store
from saeinterp_mcp.errors import BadInput
from tests.pipeline.json_sources import FIXTURES, held, load, notes, texts, write_lines

SOURCE = FIXTURES / "jsonl"
HELD = {(0, 0): {2: 1.5, 1: 0.25}, (0, 2): {2: 3.0}, (2, 1): {3: 2.0}}
GOOD = {"index": "1", "dataSetPromptId": 0, "sparseValues": [[0, 1.0]]}


def with_lines(folder: Path, *lines: Any) -> Path:
    """The fixture's prompts with other lines."""
    folder.mkdir(exist_ok=True)
    shutil.copy(SOURCE / "prompts.json", folder)
    return write_lines(folder / "activations.jsonl", lines).parent


def open_lines(source: Path, **options: Any) -> Any:
    return open_source(SourceSection(format="activations-jsonl", path=source, name="lines", **options))


def test_prompts_are_samples_under_their_numbers_and_pieces_are_text(tmp_path: Path) -> None:
    store = load("activations-jsonl", SOURCE, tmp_path / "store")
    cat = ["<bos>", " the", " cat", " sat", "\n"]
    assert texts(store) == [cat, ["<bos>", " caf", "<0xC3>", "<0xA9>"], cat, [" never"]]
    assert held(store) == HELD
    manifest = store.manifest
    assert (manifest.kind, manifest.coverage, manifest.n_features) == ("sequence", "sampled", 5)
    # the two prompts of equal tokens are one unit
    assert (manifest.n_samples, manifest.n_units, manifest.n_activations) == (4, 3, 4)
    assert notes(store) == [
        "n_features is the highest feature there is and one (5); --n-features says better",
        "4 lines of a (feature, prompt), 1 of them without an activation",
        "tokens: `▁the` became ` the`",
        "only chosen prompts are there; rates and means of all text cannot be known from them",
    ]
    assert verify_store(tmp_path / "store")


def test_packed_files_named_files_and_blocks_of_any_size_give_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for name in ("activations.jsonl", "prompts.json"):
        (packed / f"{name}.gz").write_bytes(gzip.compress((SOURCE / name).read_bytes()))
    options = {"name": "one", "n_features": 5}
    plain = load("activations-jsonl", SOURCE, tmp_path / "plain", **options)
    monkeypatch.setattr(jsonl_source, "LINES_AT_ONCE", 1)
    others = [
        load("activations-jsonl", packed, tmp_path / "unpacked", **options),
        load(
            "activations-jsonl",
            SOURCE / "activations.jsonl",
            tmp_path / "named",
            prompts=SOURCE / "prompts.json",
            **options,
        ),
    ]
    for store in others:
        assert store.fingerprint == plain.fingerprint


WRONG = [
    ("{", "no JSON", "no JSON: "),
    ("[1]", "no JSON object", "expected a JSON object, found list"),
    ({**GOOD, "index": -1}, "index is no index", "index is -1, expected a whole number from 0"),
    ({**GOOD, "index": "1.5"}, "index is no index", "index is '1.5', expected a whole number from 0"),
    ({**GOOD, "index": True}, "index is no index", "index is True, expected"),
    ({"dataSetPromptId": 0}, "index is no index", "index is missing, expected"),
    ({**GOOD, "dataSetPromptId": -1}, "dataSetPromptId is no index", "dataSetPromptId is -1, expected"),
    ({**GOOD, "dataSetPromptId": 4}, "prompt that does not exist", "prompt 4 is not in 0 to 3"),
    ({**GOOD, "sparseValues": None}, "no sparseValues", "sparseValues is missing or no list"),
    ({**GOOD, "sparseValues": [[1]]}, "pair that is none", r"\[1\] is no \[position, activation\]"),
    ({**GOOD, "sparseValues": [[0, "2"]]}, "pair that is none", "is no "),
    ({**GOOD, "sparseValues": [[0, 10**400]]}, "activation not finite", "is not finite in float32"),
    (
        {**GOOD, "sparseValues": [[5, 1.0]]},
        "position outside its prompt",
        "position 5 is not in prompt 0, which has 5 tokens",
    ),
    ({**GOOD, "sparseValues": [[-1, 1.0]]}, "position outside its prompt", "position -1 is not in prompt 0"),
    (
        {**GOOD, "sparseValues": [[1.5, 1.0]]},
        "position outside its prompt",
        "position 1.5 is not in prompt 0",
    ),
    (
        '{"index": 1, "dataSetPromptId": 0, "sparseValues": [[Infinity, 1]]}',
        "position outside its prompt",
        "inf",
    ),
    ({**GOOD, "sparseValues": [[1, 1.0], [1, 2.0]]}, "position twice", "position 1 is there twice"),
    ('{"index": 1, "dataSetPromptId": 0, "sparseValues": [[1, NaN]]}', "activation not finite", "nan is not"),
    ({**GOOD, "sparseValues": [[1, 1e39]]}, "activation not finite", "1e[+]39 is not finite in float32"),
    ({**GOOD, "sparseValues": [[1, -2.0]]}, "negative activation", "-2.0 is negative .--negatives drop.abs"),
    (
        {"index": 3, "dataSetPromptId": 1, "sparseValues": [[0, 1.0]]},
        "feature and prompt twice",
        "its feature and prompt stood in line 1",
    ),
]


@pytest.mark.parametrize(("line", "kind", "message"), WRONG)
def test_a_bad_line_is_told_with_its_number_or_counted_by_kind(
    line: Any, kind: str, message: str, tmp_path: Path
) -> None:
    first = {"index": 3, "dataSetPromptId": 1, "sparseValues": [[0, 2.0]]}
    source = with_lines(tmp_path / "source", first, GOOD | {"index": 2}, line, GOOD | {"index": 0})
    with pytest.raises(BadInput, match=f"activations.jsonl, line 3: .*{message}.*--bad-files skip"):
        open_lines(source)
    opened = open_lines(source, bad_files="skip")
    assert opened.notes[-1] == f"left out, {kind}: 1"
    rows = {
        (int(f), int(r), float(v))
        for piece in opened.pieces
        for e in piece.entries()
        for f, r, v in zip(e.feature, e.row, e.value, strict=True)
    }
    assert rows == {(3, 5, 2.0), (2, 0, 1.0), (0, 0, 1.0)}


def test_a_feature_beyond_the_number_given_is_refused(tmp_path: Path) -> None:
    source = with_lines(tmp_path / "source", {**GOOD, "index": 7})
    with pytest.raises(BadInput, match="line 1: feature 7 is not in 0 to 6"):
        open_lines(source, n_features=7)
    assert open_lines(source, n_features=10).n_features == 10


def test_negative_activations_are_dropped_or_turned_when_asked(tmp_path: Path) -> None:
    source = with_lines(tmp_path / "source", {**GOOD, "sparseValues": [[0, 1.0], [1, -2.0]]})
    turned = load("activations-jsonl", source, tmp_path / "turned", negatives="abs")
    assert held(turned) == {(1, 0): {0: 1.0, 1: 2.0}}
    dropped = load("activations-jsonl", source, tmp_path / "dropped", negatives="drop")
    assert (held(dropped), dropped.manifest.dropped) == ({(1, 0): {0: 1.0}}, {"negative": 1})


def test_a_prompt_without_tokens_stops_or_keeps_its_number(tmp_path: Path) -> None:
    source = with_lines(tmp_path / "source", {**GOOD, "dataSetPromptId": 2})
    (source / "prompts.json").write_text(json.dumps([["a"], [], ["b", "c"], [1]]))
    with pytest.raises(BadInput, match=r"prompts\.json, prompt 1: has no tokens"):
        open_lines(source)
    store = load("activations-jsonl", source, tmp_path / "store", bad_files="skip")
    assert texts(store) == [["a"], [""], ["b", "c"], [""]]
    assert held(store) == {(1, 2): {0: 1.0}}
    assert notes(store)[0].startswith("2 prompts that could not be read stand as one empty token each")


def test_missing_cut_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"activations\.jsonl .or activations\.jsonl\.gz. does not exist"):
        open_lines(tmp_path)
    source = with_lines(tmp_path / "source", GOOD)
    with pytest.raises(BadInput, match="has tokens of its own; leave --vocab out"):
        open_lines(source, vocab=source / "prompts.json")
    (source / "prompts.json").write_text("{}")
    with pytest.raises(BadInput, match="must hold a JSON list of prompts"):
        open_lines(source)
    (source / "prompts.json").unlink()
    with pytest.raises(BadInput, match="or name them with --prompts"):
        open_lines(source)
    packed = gzip.compress((SOURCE / "activations.jsonl").read_bytes())
    shutil.copy(SOURCE / "prompts.json", source)
    (source / "activations.jsonl").unlink()
    (source / "activations.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(BadInput, match=r"activations\.jsonl\.gz, after line 0: no whole gzip file"):
        open_lines(source)
    write_lines(source / "activations.jsonl", ["nonsense"])
    with pytest.raises(BadInput, match="holds no line that can be taken in"):
        open_lines(source, bad_files="skip")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    source = with_lines(tmp_path / "source", GOOD)
    assert open_lines(source).n_activations is None
    assert open_lines(source).n_features == 2
    with_lines(source, GOOD, {**GOOD, "index": 30})
    assert open_lines(source).n_features == 31


def test_the_same_lines_in_another_process_give_the_same_store(tmp_path: Path) -> None:
    options: dict[str, Any] = {"name": "one", "progress": None}
    first = import_source("activations-jsonl", SOURCE, tmp_path / "a", **options)
    jsonl_source._read.cache_clear()
    again = import_source("activations-jsonl", SOURCE, tmp_path / "b", **options)
    assert first.files == again.files


def test_vocabularies_are_decoded_by_what_their_words_begin_with() -> None:
    assert decoded(["▁the", "▁a", "b", " c"]) == [" the", " a", "b", " c"]
    assert decoded(["Ġthe", "Ċ", "Ã©", "Ã", "<|endoftext|>"]) == [
        " the",
        "\n",
        "é",
        "<0xC3>",
        "<|endoftext|>",
    ]
    # a block character or a Maltese letter in text that is decoded already stays
    assert decoded([" the", " of", "▁▂▃", "Ġ"]) == [" the", " of", "▁▂▃", "Ġ"]
