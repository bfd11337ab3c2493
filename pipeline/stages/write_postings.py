"""Bundle to the first part of a store: samples, labels and their counts, activations both ways round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.importers.bundle import BundleConfig, Samples, read_attributes, read_config, read_samples
from pipeline.importers.bundle_activations import activation_files, read_activations, read_position_families
from pipeline.row_order import Rows
from pipeline.spool import Spool
from saeinterp_mcp.analysis.moments import LabelCounts, Reference, count_labels
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.manifest import FamilyInfo, GroupInfo, Manifest, Segment
from saeinterp_mcp.store.zarr_store import SHARD, ZarrWriter

Ints = NDArray[np.int64]
DRAFT = "draft.json"
DEFAULT_MEMORY = 1 << 30


def write_postings(
    bundle: Path,
    out: Path,
    negatives: str | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write everything of a store that is stored rather than summarised, and a draft of its manifest.

    Raises:
        BadInput: what the bundle holds does not fit; nothing is published.
    """
    config = read_config(bundle)
    samples = read_samples(bundle, config)
    rows = Rows(config, samples)
    if not rows.n_rows:
        raise BadInput(f"{bundle / 'samples.parquet'} has no counted position: every position is excluded")
    writer = ZarrWriter(out)
    for name, column in (
        ("rows/unit", rows.row_unit),
        ("rows/sample", rows.row_sample),
        ("rows/position", rows.row_position),
        ("samples/unit", rows.sample_unit),
        ("samples/tokens", rows.token_ids),
    ):
        writer.put(name, column.astype(np.uint32))
    writer.put("samples/source", rows.source.astype(np.int64))
    writer.put("samples/first_row", rows.first_row.astype(np.int64))
    writer.put("samples/first_token", rows.first_token.astype(np.int64))
    writer.put("units/first_row", rows.first_row_of_unit.astype(np.int64))
    warnings: list[str] = []
    families = _write_families(bundle, config, samples, rows, writer, warnings)
    groups = _write_groups(bundle, config, samples, rows, writer)
    unit_rows = np.diff(rows.first_row_of_unit)
    unit_nn = unit_rows.astype(np.float64) ** 2
    writer.put("counts/unit_nn", np.array([unit_nn[: rows.n_explain_units].sum(), unit_nn.sum()]))
    token_counts = _write_counts(
        writer, rows, "tokens", rows.entry_row, rows.entry_token, len(rows.tokens), "rest"
    )
    _write_tables(writer, rows, samples, config, families, groups, token_counts)
    dropped = (
        {"repeated_token": int(samples.lengths.sum() - rows.lengths.sum())} if config.kind == "set" else {}
    )
    n_activations = _write_activations(
        bundle, out, config, samples, rows, writer, negatives, memory, dropped, progress
    )
    manifest = Manifest(
        name=config.name,
        kind=config.kind,
        n_features=config.n_features,
        n_samples=len(rows.source),
        n_rows=rows.n_rows,
        n_positions_stored=rows.n_rows if config.kind == "set" else len(rows.token_ids),
        n_activations=n_activations,
        n_units=len(rows.unit_names),
        n_explain=rows.n_explain,
        split_seed=config.split_seed,
        coverage=config.coverage,
        excluded_positions=tuple(sorted(set(config.excluded_positions))),
        families=families,
        groups=groups,
        model=config.model,
        sae=config.sae,
        dataset=config.dataset,
        checks=[*config.checks, *({"name": "import", "passed": None, "note": w} for w in warnings)],
        dropped={k: v for k, v in sorted(dropped.items()) if v},
        search_floor=dict(config.search_floor),
        segments=(Segment(n_samples=len(rows.source)),),
    )
    (out / DRAFT).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest


def _write_families(
    bundle: Path, config: BundleConfig, samples: Samples, rows: Rows, writer: ZarrWriter, warnings: list[str]
) -> tuple[FamilyInfo, ...]:
    known = {token: i for i, token in enumerate(rows.tokens)}
    families = []
    for family in config.families:
        levels = tuple(sorted(set(family.levels.values())))
        code_of_token = np.zeros(len(rows.tokens) + 1, np.int64)
        for token, value in family.levels.items():
            if token in known:
                code_of_token[known[token]] = levels.index(value) + 1
            else:
                warnings.append(f"family {family.name}: token {token!r} never occurs in the samples")
        codes = np.zeros(rows.n_rows, np.int64)
        np.maximum.at(codes, rows.entry_row, code_of_token[rows.entry_token])
        info = FamilyInfo(name=family.name, encoding=family.encoding, levels=levels, tokens=family.levels)
        _write_codes(writer, rows, info, codes)
        families.append(info)
    of_positions = read_position_families(bundle, samples.lengths, config.kind)
    for name, (sample, position, level) in sorted(of_positions.items()):
        if name in (f.name for f in families):
            raise BadInput(f"{bundle / 'positions.parquet'}: family {name!r} is also in bundle.yaml")
        levels = tuple(int(v) for v in np.unique(level))
        counted = ~rows.excluded[position] if config.kind == "sequence" else np.ones(len(position), bool)
        row = rows.first_row[rows.new_sample[sample]]
        if config.kind == "sequence":
            row = row + rows.rank[position]
        codes = np.zeros(rows.n_rows, np.int64)
        codes[row[counted]] = np.searchsorted(np.array(levels), level[counted]) + 1
        info = FamilyInfo(name=name, encoding="exclusive", levels=levels, of_positions=True)
        _write_codes(writer, rows, info, codes)
        families.append(info)
    return tuple(families)


