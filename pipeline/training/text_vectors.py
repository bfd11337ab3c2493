"""The vectors of a language model at a hook, in a file that does not grow beyond a limit.

The artifact holds `vectors.npy` (n, d_model) float32, `units.npy` (n,) (which documents they are from),
`samples.npy` (n_samples, 2) (which samples were drawn, and where the vectors of each begin) and `metadata.json`
(what the SAE will say of its inputs).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches import padded_batches
from pipeline.config import Execution
from pipeline.fingerprint import located_files, write_whole
from pipeline.source_config import ModelConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.tokenisation import Shard, Tokenisation, TokenisedSamples
from pipeline.training.text_run import CaptureConfig
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    from pipeline.sources.model import LanguageModel

VECTORS, UNITS, SAMPLES, METADATA = "vectors.npy", "units.npy", "samples.npy", "metadata.json"
DONE = "shards_done.json"


class CaptureTextVectorsConfig(Frozen):
    """The sections that decide the vectors."""

    model: ModelConfig
    capture: CaptureConfig


def external(config: CaptureTextVectorsConfig) -> dict[str, Path]:
    """The model."""
    return located_files(model=config.model)


def run(
    config: CaptureTextVectorsConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Capture shard by shard; a run that was killed goes on after the last whole one."""
    from pipeline.sources.model import load_model, require_hook

    samples = TokenisedSamples(inputs["tokenize_dataset"])
    tokenisation = samples.tokenisation
    model = load_model(config.model, execution)
    require_hook(tokenisation.hook_name, model.n_layers)
    if model.max_length is not None and tokenisation.context_size > model.max_length:
        raise BadInput(
            f"context size {tokenisation.context_size} is more than the model's {model.max_length} positions;"
            " give a smaller --context-size"
        )
    n_of, unit_of = count_vectors(samples)
    chosen = draw_samples(n_of, max_vectors(config.capture, model.d_model), config.capture.seed)
    n_vectors = int(n_of[chosen].sum())
    if not n_vectors:
        raise BadInput("the dataset has no position to train on: every token is special or excluded")
    first = np.concatenate([[0], np.cumsum(np.where(chosen, n_of, 0))])
    vectors, n_done = open_vectors(out, (n_vectors, model.d_model))
    for index in range(samples.n_shards):
        shard = samples.shard(index)
        if index >= n_done:
            capture_shard(shard, chosen, first, model, tokenisation, config.capture.batch_tokens, vectors)
            vectors.flush()
            write_whole(out / DONE, json.dumps(index + 1))
        progress(int(first[shard.first_sample + shard.n_samples]), n_vectors)
    np.save(out / UNITS, np.repeat(unit_of[chosen], n_of[chosen]))
    drawn = np.flatnonzero(chosen)
    np.save(out / SAMPLES, np.stack([drawn, first[drawn]], axis=1))
    write_whole(out / METADATA, canonical_json(metadata(tokenisation)))
    (out / DONE).unlink()
    gb = vectors.nbytes / 1e9
    return Summary(
        n_in=len(chosen),
        n_kept=int(chosen.sum()),
        dropped={"beyond capture": int((~chosen).sum())} if not chosen.all() else {},
        notes=(f"{n_vectors:,} vectors of {model.d_model} numbers, {gb:.2f} GB",),
    )


def metadata(tokenisation: Tokenisation) -> dict[str, Any]:
    """What the SAE's `cfg.json` says of the positions it was trained on; `build` reads it."""
    return {
        "hook_name": tokenisation.hook_name,
        "context_size": tokenisation.context_size,
        "prepend_bos": tokenisation.prepend_bos,
        "exclude_special_tokens": list(tokenisation.special_ids),
        "seqpos_slice": [1, None] if tokenisation.prepend_bos else [0, None],
    }


def max_vectors(config: CaptureConfig, d_model: int) -> int:
    """How many vectors the file may hold."""
    return min(config.n_vectors, max(1, int(config.max_gb * 1e9) // (4 * d_model)))


def count_vectors(samples: TokenisedSamples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each sample, how many positions count and the number of its unit, both (n_samples,)."""
    n_of = np.zeros(samples.tokenisation.n_samples, dtype=np.int64)
    unit_of = np.zeros(samples.tokenisation.n_samples, dtype=np.int64)
    numbers: dict[str, int] = {}
    for shard, table in samples.tables():
        for batch in padded_batches([shard.sample(i) for i in range(shard.n_samples)], 2**16):
            n_of[shard.first_sample + batch.rows] = batch.counted(samples.tokenisation).sum(axis=1)
        units = table.column("unit").to_pylist()
        last = shard.first_sample + shard.n_samples
        unit_of[shard.first_sample : last] = [numbers.setdefault(unit, len(numbers)) for unit in units]
    return n_of, unit_of


def draw_samples(n_of: NDArray[np.int64], most: int, seed: int) -> NDArray[np.bool_]:
    """(n_samples,): a seeded draw of whole samples with at most `most` vectors; all where they fit."""
    order = np.random.default_rng(seed).permutation(len(n_of))
    fits = np.cumsum(n_of[order]) <= most
    fits[0] = True
    chosen = np.zeros(len(n_of), dtype=np.bool_)
    chosen[order[fits]] = True
    return chosen & (n_of > 0)


def open_vectors(out: Path, shape: tuple[int, int]) -> tuple[np.memmap[Any, np.dtype[np.float32]], int]:
    """The file of vectors, new or as a killed run left it, and how many shards of it are done."""
    path, done = out / VECTORS, out / DONE
    if path.is_file() and done.is_file():
        found = np.lib.format.open_memmap(path, mode="r+")
        if found.shape == shape:
            return found, int(json.loads(done.read_text(encoding="utf-8")))
    done.unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape), 0


def capture_shard(
    shard: Shard,
    chosen: NDArray[np.bool_],
    first: NDArray[np.int64],
    model: "LanguageModel",
    tokenisation: Tokenisation,
    batch_tokens: int,
    vectors: NDArray[np.float32],
) -> None:
    """Write the vectors of the chosen samples of a shard, each sample's from `first[sample]` on."""
    import torch

    drawn = np.flatnonzero(chosen[shard.first_sample : shard.first_sample + shard.n_samples])
    if not len(drawn):
        return
    for batch in padded_batches([shard.sample(int(index)) for index in drawn], batch_tokens):
        counted = batch.counted(tokenisation)
        captured = model.capture(torch.from_numpy(batch.tokens), tokenisation.hook_name)
        found = captured[torch.from_numpy(counted).to(model.device)].float().cpu().numpy()
        row, _ = np.nonzero(counted)
        within = (counted.cumsum(axis=1) - 1)[counted]
        vectors[first[shard.first_sample + drawn[batch.rows[row]]] + within] = found


CAPTURE_TEXT_VECTORS = Stage(
    name="capture_vectors",
    config=CaptureTextVectorsConfig,
    run=run,
    inputs=("tokenize_dataset",),
    modules=(
        "pipeline.training.text_vectors",
        "pipeline.batches",
        "pipeline.tokenisation",
        "pipeline.sources.model",
        "pipeline.sources.huggingface_model",
        "pipeline.sources.bridge_model",
    ),
    external=external,
)
