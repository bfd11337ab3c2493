"""New samples for a store: one directory of old and new ones, beside which old activations stay as they are.

A store's rows are ordered by a hash of their units, so new samples fall between old ones; but the order among the
old ones does not change. Each segment therefore keeps its activations by its own rows, and the directory says which
row of the store each of them is. Splits are decided by the hash and sample ids are those of the source: both survive.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.importers.bundle import BundleConfig, read_attributes, read_config, read_matrix, read_samples
from pipeline.importers.bundle_activations import read_position_families
from pipeline.stages.order_samples import DRAFT, PLACING, read_labelling, write_placing
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.base import Store, segment_prefix
from saeinterp_mcp.store.directory import Directory, Labelling, write_directory
from saeinterp_mcp.store.manifest import FamilyInfo, Manifest, Segment
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.sample_table import CHUNK, SampleTable, Units, join_tables
from saeinterp_mcp.store.zarr_writer import ZarrWriter

Ints = NDArray[np.int64]
MOST_SEGMENTS = 8


def append_samples(base: Path, bundle: Path, out: Path) -> Manifest:
    """Write the directory of a store's samples and a bundle's, and what places the activations of both.

    Raises:
        BadInput: the bundle does not fit, or does not go with the store.
    """
    store, config = open_store(base), read_config(bundle)
    _check_alike(store, config, bundle)
    old = table_of_store(store)
    new = read_samples(bundle, config)
    table = join_tables(old, new)
    labelling = _join_labelling(store, old, bundle, config, new, table)
    writer = ZarrWriter(out)
    directory = write_directory(writer, table, labelling)
    n_old = store.manifest.n_samples
    compacts = len(store.manifest.segments) >= MOST_SEGMENTS
    write_placing(out / PLACING, directory, table.lengths, first_sample=n_old, all_rows=compacts)
    _place_segments(store, directory, n_old, writer, compacts)
    manifest = _draft(store, directory, table, len(new.lengths), compacts)
    (out / DRAFT).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest


def _place_segments(
    store: Store, directory: Directory, n_old: int, writer: ZarrWriter, compacts: bool
) -> None:
    """Which row of the new store each row of each segment is."""
    is_old = np.repeat(directory.order.source < n_old, np.diff(directory.first_row))
    row_of_old = np.flatnonzero(is_old)
    for segment, rows in enumerate(rows_of_segments(store)):
        moved = row_of_old[rows]
        if compacts:
            np.save(writer.path / PLACING / f"segment-{segment}.npy", moved.astype(np.uint32))
        else:
            writer.put(f"segments/{segment}/store_row", moved.astype(np.uint32))
    if not compacts:
        k = len(store.manifest.segments)
        writer.put(f"segments/{k}/store_row", np.flatnonzero(~is_old).astype(np.uint32))


def rows_of_segments(store: Store) -> list[NDArray[Any]]:
    """The store's row of each row of each segment."""
    n = len(store.manifest.segments)
    if n == 1:
        return [np.arange(store.manifest.n_rows)]
    return [store.backend.column(f"segments/{k}/store_row") for k in range(n)]


def _check_alike(store: Store, config: BundleConfig, bundle: Path) -> None:
    mine = store.manifest
    for what, has, comes in (
        ("kind", mine.kind, config.kind),
        ("n_features", mine.n_features, config.n_features),
        ("split_seed", mine.split_seed, config.split_seed),
        (
            "excluded_positions",
            mine.excluded_positions,
            tuple(sorted(set(config.excluded_positions))),
        ),
        ("coverage", mine.coverage, config.coverage),
    ):
        if has != comes:
            raise BadInput(
                f"{bundle / 'bundle.yaml'}: {what} is {comes}, but the store {store.name!r} has {has}; "
                "only activations of the same features, counted alike, can be appended"
            )
    if config.decoder is not None and store.backend.has("weights/decoder"):
        decoder = read_matrix(bundle, config.decoder, (config.n_features, None))
        if not np.array_equal(decoder, store.backend.column("weights/decoder")):
            raise BadInput(
                f"{bundle / config.decoder} is not the decoder of store {store.name!r}: its features are others"
            )


def table_of_store(store: Store) -> SampleTable:
    """A store's samples in the order of their source."""
    backend = store.backend
    source = backend.column("samples/source")
    place = np.empty(len(source), np.int64)
    place[source] = np.arange(len(source))
    first_token = store.first_token
    lengths = np.diff(first_token)[place]
    tokens = [
        store.sample_tokens[expand_ranges(first_token[some], lengths[first : first + CHUNK])]
        for first in range(0, len(place), CHUNK)
        for some in (place[first : first + CHUNK],)
    ]
    unit = backend.column("samples/unit").astype(np.int64)
    begins = np.searchsorted(unit, np.arange(store.manifest.n_units))
    names = backend.table("samples")["unit"].to_arrow().cast(pa.large_string())
    return SampleTable(
        store.manifest.kind,
        lengths,
        np.concatenate(tokens).astype(np.int32),
        list(store.tokens),
        Units(unit[place].astype(np.int32), names.take(pa.array(begins))),
        {
            g.name: (store.group_of_samples(g.name)[place].astype(np.int32), list(g.values))
            for g in store.manifest.groups
        },
    )


