"""Other people's label files: what comes in, what goes out, and what a round trip keeps."""

import gzip
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.circuit_graph import Place, paired, unpaired
from saeinterp_mcp.labels.exchange.exporting import export_file
from saeinterp_mcp.labels.exchange.formats import format_named, format_of
from saeinterp_mcp.labels.exchange.records import Options
from tests.labels.exchanging import current, exported, heldout, imported, saved, target, texts

ENTRY: dict[str, Any] = {
    "feature_id": 45,
    "model_type": "full",
    "dashboard_name": "Swim build",
    "dashboard_category": "tactical",
    "dashboard_notes": "Seen on\nrollers.",
    "research_label": "Stacks swim speed",
    "research_state_path": "state/full/feature_45_full.json",
    "hypothesis_confidence": 0.8,
    "display_name": "Swim build",
    "source": "merged",
    "last_updated": "2025-11-02T10:11:12",
    "importance_percentile": 91.5,
    "interpretability_confidence": 0.7,
    "stability_score": 0.93,
}
"""With every field that the system's code and its skill name."""


def consolidated(*entries: dict[str, Any]) -> str:
    return json.dumps({str(entry["feature_id"]): entry for entry in entries})


def test_an_entry_becomes_the_research_label_and_a_competing_one_by_people(tmp_path: Path) -> None:
    here = target()
    assert imported(here, consolidated(ENTRY), tmp_path, "consolidated").labels.added == 2
    human, research = current(here)
    assert (research.feature, research.text, research.author_kind) == (45, "Stacks swim speed", "import")
    assert (research.importance, research.confidence, research.stability) == (91.5, 0.7, 0.93)
    assert (research.source, research.category, research.status) == ("merged", "tactical", "draft")
    assert research.made_at == "2025-11-02T10:11:12Z"
    assert (human.text, human.author_kind, human.notes) == ("Swim build", "human", "Seen on\nrollers.")
    assert (human.source, human.confidence) == ("dashboard", None)
    again = imported(here, consolidated(ENTRY), tmp_path, "consolidated")
    assert (again.labels.added, again.labels.unchanged) == (0, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "dashboard_name": None,
            "dashboard_notes": "",
            "display_name": "Stacks swim speed",
            "source": "research",
        },
        {"dashboard_name": "Stacks swim speed", "display_name": "Stacks swim speed"},
        {"research_label": None, "source": "dashboard", "hypothesis_confidence": 0.7},
        {"research_label": None, "source": "claude code", "research_state_path": None},
        {"dashboard_category": "none"},
        {"hypothesis_confidence": 0.7, "model_type": "ultra"},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_an_entry_goes_out_as_it_came_in(tmp_path: Path, changes: dict[str, Any]) -> None:
    here, entry = target(), {**ENTRY, **changes}
    imported(here, consolidated(entry), tmp_path, "consolidated")
    assert json.loads(exported(here, "consolidated")) == {"45": entry}


def test_an_entry_of_the_older_code_goes_out_with_what_was_added(tmp_path: Path) -> None:
    """The code as published knows eleven fields; the store's own importance is filled in."""
    here = target()
    entry = {name: value for name, value in ENTRY.items() if name not in list(ENTRY)[-3:]}
    imported(here, consolidated(entry), tmp_path, "consolidated")
    added = {"importance_percentile": 45.0, "interpretability_confidence": 0.8}
    assert json.loads(exported(here, "consolidated")) == {"45": {**entry, **added}}


def test_a_name_given_by_an_agent_is_not_taken_for_a_persons(tmp_path: Path) -> None:
    for source, kind in (
        ("claude code", "import"),
        ("manual", "human"),
        ("dashboard", "human"),
        ("codex", "import"),
    ):
        here = target()
        entry = {**ENTRY, "research_label": None, "source": source}
        imported(here, consolidated(entry), tmp_path, "consolidated")
        assert [(one.author_kind, one.source) for one in current(here)] == [(kind, source)]


def test_a_revision_here_shows_in_the_next_export(tmp_path: Path) -> None:
    here = target()
    entry = {**ENTRY, "dashboard_name": "Stacks swim speed"}
    imported(here, consolidated(entry), tmp_path, "consolidated")
    (label,) = current(here)
    saved(here, 45, label.label_id, text="Stacks swim speed on rollers", category="strategic")
    out = json.loads(exported(here, "consolidated"))["45"]
    assert {out[name] for name in ("dashboard_name", "research_label", "display_name")} == {
        "Stacks swim speed on rollers"
    }
    assert (out["dashboard_category"], out["research_state_path"]) == (
        "strategic",
        ENTRY["research_state_path"],
    )


