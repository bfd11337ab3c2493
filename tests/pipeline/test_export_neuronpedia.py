"""A store in Neuronpedia's layout: what their import needs of it, and the same store and labels when it comes back."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.__main__ import app
from pipeline.exporters.neuronpedia_lines import cuid
from pipeline.exporters.run_export import ExportOptions, export_store
from saeinterp_mcp.errors import BadInput, NotInStore
from saeinterp_mcp.labels.revisions import labels_of, save_label
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from tests.pipeline.json_sources import FIXTURES, held, load, texts
from tests.worlds import Quiet, builds, import_world
from tests.worlds import texts as words

MODEL, SOURCE = "gemma-2-2b", "12-gemmascope-res-16k"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """An import of the fixture."""
    out = tmp_path_factory.mktemp("theirs") / "store"
    return load("neuronpedia", FIXTURES / "neuronpedia", out)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A full store of texts, with labels of an agent and of a person."""
    store = open_store(import_world(words(), tmp_path_factory.mktemp("ours")))
    for feature, text, kind in (
        (0, "opens a text", "agent"),
        (0, "an opening", "human"),
        (2, "verbs", "agent"),
    ):
        values = {"text": text, "author": "claude-x" if kind == "agent" else "ada", "author_kind": kind}
        save_label(store.need_labels, store.lineage, feature, values, None)
    return store


def path_of(store: Store) -> Path:
    assert store.backend.folder is not None
    return store.backend.folder


def export(store: Store, out: Path, **options: Any) -> Path:
    given = {"model_id": MODEL, "layer": SOURCE, **options}
    export_store("neuronpedia", path_of(store), out, ExportOptions(**given), progress=Quiet())
    return out / str(given["model_id"]) / str(given["layer"])


