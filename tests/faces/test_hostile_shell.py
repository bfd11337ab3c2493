"""Hostile text at the shell and in files: the terminal's bytes, exports, names of stores, and sizes."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

import saeinterp_mcp.faces.cli as cli
from pipeline.importers.run_import import import_bundle
from saeinterp_mcp.errors import BadInput, BadStore, SaeInterpError
from saeinterp_mcp.faces.answering import answer, shown_error
from saeinterp_mcp.faces.arguments import Entry, commands, entries
from saeinterp_mcp.faces.mcp import instructions
from saeinterp_mcp.faces.render import as_text
from saeinterp_mcp.operations import OPERATIONS
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.served import ServedStores
from tests.faces.hostile_calls import OF_STORE, calls, faults, hidden
from tests.faces.hostile_world import LONG, MARK, PAYLOADS, World, publish_hostile_tables, write_store

MAX_ANSWER = 20_000
UNSEEN = PAYLOADS[25:37]
FORMULA = re.compile(r"^'(?=\s*[=+@-])")
"""Before a cell that a spreadsheet would run, a CSV has a quote; label import takes it away again."""


@pytest.fixture(autouse=True)
def by_words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text model is started: what it is given is what is matched by words too."""
    monkeypatch.setenv("SAEINTERP_EMBEDDER", "none")


