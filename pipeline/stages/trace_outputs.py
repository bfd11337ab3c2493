"""Decoder directions through the unembedding: which output tokens each feature raises and lowers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.importers.bundle import BundleConfig, inside, read_config, read_matrix
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.layout import NO_INDEX, OUTPUTS
from saeinterp_mcp.store.zarr_writer import ZarrWriter

BLOCK = 256


def trace_outputs(
    bundle: Path, writer: ZarrWriter, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write `weights/*`, `outputs/*` and the tables `outputs` and `decoder_influence`, as far as the bundle has them.

    The effect of feature f on output o is decoder[f] @ unembedding[:, o], less its mean over outputs: a logit shift
    common to all outputs changes no probability of a softmax. Where each output has a sigmoid of its own, it does, and
    the mean stays. The effect is the change of the logit for one unit of activation, but for the final norm's scale at
    the position, where there is one.
    """
    config = read_config(bundle)
    names = _output_tokens(bundle, config)
    writer.table("outputs", pl.DataFrame({"token": names}, schema={"token": pl.String}))
    empty = {
        "feature": pl.Int64,
        "direction": pl.String,
        "rank": pl.Int64,
        "token": pl.String,
        "effect": pl.Float32,
    }
    if config.decoder is None:
        writer.table("decoder_influence", pl.DataFrame(schema=empty))
        return
    decoder = read_matrix(bundle, config.decoder, (config.n_features, None))
    writer.put("weights/decoder", decoder)
    if config.unembedding is None:
        writer.table("decoder_influence", pl.DataFrame(schema=empty))
        return
    unembedding = read_matrix(bundle, config.unembedding, (decoder.shape[1], None))
    if unembedding.shape[1] != len(names):
        raise BadInput(
            f"{bundle / config.unembedding} has {unembedding.shape[1]} columns, but output_tokens holds {len(names)}"
        )
    common = 0.0 if config.independent_outputs else unembedding.mean(1, keepdims=True, dtype=np.float64)
    by_output = (unembedding - common).T.astype(np.float32)
    writer.put("weights/unembedding", np.ascontiguousarray(by_output))
    k = min(OUTPUTS, len(names))
    lists = {
        side: (
            np.full((len(decoder), OUTPUTS), NO_INDEX, np.uint32),
            np.full((len(decoder), OUTPUTS), np.nan, np.float32),
        )
        for side in ("promoted", "suppressed")
    }
    norm = np.zeros(len(decoder), np.float32)
    for first in range(0, len(decoder), BLOCK):
        effects = decoder[first : first + BLOCK].astype(np.float64) @ by_output.T.astype(np.float64)
        stop = first + len(effects)
        norm[first:stop] = np.linalg.norm(effects, axis=1)
        effects = np.round(effects, 9)
        for side, sign in (("promoted", -1.0), ("suppressed", 1.0)):
            best = np.argpartition(sign * effects, k - 1, axis=1)[:, :k]
            value = np.take_along_axis(effects, best, axis=1)
            order = np.lexsort((best, sign * value), axis=1)
            tokens, values = lists[side]
            tokens[first:stop, :k] = np.take_along_axis(best, order, axis=1)
            values[first:stop, :k] = np.take_along_axis(value, order, axis=1)
        progress(stop, len(decoder))
    frames = []
    for side, (tokens, values) in lists.items():
        writer.put(f"outputs/{side}/tokens", tokens)
        writer.put(f"outputs/{side}/effects", values)
        shown = tokens[:, : min(10, k)]
        frames.append(
            pl.DataFrame(
                {
                    "feature": np.repeat(np.arange(len(decoder)), shown.shape[1]),
                    "direction": [side] * shown.size,
                    "rank": np.tile(np.arange(1, shown.shape[1] + 1), len(decoder)),
                    "token": [names[i] for i in shown.ravel().tolist()],
                    "effect": values[:, : shown.shape[1]].ravel(),
                }
            )
        )
    writer.put("outputs/norm", norm)
    writer.table("decoder_influence", pl.concat(frames).sort("feature", "direction", "rank"))


def _output_tokens(bundle: Path, config: BundleConfig) -> list[str]:
    if config.output_tokens is None:
        return []
    if not isinstance(config.output_tokens, str):
        return list(config.output_tokens)
    import json

    path = inside(bundle, config.output_tokens)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise BadInput(f"{path} must hold a list of strings")
    return names
