"""Labels as Neuronpedia's explanations, in batches beside the features, and the kinds of explanations they name."""

import json
from pathlib import Path
from typing import Any

from pipeline.exporters.neuronpedia_lines import BATCH, Origin, cuid, write_lines
from saeinterp_mcp.labels.exchange import neuronpedia
from saeinterp_mcp.labels.exchange.records import Options, Target
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.store.base import Store

NO_TIME = "1970-01-01T00:00:00Z"
IMPORTED = f"{neuronpedia.OUR_TYPE}_import"
COLUMNS = (
    "description",
    "authorId",
    "triggeredById",
    "typeName",
    "explanationModelName",
    "notes",
    "createdAt",
)
FILLED = {"scoreV1": 0, "scoreV2": None, "votes": None}
"""Columns that are written where one label has them, and what the others then get."""


def write_labels(store: Store, out: Path, folder: Path, origin: Origin) -> int:
    """Labels in use as `batch-N.jsonl.gz`, and `config/` for the kinds that are ours; how many."""
    target = Target(
        name=store.name,
        lineage=store.lineage,
        n_features=store.manifest.n_features,
        database=store.need_labels,
        normal_rule=_as_it_is,
        importance=lambda feature: None,
        check_call=lambda operation, arguments: None,
    )
    options = Options(model_id=origin.model_id, layer=origin.layer)
    records = [json.loads(line) for line in neuronpedia.write(target, options)]
    columns = [*COLUMNS, *(name for name in FILLED if any(name in one for one in records))]
    batches: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        batches.setdefault(int(record["index"]) // BATCH, []).append(_line(record, columns, origin))
    for number, lines in sorted(batches.items()):
        write_lines(folder / f"batch-{number}.jsonl.gz", lines)
    _write_config(out / "config", records, origin)
    return len(records)


def _as_it_is(label: Label) -> tuple[Label, str | None]:
    """Labels of a store are in their normal form; tests of rules are not written, because nobody reads them there."""
    return label, None


def _line(record: dict[str, Any], columns: list[str], origin: Origin) -> dict[str, Any]:
    filled = {name: record.get(name, FILLED.get(name)) for name in columns}
    if filled["typeName"] == IMPORTED:  # what came without a kind goes without one
        filled["typeName"] = None
    filled["authorId"] = filled["authorId"] or origin.creator_id
    filled["createdAt"] = filled["createdAt"] or NO_TIME
    place = {name: record[name] for name in ("modelId", "layer", "index")}
    told = [*place.values(), filled["description"], filled["explanationModelName"], filled["typeName"]]
    return {"id": record.get("id") or cuid(*told), **place, **filled, "scores": record.get("scores") or []}


def _write_config(folder: Path, records: list[dict[str, Any]], origin: Origin) -> None:
    """Their rows refer to kinds and models by name, which must be there first."""
    ours = [
        one
        for one in records
        if str(one.get("typeName")).startswith(f"{neuronpedia.OUR_TYPE}_") and one["typeName"] != IMPORTED
    ]
    about = {"creatorName": origin.creator_name, "featured": False}
    kinds = sorted({str(one["typeName"]) for one in ours})
    models = sorted({str(one["explanationModelName"]) for one in ours if one.get("explanationModelName")})
    told = "A label kept with saeinterp"
    tables = {
        "explanation_type": [
            {"name": k, "displayName": k, "description": told, "creatorId": origin.creator_id, **about}
            for k in kinds
        ],
        "explanation_model_type": [
            {"name": m, "displayName": m, "description": told, **about} for m in models
        ],
    }
    for name, rows in tables.items():
        if rows:
            folder.mkdir(exist_ok=True)
            write_lines(folder / f"{name}.jsonl", rows)
