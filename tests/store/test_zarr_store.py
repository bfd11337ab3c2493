"""The folder backend: the contract, the bytes, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline.verify import verify_store
from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.fingerprint import file_sha256
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import read_manifest
from saeinterp_mcp.store.memory_store import World, memory_store
from saeinterp_mcp.store.open import open_store
from tests.store.contract import StoreContract, assert_same_store
from tests.worlds import builds, has_rows, import_world, texts, worlds


class TestZarrStore(StoreContract):
    def store(self, world: World, folder: Path) -> Store:
        return open_store(import_world(world, folder))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_world(texts(), tmp_path_factory.mktemp("published"))


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "copy"))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(world=worlds())
def test_any_world_is_stored_as_its_definition(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(has_rows(world))
    store = open_store(import_world(world, tmp_path_factory.mktemp("any")))
    assert_same_store(store, memory_store(world))


def contents(store: Path) -> dict[str, bytes]:
    """Every file but the build log; the manifest without what made it."""
    files = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    del files["build_log.json"]
    manifest = json.loads(files["manifest.json"])
    del manifest["provenance"]
    files["manifest.json"] = json.dumps(manifest).encode()
    return files


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 400), max_size=5), reverse=st.booleans())
def test_any_split_of_the_input_gives_the_same_bytes(
    cuts: list[int], reverse: bool, published: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = import_world(texts(), tmp_path_factory.mktemp("split"), cuts=cuts, reverse=reverse)
    assert contents(other) == contents(published)
    assert read_manifest(other).fingerprint() == read_manifest(published).fingerprint()


def test_sorting_in_little_memory_gives_the_same_arrays(published: Path, tmp_path: Path) -> None:
    from pipeline.stages.order_samples import order_samples
    from pipeline.stages.write_postings import write_postings
    from saeinterp_mcp.store.zarr_store import ZarrBackend
    from tests.worlds import write_bundle

    bundle = write_bundle(texts(), tmp_path / "bundle")
    order_samples(bundle, tmp_path / "placed")
    manifest = write_postings(bundle, tmp_path / "placed", tmp_path / "out", limit=20)
    little, whole = ZarrBackend(tmp_path / "out", draft=manifest), open_store(published).backend
    for name in (
        "features/indptr",
        "features/rows",
        "features/values",
        "rows/indptr",
        "rows/features",
        "rows/values",
    ):
        np.testing.assert_array_equal(little.column(name), whole.column(name))


def test_zarr_python_reads_every_array(published: Path) -> None:
    group, store = zarr.open_group(str(published), mode="r"), open_store(published)
    names = [n.removesuffix("/zarr.json") for n in store.manifest.files if n.endswith("/zarr.json")]
    arrays = [n for n in names if isinstance(group[n], zarr.Array)]
    assert len(arrays) > 50
    for name in arrays:
        np.testing.assert_array_equal(np.asarray(group[name]), store.backend.column(name))


def test_a_whole_store_passes_verify(published: Path) -> None:
    assert verify_store(published)[0].endswith("files have their size and SHA-256")


def test_a_store_is_never_written_over(published: Path, tmp_path: Path) -> None:
    from pipeline.importers.run_import import import_bundle
    from saeinterp_mcp.errors import BadInput
    from tests.worlds import write_bundle

    bundle = write_bundle(builds(), tmp_path / "bundle")
    with pytest.raises(BadInput, match="exists; a store is never written over"):
        import_bundle(bundle, published)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(BadStore) as error:
        open_store(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: expected a store with manifest.json; found notes.txt. "
        "Give the folder that `saeinterp-pipeline build` or `import` published, or make it again."
    )


def test_a_missing_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStore, match=r"gone: expected a folder holding a store; found nothing\."):
        open_store(tmp_path / "gone")


def test_a_truncated_file_is_refused_when_opened(copy: Path) -> None:
    victim = next((copy / "features" / "values" / "c").rglob("0"))
    size = victim.stat().st_size
    victim.unlink()
    victim.write_bytes(b"\0" * (size - 7))
    with pytest.raises(BadStore, match=rf"expected {size} bytes; found {size - 7} bytes"):
        open_store(copy)


def test_a_lost_file_is_refused_when_opened(copy: Path) -> None:
    next((copy / "features" / "values" / "c").rglob("0")).unlink()
    with pytest.raises(BadStore, match="found no such file"):
        open_store(copy)


def test_a_newer_store_is_refused_with_the_advice_to_update(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["format_version"] = 99
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BadStore) as error:
        open_store(copy)
    assert str(error.value).endswith("expected format version 1; found version 99. Update saeinterp-mcp.")


def test_a_foreign_manifest_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").write_text('{"format": "other"}', encoding="utf-8")
    with pytest.raises(BadStore, match="expected format 'saeinterp-store'; found 'other'"):
        open_store(copy)


def test_a_manifest_cut_short_is_refused(copy: Path) -> None:
    text = (copy / "manifest.json").read_text(encoding="utf-8")
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(BadStore, match="expected JSON"):
        open_store(copy)


def test_verify_finds_one_changed_byte(copy: Path) -> None:
    victim = next((copy / "features" / "values" / "c").rglob("0"))
    content = bytearray(victim.read_bytes())
    content[3] ^= 1
    victim.unlink()
    victim.write_bytes(content)
    open_store(copy)
    with pytest.raises(BadStore, match="expected sha256"):
        verify_store(copy)


def test_verify_finds_a_file_nobody_named(copy: Path) -> None:
    (copy / "extra.bin").write_bytes(b"x")
    with pytest.raises(BadStore, match="only files named in the manifest"):
        verify_store(copy)


def test_a_killed_import_leaves_no_store_and_goes_on(tmp_path: Path) -> None:
    """What a kill leaves is a work folder; the next call finishes it."""
    from pipeline.importers.run_import import import_bundle
    from pipeline.stages import bundle_to_store
    from tests.worlds import Quiet, write_bundle

    bundle = write_bundle(texts(), tmp_path / "bundle")

    class Dies(Quiet):
        def say(self, text: str) -> None:
            if text.startswith("find_neighbours: runs"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_bundle(bundle, tmp_path / "store", progress=Dies())
    assert not (tmp_path / "store").exists()
    said: list[str] = []

    class Listens(Quiet):
        def say(self, text: str) -> None:
            said.append(text)

    import_bundle(bundle, tmp_path / "store", progress=Listens())
    assert sum("skipped" in line for line in said) == 6
    verify_store(tmp_path / "store")
    assert not (tmp_path / "store.work").exists()
    assert bundle_to_store.STORE == "store"


def change(store: Path, array: str, entry: int, value: float) -> None:
    """Overwrite one entry of an array and make the manifest agree, as a wrong writer would have."""
    victim = next(p for p in (store / array / "c").rglob("*") if p.is_file())
    content = np.fromfile(victim, open_store(store).backend.column(array).dtype)
    content[entry] = value
    victim.unlink()
    content.tofile(victim)
    manifest = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][victim.relative_to(store).as_posix()]["sha256"] = file_sha256(victim)
    (store / "manifest.json").unlink()
    (store / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    ("array", "entry", "value"),
    [
        ("features/values", 5, -1.0),
        ("rows/values", 5, 77.0),
        ("features/rows", 5, 0),
        ("features/indptr", 1, 10_000),
        ("rows/features", 0, 99),
        ("samples/unit", 0, 39),
        ("counts/group.module/n", 0, 1),
        ("stats/n_firing", 0, 1),
        ("stats/sum", 0, 1.0),
        ("stats/effective_max", 0, 1.0),
        ("top/values", 0, 1.0),
    ],
)
def test_verify_finds_arrays_that_disagree_though_their_hashes_are_right(
    copy: Path, array: str, entry: int, value: float
) -> None:
    change(copy, array, entry, value)
    with pytest.raises(BadStore, match=rf"{array}: expected .*; found .*make it again"):
        verify_store(copy)
