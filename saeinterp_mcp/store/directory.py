"""The directory of a store: samples, rows, units, labels, counts; all but activations and what follows from them.

It is made from a `SampleTable` in blocks of whole units, so that memory is bounded by the columns of the table, and
through a `StoreWriter`, so that a store on disk and one that is served straight from foreign files have the same.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.moments import LabelCounts, Reference, count_labels, distinct
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.base import StoreWriter
from saeinterp_mcp.store.directory_tables import SampleRows, write_tables
from saeinterp_mcp.store.manifest import FamilyInfo, GroupInfo
from saeinterp_mcp.store.sample_table import SampleOrder, SampleTable, order_samples

Ints = NDArray[np.int64]
BLOCK = 65_536
MAX_LEVELS = 65_000


class Labelling(NamedTuple):
    """What the samples are asked about, beside their tokens."""

    split_seed: int = 0
    excluded_positions: tuple[int, ...] = ()
    families: tuple[FamilyInfo, ...] = ()
    """Families of tokens."""
    position_levels: dict[str, tuple[Ints, Ints, Ints]] = {}
    """Family of positions to (sample in the source, position, level above 0), a place at most once."""
    groups: tuple[str, ...] = ()
    """Groups in the order to be told; others follow by name."""
    primary: str | None = None
    """Default: the first."""
    attributes: dict[str, dict[str, tuple[str, ...]]] = {}
    """Group to attribute to one string for each value of the group."""


class Directory(NamedTuple):
    """What the manifest and the activations need to know."""

    order: SampleOrder
    first_row: Ints
    """(N+1,) rows of stored samples."""
    rank: Ints
    """(longest + 1,) counted positions before each position."""
    excluded: NDArray[np.bool_]
    """(longest + 1,) whether a position is never counted."""
    n_rows: int
    n_tokens: int
    n_explain: dict[str, int]
    families: tuple[FamilyInfo, ...]
    groups: tuple[GroupInfo, ...]
    n_repeated_tokens: int
    warnings: list[str]


class _Block(NamedTuple):
    """Whole units, one after the other, with everything local to the block."""

    source: Ints
    sample_unit: Ints
    lengths: Ints
    tokens: Ints
    row_sample: Ints
    row_position: Ints
    row_unit: Ints
    unit_rows: Ints
    entry_row: Ints
    entry_token: Ints
    first_sample: int
    first_unit: int
    first_row: int


def write_directory(writer: StoreWriter, table: SampleTable, labelling: Labelling) -> Directory:
    """Write every array and table of the directory.

    Raises:
        BadInput: a family with too many levels.
    """
    order = order_samples(table, labelling.split_seed)
    longest = int(table.lengths.max(initial=0))
    excluded = np.zeros(longest + 1, bool)
    excluded[[p for p in labelling.excluded_positions if 0 <= p <= longest]] = True
    rank = np.cumsum(~excluded) - (~excluded)
    n_rows = (
        np.ones(len(order.source), np.int64) if table.kind == "set" else rank[table.lengths[order.source]]
    )
    first_row = np.concatenate([[0], np.cumsum(n_rows)])
    tokens = sorted(table.token_names)
    occurring = set(tokens)
    warnings = [
        f"family {family.name}: token {token!r} never occurs in the samples"
        for family in labelling.families
        for token in family.tokens
        if token not in occurring
    ]
    families, codes_of = _families(table, order, labelling, tokens, first_row, rank, excluded)
    groups = _groups(table, labelling)
    writers = _Writers(writer, families, groups, len(tokens), order.n_explain_units)
    new_id = {name: i for i, name in enumerate(tokens)}
    to_id = np.array([new_id[name] for name in table.token_names] or [0], np.int64)
    n_tokens = 0
    for block in _blocks(table, order, first_row, to_id, excluded, len(tokens)):
        writers.add(block, table, codes_of)
        n_tokens += len(block.tokens)
    df = writers.close()
    n_explain_samples = int(np.searchsorted(order.unit, order.n_explain_units))
    write_tables(
        writer,
        SampleRows(table, order, writers.lengths),
        tokens,
        writers.token_rows,
        writers.token_units,
        df,
        families,
        groups,
    )
    return Directory(
        order=order,
        first_row=first_row,
        rank=rank,
        excluded=excluded,
        n_rows=int(first_row[-1]),
        n_tokens=n_tokens,
        n_explain={
            "samples": n_explain_samples,
            "rows": int(first_row[n_explain_samples]),
            "units": order.n_explain_units,
        },
        families=families,
        groups=groups,
        n_repeated_tokens=int(table.lengths.sum()) - n_tokens if table.kind == "set" else 0,
        warnings=warnings,
    )


class _Codes(NamedTuple):
    """How a family's codes are found: by token, or already by row."""

    of_token: Ints | None
    of_row: NDArray[np.uint16] | None


