"""The seed's precomputed tables: histograms and statistics of each feature, IDF of tokens, influences on outputs.

Its pickles become Parquet, with the same numbers as JSON beside.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.exporters.folder import Progress, ranges, write_json
from pipeline.exporters.metadata import Metadata
from pipeline.exporters.source_rows import opened
from pipeline.parallel import run_tasks
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.loaders.metadata import SPECIAL

STATS: dict[str, Any] = {
    "feature_id": pl.Int64,
    "min": pl.Float64,
    "max": pl.Float64,
    "mean": pl.Float64,
    "std": pl.Float64,
    "n_non_zero": pl.Int64,
    "n_total": pl.Int64,
    "sparsity": pl.Float64,
}
HISTOGRAMS: dict[str, Any] = {
    "feature_id": pl.Int64,
    "counts": pl.List(pl.Int64),
    "lower_bounds": pl.List(pl.Float64),
    "upper_bounds": pl.List(pl.Float64),
}


def export_histograms(store: Path, out: Path, bins: int, workers: int, progress: Progress) -> dict[str, int]:
    """`histograms` and `feature_stats`, each as .parquet and as .json keyed by the feature.

    Histograms are of the activations above 0 between their smallest and largest; mean, deviation, smallest and largest
    are of the activations too, and `n_total` counts all rows that count (excluded positions do not). A feature that
    never fires has zeros, as in the seed.
    """
    import pyarrow.parquet as pq

    rows = opened(store)
    blocks = ranges(rows.n_features, 512)
    task = partial(_summaries, store=store, bins=bins)
    schemas = {"histograms": HISTOGRAMS, "feature_stats": STATS}
    arrow = {name: pl.DataFrame(schema=schema).to_arrow().schema for name, schema in schemas.items()}
    writers = {
        name: pq.ParquetWriter(out / f"{name}.parquet", schema, compression="zstd")
        for name, schema in arrow.items()
    }
    texts = {name: (out / f"{name}.json").open("w", encoding="utf-8") for name in schemas}
    try:
        for number, found in enumerate(run_tasks(task, blocks, workers, progress)):
            for name, records in found.items():
                frame = pl.DataFrame(records, schema=schemas[name])
                writers[name].write_table(frame.to_arrow().cast(arrow[name]))
                _append_json(texts[name], records, first=number == 0)
    finally:
        for name in schemas:
            writers[name].close()
            texts[name].write("\n}\n")
            texts[name].close()
    return {"features": rows.n_features, "bins": bins}


def _append_json(file: Any, records: list[dict[str, Any]], first: bool) -> None:
    """Entries of one object, feature to record, without holding all of it."""
    for i, record in enumerate(records):
        rest = {name: value for name, value in record.items() if name != "feature_id"}
        file.write(("{\n" if first and i == 0 else ",\n") + f'"{record["feature_id"]}": {json.dumps(rest)}')


def _summaries(features: tuple[int, int], store: Path, bins: int) -> dict[str, list[dict[str, Any]]]:
    rows = opened(store)
    n_total = rows.store.manifest.n_rows
    histograms, stats = [], []
    for feature in range(*features):
        values = rows.store.activations(feature).values.astype(np.float64)
        n = len(values)
        counts, edges = np.histogram(values, bins=bins) if n else (np.zeros(bins, int), np.zeros(bins + 1))
        histograms.append(
            {
                "feature_id": feature,
                "counts": counts.tolist(),
                "lower_bounds": edges[:-1].tolist(),
                "upper_bounds": edges[1:].tolist(),
            }
        )
        lowest, highest, mean, deviation = (
            (float(values.min()), float(values.max()), float(values.mean()), float(values.std()))
            if n
            else (0.0, 0.0, 0.0, 0.0)
        )
        stats.append(
            {
                "feature_id": feature,
                "min": lowest,
                "max": highest,
                "mean": mean,
                "std": deviation,
                "n_non_zero": n,
                "n_total": n_total,
                "sparsity": (n_total - n) / n_total,
            }
        )
    return {"histograms": histograms, "feature_stats": stats}


def export_idf(store: Path, out: Path, batch_size: int) -> dict[str, int]:
    """`idf.parquet`, `idf.json` and the vocabulary: ln(N + 1) - ln(df + 1) over samples, both splits."""
    rows = opened(store)
    n = rows.store.manifest.n_samples
    vocabulary = rows.store.backend.table("vocabulary")
    tokens, df = vocabulary["token"].to_list(), vocabulary["samples"].to_numpy()
    kept = [i for i, token in enumerate(tokens) if token not in SPECIAL and df[i]]
    frequency = df[kept].astype(np.int64)
    table = pl.DataFrame(
        {
            "ability_input_tokens": np.array(kept, np.int64),
            "doc_freq": frequency,
            "idf": np.log(n + 1) - np.log(frequency + 1),
        }
    )
    table.write_parquet(out / "idf.parquet")
    common = table.sort("doc_freq", "ability_input_tokens", descending=[True, False])
    summary = {
        "total_documents": n,
        "unique_tokens": len(table),
        "n_batches": len(ranges(rows.n, batch_size)),
        "most_common_tokens": common.head(10).to_dicts(),
        "rarest_tokens": table.sort("doc_freq", "ability_input_tokens").head(10).to_dicts(),
    }
    write_json(out / "idf.json", summary)
    Metadata(rows).write_names(out)
    return {"samples": n, "tokens": len(table)}


def export_influences(store: Path, out: Path, top_k: int, progress: Progress) -> dict[str, int]:
    """`influences.parquet`: the outputs that each feature raises and lowers most, one row a feature.

    The influence is decoder[f] @ unembedding[:, o] less its mean over outputs, so that a shift of all outputs alike,
    which changes no probability of a softmax, is none (outputs with a sigmoid each keep it, as in the store). The seed
    leaves the mean in.

    Raises:
        NotInStore: the store has no decoder or no unembedding.
    """
    opened_store = opened(store).store
    for name in ("weights/decoder", "weights/unembedding"):
        if not opened_store.backend.has(name):
            raise NotInStore(
                f"{store} holds no {name.removeprefix('weights/')}, which influences are computed from; import with "
                "--decoder, --unembedding and --output-tokens"
            )
    outputs = opened_store.output_tokens
    kept = np.array([i for i, token in enumerate(outputs) if token not in SPECIAL], np.int64)
    names = np.array(outputs, object)[kept]
    unembedding = opened_store.backend.column("weights/unembedding").astype(np.float64)[kept]
    k = min(top_k, len(kept))
    frames = []
    for start, stop in ranges(opened_store.manifest.n_features, 256):
        decoder = opened_store.backend.span("weights/decoder", start, stop).astype(np.float64)
        # as the store rounds them, so that equal effects are in the order of outputs
        effects = np.round(decoder @ unembedding.T, 9)
        columns: dict[str, Any] = {
            "feature_id": np.arange(start, stop),
            "feature_label": [""] * (stop - start),
        }
        for sign in "+-":
            order = np.argsort(-effects if sign == "+" else effects, axis=1, kind="stable")[:, :k]
            values = np.take_along_axis(effects, order, axis=1).astype(np.float32)
            for rank in range(k):
                columns[f"{sign}{rank + 1}_tok"] = names[order[:, rank]].tolist()
                columns[f"{sign}{rank + 1}_val"] = values[:, rank]
        frames.append(pl.DataFrame(columns))
        progress(stop, opened_store.manifest.n_features)
    pl.concat(frames).write_parquet(out / "influences.parquet")
    return {"features": opened_store.manifest.n_features, "top_k": k}
