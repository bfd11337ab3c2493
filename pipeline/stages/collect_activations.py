"""Model and SAE over all samples; every activation above zero is kept.

The artifact holds one Parquet file for each shard, `activations/part-00000.parquet` (`sample` u32, `position`
u16 or u32, `feature` u32, `value` f32, in this order of sorting), with its counts in the file's own metadata.
A shard is written whole, so a killed run goes on after the last one; memory holds one shard. Batches are a
function of the shard and `batch_tokens`, so a run that was killed leaves the same bytes as one that was not.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.batches import padded_batches
from pipeline.config import CollectConfig, Execution
from pipeline.fingerprint import located_files, write_whole
from pipeline.source_config import ModelConfig, SaeConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.tokenisation import Shard, TokenisedSamples
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    from pipeline.sources.model import LanguageModel
    from pipeline.sources.sae import SparseAutoencoder
    from pipeline.tokenisation import Tokenisation

ROW_GROUP = 2**20
COUNTS = b"saeinterp.counts"


class CollectActivationsConfig(Frozen):
    """The sections that decide the activations."""

    model: ModelConfig
    sae: SaeConfig
    collect: CollectConfig


class ShardCounts(Frozen):
    """What one shard holds, and what was left out of it."""

    n_positions: int
    """Positions of all samples in the shard, padding not counted."""
    n_counted: int
    """Positions whose activations are kept."""
    n_bos: int
    n_other_excluded: int
    """Special tokens inside a sample, and positions the SAE was not trained on."""
    n_activations: int
    n_below_minimum: int
    """Activations above zero that `min_activation` leaves out."""


def external(config: CollectActivationsConfig) -> dict[str, Path]:
    """The model and the SAE."""
    return located_files(model=config.model, sae=config.sae)


def run(
    config: CollectActivationsConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Collect shard by shard; shards that are already there are not repeated."""
    from pipeline.sources.model import load_model
    from pipeline.sources.saelens_format import load_sae

    samples = TokenisedSamples(inputs["tokenize_dataset"])
    model = load_model(config.model, execution)
    sae = load_sae(config.sae, model.device)
    if sae.header.d_in != model.d_model:
        raise BadInput(
            f"the SAE reads {sae.header.d_in} dimensions, the model's residual stream has {model.d_model}"
        )
    write_whole(out / "sae.json", canonical_json(sae.header.model_dump(mode="json", exclude_none=True)))
    folder = out / "activations"
    folder.mkdir(exist_ok=True)
    total: Counter[str] = Counter()
    for index in range(samples.n_shards):
        counts = collect_shard(index, samples, model, sae, config.collect, folder)
        total.update(counts.model_dump())
        progress(total["n_positions"], samples.tokenisation.n_tokens + samples.tokenisation.n_samples)
    if not total["n_activations"]:
        raise BadInput(
            "no feature fired anywhere; is this the right SAE, and collect.min_activation not too high?"
        )
    counts = ShardCounts(**total)
    write_whole(out / "counts.json", canonical_json(counts.model_dump()))
    return summarise(counts, config.collect)


def summarise(counts: ShardCounts, config: CollectConfig) -> Summary:
    """The stage's summary, in positions."""
    notes = [
        f"{counts.n_activations:,} activations, {counts.n_activations / counts.n_counted:.1f} a position"
    ]
    if config.min_activation > 0:
        notes.append(
            f"{counts.n_below_minimum:,} activations at or below {config.min_activation} were left out"
        )
    if counts.n_other_excluded:
        notes.append(
            f"{counts.n_other_excluded:,} positions hold special tokens or were not trained on;"
            " their activations are left out; a store counts them as silent unless their position is excluded"
        )
    return Summary(
        n_in=counts.n_positions,
        n_kept=counts.n_counted,
        dropped={"bos": counts.n_bos, "special or untrained": counts.n_other_excluded},
        notes=tuple(notes),
    )


