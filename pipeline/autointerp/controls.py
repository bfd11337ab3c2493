"""Controls: labels of other features on a feature's trials. What a wrong label gets is what a right one has to beat."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.autointerp.config import Method, ScoreConfig
from pipeline.autointerp.results import FeatureRow
from pipeline.autointerp.scoring import needs_judge
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.scorers import SCORERS


def wrong_labels(rows: Sequence[FeatureRow], config: ScoreConfig) -> Iterator[tuple[Method, Label]]:
    """A method, and the claim of one labelled feature as if it were of another one; each feature at most once.

    They are tests of no label, so they go on no record but the ledger.
    """
    labelled = [row for row in rows if row.state == "labelled" and row.label]
    order = rng(config.seed, "controls").permutation(len(labelled))
    pairs = zip(order.tolist(), np.roll(order, 1).tolist(), strict=True)
    chosen = [
        (mine, other)
        for mine, other in ((labelled[i], labelled[j]) for i, j in pairs)
        if mine.feature != other.feature and _claim(mine) != _claim(other)
    ]
    for mine, other in chosen[: config.n_controls]:
        wrong = Label(
            label_id="",
            feature=mine.feature,
            revision=1,
            text=other.label or "",
            explanation=other.explanation,
        )
        for method in config.methods:
            if needs_judge(method) and SCORERS[method].reads_claim:
                yield method, wrong


def _claim(row: FeatureRow) -> tuple[str | None, str | None]:
    """Two features of one meaning have one claim: that of the other is not wrong."""
    return row.label, row.explanation
