"""Rows of (feature, prompt) and the tokens of prompts, whatever they come from, on their way to the tables.

They are gathered in raw files, sorted by number, and written a block at a time: in memory are 16 bytes a row, the
distinct tokens, and one block.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.stage import Progress
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.validation.tables import ACTIVATION_EXAMPLES, PROMPTS

Ints = NDArray[np.int64]
BLOCK = 4_096
"""Rows written at a time."""


class Rows(NamedTuple):
    """Some rows; their pairs lie end to end."""

    feature: Ints
    """(n,)"""
    prompt: Ints
    """(n,)"""
    n_pairs: Ints
    """(n,)"""
    position: Ints
    """(pairs,)"""
    value: NDArray[np.float32]
    """(pairs,)"""


class _Column:
    """Numbers appended to a raw file."""

    def __init__(self, path: Path, dtype: str) -> None:
        self._path, self._dtype = path, np.dtype(dtype)
        path.write_bytes(b"")

    def add(self, numbers: NDArray[Any]) -> None:
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(numbers, self._dtype).tobytes())

    def read(self) -> NDArray[Any]:
        """All of them, mapped."""
        if not self._path.stat().st_size:
            return np.zeros(0, self._dtype)
        return np.memmap(self._path, self._dtype, mode="r")


class RowSpool:
    """Takes rows in any order."""

    def __init__(self, folder: Path) -> None:
        """`folder` exists, and is the caller's to remove."""
        kinds = {"feature": "<u4", "prompt": "<u4", "n_pairs": "<u4", "position": "<u4", "value": "<f4"}
        self._columns = {name: _Column(folder / name, kind) for name, kind in kinds.items()}
        self.n_rows = 0

    def add(self, rows: Rows) -> None:
        """Append some rows."""
        for name, numbers in rows._asdict().items():
            self._columns[name].add(numbers)
        self.n_rows += len(rows.feature)

    def column(self, name: str) -> NDArray[Any]:
        """A column, in the order in which rows came."""
        return self._columns[name].read()

    def repeats(self) -> tuple[Ints, Ints]:
        """Rows of a (feature, prompt) that came before, and the first ones of it."""
        order = np.lexsort((self.column("prompt"), self.column("feature")))
        feature, prompt = self.column("feature")[order], self.column("prompt")[order]
        same = np.flatnonzero((feature[1:] == feature[:-1]) & (prompt[1:] == prompt[:-1])) + 1
        begins = np.setdiff1d(np.arange(len(order)), same, assume_unique=True)
        first = begins[np.searchsorted(begins, same, side="right") - 1]
        return order[same], order[first]

    def blocks(self, without: Ints, size: int = BLOCK) -> Iterator[Rows]:
        """Rows by feature and prompt, all but some."""
        kept = np.ones(self.n_rows, bool)
        kept[without] = False
        feature, prompt, n_pairs = (self.column(name) for name in ("feature", "prompt", "n_pairs"))
        order = np.lexsort((prompt, feature))
        order = order[kept[order]]
        first = np.concatenate([[0], np.cumsum(n_pairs, dtype=np.int64)])
        position, value = self.column("position"), self.column("value")
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            pairs = expand_ranges(first[rows], n_pairs[rows])
            yield Rows(
                feature[rows].astype(np.int64),
                prompt[rows].astype(np.int64),
                n_pairs[rows].astype(np.int64),
                position[pairs].astype(np.int64),
                np.asarray(value[pairs]),
            )


class PromptSpool:
    """Tokens of prompts, each prompt once: codes into one list of words."""

    def __init__(self, folder: Path) -> None:
        """`folder` exists, and is the caller's to remove."""
        self._codes = _Column(folder / "codes", "<u4")
        self._word_ids: dict[str, int] = {}
        self._numbers: list[Ints] = []
        self._lengths: list[Ints] = []

    def add(self, numbers: Ints, lengths: Ints, codes: NDArray[Any]) -> None:
        """Append prompts by their numbers, new ones; `codes` lie end to end."""
        self._numbers.append(np.asarray(numbers, np.int64))
        self._lengths.append(np.asarray(lengths, np.int64))
        self._codes.add(codes)

    def codes_of(self, tokens: "pa.Array") -> NDArray[np.uint32]:
        """Codes of an Arrow array of strings (plain or a dictionary); unknown words are added."""
        coded = tokens if hasattr(tokens, "dictionary") else tokens.dictionary_encode()
        ids = self._word_ids
        known = np.array([ids.setdefault(word, len(ids)) for word in coded.dictionary.to_pylist()], np.uint32)
        codes: NDArray[np.uint32] = known[coded.indices.to_numpy(zero_copy_only=False)]
        return codes

    def all(self) -> "Prompts":
        """What was gathered."""
        codes = self._codes.read()
        numbers = np.concatenate([np.zeros(0, np.int64), *self._numbers])
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        first = np.cumsum(lengths) - lengths
        order = np.argsort(numbers, kind="stable")
        return Prompts(list(self._word_ids), codes, numbers[order], first[order], lengths[order])


