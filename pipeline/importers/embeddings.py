"""How much of its input the SAE reconstructs, from arrays that the seed's conversion keeps beside the activations."""

from pathlib import Path

import numpy as np

from pipeline.checks import Check, rounded
from pipeline.config import ChecksConfig
from saeinterp_mcp.loaders.files import is_zarr, open_matrix, read_block

INPUT, RECONSTRUCTION = "sae_input.zarr", "sae_recon.zarr"


def check_reconstruction(folder: Path, n_rows: int) -> tuple[Check | None, str]:
    """The share of the inputs' variance that the reconstructions explain, and a note.

    1 - sum |x - r|^2 / sum |x - mean x|^2 over all rows and components, summed in one pass by bands of chunks.
    """
    paths = folder / INPUT, folder / RECONSTRUCTION
    if not all(is_zarr(path) for path in paths):
        return None, "embeddings are not kept; without sae_input and sae_recon nothing is computed from them"
    inputs, outputs = (open_matrix(path) for path in paths)
    if inputs.shape != outputs.shape or inputs.shape[0] != n_rows or 0 in inputs.shape:
        shapes = f"{list(inputs.shape)} and {list(outputs.shape)}"
        return (
            None,
            f"embeddings are not kept; sae_input and sae_recon are {shapes} for {n_rows} rows, not compared",
        )
    n, width = (int(x) for x in inputs.shape)
    shift = np.asarray(read_block(inputs, paths[0], slice(0, 1), slice(0, width)), np.float64)[0]
    total, squares, residual = np.zeros(width), np.zeros(width), 0.0
    step = max(1, int(inputs.chunks[0]))
    for start in range(0, n, step):
        rows, columns = slice(start, min(start + step, n)), slice(0, width)
        x = read_block(inputs, paths[0], rows, columns).astype(np.float64)
        residual += float(((x - read_block(outputs, paths[1], rows, columns)) ** 2).sum())
        # sums of differences from one row: squares of the inputs themselves would cancel
        x -= shift
        total += x.sum(0)
        squares += (x**2).sum(0)
    variance = float((squares - total**2 / n).sum())
    least = ChecksConfig().min_explained_variance
    value = rounded(1 - residual / variance) if variance > 0 and np.isfinite(residual) else None
    check = Check(
        name="explained_variance",
        passed=value is not None and value >= least,
        value=value,
        expected=f"at least {least:.4g}",
        note="from the source's sae_input and sae_recon, over all rows",
    )
    return check, "embeddings are not kept; the explained variance was computed from them"