def test_a_label_changed_here_is_a_conflict_with_a_changed_entry_and_an_unchanged_one_follows(
    tmp_path: Path,
) -> None:
    here, dashboard = target(), '{"3": {"name": "a", "category": "none", "notes": "", "timestamp": ""}}'
    imported(here, dashboard, tmp_path, "dashboard")
    followed = imported(here, dashboard.replace('"notes": ""', '"notes": "more"'), tmp_path, "dashboard")
    assert (followed.labels.revised, current(here)[0].notes) == (1, "more")
    saved(here, 3, current(here)[0].label_id, notes="mine")
    assert imported(here, dashboard, tmp_path, "dashboard").labels.unchanged == 1
    report = imported(here, dashboard.replace('"notes": ""', '"notes": "most"'), tmp_path, "dashboard")
    assert report.n_conflicts == 1


def test_our_labels_go_out_by_precedence_without_retired_and_refuted_ones() -> None:
    here = target()
    saved(here, feature=3, text="by an agent", confidence=0.5, category="mechanical")
    saved(here, feature=3, text="by a person", author_kind="human", notes="n")
    saved(here, feature=4, text="wrong", status="refuted")
    entries = json.loads(exported(here, "consolidated", model_id="ultra"))
    assert list(entries) == ["3"]
    told = ("model_type", "dashboard_name", "research_label", "display_name", "dashboard_notes", "source")
    assert [entries["3"][name] for name in told] == [
        "ultra",
        "by a person",
        "by an agent",
        "by a person",
        "n",
        "research",
    ]
    assert (entries["3"]["hypothesis_confidence"], "stability_score" in entries["3"]) == (0.5, False)


def test_names_of_the_dashboard_come_in_as_labels_by_people(tmp_path: Path) -> None:
    here = target()
    content = {
        "3": {
            "name": "Zombie",
            "category": "strategic",
            "notes": "n",
            "timestamp": "2025-01-02T03:04:05.678",
        },
        "4": {"name": "", "category": "none", "notes": "", "timestamp": ""},
    }
    assert imported(here, json.dumps(content), tmp_path, "dashboard").labels.added == 1
    (label,) = current(here)
    assert (label.text, label.category, label.notes, label.author_kind) == (
        "Zombie",
        "strategic",
        "n",
        "human",
    )
    assert (label.source, label.made_at) == ("dashboard", "2025-01-02T03:04:05Z")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"x": {}}', "entry 'x': is no feature number"),
        ('{"3": []}', "entry '3': expected an object, found list"),
        ('{"3": {"colour": 1}}', "entry '3': has a field 'colour'; there are: feature_id"),
        ('{"3": {"feature_id": 4}}', "entry '3': feature_id is 4"),
        ('{"3": {"research_label": 4}}', "entry '3': research_label is no text"),
        ('{"3": {"stability_score": "x"}}', "entry '3': stability_score is no number"),
        (
            '{"3": {"research_label": "x", "stability_score": 2}}',
            "entry '3': stability is 2.0, expected -1 to 1",
        ),
        ('{"100": {"research_label": "x"}}', "entry '100': feature 100 is not in the store"),
    ],
)
def test_an_entry_that_does_not_fit_stops_the_import_or_is_left_out(
    tmp_path: Path, content: str, why: str
) -> None:
    with pytest.raises(BadInput) as refused:
        imported(target(), content, tmp_path, "consolidated")
    assert why in str(refused.value)
    here = target()
    more = content[:-1] + ', "5": {"research_label": "good"}}'
    assert imported(here, more, tmp_path, "consolidated", on_bad="skip").n_skipped == 1
    assert texts(here) == ["good"]


def test_a_document_that_is_none_is_refused(tmp_path: Path) -> None:
    for content, why in (('{"3": ', "not JSON"), ("[]", "expected an object of features, found list")):
        with pytest.raises(BadInput, match=why):
            imported(target(), content, tmp_path, "consolidated")


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


def node(layer: int, feature: int, position: int, **changes: Any) -> dict[str, Any]:
    """As circuit-tracer writes a feature; the number written out as its own formula."""
    made = {
        "node_id": f"{layer}_{feature}_{position}",
        "feature": (layer + feature) * (layer + feature + 1) // 2 + feature,
        "layer": str(layer),
        "ctx_idx": position,
        "feature_type": "cross layer transcoder",
        "token_prob": 0.0,
        "is_target_logit": False,
        "jsNodeId": f"{layer}_{feature}-0",
        "clerp": "",
        "influence": 0.125,
        "activation": 1e-05,
    }
    return {**made, **changes}


def graph(*nodes: dict[str, Any]) -> dict[str, Any]:
    links = [{"source": "3_7_1", "target": "3_8_2", "weight": -0.1234567890123456}]
    return {
        "metadata": {"slug": "dallas", "prompt": "é"},
        "qParams": {"pinnedIds": []},
        "nodes": list(nodes),
    } | {"links": links}


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_number_of_a_node_names_its_layer_and_feature(layer: int, feature: int) -> None:
    assert paired(layer, feature) == (layer + feature) * (layer + feature + 1) // 2 + feature
    assert unpaired(paired(layer, feature)) == Place(layer, feature)


def test_the_pairing_goes_through_every_number_once() -> None:
    found = [unpaired(n) for n in range(15)]
    assert found[:6] == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    assert len(set(found)) == 15