def collect_shard(
    index: int,
    samples: TokenisedSamples,
    model: "LanguageModel",
    sae: "SparseAutoencoder",
    config: CollectConfig,
    folder: Path,
) -> ShardCounts:
    """Write one shard's activations, unless they are there."""
    part = folder / f"part-{index:05d}.parquet"
    if part.is_file():
        return ShardCounts.model_validate_json(pq.read_schema(part).metadata[COUNTS])
    shard = samples.shard(index)
    columns, counts = activations_of(shard, samples.tokenisation, model, sae, config)
    columns = columns.replace_schema_metadata({COUNTS: canonical_json(counts.model_dump())})
    temporary = part.with_name(part.name + ".tmp")
    pq.write_table(columns, temporary, row_group_size=ROW_GROUP, compression="zstd", use_dictionary=False)
    temporary.replace(part)
    return counts


def activations_of(
    shard: Shard,
    tokenisation: "Tokenisation",
    model: "LanguageModel",
    sae: "SparseAutoencoder",
    config: CollectConfig,
) -> tuple[pa.Table, ShardCounts]:
    """Every activation of a shard above the minimum, sorted by sample, position and feature."""
    import torch

    token_ids = [shard.sample(index) for index in range(shard.n_samples)]
    pieces: list[list[NDArray[np.generic]]] = [[] for _ in range(4)]
    n_below = n_counted = 0
    for batch in padded_batches(token_ids, config.batch_tokens):
        counted = batch.counted(tokenisation)
        n_counted += int(counted.sum())
        row_of, position_of = (axis.astype(np.uint32) for axis in np.nonzero(counted))
        captured = model.capture(torch.from_numpy(batch.tokens), tokenisation.hook_name)
        vectors = captured[torch.from_numpy(counted).to(model.device)]
        first = 0
        for chunk in sae.chunks(vectors):
            rows, features, values = (tensor.cpu().numpy() for tensor in sae.firing(chunk))
            if config.min_activation > 0:
                above = values > config.min_activation
                n_below += int((~above).sum())
                rows, features, values = rows[above], features[above], values[above]
            if not np.isfinite(values).all():
                raise BadInput(
                    f"the model gave activations that are not finite; it runs in {model.run_dtype}"
                )
            where = rows + first
            found = (
                batch.rows.astype(np.uint32)[row_of[where]],
                position_of[where],
                features.astype(np.uint32),
                values,
            )
            for piece, array in zip(pieces, found, strict=True):
                piece.append(array)
            first += len(chunk)
    sample, position, feature, value = (np.concatenate(piece) if piece else np.empty(0) for piece in pieces)
    # Batches hold whole samples with their positions in order, so a stable sort by sample alone is enough.
    narrow = np.uint16 if shard.n_samples <= 2**16 else np.uint32
    order = np.argsort(sample.astype(narrow), kind="stable")
    table = pa.table(
        {
            "sample": (sample[order] + np.uint32(shard.first_sample)).astype(np.uint32),
            "position": position[order].astype(
                np.uint16 if tokenisation.context_size <= 2**16 else np.uint32
            ),
            "feature": feature[order].astype(np.uint32),
            "value": value[order].astype(np.float32),
        }
    )
    n_bos = shard.n_samples if tokenisation.prepend_bos else 0
    n_positions = len(shard.token_ids)
    counts = ShardCounts(
        n_positions=n_positions,
        n_counted=n_counted,
        n_bos=n_bos,
        n_other_excluded=n_positions - n_counted - n_bos,
        n_activations=len(table),
        n_below_minimum=n_below,
    )
    return table, counts


COLLECT_ACTIVATIONS = Stage(
    name="collect_activations",
    config=CollectActivationsConfig,
    run=run,
    inputs=("tokenize_dataset",),
    modules=(
        "pipeline.stages.collect_activations",
        "pipeline.batches",
        "pipeline.tokenisation",
        "pipeline.sources.model",
        "pipeline.sources.huggingface_model",
        "pipeline.sources.bridge_model",
        "pipeline.sources.sae",
        "pipeline.sources.saelens_format",
    ),
    external=external,
)
