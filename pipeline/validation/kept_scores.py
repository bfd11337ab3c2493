"""Which scores count for an explanation: of its own words, and of the first source where two tested alike."""

from collections.abc import Mapping, Sequence

import polars as pl

from pipeline.validation.config import DataSource
from pipeline.validation.score_summaries import PLAIN
from pipeline.validation.sources import LABELS

KEYS = ["feature_id", "llm_explainer"]
_STRINGS = ("llm_explainer", "llm_scorer", "data_source", "method")


def kept_scores(
    scores: pl.DataFrame,
    others: Mapping[str, Sequence[int]] | None,
    sources: Sequence[DataSource],
    notes: list[str],
) -> pl.DataFrame:
    """The scores that count, categories as strings.

    Args:
        scores: the table.
        others: data source to features where its words are others than those kept (`other_texts.json`); None keeps
            their scores too.
        sources: in the order of the config; given files come after them, labels last.
        notes: gets what was left out.
    """
    frame = scores.with_columns(pl.col(name).cast(pl.String) for name in _STRINGS)
    if others is not None:
        frame = _of_these_words(frame, others, notes)
    order = {source.name: i for i, source in enumerate(sources)} | {LABELS: 2**31}
    place = pl.col("data_source").replace_strict(order, default=2**31 - 1, return_dtype=pl.UInt32)
    ordered = frame.with_columns(place.alias("place")).sort("place", "data_source", maintain_order=True)
    kept = ordered.unique([*KEYS, "llm_scorer", "method"], keep="first", maintain_order=True)
    if len(kept) < len(frame):
        notes.append(f"{len(frame) - len(kept)} scores left out: an earlier source has one of the same kind")
    plain = kept.filter(pl.col("reason") == PLAIN)["data_source"].unique().sort().to_list()
    if plain:
        notes.append(f"fuzz and detection of {', '.join(plain)}: {PLAIN}")
    return kept.drop("place")


def _of_these_words(
    frame: pl.DataFrame, others: Mapping[str, Sequence[int]], notes: list[str]
) -> pl.DataFrame:
    pairs = [(source, feature) for source, features in others.items() for feature in features]
    schema = {"data_source": pl.String, "feature_id": pl.UInt32}
    left_out = pl.DataFrame(pairs, schema=schema, orient="row")
    kept = frame.join(left_out, on=list(schema), how="anti", maintain_order="left")
    if len(kept) < len(frame):
        notes.append(
            f"{len(frame) - len(kept)} scores left out: they are of other words than the explanation that is kept"
        )
    return kept
