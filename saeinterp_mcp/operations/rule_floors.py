"""What predictors reach that took no thought: always no, always yes, and the best single token."""

from functools import lru_cache

import numpy as np
from pydantic import BaseModel, ConfigDict

from saeinterp_mcp.analysis.effects import enough
from saeinterp_mcp.analysis.rule_scores import Interval, Prediction, best_token
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.operations.asked_rule import AskedRule
from saeinterp_mcp.operations.base import number
from saeinterp_mcp.operations.slicing import Scoping, Slice
from saeinterp_mcp.rules import TokenCondition
from saeinterp_mcp.store.base import Floats, Store

BLOCK = 1 << 16
"""Rows whose tokens are counted at a time."""


class Floor(BaseModel):
    """What a predictor reaches that took no thought."""

    model_config = ConfigDict(extra="forbid")
    balanced_accuracy: float | None
    precision: float | None
    recall: float | None


class TokenFloor(Floor):
    """The token whose presence alone did best on the explain split, on the tested rows."""

    token: str
    rule: str
    difference: float | None
    """Balanced accuracy of the rule less that of the token, paired."""
    difference_low: float | None
    difference_high: float | None
    same_rows: bool
    """Whether the rule holds where this token is present and nowhere else, so that it claims no more than it."""


class Floors(BaseModel):
    """Predictors to beat."""

    model_config = ConfigDict(extra="forbid")
    always_no: Floor
    always_yes: Floor
    best_single_token: TokenFloor | None


def floors_of(asked: AskedRule, prediction: Prediction, min_n: int) -> Floors:
    """The floors of a rule, on the rows that it is tested on."""
    tested = prediction.tested
    known = not (too_few(tested.firing, min_n) or too_few(tested.silent, min_n))
    half, rate = 0.5 if known else None, number(tested.fires.mean()) if known else None
    return Floors(
        always_no=Floor(balanced_accuracy=half, precision=None, recall=0.0 if known else None),
        always_yes=Floor(balanced_accuracy=half, precision=rate, recall=1.0 if known else None),
        best_single_token=_token_floor(asked, prediction, known, min_n),
    )


def _token_floor(asked: AskedRule, prediction: Prediction, known: bool, min_n: int) -> TokenFloor | None:
    """The best token of the explain rows, on the tested ones."""
    part = asked.explain_part()
    _, tokens = part.labels("tokens").of_rows(part.firing[0])
    n_firing = np.bincount(tokens, minlength=len(asked.store.tokens)).astype(np.float64)
    chosen = best_token(n_firing, _token_rows(part), len(part.firing[0]), part.n_rows)
    if chosen is None:
        return None
    token = asked.store.tokens[chosen]
    has_token = asked.rows.has_token(token)
    present = Prediction(prediction.tested, has_token[asked.tested])
    short = too_few(present.held, min_n)
    difference = prediction.better_than(present) if known else Interval(np.nan, np.nan, np.nan)
    return TokenFloor(
        token=visible_token(token),
        rule=TokenCondition(token).canonical(),
        balanced_accuracy=number(present.balanced_accuracy.value) if known else None,
        precision=None if short else number(present.precision.value),
        recall=number(present.recall.value) if known else None,
        difference=number(difference.value),
        difference_low=number(difference.low),
        difference_high=number(difference.high),
        same_rows=bool((has_token == asked.holds).all()),
    )


def _token_rows(part: Slice) -> Floats:
    """(V,) rows of the slice with each token in scope."""
    if part.is_whole:
        return part.labels("tokens").counts.n.astype(np.float64)
    return _counted_token_rows(part.store, part.scoping) if part.mask is None else _count_token_rows(part)


def _count_token_rows(part: Slice) -> Floats:
    rows = np.arange(part.store.n_rows("explain")) if part.mask is None else np.flatnonzero(part.mask)
    found = np.zeros(len(part.store.tokens))
    for start in range(0, len(rows), BLOCK):
        labels, _ = part.labels("tokens").labels_of(rows[start : start + BLOCK])
        found += np.bincount(labels, minlength=len(found))
    return found


@lru_cache(maxsize=32)
def _counted_token_rows(store: Store, scoping: Scoping) -> Floats:
    return _count_token_rows(Slice(store, 0, "explain", scoping, None))


def too_few(rows_of_unit: Floats, min_n: int) -> bool:
    """Whether there are too few rows or units for an estimate (design 5.4)."""
    n, n_units = np.array([int(rows_of_unit.sum())]), np.array([int((rows_of_unit > 0).sum())])
    return not bool(enough(n, n_units, min_n)[0])
