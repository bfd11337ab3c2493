"""Where features fire most in a store, in the seed's fields: the true activation at the token that it is of."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.labeling.asked import AskedFeatures
from saeinterp_mcp.analysis.text import join_bytes, sequence_text, set_text
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.base import Ints, Store
from saeinterp_mcp.store.manifest import Split

AROUND = 10
"""Tokens of `text` on either side, as in the seed."""


class Example(Frozen):
    """One position where the feature fires; activations of exactly 0 are never among them."""

    activation: float
    """Of the feature at this very token, in the SAE's own units."""
    sequence_index: int
    """Number of the sample, in the order of the dataset."""
    token_position: int
    """In the sample, from 0; BOS counts where there is one."""
    text: str
    """The token with up to 10 on either side, as plain text."""
    token: str | None
    """The token it fires on; None of a set, which fires as a whole."""
    marked: str
    """The same text with that token as <<token>>; what is invisible is spelled out, marks of the corpus are ‹‹ ››."""


class FeatureExamples(Frozen):
    """A line of `feature_examples.jsonl`."""

    feature_id: int
    score: float
    """The caller's own number; no measure of the label."""
    examples: tuple[Example, ...]
    """Strongest first; no two with the same text and mark."""
    n_firing: int
    """Positions where it fires, those not shown too."""
    firing_rate: float
    """Of all counted positions, silent ones included."""
    max_activation: float | None
    """Largest activation; None where it never fires."""
    reason: str | None
    """Why there are no examples."""

    def as_line(self, legacy_names: bool) -> dict[str, Any]:
        """The JSON object; with `finance_score` for `score` where the seed's own name is wanted."""
        line = self.model_dump(mode="json")
        return {("finance_score" if legacy_names and name == "score" else name): line[name] for name in line}


def examples_of(store: Store, asked: AskedFeatures, n: int, split: Split) -> Iterator[FeatureExamples]:
    """One record for each feature, in the order asked; a feature that never fires has one too.

    Args:
        store: where to look.
        asked: features and scores.
        n: most examples of a feature.
        split: `explain`, so that what is held out stays unseen; `all`.
    """
    for feature, score in zip(asked.features, asked.scores, strict=True):
        rows, values = store.activations(feature, split)
        n_rows = store.n_rows(split)
        yield FeatureExamples(
            feature_id=feature,
            score=score,
            examples=tuple(_strongest(store, rows, values, n)),
            n_firing=len(rows),
            firing_rate=len(rows) / n_rows,
            max_activation=float(values.max()) if len(rows) else None,
            reason=None if len(rows) else never_fires(feature, n_rows, split, store),
        )


def never_fires(feature: int, n_rows: int, split: Split, store: Store) -> str:
    """Why there is nothing to show of a feature."""
    what = "positions" if store.is_sequence else "samples"
    part = " of the explain split" if split == "explain" else ""
    return f"feature {feature} never fires on the {n_rows} {what}{part}; more text may show it"


def _strongest(store: Store, rows: Ints, values: np.ndarray[Any, Any], n: int) -> Iterator[Example]:
    """Strongest first, equal ones in the order of the dataset; copies of what was shown are left out."""
    source = store.source[store.row_sample[rows]].astype(np.int64)
    position = store.row_position[rows].astype(np.int64)
    seen: set[str] = set()
    for i in np.lexsort((position, source, -values)).tolist():
        if len(seen) >= n:
            return
        example = _example(store, int(rows[i]), int(source[i]), int(position[i]), float(values[i]))
        if example.marked not in seen:
            seen.add(example.marked)
            yield example


def _example(store: Store, row: int, source: int, position: int, activation: float) -> Example:
    sample = int(store.row_sample[row])
    tokens = [store.tokens[token] for token in store.tokens_of_sample(sample).tolist()]
    if not store.is_sequence:
        text = set_text(tokens)
        return Example(
            activation=activation, sequence_index=source, token_position=0, text=text, token=None, marked=text
        )
    first = _first_counted(store.manifest.excluded_positions)
    around = tokens[max(first, position - AROUND) : position + AROUND + 1]
    return Example(
        activation=activation,
        sequence_index=source,
        token_position=position,
        text=join_bytes("".join(around)),
        token=tokens[position],
        marked=sequence_text(tokens, position, first, AROUND, AROUND),
    )


def _first_counted(excluded: tuple[int, ...]) -> int:
    """BOS is not text."""
    return next(p for p in range(len(excluded) + 1) if p not in excluded)
