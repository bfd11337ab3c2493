"""The tables beside exported activations, as the seed's code reads them, and what else our import needs.

Columns of the seed come first; `unit`, the groups and, of sequences, `sample`, `position`, `excluded` and
`level_NAME` follow. Tokens and weapons are the ids of `vocab.json` and `weapon_vocab.json`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from pipeline.exporters.folder import write_json
from pipeline.exporters.source_rows import SourceRows
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.loaders.metadata import EXCLUDED, LEVEL, NULL_TOKEN, POSITION, SAMPLE, UNIT, WEAPON

PAD = "<PAD>"
WEAPON_GROUP, NULL_GROUP = "weapon", "null_sample"
NO_WEAPON = -1


class Metadata:
    """Makes the tables of any range of rows."""

    def __init__(self, rows: SourceRows) -> None:
        self.rows, self.store = rows, rows.store
        self.token_ids = {token: i for i, token in enumerate(self.store.tokens)}
        for special in (NULL_TOKEN, PAD):  # last, as the seed's vocabularies have them
            self.token_ids.setdefault(special, len(self.token_ids))
        self._units = self.store.backend.table("samples")[UNIT]
        self._weapons = self.store.groups.get(WEAPON_GROUP)
        marks = self.store.groups.get(NULL_GROUP)
        self._null_code = marks.values.index("yes") if marks is not None and "yes" in marks.values else None

    @property
    def groups(self) -> list[str]:
        """Groups that are columns of their own, the primary one first."""
        named = sorted(self.store.groups.values(), key=lambda group: not group.primary)
        known = (WEAPON_GROUP, NULL_GROUP) if self._null_code is not None else (WEAPON_GROUP,)
        return [group.name for group in named if group.name not in known]

    def tokens(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Offsets (n + 1,) and token ids of original rows; a null record holds the null token alone."""
        _, position, stored = self.rows.samples_at(start, stop)
        first = self.store.first_token[stored].astype(np.int64)
        if self.store.is_sequence:
            ids = np.asarray(self.store.sample_tokens[first + position], np.int64)
            return np.arange(len(stored) + 1), ids
        counts = self.store.first_token[stored + 1] - first
        ids = np.asarray(self.store.sample_tokens[expand_ranges(first, counts)], np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        null = np.flatnonzero(self.is_null(stored))
        if len(null):
            ids = np.insert(ids, offsets[null], self.token_ids[NULL_TOKEN])
            offsets = offsets + np.concatenate([[0], np.cumsum(self.is_null(stored))])
        return offsets, ids

    def is_null(self, stored: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether stored samples are null records."""
        if self._null_code is None:
            return np.zeros(len(stored), bool)
        return np.asarray(self.store.group_of_samples(NULL_GROUP)[stored] == self._null_code)

    def weapons(self, stored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Weapon ids of stored samples; -1 where the store has no group `weapon`."""
        if self._weapons is None:
            return np.full(len(stored), NO_WEAPON)
        return np.asarray(self.store.group_of_samples(WEAPON_GROUP)[stored], np.int64)

    def table(self, start: int, stop: int, batch: int) -> pl.DataFrame:
        """The table of one batch: original rows `start` to `stop` - 1."""
        sample, position, stored = self.rows.samples_at(start, stop)
        offsets, ids = self.tokens(start, stop)
        null, weapons = self.is_null(stored), self.weapons(stored)
        names = np.array(self._weapons.values if self._weapons is not None else ("",), object)
        columns: dict[str, Any] = {
            "batch_id": np.full(stop - start, batch),
            "sample_id": np.arange(stop - start),
            "ability_tokens": pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))),
            WEAPON: weapons,
            "is_null_token": null,
            "weapon_name": pl.Series(
                np.where(null, names[np.maximum(weapons, 0)], "").tolist(), dtype=pl.String
            ),
            "global_index": np.arange(start, stop),
            UNIT: self._units.gather(pl.Series(stored)),
        }
        for name in self.groups:
            values = pl.Series(self.store.group(name).values, dtype=pl.String)
            columns[name] = values.gather(pl.Series(np.asarray(self.store.group_of_samples(name)[stored])))
        if self.store.is_sequence:
            columns |= {SAMPLE: sample, POSITION: position, EXCLUDED: self.rows.stored(start, stop) < 0}
        return pl.DataFrame(columns | self._levels(start, stop))

    def _levels(self, start: int, stop: int) -> dict[str, Any]:
        at = self.rows.stored(start, stop)
        columns = {}
        for family in self.store.manifest.families:
            if family.of_positions:
                codes = np.asarray(self.store.codes(family.name)[np.maximum(at, 0)], np.int64)
                levels = np.array([0, *family.levels], np.int64)
                columns[LEVEL + family.name] = np.where(at >= 0, levels[codes], 0)
        return columns

    def write_names(self, folder: Path) -> None:
        """`vocab.json`, `weapon_vocab.json`, and `families.yaml` in the form of bundle.yaml's `families`."""
        write_json(folder / "vocab.json", self.token_ids)
        if self._weapons is not None:
            values = {value: code for code, value in enumerate(self._weapons.values)}
            write_json(folder / "weapon_vocab.json", values)
        text = yaml.safe_dump(token_families(self.rows), sort_keys=False, allow_unicode=True, width=110)
        (folder / "families.yaml").write_text(text, encoding="utf-8")


def token_families(rows: SourceRows) -> list[dict[str, Any]]:
    """The families of tokens, as bundle.yaml has them."""
    return [
        {"name": family.name, "encoding": family.encoding, "levels": dict(family.tokens)}
        for family in rows.store.manifest.families
        if not family.of_positions
    ]