class Prompts:
    """Tokens of prompts, by number."""

    def __init__(
        self, words: Sequence[str], codes: NDArray[Any], numbers: Ints, first: Ints, lengths: Ints
    ) -> None:
        """`numbers` ascend; the tokens of the i-th are `words[codes[first[i] : first[i] + lengths[i]]]`."""
        self._words = pa.array(words, pa.large_string())
        self._codes, self.numbers, self._first, self._lengths = codes, numbers, first, lengths

    def __len__(self) -> int:
        return len(self.numbers)

    def places(self, numbers: Ints) -> Ints:
        """Which of them have these numbers; -1 where there is none."""
        if not len(self.numbers):
            return np.full(len(numbers), -1, np.int64)
        at = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        return np.where(self.numbers[at] == numbers, at, -1)

    def lengths(self, places: Ints) -> Ints:
        """Tokens of some of them."""
        return self._lengths[places]

    def codes(self, places: Ints) -> NDArray[Any]:
        """Codes of some of them, end to end."""
        return np.asarray(self._codes[expand_ranges(self._first[places], self._lengths[places])])

    def tokens(self, places: Ints) -> pl.Series:
        """Lists of the tokens of some of them."""
        ends = np.concatenate([[0], np.cumsum(self._lengths[places])])
        strings = self._words.take(pa.array(self.codes(places)))
        return _series(pa.LargeListArray.from_arrays(pa.array(ends), strings))


def prompt_frames(prompts: Prompts, sae_id: str) -> Iterator[pl.DataFrame]:
    """The table of prompts, block by block."""
    for start in range(0, max(len(prompts), 1), BLOCK):
        places = np.arange(start, min(start + BLOCK, len(prompts)))
        yield pl.DataFrame(
            {
                "sae_id": [sae_id] * len(places),
                "prompt_id": prompts.numbers[places],
                "prompt_tokens": prompts.tokens(places),
            },
            schema=PROMPTS.schema,
        )


def example_frames(
    spool: RowSpool, prompts: Prompts, sae_id: str, without: Ints, progress: Progress
) -> Iterator[pl.DataFrame]:
    """The table of examples, block by block; `without` are rows that are left out."""
    total, done = spool.n_rows - len(without), 0
    if not total:
        yield ACTIVATION_EXAMPLES.empty()
    for rows in spool.blocks(without):
        yield _frame(rows, prompts, sae_id)
        done += len(rows.feature)
        progress(done, total)


def _frame(rows: Rows, prompts: Prompts, sae_id: str) -> pl.DataFrame:
    places = prompts.places(rows.prompt)
    assert (places >= 0).all(), "every row's prompt is known"
    fires = rows.n_pairs > 0
    begins = (np.cumsum(rows.n_pairs) - rows.n_pairs)[fires]
    largest, mean = np.zeros(len(fires), np.float32), np.zeros(len(fires), np.float64)
    if len(begins):
        largest[fires] = np.maximum.reduceat(rows.value, begins)
        mean[fires] = np.add.reduceat(rows.value.astype(np.float64), begins) / rows.n_pairs[fires]
    ends = np.concatenate([[0], np.cumsum(rows.n_pairs)])
    pairs = pa.StructArray.from_arrays(
        [pa.array(rows.position.astype(np.uint32)), pa.array(rows.value)],
        names=["token_position", "activation_value"],
    )
    silent = pl.Series(~fires)
    return pl.DataFrame(
        {
            "feature_id": rows.feature,
            "sae_id": [sae_id] * len(fires),
            "prompt_id": rows.prompt,
            "prompt_tokens": prompts.tokens(places),
            "num_activations": rows.n_pairs,
            "max_activation": pl.Series(largest).set(silent, None),
            "activation_pairs": _series(pa.LargeListArray.from_arrays(pa.array(ends), pairs)),
            "prompt_length": prompts.lengths(places),
            "mean_activation": pl.Series(mean).set(silent, None),
        },
        schema=ACTIVATION_EXAMPLES.schema,
    )


def _series(array: "pa.Array") -> pl.Series:
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series), "an Arrow array is a column"
    return series
