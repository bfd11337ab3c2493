"""The loadout dashboard's label files: `consolidated_<model>.json`, both ways, and `feature_labels_<model>.json`, in.

A feature's entry becomes up to two labels: what research says (author_kind import), and the name people gave it in
the dashboard where that is another one (author_kind human, competing). The numbers map so: `importance_percentile` to
importance, `interpretability_confidence` (else `hypothesis_confidence`) to confidence, `stability_score` to stability;
the source string stays. Fields that we have no place for are kept in the last line of the first label's notes.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.checking import check_label, made
from saeinterp_mcp.labels.exchange.files import document
from saeinterp_mcp.labels.exchange.foreign import in_use, one_line, utc, with_rest, without_rest
from saeinterp_mcp.labels.exchange.records import BadLine, Incoming, IncomingLabel, Options, Source, Target
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.revisions import labels_of

NAME = "consolidated"
FIELDS = (
    "feature_id",
    "model_type",
    "dashboard_name",
    "dashboard_category",
    "dashboard_notes",
    "research_label",
    "research_state_path",
    "hypothesis_confidence",
    "display_name",
    "source",
    "last_updated",
    "importance_percentile",
    "interpretability_confidence",
    "stability_score",
)
"""Of an entry; the last three are left out where they are empty, because older programs do not know them."""
_OPTIONAL = FIELDS[-3:]
_NAMES = ("dashboard_name", "research_label")
_DASHBOARD_FIELDS = ("name", "category", "notes", "timestamp")
_NUMBERS = (
    "hypothesis_confidence",
    "importance_percentile",
    "interpretability_confidence",
    "stability_score",
)
DASHBOARD_SOURCE = "dashboard"
BY_PEOPLE = ("dashboard", "manual", "none", "")
"""Sources whose label somebody typed in, when there is no research label."""


def write(target: Target, options: Options) -> Iterator[bytes]:
    """One JSON object: feature to its entry."""
    nothing: list[Label] = []
    labels = in_use(target.database.read(lambda c: labels_of(c, target.lineage), nothing))
    by_feature: dict[int, list[Label]] = {}
    for label in labels:
        by_feature.setdefault(label.feature, []).append(label)
    entries = {
        str(f): entry_of(f, _model(options, target, found), found) for f, found in sorted(by_feature.items())
    }
    options.said.append(f"{len(entries)} features with labels in use")
    yield json.dumps(entries, ensure_ascii=False, indent=2).encode("utf-8") + b"\n"


def _model(options: Options, target: Target, labels: list[Label]) -> str:
    told = (without_rest(label.notes, NAME)[1].get("model_type") for label in labels)
    return options.model_id or next((str(name) for name in told if name), target.name)


def entry_of(feature: int, model_type: str, labels: list[Label]) -> dict[str, Any]:
    """The entry of a feature, from its labels by precedence: the best one by people, the best one by others."""
    research = next((label for label in labels if label.author_kind != "human"), None)
    human = next((label for label in labels if label.author_kind == "human"), None)
    first = research or human
    assert first is not None, "a feature with an entry has a label"
    noted = human or first
    _, rest = without_rest(first.notes, NAME)
    entry = {
        "feature_id": feature,
        "model_type": model_type,
        "dashboard_name": human.text if human else None,
        "dashboard_category": noted.category or "none",
        "dashboard_notes": without_rest(noted.notes, NAME)[0] or "",
        "research_label": research.text if research else None,
        "research_state_path": rest.get("research_state_path"),
        "hypothesis_confidence": rest.get("hypothesis_confidence", first.confidence),
        "source": first.source or (DASHBOARD_SOURCE if first is human else "research"),
        "last_updated": first.made_at.removesuffix("Z"),
        "importance_percentile": first.importance,
        "interpretability_confidence": first.confidence,
        "stability_score": first.stability,
    }
    if isinstance(named := rest.get("named"), list):
        for name in _NAMES:
            if name in named:
                entry[name] = first.text
            elif entry[name] == first.text:
                entry[name] = None
    entry["display_name"] = entry["dashboard_name"] or entry["research_label"] or first.text
    return {name: entry[name] for name in FIELDS if entry[name] is not None or name not in _OPTIONAL}


def read_source(path: Path) -> Source:
    """It names the seed's model, not our store."""
    return Source()


def read(path: Path, target: Target, options: Options) -> Iterator[Incoming | BadLine]:
    """The labels of each entry."""
    for where, feature, entry in _entries(path, FIELDS):
        try:
            if isinstance(entry, BadLine):
                raise entry
            for label in _labels(where, feature, entry):
                check_label(label, target.n_features, where)
                yield IncomingLabel(where, label)
        except BadLine as error:
            yield error


