"""The order of a store: which place each sample, token and row of a bundle gets."""

import numpy as np
from numpy.typing import NDArray

from pipeline.importers.bundle import BundleConfig, Samples
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.analysis.splits import content_unit, order_units

Ints = NDArray[np.int64]


class Rows:
    """Where each sample, token and row of the bundle goes in the store."""

    def __init__(self, config: BundleConfig, samples: Samples) -> None:
        lengths = samples.lengths
        starts = np.cumsum(lengths) - lengths
        names = np.array(samples.token_names, dtype=object)
        if samples.units is None:
            words = names[samples.token_index]
            units = [
                content_unit(words[s : s + n], config.kind) for s, n in zip(starts, lengths, strict=True)
            ]
        else:
            units = samples.units
        self.unit_names, self.n_explain_units = order_units(units, config.split_seed)
        place = {name: i for i, name in enumerate(self.unit_names)}
        unit = np.array([place[u] for u in units], np.int64)
        self.source = np.lexsort((np.arange(len(unit)), unit))
        self.new_sample = np.empty(len(unit), np.int64)
        self.new_sample[self.source] = np.arange(len(unit))
        self.sample_unit = unit[self.source]
        self.lengths = lengths[self.source]
        self.tokens = sorted(samples.token_names)
        token_place = {name: i for i, name in enumerate(self.tokens)}
        to_id = np.array([token_place[t] for t in samples.token_names], np.int64)
        ids = (
            to_id[samples.token_index][expand_ranges(starts[self.source], self.lengths)]
            if len(to_id)
            else np.zeros(0, np.int64)
        )
        if config.kind == "set":
            keys = np.unique(np.repeat(np.arange(len(unit)), self.lengths) * max(1, len(self.tokens)) + ids)
            owner, ids = np.divmod(keys, max(1, len(self.tokens)))
            self.lengths = np.bincount(owner, minlength=len(unit))
        self.token_ids = ids
        self.first_token = np.concatenate([[0], np.cumsum(self.lengths)])
        longest = int(lengths.max(initial=0))
        excluded = np.zeros(longest + 1, bool)
        excluded[[p for p in config.excluded_positions if 0 <= p <= longest]] = True
        self.rank = np.cumsum(~excluded) - (~excluded)
        self.excluded = excluded
        n_rows = np.ones(len(unit), np.int64) if config.kind == "set" else self.rank[self.lengths]
        self.first_row = np.concatenate([[0], np.cumsum(n_rows)])
        self.n_rows = int(self.first_row[-1])
        self.row_sample = np.repeat(np.arange(len(unit)), n_rows)
        allowed = np.flatnonzero(~excluded)
        index = np.arange(self.n_rows) - self.first_row[self.row_sample]
        self.row_position = np.zeros(self.n_rows, np.int64) if config.kind == "set" else allowed[index]
        self.row_unit = self.sample_unit[self.row_sample]
        self.first_row_of_unit = np.searchsorted(self.row_unit, np.arange(len(self.unit_names) + 1))
        n_explain_samples = int(np.searchsorted(self.sample_unit, self.n_explain_units))
        self.n_explain = {
            "samples": n_explain_samples,
            "rows": int(self.first_row[n_explain_samples]),
            "units": self.n_explain_units,
        }
        if config.kind == "set":
            self.entry_row = np.repeat(np.arange(self.n_rows), self.lengths)
            self.entry_token = self.token_ids
        else:
            self.entry_row = np.arange(self.n_rows)
            self.entry_token = self.token_ids[self.first_token[self.row_sample] + self.row_position]
