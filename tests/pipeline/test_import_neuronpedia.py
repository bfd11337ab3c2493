"""Neuronpedia's exports: examples, figures and explanations of one source, and every way in which a record can be
wrong."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.importers.convert_source import open_source
from pipeline.importers.neuronpedia_source import after_neuronpedia
from pipeline.importers.source import SourceSection
from pipeline.verify import verify_store
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.revisions import labels_of
from saeinterp_mcp.store.base import Store
from tests.pipeline.json_sources import FIXTURES, held, load, notes, texts, write_lines

ROOT = FIXTURES / "neuronpedia"
MODEL, SOURCE = "gemma-2-2b", "12-gemmascope-res-16k"
FOLDER = ROOT / MODEL / SOURCE
CAT, CATS = ["<bos>", " the", " cat", " sat"], ["<bos>", " two", " cats", "\n"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return load("neuronpedia", ROOT, tmp_path_factory.mktemp("neuronpedia") / "store")


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(ROOT, folder / "source")) / MODEL / SOURCE


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def open_folder(path: Path, **options: Any) -> Any:
    return open_source(SourceSection(format="neuronpedia", path=path, name="np", **options))


def labels(store: Store) -> list[Any]:
    nothing: list[Any] = []
    return store.need_labels.read(lambda c: labels_of(c, store.lineage), nothing)


def test_samples_are_the_distinct_texts_and_one_that_differs_in_values_is_one_more(store: Store) -> None:
    assert texts(store) == [CAT, CATS, CAT]
    assert held(store) == {
        (0, 0): {1: 0.5, 2: 12.5},
        (0, 1): {2: 9.25},
        (0, 2): {2: 3.0},
        (3, 0): {3: 4.0},
        (1025, 1): {1: 2.0, 3: pytest.approx(0.001)},
    }
    manifest = store.manifest
    # the width is that of the SAE's own record, and equal texts are one unit
    assert (manifest.kind, manifest.coverage, manifest.n_features, manifest.n_units) == (
        "sequence",
        "sampled",
        2048,
        2,
    )
    assert notes(store) == [
        "7 examples of 2 texts: 2 interval, 1 neither, 4 top",
        "1 examples stood there more than once, with the same values; each counts once",
        "1 examples have the tokens of another one of their feature but other values (a text cut out of different "
        "contexts); each is a sample of its own",
        "1 examples hold no activation above 0",
        "tokens: `▁the` became ` the`",
        "only the examples that were published are there; rates and means of all text cannot be known from them",
        "frac_nonzero is 0 of 1 features that have activations: taken for not known",
    ]
    assert (manifest.model, manifest.sae) == ({"name": MODEL}, {"name": SOURCE})
    assert verify_store(Path(str(store.backend.folder)))


def test_figures_go_into_a_table_beside_the_store_as_they_stood_there(store: Store) -> None:
    tables = store.validation
    assert tables is not None
    found = tables.table("published_features").collect().to_dicts()
    assert [(row["feature_id"], row["frac_nonzero"], row["max_act_approx"]) for row in found] == [
        (0, 0.0123, 12.5),
        (3, None, 4.0),
        (1025, 0.0123, 12.5),
    ]
    first = found[0]
    assert first["sae_id"] == "gemma-2-2b--12-gemmascope-res-16k"
    assert first["data_source"] == "neuronpedia:gemma-2-2b/12-gemmascope-res-16k"
    assert first["promoted"][0] == {"token": "▁cat", "value": 1.5}
    assert first["suppressed"] == [{"token": "▁dog", "value": -0.5}, {"token": "▁of", "value": -0.25}]
    assert first["similar"] == [
        {"feature_id": 0, "cosine_similarity": 1.0},
        {"feature_id": 7, "cosine_similarity": 0.31},
    ]
    assert (first["histogram_values"], first["histogram_heights"]) == ([1.0, 9.0], [3.0, 1.0])
    assert (first["logits_heights"], first["n_prompts_total"]) == ([2.0, 5.0, 1.0], None)
    assert (found[1]["promoted"], found[2]["suppressed"]) == (None, None)
    assert "they were not computed from this store" in tables.manifest.warnings[0]


def test_explanations_become_drafts_and_a_second_time_changes_nothing(store: Store) -> None:
    found = labels(store)
    told = [(one.feature, one.text, one.author, one.author_kind, one.status, one.source) for one in found]
    source = "neuronpedia:gemma-2-2b/12-gemmascope-res-16k"
    assert sorted(told) == [
        (0, "animals", "clkht01d40000jv08hvalcvly", "import", "draft", source),
        (0, "cats, and kittens", "gpt-4o-mini", "import", "draft", source),
        (3, "sitting", "gpt-4o-mini", "import", "draft", source),
    ]
    section = SourceSection(format="neuronpedia", path=ROOT, name="store")
    again = after_neuronpedia(section, Path(str(store.backend.folder)))
    assert again[0].startswith("0 explanations became drafts of labels")
    assert again[0].endswith("3 were there already")
    assert again[1].startswith("the figures of 3 features of neuronpedia:")
    assert again[1].endswith("were there already")
    assert labels(store) == found


def test_the_same_import_again_does_nothing(store: Store) -> None:
    folder = Path(str(store.backend.folder))
    before = {p: p.stat().st_mtime_ns for p in folder.parent.rglob("*") if p.is_file()}
    again = load("neuronpedia", ROOT, folder)
    assert again.fingerprint == store.fingerprint
    assert {p: p.stat().st_mtime_ns for p in folder.parent.rglob("*") if p.is_file()} == before


def test_unpacked_lines_and_the_folder_itself_give_the_same_store(store: Store, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    for path in folder.glob("*/*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    again = load("neuronpedia", folder, tmp_path / "store", name=store.manifest.name)
    assert again.fingerprint == store.fingerprint


def test_one_of_several_sources_is_chosen_by_its_name(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    other = folder.parent / "0-res-jb"
    shutil.copytree(folder, other)
    (other / "source.jsonl").unlink()
    shutil.rmtree(other / "explanations")
    for path in other.glob("*/*.gz"):
        write_lines(path, [{**one, "layer": "0-res-jb"} for one in records(path)])
    root = tmp_path / "source"
    with pytest.raises(BadInput, match="holds 2 sources; choose one with --hookpoint MODEL/SOURCE"):
        open_folder(root)
    assert open_folder(root, hookpoint="gemma-2-2b/0-res-jb").n_features == 1026
    assert open_folder(root, hookpoint=SOURCE).n_features == 2048
    with pytest.raises(
        BadInput, match="holds no source '0-res-jbb'; there are: gemma-2-2b/0-res-jb, gemma-2-2b/12"
    ):
        open_folder(root, hookpoint="0-res-jbb")
    with pytest.raises(BadInput, match="holds no source of Neuronpedia"):
        open_folder(folder / "features")


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("activations", {"values": [0, 1.0]}, "tokens and values", "4 tokens and 2 values"),
    ("activations", {"values": ["1"]}, "values are no numbers", "values is no list of numbers"),
    ("activations", {"tokens": None}, "no tokens", "an example without tokens"),
    ("activations", {"tokens": [1, 2, 3, 4]}, "tokens is no list of strings", "expected a list of strings"),
    ("activations", {"maxValue": 3.5}, "maxValue", "maxValue is 3.5, the largest value 12.5"),
    (
        "activations",
        {"maxValueTokenIndex": 4},
        "maxValueTokenIndex",
        "maxValueTokenIndex 4 is no place in 4 values",
    ),
    ("activations", {"maxValueTokenIndex": 1}, "maxValueTokenIndex", "is 0.5, the largest 12.5"),
    ("activations", {"index": "x"}, "index is no index", "index is 'x', expected a whole number"),
    ("activations", {"index": "2048"}, "feature out of range", "feature 2048 is not in 0 to 2047"),
    ("activations", {"layer": "1-x"}, "of another source", "it is of gemma-2-2b/1-x, not of gemma-2-2b/12-"),
    ("activations", {"values": [0, -1, 12.5, 0]}, "negative activation", "activation -1 is negative"),
    ("activations", {"maxValue": 10**400}, "maxValue", "the largest value 12.5"),
    ("activations", {"values": [0, 0, 10**400, 0]}, "maxValue", "maxValue is 12.5, the largest value 1000"),
    (
        "activations",
        {"values": [0, 0, 1e39, 0], "maxValue": None},
        "activation not finite",
        "not finite in float32",
    ),
    ("features", {"maxActApprox": 10**400}, "maxActApprox is no such figure", "maxActApprox is 1000"),
    ("features", {"frac_nonzero": 1.5}, "frac_nonzero is no such figure", "frac_nonzero is 1.5"),
    (
        "features",
        {"pos_values": [1.0]},
        "pos_str and pos_values",
        "pos_str and pos_values do not go together",
    ),
    (
        "features",
        {"topkCosSimIndices": [-1, 2]},
        "topkCosSimIndices and topkCosSimValues",
        "do not go together",
    ),
    ("features", {"index": "3"}, "feature twice", "feature 3 is there twice"),
    ("explanations", {"description": ""}, "explanation", "description is missing or no text"),
]


@pytest.mark.parametrize(("part", "changes", "kind", "message"), WRONG)
def test_a_bad_record_is_told_with_file_and_line_or_counted_by_kind(
    part: str, changes: dict[str, Any], kind: str, message: str, tmp_path: Path
) -> None:
    folder = copied(tmp_path)
    path = folder / part / "batch-0.jsonl.gz"
    good = records(path)
    bad = {**good[0], **changes}
    if part == "features" and "index" not in changes:
        bad["index"] = "9"
    write_lines(path, [*good, bad])
    with pytest.raises(BadInput, match=rf"{part}/batch-0.jsonl.gz, line {len(good) + 1}: .*{message}"):
        open_folder(folder)
    opened = open_folder(folder, bad_files="skip")
    assert opened.notes[-1] == f"left out, {kind}: 1"
    assert sum(len(e.row) for piece in opened.pieces for e in piece.entries()) == 7


def test_a_batch_that_is_cut_off_stops_or_gives_what_came_before(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    path = folder / "activations" / "batch-1.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"batch-1\.jsonl\.gz, after line 0: no whole gzip file"):
        open_folder(folder)
    assert "left out, damaged gzip file: 1" in open_folder(folder, bad_files="skip").notes


def test_bad_explanations_are_left_out_of_the_labels_too(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    path = folder / "explanations" / "batch-0.jsonl.gz"
    write_lines(path, [*records(path), "{", {**records(path)[0], "index": "4000", "description": "far"}])
    with pytest.raises(BadInput, match="line 4: no JSON"):
        load("neuronpedia", folder, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    kept = load("neuronpedia", folder, tmp_path / "kept", bad_files="skip")
    assert len(labels(kept)) == 3


def test_a_damaged_file_of_explanations_is_refused_or_left_out_whole(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    path = folder / "explanations" / "batch-0.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BadInput, match=r"explanations/batch-0\.jsonl\.gz"):
        open_folder(folder)
    kept = load("neuronpedia", folder, tmp_path / "kept", bad_files="skip")
    assert labels(kept) == []
    assert held(kept)[0, 1] == {2: 9.25}


def test_an_export_without_examples_makes_no_store(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    shutil.rmtree(folder / "activations")
    with pytest.raises(BadInput, match="holds no example that can be taken in"):
        open_folder(folder)