def _write_codes(writer: ZarrWriter, rows: Rows, info: FamilyInfo, codes: Ints) -> None:
    if len(info.levels) > 65_000:
        raise BadInput(f"family {info.name!r} has {len(info.levels)} levels; at most 65000 can be stored")
    writer.put(f"codes/{info.name}", codes.astype(np.uint8 if len(info.levels) < 255 else np.uint16))
    label_set = f"family.{info.name}"
    _write_counts(writer, rows, label_set, np.arange(rows.n_rows), codes, len(info.levels) + 1, "level_0")


def _write_groups(
    bundle: Path, config: BundleConfig, samples: Samples, rows: Rows, writer: ZarrWriter
) -> tuple[GroupInfo, ...]:
    listed = {group.name: group for group in config.groups}
    order = [g.name for g in config.groups] + sorted(set(samples.groups) - set(listed))
    primary = next((g.name for g in config.groups if g.primary), order[0] if order else None)
    groups = []
    for name in order:
        codes, values = samples.groups[name]
        attributes = read_attributes(bundle, listed[name], values) if name in listed else {}
        stored = codes[rows.source]
        dtype = np.uint8 if len(values) < 255 else np.uint16 if len(values) < 65_535 else np.uint32
        writer.put(f"groups/{name}", stored.astype(dtype))
        groups.append(
            GroupInfo(name=name, values=tuple(values), primary=name == primary, attributes=attributes)
        )
        per_row = stored[rows.row_sample]
        _write_counts(writer, rows, f"group.{name}", np.arange(rows.n_rows), per_row, len(values), "rest")
    return tuple(groups)


def _write_counts(
    writer: ZarrWriter,
    rows: Rows,
    label_set: str,
    row: Ints,
    label: Ints,
    n_labels: int,
    reference: Reference,
) -> LabelCounts:
    unit_rows = np.diff(rows.first_row_of_unit)
    counts = count_labels(rows.row_unit[row], label, unit_rows, n_labels, reference)
    inside = row < rows.n_explain["rows"]
    u = rows.n_explain_units
    explain = count_labels(rows.row_unit[row[inside]], label[inside], unit_rows[:u], n_labels, reference)
    prefix = f"counts/{label_set}"
    for name, field in (
        ("n", "n"),
        ("units", "units"),
        ("rest_units", "rest_units"),
        ("nn", "nn"),
        ("n_reference", "n_reference"),
    ):
        writer.put(f"{prefix}/{name}", np.stack([getattr(explain, field), getattr(counts, field)]))
    writer.put(f"{prefix}/indptr", counts.indptr.astype(np.int64))
    writer.put(f"{prefix}/labels", counts.labels.astype(np.uint32))
    writer.put(f"{prefix}/pair_n", counts.pair_n.astype(np.uint32))
    return counts


def _write_tables(
    writer: ZarrWriter,
    rows: Rows,
    samples: Samples,
    config: BundleConfig,
    families: tuple[FamilyInfo, ...],
    groups: tuple[GroupInfo, ...],
    token_counts: LabelCounts,
) -> None:
    n_samples = len(rows.source)
    held = np.unique(rows.row_sample[rows.entry_row] * (len(rows.tokens) + 1) + rows.entry_token) % (
        len(rows.tokens) + 1
    )
    df = np.bincount(held, minlength=len(rows.tokens))[: len(rows.tokens)]
    writer.put("vocabulary/samples", df.astype(np.int64))
    owner = {t: (f.name, level) for f in families for t, level in f.tokens.items()}
    writer.table(
        "vocabulary",
        pl.DataFrame(
            {
                "token": rows.tokens,
                "rows": token_counts.n,
                "units": token_counts.units,
                "samples": df,
                "idf": [float(np.log(n_samples + 1) - np.log(n + 1)) if n else None for n in df],
                "family": [owner.get(t, (None, None))[0] for t in rows.tokens],
                "level": [owner.get(t, (None, None))[1] for t in rows.tokens],
            },
            schema_overrides={"token": pl.String, "idf": pl.Float64, "family": pl.String, "level": pl.Int64},
        ),
    )
    unit_names = np.array(rows.unit_names, dtype=object)
    writer.table(
        "samples",
        pl.DataFrame(
            {
                "unit": unit_names[rows.sample_unit].tolist(),
                "source_row": rows.source,
                "split": np.where(rows.sample_unit < rows.n_explain_units, "explain", "heldout").tolist(),
                "n_tokens": rows.lengths,
                **{
                    g.name: np.array(g.values, object)[samples.groups[g.name][0][rows.source]].tolist()
                    for g in groups
                },
            }
        ),
    )
    writer.table(
        "families",
        pl.DataFrame(
            [
                (f.name, f.encoding, level, [t for t, v in f.tokens.items() if v == level])
                for f in families
                for level in f.levels
            ],
            schema={
                "family": pl.String,
                "encoding": pl.String,
                "level": pl.Int64,
                "tokens": pl.List(pl.String),
            },
            orient="row",
        ),
    )
    writer.table(
        "groups",
        pl.DataFrame(
            [
                (g.name, v, [f"{a}={column[i]}" for a, column in g.attributes.items()])
                for g in groups
                for i, v in enumerate(g.values)
            ],
            schema={"group": pl.String, "value": pl.String, "attributes": pl.List(pl.String)},
            orient="row",
        ),
    )


