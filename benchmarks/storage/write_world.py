"""A world as a bundle (docs/bundle.md): parts are drawn by worker processes, memory is bounded by a part.

python -m benchmarks.storage.write_world --world S1 --folder DIR [--scale 0.01] [--workers 2]
"""

import argparse
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from benchmarks.storage.samples import (
    ABILITIES,
    FIRST_TONE,
    GROUP_VALUES,
    LEVELS,
    N_TONES,
    N_WEAPONS,
    SINGLES,
    WEAPON_ATTRIBUTES,
    Part,
    n_families,
    n_values,
    samples_of_part,
    vocabulary,
)
from benchmarks.storage.worlds import (
    BYTES_PER_ACTIVATION,
    DOCUMENT_TOKENS,
    WORLDS,
    World,
    firing_rates,
    planted,
    value_centres,
)
from pipeline.parallel import run_tasks
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.errors import BadInput

Ints = NDArray[np.int64]
BURST_RATE = 0.05
"""In a document where a rare feature fires at all, it fires at this share of the positions."""


def need_disk(folder: Path, world: World, *uses: str) -> None:
    """Refuse to begin without room for what is to be written.

    Raises:
        BadInput: too little is free.
    """
    needed = sum(BYTES_PER_ACTIVATION[use] for use in uses) * world.expected_activations
    free = shutil.disk_usage(folder).free
    print(
        f"{world.folder}: {' and '.join(uses)} need about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} free",
        file=sys.stderr,
    )
    if needed > free:
        raise BadInput(
            f"{world.folder} needs about {needed / 2**30:.1f} GiB in {folder}, which has {free / 2**30:.1f} free; "
            "name another --folder, or a smaller --scale"
        )


def write_world(world: World, folder: Path, workers: int = 1) -> int:
    """Draw a world into `folder`, which must not exist, and count its activations."""
    partial_folder = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    (partial_folder / "activations").mkdir(parents=True)
    _write_samples(world, partial_folder)
    _write_config(world, partial_folder)
    task = partial(_write_part, world, partial_folder)
    n = sum(run_tasks(task, range(world.n_parts), workers))
    partial_folder.rename(folder)
    return n


def _write_part(world: World, folder: Path, part: int) -> int:
    """Draw and write the activations of one part, in the order of rows and features."""
    samples = samples_of_part(world, part)
    generator = rng(world.seed, world.name, "activations", part)
    keys = np.concatenate([_free_keys(world, samples, generator), _planted_keys(world, samples, generator)])
    keys = _distinct(keys)
    row, feature = np.divmod(keys, world.n_features)
    noise = generator.standard_normal(len(keys), dtype=np.float32)
    value = np.exp(value_centres(world).astype(np.float32)[feature] + np.float32(0.7) * noise)
    sample, position = (row, 0 * row) if world.kind == "set" else np.divmod(row, DOCUMENT_TOKENS)
    table = pa.table(
        {
            "feature": feature.astype(np.uint32),
            "sample": (sample + part * world.samples_per_part).astype(np.uint32),
            "position": position.astype(np.uint16),
            "value": value,
        }
    )
    _write_table(table, folder / "activations" / f"part-{part:05d}.parquet")
    return len(keys)


def _free_keys(world: World, part: Part, generator: np.random.Generator) -> Ints:
    """row * F + feature of the features that depend on nothing, or on the document alone."""
    rates = firing_rates(world).copy()
    rates[planted(world, n_families(world), n_values(world)).features] = 0
    if world.kind == "set":
        return _cells(generator, len(part.lengths), rates)
    within = np.where(rates > 0, np.maximum(BURST_RATE, np.sqrt(rates)), 0.5)
    n_units = int(part.units[-1]) + 1
    unit, feature = np.divmod(_cells(generator, n_units, rates / within), world.n_features)
    first_row = DOCUMENT_TOKENS * np.searchsorted(part.units, np.arange(n_units + 1))
    n_rows = np.diff(first_row)[unit]
    n = generator.poisson(-n_rows * np.log1p(-within[feature]))
    pair = np.repeat(np.arange(len(unit)), n)
    row = first_row[unit[pair]] + (generator.random(len(pair)) * n_rows[pair]).astype(np.int64)
    return row * world.n_features + feature[pair]


def _cells(generator: np.random.Generator, n: int, rates: NDArray[np.float64]) -> Ints:
    """Keys i * F + feature with each i < n drawn independently at the feature's rate.

    A Poisson number of draws with repeats, repeats removed, leaves each cell out with probability 1 - rate exactly.
    """
    draws = generator.poisson(-n * np.log1p(-rates))
    feature = np.repeat(np.arange(len(rates)), draws)
    return _distinct(generator.integers(0, n, len(feature)) * len(rates) + feature)


def _distinct(keys: Ints) -> Ints:
    keys.sort()
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    return keys[new]


