"""circuit-tracer's graphs: the names of features go into `clerp`, the text beside a node; clerps come in as drafts.

A node is a feature of ours when its `node_id` is `layer_feature_position` with our layer, and its number `feature` is
the Cantor pairing of layer and feature too. Error, token and output nodes look alike and are left alone.
"""

import json
from collections.abc import Iterator
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.checking import check_label, made
from saeinterp_mcp.labels.exchange.files import document
from saeinterp_mcp.labels.exchange.foreign import one_line
from saeinterp_mcp.labels.exchange.records import BadLine, Incoming, IncomingLabel, Options, Source, Target
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.revisions import names_of

NOT_FEATURES = ("embedding", "logit", "mlp reconstruction error")


class Place(NamedTuple):
    """Which feature a node is."""

    layer: int
    feature: int


def write(target: Target, options: Options) -> Iterator[bytes]:
    """The graph with the names of our features in its nodes; everything else as it was.

    Raises:
        BadInput: nobody said which graph and layer, or it is no graph.
    """
    if options.graph is None:
        raise BadInput("an export of clerps needs the graph to fill, --graph GRAPH.json")
    graph, layer = _graph(options.graph), _layer(options)
    ours: list[tuple[dict[str, Any], int]] = []
    unlike = beyond = 0
    for node in graph["nodes"]:
        place = place_of(node)
        if place is None:
            unlike += _looks_like_ours(node, layer)
        elif place.layer == layer:
            if place.feature < target.n_features:
                ours.append((node, place.feature))
            else:
                beyond += 1
    names = names_of(target.database, target.lineage, sorted({feature for _, feature in ours}))
    replaced = sum(bool(node.get("clerp")) and node["clerp"] != names[f] for node, f in ours if f in names)
    filled = 0
    for node, feature in ours:
        if feature in names:
            node["clerp"] = names[feature]
            filled += 1
    options.said.append(
        f"{filled} of {len(ours)} nodes of layer {layer} have a name ({replaced} replaced another text)"
        + (f"; {beyond} are beyond the store's features" if beyond else "")
        + (f"; {unlike} left alone because node_id and feature disagree" if unlike else "")
    )
    yield json.dumps(graph, ensure_ascii=False, indent=2).encode("utf-8")


def read_source(path: Path) -> Source:
    """It names its transcoders, not our store."""
    return Source()


def read(path: Path, target: Target, options: Options) -> Iterator[Incoming | BadLine]:
    """A draft for each feature of the layer that has a clerp, and each text it has."""
    graph, layer = _graph(path), _layer(options)
    metadata = graph.get("metadata")
    slug = metadata.get("slug") if isinstance(metadata, dict) else None
    seen: set[tuple[int, str]] = set()
    for i, node in enumerate(graph["nodes"]):
        place, clerp = place_of(node), node.get("clerp")
        if place is None or place.layer != layer or not isinstance(clerp, str) or not clerp.strip():
            continue
        where = f"node {i} ({str(node['node_id'])[:40]})"
        try:
            fields = {
                "label_id": "",
                "feature": place.feature,
                "revision": 1,
                "text": one_line(clerp),
                "author_kind": "import",
                "source": f"circuit-tracer:{slug}" if isinstance(slug, str) else "circuit-tracer",
            }
            label: Label = made(Label, fields, where)
            check_label(label, target.n_features, where)
        except BadLine as error:
            yield error
            continue
        if (label.feature, label.text) not in seen:
            seen.add((label.feature, label.text))
            yield IncomingLabel(where, label)


def place_of(node: dict[str, Any]) -> Place | None:
    """Layer and feature of a node; None where it is no feature, or its two names for it disagree."""
    named, number = _in_node_id(node), node.get("feature")
    if node.get("feature_type") in NOT_FEATURES or named is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or number < 0 or unpaired(number) != named:
        return None
    return named


def paired(a: int, b: int) -> int:
    """Cantor's pairing of two numbers."""
    return (a + b) * (a + b + 1) // 2 + b


def unpaired(number: int) -> Place:
    """The two numbers that `paired` made one of."""
    total = (isqrt(8 * number + 1) - 1) // 2
    b = number - total * (total + 1) // 2
    return Place(total - b, b)


def _in_node_id(node: dict[str, Any]) -> Place | None:
    parts = str(node.get("node_id")).split("_")
    if len(parts) != 3 or not all(p.isascii() and p.isdecimal() and len(p) < 12 for p in parts):
        return None
    return Place(int(parts[0]), int(parts[1]))


def _looks_like_ours(node: dict[str, Any], layer: int) -> bool:
    named = _in_node_id(node)
    return node.get("feature_type") not in NOT_FEATURES and named is not None and named.layer == layer


def _graph(path: Path) -> dict[str, Any]:
    graph = document(path)
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise BadInput(
            f"{path} is no circuit-tracer graph: expected an object with a list `nodes` of objects"
        )
    assert isinstance(graph, dict), "nodes come from an object"
    return graph


def _layer(options: Options) -> int:
    layer = options.layer or ""
    if not (layer.isascii() and layer.isdecimal()):
        raise BadInput(
            "a graph has nodes of many layers; say which one the store is of with --layer N"
            + (f", not {layer!r}" if layer else "")
        )
    return int(layer)
