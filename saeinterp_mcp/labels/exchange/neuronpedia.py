"""Neuronpedia's explanations: JSONL, plain or .gz, one explanation a line.

In: `description` becomes a draft, author_kind import, source `neuronpedia:<modelId>/<layer>`; its author is the model
that explained, or else `authorId`. What we have no place for (id, typeName, authorId, scores) goes into the notes.
Out: labels in use that are not refuted, with their held-out tests as `scores`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.checking import check_label, made
from saeinterp_mcp.labels.exchange.files import lines_of, object_in
from saeinterp_mcp.labels.exchange.foreign import in_use, one_line, utc, with_rest, without_rest
from saeinterp_mcp.labels.exchange.records import (
    BadLine,
    Incoming,
    IncomingLabel,
    Options,
    Source,
    Target,
    shown,
)
from saeinterp_mcp.labels.heldout import scores_of
from saeinterp_mcp.labels.records import Label, Score
from saeinterp_mcp.labels.revisions import labels_of

if TYPE_CHECKING:
    import sqlite3

NAME = "neuronpedia"
_KEPT = ("id", "authorId", "triggeredById", "typeName", "explanationModelName", "scoreV1", "scoreV2", "votes")
_SCORE_FIELDS = ("value", "explanationScoreTypeName", "explanationScoreModelName")
MAX_SCORES = 20
OUR_TYPE = "saeinterp"


def write(target: Target, options: Options) -> Iterator[bytes]:
    """A line for each label in use.

    Raises:
        BadInput: nobody said which model and layer.
    """
    if not options.model_id or not options.layer:
        raise BadInput(
            "an export for Neuronpedia needs --model-id and --layer (its source, 12-gemmascope-res-16k)"
        )
    place = {"modelId": options.model_id, "layer": options.layer}

    def look(connection: "sqlite3.Connection") -> list[dict[str, Any]]:
        found = []
        for label in in_use(labels_of(connection, target.lineage)):
            _, scope = target.normal_rule(label)
            scores = scores_of(connection, target.lineage, label, scope)
            found.append({**place, **_explanation(label, scores)})
        return found

    nothing: list[dict[str, Any]] = []
    found = target.database.read(look, nothing)
    options.said.append(f"{len(found)} labels in use")
    for values in found:
        yield json.dumps(values, ensure_ascii=False).encode("utf-8") + b"\n"


def read_source(path: Path) -> Source:
    """It names model and layer, not our store."""
    return Source()


def read(path: Path, target: Target, options: Options) -> Iterator[Incoming | BadLine]:
    """A draft for each explanation.

    Raises:
        BadInput: it is about several layers and nobody said which.
    """
    seen: tuple[str, str] | None = None
    for where, line in lines_of(path):
        try:
            if isinstance(line, BadLine):
                raise line
            values = object_in(where, line)
            place = _text(where, values, "modelId"), _text(where, values, "layer")
            if options.model_id not in (None, place[0]) or options.layer not in (None, place[1]):
                continue
            if seen not in (None, place):
                raise BadInput(
                    shown(f"{path} is about {'/'.join(seen)} and, in {where}, {'/'.join(place)}; ")
                    + "choose one with --model-id and --layer"
                )
            seen = place
            label = _label(where, values, place)
            check_label(label, target.n_features, where)
            yield IncomingLabel(where, label)
        except BadLine as error:
            yield error


def _label(where: str, values: dict[str, Any], place: tuple[str, str]) -> Label:
    index = values.get("index")
    if not (isinstance(index, str) and index.isascii() and index.isdecimal() and len(index) < 10):
        raise BadLine(where, f"index is {str(index)[:40]!r}, expected a number as a string")
    rest = {name: values[name] for name in _KEPT if values.get(name) is not None}
    if scores := _scores(values):
        rest["scores"] = scores
    author = values.get("explanationModelName") or values.get("authorId")
    notes = values.get("notes")
    fields = {
        "label_id": "",
        "feature": int(index),
        "revision": 1,
        "text": one_line(_text(where, values, "description")),
        "notes": with_rest(notes if isinstance(notes, str) else None, NAME, rest),
        "author": str(author)[:100] if author else None,
        "author_kind": "import",
        "source": f"{NAME}:{'/'.join(place)}",
        "made_at": utc(values.get("createdAt")),
    }
    label: Label = made(Label, fields, where)
    return label


def _text(where: str, values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadLine(where, f"{name} is missing or no text")
    return value


def _scores(values: dict[str, Any]) -> list[dict[str, Any]]:
    scores = values.get("scores")
    return [
        {name: score[name] for name in _SCORE_FIELDS if score.get(name) is not None}
        for score in (scores[:MAX_SCORES] if isinstance(scores, list) else [])
        if isinstance(score, dict)
    ]


def _explanation(label: Label, scores: tuple[Score, ...]) -> dict[str, Any]:
    notes, rest = without_rest(label.notes, NAME)
    theirs = rest.pop("scores", [])
    ours = [
        {
            "value": score.score,
            "explanationScoreTypeName": f"{OUR_TYPE}_{score.method}",
            "explanationScoreModelName": score.judge,
            "jsonDetails": json.dumps(score.model_dump(include={"low", "high", "floor", "n", "evidence"})),
        }
        for score in scores
        if score.score is not None
    ]
    told = {
        "index": str(label.feature),
        "authorId": None,
        "description": label.text,
        "typeName": f"{OUR_TYPE}_{label.author_kind}",
        "explanationModelName": label.author if label.author_kind == "agent" else None,
        "notes": notes or "",
        "createdAt": label.made_at,
        "scores": [*(theirs if isinstance(theirs, list) else []), *ours],
    }
    return {**told, **{name: rest[name] for name in _KEPT if name in rest}}