def _write_activations(
    bundle: Path,
    out: Path,
    config: BundleConfig,
    samples: Samples,
    rows: Rows,
    writer: ZarrWriter,
    negatives: str | None,
    memory: int,
    dropped: dict[str, int],
    progress: Callable[[int, int], None],
) -> int:
    files = activation_files(bundle)
    total = 0
    for path in files:
        try:
            total += pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError):  # the reader below refuses the file with its reason
            break
    by_feature = Spool(out / "spool" / "features", total, config.n_features, memory)
    by_row = Spool(out / "spool" / "rows", total, rows.n_rows, memory)
    kept = seen = 0
    for batch in read_activations(files, config, samples.lengths, negatives, dropped):
        position = batch.position
        counted = ~rows.excluded[position] if config.kind == "sequence" else np.ones(len(position), bool)
        if not counted.all():
            dropped["excluded_position"] = dropped.get("excluded_position", 0) + int((~counted).sum())
        row = rows.first_row[rows.new_sample[batch.sample]]
        if config.kind == "sequence":
            row = row + rows.rank[position]
        row, feature, value = row[counted], batch.feature[counted], batch.value[counted]
        by_feature.add(feature, row, value)
        by_row.add(row, feature, value)
        kept += len(row)
        seen += len(position)
        progress(seen, total)
    for prefix, spool, n_majors in (
        ("features", by_feature, config.n_features),
        ("rows", by_row, rows.n_rows),
    ):
        minor_name = "rows" if prefix == "features" else "features"
        counts = np.zeros(n_majors, np.int64)
        minor_out = _Appender(writer, f"{prefix}/{minor_name}", kept, "u4")
        value_out = _Appender(writer, f"{prefix}/values", kept, "f4")
        for major, minor, value in spool.sorted_parts():
            twice = (major[1:] == major[:-1]) & (minor[1:] == minor[:-1])
            if twice.any():
                at = int(np.flatnonzero(twice)[0])
                raise _duplicate(files, negatives, rows, int(major[at]), int(minor[at]))
            counts += np.bincount(major, minlength=n_majors)
            minor_out.add(minor)
            value_out.add(value)
        minor_out.close()
        value_out.close()
        writer.put(f"{prefix}/indptr", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    for folder in ("features", "rows"):
        (out / "spool" / folder).rmdir()
    (out / "spool").rmdir()
    return kept


class _Appender:
    """Writes an array in blocks of whole shards, whatever pieces come."""

    def __init__(self, writer: ZarrWriter, name: str, n: int, dtype: str) -> None:
        writer.create(name, (n,), dtype)
        self._writer, self._name, self._at = writer, name, 0
        self._pieces: list[NDArray[Any]] = []
        self._held = 0

    def add(self, piece: NDArray[Any]) -> None:
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held >= SHARD:
            whole = np.concatenate(self._pieces)
            stop = len(whole) // SHARD * SHARD
            for start in range(0, stop, SHARD):
                self._writer.write(self._name, self._at, whole[start : start + SHARD])
                self._at += SHARD
            self._pieces, self._held = [whole[stop:]], len(whole) - stop

    def close(self) -> None:
        if self._held:
            self._writer.write(self._name, self._at, np.concatenate(self._pieces))


def _duplicate(files: list[Path], negatives: str | None, rows: Rows, feature: int, row: int) -> BadInput:
    """The error for an activation that is there twice, with the place of the second one."""
    sample = int(rows.source[rows.row_sample[row]])
    position = int(rows.row_position[row])
    kept = pl.col("value") != 0 if negatives == "abs" else pl.col("value") > 0
    seen = 0
    for path in files:
        frame = (
            pl.scan_parquet(path, glob=False)
            .with_row_index()
            .filter(
                (pl.col("feature") == feature)
                & (pl.col("sample") == sample)
                & (pl.col("position") == position)
                & kept
            )
        )
        for index in frame.select("index").collect()["index"].to_list():
            seen += 1
            if seen == 2:
                return BadInput(
                    f"{path}, row {index}: feature {feature}, sample {sample}, position {position} "
                    "is there more than once"
                )
    raise AssertionError("a duplicate that was sorted side by side is not in the files")
