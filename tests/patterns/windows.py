"""Windows and groups of them, by hand."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.patterns.phrases import split_phrases
from saeinterp_mcp.patterns.records import Claimed, Group, Vectors, Window


def window(words: str, at: int = 0, prompt: int = 0, quantile: int = 0, start: int = 0) -> Window:
    """A window of the words of a text, each after a space."""
    return Window(prompt, quantile, 1.0, tuple(f" {word}" for word in words.split(" ")), start, at)


def group(feature: int, windows: Sequence[Window], vectors: NDArray[np.floating] | None = None) -> Group:
    return Group(feature, tuple(windows), None if vectors is None else unit(vectors))


def unit(vectors: NDArray[np.floating]) -> Vectors:
    exact = np.asarray(vectors, np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=-1, keepdims=True), np.float32)


def claimed(text: str, vectors: NDArray[np.floating] | None = None, explainer: str = "one") -> Claimed:
    return Claimed(explainer, text, split_phrases(text), None if vectors is None else unit(vectors))
