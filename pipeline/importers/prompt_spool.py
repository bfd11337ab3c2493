"""PromptSpool: prompts and what fires in them, gathered record by record into temporary files.

Formats of JSON name prompts by number or repeat their tokens in every record. They are parsed once, at opening; the
stages read the numbers from here as often as they need. In memory are the distinct tokens and some 150 bytes a distinct
prompt. The files lie where Python puts temporary ones (TMPDIR) and go when the process ends, unless it is killed.
"""

import hashlib
import shutil
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.importers.pieces import Entries
from pipeline.sources.tokenizer import from_byte_level, from_sentencepiece, readable
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.loaders.metadata import POSITION, SAMPLE, TOKENS, MetadataTable

Ints = NDArray[np.int64]
HELD = 1 << 20
"""Numbers of a column that are held before they are written."""
PIECE_PAIRS = 1 << 22
ROWS_AT_ONCE = 1 << 20
PLACES = ("first_row", "record_feature", "record_prompt", "first_pair", "position", "value")


class Records(NamedTuple):
    """Records of n (feature, prompt): their pairs lie end to end."""

    feature: Sequence[int] | Ints
    prompt: Sequence[int] | Ints
    n_pairs: Sequence[int] | Ints
    position: Sequence[int] | Ints
    value: Sequence[float] | NDArray[np.float32]
    """Not 0, finite in float32."""
    place: Sequence[int] | Ints
    """Where each record is, for messages: the line."""


class Repeats(NamedTuple):
    """Records of a (feature, prompt) that came before: `first` and `again` (n,) index records."""

    first: Ints
    again: Ints


class _Column:
    """Numbers that are appended to a file."""

    def __init__(self, path: Path, kind: Literal["I", "q", "f"]) -> None:
        self.path, self._held = path, array(kind)
        self.dtype = np.dtype({"I": np.uint32, "q": np.int64, "f": np.float32}[kind])
        self.n = 0
        path.touch()

    def add(self, numbers: Any) -> None:
        """Append a sequence."""
        if isinstance(numbers, np.ndarray):
            self._held.frombytes(np.ascontiguousarray(numbers, self.dtype).tobytes())
        else:
            self._held.extend(numbers)
        self.n += len(numbers)
        if len(self._held) >= HELD:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        with self.path.open("ab") as file:
            self._held.tofile(file)
        del self._held[:]

    def read(self) -> NDArray[Any]:
        """All numbers, memory-mapped."""
        self.flush()
        return mapped(self.path, self.dtype)


def mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """A raw file of numbers."""
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


