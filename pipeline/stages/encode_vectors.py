"""The SAE over all vectors; every activation above zero is kept.

The artifact holds parts `activations/part-00000.parquet` as `collect_activations` writes them (`position` is always
0), `sae.json`, `counts.json`, and `notes.json`, what the store should say of them. A part is written whole, so a killed
run goes on after the last one.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.fingerprint import located_files, write_whole
from pipeline.set_config import SetCollectConfig, SetSaeConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.capture_vectors import read_vectors
from pipeline.stages.draw_samples import ROW_GROUP
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    from pipeline.sources.sae import SparseAutoencoder

PART_ROWS = 2 * ROW_GROUP
"""Samples of a part; bounds what is in memory."""
COUNTS = b"saeinterp.counts"


class EncodeVectorsConfig(Frozen):
    """The sections that decide the activations."""

    sae: SetSaeConfig
    collect: SetCollectConfig


class PartCounts(Frozen):
    """What one part holds, and what was left out of it."""

    n_samples: int
    n_activations: int
    n_below_minimum: int
    """Activations above zero that `min_activation` leaves out."""
    n_cut: int
    """Activations that the SAE's own limit cut off."""


def external(config: EncodeVectorsConfig) -> dict[str, Path]:
    """The SAE, where it is not one of the run's own."""
    return located_files(sae=config.sae)


def run(
    config: EncodeVectorsConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Encode part by part; parts that are already there are not repeated."""
    from pipeline.sources.model import choose_device
    from pipeline.sources.seed_sae import load_set_sae

    vectors = read_vectors(inputs["capture_vectors"])
    sae = load_set_sae(config.sae, inputs.get("train_sae"), choose_device(execution))
    write_whole(out / "sae.json", canonical_json(sae.header.model_dump(mode="json", exclude_none=True)))
    folder = out / "activations"
    folder.mkdir(exist_ok=True)
    total: Counter[str] = Counter()
    for index, start in enumerate(range(0, len(vectors), PART_ROWS)):
        path = folder / f"part-{index:05d}.parquet"
        total.update(encode_part(path, vectors, start, sae, config.collect.min_activation).model_dump())
        progress(total["n_samples"], len(vectors))
    counts = PartCounts(**total)
    if not counts.n_activations:
        raise BadInput(
            "no feature fired anywhere; is this the right SAE, and collect.min_activation not too high?"
        )
    write_whole(out / "counts.json", canonical_json(counts.model_dump()))
    notes = notes_of(counts, config, sae.header.max_activation)
    write_whole(out / "notes.json", canonical_json(notes))
    each = f"{counts.n_activations:,} activations, {counts.n_activations / counts.n_samples:.1f} a sample"
    return Summary(n_in=len(vectors), n_kept=len(vectors), notes=(each, *notes))


def notes_of(counts: PartCounts, config: EncodeVectorsConfig, limit: float | None) -> list[str]:
    """What a reader of the store should know of its activations."""
    notes = []
    if config.collect.min_activation > 0:
        minimum = config.collect.min_activation
        notes.append(f"{counts.n_below_minimum:,} activations at or below {minimum} were left out")
    if limit is not None and not counts.n_cut:
        notes.append(f"no activation reaches {limit:g}, where the SAE would cut it off")
    elif limit is not None:
        notes.append(
            f"{counts.n_cut:,} activations ({counts.n_cut / counts.n_activations:.2%}) are cut off at {limit:g}, the"
            " SAE's own limit; above it strengths cannot be told apart"
        )
    return notes


def encode_part(
    path: Path, vectors: NDArray[np.float32], start: int, sae: "SparseAutoencoder", minimum: float
) -> PartCounts:
    """Write the activations of the samples from `start`, unless they are there."""
    if path.is_file():
        return PartCounts.model_validate_json(pq.read_schema(path).metadata[COUNTS])
    columns, counts = activations_of(np.array(vectors[start : start + PART_ROWS]), start, sae, minimum)
    columns = columns.replace_schema_metadata({COUNTS: canonical_json(counts.model_dump())})
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(columns, temporary, compression="zstd", use_dictionary=False)
    temporary.replace(path)
    return counts


def activations_of(
    block: NDArray[np.float32], start: int, sae: "SparseAutoencoder", minimum: float
) -> tuple[pa.Table, PartCounts]:
    """Every activation of (n, d_model) vectors above the minimum, by sample and feature."""
    import torch

    pieces: list[tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]] = []
    n_below = n_cut = 0
    first = start
    for chunk in sae.chunks(torch.from_numpy(block).to(sae.W_enc.device)):
        rows, features, values = (tensor.cpu().numpy() for tensor in sae.firing(chunk))
        above = values > minimum
        n_below += int((~above).sum())
        if sae.header.max_activation is not None:
            n_cut += int((values >= sae.header.max_activation).sum())
        sample = (rows[above] + first).astype(np.uint32)
        pieces.append((sample, features[above].astype(np.uint32), values[above].astype(np.float32)))
        first += len(chunk)
    sample, feature, value = (np.concatenate(column) for column in zip(*pieces, strict=True))
    position = np.zeros(len(sample), np.uint16)
    table = pa.table({"sample": sample, "position": position, "feature": feature, "value": value})
    counts = PartCounts(n_samples=len(block), n_activations=len(table), n_below_minimum=n_below, n_cut=n_cut)
    return table, counts


ENCODE_VECTORS = Stage(
    name="encode_vectors",
    config=EncodeVectorsConfig,
    run=run,
    inputs=("capture_vectors",),
    modules=(
        "pipeline.stages.encode_vectors",
        "pipeline.stages.capture_vectors",
        "pipeline.stages.draw_samples",
        "pipeline.set_views",
        "pipeline.sources.checkpoint",
        "pipeline.sources.model",
        "pipeline.sources.sae",
        "pipeline.sources.saelens_format",
        "pipeline.sources.seed_sae",
        "pipeline.sources.set_dataset",
        "pipeline.sources.set_model",
    ),
    external=external,
)
