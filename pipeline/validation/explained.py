"""Explanations of features as the stages that compare phrases read them."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.validation.population import Block, blocks_of, rows_of
from pipeline.validation.vectors import TextVectors, open_vectors
from pipeline.validation.writing import read_table, rows_by_feature
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.patterns.records import Phrase, Vectors
from saeinterp_mcp.validation.claims import Method, phrases_of
from saeinterp_mcp.validation.tables import EXPLANATION_EMBEDDINGS

FILE = "explanation_embeddings.parquet"
COLUMNS = ("feature_id", "llm_explainer", "explanation_text", "status")


class Explanation(NamedTuple):
    """One explanation."""

    explainer: str
    text: str
    ok: bool


def explained_blocks(folder: Path) -> list[Block]:
    """Blocks of the features that have an explanation, whatever became of it."""
    frame = read_table(EXPLANATION_EMBEDDINGS, folder / FILE, ["feature_id"])
    return blocks_of(frame["feature_id"].unique().sort().to_list())


def explanations_of(folder: Path, block: Block) -> Iterator[tuple[int, list[Explanation]]]:
    """(feature, its explanations in the order of the table) of a block of features."""
    frame = rows_of(folder / FILE, block, COLUMNS).cast({"llm_explainer": pl.String, "status": pl.String})
    for feature, rows in rows_by_feature(frame):
        columns = (rows[name].to_list() for name in COLUMNS[1:])
        yield (
            feature,
            [
                Explanation(explainer, text or "", status == "ok")
                for explainer, text, status in zip(*columns, strict=True)
            ],
        )


@lru_cache(maxsize=2)
def opened_vectors(work: Path, model: str | None) -> TextVectors | None:
    """The cache of vectors, opened once a process: its index is read whole."""
    return open_vectors(work, model)


def embed_phrases(
    folder: Path,
    blocks: list[Block],
    vectors: TextVectors,
    split: Callable[[str], tuple[Phrase, ...]],
    failed_too: bool,
    progress: Callable[[int, int], None],
) -> None:
    """Give every phrase its vector, a block at a time; workers then only look them up."""
    for i, block in enumerate(blocks):
        texts = {
            phrase.text: None
            for _, explanations in explanations_of(folder, block)
            for one in explanations
            if one.ok or failed_too
            for phrase in split(one.text)
        }
        if texts:
            vectors.of(list(texts))
        progress(i + 1, len(blocks))


class Drawn(NamedTuple):
    """Phrases drawn from all explanations."""

    features: tuple[int, ...]
    """Whose each is, ascending."""
    texts: tuple[str, ...]


def draw_phrases(
    folder: Path, blocks: list[Block], n: int, n_features: int, seed: int, name: str, method: Method
) -> Drawn:
    """`n` phrases of explanations that are ok, of at most `n_features` features, drawn by the seed."""
    frame = pl.concat([rows_of(folder / FILE, block, COLUMNS) for block in blocks])
    ok = frame.filter(pl.col("status").cast(pl.String) == "ok")
    features = ok["feature_id"].unique().sort().to_numpy()
    generator = rng(seed, name)
    if len(features) > n_features:
        features = np.sort(generator.choice(features, n_features, replace=False))
    rows = ok.filter(pl.col("feature_id").is_in(features.tolist()))
    phrases = [
        (feature, phrase.text)
        for feature, text in zip(
            rows["feature_id"].to_list(), rows["explanation_text"].to_list(), strict=True
        )
        for phrase in phrases_of(text or "", method)
    ]
    if len(phrases) > n:
        phrases = [phrases[i] for i in np.sort(generator.choice(len(phrases), n, replace=False)).tolist()]
    return Drawn(tuple(feature for feature, _ in phrases), tuple(text for _, text in phrases))


def vectors_of(vectors: TextVectors | None) -> Callable[[list[str]], Vectors] | None:
    """What gives texts their vectors; None where they are compared by words."""
    return None if vectors is None else vectors.of
