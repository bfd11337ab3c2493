"""Slices: the rows a question is asked about, with the feature's activations and label counts in them."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.firing import region_of
from saeinterp_mcp.analysis.label_sums import FiringUnits, firing_units, label_sums
from saeinterp_mcp.analysis.moments import (
    LabelCounts,
    Moments,
    Reference,
    UnitTotals,
    count_labels,
    distinct,
    moments_of,
)
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.operations.known_names import checked_rule
from saeinterp_mcp.rules import REGIONS, evaluate
from saeinterp_mcp.store.base import Bools, Floats, Ints, Store
from saeinterp_mcp.store.labels import labels_of_rows, reference_of, stored_counts
from saeinterp_mcp.store.layout import REGIONS as FIRING_REGIONS
from saeinterp_mcp.store.manifest import Split
from saeinterp_mcp.store.sums import FeatureSums, stored_sums

Scope = Literal["at", "before", "sample"]
DEFAULT_WINDOW = 16


@dataclass(frozen=True)
class Scoping:
    """Which tokens count as present at a position of a sequence (design 3); means nothing in a set store."""

    scope: Scope = "at"
    window: int = DEFAULT_WINDOW

    def check(self, store: Store) -> "Scoping":
        """The scoping to use in a store: `at` in a set store, where nothing else has a meaning."""
        if not store.is_sequence and self.scope != "at":
            raise BadInput(f"scope {self.scope!r} has no meaning in set store {store.name!r}; leave it out")
        return self

    def in_words(self, store: Store, reads_tokens: bool) -> str | None:
        """`at`, `before 16` or `sample`; `at` where no token is asked for, because then it changes nothing."""
        if not store.is_sequence:
            return None
        if not reads_tokens:
            return "at"
        return f"before {self.window}" if self.scope == "before" else self.scope

    def warnings(self) -> list[str]:
        """What a reader of the result must know."""
        if self.scope == "sample":
            return [
                "scope 'sample' counts later tokens too; a causal model has not seen them at the position"
            ]
        if self.scope == "before":
            return [
                f"scope 'before' is the {self.window} positions before: a heuristic, not the model's attention"
            ]
        return []


class StoreRows:
    """The rows of a split, as the rule grammar sees them."""

    def __init__(self, store: Store, split: Split, scoping: Scoping, feature: int | None) -> None:
        self.store, self.split, self.scoping, self.feature = store, split, scoping, feature
        self._n = store.n_rows(split)

    @property
    def n_rows(self) -> int:
        """Rows of the split."""
        return self._n

    def codes(self, family: str) -> NDArray[Any]:
        """(n_rows,) code of the highest level in scope."""
        codes = self.store.codes(family)[: self._n]
        if self.scoping.scope == "at":
            return np.asarray(codes)
        return spread_in_scope(self.store, np.asarray(codes), self.scoping)

    def family_level(self, name: str) -> Ints:
        """Highest level value in scope, 0 where none is."""
        levels = np.array([0, *self.store.family(name).levels], np.int64)
        return np.asarray(levels[self.codes(name)])

    def has_token(self, token: str) -> Bools:
        """Whether the token is in scope."""
        wanted = self.store.token_ids[token]
        if self.store.is_sequence:
            here = self.store.token_of_rows(np.arange(self._n)) == wanted
            if self.scoping.scope == "at":
                return np.asarray(here)
            return spread_in_scope(self.store, here.astype(np.uint8), self.scoping) > 0
        stop = int(self.store.first_token[self._n])
        at = np.flatnonzero(self.store.sample_tokens[:stop] == wanted)
        present = np.zeros(self._n, bool)
        present[np.searchsorted(self.store.first_token, at, side="right") - 1] = True
        return present

    def group_is(self, group: str, attribute: str | None, values: tuple[str, ...]) -> Bools:
        """Whether the row's sample has one of the values."""
        info = self.store.group(group)
        names = info.values if attribute is None else info.attributes[attribute]
        wanted = np.array([name in values for name in names], bool)
        return wanted[self.store.group_of_samples(group)][self.store.row_sample[: self._n]]

    def activation(self) -> NDArray[np.float32]:
        """The feature's activation, 0 where it is silent."""
        assert self.feature is not None, "a rule about activations needs a feature"
        rows, values = self.store.activations(self.feature, self.split)
        dense = np.zeros(self._n, np.float32)
        dense[rows] = values
        return dense

    def region(self) -> NDArray[np.int8]:
        """Index into `rules.REGIONS`."""
        assert self.feature is not None, "a rule about regions needs a feature"
        dense = np.full(self._n, REGIONS.index("silent"), np.int8)
        rows, values = self.store.activations(self.feature, self.split)
        maximum = float(self.store.per_feature("stats/effective_max", self.feature))
        if not np.isfinite(maximum):
            raise BadInput(
                f"feature {self.feature} has no regions: it fires under 20 times in the explain split, so its "
                "effective maximum is unknown"
            )
        place = np.array([REGIONS.index(name) for name in FIRING_REGIONS], np.int8)
        dense[rows] = place[region_of(values, maximum)]
        return dense


