"""The rows kept to be shown for each feature: spread, core, near misses, silent ones; all from `explain`."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.stages.feature_blocks import Block, joined_blocks
from pipeline.stages.store_config import open_draft
from saeinterp_mcp.analysis.examples import from_core, spread_over_quantiles
from saeinterp_mcp.analysis.near_misses import TokenRows, TokenSets
from saeinterp_mcp.analysis.sampling import hash_salt, rng, uniform_silent
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import EXAMPLES, NO_INDEX
from saeinterp_mcp.store.zarr_writer import ZarrWriter

Ints = NDArray[np.int64]
PICKS = ("core", "near_miss", "silent", "spread")
BLOCK = 64
"""Features of a task; in a set store their near misses are found together."""
CHUNK = 2**18
"""Rows sorted by token at a time."""
SCRATCH = "scratch"


def choose_examples(
    folders: Sequence[Path],
    out: Path,
    seed: int,
    execution: Execution,
    progress: Callable[[int, int], None] = lambda done, total: None,
    block: int = BLOCK,
) -> None:
    """Write `examples/*` and the table `examples`.

    Args:
        folders: what `open_draft` takes: the postings and the summaries.
        out: the folder to write into.
        seed: of all draws.
        execution: how many workers.
        progress: called with features done and their number.
        block: features of a task; the result does not depend on it.
    """
    store, writer = open_draft(*folders), ZarrWriter(out)
    n_features = store.manifest.n_features
    scratch = out / SCRATCH
    if store.is_sequence and store.manifest.coverage == "full":
        _sort_rows_by_token(store, scratch)
    for pick in PICKS:
        writer.create(f"examples/{pick}", (n_features, EXAMPLES), "u4")
    table = writer.grow_table("examples")
    task = partial(_choose, _Task(tuple(folders), scratch, seed, block))
    for first, arrays in joined_blocks(task, n_features, block, execution.workers, progress):
        for pick, array in arrays.items():
            writer.write(f"examples/{pick}", first, array)
        table.add(_table(store, first, arrays))
    table.close()
    shutil.rmtree(scratch, ignore_errors=True)


class _Task(NamedTuple):
    """What all tasks have in common."""

    folders: tuple[Path, ...]
    scratch: Path
    seed: int
    block: int


def _choose(task: _Task, first: int) -> Block:
    store, seed = open_draft(*task.folders), task.seed
    features = range(first, min(first + task.block, store.manifest.n_features))
    n_rows, units = store.n_rows("explain"), store.row_unit
    found: dict[str, list[Ints]] = {pick: [] for pick in PICKS}
    for feature in features:
        rows, values = store.activations(feature, "explain")
        maximum = float(store.per_feature("stats/effective_max", feature))
        generator = {pick: rng(seed, pick, feature) for pick in PICKS}
        found["spread"].append(spread_over_quantiles(rows, values, units, EXAMPLES, generator["spread"]))
        found["core"].append(from_core(rows, values, maximum, units, EXAMPLES, generator["core"]))
        if store.manifest.coverage == "full":
            found["silent"].append(uniform_silent(rows, n_rows, EXAMPLES, generator["silent"]))
    if store.manifest.coverage == "full":
        salts = np.array([hash_salt(seed, "near_miss", feature) for feature in features])
        find = _near_misses_of_sequences if store.is_sequence else _near_misses_of_sets
        found["near_miss"] = find(store, task.scratch, features, salts)
    block = {pick: np.full((len(features), EXAMPLES), NO_INDEX, np.uint32) for pick in PICKS}
    for pick, lists in found.items():
        for i, taken in enumerate(lists):
            block[pick][i, : len(taken)] = taken
    return block


def _near_misses_of_sets(
    store: Store, scratch: Path, features: range, salts: NDArray[np.uint64]
) -> list[Ints]:
    n_rows, column = store.n_rows("explain"), store.backend.column
    sets = TokenSets(store.first_token[: n_rows + 1], store.sample_tokens, column("counts/tokens/n")[0])
    # as they are stored: half the memory
    firing = [store.activations(feature, "explain").rows.astype(np.uint32) for feature in features]
    return sets.nearest(firing, store.row_unit[:n_rows], EXAMPLES, salts)


def _near_misses_of_sequences(
    store: Store, scratch: Path, features: range, salts: NDArray[np.uint64]
) -> list[Ints]:
    mapped = (np.load(scratch / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in SORTED)
    # as plain arrays: indexing a memmap costs more
    by_token = TokenRows(*map(np.asarray, mapped))
    units = store.row_unit
    return [
        by_token.nearest(store.activations(feature, "explain").rows, units, EXAMPLES, salt)
        for feature, salt in zip(features, salts, strict=True)
    ]


SORTED = ("row_token", "rows_by_token", "token_first")


def _sort_rows_by_token(store: Store, scratch: Path) -> None:
    """Files that workers map: the token of each `explain` row, the rows by token, where a token's rows begin."""
    n_rows = store.n_rows("explain")
    scratch.mkdir()
    made = partial(np.lib.format.open_memmap, mode="w+", dtype=np.uint32, shape=(n_rows,))
    token_of, rows = (made(scratch / f"{name}.npy") for name in SORTED[:2])
    n = np.zeros(len(store.tokens), np.int64)
    for start in range(0, n_rows, CHUNK):
        tokens = store.token_of_rows(np.arange(start, min(start + CHUNK, n_rows)))
        token_of[start : start + len(tokens)] = tokens
        n += np.bincount(tokens, minlength=len(n))
    first = np.concatenate([[0], np.cumsum(n)])
    np.save(scratch / f"{SORTED[2]}.npy", first)
    at = first[:-1].copy()
    for start in range(0, n_rows, CHUNK):
        tokens = np.asarray(token_of[start : start + CHUNK])
        order = np.argsort(tokens, kind="stable")
        counts = np.bincount(tokens, minlength=len(n))
        rank = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows[at[tokens[order]] + rank] = start + order
        at += counts
    token_of.flush()
    rows.flush()


def _table(store: Store, first: int, chosen: Block) -> pl.DataFrame:
    """The examples of some features from `first` on, by feature, pick and rank."""
    lists = np.stack([chosen[pick] for pick in PICKS], axis=1)
    feature, pick, rank = np.nonzero(lists != NO_INDEX)
    rows = lists[feature, pick, rank].astype(np.int64)
    return pl.DataFrame(
        {
            "feature": first + feature,
            "pick": np.array(PICKS)[pick],
            "rank": rank + 1,
            "sample": store.source[store.row_sample[rows]],
            "position": store.row_position[rows].astype(np.int64),
        },
        schema_overrides={"pick": pl.String},
    )