def read_dashboard(path: Path, target: Target, options: Options) -> Iterator[Incoming | BadLine]:
    """A label by a human for each name that was given in the dashboard."""
    for where, feature, entry in _entries(path, _DASHBOARD_FIELDS):
        try:
            if isinstance(entry, BadLine):
                raise entry
            named = {f"dashboard_{name}": value for name, value in entry.items() if name != "timestamp"}
            label = _dashboard_label(where, feature, {**named, "last_updated": entry.get("timestamp")})
            if label is not None:
                check_label(label, target.n_features, where)
                yield IncomingLabel(where, label)
        except BadLine as error:
            yield error


def _entries(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, int, dict[str, Any] | BadLine]]:
    """(where, feature, entry) of a file that maps features to entries."""
    content = document(path)
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected an object of features, found {type(content).__name__}")
    for key, entry in content.items():
        where = f"entry {key[:40]!r}"
        if not (key.isascii() and key.isdecimal() and len(key) < 10):
            yield where, 0, BadLine(where, "is no feature number")
        elif not isinstance(entry, dict):
            yield where, 0, BadLine(where, f"expected an object, found {type(entry).__name__}")
        elif unknown := [name for name in entry if name not in fields]:
            yield where, 0, BadLine(where, f"has a field {unknown[0][:40]!r}; there are: {', '.join(fields)}")
        elif entry.get("feature_id", int(key)) != int(key):
            yield where, 0, BadLine(where, f"feature_id is {str(entry['feature_id'])[:40]}")
        elif wrong := [n for n, v in entry.items() if not _fits(n, v)]:
            yield where, 0, BadLine(where, f"{wrong[0]} is no {'number' if wrong[0] in _NUMBERS else 'text'}")
        else:
            yield where, int(key), entry


def _fits(name: str, value: Any) -> bool:
    if name == "feature_id" or value is None:
        return True
    return (
        isinstance(value, int | float) and not isinstance(value, bool)
        if name in _NUMBERS
        else isinstance(value, str)
    )


def _labels(where: str, feature: int, entry: Mapping[str, Any]) -> Iterator[Label]:
    """The research label first, with what the labels have no place for; then the dashboard's, where it is another."""
    text, source = one_line(entry.get("research_label") or ""), entry.get("source") or ""
    named = entry.get("dashboard_name") or (None if text else entry.get("display_name"))
    dashboard = _dashboard_label(where, feature, {**entry, "dashboard_name": named})
    if text:
        competing = dashboard is not None and dashboard.text != text
        fields = {
            "label_id": "",
            "feature": feature,
            "revision": 1,
            "text": text,
            "category": _category(entry),
            "notes": None if competing else entry.get("dashboard_notes") or None,
            "author_kind": "import",
            "source": source or "research",
            "made_at": utc(entry.get("last_updated")),
            **_numbers(entry),
        }
        first: Label = made(Label, fields, where)
    elif dashboard is not None:
        competing = False
        kind = "human" if source in BY_PEOPLE else "import"
        changes = {**_numbers(entry), "author_kind": kind, "source": source or DASHBOARD_SOURCE}
        first = dashboard.model_copy(update=changes)
    else:
        return
    labels = [first, dashboard] if competing and dashboard else [first]
    rest = _rest(feature, entry, labels)
    yield first.model_copy(update={"notes": with_rest(first.notes, NAME, rest)})
    yield from labels[1:]


def _rest(feature: int, entry: Mapping[str, Any], labels: list[Label]) -> dict[str, Any]:
    """Those fields of the entry that `entry_of` would not give back."""
    again = entry_of(feature, "", labels)
    rest = {
        name: entry[name]
        for name in ("model_type", "research_state_path", "hypothesis_confidence")
        if entry.get(name) is not None and again.get(name) != entry[name]
    }
    if any(one_line(entry.get(name) or "") != (again[name] or "") for name in _NAMES):
        rest["named"] = [name for name in _NAMES if one_line(entry.get(name) or "") == labels[0].text]
    return rest


def _dashboard_label(where: str, feature: int, entry: Mapping[str, Any]) -> Label | None:
    text = one_line(entry.get("dashboard_name") or "")
    if not text:
        return None
    fields = {
        "label_id": "",
        "feature": feature,
        "revision": 1,
        "text": text,
        "category": _category(entry),
        "notes": entry.get("dashboard_notes") or None,
        "author_kind": "human",
        "source": DASHBOARD_SOURCE,
        "made_at": utc(entry.get("last_updated")),
    }
    label: Label = made(Label, fields, where)
    return label


def _category(entry: Mapping[str, Any]) -> str | None:
    category = entry.get("dashboard_category")
    return category if category and category != "none" else None


def _numbers(entry: Mapping[str, Any]) -> dict[str, float | None]:
    confidence = entry.get("interpretability_confidence")
    found = {
        "importance": entry.get("importance_percentile"),
        "confidence": entry.get("hypothesis_confidence") if confidence is None else confidence,
        "stability": entry.get("stability_score"),
    }
    return {name: None if value is None else float(value) for name, value in found.items()}
