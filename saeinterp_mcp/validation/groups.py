"""Chosen examples of features as `validate` wrote them: tables of examples and choices, and a memory map of
vectors."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.patterns.choosing import window_bounds
from saeinterp_mcp.patterns.records import WIDTH, Background, Group, Vectors, Window
from saeinterp_mcp.validation.prompt_tokens import PromptTokens, tokens_by_feature, tokens_by_prompt
from saeinterp_mcp.validation.tables import ACTIVATION_EMBEDDINGS, REMAKE

if TYPE_CHECKING:
    from saeinterp_mcp.validation.folder import Validation

FEW = 4
"""Features whose tokens are read with their own examples; those of more are read from the table of prompts."""


class Choices(NamedTuple):
    """The table activation_embeddings as flat arrays, without the vectors."""

    features: NDArray[np.int64]
    """(F,) ascending."""
    starts: NDArray[np.int64]
    """(F+1,) where the examples of each feature begin."""
    prompts: NDArray[np.int64]
    quantiles: NDArray[np.int64]
    positions: NDArray[np.int64]
    strengths: NDArray[np.float32]
    first_vector: NDArray[np.int64]
    """(F,) -1 without an embedder."""


class GroupReader:
    """Reads Groups from the tables activation_examples, prompts and activation_embeddings, and the vectors.

    Used by the stages (on artifacts) and by the server (on the published folder), so both see the same windows.
    """

    def __init__(
        self, examples: Path, prompts: Path, embeddings: Path, vectors: Path | None, width: int = WIDTH
    ) -> None:
        """Take the files; nothing large is read yet."""
        self._examples, self._prompts, self._embeddings = examples, prompts, embeddings
        self._vectors, self.width = vectors, width

    @cached_property
    def is_set(self) -> bool:
        """Whether prompts are sets: a window is then the whole prompt."""
        sidecar = self._examples.with_name(self._examples.name + ".metadata.json")
        try:
            content = json.loads(sidecar.read_text(encoding="utf-8"))
            return bool(content["result_stats"].get("kind") == "set")
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise BadStore(sidecar, "the record of a table", repr(error), REMAKE) from error

    @property
    def features(self) -> NDArray[np.int64]:
        """Features with at least one chosen example, ascending."""
        return self.choices.features[np.diff(self.choices.starts) > 0]

    def groups(self, features: Sequence[int], per_quantile: int | None = None) -> dict[int, Group]:
        """The groups of some features (those without examples are missing), the first `per_quantile` of each
        quantile."""
        chosen = {
            feature: places for feature in features if len(places := self.places(feature, per_quantile))
        }
        if not chosen:
            return {}
        tokens = self._tokens(chosen)
        return {feature: self._group(feature, places, tokens) for feature, places in chosen.items()}

    def background(self, n: int, per_quantile: int | None, seed: int) -> Background:
        """The groups of `n` features drawn by the seed among `features` (all, where there are no more)."""
        features = self.features
        if len(features) > n:
            features = np.sort(rng(seed, "background").choice(features, n, replace=False))
        return Background(tuple(self.groups(features.tolist(), per_quantile).values()))

    def places(self, feature: int, per_quantile: int | None = None) -> NDArray[np.int64]:
        """Where the examples of a feature are in the arrays of `choices`, the first `per_quantile` of each quantile."""
        choices = self.choices
        at = int(np.searchsorted(choices.features, feature))
        if at == len(choices.features) or choices.features[at] != feature:
            return np.zeros(0, np.int64)
        places = np.arange(choices.starts[at], choices.starts[at + 1])
        if per_quantile is None:
            return places
        quantiles = choices.quantiles[places]
        # quantiles ascend, so the first place of its quantile is the first that is not smaller
        rank = np.arange(len(places)) - np.searchsorted(quantiles, quantiles)
        return np.asarray(places[rank < per_quantile])

    def vector_rows(self, feature: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the vectors of the examples of one feature."""
        at = int(np.searchsorted(self.choices.features, feature))
        return np.asarray(self.choices.first_vector[at] + places - self.choices.starts[at])

    @cached_property
    def vectors(self) -> Vectors | None:
        """All vectors, memory-mapped; None without an embedder."""
        if self._vectors is None:
            return None
        try:
            return np.load(self._vectors, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            raise BadStore(self._vectors, "an array of vectors", str(error), REMAKE) from error

    @cached_property
    def choices(self) -> Choices:
        """Which examples stand for each feature.

        Raises:
            BadStore: the table is missing, damaged, or speaks of vectors that are not there.
        """
        import polars as pl

        names = ("prompt_ids", "quantiles", "positions", "strengths")
        try:
            scan = pl.scan_parquet(self._embeddings)
            ACTIVATION_EMBEDDINGS.check(scan, self._embeddings)
            frame = scan.select("feature_id", *names, "first_vector").collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            message = str(error).splitlines()[0]
            raise BadStore(self._embeddings, "the table activation_embeddings", message, REMAKE) from error
        counts = frame["prompt_ids"].list.len().to_numpy().astype(np.int64)
        prompts, quantiles, positions, strengths = (
            frame[name].list.explode(empty_as_null=False, keep_nulls=False).to_numpy() for name in names
        )
        choices = Choices(
            features=frame["feature_id"].to_numpy().astype(np.int64),
            starts=np.concatenate([[0], np.cumsum(counts)]),
            prompts=prompts.astype(np.int64),
            quantiles=quantiles.astype(np.int64),
            positions=positions.astype(np.int64),
            strengths=strengths,
            first_vector=frame["first_vector"].cast(pl.Int64).fill_null(-1).to_numpy(),
        )
        if self.vectors is not None and (choices.first_vector + counts).max(initial=0) > len(self.vectors):
            assert self._vectors is not None, "vectors were read from it"
            raise BadStore(self._vectors, f"{len(choices.prompts)} vectors", str(len(self.vectors)), REMAKE)
        return choices

    def _tokens(self, chosen: dict[int, NDArray[np.int64]]) -> PromptTokens:
        prompts = np.unique(np.concatenate([self.choices.prompts[places] for places in chosen.values()]))
        if len(chosen) <= FEW:
            return tokens_by_feature(self._examples, list(chosen), prompts)
        return tokens_by_prompt(self._prompts, prompts)

    def _group(self, feature: int, places: NDArray[np.int64], tokens: PromptTokens) -> Group:
        choices = self.choices
        windows = zip(
            choices.prompts[places].tolist(),
            choices.quantiles[places].tolist(),
            choices.strengths[places].tolist(),
            choices.positions[places].tolist(),
            strict=True,
        )
        vectors = None
        if self.vectors is not None:
            vectors = np.asarray(self.vectors[self.vector_rows(feature, places)])
        return Group(feature, tuple(self._window(tokens, *one) for one in windows), vectors)

    def _window(
        self, tokens: PromptTokens, prompt: int, quantile: int, strength: float, position: int
    ) -> Window:
        length = tokens.length(prompt)
        start, stop = (0, length) if self.is_set else window_bounds(length, position, self.width)
        return Window(prompt, quantile, strength, tokens.of(prompt, start, stop), start, position - start)


def reader_of(folder: "Validation") -> GroupReader:
    """The reader of a published folder.

    Raises:
        NotInStore: it holds no examples of activations.
    """
    needed = ("activation_examples", "prompts", "activation_embeddings")
    examples, prompts, embeddings = (folder.path_of(name) for name in needed)
    width = folder.sidecar("activation_embeddings")["config_used"]["activation_embeddings"][
        "token_window_size"
    ]
    return GroupReader(examples, prompts, embeddings, folder.vectors_path("activations"), width)


def stage_reader(examples: Path, embeddings: Path, width: int) -> GroupReader:
    """The reader of the artifacts of the stages activation_examples and activation_embeddings."""
    vectors = embeddings / "activations.npy"
    return GroupReader(
        examples / "activation_examples.parquet",
        examples / "prompts.parquet",
        embeddings / "activation_embeddings.parquet",
        vectors if vectors.is_file() else None,
        width,
    )
