"""Neuronpedia's explanations: they come in as drafts, and go out with what they came with."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.exporting import export_file
from saeinterp_mcp.labels.exchange.formats import format_named, format_of
from saeinterp_mcp.labels.exchange.records import Options
from tests.labels.exchanging import current, exported, heldout, imported, saved, target

EXPLANATION: dict[str, Any] = {
    "id": "clkht01d40000jv08hvalcvly",
    "modelId": "gpt2-small",
    "layer": "6-res-jb",
    "index": "45",
    "authorId": "clkht01d40000jv08hvalcvlx",
    "triggeredById": None,
    "description": "words about\n swimming",
    "typeName": "oai_token-act-pair",
    "explanationModelName": "gpt-4o-mini",
    "notes": "",
    "createdAt": "2024-09-03T10:11:12.345Z",
    "embedding": [0.1, 0.2],
    "scores": [
        {
            "value": 0.61,
            "explanationScoreTypeName": "recall_alt",
            "explanationScoreModelName": "g",
            "jsonDetails": "[]",
        }
    ],
}


def explanations(*changes: dict[str, Any]) -> str:
    return "".join(json.dumps({**EXPLANATION, **change}) + "\n" for change in changes)


def test_an_explanation_becomes_a_draft(tmp_path: Path) -> None:
    here = target()
    report = imported(here, explanations({}, {"index": "46"}, {}), tmp_path, "neuronpedia")
    assert (report.labels.added, report.labels.unchanged) == (2, 1)
    label = current(here)[0]
    assert (label.feature, label.text, label.status) == (45, "words about swimming", "draft")
    assert (label.author_kind, label.source) == ("import", "neuronpedia:gpt2-small/6-res-jb")
    assert (label.author, label.made_at, label.importance) == ("gpt-4o-mini", "2024-09-03T10:11:12Z", 45.0)
    assert imported(here, explanations({}), tmp_path, "neuronpedia").labels.unchanged == 1


def test_an_explanation_goes_out_with_what_it_came_with(tmp_path: Path) -> None:
    here = target()
    imported(here, explanations({"notes": "see\nalso"}), tmp_path, "neuronpedia")
    (out,) = exported(here, "neuronpedia", model_id="gpt2-small", layer="6-res-jb").splitlines()
    kept = ("id", "modelId", "layer", "index", "authorId", "typeName", "explanationModelName", "notes")
    assert {name: json.loads(out)[name] for name in kept} == {
        **{name: EXPLANATION[name] for name in kept},
        "notes": "see\nalso",
    }
    (score,) = json.loads(out)["scores"]
    assert score == {k: v for k, v in EXPLANATION["scores"][0].items() if k != "jsonDetails"}


def test_a_label_of_ours_goes_out_with_its_held_out_test() -> None:
    here = target()
    heldout(here, "token:for", low=0.8)
    saved(here, text="loops", rule="token:for", author="claude", author_kind="agent")
    saved(here, text="wrong", status="refuted")
    (row,) = exported(here, "neuronpedia", model_id="m", layer="3-res").splitlines()
    out = json.loads(row)
    assert (out["modelId"], out["layer"], out["index"], out["description"]) == ("m", "3-res", "7", "loops")
    assert (out["typeName"], out["explanationModelName"]) == ("saeinterp_agent", "claude")
    assert [(s["value"], s["explanationScoreTypeName"]) for s in out["scores"]] == [(0.9, "saeinterp_rule")]
    assert json.loads(out["scores"][0]["jsonDetails"]) == {
        "low": 0.8,
        "high": 0.95,
        "floor": 0.6,
        "n": 500,
        "evidence": "ev-00000000000000aa",
    }
    with pytest.raises(BadInput, match="needs --model-id and --layer"):
        exported(here, "neuronpedia", model_id="m")


def test_packed_explanations_are_read_and_written_and_have_no_time_in_them(tmp_path: Path) -> None:
    here = target()
    packed = gzip.compress(explanations({}).encode())
    assert imported(here, packed, tmp_path, "neuronpedia", name="batch-0.jsonl.gz").labels.added == 1
    assert format_of(tmp_path / "batch-0.jsonl.gz").name == "neuronpedia"
    options = Options(model_id="m", layer="l")
    outs = [tmp_path / name / "out.jsonl.gz" for name in ("a", "b")]
    for out in outs:
        out.parent.mkdir()
        export_file(here, format_named("neuronpedia"), out, options)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert json.loads(gzip.decompress(outs[0].read_bytes()))["description"] == "words about swimming"
    with pytest.raises(BadInput, match="is no whole gzip file"):
        imported(here, packed[:-9], tmp_path, "neuronpedia", name="cut.jsonl.gz")


def test_explanations_of_several_layers_need_a_choice(tmp_path: Path) -> None:
    content = explanations({}, {"layer": "7-res-jb", "index": "46"}, {"modelId": "other", "index": "47"})
    with pytest.raises(
        BadInput, match="is about gpt2-small/6-res-jb and, in line 2, gpt2-small/7-res-jb; choose"
    ):
        imported(target(), content, tmp_path, "neuronpedia")
    here = target()
    imported(here, content, tmp_path, "neuronpedia", layer="6-res-jb", model_id="gpt2-small")
    assert [label.feature for label in current(here)] == [45]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"index": 45}, "index is '45', expected a number as a string"),
        ({"index": "-1"}, "index is '-1', expected"),
        ({"index": "100"}, "feature 100 is not in the store"),
        ({"description": " "}, "description is missing or no text"),
        ({"description": "x" * 501}, "text has 501 characters, at most 500 are kept"),
        ({"layer": None}, "layer is missing or no text"),
        ({"typeName": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_an_explanation_that_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput) as refused:
        imported(target(), explanations({}, change), tmp_path, "neuronpedia")
    assert f"line 2: {why}" in str(refused.value) or ("surrogate" in why and why in str(refused.value))
