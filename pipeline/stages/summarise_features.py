"""Postings to firing statistics, quantiles, effective maximum, regions, histograms and top lists, per split."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.config import Execution
from pipeline.stages.feature_blocks import Block, joined_blocks
from pipeline.stages.store_config import open_draft
from saeinterp_mcp.analysis.summaries import SUMMARY_SHAPES, summarise
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import SPLITS
from saeinterp_mcp.store.zarr_writer import ZarrWriter

BLOCK = 128
"""Features of a task."""


def summarise_features(
    folders: Sequence[Path],
    out: Path,
    execution: Execution,
    progress: Callable[[int, int], None] = lambda done, total: None,
    block: int = BLOCK,
) -> None:
    """Write `stats/*`, `top/*` and the table `features`.

    Args:
        folders: what `open_draft` takes: the postings.
        out: the folder to write into.
        execution: how many workers.
        progress: called with features done and their number.
        block: features of a task; the result does not depend on it.
    """
    store, writer = open_draft(*folders), ZarrWriter(out)
    n_features = store.manifest.n_features
    for name, (shape, dtype) in SUMMARY_SHAPES.items():
        writer.create(name, (n_features, *shape), dtype)
    task = partial(_summarise_block, tuple(folders), block)
    frames = []
    for first, arrays in joined_blocks(task, n_features, block, execution.workers, progress):
        for name, array in arrays.items():
            writer.write(name, first, array)
        frames.append(_table(store, first, arrays))
    writer.table("features", pl.concat(frames))


def _summarise_block(folders: tuple[Path, ...], size: int, first: int) -> Block:
    store = open_draft(*folders)
    n_explain, first_row = store.n_rows("explain"), store.backend.column("units/first_row")
    unit_rows = np.subtract(first_row[1:], first_row[:-1], dtype=np.uint32, casting="unsafe")
    found = []
    for feature in range(first, min(first + size, store.manifest.n_features)):
        rows, values = store.activations(feature)
        n = np.searchsorted(rows, n_explain)
        found.append(summarise((rows[:n], values[:n]), (rows, values), store.row_unit, unit_rows))
    return {name: np.stack([one[name] for one in found]) for name in SUMMARY_SHAPES}


def _table(store: Store, first: int, block: Block) -> pl.DataFrame:
    columns: dict[str, object] = {"feature": np.arange(first, first + len(block["stats/max"]))}
    for s, split in enumerate(SPLITS):
        n = store.n_rows(split)
        firing = block["stats/n_firing"][:, s]
        columns[f"n_firing_{split}"] = firing
        columns[f"firing_rate_{split}"] = firing / max(n, 1)
        columns[f"mean_{split}"] = block["stats/sum"][:, s] / max(n, 1)
        columns[f"max_{split}"] = block["stats/max"][:, s]
    columns["effective_max"] = block["stats/effective_max"]
    return pl.DataFrame(columns)
