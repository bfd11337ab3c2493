"""A store back as a bundle (docs/bundle.md), in the order of its original input."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.exporters.folder import Progress, ranges, write_json
from pipeline.exporters.metadata import token_families
from pipeline.exporters.source_rows import SourceRows, opened
from pipeline.parallel import run_tasks
from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.store.manifest import GroupInfo

ROWS_OF_A_PART = 1 << 16
ROWS_AT_ONCE = 1 << 10
SAMPLES_AT_ONCE = 1 << 16


def export_bundle(store: Path, out: Path, workers: int, progress: Progress) -> dict[str, int]:
    """Samples, activations, families of positions, weights and bundle.yaml.

    What an import leaves out (activations at excluded positions, tokens repeated in a set) is not in the store and so
    not in the bundle.
    """
    rows = opened(store)
    (out / "activations").mkdir()
    parts = list(enumerate(ranges(rows.n, ROWS_OF_A_PART)))
    n = sum(run_tasks(partial(_write_part, store=store, out=out), parts, workers, progress))
    _write_samples(rows, out)
    _write_positions(rows, out)
    fields = _fields(rows, out)
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=110)
    (out / "bundle.yaml").write_text(text, encoding="utf-8")
    return {"samples": len(rows.samples), "activations": n}


def _write_part(part: tuple[int, tuple[int, int]], store: Path, out: Path) -> int:
    number, (start, stop) = part
    rows = opened(store)
    path = out / "activations" / f"part-{number:05d}.parquet"
    schema = pa.schema(
        [
            ("feature", pa.uint32()),
            ("sample", pa.uint32()),
            ("position", pa.uint32()),
            ("value", pa.float32()),
        ]
    )
    n = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first, last in ranges(stop - start, ROWS_AT_ONCE):
            found = rows.entries(start + first, start + last)
            sample, position, _ = rows.samples_at(start + first, start + last)
            columns = (found.feature, sample[found.row], position[found.row], found.value)
            arrays = [pa.array(c).cast(field.type) for c, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            n += len(found.row)
    return n


def _write_samples(rows: SourceRows, out: Path) -> None:
    store = rows.store
    strings = pa.array(store.tokens, pa.large_string())
    units = store.backend.table("samples")["unit"]
    fields = [("tokens", pa.large_list(pa.large_string())), ("unit", pa.large_string())]
    schema = pa.schema(fields + [(name, pa.large_string()) for name in store.groups])
    with pq.ParquetWriter(out / "samples.parquet", schema, compression="zstd") as writer:
        for start, stop in ranges(len(rows.samples), SAMPLES_AT_ONCE):
            stored = rows.samples[start:stop]
            first = store.first_token[stored].astype(np.int64)
            counts = store.first_token[stored + 1] - first
            ids = store.sample_tokens[expand_ranges(first, counts)]
            offsets = np.concatenate([[0], np.cumsum(counts)])
            columns = [
                pa.LargeListArray.from_arrays(pa.array(offsets), strings.take(pa.array(ids))),
                pa.array(units.gather(pl.Series(stored)).to_list(), pa.large_string()),
            ]
            for name, group in store.groups.items():
                codes = np.asarray(store.group_of_samples(name)[stored])
                columns.append(pa.array(group.values, pa.large_string()).take(pa.array(codes)))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _write_positions(rows: SourceRows, out: Path) -> None:
    families = [family for family in rows.store.manifest.families if family.of_positions]
    if not families:
        return
    schema = pa.schema([(n, pa.int64()) for n in ("sample", "position", *(f.name for f in families))])
    with pq.ParquetWriter(out / "positions.parquet", schema, compression="zstd") as writer:
        for start, stop in ranges(rows.n, SAMPLES_AT_ONCE):
            stored = rows.stored(start, stop)
            sample, position, _ = rows.samples_at(start, stop)
            levels = []
            for family in families:
                codes = np.asarray(rows.store.codes(family.name)[np.maximum(stored, 0)], np.int64)
                levels.append(np.where(stored >= 0, np.array([0, *family.levels])[codes], 0))
            listed = np.any([level != 0 for level in levels], axis=0)
            columns = [sample[listed], position[listed], *(level[listed] for level in levels)]
            writer.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], schema=schema))


def _fields(rows: SourceRows, out: Path) -> dict[str, Any]:
    """The content of bundle.yaml; weights and attributes are written on the way."""
    store, manifest = rows.store, rows.store.manifest
    fields: dict[str, Any] = {
        "name": manifest.name,
        "kind": manifest.kind,
        "n_features": manifest.n_features,
        "families": token_families(rows),
        "groups": [_group(group, out) for group in manifest.groups],
        "split_seed": manifest.split_seed,
        "coverage": manifest.coverage,
        "search_floor": dict(manifest.search_floor),
        "checks": [c for c in manifest.checks if c.get("name") != "import"],
    }
    if manifest.excluded_positions:
        fields["excluded_positions"] = list(manifest.excluded_positions)
    for name in ("model", "sae", "dataset"):
        if getattr(manifest, name) is not None:
            fields[name] = getattr(manifest, name)
    if store.backend.has("weights/decoder"):
        np.save(out / "decoder.npy", store.backend.column("weights/decoder"))
        fields["decoder"] = "decoder.npy"
    if store.backend.has("weights/unembedding"):
        np.save(out / "unembedding.npy", np.ascontiguousarray(store.backend.column("weights/unembedding").T))
        write_json(out / "output_tokens.json", store.output_tokens)
        fields |= {"unembedding": "unembedding.npy", "output_tokens": "output_tokens.json"}
    return fields


def _group(group: GroupInfo, out: Path) -> dict[str, Any]:
    listed: dict[str, Any] = {"name": group.name, "primary": group.primary}
    if group.attributes:
        listed["attributes"] = f"{group.name}_attributes.parquet"
        columns = {group.name: list(group.values)} | {n: list(v) for n, v in group.attributes.items()}
        schema = dict.fromkeys(columns, pl.String)
        pl.DataFrame(columns, schema=schema).write_parquet(out / f"{group.name}_attributes.parquet")
    return listed
