"""The loadout dashboard's label files: what becomes of an entry, and that it goes out as it came in."""

import json
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.formats import format_of
from tests.labels.exchanging import current, exported, imported, saved, target, texts

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


def test_files_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    for content, name in ((consolidated(ENTRY), "consolidated"), ('{"3": {"name": "a"}}', "dashboard")):
        path = tmp_path / f"{name}_x.json"
        path.write_text(content, encoding="utf-8")
        assert format_of(path).name == name
    (tmp_path / "other.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(BadInput, match="does not look like a label file"):
        format_of(tmp_path / "other.json")
