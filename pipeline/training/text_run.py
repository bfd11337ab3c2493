"""What the stages of a training on text are told: the sections of a `RunConfig`, and a promise of the SAE."""

import json
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.config import Execution, RunConfig
from pipeline.fingerprint import write_whole
from pipeline.training.config import DEFAULT_TOKENS, TrainSaeConfig
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

CONTEXT_SIZE = 128


class CaptureConfig(Frozen):
    """How many vectors are kept for a training, and how they are captured."""

    n_vectors: PositiveInt
    """Most vectors, a seeded draw of whole samples."""
    max_gb: PositiveFloat = 8.0
    """Size that the file of vectors may have (10^9 bytes); what does not fit is not seen, the rest more often."""
    batch_tokens: PositiveInt = 8192
    """Token slots of a batch."""
    seed: NonNegativeInt = 0
    """Seed of the draw."""


class TextTrainingRun:
    """A `RunConfig` whose SAE is still to be trained, as the stages of the training see it.

    What the SAE's metadata will say (hook, context, BOS) is written down first, as a `cfg.json` without weights:
    `tokenize_dataset` reads it here as it will in the build that uses the SAE.
    """

    def __init__(self, run: RunConfig, max_gb: float, work: Path, execution: Execution) -> None:
        train = run.sae.train
        if train is None:
            raise BadInput("sae.train is missing: it says how to train the SAE (docs/train-sae.md)")
        if run.sae.hook_name is None:
            raise BadInput(
                "there is no hook to train on; give --hook-target (or sae.hook_name), such as"
                " blocks.2.hook_resid_post"
            )
        self.work: Path | None = work
        self.execution = execution
        self.model, self.dataset, self.tokenize = run.model, run.dataset, run.tokenize
        self.hook = run.sae.hook_name
        self.capture = CaptureConfig(
            n_vectors=most_vectors(train),
            max_gb=max_gb,
            batch_tokens=run.collect.batch_tokens,
            seed=train.seed,
        )
        self.sae = run.sae.model_copy(update={"path": promise(run, work), "release": None, "sae_id": None})


def most_vectors(train: TrainSaeConfig) -> int:
    """As many as are seen once, and the held-out ones; all of the dataset where it is seen by epochs."""
    if train.epochs is not None:
        return 2**62
    return int((train.tokens or DEFAULT_TOKENS) / (1 - train.held_out)) + 1


def promise(run: RunConfig, work: Path) -> Path:
    """Write the metadata that the SAE will have, and return its folder."""
    from pipeline.sources.tokenizer import Tokenizer

    given = run.tokenize.prepend_bos
    stated: dict[str, Any] = {
        "hook_name": run.sae.hook_name,
        "context_size": run.tokenize.context_size or CONTEXT_SIZE,
        "prepend_bos": given if given is not None else Tokenizer(run.model).bos_id is not None,
    }
    folder = work / "promised_sae"
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {"architecture": "standard", "d_in": 1, "d_sae": 1, "metadata": stated}
    write_whole(folder / "cfg.json", json.dumps(cfg, sort_keys=True))
    return folder
