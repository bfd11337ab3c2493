"""What a reader of the tables must know before any of their numbers: failures, leaks, scores below chance."""

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from saeinterp_mcp.validation.comparisons import Cell, cells, kept_scores
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.metrics import METRICS, SCORED, Selected, counted, explanations, names, scores

MUCH_FAILED = 0.05
"""Share of trials without an answer from which on a cell is told of."""
OFTEN_BELOW = 0.1
"""The same of features whose score is below chance."""
TOLD = 3
"""Cells that are told one by one."""
TABLES_OF = {
    **{f"score_{method}": ("scores",) for method in SCORED},
    "overall_score": ("scores",),
    "semsim": ("features",),
    "feature_splitting": ("features", "interfeature_similarity"),
    "match": ("ex_act_pattern_matching",),
    "activation": ("activation_example_similarity", "ex_act_pattern_matching"),
    "semantic": ("activation_example_similarity", "ex_act_pattern_matching"),
    "lexical": ("activation_example_similarity", "ex_act_pattern_matching"),
}
"""What the name of a metric begins with, and tables that any of have it."""
_PLAIN = re.compile(r"[\w.+/:-]{1,80}", re.ASCII)


class Audit(NamedTuple):
    """What the tables hold, and what is wrong with it."""

    tables: tuple[str, ...]
    n_features_explained: int
    explanations: dict[str, int]
    """By status: ok, unparsed, empty, runaway."""
    explainers: tuple[str, ...]
    scorers: tuple[str, ...]
    metrics: tuple[str, ...]
    """That features_search takes."""
    warnings: tuple[str, ...]


@lru_cache(maxsize=4)
def audit(validation: Validation) -> Audit:
    """Count what there is, and say what must be known of it."""
    said, known = explanations(validation), names(validation)
    statuses = said["status"].value_counts().iter_rows()
    return Audit(
        tables=tuple(sorted(_tables(validation))),
        n_features_explained=said["feature"].n_unique(),
        explanations=dict(sorted((str(status), int(n)) for status, n in statuses)),
        explainers=known.explainers,
        scorers=known.scorers,
        metrics=tuple(name for name in METRICS if _has(validation, name)),
        warnings=(*_failed(validation), *_scored(validation)),
    )


def _tables(validation: Validation) -> list[str]:
    files = [file.removeprefix("master/") for file in validation.manifest.files if file.startswith("master/")]
    return [file.removesuffix(".parquet") for file in files if file.endswith(".parquet")]


def _has(validation: Validation, name: str) -> bool:
    begins = max((key for key in TABLES_OF if name.startswith(key)), key=len)
    if not any(validation.has(table) for table in TABLES_OF[begins]):
        return False
    method = name.removeprefix("score_")
    return method not in SCORED or method in scores(validation)["scored_by"].unique()


def _failed(validation: Validation) -> list[str]:
    import polars as pl

    failed = explanations(validation).filter(pl.col("status") != "ok")
    by = failed["explainer"].value_counts().sort("explainer").iter_rows()
    return [
        f"{n} explanations by {_plain(explainer)} failed (unparsed, empty or runaway); they are in no mean"
        for explainer, n in by
    ]


def _scored(validation: Validation) -> list[str]:
    import polars as pl

    tests = scores(validation)
    if not len(tests):
        return []
    found = []
    if n_leaked := int((tests["held_out"] == "leaked").sum()):
        found.append(
            f"{n_leaked} of {len(tests)} scores are of examples that the explainer may have seen (leaked): optimistic"
        )
    if n_unknown := int((tests["held_out"] == "unknown").sum()):
        found.append(f"of {n_unknown} scores it is not known whether the explainer had seen the examples")
    every = kept_scores(validation, np.ones(validation.manifest.n_features, bool), Selected())
    found += _cells(cells(every))
    known = counted(tests).select("feature", "explainer").unique()
    ok = explanations(validation).filter(pl.col("status") == "ok").select("feature", "explainer").unique()
    if n_missing := len(ok.join(known, on=["feature", "explainer"], how="anti")):
        found.append(f"{n_missing} of {len(ok)} explanations have no score")
    return found


def _cells(found: list[Cell]) -> list[str]:
    much = sorted(
        (one for one in found if (one.share_failed or 0) > MUCH_FAILED),
        key=lambda one: -(one.share_failed or 0),
    )
    told = [
        f"{100 * (one.share_failed or 0):.0f} % of the trials of {_cell(one)} failed" for one in much[:TOLD]
    ]
    told += (
        [f"over {100 * MUCH_FAILED:.0f} % failed in {len(much) - TOLD} more cells"]
        if len(much) > TOLD
        else []
    )
    below = [one for one in found if (one.share_below_chance or 0) > OFTEN_BELOW]
    below.sort(key=lambda one: -(one.share_below_chance or 0))
    told += [
        f"{100 * (one.share_below_chance or 0):.0f} % of the scores of {_cell(one)} are below chance"
        for one in below[:TOLD]
    ]
    if len({one.n for one in found if one.n}) > 1:
        told.append(
            "explainers and scorers have different numbers of tests: compare_explainers compares common ones"
        )
    return told


def _cell(one: Cell) -> str:
    by = f" by {_plain(one.scorer)}" if one.scorer else ""
    return f"{_plain(one.measure)} for {_plain(one.explainer)}{by}"


def _plain(name: object) -> str:
    """A name that may stand in a sentence of ours: others might be read as one."""
    return str(name) if _PLAIN.fullmatch(str(name)) else "(a name of other characters)"
