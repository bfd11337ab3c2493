"""The samples of a data set in columns, in the order they came, and the order a store gives them."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.splits import EXPLAIN_BELOW, unit_hash
from saeinterp_mcp.store.manifest import Kind

if TYPE_CHECKING:
    import pyarrow as pa

Ints = NDArray[np.int64]
CHUNK = 65_536
NONE_VALUE = "(none)"
"""The value of a group where a sample has none."""


class Units(NamedTuple):
    """Which unit each sample belongs to."""

    codes: NDArray[np.int32]
    """(N,) index into `names`."""
    names: "pa.Array"
    """(U,) strings without repeats."""


class SampleTable(NamedTuple):
    """Samples in the order of their source."""

    kind: Kind
    lengths: Ints
    """(N,) tokens of each sample."""
    token_index: NDArray[np.int32]
    """(T,) index into `token_names`, one sample after the other."""
    token_names: list[str]
    units: Units | None
    """None: a sample's unit is a hash of its content."""
    groups: dict[str, tuple[NDArray[np.int32], list[str]]]
    """Group name to (N,) codes and the values they index, sorted."""


class SampleOrder(NamedTuple):
    """Where each sample goes in a store: by a hash of (unit, split_seed), then by source."""

    unit_names: "pa.Array"
    """(U,) in stored order."""
    n_explain_units: int
    """The first units are the `explain` split."""
    source: Ints
    """(N,) the source index of each stored sample."""
    unit: Ints
    """(N,) unit of each stored sample, ascending."""


def order_samples(table: SampleTable, split_seed: int) -> SampleOrder:
    """The stored order of samples and units."""
    import pyarrow as pa

    units = table.units or content_units(table)
    place = np.concatenate(
        [np.array([unit_hash(n, split_seed) for n in names], np.uint64) for names in _chunks(units.names)]
        or [np.zeros(0, np.uint64)]
    )
    order = np.argsort(place, kind="stable")
    if (place[order][1:] == place[order][:-1]).any():
        names = units.names.to_pylist()
        order = np.array(sorted(range(len(names)), key=lambda i: (int(place[i]), names[i])), np.int64)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    unit = rank[units.codes]
    source = np.argsort(unit, kind="stable")
    # the hashes ascend, so the units of `explain` are the first ones
    below = np.searchsorted(place[order], np.uint64(EXPLAIN_BELOW), side="left")
    return SampleOrder(units.names.take(pa.array(order)), int(below), source, unit[source].astype(np.int64))


def _chunks(names: "pa.Array") -> Iterator[list[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK].to_pylist()


def content_units(table: SampleTable) -> Units:
    """The default units: a hash of a sample's tokens (`splits.content_unit`), so exact duplicates are one unit."""
    import pyarrow as pa

    order = sorted(range(len(table.token_names)), key=table.token_names.__getitem__)
    rank = np.empty(max(1, len(order)), np.int64)
    rank[order] = np.arange(len(order))
    encoded = [table.token_names[i].encode("utf-8", "surrogatepass") for i in order]
    parts = [len(text).to_bytes(8, "little") + text for text in encoded]
    stops = np.cumsum(table.lengths)
    names = []
    for first in range(0, len(stops), CHUNK):
        some = []
        for stop, n in zip(
            stops[first : first + CHUNK].tolist(), table.lengths[first : first + CHUNK].tolist(), strict=True
        ):
            held: Sequence[int] = rank[table.token_index[stop - n : stop]].tolist()
            if table.kind == "set":
                held = sorted(set(held))
            digest = hashlib.blake2b(b"".join([parts[i] for i in held]), digest_size=12)
            some.append("content:" + digest.hexdigest())
        names.append(pa.array(some, pa.string()))
    coded = pa.chunked_array(names, pa.string()).combine_chunks().dictionary_encode()
    return Units(coded.indices.to_numpy(zero_copy_only=False).astype(np.int32), coded.dictionary)


def join_tables(first: SampleTable, second: SampleTable) -> SampleTable:
    """The samples of `first`, then those of `second`; a group that one lacks has the value `(none)` there."""
    import pyarrow as pa

    place = {name: i for i, name in enumerate(first.token_names)}
    new = [name for name in second.token_names if name not in place]
    place |= {name: len(place) + i for i, name in enumerate(new)}
    moved = np.array([place[name] for name in second.token_names] or [0], np.int32)
    units = [table.units or content_units(table) for table in (first, second)]
    names = pa.chunked_array([u.names.cast(pa.large_string()) for u in units]).combine_chunks()
    coded = names.dictionary_encode()
    code = coded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    n_first = len(units[0].names)
    groups = {}
    for group in [*first.groups, *(g for g in second.groups if g not in first.groups)]:
        columns = [
            table.groups.get(group, (np.zeros(len(table.lengths), np.int32), [NONE_VALUE]))
            for table in (first, second)
        ]
        values = sorted({v for _, present in columns for v in present})
        index = {v: i for i, v in enumerate(values)}
        groups[group] = (
            np.concatenate(
                [np.array([index[v] for v in present] or [0], np.int32)[codes] for codes, present in columns]
            ),
            values,
        )
    return SampleTable(
        first.kind,
        np.concatenate([first.lengths, second.lengths]),
        np.concatenate([first.token_index, moved[second.token_index]]),
        [*first.token_names, *new],
        Units(
            np.concatenate([code[:n_first][units[0].codes], code[n_first:][units[1].codes]]),
            coded.dictionary,
        ),
        groups,
    )