@pytest.fixture
def shell(hostile: World, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Runs the command line in this process: (exit code, bytes of stdout, bytes of stderr)."""
    monkeypatch.setenv("SAEINTERP_STORE", f"{hostile.folder / 'seq'}:{hostile.folder / 'gear'}")
    monkeypatch.setenv("SAEINTERP_LABELS", str(hostile.labels))

    def run(*arguments: str) -> tuple[int, bytes, bytes]:
        monkeypatch.setattr(sys, "argv", ["saeinterp", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capfdbinary.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return run


@pytest.mark.parametrize("entry", commands(), ids=lambda entry: entry.command)
def test_a_terminal_gets_no_byte_that_acts_on_it(entry: Entry, hostile: World, shell: Any) -> None:
    store = "gear" if entry.name == "weapon_sweep" else "seq"
    first, *others = calls(entry, store, hostile.ids, UNSEEN, every=len(UNSEEN))
    for call in [first, *(other for other in others if MARK.search(str(other)))]:
        for as_json in ([], ["--json"]):
            code, out, err = shell(*entry.command.split(), *options(call, entry), *as_json)
            assert code in (0, 2), err
            for line in (out.decode("utf-8") + err.decode("utf-8")).split("\n"):
                assert hidden(line) == [], (call, line)
            if as_json and code == 0:
                assert list(faults(json.loads(out), call)) == []


def options(call: dict[str, Any], entry: Entry) -> list[str]:
    """A call as the shell writes it."""
    given: list[str] = []
    for name, value in call.items():
        info: FieldInfo | None = entry.arguments.model_fields.get(name)
        if name == "image" or (info is None and name != "store"):
            continue
        option = f"--{name.replace('_', '-')}"
        if name == "feature":
            given.append(str(value))
        elif isinstance(value, bool):
            given += [option] if value else []
        else:
            given += [
                f"{option}={part}".replace("\x00", "")
                for part in (value if isinstance(value, list) else [value])
            ]
    return given


@pytest.mark.parametrize("wrong", [text.replace("\x00", "") for text in UNSEEN])
def test_the_shells_own_refusals_show_nothing_unseen(wrong: str, shell: Any) -> None:
    wrong_calls = [
        *([wrong], ["search", f"--{wrong}"], ["overview", wrong], ["label", wrong]),
        *(
            ["search", "--limit", wrong],
            ["search", "--by", wrong],
            ["status", "--store", f"{wrong}=/nowhere"],
        ),
    ]
    for arguments in wrong_calls:
        code, out, err = shell(*arguments)
        assert (code in (2, 3), out) == (True, b"")
        assert [fault for line in err.decode("utf-8").split("\n") for fault in hidden(line)] == []


def test_a_name_given_to_a_store_is_shown_escaped_and_still_names_it(hostile: World) -> None:
    for text in (PAYLOADS[25], PAYLOADS[28], PAYLOADS[33], PAYLOADS[0]):
        served = ServedStores.open([f"{text}={hostile.folder / 'seq'}"])
        (name,) = served.by_name
        assert hidden(name) == []
        by_name = {entry.name: entry for entry in entries(served)}
        body = answer(by_name["feature_overview"], served, {"feature": 2, "store": name}).body
        assert body["store"] == name
        assert answer(by_name["feature_overview"], served, {"feature": 2, "store": text}).body == body
        assert "Served: a store (6 features" in instructions(served)


@pytest.mark.parametrize("where", ["name", "family", "group", "attribute"])
def test_a_manifest_whose_names_are_no_names_is_refused(where: str, hostile: World, tmp_path: Path) -> None:
    for text in (PAYLOADS[0], PAYLOADS[25], PAYLOADS[34], "a" * LONG):
        manifest = json.loads((hostile.folder / "gear" / "manifest.json").read_text(encoding="utf-8"))
        if where == "name":
            manifest["name"] = text
        elif where == "attribute":
            (group,) = [one for one in manifest["groups"] if one["attributes"]]
            group["attributes"] = {text: group["attributes"]["class"]}
        else:
            manifest[{"family": "families", "group": "groups"}[where]][0]["name"] = text
        copy = tmp_path / "copy"
        shutil.copytree(hostile.folder / "gear", copy)
        (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        with pytest.raises(BadStore) as refused:
            open_store(copy)
        shutil.rmtree(copy)
        assert hidden(shown_error(refused.value)) == []
        assert len(shown_error(refused.value)) <= 2_100


@pytest.mark.parametrize("where", ["name", "family", "group", "attribute"])
def test_a_bundle_whose_names_are_no_names_is_refused(where: str, hostile: World, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(hostile.folder / "gear_bundle", bundle)
    for text in (PAYLOADS[0], PAYLOADS[25], PAYLOADS[38], "a" * 201):
        config = yaml.safe_load((hostile.folder / "gear_bundle" / "bundle.yaml").read_text(encoding="utf-8"))
        if where == "name":
            config["name"] = text
        elif where == "family":
            config["families"][0]["name"] = text
        else:
            file = "samples.parquet" if where == "group" else "attributes.parquet"
            table = pl.read_parquet(hostile.folder / "gear_bundle" / file)
            column = "source" if where == "group" else "class"
            table.rename({column: text}).write_parquet(bundle / file)
            config["groups"][1]["name"] = text if where == "group" else "source"
        (bundle / "bundle.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with pytest.raises(BadInput):
            import_bundle(bundle, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_labels_and_notes_leave_and_come_back_character_for_character(
    hostile: World, shell: Any, tmp_path: Path
) -> None:
    kept, bound = tmp_path / "kept.jsonl", tmp_path / "kept.csv"
    for format_name, file in (("jsonl", kept), ("csv", bound)):
        code, _, err = shell(
            "label", "export", "--format", format_name, "--out", str(file), "--store", "gear"
        )
        assert code == 0, err
    records = [json.loads(line) for line in kept.read_text(encoding="utf-8").split("\n")[1:] if line]
    assert hidden(kept.read_text(encoding="utf-8"), breaks=True) == []
    with bound.open(encoding="utf-8", newline="") as file_of_rows:
        rows = list(csv.DictReader(file_of_rows))
    mine = [f"{text}\n{text}" for i, text in enumerate(PAYLOADS) if i % 2]
    for notes in (
        {record.get("notes") for record in records if record["record"] == "label"},
        {record["text"] for record in records if record["record"] == "note"},
        {FORMULA.sub("", row["notes"]) for row in rows},
    ):
        assert set(mine) <= notes
    other = tmp_path / "other.sqlite"
    code, out, err = shell("label", "import", str(kept), "--store", "gear", "--labels", str(other), "--json")
    assert code == 0, err
    assert hidden(out.decode("utf-8").rstrip("\n")) == []
    again = tmp_path / "again.jsonl"
    assert shell("label", "export", "--out", str(again), "--store", "gear", "--labels", str(other))[0] == 0
    assert again.read_bytes() == kept.read_bytes()


def test_a_research_log_shows_nothing_unseen(shell: Any) -> None:
    for feature in range(6):
        code, out, err = shell("note", "export", str(feature), "--store", ("seq", "gear")[feature % 2])
        assert code == 0, err
        assert hidden(out.decode("utf-8"), breaks=True) == []
        assert MARK.search(out.decode("utf-8"))


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> ServedStores:
    """Stores whose every string is a million characters long."""
    folder = tmp_path_factory.mktemp("big")
    long = [letter * LONG for letter in ("x", "\x1b", "<")]
    found = []
    for kind, name, group, family in (
        ("sequence", "seq", "module", "fam"),
        ("set", "gear", "weapon", "swim"),
    ):
        samples, activations = [], []
        for sample in range(60):
            tokens = [f"w{sample % 7}", long[sample % 3] if sample < 6 else "short", *["lv1"] * (sample % 2)]
            value = long[sample % 3] if 6 <= sample < 9 else f"v{sample % 2}"
            samples.append({"tokens": tokens, "unit": f"u{sample}", group: value, "source": "s"})
            activations += [(2, sample, 1 if kind == "sequence" else 0, 1.0 + sample % 5)]
        families = [
            {"name": family, "levels": {"lv1": 1}},
            {"name": {"seq": "other", "gear": "a"}[name], "levels": {"w1": 1}},
        ]
        more = {
            "sae": {"name": long[0][:30_000]},
            "checks": [{"name": "c", "passed": False, "note": long[1][:3_000]}],
        }
        place = write_store(folder, name, kind, samples, activations, families, long, more)
        publish_hostile_tables(place, [long[i % 3] for i in range(34)])
        found.append(str(place))
    return ServedStores.open(found, folder / "labels.sqlite")


@pytest.mark.parametrize("tool", [operation.name for operation in OPERATIONS])
def test_a_million_characters_make_no_long_answer(tool: str, big: ServedStores) -> None:
    by_name = {entry.name: entry for entry in entries(big)}
    label = answer(by_name["label_save"], big, {"feature": 2, "text": "x", "store": "seq"}).body
    ids = {
        "label_id": label["label_id"],
        "evidence": answer(by_name["store_status"], big, {}).body["evidence"],
    }
    found = []
    for store in ("seq", "gear"):
        for call in calls(by_name[tool], store, ids, ["y" * LONG] if store == "seq" else [], every=1):
            body, error = asked(by_name[tool], big, call)
            assert len(error or "") <= 2_100
            if body is not None:
                found.append(body)
    if (
        tool == "label_score"
    ):  # the feature is nowhere silent, so it cannot be tested: all is refused, in short words
        assert found == []
        return
    assert found
    assert (
        max(len(json.dumps(body, ensure_ascii=False, separators=(",", ":"))) for body in found) <= MAX_ANSWER
    )
    assert max(len(as_text(body)) for body in found) <= 5_000


def asked(
    entry: Entry, stores: ServedStores, call: dict[str, Any]
) -> tuple[dict[str, Any] | None, str | None]:
    """(answer, refusal) of a call: one of them is None."""
    try:
        return answer(entry, stores, call).body, None
    except SaeInterpError as error:
        return None, shown_error(error)


@pytest.mark.parametrize("tool", [operation.name for operation in OPERATIONS])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_fits_the_schema_is_answered_or_refused(
    tool: str, data: st.DataObject, hostile: World
) -> None:
    entry = hostile.tools[tool]
    call = data.draw(fitting(entry))
    body, error = asked(entry, hostile.stores, call)
    assert hidden(error or "", breaks=True) == []
    assert body is None or (body["operation"] == tool and list(faults(body, call)) == [])


@pytest.mark.parametrize("tool", [operation.name for operation in OPERATIONS])
def test_an_argument_that_does_not_exist_is_named(tool: str, hostile: World) -> None:
    for text in ("featur", "__class__", "self", *PAYLOADS[:30:6]):
        with pytest.raises(BadInput) as refused:
            hostile.ask(tool, **{text: 1})
        assert repr(text) in str(refused.value)
        assert hidden(shown_error(refused.value)) == []


def fitting(entry: Entry) -> st.SearchStrategy[dict[str, Any]]:
    """Calls that the operation's input schema allows."""
    properties = entry.input_schema["properties"]
    needed = set(entry.input_schema.get("required", []))
    values = {name: _value(name, part) for name, part in properties.items()}
    return st.fixed_dictionaries(
        {name: value for name, value in values.items() if name in needed},
        optional={name: value for name, value in values.items() if name not in needed},
    )


def _value(name: str, part: dict[str, Any]) -> st.SearchStrategy[Any]:
    if name == "store":
        return st.sampled_from(["seq", "gear"])
    if "enum" in part:
        return st.sampled_from([one for one in part["enum"] if one != "explanation"])
    if "anyOf" in part:
        return st.one_of(*(_value("", one) for one in part["anyOf"]))
    known = [one for of in OF_STORE.values() for one in of.get(name, ())]
    likely = [st.sampled_from(known)] if known else []
    if part.get("type") == "array":
        return st.one_of(*likely, st.lists(_value("", part["items"]), max_size=4))
    if part.get("type") == "string":
        return st.one_of(*likely, st.sampled_from(PAYLOADS), st.text(max_size=30))
    return st.one_of(*likely, SIMPLE[part.get("type", "null")])


SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(0, 40) | st.integers(),
    "number": st.floats(0, 100) | st.floats(),
    "boolean": st.booleans(),
    "null": st.none(),
    "object": st.dictionaries(
        st.sampled_from(["t1", "t2", *PAYLOADS]), st.floats() | st.text(max_size=9), max_size=4
    ),
}