def records(folder: Path, part: str) -> list[dict[str, Any]]:
    found = []
    for path in sorted((folder / part).glob("batch-*.jsonl.gz"), key=lambda p: (len(p.name), p.name)):
        found += [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return found


def told(store: Store) -> list[tuple[Any, ...]]:
    nothing: list[Any] = []
    found = store.need_labels.read(lambda c: labels_of(c, store.lineage), nothing)
    return sorted((one.feature, one.text, one.author, one.source, one.notes) for one in found)


def test_an_import_goes_out_and_comes_back_the_same(theirs: Store, tmp_path: Path) -> None:
    folder = export(theirs, tmp_path / "out")
    back = load("neuronpedia", folder, tmp_path / "back")
    assert texts(back) != []
    assert sorted(_examples(back)) == sorted(_examples(theirs))
    assert told(back) == told(theirs)
    figures = [
        store.validation.table("published_features").collect() for store in (theirs, back) if store.validation
    ]
    names = [
        "feature_id",
        "max_act_approx",
        "frac_nonzero",
        "promoted",
        "suppressed",
        "similar",
        "histogram_values",
    ]
    before, after = (frame.select(names).to_dicts() for frame in figures)
    kept = {row["feature_id"]: row for row in after}
    assert [kept[row["feature_id"]] for row in before] == before


def _examples(store: Store) -> list[tuple[Any, ...]]:
    tokens = texts(store)
    return [(f, tuple(tokens[s]), tuple(sorted(at.items()))) for (f, s), at in held(store).items()]


def test_a_full_store_comes_back_with_its_strongest_samples_and_its_labels(
    ours: Store, tmp_path: Path
) -> None:
    folder = export(ours, tmp_path / "out", top_k=3, model_id="toy", layer="0-toy")
    back = load("neuronpedia", folder, tmp_path / "back")
    assert back.manifest.n_features == ours.manifest.n_features
    by_feature: dict[int, list[tuple[Any, ...]]] = {}
    for one in _examples(ours):
        by_feature.setdefault(one[0], []).append(one)
    came = set(_examples(back))
    assert came <= set(_examples(ours))
    for examples in by_feature.values():
        strongest = sorted((max(v for _, v in one[2]) for one in examples), reverse=True)[:3]
        for value in strongest:
            assert any(max(v for _, v in one[2]) == value for one in came if one in examples)
    # a person is no model, so on their side the label is the exporting user's
    assert [(f, text, author) for f, text, author, *_ in told(back)] == [
        (0, "an opening", "clkht01d40000jv08hvalcvly"),
        (0, "opens a text", "claude-x"),
        (2, "verbs", "claude-x"),
    ]


def test_records_hold_what_their_import_needs(ours: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = export(
        ours, out, top_k=2, model_id="toy", layer="0-toy-res__small", creator_id="me", release="toys"
    )
    for part in ("features", "activations", "explanations"):
        found = records(folder, part)
        assert len({tuple(one) for one in found}) == 1, "columns are taken from the first line"
        assert {(one["modelId"], one["layer"]) for one in found} == {("toy", "0-toy-res__small")}
        assert all(isinstance(one["index"], str) for one in found)
        assert "createdAt" not in found[0] or part == "explanations"
    single = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.jsonl")}
    assert single["source"]["id"] == "0-toy-res__small"
    assert (single["source"]["setName"], single["sourceset"]["name"], single["sourceset"]["releaseName"]) == (
        "toy-res",
        "toy-res",
        "toys",
    )
    assert {one["creatorId"] for one in single.values()} == {"me"}
    explanations = records(folder, "explanations")
    assert all(len(one["id"]) == 25 and one["authorId"] == "me" and one["createdAt"] for one in explanations)
    kinds = [
        json.loads(line) for line in (out / "config" / "explanation_type.jsonl").read_text().splitlines()
    ]
    assert [kind["name"] for kind in kinds] == ["saeinterp_agent", "saeinterp_human"]
    models = [
        json.loads(line)
        for line in (out / "config" / "explanation_model_type.jsonl").read_text().splitlines()
    ]
    assert [model["name"] for model in models] == ["claude-x"]


def test_examples_are_grouped_as_a_dashboard_groups_them(ours: Store, tmp_path: Path) -> None:
    """Each group's bounds and share worked out from all rows."""
    folder = export(ours, tmp_path / "out", top_k=1, model_id="toy", layer="0-toy")
    n_rows = ours.n_rows("all")
    for record in records(folder, "features"):
        feature = int(record["index"])
        values = np.zeros(n_rows)
        rows, found = ours.activations(feature)
        values[rows] = found
        assert record["frac_nonzero"] == pytest.approx((values > 0).mean())
        assert record["maxActApprox"] == pytest.approx(values.max())
        assert sum(record["freq_hist_data_bar_heights"]) == len(rows)
    for one in records(folder, "activations"):
        rows, found = ours.activations(int(one["index"]))
        values = np.zeros(n_rows)
        values[rows] = found
        assert one["values"][one["maxValueTokenIndex"]] == one["maxValue"] == max(one["values"])
        if one["binMin"] == -1:
            assert (one["binMax"], one["binContains"]) == (pytest.approx(values.max()), -1)
        else:
            assert one["binMin"] < one["maxValue"] <= one["binMax"]
            inside = (values >= one["binMin"]) & (values <= one["binMax"])
            assert one["binContains"] == pytest.approx(inside.mean())


def test_of_a_sampled_store_only_what_it_knows_goes_out(theirs: Store, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(path_of(theirs), store)
    sampled = open_store(store)
    save_label(sampled.need_labels, sampled.lineage, 7, {"text": "x", "author_kind": "human"}, None)
    # no figures came along with this copy
    assert {
        one["index"]: (one["maxActApprox"], "frac_nonzero" in one)
        for one in records(export(sampled, tmp_path / "bare"), "features")
    } == {"0": (12.5, False), "3": (4.0, False), "7": (None, False), "1025": (2.0, False)}
    shutil.copytree(path_of(theirs).parent / "store.validation", tmp_path / "store.validation")
    folder = export(open_store(store), tmp_path / "out")
    found = records(folder, "features")
    assert len({tuple(one) for one in found}) == 1
    assert [(one["index"], one["maxActApprox"], one["frac_nonzero"]) for one in found] == [
        ("0", 12.5, 0.0123),
        ("3", 4.0, 0.0),
        ("7", None, 0.0),
        ("1025", 12.5, 0.0123),
    ]
    back = load("neuronpedia", folder, tmp_path / "back")
    assert back.manifest.n_features == 2048
    assert back.validation is not None
    figures = back.validation.table("published_features").collect()
    assert figures.select("feature_id", "frac_nonzero", "max_act_approx").rows() == [
        (0, 0.0123, 12.5),
        (3, None, 4.0),
        (7, None, None),
        (1025, 0.0123, 12.5),
    ]


def test_the_same_store_gives_the_same_bytes_whatever_the_workers(theirs: Store, tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    first = contents(export(theirs, tmp_path / "a"))
    assert contents(export(theirs, tmp_path / "b", workers=2)) == first
    assert "activations/batch-1.jsonl.gz" in first


def test_what_cannot_be_exported_is_refused(ours: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs --model-id"):
        export_store("neuronpedia", path_of(ours), tmp_path / "a", progress=Quiet())
    with pytest.raises(BadInput, match=r"--layer '\.\./x' becomes a folder"):
        export(ours, tmp_path / "a", layer="../x")
    sets = import_world(builds(), tmp_path / "sets")
    with pytest.raises(NotInStore, match="store 'builds' holds sets; Neuronpedia shows texts"):
        export(open_store(sets), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_ids_look_like_theirs_and_depend_on_what_they_name() -> None:
    assert cuid("a", 1) == cuid("a", 1) != cuid("a", 2)
    assert len(cuid("a")) == 25
    assert cuid("a")[0] == "c"


def test_the_command_takes_their_names(theirs: Store, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    store = tmp_path / "store"
    shutil.copytree(path_of(theirs), store)
    call = [
        "export",
        "neuronpedia",
        str(store),
        "--out",
        str(tmp_path / "out"),
        "--model-id",
        "m",
        "--layer",
        "1-s",
    ]
    done = CliRunner().invoke(app, [*call, "--creator-name", "Ada"])
    assert done.exit_code == 0, done.output
    assert "3 features, 5 examples, 0 explanations" in done.output
    release = json.loads((tmp_path / "out" / "m" / "1-s" / "release.jsonl").read_text())
    assert (release["creatorName"], release["name"]) == ("Ada", "s")
