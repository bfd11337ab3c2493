"""Tables in their folder: of a run, of an importer, and of both; whole whenever somebody looks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from examples.validation.make_world import write_world
from pipeline.validation.publish import IMPORTED, in_order, publish_tables
from pipeline.validation.swap import new_folder, swap
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.tables import NEIGHBOURS, PUBLISHED
from tests.pipeline.validation.test_run import all_bytes, validate

SAE_ID = "planted--sae--layers.5"


def neighbours(value: float = 0.5, n: int = 3) -> pl.DataFrame:
    rows = [(i, SAE_ID, "run", "co-occurrence", 1, (i + 1) % n, value) for i in reversed(range(n))]
    return pl.DataFrame(rows, schema=NEIGHBOURS.schema, orient="row")


def put(out: Path, frame: pl.DataFrame, sae_id: str = SAE_ID, lineage: str | None = None) -> bool:
    return publish_tables(
        out, "planted", sae_id, 60, lineage, {"neighbours": frame}, ("as it was published",)
    )


def test_an_importers_tables_make_a_folder_in_their_declared_order(tmp_path: Path) -> None:
    out = tmp_path / "store.validation"
    assert put(out, neighbours(), lineage="abc")
    found = Validation(out)
    assert found.manifest.store == "abc"
    assert found.manifest.warnings == ("neighbours: as it was published",)
    assert found.table("neighbours").collect()["feature_id"].to_list() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["store.validation"]


def test_putting_the_same_tables_again_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert put(out, neighbours())
    before, inode = all_bytes(out), out.stat().st_ino
    assert not put(out, neighbours())
    assert all_bytes(out) == before
    assert out.stat().st_ino == inode
    assert put(out, neighbours(0.25))
    assert Validation(out).table("neighbours").collect()["value"].to_list() == [0.25] * 3


def test_tables_of_two_imports_lie_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, neighbours())
    publish_tables(out, "planted", SAE_ID, 60, None, {"published_features": PUBLISHED.empty()})
    assert Validation(out).has("neighbours")
    assert Validation(out).has("published_features")
    assert Validation(out).manifest.made_by[IMPORTED] == {
        "neighbours": ["as it was published"],
        "published_features": [],
    }


def test_tables_of_another_sae_or_store_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, neighbours(), lineage="abc")
    with pytest.raises(BadInput, match=r"holds tables of 'planted--sae--layers\.5' and another store or SAE"):
        put(out, neighbours(), sae_id="other")
    with pytest.raises(BadInput, match="another store or SAE"):
        put(out, neighbours(), lineage="def")


def test_columns_that_are_not_the_declared_ones_are_refused_and_change_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, neighbours())
    before = all_bytes(out)
    with pytest.raises(BadStore, match="value as Float64"):
        put(out, neighbours().with_columns(pl.col("value").cast(pl.Float32)))
    assert all_bytes(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_run_keeps_what_an_importer_put_there_and_the_other_way_round(tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, neighbours())
    config = write_world(tmp_path, data_sources=[])
    validate(config)
    found = Validation(out)
    assert found.has("activation_examples")
    assert found.table("neighbours").collect().height == 3
    assert "neighbours: as it was published" in found.manifest.warnings
    put(out, neighbours(0.25))
    assert Validation(out).manifest.stages == found.manifest.stages
    examples = found.table("activation_examples").collect()
    publish_tables(out, "planted", SAE_ID, 60, None, {"activation_examples": examples.clear()})
    assert Validation(out).table("activation_examples").collect().height == 694  # validate's own stays
    assert validate(config).lines[-1].endswith("nothing changed, left as it was")
    assert Validation(out).table("neighbours").collect()["value"].to_list() == [0.25] * 3


def test_a_run_of_another_sae_than_the_importers_tables_does_not_begin(tmp_path: Path) -> None:
    publish_tables(tmp_path / "out", "planted", "other", 60, None, {"published_features": PUBLISHED.empty()})
    with pytest.raises(BadInput, match=r"\(published_features\), of sae_id 'other', .* they would not join"):
        validate(write_world(tmp_path))
    assert not (tmp_path / "work").exists()


def test_rows_are_ordered_by_the_letters_of_categories() -> None:
    rows = [
        (0, SAE_ID, "b", "m", 1, 1, 0.0),
        (0, SAE_ID, "a", "m", 2, 1, 0.0),
        (0, SAE_ID, "a", "m", 1, 1, 0.0),
    ]
    frame = in_order(NEIGHBOURS, pl.DataFrame(rows, schema=NEIGHBOURS.schema, orient="row"))
    assert frame["data_source"].to_list() == ["a", "a", "b"]
    assert frame["rank"].to_list() == [1, 2, 1]
    assert dict(frame.schema) == NEIGHBOURS.schema


def test_what_killed_runs_left_is_put_right_and_names_of_others_are_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, neighbours())
    # killed between two renames, where a system cannot swap in one step; and while a new folder was written
    out.rename(tmp_path / "out.replaced-123")
    (tmp_path / "out.tmp-124").mkdir()
    (tmp_path / "out.tmp-mine").mkdir()
    with new_folder(out) as folder:
        assert Validation(out).has("neighbours")
        assert folder.name == f"out.tmp-{os.getpid()}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.tmp-mine"]


def test_folders_swap_in_one_step(tmp_path: Path) -> None:
    for name in ("new", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name, encoding="utf-8")
    swap(tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "out" / "is").read_text(encoding="utf-8") == "new"
    if (
        sys.platform == "linux"
    ):  # nowhere else is it one step: there the old one is moved away first, and removed
        assert (tmp_path / "new" / "is").read_text(encoding="utf-8") == "out"


PUBLISHER = """
import sys
from pathlib import Path
import polars as pl
from pipeline.validation.publish import publish_tables
from saeinterp_mcp.validation.tables import NEIGHBOURS
while True:
    for n in range(1, 9):
        rows = [(i, "planted--sae--layers.5", "run", "co-occurrence", 1, 0, n / 8) for i in range(n)]
        frame = pl.DataFrame(rows, schema=NEIGHBOURS.schema, orient="row")
        publish_tables(Path(sys.argv[1]), "planted", "planted--sae--layers.5", 60, None, {"neighbours": frame})
        print(n, flush=True)
"""


def test_a_publisher_that_is_killed_leaves_the_old_tables_or_the_new(tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, neighbours())
    for wait in (0.0, 0.007):
        process = subprocess.Popen([sys.executable, "-c", PUBLISHER, str(out)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        until = time.monotonic() + 0.1 + wait
        while time.monotonic() < until:
            json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        frame = Validation(out).table("neighbours").collect()
        assert frame["value"].unique().to_list() == [len(frame) / 8]
    put(out, neighbours())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
