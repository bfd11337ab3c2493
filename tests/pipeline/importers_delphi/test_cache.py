"""delphi's cache of latents as a store: every activation, every token, and every way a cache can be wrong."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pipeline.importers import delphi_cache
from pipeline.importers.delphi_source import open_delphi
from pipeline.importers.run_import import import_source
from pipeline.importers.source import SourceSection
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from tests.pipeline.importers_delphi.folders import RUN, TOKENIZER, WIDE
from tests.pipeline.recorded import Recorder

KINDS = {"U16": "<u2", "U32": "<u4", "F16": "<f2", "I64": "<i8"}


def tensors_of(path: Path) -> dict[str, NDArray[Any]]:
    """A safetensors file by its definition: a length, a JSON header, then the numbers."""
    content = path.read_bytes()
    (n,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + n])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(content[8 + n :][slice(*part["data_offsets"])], KINDS[part["dtype"]]).reshape(
            part["shape"]
        )
        for name, part in header.items()
    }


def everything(folder: Path) -> tuple[dict[tuple[int, int, int], float], NDArray[Any]]:
    """{(feature, row, position): activation} and the tokens of a cache, one number after the other."""
    found: dict[tuple[int, int, int], float] = {}
    for path in sorted(folder.glob("*.safetensors")):
        first = int(path.name.split("_")[0])
        split = tensors_of(path)
        for (row, position, offset), value in zip(split["locations"], split["activations"], strict=True):
            found[first + int(offset), int(row), int(position)] = float(value)
        tokens = split["tokens"]
    return found, tokens


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("delphi") / "store"
    import_source("delphi", RUN, out, progress=Recorder(), hookpoint="h.0", tokenizer=str(TOKENIZER))
    return open_store(out)


def test_a_store_holds_every_activation_of_the_cache_and_no_other(store: Store) -> None:
    expected, _ = everything(RUN / "latents" / "h.0")
    found = {}
    for feature in range(store.manifest.n_features):
        postings = store.activations(feature)
        for row, value in zip(postings.rows.tolist(), postings.values.tolist(), strict=True):
            sample = int(store.row_sample[row])
            found[feature, int(store.source[sample]), int(store.row_position[row])] = value
    assert found == expected
    assert (store.manifest.n_activations, store.manifest.n_features) == (4608, 40)
    assert store.manifest.coverage == "full"


def test_tokens_are_read_by_the_tokenizer(store: Store) -> None:
    _, tokens = everything(RUN / "latents" / "h.0")
    vocabulary = json.loads((TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    spelled = {index: token.replace("▁", " ") for token, index in vocabulary.items()}
    assert store.manifest.n_samples == len(tokens) == 96
    for sample in range(96):
        read = [store.tokens[i] for i in store.tokens_of_sample(sample)]
        assert read == [spelled[int(i)] for i in tokens[int(store.source[sample])]]


def test_a_store_says_what_it_was_made_of(store: Store) -> None:
    manifest = store.manifest
    assert manifest.model == {"name": "example/tiny-words"}
    assert manifest.sae == {"name": "example/tiny-sae", "hookpoint": "h.0"}
    assert manifest.dataset is not None
    assert {name: manifest.dataset[name] for name in ("dataset_repo", "cache_ctx_len", "filter_bos")} == {
        "dataset_repo": "example/words",
        "cache_ctx_len": 16,
        "filter_bos": True,
    }
    notes = " ".join(str(check["note"]) for check in manifest.checks)
    assert "without BOS tokens (filter_bos): one may hold parts of several documents" in notes
    assert "hookpoint_firing_counts.pt is a pickle and was not opened" in notes


def section(path: Path, **options: Any) -> SourceSection:
    return SourceSection(format="delphi", path=path, name="x", **options)


def pieced(path: Path, **options: Any) -> dict[tuple[int, int, int], float]:
    """What the pieces of a source yield."""
    found: dict[tuple[int, int, int], float] = {}
    given = open_delphi(section(path, **options))
    ctx = given.n_rows // len(list(delphi_cache.token_blocks(given.pieces[0].tokens, 1)))  # type: ignore[attr-defined]
    for piece in given.pieces:
        for block in piece.entries():
            for row, feature, value in zip(
                block.row.tolist(), block.feature.tolist(), block.value.tolist(), strict=True
            ):
                found[feature, row // ctx, row % ctx] = value
    return found


def test_places_beyond_65535_and_old_configs_are_read() -> None:
    expected, tokens = everything(WIDE / "latents" / "h.0")
    assert tensors_of(WIDE / "latents" / "h.0" / "0_69999.safetensors")["locations"].dtype == np.uint32
    assert expected[66_000, 0, 2] == np.inf
    expected = {key: min(value, 65_504.0) for key, value in expected.items()}
    assert pieced(WIDE) == expected
    source = open_delphi(section(WIDE))
    assert (source.n_features, source.n_rows) == (70_000, tokens.size)
    assert (source.provenance["cache_ctx_len"], source.provenance["dataset_column"]) == (4, "raw_content")
    assert (
        "2 activations were above what float16 holds; they are taken for 65504, the least they can be"
        in source.notes
    )


def test_infinity_stops_an_import_that_stops_at_bad_files() -> None:
    with pytest.raises(BadInput, match="feature 66000 is infinite at token 2: delphi keeps float16"):
        pieced(WIDE, bad_files="stop")


@pytest.mark.parametrize("size", [1, 7, 100])
def test_blocks_of_any_size_read_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, tokens = everything(RUN / "latents" / "h.1")
    monkeypatch.setattr(delphi_cache, "BLOCK", size)
    cache = delphi_cache.open_cache(RUN / "latents" / "h.1")
    entries: dict[tuple[int, int, int], float] = {}
    for split in cache.splits[2:]:
        piece = delphi_cache.SplitPiece(split, cache.tokens, 40, False, False)
        for block in piece.entries():
            assert len(block.row) <= size
            places = zip(block.feature.tolist(), block.row.tolist(), block.value.tolist(), strict=True)
            entries |= {(f, row // 16, row % 16): value for f, row, value in places}
    assert entries == {key: value for key, value in expected.items() if key[0] >= 26}
    tables = list(delphi_cache.token_tables(cache))
    read = [i for found in tables for i in found.table.column("ability_tokens").to_pylist()]
    assert read == [[int(i)] for i in tokens.reshape(-1)]
    assert [found.first_row for found in tables][1] == tables[0].table.num_rows


def test_each_hookpoint_is_a_store_of_its_own() -> None:
    with pytest.raises(
        BadInput, match=r"holds 2 hookpoints, a store is of one; choose it with --hookpoint: 'h.0', 'h.1'"
    ):
        open_delphi(section(RUN))
    with pytest.raises(BadInput, match=r"has no hookpoint 'h.2'; nearest: 'h.1', 'h.0'"):
        open_delphi(section(RUN, hookpoint="h.2"))
    # delphi cut the second, 56 wide, by the width of the first; who knows better says so
    narrow, wide = (
        open_delphi(section(RUN, hookpoint="h.1")),
        open_delphi(section(RUN, hookpoint="h.1", n_features=56)),
    )
    assert (narrow.n_features, wide.n_features) == (40, 56)
    assert any(
        "delphi cuts all hookpoints of a run by the width of the first" in note for note in narrow.notes
    )
    assert "features 40 to 55 are in no split: they look silent, and were not looked at" in wide.notes
    assert pieced(RUN, hookpoint="h.1", n_features=56) == everything(RUN / "latents" / "h.1")[0]
    with pytest.raises(BadStore, match="expected feature 26 to 29; found feature"):
        pieced(RUN, hookpoint="h.1", n_features=30)
    for place in (RUN / "latents", RUN / "latents" / "h.1"):
        assert open_delphi(section(place, hookpoint="h.1")).n_rows == 1536


def test_without_a_tokenizer_tokens_are_ids_and_it_is_said() -> None:
    source = open_delphi(section(RUN, hookpoint="h.0"))
    assert source.token_names is None
    assert any(
        "tokens are their ids: that of 'example/tiny-words' is not on this machine" in n for n in source.notes
    )
    with pytest.raises(BadInput, match="there is no tokenizer '/nowhere'"):
        open_delphi(section(RUN, hookpoint="h.0", tokenizer="/nowhere"))


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUN / "latents" / "h.0", tmp_path / "h.0"))


def test_a_cache_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    middle = folder / "13_25.safetensors"
    whole = middle.read_bytes()
    middle.write_bytes(whole[:-100])
    with pytest.raises(BadStore, match="expected a whole safetensors file"):
        open_delphi(section(folder))
    middle.unlink()
    with pytest.raises(BadStore, match="expected a split from feature 13 on; found 26: a split is missing"):
        open_delphi(section(folder))
    middle.write_bytes(whole)
    (folder / "0_39.safetensors").write_bytes(whole)
    with pytest.raises(BadStore, match="two caches are mixed"):
        open_delphi(section(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tokens": np.zeros((96, 15), np.int64)},
            r"expected tokens \(96, 16\), as the first split; found \(96, 15\)",
        ),
        (
            {"tokens": np.zeros((96, 16), np.int64)},
            "expected the tokens of 0_12.safetensors; found others in row 0",
        ),
        ({"locations": np.array([[96, 0, 0]], np.uint16)}, "expected row 0 to 95; found row 96"),
        ({"locations": np.array([[0, 16, 0]], np.uint16)}, "expected position 0 to 15; found position 16"),
        ({"locations": np.array([[0, 0, 13]], np.uint16)}, "expected feature 13 to 25; found feature 26"),
        ({"locations": np.zeros((2, 3), np.uint16)}, r"expected locations \[n, 3\] of integers"),
        ({"activations": np.array([np.nan], np.float16)}, "is not finite in float32"),
        ({"activations": np.array([-1], np.float16)}, "is negative"),
        ({"tokens": None}, None),
        ({"locations": np.zeros((0, 3), np.uint16), "activations": np.zeros(0, np.float16)}, None),
    ],
)
def test_a_split_of_another_cache_is_refused(
    change: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    folder = copied(tmp_path)
    split = {
        "locations": np.array([[0, 0, 0]], np.uint16),
        "activations": np.array([1.5], np.float16),
        "tokens": tensors_of(folder / "13_25.safetensors")["tokens"],
        **change,
    }
    (folder / "13_25.safetensors").unlink()
    save_file({name: a for name, a in split.items() if a is not None}, folder / "13_25.safetensors")
    if message is None:
        assert sum(12 < feature < 26 for feature, _, _ in pieced(folder)) == len(split["activations"])
    else:
        with pytest.raises((BadInput, BadStore), match=message):
            pieced(folder)


def test_a_cache_without_tokens_is_refused(tmp_path: Path) -> None:
    save_file(
        {"locations": np.zeros((1, 3), np.uint16), "activations": np.ones(1, np.float16)},
        tmp_path / "0_9.safetensors",
    )
    with pytest.raises(BadInput, match="holds no tokens"):
        open_delphi(section(tmp_path))


def test_a_folder_without_a_cache_says_what_to_use(tmp_path: Path) -> None:
    (tmp_path / "explanations").mkdir()
    with pytest.raises(BadInput, match="beside a store of your own with `saeinterp-pipeline attach`"):
        open_delphi(section(tmp_path))
