"""python -m benchmarks.validation.fill_cache CONFIG: give every text of a run a vector without embedding it.

The stages that ask for vectors are run once with a bag of words in the model's place, so that what is measured later
finds all vectors in the cache, as after an earlier run.
"""

import hashlib
import re
import shutil
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.validation import vectors
from pipeline.validation.config import ValidationRun
from pipeline.validation.run import run_validation

WORDS = re.compile(r"\w+")
ASKING = (
    "activation_examples",
    "activation_embeddings",
    "explanation_embeddings",
    "explanation_alignment",
)
"""Stages that embed texts, and what they read; pattern_matching asks for the same phrases as explanation_alignment."""
DIMENSIONS = 384


@lru_cache(maxsize=2**16)
def of_word(word: str) -> NDArray[np.float32]:
    """A random direction, always the same."""
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
    return np.random.default_rng(seed).normal(size=DIMENSIONS).astype(np.float32)


class Embedded:
    def __init__(self, found: NDArray[np.float32]) -> None:
        self.vectors = found


class BagOfWords:
    """What `TextEmbedder` answers, at 100 times its speed."""

    dimensions = DIMENSIONS

    def embed(self, texts: Sequence[str]) -> Embedded:
        found = np.empty((len(texts), DIMENSIONS), np.float32)
        for i, text in enumerate(texts):
            words = WORDS.findall(text.lower()) or [text]
            found[i] = np.sum([of_word(word) for word in words], axis=0)
        return Embedded(found / np.linalg.norm(found, axis=1, keepdims=True))


def fill(config: Path, workers: int) -> None:
    """Fill the cache of a run; artifacts that were made for it are removed."""

    def bag_of_words(self: vectors.TextVectors) -> Any:
        return BagOfWords()

    vectors.TextVectors._embedder = bag_of_words  # type: ignore[method-assign]
    for stage in ASKING:
        run_validation(config, only=stage, execution=Execution(workers=workers))
    work = ValidationRun.load(config).work
    assert work is not None, "load sets work"
    for artifact in work.iterdir():
        if artifact.is_dir() and artifact.name != "vectors":
            shutil.rmtree(artifact)


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
