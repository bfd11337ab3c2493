"""circuit-tracer's graphs: which nodes are ours, and that nothing but their text changes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.circuit_graph import Place, paired, unpaired
from saeinterp_mcp.labels.exchange.exporting import export_file
from saeinterp_mcp.labels.exchange.formats import format_named, format_of
from saeinterp_mcp.labels.exchange.records import Options
from tests.labels.exchanging import current, exported, imported, saved, target


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
