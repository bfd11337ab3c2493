"""Backend and StoreWriter: what every backend reads and writes. Store: the nouns on top of a backend.

A backend knows arrays by the names of `layout.ARRAYS` and tables by name; `Store` gives them meaning. A new backend
is a subclass of `Backend` that passes `tests/store/contract.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.errors import BadInput, NotInStore, UnknownName, nearest
from saeinterp_mcp.labels.database import LabelDatabase
from saeinterp_mcp.store.layout import NO_INDEX
from saeinterp_mcp.store.manifest import SPLITS, FamilyInfo, GroupInfo, Manifest, Split

if TYPE_CHECKING:
    import polars as pl

    from saeinterp_mcp.validation.folder import Validation

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
AnyArray = NDArray[Any]


COUNTED_ROWS = 1 << 14
"""Rows whose features are counted at a time."""


class Postings(NamedTuple):
    """Where a feature fires: `rows` (n,) int64 ascending, `values` (n,) float32 above 0."""

    rows: Ints
    values: NDArray[np.float32]


class Backend(ABC):
    """Reads named arrays and tables of one finished store. Safe for many threads."""

    folder: Path | None = None
    """Where the store is on this machine, with its neighbours beside it; None elsewhere."""

    @abstractmethod
    def manifest(self) -> Manifest:
        """What the store holds."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether the store holds the array."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""

    @abstractmethod
    def span(self, name: str, start: int, stop: int) -> AnyArray:
        """Entries `start:stop` along the first axis, as a fresh or read-only array."""

    @abstractmethod
    def column(self, name: str) -> AnyArray:
        """The whole array, read-only; may be memory-mapped, so that a gather reads only what it needs."""

    def gather(self, name: str, index: Ints) -> AnyArray:
        """Entries of an array, in the order of `index`."""
        return np.asarray(self.column(name)[index])

    def prefetch(self, features: Sequence[int]) -> None:
        """Told which features will be read soon; may do nothing."""
        return

    def postings(self, feature: int) -> Postings:
        """Where a feature fires, in all segments."""
        parts = []
        for segment in range(len(self.manifest().segments)):
            prefix = segment_prefix(segment)
            start, stop = (int(i) for i in self.column(f"{prefix}features/indptr")[feature : feature + 2])
            rows = self.span(f"{prefix}features/rows", start, stop).astype(np.int64)
            values = self.span(f"{prefix}features/values", start, stop)
            parts.append((rows, values))
        if len(parts) == 1:
            return Postings(*parts[0])
        rows = np.concatenate(
            [
                self.column(f"segments/{k}/store_row")[rows].astype(np.int64)
                for k, (rows, _) in enumerate(parts)
            ]
        )
        order = np.argsort(rows, kind="stable")  # merges runs that ascend already
        return Postings(rows[order], np.concatenate([values for _, values in parts])[order])

    def firing_at(self, rows: Ints) -> tuple[Ints, Ints, NDArray[np.float32]]:
        """What fires at some rows: (index into `rows`, feature, activation), one entry an activation."""
        found = []
        n_segments = len(self.manifest().segments)
        for segment in range(n_segments):
            index, local = np.arange(len(rows)), rows
            if n_segments > 1:
                places = self.column(f"segments/{segment}/store_row")
                at = np.minimum(np.searchsorted(places, rows), max(0, len(places) - 1))
                here = places[at] == rows if len(places) else np.zeros(len(rows), bool)
                index, local = index[here], at[here]
            prefix = segment_prefix(segment)
            indptr = self.column(f"{prefix}rows/indptr")
            starts, counts = indptr[local], indptr[local + 1] - indptr[local]
            entries = expand_ranges(starts, counts)
            features = self.gather(f"{prefix}rows/features", entries).astype(np.int64)
            found.append((np.repeat(index, counts), features, self.gather(f"{prefix}rows/values", entries)))
        if n_segments == 1:
            return found[0]
        index, features, values = (np.concatenate(columns) for columns in zip(*found, strict=True))
        order = np.argsort(index, kind="stable")
        return index[order], features[order], values[order]

    @abstractmethod
    def table(self, name: str) -> "pl.DataFrame":
        """A table: `samples`, `vocabulary`, `families`, `groups`, `features`, `examples`, `decoder_influence`."""


def segment_prefix(segment: int) -> str:
    """What the names of a segment's activations begin with."""
    return "" if segment == 0 else f"segments/{segment}/"


class Growing(ABC):
    """An array or a table that is written in parts and gets its length at the end."""

    @abstractmethod
    def add(self, block: Any) -> None:
        """Append entries (an array) or rows (a data frame)."""

    @abstractmethod
    def close(self) -> None:
        """No more parts."""


