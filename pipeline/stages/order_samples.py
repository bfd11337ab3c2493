"""Bundle to the directory of a store: samples in their order, rows, units, labels with their counts."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.importers.bundle import BundleConfig, read_attributes, read_config, read_samples
from pipeline.importers.bundle_activations import read_position_families
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.directory import Directory, Labelling, write_directory
from saeinterp_mcp.store.manifest import FamilyInfo, Manifest, Segment
from saeinterp_mcp.store.sample_table import SampleTable
from saeinterp_mcp.store.zarr_writer import ZarrWriter

DRAFT = "draft.json"
PLACING = "placing"
"""Folder of what only later stages read: which row an entry of the bundle belongs to."""


def order_samples(bundle: Path, out: Path) -> Manifest:
    """Write the directory, what places activations, and a draft of the manifest.

    Raises:
        BadInput: what the bundle holds does not fit; nothing is published.
    """
    config = read_config(bundle)
    table = read_samples(bundle, config)
    labelling = read_labelling(bundle, config, table)
    directory = write_directory(ZarrWriter(out), table, labelling)
    if not directory.n_rows:
        raise BadInput(f"{bundle / 'samples.parquet'} has no counted position: every position is excluded")
    write_placing(out / PLACING, directory, table.lengths, first_sample=0)
    manifest = draft_manifest(config, directory, table)
    (out / DRAFT).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest


def read_labelling(bundle: Path, config: BundleConfig, table: SampleTable) -> Labelling:
    """Families, groups and attributes of a bundle.

    Raises:
        BadInput: an attribute table or `positions.parquet` does not fit.
    """
    position_levels = read_position_families(bundle, table.lengths, config.kind)
    for name in position_levels:
        if name in (f.name for f in config.families):
            raise BadInput(f"{bundle / 'positions.parquet'}: family {name!r} is also in bundle.yaml")
    return Labelling(
        split_seed=config.split_seed,
        excluded_positions=config.excluded_positions,
        families=tuple(
            FamilyInfo(
                name=f.name,
                encoding=f.encoding,
                levels=tuple(sorted(set(f.levels.values()))),
                tokens=f.levels,
            )
            for f in config.families
        ),
        position_levels={n: (s, p, v) for n, (s, p, v) in position_levels.items()},
        groups=tuple(g.name for g in config.groups),
        primary=next((g.name for g in config.groups if g.primary), None),
        attributes={g.name: read_attributes(bundle, g, table.groups[g.name][1]) for g in config.groups},
    )


def write_placing(
    folder: Path, directory: Directory, lengths: NDArray[np.int64], first_sample: int, all_rows: bool = False
) -> None:
    """What says where an activation of a bundle goes.

    Args:
        folder: made here.
        directory: of all samples.
        lengths: (N,) tokens of all samples, in source order.
        first_sample: source index of the bundle's first sample; those before it are there already.
        all_rows: number rows among those of all samples, not of the bundle's own.
    """
    folder.mkdir(exist_ok=True)
    source = directory.order.source
    new = source >= first_sample
    n_rows = np.diff(directory.first_row)
    rows = n_rows if all_rows else np.where(new, n_rows, 0)
    first_row = np.zeros(len(source) - first_sample, np.int64)
    first_row[source[new] - first_sample] = (np.cumsum(rows) - rows)[new]
    np.save(folder / "first_row.npy", first_row)
    np.save(folder / "lengths.npy", lengths[first_sample:])
    np.save(folder / "rank.npy", directory.rank)
    np.save(folder / "excluded.npy", directory.excluded)
    np.save(folder / "n_rows.npy", np.array(int(rows.sum())))


def draft_manifest(config: BundleConfig, directory: Directory, table: SampleTable) -> Manifest:
    """The manifest of a first generation, without activations."""
    n_samples = len(table.lengths)
    dropped = {"repeated_token": directory.n_repeated_tokens} if directory.n_repeated_tokens else {}
    return Manifest(
        name=config.name,
        kind=config.kind,
        n_features=config.n_features,
        n_samples=n_samples,
        n_rows=directory.n_rows,
        n_positions_stored=directory.n_rows if config.kind == "set" else directory.n_tokens,
        n_activations=0,
        n_units=len(directory.order.unit_names),
        n_explain=directory.n_explain,
        split_seed=config.split_seed,
        coverage=config.coverage,
        excluded_positions=tuple(sorted(set(config.excluded_positions))),
        families=directory.families,
        groups=directory.groups,
        model=config.model,
        sae=config.sae,
        dataset=config.dataset,
        checks=[
            *config.checks,
            *({"name": "import", "passed": None, "note": w} for w in directory.warnings),
        ],
        dropped=dropped,
        search_floor=dict(config.search_floor),
        segments=(Segment(n_samples=n_samples),),
    )
