"""Directions of texts: embedded once, kept through kills, made again where they were damaged."""

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.validation.make_world import write_world
from pipeline.sources.text_embedding import load_embedder
from pipeline.validation import vectors as module
from pipeline.validation.config import EmbedderConfig, ValidationRun
from pipeline.validation.vectors import TextVectors, embedder_files, open_vectors, used_embedder
from saeinterp_mcp.clients.embedding import DEFAULT_FINGERPRINT
from saeinterp_mcp.errors import BadInput

TEXTS = ["a river", "an old castle", "", "a river", "\x00", "café"]


def expected() -> NDArray[np.float32]:
    return load_embedder(None).embed(TEXTS).vectors


def parts_of(work: Path) -> list[Path]:
    return sorted((work / "vectors" / DEFAULT_FINGERPRINT).glob("part-*[0-9].npy"))


def opened(work: Path) -> TextVectors:
    found = open_vectors(work, None)
    assert found is not None
    return found


def test_vectors_are_the_models_own_in_the_order_of_the_texts(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = opened(tmp_path).of(TEXTS, lambda done, total: told.append((done, total)))
    assert np.array_equal(found, expected())
    assert told == [(5, 5)]  # one of six is there twice


def test_what_is_embedded_is_read_back_and_not_embedded_again(tmp_path: Path) -> None:
    opened(tmp_path).of(TEXTS)
    told: list[tuple[int, int]] = []
    again = opened(tmp_path)
    found = again.of([TEXTS[5], "a new one", TEXTS[0]], lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    assert np.array_equal(found[[0, 2]], expected()[[5, 0]])
    assert again.of([]).shape == (0, 384)
    assert [np.load(path, allow_pickle=False).shape for path in parts_of(tmp_path)] == [(6, 384)]


def test_parts_are_filled_up_and_then_new_ones_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)
    texts = [f"text {i}" for i in range(11)]
    reader = opened(tmp_path)
    whole = np.concatenate([opened(tmp_path).of(texts[:3]), opened(tmp_path).of(texts[3:])])
    assert [len(np.load(path, allow_pickle=False)) for path in parts_of(tmp_path)] == [4, 4, 3]
    assert np.array_equal(opened(tmp_path).of(texts[::-1]), whole[::-1])
    assert np.array_equal(reader.of(texts), whole)  # one that was opened before


def test_a_part_that_was_not_finished_is_written_over(tmp_path: Path) -> None:
    opened(tmp_path).of(TEXTS)
    (path,) = parts_of(tmp_path)
    keys = path.with_name("part-00000.keys.npy")
    # killed before the keys were written; killed while a part was filled up, with more vectors than keys
    keys.unlink()
    assert np.array_equal(opened(tmp_path).of(TEXTS), expected())
    np.save(path, np.concatenate([np.load(path, allow_pickle=False)] * 2), allow_pickle=False)
    assert np.array_equal(opened(tmp_path).of([*TEXTS, "another"])[:6], expected())


@pytest.mark.parametrize("damage", ["cut", "turned", "foreign", "nan"])
def test_a_damaged_part_is_made_again_and_told(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    opened(tmp_path).of(TEXTS)
    (path,) = parts_of(tmp_path)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:1000])
        case "foreign":
            np.save(path, np.ones((5, 3)), allow_pickle=False)
        case "turned" | "nan":
            array = np.load(path, allow_pickle=False)
            array[2] = np.nan if damage == "nan" else array[2] * 2
            np.save(path, array, allow_pickle=False)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(opened(tmp_path).of(TEXTS), expected())
    assert "is made again" in caplog.text


def test_without_an_embedder_there_are_no_vectors(tmp_path: Path) -> None:
    assert open_vectors(tmp_path, "none") is None
    assert used_embedder(tmp_path, "none") is None
    assert embedder_files(EmbedderConfig(model="none")) == {}


def test_the_record_tells_the_model_once_it_was_used(tmp_path: Path) -> None:
    assert used_embedder(tmp_path, None) is None
    opened(tmp_path).of(["a"])
    found = used_embedder(tmp_path, None)
    assert found == opened(tmp_path).record
    assert found is not None
    assert (found.name, found.fingerprint, found.dimensions) == ("all-MiniLM-L6-v2", DEFAULT_FINGERPRINT, 384)
    assert "embedder/config.json" in embedder_files(EmbedderConfig())


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no text model 'no/such-model'"):
        open_vectors(tmp_path, "no/such-model")


def test_a_models_folder_is_read_from_the_configs_and_is_in_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    run = ValidationRun.load(write_world(tmp_path, embedder="model"))
    assert run.embedder.model == str(tmp_path / "model")
    assert run.embedder.model_dump() == {}
