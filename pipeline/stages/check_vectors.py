"""Does this SAE belong to these vectors, and does the read-out belong to this data? Leaves `checks.json`, or stops the
build."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.checks import Check, describe, enforce, reconstruction_checks, rounded
from pipeline.config import Execution
from pipeline.fingerprint import located_files, write_whole
from pipeline.set_config import SetChecksConfig, SetModelConfig, SetSaeConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.capture_vectors import read_vectors
from pipeline.stages.draw_samples import SAMPLES, SETS
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.sources.sae import SparseAutoencoder
    from pipeline.sources.set_model import ReadOut, SetModel


class CheckVectorsConfig(Frozen):
    """The sections that decide what is checked."""

    model: SetModelConfig
    hook: str
    sae: SetSaeConfig
    checks: SetChecksConfig


@dataclass(frozen=True)
class Drawn:
    """The samples that the checks run on."""

    vectors: "Tensor"
    """(n, d_model)"""
    tokens: pa.ChunkedArray
    """(n,) lists: the tokens of the whole sets that the samples are views of."""


def external(config: CheckVectorsConfig) -> dict[str, Path]:
    """The adapter, its files, and the SAE."""
    from pipeline.sources.set_model import model_files

    return {**model_files(config.model), **located_files(sae=config.sae)}


def run(
    config: CheckVectorsConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Run every check on a seeded draw; all results are in `checks.json` even where they stop the build."""
    from pipeline.sources.seed_sae import load_set_sae
    from pipeline.sources.set_model import NO_READ_OUT, load_set_model

    model = load_set_model(config.model, execution)
    sae = load_set_sae(config.sae, inputs.get("train_sae"), model.device)
    read_out = model.read_out()
    drawn = draw(inputs, config.checks, model)
    checks = structural_checks(config, model, sae, read_out, inputs["draw_samples"])
    progress(1, 2)
    fits = checks[1].passed  # all else can be measured
    checks += measured_checks(sae, read_out, drawn, config.checks, fits)
    progress(2, 2)
    write_whole(out / "checks.json", canonical_json([check.model_dump(mode="json") for check in checks]))
    checks = enforce(checks, config.checks.allow)
    write_whole(out / "checks.json", canonical_json([check.model_dump(mode="json") for check in checks]))
    failed = [check for check in checks if not check.passed]
    notes = tuple(describe(check) for check in checks)
    return Summary(
        n_in=len(checks),
        n_kept=len(checks) - len(failed),
        dropped={"failed but allowed": len(failed)} if failed else {},
        notes=notes if read_out is not None else (*notes, NO_READ_OUT),
    )


def draw(inputs: Mapping[str, Path], config: SetChecksConfig, model: "SetModel") -> Drawn:
    """A seeded draw of samples, null samples left out."""
    import torch

    owner = pq.read_table(inputs["draw_samples"] / SAMPLES, columns=["set"]).column("set")
    rows = np.flatnonzero(pc.is_valid(owner).to_numpy())
    if len(rows) > config.n_samples:
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, config.n_samples, replace=False))
    sets = pq.read_table(inputs["draw_samples"] / SETS).column("tokens")
    vectors = torch.from_numpy(read_vectors(inputs["capture_vectors"])[rows]).to(model.device)
    return Drawn(vectors, sets.take(owner.take(pa.array(rows))))


def structural_checks(
    config: CheckVectorsConfig,
    model: "SetModel",
    sae: "SparseAutoencoder",
    read_out: "ReadOut | None",
    samples: Path,
) -> list[Check]:
    """What can be said without encoding anything."""
    stated = sae.header.metadata.hook_name
    checks = [
        Check(
            name="hook_exists",
            passed=stated in (None, config.hook),
            value=stated or config.hook,
            expected=f"the SAE's hook to be {config.hook}, or not stated",
        ),
        Check(
            name="shapes_agree",
            passed=sae.header.d_in == model.d_model,
            value=float(sae.header.d_in),
            expected=f"d_in of the SAE equal to d_model {model.d_model}",
        ),
    ]
    if read_out is not None:
        unknown = unknown_tokens(samples, read_out)
        checks.append(
            Check(
                name="vocabulary_fits",
                passed=not unknown,
                value=float(len(unknown)),
                expected="every token of the samples among the read-out's outputs",
                note=f"not among them: {', '.join(unknown[:3])}; {nearest(unknown[0], read_out.tokens)}"
                if unknown
                else f"{len(read_out.tokens)} outputs",
            )
        )
    return checks