class PromptSpool:
    """Takes prompts and records, then tells them as a Source does."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="saeinterp-import-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._ids: dict[str, int] = {}
        self._prompts: dict[bytes, int] = {}
        kinds: dict[str, Literal["I", "q", "f"]] = {"record_feature": "I", "record_prompt": "I"}
        kinds |= {
            "first_row": "q",
            "first_pair": "q",
            "position": "I",
            "value": "f",
            "token": "I",
            "place": "q",
        }
        self._columns = {name: _Column(self.folder / name, kind) for name, kind in kinds.items()}
        self._columns["first_row"].add([0])
        self._columns["first_pair"].add([0])
        self.lengths = array("I")
        """Tokens of each prompt."""
        self.n_pairs = 0

    @property
    def n_prompts(self) -> int:
        """Prompts so far."""
        return len(self.lengths)

    @property
    def n_rows(self) -> int:
        """Tokens of all prompts."""
        return self._columns["token"].n

    @property
    def n_records(self) -> int:
        """Records so far."""
        return self._columns["record_feature"].n

    def prompt(self, tokens: Sequence[str]) -> int:
        """Its number: that of an earlier prompt of these very tokens, or a new one."""
        return self._known(self._coded(tokens))

    def prompt_of_ids(self, ids: Sequence[int]) -> int:
        """The same, of tokens that somebody else numbered; all prompts of a spool are of one kind."""
        return self._known(np.array(ids, np.uint32))

    def _known(self, ids: NDArray[np.uint32]) -> int:
        key = hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
        found = self._prompts.get(key)
        if found is None:
            found = self._prompts[key] = self._append(ids)
        return found

    def new_prompt(self, tokens: Sequence[str]) -> int:
        """A number of its own, whatever its tokens."""
        return self._append(self._coded(tokens))

    def add(self, records: Records) -> None:
        """Append some records."""
        columns = self._columns
        ends = np.cumsum(np.asarray(records.n_pairs, np.int64)) + self.n_pairs
        columns["record_feature"].add(records.feature)
        columns["record_prompt"].add(records.prompt)
        columns["place"].add(records.place)
        columns["first_pair"].add(ends)
        columns["position"].add(records.position)
        columns["value"].add(records.value)
        self.n_pairs = int(ends[-1]) if len(ends) else self.n_pairs

    def repeats(self) -> Repeats:
        """Records of one (feature, prompt)."""
        feature, prompt = (self._columns[f"record_{name}"].read() for name in ("feature", "prompt"))
        key = (feature.astype(np.uint64) << np.uint64(32)) | prompt
        order = np.argsort(key, kind="stable")
        same = np.flatnonzero(key[order][1:] == key[order][:-1]) + 1
        if not len(same):
            return Repeats(np.zeros(0, np.int64), np.zeros(0, np.int64))
        begins = np.concatenate([[0], np.flatnonzero(key[order][1:] != key[order][:-1]) + 1])
        first = begins[np.searchsorted(begins, same, side="right") - 1]
        return Repeats(order[first], order[same])

    def place_of(self, record: int) -> int:
        """Where a record is."""
        return int(self._columns["place"].read()[record])

    def pairs_of(self, record: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Positions and values of a record."""
        first, position, value = (self._columns[n].read() for n in ("first_pair", "position", "value"))
        here = slice(int(first[record]), int(first[record + 1]))
        return position[here], value[here]

    def part_repeats(self) -> tuple[int, int]:
        """Where a feature has several records of the same tokens: equal ones are one; of others, each gets a prompt of
        its own with these tokens (they stood in different places of the corpus). How many of either."""
        found = self.repeats()
        if not len(found.again):
            return 0, 0
        prompts, token, first_row = (self._columns[n].read() for n in ("record_prompt", "token", "first_row"))
        moved = np.array(prompts)
        dropped: list[int] = []
        known: dict[int, list[int]] = {}
        copies: dict[tuple[int, int], int] = {}
        for first, again in zip(found.first.tolist(), found.again.tolist(), strict=True):
            variants = known.setdefault(first, [first])
            if any(_equal(self.pairs_of(one), self.pairs_of(again)) for one in variants):
                dropped.append(again)
                continue
            old, which = int(prompts[first]), len(variants)
            if (old, which) not in copies:  # shared by all features that met these tokens so often
                copies[old, which] = self._append(token[int(first_row[old]) : int(first_row[old + 1])])
            moved[again] = copies[old, which]
            variants.append(again)
        self._rewrite("record_prompt", moved)
        self._drop(dropped)
        return len(dropped), sum(len(v) - 1 for v in known.values())

    def drop(self, records: Ints) -> None:
        """Take records out."""
        self._drop(records.tolist())

    def highest_feature(self) -> int:
        """-1 where there is none."""
        feature = self._columns["record_feature"].read()
        return int(feature.max(initial=0, where=feature != NO_FEATURE)) if len(feature) else -1

    def _coded(self, tokens: Sequence[str]) -> NDArray[np.uint32]:
        known = list(map(self._ids.get, tokens))
        if None in known:  # new words are rare
            known = [self._ids.setdefault(token, len(self._ids)) for token in tokens]
        return np.array(known, np.uint32)

    def _append(self, ids: NDArray[np.uint32]) -> int:
        self._columns["token"].add(ids)
        self._columns["first_row"].add([self._columns["token"].n])
        self.lengths.append(len(ids))
        return len(self.lengths) - 1

    def _rewrite(self, name: str, numbers: NDArray[Any]) -> None:
        made = self._columns[name] = _Column(self.folder / f"{name}-parted", "I")
        made.add(numbers)

    def _drop(self, records: list[int]) -> None:
        """A record of the feature NONE is passed over by pieces; the others keep their places."""
        if records:
            feature = np.array(self._columns["record_feature"].read())
            feature[records] = NO_FEATURE
            self._rewrite("record_feature", feature)

    def pieces(self) -> "tuple[SpoolPiece, ...]":
        """The activations; from now on nothing is added."""
        for column in self._columns.values():
            column.flush()
        first = self._columns["first_pair"].read()
        cuts = np.searchsorted(first, np.arange(0, max(self.n_pairs, 1), PIECE_PAIRS), side="left").tolist()
        paths = {name: str(self._columns[name].path) for name in PLACES}
        ends = sorted({*cuts[1:], self.n_records})
        return tuple(SpoolPiece(paths, a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True))

    def tables(self, path: Path) -> Iterator[MetadataTable]:
        """The prompts, a row a token."""
        token, first = self._columns["token"].read(), self._columns["first_row"].read()
        for start in range(0, len(token), ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, len(token))
            row = np.arange(start, stop)
            sample = np.searchsorted(first, row, side="right") - 1
            lists = pa.ListArray.from_arrays(
                pa.array(np.arange(stop - start + 1, dtype=np.int32)),
                pa.array(token[start:stop].astype(np.int64)),
            )
            columns = {TOKENS: lists, SAMPLE: pa.array(sample), POSITION: pa.array(row - first[sample])}
            yield MetadataTable(path, start, pa.table(columns), 0)

    def token_names(self) -> dict[int, str]:
        """Decoded strings of the tokens' numbers."""
        return dict(enumerate(decoded(list(self._ids))))

    def spelled_as(self) -> str:
        """How tokens were spelled, for a note."""
        return {"sentencepiece": "`▁the` became ` the`", "bytes": "`Ġthe` became ` the`"}.get(
            spelling_of(list(self._ids)), "taken as they are"
        )


