"""The tables of a directory: vocabulary, samples, families, groups."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.store.base import StoreWriter
from saeinterp_mcp.store.manifest import FamilyInfo, GroupInfo
from saeinterp_mcp.store.sample_table import CHUNK, SampleOrder, SampleTable

Ints = NDArray[np.int64]


class SampleRows(NamedTuple):
    """What the table of samples is made of."""

    table: SampleTable
    order: SampleOrder
    lengths: Ints
    """(N,) tokens of each stored sample."""


def write_tables(
    writer: StoreWriter,
    samples: SampleRows,
    tokens: list[str],
    token_rows: Ints,
    token_units: Ints,
    df: Ints,
    families: tuple[FamilyInfo, ...],
    groups: tuple[GroupInfo, ...],
) -> None:
    """Write the four tables. `df`: (V,) samples holding each token."""
    import polars as pl

    n_samples = len(samples.lengths)
    owner = {t: (f.name, level) for f in families for t, level in f.tokens.items()}
    writer.table(
        "vocabulary",
        pl.DataFrame(
            {
                "token": tokens,
                "rows": token_rows,
                "units": token_units,
                "samples": df,
                "idf": [float(np.log(n_samples + 1) - np.log(n + 1)) if n else None for n in df],
                "family": [owner.get(t, (None, None))[0] for t in tokens],
                "level": [owner.get(t, (None, None))[1] for t in tokens],
            },
            schema_overrides={
                "token": pl.String,
                "rows": pl.Int64,
                "units": pl.Int64,
                "samples": pl.Int64,
                "idf": pl.Float64,
                "family": pl.String,
                "level": pl.Int64,
            },
        ),
    )
    _write_samples(writer, samples, groups)
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


def _write_samples(writer: StoreWriter, samples: SampleRows, groups: tuple[GroupInfo, ...]) -> None:
    import polars as pl
    import pyarrow as pa

    table, order, lengths = samples
    into = writer.grow_table("samples")
    values = {g.name: np.array(g.values, object) for g in groups}
    for start in range(0, max(1, len(order.source)), CHUNK):
        source, unit = order.source[start : start + CHUNK], order.unit[start : start + CHUNK]
        names = order.unit_names.take(pa.array(unit)).cast(pa.large_string())
        into.add(
            pl.DataFrame(
                {
                    "unit": pl.Series(names.to_pylist(), dtype=pl.String),
                    "source_row": source,
                    "split": np.where(unit < order.n_explain_units, "explain", "heldout").tolist(),
                    "n_tokens": lengths[start : start + CHUNK].astype(np.int64),
                    **{
                        g.name: pl.Series(
                            values[g.name][table.groups[g.name][0][source]].tolist(), dtype=pl.String
                        )
                        for g in groups
                    },
                }
            )
        )
    into.close()
