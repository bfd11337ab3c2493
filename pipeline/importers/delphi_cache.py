"""delphi's cache of latents: splits of features in safetensors, each with where, how strongly, and all tokens.

A split `{start}_{end}` holds the features start to end, both included: `locations` (n, 3) uint16 or uint32 of row,
position and feature - start; `activations` (n,) float16; `tokens` (rows, ctx), the same in every split.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.importers.pieces import Entries, checked
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.loaders.base import to_float32
from saeinterp_mcp.loaders.metadata import POSITION, SAMPLE, TOKENS, MetadataTable

LOCATIONS, ACTIVATIONS, TOKEN_MATRIX = "locations", "activations", "tokens"
BLOCK = 1 << 20
"""Activations, or tokens, in memory at once."""
AGAIN = "Let delphi write this cache again; half of it would say that features are silent which are not."
FLOAT16_MOST = 65_504.0
_SPLIT = re.compile(r"(\d{1,10})_(\d{1,10})\.safetensors")


class Split(NamedTuple):
    """One file of the cache, by its header."""

    path: Path
    first: int
    """Its first feature."""
    last: int
    """Its last one."""
    n: int
    """Activations."""
    tokens: tuple[int, int] | None
    """(rows, ctx) of the tokens in it, if they were saved."""


class Cache(NamedTuple):
    """All splits of one hookpoint, in the order of features."""

    folder: Path
    splits: tuple[Split, ...]
    tokens: Split
    """The first that holds the tokens."""
    n_rows: int
    ctx: int

    @property
    def width(self) -> int:
        """Features that the splits are of."""
        return self.splits[-1].last + 1


def open_cache(folder: Path) -> Cache:
    """Read the headers, and check that the splits are of one cache and that none is missing.

    Raises:
        BadInput: the tokens were not saved.
        BadStore: a split is damaged, missing, or of another cache.
    """
    named = [(match, path) for path in folder.iterdir() if (match := _SPLIT.fullmatch(path.name))]
    if not named:
        raise BadStore(folder, "splits named {start}_{end}.safetensors", "none", AGAIN)
    splits = sorted(_header(path, int(match[1]), int(match[2])) for match, path in named)
    splits.sort(key=lambda split: split.first)
    expected = 0
    for split in splits:
        if split.first != expected:
            what = "two caches are mixed" if split.first < expected else "a split is missing"
            raise BadStore(split.path, f"a split from feature {expected} on", f"{split.first}: {what}", AGAIN)
        expected = split.last + 1
    holders = [split for split in splits if split.tokens is not None]
    if not holders:
        raise BadInput(
            f"{folder} holds no tokens (save_tokens was off), so nobody can see what a feature fires on; cache again"
        )
    for split in holders[1:]:
        if split.tokens != holders[0].tokens:
            raise BadStore(
                split.path, f"tokens {holders[0].tokens}, as the first split", f"{split.tokens}", AGAIN
            )
    n_rows, ctx = holders[0].tokens or (0, 0)
    return Cache(folder, tuple(splits), holders[0], n_rows, ctx)


@contextmanager
def tensors(path: Path) -> Iterator[Any]:
    """An opened file, of which parts are read.

    Raises:
        BadInput: safetensors is not installed.
        BadStore: it is damaged.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise BadInput("delphi's latents need safetensors: pip install 'saeinterp-mcp[pipeline]'") from error
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise BadStore(path, "a whole safetensors file", str(error).splitlines()[0][:200], AGAIN) from error


def _header(path: Path, first: int, last: int) -> Split:
    with tensors(path) as file:
        names = set(file.keys())
        missing = {LOCATIONS, ACTIVATIONS} - names
        if missing:
            raise BadStore(path, f"a tensor {min(missing)!r}", ", ".join(sorted(names))[:200], AGAIN)
        parts = {name: file.get_slice(name) for name in names & {LOCATIONS, ACTIVATIONS, TOKEN_MATRIX}}
        shapes = {name: tuple(int(n) for n in part.get_shape()) for name, part in parts.items()}
        kinds = {name: str(part.get_dtype()) for name, part in parts.items()}
    n = shapes[ACTIVATIONS][0] if len(shapes[ACTIVATIONS]) == 1 else -1
    tokens = shapes.get(TOKEN_MATRIX)
    fits = (
        last >= first
        and shapes[LOCATIONS] == (n, 3)
        and kinds[LOCATIONS] in ("U16", "U32", "I32", "I64", "U64")
        and kinds[ACTIVATIONS] in ("F16", "F32", "F64")
        and (tokens is None or (len(tokens) == 2 and kinds[TOKEN_MATRIX].startswith(("I", "U"))))
    )
    if not fits:
        found = ", ".join(f"{name} {list(shapes[name])} {kinds[name]}" for name in sorted(shapes))
        raise BadStore(
            path, "locations [n, 3] of integers, activations [n] of floats, tokens [rows, ctx]", found, AGAIN
        )
    return Split(path, first, last, n, (tokens[0], tokens[1]) if tokens is not None else None)