NO_FEATURE = 2**32 - 1


@dataclass(frozen=True)
class SpoolPiece:
    """Some records."""

    paths: dict[str, str]
    start: int
    stop: int

    def entries(self) -> Iterator[Entries]:
        """One block."""
        columns = {
            name: mapped(Path(path), np.int64 if name.startswith("first") else _kind(name))
            for name, path in self.paths.items()
        }
        feature = columns["record_feature"][self.start : self.stop]
        kept = np.flatnonzero(feature != NO_FEATURE)
        record = kept + self.start
        first = np.asarray(columns["first_pair"][record])
        n = np.asarray(columns["first_pair"][record + 1]) - first
        pair = expand_ranges(first, n)
        row = np.repeat(columns["first_row"][columns["record_prompt"][record]], n)
        yield Entries(
            row + columns["position"][pair],
            np.repeat(feature[kept].astype(np.int64), n),
            np.asarray(columns["value"][pair]),
        )


def _kind(name: str) -> Any:
    return np.float32 if name == "value" else np.uint32


def _equal(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def spelling_of(tokens: Sequence[str]) -> Literal["sentencepiece", "bytes", "plain"]:
    """How a vocabulary is spelled: by what most of its words begin with."""
    begin = {mark: sum(1 for token in tokens if token.startswith(mark)) for mark in ("▁", "Ġ", " ")}
    if begin["▁"] > begin[" "] + begin["Ġ"]:
        return "sentencepiece"
    return "bytes" if begin["Ġ"] > begin[" "] else "plain"


def decoded(tokens: Sequence[str]) -> list[str]:
    """Tokens as our stores hold them: text, and a byte that is none by itself as `<0xE2>`."""
    match spelling_of(tokens):
        case "sentencepiece":
            return [readable(from_sentencepiece(token)) for token in tokens]
        case "bytes":
            return [readable(from_byte_level(token)) for token in tokens]
        case "plain":
            return list(tokens)