def unknown_tokens(samples: Path, read_out: "ReadOut") -> list[str]:
    """Tokens of the sets that the read-out has no output for."""
    found: set[str] = set()
    with pq.ParquetFile(samples / SETS) as sets:
        for index in range(sets.num_row_groups):
            found.update(
                pc.unique(sets.read_row_group(index).column("tokens").combine_chunks().flatten()).to_pylist()
            )
    return sorted(found - set(read_out.tokens))


def measured_checks(
    sae: "SparseAutoencoder",
    read_out: "ReadOut | None",
    drawn: Drawn,
    config: SetChecksConfig,
    can_run: bool,
) -> list[Check]:
    """What encoding the drawn samples shows."""
    from pipeline.evaluation import reconstruction

    found = reconstruction(sae, drawn.vectors, config.seed) if can_run else None
    stated = sae.header.metadata.expected_l0
    checks = [*reconstruction_checks(found, config, stated, sae.n_features, "sample", "shapes do not agree")]
    if found is None:
        return checks
    if read_out is not None:
        checks.append(loss_check(sae, read_out, drawn, config))
    return checks


def loss_check(sae: "SparseAutoencoder", read_out: "ReadOut", drawn: Drawn, config: SetChecksConfig) -> Check:
    """How much of what mean ablation costs the read-out the reconstruction wins back."""
    clean, reconstructed, mean = set_losses(sae, read_out, drawn.vectors, drawn.tokens)
    recovered = (mean - reconstructed) / (mean - clean) if mean > clean else None
    return Check(
        name="loss_recovered",
        passed=recovered is not None and recovered >= config.min_loss_recovered,
        value=None if recovered is None else rounded(recovered),
        expected=f"at least {config.min_loss_recovered:.4g} of what mean ablation costs",
        note=f"nats per sample against the whole set: clean {clean:.4g}, SAE {reconstructed:.4g}, mean {mean:.4g}",
    )


def set_losses(
    sae: "SparseAutoencoder", read_out: "ReadOut", vectors: "Tensor", tokens: pa.ChunkedArray
) -> tuple[float, float, float]:
    """Binary cross-entropy of the read-out against the whole set: clean, through the SAE, with the mean vector.

    Summed over outputs, mean over samples, in nats.

    Args:
        sae: encodes (n, d_model).
        read_out: the adapter's.
        vectors: (n, d_model), on the read-out's device.
        tokens: (n,) lists of strings, the whole sets.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    place = {token: index for index, token in enumerate(read_out.tokens)}
    mean = vectors.mean(dim=0)
    sums = torch.zeros(3, dtype=torch.float64)
    first = 0
    for rows in sae.chunks(vectors):
        target = torch.zeros(len(rows), len(place))
        for row, held in enumerate(tokens.slice(first, len(rows)).to_pylist()):
            target[row, [place[token] for token in held if token in place]] = 1
        target = target.to(rows.device)
        for i, x in enumerate((rows, sae.reconstruct(rows), mean.expand_as(rows))):
            loss = binary_cross_entropy_with_logits(read_out.logits(x), target, reduction="sum")
            sums[i] += float(loss)
        first += len(rows)
    if not first:
        raise BadInput("there is no sample to measure the loss on")
    clean, reconstructed, ablated = (sums / first).tolist()
    return clean, reconstructed, ablated


CHECK_VECTORS = Stage(
    name="check_vectors",
    config=CheckVectorsConfig,
    run=run,
    inputs=("draw_samples", "capture_vectors"),
    modules=(
        "pipeline.stages.check_vectors",
        "pipeline.stages.capture_vectors",
        "pipeline.stages.draw_samples",
        "pipeline.batches",
        "pipeline.checks",
        "pipeline.evaluation",
        "pipeline.outputs",
        "pipeline.set_views",
        "pipeline.tokenisation",
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
