"""What goes beside a store: the six points of the importer's contract, `attach`, and second imports."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.importers.attach import attach, sources_of
from pipeline.importers.delphi_source import after_delphi
from pipeline.importers.results.neighbours import Neighbours, read_neighbours
from pipeline.importers.results.records import LEAK, Problem
from pipeline.importers.run_import import import_source
from pipeline.importers.source import SourceSection
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import file_sha256
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.revisions import current_labels
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.validation.folder import Validation, folder_beside
from tests.pipeline.importers_delphi.folders import RUN, tried, write
from tests.pipeline.recorded import Recorder
from tests.worlds import import_world, texts

N_FEATURES = 40


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a delphi cache alone."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(RUN / "latents" / "h.0", folder / "h.0")
    import_source("delphi", folder / "h.0", folder / "store", progress=Recorder())
    return folder / "store"


@pytest.fixture
def store(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "store"))


def labels_of(store: Path) -> dict[int, Label]:
    opened = open_store(store)
    found = current_labels(opened.need_labels, opened.lineage)
    assert len({label.feature for label in found}) == len(found)
    return {label.feature: label for label in found}


def rows(store: Path, table: str) -> list[dict[str, Any]]:
    frame = Validation(folder_beside(store)).table(table).with_columns(pl.col(pl.Categorical).cast(pl.String))
    return frame.collect().to_dicts()


def put(store: Path, *folders: Path, bad_files: Any = "skip", **options: Any) -> Any:
    given = {name: options.get(name) for name in ("explainer", "scorer", "hookpoint")}
    return attach(sources_of(folders, **given), store, bad_files)


def after(store: Path, **options: Any) -> tuple[str, ...]:
    return after_delphi(SourceSection(format="delphi", path=RUN, name="x", **options), store)


def test_point_1_hookpoints_are_found_and_models_may_be_named(store: Path) -> None:
    lines = after(store, hookpoint="h.0", explainer="E", scorer="S")
    assert lines[0] == "run: h.0, explained by E, scored by S"
    assert {(r["llm_explainer"], r["llm_scorer"], r["sae_id"]) for r in rows(store, "scores")} == {
        ("E", "S", "example--tiny-sae--h.0")
    }
    assert {label.author for label in labels_of(store).values()} == {"E"}
    # the other hookpoint has a cache and no explanations: said, and no reason to fail
    (told,) = after(store, hookpoint="h.1")
    assert told.startswith(f"{store} is made, explanations and scores were left out: ")
    assert "holds no file of the hookpoint 'h.1'; nearest: 'h.0'" in told


def test_point_2_explanations_are_decoded_and_failures_are_no_labels(store: Path) -> None:
    put(store, RUN)
    table = {row["feature_id"]: row for row in rows(store, "explanation_embeddings")}
    assert {f: row["status"] for f, row in table.items() if row["status"] != "ok"} == {
        4: "unparsed", 7: "empty", 11: "runaway"
    }  # fmt: skip
    assert table[1]["explanation_text"] == 'The words "dog" and "river",\n often after the – naïvely.'
    assert table[11]["explanation_text"].startswith("words and words and ")
    assert len(table[11]["explanation_text"]) > 2_000
    assert table[1]["raw_sha256"] == file_sha256(RUN / "explanations" / "h.0_latent1.txt")
    labels = labels_of(store)
    assert sorted(labels) == [1, 3, 5, 6, 9, 10]
    assert labels[1].text == 'The words "dog" and "river", often after the – naïvely.'
    assert {(label.status, label.author_kind, label.source) for label in labels.values()} == {
        ("draft", "import", "delphi:run")
    }


def test_point_3_counts_and_intervals_are_kept(store: Path) -> None:
    put(store, RUN)
    (row,) = [r for r in rows(store, "scores") if (r["feature_id"], r["method"]) == (9, "detection")]
    items = json.loads((RUN / "scores" / "detection" / "h.0_latent9.txt").read_text(encoding="utf-8"))
    read = [(item["activating"], item["prediction"]) for item in items if item["prediction"] is not None]
    tp, fp = read.count((True, True)), read.count((False, True))
    tn, fn = read.count((False, False)), read.count((True, False))
    assert [row[name] for name in ("tp", "fp", "tn", "fn", "n", "n_failed", "n_batches_failed")] == [
        tp, fp, tn, fn, 15, 5, 1
    ]  # fmt: skip
    assert row["score"] == row["balanced_accuracy"] == (tp / (tp + fn) + tn / (tn + fp)) / 2
    assert row["accuracy"] == (tp + tn) / 15
    assert row["low"] < row["score"] < row["high"]
    assert row["raw_sha256"] == file_sha256(RUN / "scores" / "detection" / "h.0_latent9.txt")
    assert "example_embedding" not in {r["method"] for r in rows(store, "scores")}


def test_point_4_simulations_keep_their_quantiles_apart(store: Path) -> None:
    put(store, RUN)
    (row,) = [r for r in rows(store, "scores") if (r["feature_id"], r["method"]) == (1, "simulation")]
    groups = json.loads((RUN / "scores" / "simulation" / "h.0_latent1.txt").read_text(encoding="utf-8"))
    correlations = {group["distance"]: group["ev_correlation_score"] for group in groups}
    assert row["score"] == correlations.pop(0)
    assert {q["quantile"] + 1: q["value"] for q in row["quantiles"]} == {
        distance: None if value == "nan" else value for distance, value in correlations.items()
    }


# point 5, the cache, is test_cache.py


def test_point_6_a_bad_file_is_told_and_the_rest_is_there(store: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    cut = run / "explanations" / "h.0_latent3.txt"
    cut.write_text('"The words', encoding="utf-8")
    (run / "scores" / "fuzz" / "h.0_latent5.txt").write_text("[{", encoding="utf-8")
    (run / "neighbours" / "h.0-decoder_similarity.json").write_text('{"0": [[0.5', encoding="utf-8")
    done = put(store, run)
    assert [(one.kind, one.path.name) for one in done.problems] == [
        ("truncated", "h.0_latent3.txt"),
        ("truncated", "h.0_latent5.txt"),
        ("truncated", "h.0-decoder_similarity.json"),
    ]
    assert sorted(labels_of(store)) == [1, 5, 6, 9, 10]
    with pytest.raises(
        BadInput, match=r"h.0_latent3.txt: truncated: .* pass over bad files: --bad-files skip"
    ):
        put(store, run, bad_files="stop")
    # mended, only what was missing comes in
    shutil.copy(RUN / "explanations" / cut.name, cut)
    assert any(line.startswith("1 drafts of labels added") for line in put(store, run).lines)


def test_a_run_that_got_worse_removes_no_row(store: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    tables = ("explanation_embeddings", "scores", "neighbours")

    def there() -> dict[str, set[str]]:
        return {table: {str(row) for row in rows(store, table)} for table in tables}

    put(store, run)
    before = there()
    (run / "explanations" / "h.0_latent3.txt").write_text('"The words', encoding="utf-8")
    (run / "scores" / "fuzz" / "h.0_latent5.txt").write_text("[{", encoding="utf-8")
    (run / "neighbours" / "h.0-co-occurrence.json").write_text('{"0": [[0.5', encoding="utf-8")
    put(store, run)
    assert there() == before
    warnings = Validation(folder_beside(store)).manifest.warnings
    kept = "run: 1 row of an earlier import kept, as their files cannot be read now"
    assert {f"explanation_embeddings: {kept}", f"scores: {kept}"} <= set(warnings)
    assert put(store, run).lines[-2] == f"{folder_beside(store)}: nothing changed"
    # a file that is gone was taken away by somebody
    (run / "explanations" / "h.0_latent3.txt").unlink()
    put(store, run)
    assert sorted(row["feature_id"] for row in rows(store, "explanation_embeddings")) == [
        1, 4, 5, 6, 7, 9, 10, 11
    ]  # fmt: skip


def test_every_imported_score_carries_the_warning_about_the_leak(store: Path) -> None:
    put(store, RUN)
    assert {row["held_out"] for row in rows(store, "scores")} == {"leaked"}
    manifest = Validation(folder_beside(store)).manifest
    assert f"scores: {LEAK}" in manifest.warnings
    opened = open_store(store)
    scored = {(row["feature_id"], row["method"]) for row in rows(store, "scores")}
    for feature, label in labels_of(store).items():
        lines = (label.notes or "").splitlines()
        methods = {line.split(" ")[0] for line in lines[1:-1]}
        assert methods == {method for f, method in scored if f == feature}
        assert all(line.endswith("; leaked, no held-out test.") for line in lines[1:-1])
        assert lines[-1] == f"Leaked: {LEAK}."
    # notes are not evidence: nothing is on record as a test
    n_tests = opened.need_labels.read(
        lambda c: c.execute("SELECT count(*) FROM heldout_tests").fetchone()[0], 0
    )
    assert n_tests == 0


def test_a_second_time_changes_nothing(store: Path) -> None:
    first = put(store, RUN)
    before = (folder_beside(store) / "manifest.json").read_bytes()
    revisions = {label.label_id: label.revision for label in labels_of(store).values()}
    second = put(store, RUN)
    assert first.lines[-1].startswith("6 drafts of labels added")
    assert second.lines[-1].endswith(", 6 there already")
    assert second.lines[-2] == f"{folder_beside(store)}: nothing changed"
    assert (folder_beside(store) / "manifest.json").read_bytes() == before
    assert {label.label_id: label.revision for label in labels_of(store).values()} == revisions


def test_neighbours_have_their_value_first_and_nan_is_not_known(store: Path, tmp_path: Path) -> None:
    put(store, RUN)
    file = RUN / "neighbours" / "h.0-co-occurrence.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    expected = {
        (int(feature), rank, neighbour): None if math.isnan(value) else value
        for feature, pairs in written.items()
        for rank, (value, neighbour) in enumerate(pairs, 1)
        if neighbour != int(feature)
    }
    assert None in expected.values(), "delphi wrote NaN for features that never fire"
    table = rows(store, "neighbours")
    assert {(r["feature_id"], r["rank"], r["neighbour_id"]): r["value"] for r in table} == expected
    assert {(r["measure"], r["data_source"]) for r in table} == {("co-occurrence", "run")}
    path = tmp_path / "n.json"
    path.write_text('{"0": [[0.5, 1], [NaN, 2]], "1": [], "2": [[Infinity, 0]]}', encoding="utf-8")
    found = read_neighbours(path, 3)
    assert isinstance(found, Neighbours)
    assert found.frame.rows() == [(0, 1, 1, 0.5), (0, 2, 2, None), (2, 1, 0, None)]
    # whoever swaps them some day: a neighbour is a whole number
    path.write_text('{"0": [[2, 0.5], [1, 2]]}', encoding="utf-8")
    swapped = read_neighbours(path, 3)
    assert isinstance(swapped, Neighbours)
    assert swapped.frame.rows() == [(0, 1, 2, 0.5), (0, 2, 2, 1.0)]
    for content, kind in (
        ('{"0": [[0.5, 1]', "truncated"),
        ("[1]", "foreign"),
        ('{"0": [[0.5, 3]]}', "foreign"),
    ):
        path.write_text(content, encoding="utf-8")
        problem = read_neighbours(path, 3)
        assert isinstance(problem, Problem)
        assert problem.kind == kind


def source(folder: Path, text: str, correct: bool, **more: Any) -> Path:
    files = {
        "explanations/layers.30_latent1.txt": json.dumps(text),
        "scores/fuzz/layers.30_latent1.txt": [tried(True, correct, 0), tried(False, not correct, -1.0)],
        **more,
    }
    return write(folder, files)


def test_sources_of_several_explainers_and_scorers_go_in_at_once(store: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    source(raw / "a_e-a_s", "names of rivers", True)
    source(raw / "a_e-b_s", "names of rivers", False)
    source(raw / "b_e-a_s", "names of towns", True)
    (raw / "notes").mkdir()
    put(store, raw)
    scores = {(r["llm_explainer"], r["llm_scorer"]): r["score"] for r in rows(store, "scores")}
    assert scores == {("a", "a"): 1.0, ("a", "b"): 0.0, ("b", "a"): 1.0}
    explained = rows(store, "explanation_embeddings")
    assert [(r["llm_explainer"], r["explanation_text"], r["sae_id"]) for r in explained] == [
        ("a", "names of rivers", "h.0"),
        ("b", "names of towns", "h.0"),
    ]
    opened = open_store(store)
    drafts = {label.author or "": label for label in current_labels(opened.need_labels, opened.lineage)}
    assert sorted(drafts) == ["a", "b"]
    # one draft for words that two runs scored, and it tells both scores
    assert drafts["a"].source == "delphi:a_e-a_s"
    assert [line.split(":")[0] for line in (drafts["a"].notes or "").splitlines()[1:-1]] == [
        "fuzz by a (a_e-a_s)",
        "fuzz by b (a_e-b_s)",
    ]


def test_sources_that_come_later_join_those_that_are_there(store: Path, tmp_path: Path) -> None:
    first, second = (
        source(tmp_path / "a_e-a_s", "rivers", True),
        source(tmp_path / "a_e-b_s", "rivers", False),
    )
    put(store, first)
    put(store, second)
    assert len(rows(store, "scores")) == 2
    label = labels_of(store)[1]
    assert (label.revision, label.source) == (2, "delphi:a_e-a_s")
    assert "fuzz by b (a_e-b_s): balanced accuracy 0.00" in (label.notes or "")
    # read again after a change, its rows take the place of the old ones
    source(second, "rivers", True)
    put(store, second)
    assert [row["score"] for row in rows(store, "scores")] == [1.0, 1.0]


def test_a_score_of_other_words_is_not_told_of_the_first_ones(store: Path, tmp_path: Path) -> None:
    source(tmp_path / "a_e-a_s", "names of rivers", True)
    done = put(store, tmp_path / "a_e-a_s", source(tmp_path / "a_e-b_s", "names of towns", False))
    opened = open_store(store)
    notes = {label.text: label.notes or "" for label in current_labels(opened.need_labels, opened.lineage)}
    assert "a_e-b_s" not in notes["names of rivers"]
    assert "a_e-a_s" not in notes["names of towns"]
    manifest = Validation(folder_beside(store)).manifest
    assert any(
        "1 explanations are other texts than an earlier source has" in one for one in manifest.warnings
    )
    assert done.problems == ()


def test_what_somebody_did_with_a_draft_stays(store: Path, tmp_path: Path) -> None:
    folder = source(tmp_path / "a_e-a_s", "rivers", True)
    put(store, folder)
    label = labels_of(store)[1]
    command = ["label", "delete", label.label_id, "--reason", "wrong", "--store", str(store)]
    subprocess.run([sys.executable, "-m", "saeinterp_mcp", *command], check=True, capture_output=True)
    source(folder, "rivers", False)
    done = put(store, folder)
    assert done.lines[-1].endswith("1 left as somebody changed them")
    opened = open_store(store)
    assert current_labels(opened.need_labels, opened.lineage) == []


def test_an_explanation_of_no_feature_of_the_store_is_told(store: Path, tmp_path: Path) -> None:
    files = {
        "explanations/layers.30_latent40.txt": json.dumps("beyond"),
        "explanations/layers.30_latent2.txt": json.dumps("long " * 300),
    }
    done = put(store, source(tmp_path / "a_e-a_s", "rivers", True, **files))
    assert [(p.kind, p.reason) for p in done.problems] == [
        ("foreign", "feature 40 is not in the store, which has 0 to 39")
    ]
    label = labels_of(store)[2]
    assert len(label.text) <= 200
    assert label.text.endswith("long …")
    assert label.explanation is not None
    assert 900 < len(label.explanation) <= 1_000


def test_folders_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        source(tmp_path / parent / "a_e-a_s", "rivers", True)
    with pytest.raises(BadInput, match="two folders are called a_e-a_s"):
        sources_of([tmp_path / "x", tmp_path / "y"], None, None, None)
    with pytest.raises(BadInput, match="is no folder"):
        sources_of([tmp_path / "z"], None, None, None)


def test_the_command_prints_what_it_read_and_names_bad_files(store: Path, tmp_path: Path) -> None:
    bad = {f"explanations/layers.30_latent{i}.txt": '"cut' for i in range(2, 27)}
    folder = source(tmp_path / "a_e-a_s", "rivers \x1b[31m", True, **bad)
    command = [sys.executable, "-m", "pipeline", "attach", str(folder), "--store", str(store)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "a_e-a_s: layers.30, explained by a, scored by a"
    assert lines[1] == "a_e-a_s: 1 explanations; 1 scores"
    assert sum("  truncated " in line for line in lines) == 20
    assert lines[-1] == "  ... and 5 more bad files"
    stopped = subprocess.run([*command, "--bad-files", "stop"], capture_output=True, text=True)
    assert stopped.returncode == 2
    assert "layers.30_latent2.txt: truncated" in stopped.stderr


def imported(folder: Path, out: Path, **options: Any) -> list[str]:
    told = Recorder()
    import_source("delphi", folder, out, progress=told, **options)
    return told.lines


def test_a_second_import_of_the_same_does_nothing(bare: Path, tmp_path: Path) -> None:
    cache = bare.parent / "h.0"
    manifest = (bare / "manifest.json").read_bytes()
    assert imported(cache, bare) == [f"nothing to do: {bare} holds this already"]
    # content counts, not where it lies
    moved = Path(shutil.copytree(cache, tmp_path / "h.0"))
    assert imported(moved, bare) == [f"nothing to do: {bare} holds this already"]
    for options in ({"split_seed": 1}, {"name": "other"}, {"n_features": 41}):
        with pytest.raises(BadInput, match="exists; a store is never written over"):
            imported(cache, bare, **options)
    config = json.loads((moved / "config.json").read_text(encoding="utf-8"))
    (moved / "config.json").write_text(json.dumps({**config, "dataset_split": "test"}), encoding="utf-8")
    with pytest.raises(BadInput, match="exists; a store is never written over"):
        imported(moved, bare)
    assert (bare / "manifest.json").read_bytes() == manifest
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match="exists; a store is never written over"):
        imported(cache, tmp_path / "other")


def test_a_second_import_of_a_bundle_does_nothing(tmp_path: Path) -> None:
    out = import_world(texts(), tmp_path)
    (bundle,) = {path.parent for path in tmp_path.rglob("bundle.yaml")}
    told = Recorder()
    import_source("bundle", bundle, out, progress=told)
    assert told.lines == [f"nothing to do: {out} holds this already"]
    with pytest.raises(BadInput, match="exists; a store is never written over"):
        import_source("bundle", bundle, out, seed=5)
