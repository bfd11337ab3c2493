"""Tokens of some prompts, as codes into one list of words: never more of a file in memory than a row group."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.validation.tables import ACTIVATION_EXAMPLES, PROMPTS, REMAKE

if TYPE_CHECKING:
    import pyarrow as pa

TOKENS = "prompt_tokens"


class PromptTokens:
    """Tokens of prompts."""

    def __init__(self, path: Path) -> None:
        """Begin without any; `path` is named in errors."""
        self._path = path
        self._words: list[str] = []
        self._codes: list[NDArray[np.int64]] = []
        self._place: dict[int, tuple[int, int, int]] = {}

    def add(self, prompts: Sequence[int], lists: "pa.Array") -> None:
        """Take the tokens of some prompts: an Arrow array of lists of strings, as it was read."""
        values = lists.flatten()
        values = values if hasattr(values, "dictionary") else values.dictionary_encode()
        codes = values.indices.to_numpy(zero_copy_only=False).astype(np.int64) + len(self._words)
        self._words.extend(values.dictionary.to_pylist())
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        ends = np.cumsum(lengths).tolist()
        part = len(self._codes)
        self._codes.append(codes)
        for prompt, length, end in zip(prompts, lengths.tolist(), ends, strict=True):
            self._place[prompt] = (part, end - length, end)

    def length(self, prompt: int) -> int:
        """How many tokens a prompt has."""
        _, start, stop = self._found(prompt)
        return stop - start

    def of(self, prompt: int, start: int, stop: int) -> tuple[str, ...]:
        """Tokens start .. stop - 1 of a prompt."""
        part, first, _ = self._found(prompt)
        words = self._words
        return tuple([words[code] for code in self._codes[part][first + start : first + stop].tolist()])

    def _found(self, prompt: int) -> tuple[int, int, int]:
        place = self._place.get(prompt)
        if place is None:
            raise BadStore(self._path, f"tokens of the prompt {prompt}", "none", REMAKE)
        return place


def tokens_by_prompt(path: Path, prompts: NDArray[np.int64]) -> PromptTokens:
    """Tokens of some prompts (ascending) out of the table of prompts, row group by row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = PromptTokens(path)
    try:
        with pq.ParquetFile(path, read_dictionary=[f"{TOKENS}.list.element"]) as file:
            for i in range(file.num_row_groups):
                ids = file.read_row_group(i, columns=["prompt_id"])["prompt_id"].to_numpy().astype(np.int64)
                rows = np.flatnonzero(np.isin(ids, prompts, assume_unique=True))
                if len(rows):
                    column = file.read_row_group(i, columns=[TOKENS])[TOKENS].combine_chunks()
                    found.add(ids[rows].tolist(), column.take(pa.array(rows)))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise BadStore(path, f"the table {PROMPTS.name}", str(error), REMAKE) from error
    return found


def tokens_by_feature(path: Path, features: Sequence[int], prompts: NDArray[np.int64]) -> PromptTokens:
    """Tokens of some prompts out of the examples of the few features that they belong to."""
    import polars as pl

    found = PromptTokens(path)
    try:
        scan = pl.scan_parquet(path)
        ACTIVATION_EXAMPLES.check(scan, path)
        frame = scan.filter(pl.col("feature_id").is_in(list(features))).select("prompt_id", TOKENS).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        message = str(error).splitlines()[0]
        raise BadStore(path, f"the table {ACTIVATION_EXAMPLES.name}", message, REMAKE) from error
    wanted = frame.filter(pl.col("prompt_id").is_in(prompts.tolist()))
    frame = wanted.unique("prompt_id", keep="first", maintain_order=True)
    found.add(frame["prompt_id"].to_list(), frame[TOKENS].to_arrow())
    return found