def _planted_keys(world: World, part: Part, generator: np.random.Generator) -> Ints:
    """The same of planted features: up to five times the rate at the highest level, ten times in one group value."""
    chosen = planted(world, n_families(world), n_values(world))
    rates = firing_rates(world)[chosen.features]
    per_sample = 1 if world.kind == "set" else DOCUMENT_TOKENS
    group = np.repeat(next(iter(part.groups.values())), per_sample)
    keys = []
    for feature, rate, by_family, which in zip(
        chosen.features, rates, chosen.by_family, chosen.which, strict=True
    ):
        codes = part.levels[which % len(part.levels)]
        factor = 0.5 + 0.5 * codes if by_family else np.where(group == which, 10.0, 0.6)
        fires = np.flatnonzero(generator.random(len(group)) < np.minimum(0.9, rate * factor))
        keys.append(fires * world.n_features + feature)
    return np.concatenate(keys) if keys else np.zeros(0, np.int64)


def _write_table(table: pa.Table, path: Path) -> None:
    pq.write_table(
        table, path, compression="zstd", compression_level=1, use_dictionary=False, write_statistics=False
    )


def _write_samples(world: World, folder: Path) -> None:
    """`samples.parquet` and `positions.parquet`, a row group for each part."""
    names = pa.array(vocabulary(world))
    values = {name: pa.array(value_names(name, k)) for name, k in _groups(world).items()}
    samples_out: Any = None
    positions_out: Any = None
    for i in range(world.n_parts):
        part = samples_of_part(world, i)
        offsets = pa.array(np.concatenate([[0], np.cumsum(part.lengths)]).astype(np.int32))
        table = pa.table(
            {
                "tokens": pa.ListArray.from_arrays(offsets, names.take(pa.array(part.tokens))),
                "unit": [f"unit-{i}-{u}" for u in part.units.tolist()],
                **{name: values[name].take(pa.array(codes)) for name, codes in part.groups.items()},
            }
        )
        samples_out = samples_out or pq.ParquetWriter(
            folder / "samples.parquet", table.schema, compression="zstd"
        )
        samples_out.write_table(table)
        if part.depth is not None:
            sample, position = np.divmod(np.flatnonzero(part.depth), DOCUMENT_TOKENS)
            columns = {
                "sample": (sample + i * world.samples_per_part).astype(np.uint32),
                "position": position.astype(np.uint16),
                "depth": part.depth[part.depth > 0],
            }
            depths = pa.table(columns)
            positions_out = positions_out or pq.ParquetWriter(
                folder / "positions.parquet", depths.schema, compression="zstd"
            )
            positions_out.write_table(depths)
    samples_out.close()
    if positions_out is not None:
        positions_out.close()


def _groups(world: World) -> dict[str, int]:
    return {"weapon": N_WEAPONS} if world.kind == "set" else GROUP_VALUES


def value_names(group: str, k: int) -> list[str]:
    """Values of a group, or of an attribute."""
    return [f"{group}_{i:03d}" for i in range(k)]


def _write_config(world: World, folder: Path) -> None:
    if world.kind == "set":
        families: list[dict[str, Any]] = [
            {"name": a, "encoding": "cumulative", "levels": {f"{a}_{level}": level for level in LEVELS}}
            for a in ABILITIES
        ]
        families += [{"name": s, "encoding": "exclusive", "levels": {s: 1}} for s in SINGLES]
        columns = {"weapon": value_names("weapon", N_WEAPONS)}
        for name, k in WEAPON_ATTRIBUTES.items():
            which = rng(world.seed, world.name, name).integers(0, k, N_WEAPONS)
            columns[name] = [value_names(name, k)[j] for j in which]
        pq.write_table(pa.table(columns), folder / "weapon_attributes.parquet")
        groups = [{"name": "weapon", "primary": True, "attributes": "weapon_attributes.parquet"}]
    else:
        tones = {vocabulary(world)[FIRST_TONE + i]: i + 1 for i in range(N_TONES)}
        families = [{"name": "tone", "encoding": "exclusive", "levels": tones}]
        groups = [{"name": name, "primary": name == "genre"} for name in GROUP_VALUES]
    config = {
        "name": world.name,
        "kind": world.kind,
        "n_features": world.n_features,
        "families": families,
        "groups": groups,
        "dataset": {"name": f"synthetic {world.name}", "scale": world.scale, "seed": world.seed},
    }
    (folder / "bundle.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def main() -> None:
    """Write one world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=list(WORLDS), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    world = WORLDS[given.world].model_copy(update={"scale": given.scale})
    given.folder.mkdir(parents=True, exist_ok=True)
    need_disk(given.folder, world, "bundle")
    started = time.monotonic()
    n = write_world(world, given.folder / f"{world.folder}.bundle", given.workers)
    print(f"{world.folder}: {n:,} activations in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
