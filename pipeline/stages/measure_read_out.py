"""What each feature's decoder direction does to the outputs of the read-out; exact, because the read-out is linear.

The artifact holds `decoder.npy` (n_features, d_model) f32 and, where the adapter has a read-out, `unembedding.npy`
(d_model, n_outputs) f32, `output_tokens.json` and `output_check.json`. `decoder @ unembedding` is what one unit of a
feature adds to each logit. The check removes features from reconstructions and reads them out anew.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.checks import Check, describe, enforce, rounded
from pipeline.config import Execution
from pipeline.fingerprint import located_files, write_whole
from pipeline.set_config import SetChecksConfig, SetModelConfig, SetOutputsConfig, SetSaeConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.capture_vectors import read_vectors
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.sources.sae import SparseAutoencoder
    from pipeline.sources.set_model import ReadOut

TOLERANCE = 1e-4
"""Largest difference that float32 may leave, as a share of the largest effect."""


class MeasureReadOutConfig(Frozen):
    """The sections that decide what is measured."""

    model: SetModelConfig
    sae: SetSaeConfig
    outputs: SetOutputsConfig
    checks: SetChecksConfig


def external(config: MeasureReadOutConfig) -> dict[str, Path]:
    """The adapter, its files, and the SAE."""
    from pipeline.sources.set_model import model_files

    return {**model_files(config.model), **located_files(sae=config.sae)}


def run(
    config: MeasureReadOutConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Write decoder and read-out, then compare their product with removed features."""
    from pipeline.outputs import save_array
    from pipeline.sources.seed_sae import load_set_sae
    from pipeline.sources.set_model import NO_READ_OUT, load_set_model

    model = load_set_model(config.model, execution)
    sae = load_set_sae(config.sae, inputs.get("train_sae"), model.device)
    save_array(out / "decoder.npy", sae.W_dec)
    n = sae.n_features
    read_out = model.read_out()
    if read_out is None:
        return Summary(n_in=n, n_kept=n, notes=(NO_READ_OUT,))
    save_array(out / "unembedding.npy", read_out.weight)
    write_whole(out / "output_tokens.json", canonical_json(read_out.tokens))
    vectors = drawn_vectors(inputs["capture_vectors"], config.checks)
    check = removal_check(out, vectors, sae, read_out, config.outputs, progress)
    [check] = enforce([check], config.checks.allow)
    write_whole(out / "output_check.json", canonical_json({"check": check.model_dump(mode="json")}))
    return Summary(n_in=n, n_kept=n, notes=(describe(check),))


def drawn_vectors(folder: Path, config: SetChecksConfig) -> NDArray[np.float32]:
    """(n, d_model): a seeded draw of vectors, null samples among them."""
    vectors = read_vectors(folder)
    n = min(config.n_samples, len(vectors))
    rows = np.random.default_rng(config.seed).choice(len(vectors), n, replace=False)
    rows.sort()
    return np.asarray(vectors[rows])


def removal_check(
    out: Path,
    vectors: NDArray[np.float32],
    sae: "SparseAutoencoder",
    read_out: "ReadOut",
    config: SetOutputsConfig,
    progress: Progress,
) -> Check:
    """Compare `activation * decoder.npy @ unembedding.npy`, as written, with what removing the feature takes away."""
    import torch

    written = [np.load(out / f"{name}.npy", allow_pickle=False) for name in ("decoder", "unembedding")]
    x = torch.from_numpy(vectors).to(sae.W_dec.device)
    features = spread_features(sae, x, config.n_features)
    difference = largest = 0.0
    for done, feature in enumerate(features, 1):
        rows = x[(sae.activation(x, feature) > 0).nonzero()[: config.n_samples_per_feature, 0]]
        removed, activation = removed_logits(sae, read_out, rows, feature)
        effect = (written[0][feature].astype(np.float64) @ written[1].astype(np.float64))[None]
        found, expected = removed.cpu().numpy(), activation.cpu().numpy()[:, None] * effect
        difference = max(difference, float(np.abs(found - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
        progress(done, len(features))
    share = difference / largest if largest > 0 else None
    return Check(
        name="direct_effect",
        passed=share is not None and share <= TOLERANCE,
        value=None if share is None else rounded(share),
        expected=f"at most {TOLERANCE:g} of the largest effect between decoder times read-out and removing the feature",
        note=f"{len(features)} features removed, largest effect {largest:.4g} in logits"
        if features
        else "no feature fires on the draw",
    )


def spread_features(sae: "SparseAutoencoder", x: "Tensor", n: int) -> list[int]:
    """At most `n` of the features that fire on (n_samples, d_model), evenly spread over their numbers."""
    import torch

    fires = torch.zeros(sae.n_features, dtype=torch.bool, device=x.device)
    for rows in sae.chunks(x):
        fires |= (sae.encode(rows) > 0).any(dim=0)
    firing = fires.nonzero()[:, 0].tolist()
    places = np.linspace(0, len(firing) - 1, min(n, len(firing))).round().astype(int)
    return [firing[place] for place in places]


def removed_logits(
    sae: "SparseAutoencoder", read_out: "ReadOut", x: "Tensor", feature: int
) -> tuple["Tensor", "Tensor"]:
    """What the read-out of the reconstruction loses without one feature, (n, n_outputs), and the feature's
    activation, (n,), in the units of a decoder direction (times `direction_scale`); in double precision where it
    counts."""
    activations = sae.encode(x)
    without = activations.clone()
    without[:, feature] = 0
    weight, bias = read_out.weight.double(), read_out.bias.double()
    whole, less = (sae.decode(a, x).double() @ weight + bias for a in (activations, without))
    return whole - less, (activations[:, feature] * sae.direction_scale(x)[:, 0]).double()


MEASURE_READ_OUT = Stage(
    name="measure_read_out",
    config=MeasureReadOutConfig,
    run=run,
    inputs=("capture_vectors",),
    modules=(
        "pipeline.stages.measure_read_out",
        "pipeline.stages.capture_vectors",
        "pipeline.stages.draw_samples",
        "pipeline.checks",
        "pipeline.outputs",
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
