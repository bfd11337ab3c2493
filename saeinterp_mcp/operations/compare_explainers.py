"""Do explainers, and scorers, agree?"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.operations.base import Cell, Result, Seed, Table, digits, sealed
from saeinterp_mcp.operations.search_metrics import Metrics, read_filter
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.validation import comparisons
from saeinterp_mcp.validation.comparisons import Agreement, Difference
from saeinterp_mcp.validation.metrics import explanations, select_rows

EXPLAINER_COLUMNS = (
    *(
        "a",
        "b",
        "measure",
        "n",
        "value",
        "low",
        "high",
        "mean_a",
        "mean_b",
        "by_chance",
        "percentile",
        "reason",
    ),
)
SCORER_COLUMNS = (
    *("a", "b", "measure", "n", "correlation", "correlation_low", "correlation_high"),
    *("difference", "low", "high", "reason"),
)
CELL_COLUMNS = (
    *(
        "explainer",
        "scorer",
        "measure",
        "n",
        "n_null",
        "trials",
        "share_failed",
        "mean",
        "share_below_chance",
    ),
)


class CompareExplainers(Result):
    """Pairs are compared over the `n` features that both have, paired by feature; cells are each of their own tests."""

    n_features: int
    """That `where` keeps."""
    explainers: Table
    """measure cosine: mean cosine of their explanations, beside that of different features (by_chance) and its mean
    percentile among those (50 is chance); others: mean score of a minus b, common scorers only."""
    scorers: Table
    """Correlation over features, and mean score of a minus b, of explanations that both tested."""
    cells: Table
    """n tests; share_failed of trials unanswered."""


def compare_explainers(
    store: Store,
    where: Annotated[str | None, Field(description="As in features_search")] = None,
    seed: Seed = 0,
) -> CompareExplainers:
    """Do explainers agree, do scorers? Stored explanations and scores, by pairs over common features."""
    validation = store.need_validation
    asked = read_filter(where, store)
    kept = asked.mask(Metrics(store, "explain", asked.selected))
    tests = comparisons.kept_scores(validation, kept, asked.selected)
    meanings = comparisons.compare_meanings(validation, kept, asked.selected, seed)
    by_score = comparisons.compare_explainers(tests)
    by_scorer = comparisons.compare_scorers(tests)
    cells = comparisons.cells(tests)
    warnings = _warnings(meanings, by_score + by_scorer, cells)
    failed = select_rows(explanations(validation), asked.selected._replace(scorers=None))
    if n_failed := int((failed["status"] != "ok").fill_null(value=False).sum()):
        warnings.append(f"{n_failed} explanations failed (unparsed, empty or runaway) and are left out")
    result = CompareExplainers(
        operation="compare_explainers",
        store=store.name,
        basis="judged",
        summary=_summary(int(kept.sum()), meanings, by_score),
        warnings=warnings,
        seed=seed,
        where=where,
        n_features=int(kept.sum()),
        explainers=Table(
            columns=list(EXPLAINER_COLUMNS),
            rows=[*(_meaning_row(one) for one in meanings), *(_score_row(one) for one in by_score)],
        ),
        scorers=Table(columns=list(SCORER_COLUMNS), rows=[_scorer_row(one) for one in by_scorer]),
        cells=Table(
            columns=list(CELL_COLUMNS), rows=[[_shown(one[0]), _shown(one[1]), *one[2:]] for one in cells]
        ),
    )
    return sealed(result, store, {"where": where, "seed": seed})


def _meaning_row(one: Agreement) -> list[Cell]:
    numbers = [one.cosine, one.low, one.high, None, None, one.by_chance, one.percentile]
    return [_shown(one.a), _shown(one.b), "cosine", one.n, *numbers, one.reason]


def _score_row(one: Difference) -> list[Cell]:
    numbers = [one.difference, one.low, one.high, one.mean_a, one.mean_b, None, None]
    return [_shown(one.a), _shown(one.b), one.measure, one.n, *numbers, one.reason]


def _scorer_row(one: Difference) -> list[Cell]:
    correlation = [one.correlation, one.correlation_low, one.correlation_high]
    return [
        *(_shown(one.a), _shown(one.b), one.measure, one.n),
        *(*correlation, one.difference, one.low, one.high, one.reason),
    ]


def _shown(name: str | None) -> str | None:
    return None if name is None else visible_token(name)


def _warnings(
    meanings: Sequence[Agreement], pairs: Sequence[Difference], cells: Sequence[comparisons.Cell]
) -> list[str]:
    warnings = []
    if not meanings:
        warnings.append("no two explainers with vectors of their explanations: meanings are not compared")
    if uneven := [one for one in pairs if one.n and one.trials_a != one.trials_b]:
        warnings.append(
            f"{len(uneven)} pairs compare tests of different numbers of trials (see cells): the shorter ones vary more"
        )
    if len({one.n for one in cells}) > 1:
        warnings.append(
            "cells have different n: compare explainers and scorers through their pairs, not through cells"
        )
    if many := [one for one in cells if one.share_failed is not None and one.share_failed > 0.05]:
        warnings.append(f"in {len(many)} cells over 5 % of trials failed")
    return warnings


def _summary(n: int, meanings: Sequence[Agreement], by_score: Sequence[Difference]) -> str:
    told = [one for one in meanings if one.cosine is not None]
    if not told:
        agreement = ""
    else:
        least = min(told, key=lambda one: one.cosine or 0.0)
        agreement = (
            f"; explanations by two explainers have a mean cosine of {digits(least.cosine)} or more (of different "
            f"features {digits(least.by_chance)})"
        )
    apart = [
        one
        for one in by_score
        if one.low is not None and one.high is not None and not one.low <= 0 <= one.high
    ]
    n_known = sum(one.difference is not None for one in by_score)
    return (
        f"{n} features{agreement}; {len(apart)} of {n_known} differences of scores between explainers are beyond their "
        "95 % interval (not corrected for their number)."
    )