def spread_in_scope(store: Store, codes: NDArray[Any], scoping: Scoping) -> NDArray[Any]:
    """Highest code in scope of each row, from codes at the rows themselves (a prefix of whole samples)."""
    n = len(codes)
    sample = store.row_sample[:n]
    if scoping.scope == "sample":
        starts = np.asarray(store.first_row[:-1])
        starts = np.unique(starts[starts < n])
        highest = np.maximum.reduceat(codes, starts) if n else codes
        return np.repeat(highest, np.diff(np.append(starts, n)))
    out = np.zeros_like(codes)
    position = store.row_position[:n].astype(np.int64)
    for back in range(1, min(scoping.window, n - 1) + 1):
        # rows skip excluded positions (BOS), so the row `back` places earlier lies at least `back` positions before
        inside = (sample[back:] == sample[:-back]) & (position[back:] - position[:-back] <= scoping.window)
        np.maximum(out[back:], np.where(inside, codes[:-back], 0), out=out[back:])
    return out


@dataclass(frozen=True)
class Slice:
    """The rows of a split where a rule holds, and one feature's activations in them."""

    store: Store
    feature: int
    split: Split
    scoping: Scoping
    mask: Bools | None
    """None for the whole split."""
    warnings: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole split with the labels of the rows themselves: what counts and sums are stored of."""
        return self.mask is None and self.scoping.scope == "at"

    @cached_property
    def n_rows(self) -> int:
        """Rows of the slice, silent ones included."""
        return self.store.n_rows(self.split) if self.mask is None else int(self.mask.sum())

    @cached_property
    def unit_rows(self) -> Ints:
        """(U,) rows of each unit of the split that lie in the slice."""
        n_units = self.store.n_units(self.split)
        if self.mask is None:
            return np.diff(self.store.backend.column("units/first_row")[: n_units + 1])
        return np.bincount(self.store.row_unit[: len(self.mask)][self.mask], minlength=n_units)

    @property
    def n_units(self) -> int:
        """Units with a row in the slice."""
        return int((self.unit_rows > 0).sum())

    @cached_property
    def firing(self) -> tuple[Ints, NDArray[np.float64]]:
        """(rows, activations) where the feature fires in the slice."""
        rows, values = self.store.activations(self.feature, self.split)
        if self.mask is not None:
            inside = self.mask[rows]
            rows, values = rows[inside], values[inside]
        return rows, values.astype(np.float64)

    @cached_property
    def firing_units(self) -> FiringUnits:
        """Units of the firing rows."""
        rows, values = self.firing
        return firing_units(self.store.row_unit[rows], values, self.unit_rows)

    @cached_property
    def stored_sums(self) -> FeatureSums | None:
        """The feature's sums by label, where the slice is one that they are stored of."""
        return stored_sums(self.store, self.feature, self.split) if self.is_whole else None

    @cached_property
    def largest(self) -> float:
        """The feature's largest activation in the split: the scale of an upper bound where nothing fired."""
        return float(self.store.per_feature("stats/max", self.feature, self.split))

    def labels(self, label_set: str) -> "Labels":
        """The labels of the slice's rows: `family.NAME`, `group.NAME`, `group.NAME.ATTRIBUTE` or `tokens`."""
        return Labels(self, label_set)


