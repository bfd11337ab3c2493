"""The folder beside a store: found, opened once, refused when damaged, newer or foreign; tables read by feature."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.validation.publish import publish_tables
from saeinterp_mcp.errors import BadStore, NotInStore
from saeinterp_mcp.store.memory_store import memory_store
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.validation.folder import MANIFEST, Validation, folder_beside, validation_beside
from saeinterp_mcp.validation.names import sae_id
from saeinterp_mcp.validation.tables import TABLES
from tests.operations.validated import SAE, N, make, tables, world
from tests.worlds import import_world


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with tables beside it."""
    folder = tmp_path_factory.mktemp("validated")
    make(folder)
    return folder / "store"


def copy_of(place: Path, folder: Path) -> Path:
    """The folder of tables, copied where a store of `folder` would have it."""
    target = folder_beside(folder / "store")
    (target / "master").mkdir(parents=True)
    for file in folder_beside(place).rglob("*"):
        if file.is_file():
            (target / file.relative_to(folder_beside(place))).write_bytes(file.read_bytes())
    return target


def changed(target: Path, **fields: Any) -> Path:
    content = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    (target / MANIFEST).write_text(json.dumps({**content, **fields}), encoding="utf-8")
    return target


def test_a_store_finds_the_tables_beside_it_once_they_are_there(tmp_path: Path) -> None:
    store = open_store(import_world(world(), tmp_path))
    with pytest.raises(NotInStore, match="makes them"):
        _ = store.need_validation
    publish_tables(folder_beside(tmp_path / "store"), "planted", SAE, N, store.lineage, tables())
    found = store.validation
    assert found is not None
    assert found is store.validation, "opened once"
    assert found.has("scores")
    assert not found.has("neighbours")
    with pytest.raises(NotInStore, match="holds no table 'neighbours'"):
        found.table("neighbours")
    publish_tables(
        folder_beside(tmp_path / "store"),
        "planted",
        SAE,
        N,
        store.lineage,
        {"scores": tables()["scores"][:3]},
    )
    again = store.need_validation
    assert again is not found, "another folder is in its place"
    assert again.table("scores").collect().height == 3


def test_a_store_that_is_nowhere_on_disk_has_none() -> None:
    assert memory_store(world()).validation is None


def test_rows_of_a_feature_are_those_of_the_table(place: Path) -> None:
    found = Validation(folder_beside(place))
    whole = tables()["scores"]
    own = found.of_feature("scores", 3)
    assert own.height == whole.filter(pl.col("feature_id") == 3).height == 8
    assert found.of_feature("scores", 29).height == 0
    assert dict(own.schema) == dict(whole.schema)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 99}, "expected format version 1 or older; found 99. Use a newer saeinterp."),
        ({"format": "something"}, "expected the record of a validation; found format"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
    ],
)
def test_a_newer_or_foreign_record_is_refused(
    fields: dict[str, Any], message: str, place: Path, tmp_path: Path
) -> None:
    target = changed(copy_of(place, tmp_path), **fields)
    with pytest.raises(BadStore) as refused:
        Validation(target)
    assert message in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_rubbish_in_place_of_the_record_is_refused(content: bytes, place: Path, tmp_path: Path) -> None:
    target = copy_of(place, tmp_path)
    (target / MANIFEST).write_bytes(content)
    with pytest.raises(BadStore, match="expected the record of a validation"):
        Validation(target)


def test_a_folder_without_a_record_is_no_validation(tmp_path: Path) -> None:
    folder_beside(tmp_path / "store").mkdir()
    assert validation_beside(tmp_path / "store") is None
    with pytest.raises(BadStore):
        Validation(folder_beside(tmp_path / "store"))


def test_a_cut_missing_or_foreign_table_is_refused_when_it_is_read(place: Path, tmp_path: Path) -> None:
    target = copy_of(place, tmp_path)
    path = target / "master" / "scores.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(BadStore, match=f"expected {len(whole)} bytes; found {len(whole) - 10} bytes"):
        Validation(target).table("scores")
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(BadStore, match="expected the table scores"):
        Validation(target).table("scores")
    path.unlink()
    with pytest.raises(BadStore, match="no such file"):
        Validation(target).table("scores")
    other = target / "master" / "features.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(other)
    files = json.loads((target / MANIFEST).read_text(encoding="utf-8"))["files"]
    files["master/features.parquet"]["bytes"] = other.stat().st_size
    with pytest.raises(BadStore, match="expected the columns feature_id"):
        Validation(changed(target, files=files)).table("features")


def test_tables_of_another_store_are_refused(place: Path) -> None:
    assert validation_beside(place) is not None
    with pytest.raises(BadStore, match="expected tables of the store"):
        validation_beside(place, "of another store")


def test_vectors_are_mapped_and_cannot_be_changed(place: Path, tmp_path: Path) -> None:
    target = copy_of(place, tmp_path)
    assert Validation(target).vectors("explanations") is None
    (target / "vectors").mkdir()
    np.save(target / "vectors" / "decoder.npy", np.eye(3, dtype=np.float32))
    files = json.loads((target / MANIFEST).read_text(encoding="utf-8"))["files"]
    size = (target / "vectors" / "decoder.npy").stat().st_size
    files["vectors/decoder.npy"] = {"bytes": size, "sha256": "0" * 64}
    found = Validation(changed(target, files=files)).vectors("decoder")
    assert isinstance(found, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 2


def test_a_companion_that_was_not_made_is_told(place: Path) -> None:
    with pytest.raises(NotInStore, match="holds no llm_comparison"):
        Validation(folder_beside(place)).document("llm_comparison/llm_comparison_stats.json")


@pytest.mark.parametrize(
    ("name", "one"), [("a/b/c", "a--b--c"), ("a--b", "a--b"), (" /a//b/ ", "a--b"), ("plain", "plain")]
)
def test_an_sae_has_one_spelling(name: str, one: str) -> None:
    assert sae_id(name) == one


def test_every_table_has_both_keys_or_says_why_not() -> None:
    without = {table.name for table in TABLES if not {"feature_id", "sae_id"} <= table.schema.keys()}
    assert without == {"prompts", "feature_merges"}
    assert len({table.file for table in TABLES}) == len(TABLES)


def test_a_server_that_is_not_asked_about_tables_does_not_load_what_reads_them() -> None:
    code = "import sys, saeinterp_mcp.operations\nprint('polars' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