def _families(
    table: SampleTable,
    order: SampleOrder,
    labelling: Labelling,
    tokens: list[str],
    first_row: Ints,
    rank: Ints,
    excluded: NDArray[np.bool_],
) -> tuple[tuple[FamilyInfo, ...], dict[str, _Codes]]:
    known = {token: i for i, token in enumerate(tokens)}
    families = list(labelling.families)
    codes = {}
    for family in families:
        of_token = np.zeros(len(tokens) + 1, np.int64)
        for token, level in family.tokens.items():
            if token in known:
                of_token[known[token]] = family.levels.index(level) + 1
        codes[family.name] = _Codes(of_token, None)
    new_sample = np.empty(len(order.source), np.int64)
    new_sample[order.source] = np.arange(len(order.source))
    for name, (sample, position, of_place) in sorted(labelling.position_levels.items()):
        levels = np.unique(of_place)
        counted = np.ones(len(sample), bool) if table.kind == "set" else ~excluded[position]
        row = first_row[new_sample[sample[counted]]]
        if table.kind == "sequence":
            row = row + rank[position[counted]]
        of_row = np.zeros(int(first_row[-1]), np.uint16)
        of_row[row] = np.searchsorted(levels, of_place[counted]) + 1
        families.append(
            FamilyInfo(name=name, encoding="exclusive", levels=tuple(levels.tolist()), of_positions=True)
        )
        codes[name] = _Codes(None, of_row)
    for family in families:
        if len(family.levels) > MAX_LEVELS:
            raise BadInput(
                f"family {family.name!r} has {len(family.levels)} levels; at most {MAX_LEVELS} can be stored"
            )
    return tuple(families), codes


def _groups(table: SampleTable, labelling: Labelling) -> tuple[GroupInfo, ...]:
    names = [*labelling.groups, *sorted(set(table.groups) - set(labelling.groups))]
    primary = labelling.primary or (names[0] if names else None)
    return tuple(
        GroupInfo(
            name=name,
            values=tuple(table.groups[name][1]),
            primary=name == primary,
            attributes=labelling.attributes.get(name, {}),
        )
        for name in names
    )


