"""Samples of different lengths as padded batches, the same ones every time.

Matrix products of another shape round differently, and at a threshold that decides whether a feature fires.
So the batches are a function of the samples and `batch_tokens` alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tokenisation import Tokenisation

PADDING_ID = 0
"""Padding stands at the end, where a causal model cannot see it; any id does."""


@dataclass(frozen=True)
class Batch:
    """Some samples, padded at the end to the longest."""

    rows: NDArray[np.int64]
    """(batch,): which of the given samples they are."""
    tokens: NDArray[np.int64]
    """(batch, length)"""
    real: NDArray[np.bool_]
    """(batch, length): False for padding."""

    def counted(self, tokenisation: Tokenisation) -> NDArray[np.bool_]:
        """(batch, length): positions whose activations are kept; not padding, BOS, or another excluded
        one."""
        special = np.isin(self.tokens, np.asarray(tokenisation.special_ids, dtype=np.int64))
        counted = self.real & ~special
        inside = [position for position in tokenisation.excluded_positions if position < counted.shape[1]]
        counted[:, inside] = False
        return counted


def padded_batches(samples: Sequence[NDArray[np.int64]], batch_tokens: int) -> Iterator[Batch]:
    """Batches of at most `batch_tokens` slots (at least one sample), longest samples first."""
    lengths = np.array([len(sample) for sample in samples], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        length = int(lengths[order[start]])
        rows = order[start : start + max(1, batch_tokens // length)]
        tokens = np.full((len(rows), length), PADDING_ID, dtype=np.int64)
        for row, sample in enumerate(rows):
            tokens[row, : lengths[sample]] = samples[sample]
        yield Batch(rows, tokens, np.arange(length)[None, :] < lengths[rows][:, None])
        start += len(rows)