@dataclass(frozen=True)
class SplitPiece:
    """The activations of one split."""

    split: Split
    tokens: Split
    """Whose tokens are everybody's."""
    n_features: int
    clip: bool
    """Whether infinity (above what float16 holds) is taken for the largest float16."""
    negatives: bool

    def entries(self) -> Iterator[Entries]:
        """In blocks of the file.

        Raises:
            BadInput: infinity, NaN, or a negative number that nobody asked for.
            BadStore: a place that is not in the tokens, or other tokens than the first split has.
        """
        if self.split.tokens is not None and self.split.path != self.tokens.path:
            _same_tokens(self.split, self.tokens)
        n_rows, ctx = self.tokens.tokens or (0, 0)
        limits = (n_rows, ctx, min(self.split.last + 1, self.n_features) - self.split.first)
        with tensors(self.split.path) as file:
            places, values = file.get_slice(LOCATIONS), file.get_slice(ACTIVATIONS)
            for start in range(0, self.split.n, BLOCK):
                stop = min(start + BLOCK, self.split.n)
                place = np.asarray(places[start:stop]).astype(np.int64)
                self._check(place, limits)
                value = to_float32(np.asarray(values[start:stop]))
                if self.clip:
                    value = np.clip(value, -FLOAT16_MOST, FLOAT16_MOST)
                keep = value != 0
                row = place[:, 0] * ctx + place[:, 1]
                found = Entries(row[keep], place[keep, 2] + self.split.first, value[keep])
                yield self._checked(found)

    def _check(self, place: NDArray[np.int64], limits: tuple[int, int, int]) -> None:
        for axis, (what, limit) in enumerate(zip(("row", "position", "feature"), limits, strict=True)):
            wrong = (place[:, axis] < 0) | (place[:, axis] >= limit)
            if wrong.any():
                found = int(place[wrong, axis][0])
                shift = self.split.first if what == "feature" else 0
                raise BadStore(
                    self.split.path,
                    f"{what} {shift} to {shift + limit - 1}",
                    f"{what} {found + shift}",
                    AGAIN,
                )

    def _checked(self, entries: Entries) -> Entries:
        if np.isinf(entries.value).any():
            at = int(np.flatnonzero(np.isinf(entries.value))[0])
            raise BadInput(
                f"{self.split.path}: feature {entries.feature[at]} is infinite at token {entries.row[at]}: delphi "
                f"keeps float16, which ends at {FLOAT16_MOST:,.0f}. --bad-files skip takes such values for that "
                "number, and says how many there were"
            )
        return checked(entries, self.split.path, self.negatives)


def n_infinite(cache: Cache) -> int:
    """Activations that float16 could not hold."""
    n = 0
    for split in cache.splits:
        with tensors(split.path) as file:
            values = file.get_slice(ACTIVATIONS)
            for start in range(0, split.n, BLOCK):
                n += int(np.isinf(np.asarray(values[start : min(start + BLOCK, split.n)])).sum())
    return n


def token_tables(cache: Cache) -> Iterator[MetadataTable]:
    """Every token of every row, in order: a row of the cache is a sample."""
    rows_at_once = max(1, BLOCK // max(1, cache.ctx))
    for first, block in token_blocks(cache.tokens, rows_at_once):
        n = block.size
        sample, position = np.divmod(np.arange(first * cache.ctx, first * cache.ctx + n), cache.ctx)
        lists = pa.ListArray.from_arrays(
            pa.array(np.arange(n + 1, dtype=np.int32)), pa.array(block.reshape(-1))
        )
        table = pa.table({TOKENS: lists, SAMPLE: pa.array(sample), POSITION: pa.array(position)})
        yield MetadataTable(cache.tokens.path, first * cache.ctx, table, 0)


def token_blocks(split: Split, rows_at_once: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """(first row, tokens) of blocks of rows.

    Raises:
        BadStore: a token id below 0.
    """
    n_rows = split.tokens[0] if split.tokens is not None else 0
    with tensors(split.path) as file:
        tokens = file.get_slice(TOKEN_MATRIX)
        for first in range(0, n_rows, rows_at_once):
            block = np.asarray(tokens[first : min(first + rows_at_once, n_rows)]).astype(np.int64)
            if block.size and block.min() < 0:
                raise BadStore(split.path, "token ids from 0", f"{block.min()}", AGAIN)
            yield first, block


def _same_tokens(split: Split, first: Split) -> None:
    rows_at_once = max(1, BLOCK // max(1, (first.tokens or (0, 0))[1]))
    pairs = zip(token_blocks(split, rows_at_once), token_blocks(first, rows_at_once), strict=True)
    for (row, mine), (_, theirs) in pairs:
        if not np.array_equal(mine, theirs):
            at = row + int(np.flatnonzero((mine != theirs).any(axis=1))[0])
            raise BadStore(split.path, f"the tokens of {first.path.name}", f"others in row {at}", AGAIN)
