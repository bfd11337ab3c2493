"""The samples that all contenders get: windows of the demo's documents, each of BOS and 255 tokens.

Only windows of full length are taken, because neither peer knows samples of different lengths; ours would skip the
padding that theirs encode. They are written twice: as `tokens.npy` (windows, 256) int64, and as the artifact of
our stage `tokenize_dataset`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pipeline.config import Execution, TokenizeConfig
from pipeline.source_config import FileTableConfig, ModelConfig, SaeConfig
from pipeline.stages.tokenize_dataset import TokenizeDatasetConfig, run
from pipeline.tokenisation import TokenisedSamples

EXAMPLE = Path(__file__).parents[2] / "examples" / "pycode"
CONTEXT = 256
BATCH_SEQUENCES = 32
"""Peers leave out a last batch that is not full."""


class Workload(NamedTuple):
    """Where the runners find it, and its size."""

    folder: Path
    n_windows: int


def write_workload(folder: Path, n_tokens: int) -> Workload:
    """About `n_tokens` positions: whole batches of windows, the documents again from the start if they run out."""
    folder.mkdir(parents=True)
    documents = pq.read_table(EXAMPLE / "documents.parquet")
    lengths = np.array([len(ids) for ids in documents["token_ids"].to_pylist()])
    n_windows = max(1, round(n_tokens / CONTEXT / BATCH_SEQUENCES)) * BATCH_SEQUENCES
    chosen = np.resize(np.flatnonzero(lengths == CONTEXT - 1), n_windows)
    pq.write_table(documents.take(chosen), folder / "documents.parquet")
    dataset = FileTableConfig(
        format="parquet", path=folder / "documents.parquet", token_ids="token_ids", unit="unit"
    )
    config = TokenizeDatasetConfig(
        model=ModelConfig(path=EXAMPLE / "model"),
        sae=SaeConfig(path=EXAMPLE / "sae"),
        dataset=dataset,
        tokenize=TokenizeConfig(),
    )
    tokenised = folder / "tokenised"
    tokenised.mkdir()
    run(config, {}, tokenised, lambda done, total: None, Execution(device="cpu"))
    samples = TokenisedSamples(tokenised)
    tokens = np.concatenate([samples.shard(index).token_ids for index in range(samples.n_shards)])
    np.save(folder / "tokens.npy", tokens.reshape(n_windows, CONTEXT))
    return Workload(folder, n_windows)
