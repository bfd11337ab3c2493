"""TextVectors: directions of texts, each text embedded once for a model, whatever stage or run asks."""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.fingerprint import write_whole
from pipeline.sources.embedder_folder import find_embedder, model_files, model_fingerprint
from pipeline.validation.config import NO_EMBEDDER, EmbedderConfig
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.validation.folder import EmbedderRecord

if TYPE_CHECKING:
    from pipeline.sources.text_embedding import TextEmbedder

Vectors = NDArray[np.float32]
Keys = NDArray[np.bytes_]
"""(n,) S16: BLAKE2b-128 of texts. NumPy compares all 16 bytes of them; they are never made into Python's bytes, which
would lose zeros at the end."""

PART = 4_096
"""Vectors of a part: what is lost at most when a run is killed."""
AT_ONCE = 256
"""Texts given to the model at a time."""
UNIT = 1e-3
"""How far the length of a vector may be from 1; another one is damage."""
RECORD = "model.json"
log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where vectors of some texts are: part and row, -1 for those that are not there."""

    part: NDArray[np.int64]
    row: NDArray[np.int64]


class TextVectors:
    """A cache on disk, `CACHE/<model's fingerprint>/`: keys are BLAKE2b-128 of texts, vectors float32 of length 1.

    A part is written whole, then renamed, after every `PART` new texts: what was embedded is kept when a run is killed.
    Torch is loaded when the first text is missing. A part that cannot be read is made again.
    """

    def __init__(self, cache: Path, model: str | None) -> None:
        """Take the folder of the cache (`WORK/vectors`) and the model (`EmbedderConfig.model`, not `none`).

        Raises:
            BadInput: there is no such model here.
        """
        self._model = model
        found = find_embedder(model)
        if not found.folder.is_dir():
            raise BadInput(f"there is no text model in {found.folder}; install it again")
        self._name, self._fingerprint = found.name, model_fingerprint(found.folder)
        self._folder = cache / self._fingerprint
        self._folder.mkdir(parents=True, exist_ok=True)
        self._parts: dict[int, Vectors] = {}
        self._keys: Keys = np.zeros(0, "S16")
        self._at = Place(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._index()

    @property
    def record(self) -> EmbedderRecord:
        """Which model. Loads it when it has not embedded a text yet."""
        path = self._folder / RECORD
        try:
            dimensions = int(json.loads(path.read_text(encoding="utf-8"))["dimensions"])
        except (OSError, ValueError, KeyError, TypeError):
            dimensions = self._embedder().dimensions
            write_whole(path, json.dumps({"name": self._name, "dimensions": dimensions}) + "\n")
        return EmbedderRecord(name=self._name, fingerprint=self._fingerprint, dimensions=dimensions)

    def of(
        self, texts: Sequence[str], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Vectors:
        """(n, d), in the order of `texts`; equal texts are embedded once.

        `progress(done, total)` counts the texts that were missing. For more vectors than memory should hold, ask for
        a block at a time.
        """
        keys = _keys_of(texts)
        self._add_missing(texts, keys, progress)
        found = self._gather(keys)
        damaged = np.abs(np.linalg.norm(found, axis=1) - 1) > UNIT if len(found) else np.zeros(0, bool)
        damaged |= ~np.isfinite(found).all(axis=1)
        if damaged.any():
            for part in np.unique(self._places(keys[damaged]).part).tolist():
                self._remove(part, "a vector in it is not of length 1")
            self._index()
            self._add_missing(texts, keys, progress)
            found = self._gather(keys)
        return found

    def _embedder(self) -> "TextEmbedder":
        from pipeline.sources.text_embedding import load_embedder

        return load_embedder(self._model)

    def _add_missing(self, texts: Sequence[str], keys: Keys, progress: Callable[[int, int], None]) -> None:
        missing = np.flatnonzero(self._places(keys).part < 0)
        _, first = np.unique(keys[missing], return_index=True)
        new = missing[np.sort(first)]
        if not len(new):
            return
        embedder, done = self._embedder(), 0
        _ = self.record
        for start in range(0, len(new), PART):
            block = new[start : start + PART]
            vectors = np.empty((len(block), embedder.dimensions), np.float32)
            for at in range(0, len(block), AT_ONCE):
                part = [texts[i] for i in block[at : at + AT_ONCE].tolist()]
                vectors[at : at + len(part)] = embedder.embed(part).vectors
                done += len(part)
                progress(done, len(new))
            self._write(keys[block], vectors)
        self._index()

    def _write(self, keys: Keys, vectors: Vectors) -> None:
        """Fill up the last part, then begin new ones. Rows keep their places, whoever else writes."""
        with _alone(self._folder):
            numbers = _numbers(self._folder)
            last = numbers[-1] if numbers else 0
            old = self._read(last) if numbers else None
            if old is not None and len(old[0]) < PART:
                keys, vectors = np.concatenate([old[0], keys]), np.concatenate([old[1], vectors])
            elif numbers:
                last += 1
            for i, start in enumerate(range(0, len(keys), PART)):
                part = slice(start, start + PART)
                _save(_vector_path(self._folder, last + i), vectors[part])
                # the keys come last: a part without them is none
                _save(_key_path(self._folder, last + i), keys[part])

    def _index(self) -> None:
        """Read the keys of all parts, and sort them."""
        self._parts, found = {}, []
        for number in _numbers(self._folder):
            part = self._read(number)
            if part is None:
                self._remove(number, "it cannot be read")
                continue
            self._parts[number] = part[1]
            n = len(part[0])
            found.append((part[0], np.full(n, number, np.int64), np.arange(n, dtype=np.int64)))
        if not found:
            self._keys, self._at = (
                np.zeros(0, "S16"),
                Place(np.zeros(0, np.int64), np.zeros(0, np.int64)),
            )
            return
        keys, parts, rows = (np.concatenate(columns) for columns in zip(*found, strict=True))
        order = np.argsort(keys, kind="stable")
        self._keys, self._at = keys[order], Place(parts[order], rows[order])

    def _places(self, keys: Keys) -> Place:
        if not len(self._keys):
            nowhere = np.full(len(keys), -1, np.int64)
            return Place(nowhere, nowhere)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        here = self._keys[at] == keys
        return Place(np.where(here, self._at.part[at], -1), np.where(here, self._at.row[at], -1))

    def _gather(self, keys: Keys) -> Vectors:
        places = self._places(keys)
        assert (places.part >= 0).all(), "every text was embedded"
        width = next(iter(self._parts.values())).shape[1] if self._parts else self.record.dimensions
        found = np.empty((len(keys), width), np.float32)
        for part in np.unique(places.part).tolist():
            mine = np.flatnonzero(places.part == part)
            found[mine] = self._parts[part][places.row[mine]]
        return found

    def _read(self, number: int) -> tuple[Keys, Vectors] | None:
        """Keys and vectors (mapped) of a part; None when it is damaged."""
        try:
            keys = np.load(_key_path(self._folder, number), allow_pickle=False)
            vectors = np.load(_vector_path(self._folder, number), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        whole = keys.dtype == np.dtype("S16") and keys.ndim == 1 and vectors.dtype == np.float32
        # a part that was filled up and not given its new keys has more vectors than keys
        return (keys, vectors) if whole and vectors.ndim == 2 and len(vectors) >= len(keys) else None

    def _remove(self, number: int, why: str) -> None:
        log.warning(
            "%s is made again: %s", _vector_path(self._folder, number).relative_to(self._folder.parent), why
        )
        self._parts.pop(number, None)
        _key_path(self._folder, number).unlink(missing_ok=True)
        _vector_path(self._folder, number).unlink(missing_ok=True)


def open_vectors(work: Path, model: str | None) -> TextVectors | None:
    """The cache of a run; None where texts are compared by words only (model `none`)."""
    return None if model == NO_EMBEDDER else TextVectors(work / "vectors", model)


def embedder_files(config: EmbedderConfig) -> dict[str, Path]:
    """What a stage that embeds names as `external`: the files of the model, so that another model is another result.

    Raises:
        BadInput: there is no such model here.
    """
    if config.model == NO_EMBEDDER:
        return {}
    folder = find_embedder(config.model).folder
    return {f"embedder/{name}": path for name, path in model_files(folder).items()}


def used_embedder(work: Path, model: str | None) -> EmbedderRecord | None:
    """The model of a run, if it embedded anything; torch is not loaded for it."""
    if model == NO_EMBEDDER:
        return None
    name, fingerprint = find_embedder(model).name, model_fingerprint(find_embedder(model).folder)
    path = work / "vectors" / fingerprint / RECORD
    try:
        dimensions = json.loads(path.read_text(encoding="utf-8"))["dimensions"]
        return EmbedderRecord(name=name, fingerprint=fingerprint, dimensions=dimensions)
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _keys_of(texts: Sequence[str]) -> Keys:
    """Keys of texts. A lone surrogate is no text, and refused by the model later."""
    digests = (hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=16).digest() for t in texts)
    return np.frombuffer(b"".join(digests), "S16")


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.name[5:10]) for path in folder.glob("part-[0-9][0-9][0-9][0-9][0-9].keys.npy"))


def _vector_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.npy"


def _key_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.keys.npy"


def _save(path: Path, array: NDArray[np.generic]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process writes at a time; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
