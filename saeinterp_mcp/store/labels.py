"""Labels that rows themselves carry (scope `at`): their stored counts, and those of some rows."""

from functools import lru_cache

import numpy as np

from saeinterp_mcp.analysis.moments import LabelCounts, Reference
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.store.base import AnyArray, Ints, Store
from saeinterp_mcp.store.manifest import SPLITS, Split


def reference_of(label_set: str) -> Reference:
    """Levels are compared with level 0; values and tokens with all the rest."""
    return "level_0" if label_set.startswith(("family.", "presence.")) else "rest"


def labels_of_rows(store: Store, label_set: str, rows: Ints) -> tuple[AnyArray, Ints | None]:
    """Labels of rows, of a set `family.NAME`, `group.NAME` or `tokens`.

    Returns:
        labels, row by row, and (n+1,) where those of a row begin; None where every row has just one.
    """
    kind, _, name = label_set.partition(".")
    if kind == "family":
        return np.asarray(store.codes(name)[rows]), None
    if kind == "group":
        return np.asarray(store.group_of_samples(name)[store.row_sample[rows]]), None
    if store.is_sequence:
        return store.token_of_rows(rows), None
    starts = store.first_token[rows]
    lengths = store.first_token[rows + 1] - starts
    tokens = store.sample_tokens[expand_ranges(starts, lengths)]
    return tokens, np.concatenate([[0], np.cumsum(lengths)])


def read_counts(store: Store, label_set: str, split: Split) -> LabelCounts:
    """The precomputed counts of a label set in a whole split."""
    s = SPLITS.index(split)
    read = store.backend.column
    prefix = f"counts/{label_set}"
    n_units = store.n_units(split)
    return LabelCounts(
        reference=reference_of(label_set),
        n_rows=store.n_rows(split),
        n_units=n_units,
        unit_nn=float(read("counts/unit_nn")[s]),
        n=np.asarray(read(f"{prefix}/n")[s]),
        units=np.asarray(read(f"{prefix}/units")[s]),
        rest_units=np.asarray(read(f"{prefix}/rest_units")[s]),
        nn=np.asarray(read(f"{prefix}/nn")[s]),
        n_reference=np.asarray(read(f"{prefix}/n_reference")[s]),
        indptr=read(f"{prefix}/indptr")[: n_units + 1],
        labels=read(f"{prefix}/labels"),
        pair_n=read(f"{prefix}/pair_n"),
    )


stored_counts = lru_cache(maxsize=256)(read_counts)
"""The same, kept for the next question."""
