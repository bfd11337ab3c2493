"""Null features from real ones: their activations, dealt so that they go with nothing any more."""

from pathlib import Path

import numpy as np
import polars as pl
import yaml


def shuffle_bundle(bundle: Path, seed: int) -> None:
    """Deal the activations of a bundle anew, in place; each feature keeps its values, and units stay alike.

    Sets: what a unit has goes to another unit with as many rows. Sequences: documents have lengths of their own, so
    each feature is shifted in a circle along all counted positions, by an offset of its own (Harris 2020, the circular
    shift of autocorrelated series); a document's activations stay neighbours.
    """
    config = yaml.safe_load((bundle / "bundle.yaml").read_text(encoding="utf-8"))
    samples = pl.read_parquet(bundle / "samples.parquet")
    file = bundle / "activations.parquet"
    frame = pl.read_parquet(file)
    generator = np.random.default_rng(seed)
    if config["kind"] == "sequence":
        dealt = _shifted(
            frame, samples, config.get("excluded_positions", []), config["n_features"], generator
        )
    else:
        dealt = _dealt(frame, samples, generator)
    dealt.select(pl.col(name).cast(kind) for name, kind in frame.schema.items()).write_parquet(file)


def _dealt(frame: pl.DataFrame, samples: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    of_unit: dict[str, list[int]] = {}
    for row, unit in enumerate(samples["unit"]):
        of_unit.setdefault(unit, []).append(row)
    of_size: dict[int, list[list[int]]] = {}
    for rows in of_unit.values():
        of_size.setdefault(len(rows), []).append(rows)
    to = np.arange(len(samples))
    for units in of_size.values():
        for source, target in enumerate(generator.permutation(len(units))):
            to[units[source]] = units[int(target)]
    return frame.with_columns(pl.Series("sample", to[frame["sample"].to_numpy()]))


def _shifted(
    frame: pl.DataFrame,
    samples: pl.DataFrame,
    excluded: list[int],
    n_features: int,
    generator: np.random.Generator,
) -> pl.DataFrame:
    lengths = samples["tokens"].list.len().to_numpy()
    first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    sample = np.repeat(np.arange(len(samples)), lengths)
    position = np.arange(first[-1]) - first[sample]
    counted = np.flatnonzero(~np.isin(position, excluded))
    place = np.full(first[-1], -1)
    place[counted] = np.arange(len(counted))
    at = place[first[frame["sample"].to_numpy()] + frame["position"].to_numpy()]
    fires = at >= 0
    # a tenth of the way round at least, so that nobody stays where it was
    offset = generator.integers(len(counted) // 10, len(counted) - len(counted) // 10, n_features)
    to = counted[(at[fires] + offset[frame["feature"].to_numpy()[fires]]) % len(counted)]
    return frame.filter(fires).with_columns(
        pl.Series("sample", sample[to]), pl.Series("position", position[to])
    )