def _position_levels(store: Store) -> dict[str, tuple[Ints, Ints, Ints]]:
    source, found = store.backend.column("samples/source"), {}
    for family in store.manifest.families:
        if family.of_positions:
            codes = store.codes(family.name)
            rows = np.flatnonzero(codes)
            level = np.array([0, *family.levels], np.int64)[codes[rows]]
            found[family.name] = (
                np.asarray(source[store.row_sample[rows]], np.int64),
                store.row_position[rows].astype(np.int64),
                level,
            )
    return found


def _join_labelling(
    store: Store, old: SampleTable, bundle: Path, config: BundleConfig, new: SampleTable, table: SampleTable
) -> Labelling:
    fresh = read_labelling(bundle, config, new)
    positions = _position_levels(store)
    n_old = len(old.lengths)
    for name, (sample, position, level) in read_position_families(bundle, new.lengths, config.kind).items():
        before = positions.get(name, (np.zeros(0, np.int64),) * 3)
        positions[name] = tuple(
            np.concatenate([a, b]) for a, b in zip(before, (sample + n_old, position, level), strict=True)
        )  # type: ignore[assignment]
    families = {f.name: f for f in store.manifest.families if not f.of_positions}
    for family in fresh.families:
        families[family.name] = _join_family(families.get(family.name), family, bundle)
    owner: dict[str, str] = {}
    for family in families.values():
        if family.name in positions:
            raise BadInput(f"{bundle}: family {family.name!r} is of tokens and of positions")
        for token in family.tokens:
            if owner.setdefault(token, family.name) != family.name:
                raise BadInput(
                    f"{bundle / 'bundle.yaml'}: token {token!r} is in family {family.name!r}, and in "
                    f"{owner[token]!r} of store {store.name!r}; one at most"
                )
    groups = [g.name for g in store.manifest.groups]
    listed = {g.name: g for g in config.groups}
    attributes = {}
    for info in store.manifest.groups:
        values = table.groups[info.name][1]
        known = {a: dict(zip(info.values, column, strict=True)) for a, column in info.attributes.items()}
        if info.name in listed:
            for a, column in read_attributes(bundle, listed[info.name], values).items():
                told = {v: c for v, c in zip(values, column, strict=True) if c != "(none)"}
                known[a] = {**told, **{v: c for v, c in known.get(a, {}).items() if c != "(none)"}}
        attributes[info.name] = {
            a: tuple(column.get(v, "(none)") for v in values) for a, column in known.items()
        }
    for name in listed:
        if name not in groups:
            attributes[name] = read_attributes(bundle, listed[name], table.groups[name][1])
    return Labelling(
        split_seed=store.manifest.split_seed,
        excluded_positions=store.manifest.excluded_positions,
        families=tuple(families.values()),
        position_levels=positions,
        groups=(*groups, *(name for name in listed if name not in groups)),
        primary=next((g.name for g in store.manifest.groups if g.primary), fresh.primary),
        attributes=attributes,
    )


def _join_family(old: FamilyInfo | None, new: FamilyInfo, bundle: Path) -> FamilyInfo:
    if old is None:
        return new
    if old.encoding != new.encoding:
        raise BadInput(
            f"{bundle / 'bundle.yaml'}: family {new.name!r} is {new.encoding}, in the store it is {old.encoding}"
        )
    for token, level in new.tokens.items():
        if old.tokens.get(token, level) != level:
            raise BadInput(
                f"{bundle / 'bundle.yaml'}: token {token!r} is level {level} of {new.name!r}, in the store it is "
                f"level {old.tokens[token]}"
            )
    tokens = {**old.tokens, **new.tokens}
    return old.model_copy(update={"tokens": tokens, "levels": tuple(sorted({*old.levels, *new.levels}))})


def _draft(store: Store, directory: Directory, table: SampleTable, n_new: int, compacts: bool) -> Manifest:
    old, n_samples = store.manifest, len(table.lengths)
    later = Segment(
        path=segment_prefix(len(old.segments)).rstrip("/"), first_sample=old.n_samples, n_samples=n_new
    )
    dropped = dict(old.dropped)
    if directory.n_repeated_tokens:
        dropped["repeated_token"] = dropped.get("repeated_token", 0) + directory.n_repeated_tokens
    return old.model_copy(
        update={
            "n_samples": n_samples,
            "n_rows": directory.n_rows,
            "n_positions_stored": directory.n_rows if old.kind == "set" else directory.n_tokens,
            "n_units": len(directory.order.unit_names),
            "n_explain": directory.n_explain,
            "families": directory.families,
            "groups": directory.groups,
            "checks": [
                *old.checks,
                *({"name": "import", "passed": None, "note": w} for w in directory.warnings),
            ],
            "dropped": dropped,
            "generation": old.generation + 1,
            "lineage": old.lineage or old.fingerprint(),
            "segments": (Segment(n_samples=n_samples),) if compacts else (*old.segments, later),
            "files": {},
            "provenance": {},
        }
    )