def test_a_graph_is_filled_with_names_and_nothing_else_changes(tmp_path: Path) -> None:
    here = target()
    saved(here, feature=7, text="loops 漢")
    saved(here, feature=8, text="wrong", status="refuted")
    before = graph(
        node(3, 7, 1),
        node(3, 7, 2, clerp="old name"),
        node(3, 8, 2),
        node(4, 7, 1, clerp="of another layer"),
        {**node(3, 7, 4), "feature": 12345},
        node(3, 7, 9, feature_type="logit", clerp='Output "x"'),
        node(3, 400, 1),
        {"node_id": "3_-1_2", "feature": -1, "feature_type": "mlp reconstruction error", "clerp": ""},
        {"node_id": "E_7_0", "feature": 0, "feature_type": "embedding", "clerp": "Emb"},
    )
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(before), encoding="utf-8")
    options = Options(layer="3", graph=path)
    export_file(here, format_named("clerp"), tmp_path / "new.json", options)
    after = json.loads((tmp_path / "new.json").read_text(encoding="utf-8"))
    for i in (0, 1):
        assert after["nodes"][i]["clerp"] == "loops 漢"
        after["nodes"][i]["clerp"] = before["nodes"][i]["clerp"]
    assert after == before
    assert list(after["nodes"][0]) == list(before["nodes"][0])
    assert options.said == [
        "2 of 3 nodes of layer 3 have a name (1 replaced another text); 1 are beyond the store's features; 1 left "
        "alone because node_id and feature disagree"
    ]


def test_texts_of_a_graph_come_in_as_drafts_of_the_layer(tmp_path: Path) -> None:
    here = target()
    content = graph(
        node(3, 7, 1, clerp="say\n Austin"),
        node(3, 7, 5, clerp="say Austin"),
        node(3, 7, 6, clerp="capitals"),
    )
    content["nodes"] += [
        node(4, 9, 1, clerp="elsewhere"),
        node(3, 10, 1),
        {**node(3, 11, 1, clerp="unlike"), "feature": 1},
    ]
    report = imported(here, json.dumps(content), tmp_path, "clerp", name="graph.json", layer="3")
    assert report.labels.added == 2
    assert [(one.text, one.status, one.author_kind, one.source) for one in current(here)] == [
        ("capitals", "draft", "import", "circuit-tracer:dallas"),
        ("say Austin", "draft", "import", "circuit-tracer:dallas"),
    ]
    assert format_of(tmp_path / "graph.json").name == "clerp"
    with pytest.raises(BadInput, match=r"node 0 \(3_100_1\): feature 100 is not in the store"):
        imported(here, json.dumps(graph(node(3, 100, 1, clerp="x"))), tmp_path, "clerp", layer="3")


def test_a_graph_needs_a_layer_and_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="say which one the store is of with --layer N"):
        imported(target(), json.dumps(graph()), tmp_path, "clerp")
    for content in ("[]", '{"nodes": {}}', '{"nodes": [1]}'):
        with pytest.raises(BadInput, match="is no circuit-tracer graph"):
            imported(target(), content, tmp_path, "clerp", layer="3")
    with pytest.raises(BadInput, match="needs the graph to fill, --graph"):
        exported(target(), "clerp", layer="3")


def test_files_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    for content, name in ((consolidated(ENTRY), "consolidated"), ('{"3": {"name": "a"}}', "dashboard")):
        path = tmp_path / f"{name}_x.json"
        path.write_text(content, encoding="utf-8")
        assert format_of(path).name == name
    (tmp_path / "other.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(BadInput, match="does not look like a label file"):
        format_of(tmp_path / "other.json")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["jsonl", "csv", "consolidated", "dashboard", "neuronpedia", "clerp"]),
    st.sampled_from([*ENTRY, *EXPLANATION, "nodes", "name", "record"]),
    junk,
)
def test_rubbish_is_refused_or_left_out_and_never_a_traceback(
    tmp_path: Path, format_name: str, field: str, value: Any
) -> None:
    whole = {
        "consolidated": {"45": {**ENTRY, field: value}},
        "dashboard": {"45": {"name": "x", field: value}},
        "clerp": {"nodes": [{**node(3, 7, 1, clerp="x"), field: value}], field: value},
    }
    label = {
        "record": "label",
        "feature": 7,
        "label_id": "lb-0123456789ab",
        "revision": 1,
        "text": "x",
        field: value,
    }
    lines = {
        "jsonl": '{"format":"saeinterp-labels","version":1,"store":"d","lineage":"0123456789abcdef","n_features":100}\n'
        + json.dumps(label),
        "csv": f"feature,text\n{json.dumps(value)},{field}",
        "neuronpedia": explanations({field: value}),
    }
    content = json.dumps(whole[format_name]) if format_name in whole else lines[format_name]
    layer = "3" if format_name == "clerp" else None
    for bad in ("stop", "skip"):
        with suppress(BadInput):
            imported(target(), content, tmp_path, format_name, on_bad=bad, layer=layer)
