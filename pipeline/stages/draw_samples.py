"""Sets become samples: whole, as masked partial views, and one without tokens for each value of a group.

The artifact holds `samples.parquet` (`tokens` list of strings, `unit`, the groups, `view` full or partial where views
are drawn, `null_sample` yes or no where there are such, and `set`, the row of `sets.parquet` that a sample is a view
of, null for a null sample), in row groups of 4,096, and `sets.parquet` (`tokens` of every whole set).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Execution
from pipeline.set_config import NULL_SAMPLE, VIEW, SetDatasetConfig, ViewsConfig
from pipeline.set_views import draw_view, view_generator
from pipeline.sources.set_dataset import TokenSet, read_sets, set_files
from pipeline.stage import Progress, Stage, Summary
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

ROW_GROUP = 4096
"""Samples in a row group: what later stages read, and repeat after a kill, at a time."""
SAMPLES, SETS = "samples.parquet", "sets.parquet"

Row = dict[str, Any]


class DrawSamplesConfig(Frozen):
    """The section that decides the samples."""

    dataset: SetDatasetConfig


def external(config: DrawSamplesConfig) -> dict[str, Path]:
    """The dataset and its vocabularies."""
    return set_files(config.dataset)


def run(
    config: DrawSamplesConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Write the samples in one pass over the sets."""
    dataset = config.dataset
    n_sets = n_left_out = n_empty = 0
    null_values: set[str] = set()
    with (
        RowWriter(out / SAMPLES, sample_schema(dataset)) as samples,
        RowWriter(out / SETS, pa.schema([("tokens", pa.list_(pa.string()))])) as sets,
    ):
        for token_set in read_sets(dataset):
            if dataset.max_sets is not None and n_sets == dataset.max_sets:
                n_left_out += 1
                continue
            sets.add({"tokens": token_set.tokens})
            for row in samples_of(token_set, n_sets, dataset):
                samples.add(row)
            n_empty += not token_set.tokens
            n_sets += 1
            value = None if dataset.null_samples is None else token_set.groups[dataset.null_samples]
            null_values.update(() if value is None else (value,))
            if n_sets % ROW_GROUP == 0:
                progress(n_sets, n_sets)
        if not n_sets:
            raise BadInput(f"dataset: {dataset.path} holds no set")
        n_drawn = samples.n
        for value in sorted(null_values):
            samples.add(null_sample(value, dataset))
    progress(n_sets, n_sets)
    notes = [f"{n_drawn:,} samples of {n_sets:,} sets"]
    if dataset.null_samples is not None:
        notes.append(f"{len(null_values):,} null samples, one for each {dataset.null_samples}")
    if n_empty:
        notes.append(f"{n_empty:,} sets have no token")
    return Summary(
        n_in=n_sets + n_left_out,
        n_kept=n_sets,
        dropped={"over max_sets": n_left_out} if n_left_out else {},
        notes=tuple(notes),
    )


def sample_schema(dataset: SetDatasetConfig) -> pa.Schema:
    """The columns of `samples.parquet`."""
    fields = [("tokens", pa.list_(pa.string())), ("unit", pa.string())]
    fields += [(name, pa.string()) for name in group_columns(dataset)]
    return pa.schema([*fields, ("set", pa.uint32())])


def group_columns(dataset: SetDatasetConfig) -> tuple[str, ...]:
    """The groups of the samples: those of the dataset, then what they are themselves."""
    views = () if dataset.views is None else (VIEW,)
    nulls = () if dataset.null_samples is None else (NULL_SAMPLE,)
    return (*dataset.group_names, *views, *nulls)


def samples_of(token_set: TokenSet, index: int, dataset: SetDatasetConfig) -> Iterator[Row]:
    """The samples of one set: itself, then its views."""
    shared: Row = {"unit": token_set.unit, **token_set.groups, "set": index}
    if dataset.null_samples is not None:
        shared[NULL_SAMPLE] = "no"
    if dataset.views is None:
        yield {"tokens": token_set.tokens, **shared}
        return
    if dataset.views.keep_full:
        yield {"tokens": token_set.tokens, **shared, VIEW: "full"}
    for tokens in partial_views(token_set.tokens, index, dataset.views):
        yield {"tokens": tokens, **shared, VIEW: "partial"}


def partial_views(tokens: list[str], index: int, views: ViewsConfig) -> Iterator[list[str]]:
    """The partial views of the set in row `index`, tokens in their order."""
    generator = view_generator(views.seed, index)
    for _ in range(views.n):
        yield [tokens[i] for i in draw_view(len(tokens), generator, views.exponent).tolist()]


def null_sample(value: str, dataset: SetDatasetConfig) -> Row:
    """The sample without tokens of one value of a group; other groups have none."""
    assert dataset.null_samples is not None, "asked only where the config names a group"
    row: Row = dict.fromkeys(group_columns(dataset))
    row |= {"tokens": [], "unit": f"null:{value}", dataset.null_samples: value, NULL_SAMPLE: "yes"}
    return {**row, "set": None}


class RowWriter:
    """Writes rows in row groups of `ROW_GROUP`; the file gets its name when all are written."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.n = 0
        self._path, self._schema = path, schema
        self._temporary = path.with_name(path.name + ".tmp")
        self._writer = pq.ParquetWriter(self._temporary, schema, compression="zstd")
        self._rows: list[Row] = []

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            self._temporary.replace(self._path)

    def add(self, row: Row) -> None:
        """One more row."""
        self._rows.append(row)
        self.n += 1
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


DRAW_SAMPLES = Stage(
    name="draw_samples",
    config=DrawSamplesConfig,
    run=run,
    modules=("pipeline.stages.draw_samples", "pipeline.set_views", "pipeline.sources.set_dataset"),
    external=external,
)
