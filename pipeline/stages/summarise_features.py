"""Postings to firing statistics, quantiles, effective maximum, regions, histograms and top lists, per split."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from saeinterp_mcp.analysis.firing import count_regions, effective_max, histogram_bin, strongest
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import HISTOGRAM_BINS, NO_INDEX, QUANTILES, REGIONS, TOP
from saeinterp_mcp.store.manifest import SPLITS
from saeinterp_mcp.store.zarr_store import ZarrWriter

BLOCK = 4096


def summarise_features(
    store: Store, writer: ZarrWriter, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write `stats/*`, `top/*` and the table `features`, a block of features at a time."""
    n_features = store.manifest.n_features
    unit_rows = np.diff(store.backend.column("units/first_row")).astype(np.float64)
    shapes = {
        **{f"stats/{name}": ((n_features, 2), "i8") for name in ("n_firing", "n_firing_units")},
        **{
            f"stats/{name}": ((n_features, 2), "f8")
            for name in ("sum", "sumsq", "unit_ss", "unit_sn", "unit_cc", "unit_cn")
        },
        "stats/max": ((n_features, 2), "f4"),
        "stats/quantiles": ((n_features, 2, len(QUANTILES)), "f4"),
        "stats/effective_max": ((n_features,), "f4"),
        "stats/regions": ((n_features, 2, len(REGIONS)), "i8"),
        "stats/histogram": ((n_features, 2, HISTOGRAM_BINS), "u4"),
        "top/rows": ((n_features, 2, TOP), "u4"),
        "top/values": ((n_features, 2, TOP), "f4"),
    }
    for name, (shape, dtype) in shapes.items():
        writer.create(name, shape, dtype)
    frames = []
    for first in range(0, n_features, BLOCK):
        n = min(BLOCK, n_features - first)
        block = {name: np.zeros((n, *shape[1:]), dtype) for name, (shape, dtype) in shapes.items()}
        block["top/rows"][:] = NO_INDEX
        for name in ("top/values", "stats/quantiles", "stats/effective_max"):
            block[name][:] = np.nan
        for i in range(n):
            _summarise(store, first + i, unit_rows, {name: array[i : i + 1] for name, array in block.items()})
            if (first + i) % 64 == 0:
                progress(first + i, n_features)
        for name, array in block.items():
            writer.write(name, first, array)
        frames.append(_table(store, first, block))
    writer.table("features", pl.concat(frames))
    progress(n_features, n_features)


def _summarise(
    store: Store, feature: int, unit_rows: NDArray[np.float64], out: dict[str, NDArray[Any]]
) -> None:
    explain = store.activations(feature, "explain")
    maximum = effective_max(explain.values)
    out["stats/effective_max"][0] = maximum
    whole = store.activations(feature)
    for s, postings in enumerate((explain, whole)):
        rows, values = postings
        if not len(rows):
            continue
        exact = values.astype(np.float64)
        units, index = np.unique(store.row_unit[rows], return_inverse=True)
        unit_sum = np.bincount(index, exact)
        unit_count = np.bincount(index).astype(np.float64)
        for name, number in (
            ("n_firing", len(rows)),
            ("n_firing_units", len(units)),
            ("sum", exact.sum()),
            ("sumsq", (exact**2).sum()),
            ("max", values.max()),
            ("unit_ss", (unit_sum**2).sum()),
            ("unit_sn", (unit_sum * unit_rows[units]).sum()),
            ("unit_cc", (unit_count**2).sum()),
            ("unit_cn", (unit_count * unit_rows[units]).sum()),
        ):
            out[f"stats/{name}"][0, s] = number
        out["stats/quantiles"][0, s] = np.quantile(exact, QUANTILES)
        out["stats/regions"][0, s] = count_regions(values, float(np.float32(maximum)))
        out["stats/histogram"][0, s] = np.bincount(histogram_bin(values), minlength=HISTOGRAM_BINS)
        best = strongest(rows, values, TOP)
        out["top/rows"][0, s, : len(best)] = rows[best]
        out["top/values"][0, s, : len(best)] = values[best]


def _table(store: Store, first: int, block: dict[str, NDArray[Any]]) -> pl.DataFrame:
    columns: dict[str, object] = {"feature": np.arange(first, first + len(block["stats/max"]))}
    for s, split in enumerate(SPLITS):
        n = store.n_rows(split)
        firing = block["stats/n_firing"][:, s]
        columns[f"n_firing_{split}"] = firing
        columns[f"firing_rate_{split}"] = firing / max(n, 1)
        columns[f"mean_{split}"] = block["stats/sum"][:, s] / max(n, 1)
        columns[f"max_{split}"] = block["stats/max"][:, s]
    columns["effective_max"] = block["stats/effective_max"]
    return pl.DataFrame(columns)