def _blocks(
    table: SampleTable,
    order: SampleOrder,
    first_row: Ints,
    to_id: Ints,
    excluded: NDArray[np.bool_],
    n_tokens: int,
) -> Iterator[_Block]:
    """Blocks of whole units, about `BLOCK` rows and tokens each; none holds units of both splits."""
    starts = np.cumsum(table.lengths) - table.lengths
    allowed = np.flatnonzero(~excluded)
    n_units = len(order.unit_names)
    first_sample_of_unit = np.searchsorted(order.unit, np.arange(n_units + 1))
    size = np.maximum(first_row, np.concatenate([[0], np.cumsum(table.lengths[order.source]) // 16]))
    size_of_unit = size[first_sample_of_unit]
    unit = 0
    while unit < n_units:
        limit = order.n_explain_units if unit < order.n_explain_units else n_units
        stop = int(np.searchsorted(size_of_unit, size_of_unit[unit] + BLOCK, side="right")) - 1
        stop = min(max(stop, unit + 1), limit)
        a, b = int(first_sample_of_unit[unit]), int(first_sample_of_unit[stop])
        source = order.source[a:b]
        lengths = table.lengths[source]
        tokens = to_id[table.token_index[expand_ranges(starts[source], lengths)]]
        n_rows = np.diff(first_row[a : b + 1])
        row_sample = np.repeat(np.arange(b - a), n_rows)
        if table.kind == "set":
            keys = distinct(np.repeat(np.arange(b - a), lengths) * max(1, n_tokens) + tokens)
            owner, tokens = np.divmod(keys, max(1, n_tokens))
            lengths = np.bincount(owner, minlength=b - a)
            position = np.zeros(b - a, np.int64)
            entry_row, entry_token = owner, tokens
        else:
            rows = np.arange(len(row_sample))
            position = allowed[rows - (first_row[a:b] - first_row[a])[row_sample]]
            entry_row, entry_token = rows, tokens[(np.cumsum(lengths) - lengths)[row_sample] + position]
        row_unit = order.unit[a:b][row_sample] - unit
        yield _Block(
            source, order.unit[a:b] - unit, lengths, tokens, row_sample, position, row_unit,
            np.bincount(row_unit, minlength=stop - unit), entry_row, entry_token, a, unit, int(first_row[a]),
        )  # fmt: skip
        unit = stop


class _Writers:
    """The growing arrays, and what is summed over blocks."""

    def __init__(
        self,
        writer: StoreWriter,
        families: tuple[FamilyInfo, ...],
        groups: tuple[GroupInfo, ...],
        n_tokens: int,
        n_explain_units: int,
    ) -> None:
        self._families, self._groups, self._n_tokens = families, groups, n_tokens
        self._writer, self._n_explain_units = writer, n_explain_units
        kinds = {
            "rows/unit": "u4", "rows/sample": "u4", "rows/position": "u4", "samples/unit": "u4",
            "samples/tokens": "u4", "samples/source": "i8", "samples/first_row": "i8",
            "samples/first_token": "i8", "units/first_row": "i8",
        }  # fmt: skip
        kinds |= {f"codes/{f.name}": "u1" if len(f.levels) < 255 else "u2" for f in families}
        kinds |= {
            f"groups/{g.name}": "u1" if len(g.values) < 255 else "u2" if len(g.values) < 65_535 else "u4"
            for g in groups
        }
        self._arrays = {name: writer.grow(name, kind) for name, kind in kinds.items()}
        for name in ("samples/first_row", "samples/first_token", "units/first_row"):
            self._arrays[name].add(np.zeros(1, np.int64))
        self._counts = {"tokens": _Counts(writer, "tokens", n_tokens, "rest")}
        for f in families:
            self._counts[f"family.{f.name}"] = _Counts(
                writer, f"family.{f.name}", len(f.levels) + 1, "level_0"
            )
        for g in groups:
            self._counts[f"group.{g.name}"] = _Counts(writer, f"group.{g.name}", len(g.values), "rest")
        self._unit_nn = np.zeros(2)
        self._df = np.zeros(n_tokens, np.int64)
        self._token_stop = self._row_stop = 0
        self._lengths: list[Ints] = []

    def add(self, block: _Block, table: SampleTable, codes_of: dict[str, _Codes]) -> None:
        add = {name: array.add for name, array in self._arrays.items()}
        explain = block.first_unit < self._n_explain_units
        add["rows/unit"](block.row_unit + block.first_unit)
        add["rows/sample"](block.row_sample + block.first_sample)
        add["rows/position"](block.row_position)
        n_rows = np.bincount(block.row_sample, minlength=len(block.source))
        add["samples/unit"](block.sample_unit + block.first_unit)
        add["samples/tokens"](block.tokens)
        add["samples/source"](block.source)
        add["samples/first_row"](block.first_row + np.cumsum(n_rows))
        add["samples/first_token"](self._token_stop + np.cumsum(block.lengths))
        add["units/first_row"](block.first_row + np.cumsum(block.unit_rows))
        self._token_stop += len(block.tokens)
        self._lengths.append(block.lengths.astype(np.int32))
        nn = float((block.unit_rows.astype(np.float64) ** 2).sum())
        self._unit_nn += [nn if explain else 0.0, nn]

        def count(label_set: str, unit: Ints, label: Ints) -> None:
            into = self._counts[label_set]
            part = count_labels(unit, label, block.unit_rows, max(1, into.n_labels), into.reference)
            into.add(part, explain)

        for family in self._families:
            codes = _codes_in(block, codes_of[family.name], table.kind == "set")
            add[f"codes/{family.name}"](codes)
            count(f"family.{family.name}", block.row_unit, codes)
        for group in self._groups:
            stored = table.groups[group.name][0][block.source]
            add[f"groups/{group.name}"](stored)
            count(f"group.{group.name}", block.row_unit, stored[block.row_sample].astype(np.int64))
        if self._n_tokens:
            count("tokens", block.row_unit[block.entry_row], block.entry_token)
            held = block.entry_token
            if table.kind == "sequence":
                held = distinct(block.row_sample * self._n_tokens + held) % self._n_tokens
            self._df += np.bincount(held, minlength=self._n_tokens)
        else:
            count("tokens", np.zeros(0, np.int64), np.zeros(0, np.int64))

    def close(self) -> Ints:
        """Close everything; (V,) samples holding each token."""
        for array in self._arrays.values():
            array.close()
        for counts in self._counts.values():
            counts.close()
        self._writer.put("counts/unit_nn", self._unit_nn)
        self._writer.put("vocabulary/samples", self._df)
        return self._df

    @property
    def lengths(self) -> Ints:
        """(N,) tokens of each stored sample, repeated ones of a set counted once."""
        return np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int64)

    @property
    def token_rows(self) -> Ints:
        """(V,) rows with each token, both splits."""
        return np.asarray(self._counts["tokens"].totals["n"][1], np.int64)

    @property
    def token_units(self) -> Ints:
        """(V,) units with such a row."""
        return np.asarray(self._counts["tokens"].totals["units"][1], np.int64)


def _codes_in(block: _Block, codes: _Codes, is_set: bool) -> Ints:
    n = len(block.row_sample)
    if codes.of_row is not None:
        return codes.of_row[block.first_row : block.first_row + n].astype(np.int64)
    assert codes.of_token is not None, "a family is of tokens or of rows"
    of_entry = codes.of_token[block.entry_token]
    if not is_set:
        return of_entry
    out = np.zeros(n, np.int64)
    held = of_entry > 0
    np.maximum.at(out, block.entry_row[held], of_entry[held])
    return out


class _Counts:
    """One label set: counts by unit as they come, and the sums over units of each split."""

    def __init__(self, writer: StoreWriter, label_set: str, n_labels: int, reference: Reference) -> None:
        self.n_labels, self.reference = n_labels, reference
        self._writer, self._prefix = writer, f"counts/{label_set}"
        self._indptr = writer.grow(f"{self._prefix}/indptr", "i8")
        self._labels = writer.grow(f"{self._prefix}/labels", "u4")
        self._pair_n = writer.grow(f"{self._prefix}/pair_n", "u4")
        self._indptr.add(np.zeros(1, np.int64))
        self._stop = 0
        kinds = {"n": "i8", "units": "i8", "rest_units": "i8", "nn": "f8", "n_reference": "f8"}
        self.totals = {name: np.zeros((2, n_labels), kind) for name, kind in kinds.items()}

    def add(self, part: LabelCounts, explain: bool) -> None:
        """Add whole units; integer sums, so any blocks give the same."""
        for name, total in self.totals.items():
            added = getattr(part, name)[: self.n_labels].astype(total.dtype)
            total[1] += added
            if explain:
                total[0] += added
        self._indptr.add(part.indptr[1:] + self._stop)
        self._stop += int(part.indptr[-1])
        self._labels.add(part.labels)
        self._pair_n.add(part.pair_n)

    def close(self) -> None:
        """Close the arrays and write the sums."""
        for array in (self._indptr, self._labels, self._pair_n):
            array.close()
        for name, total in self.totals.items():
            self._writer.put(f"{self._prefix}/{name}", total)
