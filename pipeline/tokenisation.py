"""The samples of a run: what was decided about them, and how later stages read them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saeinterp_mcp.frozen import Frozen


class Tokenisation(Frozen):
    """How the samples were made, and how many there are."""

    context_size: int
    """Longest sample in tokens, BOS included."""
    prepend_bos: bool
    hook_name: str
    bos_id: int | None
    special_ids: tuple[int, ...]
    """Tokens whose activations are not kept."""
    excluded_positions: tuple[int, ...]
    """Positions that are never counted."""
    n_samples: int
    n_tokens: int
    """Tokens of all samples, BOS not counted."""
    n_documents: int
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Shard:
    """The samples of one row group."""

    first_sample: int
    """Index of its first sample among all."""
    token_ids: NDArray[np.int64]
    """All tokens of its samples, end to end."""
    offsets: NDArray[np.int64]
    """(n_samples + 1,): sample i is `token_ids[offsets[i]:offsets[i + 1]]`."""

    @property
    def n_samples(self) -> int:
        """Number of samples in the shard."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n_samples,): tokens of each sample, BOS included."""
        return np.diff(self.offsets)

    def sample(self, index: int) -> NDArray[np.int64]:
        """Token ids of one sample, by its index in the shard."""
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]


class TokenisedSamples:
    """The artifact of `tokenize_dataset`, read a shard at a time."""

    def __init__(self, folder: Path) -> None:
        self._file = pq.ParquetFile(folder / "samples.parquet")
        self.tokenisation = Tokenisation.model_validate_json(
            (folder / "tokenisation.json").read_text(encoding="utf-8")
        )
        self.token_strings: list[str] = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        counts = [self._file.metadata.row_group(index).num_rows for index in range(self._file.num_row_groups)]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return int(self._file.num_row_groups)

    def shard(self, index: int) -> Shard:
        """The token ids of one shard."""
        return self._shard_of(
            self._file.read_row_group(index, columns=["token_ids"]), int(self._first[index])
        )

    def tables(self) -> Iterator[tuple[Shard, pa.Table]]:
        """Every shard with its other columns: `unit`, and each group as `group:<name>`."""
        for index in range(self.n_shards):
            table = self._file.read_row_group(index)
            yield self._shard_of(table, int(self._first[index])), table.drop_columns(["token_ids"])

    def draw(self, n_tokens: int, seed: int) -> list[NDArray[np.int64]]:
        """A seeded draw of samples without replacement that have about `n_tokens` tokens; all if there are
        not as many.

        In the order of the dataset. Uniform over samples, so the number of tokens is met on average.
        """
        average = self.tokenisation.n_tokens / self.tokenisation.n_samples
        n_drawn = min(self.tokenisation.n_samples, max(1, round(n_tokens / average)))
        return self.take(np.random.default_rng(seed).permutation(self.tokenisation.n_samples)[:n_drawn])

    def take(self, chosen: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Token ids of some samples, in the order of the dataset."""
        chosen = np.sort(chosen)
        samples: list[NDArray[np.int64]] = []
        for index in range(self.n_shards):
            inside = chosen[(chosen >= self._first[index]) & (chosen < self._first[index + 1])]
            if len(inside):
                shard = self.shard(index)
                samples.extend(shard.sample(int(sample) - shard.first_sample) for sample in inside)
        return samples

    def _shard_of(self, table: pa.Table, first_sample: int) -> Shard:
        column = table.column("token_ids").combine_chunks()
        chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        offsets = chunk.offsets.to_numpy().astype(np.int64)
        values = chunk.values.to_numpy()[offsets[0] : offsets[-1]].astype(np.int64)
        return Shard(first_sample, values, offsets - offsets[0])