@dataclass(frozen=True)
class Labels:
    """One set of labels in a slice: counted by unit, and joined to the firing rows."""

    slice: Slice
    label_set: str

    @property
    def reference(self) -> Reference:
        """What a label is compared with."""
        return reference_of(self.label_set)

    @cached_property
    def names(self) -> list[Any]:
        """What each label stands for: a level value (0 first), a group's value, a token."""
        store, (kind, *rest) = self.slice.store, self.label_set.split(".")
        if kind == "tokens":
            return list(store.tokens)
        if kind == "presence":
            return [0, 1]
        if kind == "family":
            return [0, *store.family(rest[0]).levels]
        info = store.group(rest[0])
        return list(info.values) if len(rest) == 1 else sorted(set(info.attributes[rest[1]]))

    def of_rows(self, rows: Ints) -> tuple[Ints, Ints]:
        """(index into `rows`, label), one entry for each label a row carries."""
        label, first = self.labels_of(rows)
        entry = np.arange(len(rows))
        return entry if first is None else np.repeat(entry, np.diff(first)), label.astype(np.int64)

    def labels_of(self, rows: Ints) -> tuple[NDArray[Any], Ints | None]:
        """Labels of rows, row by row, and (n+1,) where those of a row begin; None for one label each."""
        store, (kind, *rest) = self.slice.store, self.label_set.split(".")
        if kind == "presence" or (kind == "family" and self.slice.scoping.scope != "at"):
            codes = self._family_codes(rest[0])[rows]
            return np.asarray(codes if kind == "family" else np.minimum(codes, 1)), None
        if len(rest) > 1:
            value, _ = labels_of_rows(store, f"group.{rest[0]}", rows)
            return self._attribute_of_value(rest[0], rest[1])[value], None
        if kind != "tokens" or not store.is_sequence or self.slice.scoping.scope == "at":
            return labels_of_rows(store, self.label_set, rows)
        starts, stops = self._rows_in_scope(rows)
        entry, row = np.repeat(np.arange(len(rows)), stops - starts), expand_ranges(starts, stops - starts)
        if self.slice.scoping.scope == "before":
            distance = store.row_position[rows].astype(np.int64)[entry] - store.row_position[row]
            near = distance <= self.slice.scoping.window
            entry, row = entry[near], row[near]
        keys = distinct(entry * len(store.tokens) + store.token_of_rows(row))
        entry, label = np.divmod(keys, len(store.tokens))
        return label, np.searchsorted(entry, np.arange(len(rows) + 1))

    def _rows_in_scope(self, rows: Ints) -> tuple[Ints, Ints]:
        """Rows are counted positions only, so BOS is never among them."""
        store, scoping = self.slice.store, self.slice.scoping
        sample = store.row_sample[rows].astype(np.int64)
        if scoping.scope == "sample":
            return store.first_row[sample], store.first_row[sample + 1]
        return np.maximum(store.first_row[sample], rows - scoping.window), rows

    def _family_codes(self, family: str) -> NDArray[Any]:
        if self.slice.scoping.scope == "at":
            return self.slice.store.codes(family)
        return _scoped_codes(self.slice.store, family, self.slice.split, self.slice.scoping)

    def _attribute_of_value(self, group: str, attribute: str) -> Ints:
        place = {name: i for i, name in enumerate(self.names)}
        return np.array([place[a] for a in self.slice.store.group(group).attributes[attribute]], np.int64)

    @cached_property
    def counts(self) -> LabelCounts:
        """Counts by unit: stored ones for a whole split, else counted over the slice's rows."""
        part = self.slice
        assert not self.label_set.startswith("presence."), "presence is counted with the levels of its family"
        if part.is_whole and self.label_set.count(".") < 2:
            return stored_counts(part.store, self.label_set, part.split)
        if part.mask is None:
            return _counted(part.store, self.label_set, part.split, part.scoping)
        return self._count()

    def _count(self) -> LabelCounts:
        part = self.slice
        rows = np.arange(part.store.n_rows(part.split)) if part.mask is None else np.flatnonzero(part.mask)
        entry, label = self.of_rows(rows)
        unit = part.store.row_unit[rows].astype(np.int64)[entry]
        return count_labels(unit, label, part.unit_rows, len(self.names), self.reference)

    def moments(self) -> tuple[Moments, Moments]:
        """Sums by label and reference, of the activation and of firing as 0 and 1."""
        part = self.slice
        if self.label_set.startswith("presence."):
            levels = part.labels(f"family.{self.label_set.removeprefix('presence.')}")
            sums, of_units = levels.sums
            return moments_of(levels.counts.presence(), sums[[0, -1]], of_units)
        sums, of_units = self.sums
        return moments_of(self.counts, sums[: len(self.counts.n)], of_units)

    @cached_property
    def sums(self) -> tuple[Floats, UnitTotals]:
        """Sums over units, by label (`layout.LABEL_SUMS`; of a family one more, any level) and over all."""
        part = self.slice
        if part.stored_sums and (stored := part.stored_sums.of(self.label_set)) is not None:
            return stored, part.stored_sums.totals
        labels = self.labels_of(part.firing[0])
        return label_sums(self.counts, part.firing_units, *labels), part.firing_units.totals


@lru_cache(maxsize=64)
def _counted(store: Store, label_set: str, split: Split, scoping: Scoping) -> LabelCounts:
    return Labels(Slice(store, 0, split, scoping, None), label_set)._count()


@lru_cache(maxsize=64)
def _scoped_codes(store: Store, family: str, split: Split, scoping: Scoping) -> NDArray[Any]:
    return spread_in_scope(store, np.asarray(store.codes(family)[: store.n_rows(split)]), scoping)


def make_slice(
    store: Store,
    feature: int,
    split: Split,
    where: str | None,
    scoping: Scoping | None = None,
    given: str | None = None,
) -> Slice:
    """The rows of a split where `where` (and `given`) hold.

    Raises:
        UnknownName, BadInput: an unknown feature or name, or a rule that cannot be read.
    """
    store.check_feature(feature)
    scoping = (scoping or Scoping()).check(store)
    mask = None
    for text in (where, given):
        if text is None or not text.strip():
            continue
        rows = StoreRows(store, split, scoping, feature)
        holds = evaluate(checked_rule(text, store), rows)
        mask = holds if mask is None else mask & holds
    warnings = scoping.warnings()
    if mask is not None and not mask.any():
        warnings.append("no stored row satisfies the condition: this is missing data, not a zero")
    return Slice(store, feature, split, scoping, mask, warnings)
