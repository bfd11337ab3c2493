"""Examples of a store's features: samples spread over its activations, one a unit, of the explain split."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.stage import Progress
from pipeline.validation.example_rows import Ints, Prompts, PromptSpool, Rows, RowSpool
from pipeline.validation.writing import SHARDS, blocks, run_shards
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.patterns.choosing import choose_by_quantile, window_bounds
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store

LONGEST = 256
"""Tokens of a prompt; a longer sample is cut to those around the strongest one."""
FEATURES = 256
"""Features of a shard."""
CUTS = 4_096
"""Prompts read at a time."""
NAMES = ("feature", "sample", "start", "n_pairs", "position", "value")


class _Task(NamedTuple):
    store: Path
    out: Path
    per_feature: int
    seed: int
    number: int
    features: tuple[int, int]

    @property
    def shard(self) -> Path:
        return self.out / SHARDS / f"examples-{self.number:05d}.npz"


def read_store(
    store: Path,
    out: Path,
    per_feature: int,
    seed: int,
    prompts: PromptSpool,
    spool: RowSpool,
    workers: int,
    progress: Progress,
) -> Prompts:
    """Gather examples and their prompts: each a distinct stretch of a sample, numbered by sample and start.

    Shards of features that are done stay in `out/shards` until the caller removes them: a run that was killed goes on
    with the others.
    """
    n_features = open_store(store).manifest.n_features
    tasks = [
        _Task(store, out, per_feature, seed, i, block) for i, block in enumerate(blocks(n_features, FEATURES))
    ]
    run_shards(out, tasks, _run, lambda task: task.shard.is_file(), workers, progress)
    opened = open_store(store)
    cuts = np.unique(np.concatenate([_keys(_read(task.shard)) for task in tasks]))
    for task in tasks:
        found = _read(task.shard)
        prompt = np.searchsorted(cuts, _keys(found))
        spool.add(Rows(found["feature"], prompt, found["n_pairs"], found["position"], found["value"]))
    sample, start = cuts >> 32, cuts & (2**32 - 1)
    return _prompts(opened, sample, start, prompts)


def _keys(shard: dict[str, NDArray[Any]]) -> Ints:
    return np.asarray((shard["sample"] << 32) | shard["start"])


def _run(task: _Task) -> int:
    """Write the shard of some features."""
    store = open_store(task.store)
    rows = partial(_of_feature, store, task.per_feature, task.seed)
    found = [one for feature in range(*task.features) for one in [rows(feature)] if one is not None]
    arrays = {
        name: np.concatenate([np.zeros(0, kind), *(one[name] for one in found)])
        for name, kind in zip(NAMES, [np.int64] * 5 + [np.float32], strict=True)
    }
    temporary = task.shard.with_name(task.shard.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    temporary.replace(task.shard)
    return len(arrays["feature"])


def _read(shard: Path) -> dict[str, NDArray[Any]]:
    with np.load(shard, allow_pickle=False) as file:
        return {name: file[name] for name in NAMES}


def _of_feature(store: Store, per_feature: int, seed: int, feature: int) -> dict[str, NDArray[Any]] | None:
    """Samples of a feature: the strongest one of each unit, spread by rank over all units where it fires."""
    rows, values = store.activations(feature, "explain")
    if not len(rows):
        return None
    samples = store.row_sample[rows].astype(np.int64)
    units = store.row_unit[rows].astype(np.int64)
    # the strongest row of each unit, the first of equal ones
    order = np.lexsort((rows, -values, units))
    strongest = order[np.concatenate([[True], units[order][1:] != units[order][:-1]])]
    strength = values[strongest]
    chosen = choose_by_quantile(strength, samples[strongest], per_feature, 1, seed, feature)
    at = strongest[chosen.places]
    # rows of a sample are neighbours, and samples ascend with rows
    begin, end = (np.searchsorted(samples, samples[at], side=side) for side in ("left", "right"))
    cuts = [_cut(store, int(samples[i]), int(rows[i])) for i in at.tolist()]
    pairs = expand_ranges(begin, end - begin)
    which = np.repeat(np.arange(len(at)), end - begin)
    start, stop = (np.array(ends, np.int64) for ends in zip(*cuts, strict=True))
    if store.is_sequence:
        position = store.row_position[rows[pairs]].astype(np.int64) - start[which]
    else:
        position = np.zeros(len(pairs), np.int64)
    inside = (position >= 0) & (position < (stop - start)[which])
    return {
        "feature": np.full(len(at), feature, np.int64),
        "sample": samples[at],
        "start": start,
        "n_pairs": np.bincount(which[inside], minlength=len(at)),
        "position": position[inside],
        "value": values[pairs][inside],
    }


def _cut(store: Store, sample: int, row: int) -> tuple[int, int]:
    """(start, stop) of the tokens of a sample that are kept; of a set all."""
    length = int(store.first_token[sample + 1] - store.first_token[sample])
    if not store.is_sequence:
        return 0, length
    return window_bounds(length, int(store.row_position[row]), LONGEST)


def _prompts(store: Store, sample: Ints, start: Ints, prompts: PromptSpool) -> Prompts:
    """The tokens of stretches of samples."""
    words: Sequence[str] = store.tokens
    ids = prompts.codes_of(pa.array(words, pa.large_string()))
    for first in range(0, len(sample), CUTS):
        some = slice(first, first + CUTS)
        begin = store.first_token[sample[some]]
        length = store.first_token[sample[some] + 1] - begin
        if store.is_sequence:
            length = np.minimum(length - start[some], LONGEST)
        tokens = store.backend.gather("samples/tokens", expand_ranges(begin + start[some], length))
        prompts.add(np.arange(first, first + len(length)), length, ids[tokens.astype(np.int64)])
    return prompts.all()