class StoreWriter(ABC):
    """Takes arrays in blocks along the first axis, then tables, then the manifest, which publishes the store."""

    @abstractmethod
    def create(self, name: str, shape: Sequence[int], dtype: str) -> None:
        """Announce an array and its final shape."""

    @abstractmethod
    def write(self, name: str, start: int, block: AnyArray) -> None:
        """Write `block` at `start` along the first axis; every entry is written once, in order."""

    def put(self, name: str, array: AnyArray) -> None:
        """Create and write a whole array."""
        self.create(name, array.shape, array.dtype.str[1:])
        self.write(name, 0, array)

    @abstractmethod
    def grow(self, name: str, dtype: str) -> Growing:
        """Begin a one-dimensional array whose length is known when it is closed."""

    @abstractmethod
    def table(self, name: str, frame: "pl.DataFrame") -> None:
        """Write a table."""

    @abstractmethod
    def grow_table(self, name: str) -> Growing:
        """Begin a table that comes in parts."""

    @abstractmethod
    def publish(self, manifest: Manifest) -> Manifest:
        """Close the files, hash them, write the manifest last; returns it with its file list."""


class Store:
    """A finished store, opened read-only."""

    def __init__(
        self, backend: Backend, name: str | None = None, labels: LabelDatabase | None = None
    ) -> None:
        self.backend = backend
        self.labels = labels
        """Where labels, notes, held-out tests and evidence are kept; None where there is no place for it."""
        self.manifest = backend.manifest()
        self.name = name or self.manifest.name

    @cached_property
    def fingerprint(self) -> str:
        """Names the content of the store in evidence."""
        return self.manifest.fingerprint()

    @cached_property
    def lineage(self) -> str:
        """The key of the store's labels: the fingerprint of its first generation, so that they survive an append."""
        return self.manifest.lineage or self.fingerprint

    @property
    def need_labels(self) -> LabelDatabase:
        """Where labels are kept.

        Raises:
            BadInput: nowhere.
        """
        if self.labels is None:
            raise BadInput(
                f"store {self.name!r} has no place for labels, notes and held-out tests; name a file with --labels FILE"
            )
        return self.labels

    @property
    def validation(self) -> "Validation | None":
        """The tables beside the store that set explanations against activations; None where there are none.

        Raises:
            BadStore: they are damaged, or of another store.
        """
        if self.backend.folder is None:
            return None
        from saeinterp_mcp.validation.folder import validation_beside

        return validation_beside(self.backend.folder, self.lineage)

    @property
    def need_validation(self) -> "Validation":
        """The same.

        Raises:
            NotInStore: there are none.
            BadStore: they are damaged, or of another store.
        """
        found = self.validation
        if found is None:
            raise NotInStore(
                f"no tables of explanations, scores and examples lie beside store {self.name!r}; "
                "`saeinterp-pipeline validate CONFIG` makes them"
            )
        return found

    @cached_property
    def tokens(self) -> list[str]:
        """Token strings; a token's id is its index."""
        return [str(t) for t in self.backend.table("vocabulary")["token"].to_list()]

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Token string to id."""
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def output_tokens(self) -> list[str]:
        """Strings of the model's output tokens, or empty."""
        frame = self.backend.table("outputs")
        return [str(t) for t in frame["token"].to_list()]

    @cached_property
    def families(self) -> dict[str, FamilyInfo]:
        """Families by name."""
        return {f.name: f for f in self.manifest.families}

    @cached_property
    def groups(self) -> dict[str, GroupInfo]:
        """Groups by name."""
        return {g.name: g for g in self.manifest.groups}

    @property
    def is_sequence(self) -> bool:
        """Whether samples are sequences with one activation vector a position."""
        return self.manifest.kind == "sequence"

    def family(self, name: str) -> FamilyInfo:
        """A family by name.

        Raises:
            UnknownName: no such family.
        """
        if name not in self.families:
            raise UnknownName(f"no family {name!r} in store {self.name!r}; {nearest(name, self.families)}")
        return self.families[name]

    def group(self, name: str) -> GroupInfo:
        """A group by name.

        Raises:
            UnknownName: no such group.
        """
        if name not in self.groups:
            raise UnknownName(f"no group {name!r} in store {self.name!r}; {nearest(name, self.groups)}")
        return self.groups[name]

    def check_feature(self, feature: int) -> None:
        """Refuse a feature the store does not have.

        Raises:
            UnknownName: not 0 <= feature < n_features.
        """
        last = self.manifest.n_features - 1
        if not 0 <= feature <= last:
            raise UnknownName(
                f"feature {feature} is not in store {self.name!r}, which has 0 to {last}; features_search finds some"
            )

    def need_full_coverage(self, question: str) -> None:
        """Refuse a question about the whole distribution in a store that holds only top examples.

        Raises:
            NotInStore: the store is sampled.
        """
        if self.manifest.coverage != "full":
            raise NotInStore(
                f"{question} needs every activation, but store {self.name!r} is sampled: it was imported from data "
                f"that hold only chosen examples, so rates and means would be wrong. Build a store from the model, "
                f"or import all activations."
            )

    def n_rows(self, split: Split) -> int:
        """Counted positions of a split; they are rows 0 to n - 1."""
        return self.manifest.n_rows if split == "all" else self.manifest.n_explain["rows"]

    def n_units(self, split: Split) -> int:
        """Units of a split; they are units 0 to n - 1."""
        return self.manifest.n_units if split == "all" else self.manifest.n_explain["units"]

    def activations(self, feature: int, split: Split = "all") -> Postings:
        """Where `feature` fires, in a split.

        Raises:
            UnknownName: no such feature.
        """
        self.check_feature(feature)
        rows, values = self.backend.postings(feature)
        if split == "explain":
            end = int(np.searchsorted(rows, self.n_rows("explain")))
            rows, values = rows[:end], values[:end]
        return Postings(rows, values)

    def activations_of(self, features: Sequence[int], split: Split = "all") -> list[Postings]:
        """Where each of some features fires; the disk is told of all of them first.

        Raises:
            UnknownName: no such feature.
        """
        for feature in features:
            self.check_feature(feature)
        self.backend.prefetch(features)
        return [self.activations(feature, split) for feature in features]

    def firing_at(self, rows: Ints) -> tuple[Ints, Ints, NDArray[np.float32]]:
        """What fires at some rows: (index into `rows`, feature, activation), one entry an activation."""
        return self.backend.firing_at(rows)

    def count_firing(self, rows: Ints) -> Ints:
        """(F,) on how many of some rows each feature fires; a part of the rows at a time."""
        total = np.zeros(self.manifest.n_features, np.int64)
        for start in range(0, len(rows), COUNTED_ROWS):
            features = self.backend.firing_at(rows[start : start + COUNTED_ROWS])[1]
            total += np.bincount(features, minlength=len(total))
        return total

    @cached_property
    def row_unit(self) -> AnyArray:
        """(R,) unit of each row."""
        return self.backend.column("rows/unit")

    @cached_property
    def row_sample(self) -> AnyArray:
        """(R,) sample of each row."""
        return self.backend.column("rows/sample")

    @cached_property
    def row_position(self) -> AnyArray:
        """(R,) position of each row in its sample."""
        return self.backend.column("rows/position")

    @cached_property
    def source(self) -> Ints:
        """(N,) row of each sample in the input: the number people know it by, which an append does not change."""
        return self.backend.column("samples/source")

    @cached_property
    def first_token(self) -> Ints:
        """(N+1,) offsets of the samples' tokens."""
        return self.backend.column("samples/first_token")

    @cached_property
    def sample_tokens(self) -> AnyArray:
        """(T,) token ids of all samples, one after the other."""
        return self.backend.column("samples/tokens")

    @cached_property
    def first_row(self) -> Ints:
        """(N+1,) offsets of the samples' rows."""
        return self.backend.column("samples/first_row")

    def tokens_of_sample(self, sample: int) -> AnyArray:
        """Token ids of one sample, excluded positions too."""
        return self.sample_tokens[int(self.first_token[sample]) : int(self.first_token[sample + 1])]

    def token_of_rows(self, rows: Ints) -> Ints:
        """Token id at each row of a sequence store."""
        offsets = self.first_token[self.row_sample[rows]] + self.row_position[rows]
        return self.sample_tokens[offsets].astype(np.int64)

    def codes(self, family: str) -> AnyArray:
        """(R,) code of the family's level at each row (scope `at`): 0 none, k the k-th level."""
        self.family(family)
        return self.backend.column(f"codes/{family}")

    def group_of_samples(self, group: str) -> AnyArray:
        """(N,) index into the group's values."""
        self.group(group)
        return self.backend.column(f"groups/{group}")

    def per_feature(self, name: str, feature: int, split: Split | None = None) -> AnyArray:
        """A feature's entry of an array whose first axis is the feature (second the split, when given)."""
        entry = self.backend.span(name, feature, feature + 1)[0]
        return np.asarray(entry if split is None else entry[SPLITS.index(split)])

    def list_of_feature(self, name: str, feature: int, split: Split | None = None) -> AnyArray:
        """A padded list of a feature, without its padding; u32 lists become int64."""
        entry = self.per_feature(name, feature, split)
        if entry.dtype.kind == "u":
            return np.asarray(entry[entry != NO_INDEX], np.int64)
        return np.asarray(entry[~np.isnan(entry)])
