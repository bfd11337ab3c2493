"""Features in groups by thresholds of a metric: N thresholds, N + 1 groups, and those where it is not known."""

import math
from collections.abc import Sequence
from itertools import pairwise

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.operations.base import Cell, Table
from saeinterp_mcp.operations.search_metrics import FeatureFilter, Metrics
from saeinterp_mcp.rules import MetricFilter, evaluate_metric_filter
from saeinterp_mcp.rules.nodes import Condition, MetricCondition, MissingCondition, all_of
from saeinterp_mcp.store.base import Bools

GROUP_COLUMNS = ["label", "low", "high", "n", "share", "where"]
MAX_THRESHOLDS = 20


def grouped(metrics: Metrics, kept: Bools, asked: FeatureFilter, name: str, cuts: Sequence[float]) -> Table:
    """Groups [low, high) of the features that `where` keeps, in order, and last those without a value.

    The `where` of a group is the filter that selects it: each is made up of what is in it, so that they agree.

    Args:
        metrics: of the features, of the rows that the filter selects.
        kept: (F,) features that the filter keeps.
        asked: the filter so far.
        name: the metric.
        cuts: ascending.
    """
    root = asked.root.root if asked.root else None
    total = int(kept.sum())
    rows: list[list[Cell]] = []
    edges = [None, *cuts, None]
    parts: list[tuple[str, float | None, float | None, list[Condition]]] = []
    for low, high in pairwise(edges):
        inside: list[Condition] = [] if low is None else [MetricCondition(name, ">=", low + 0.0)]
        inside += [] if high is None else [MetricCondition(name, "<", high + 0.0)]
        parts.append((_label(low, high), low, high, inside or [MissingCondition(name, "!=")]))
    parts.append(("null", None, None, [MissingCondition(name)]))
    for label, low, high, inside in parts:
        own = MetricFilter(all_of(*inside), "")
        n = int((kept & evaluate_metric_filter(own, metrics)).sum())
        text = all_of(*([root] if root else []), *inside).canonical()
        rows.append([label, low, high, n, n / total if total else None, text])
    return Table(columns=list(GROUP_COLUMNS), rows=rows)


def check_thresholds(cuts: Sequence[float]) -> None:
    """Refuse thresholds that make no groups.

    Raises:
        BadInput
    """
    if not 1 <= len(cuts) <= MAX_THRESHOLDS:
        raise BadInput(f"1 to {MAX_THRESHOLDS} thresholds make groups, found {len(cuts)}")
    if wrong := [cut for cut in cuts if not math.isfinite(cut)]:
        raise BadInput(f"a threshold is a finite number, not {wrong[0]}")
    for one, following in pairwise(cuts):
        if one == following:
            raise BadInput(f"the threshold {one:g} is there twice; groups between equal numbers are empty")
        if one > following:
            raise BadInput(f"thresholds ascend, but {following:g} comes after {one:g}")


def _label(low: float | None, high: float | None) -> str:
    if low is None:
        return "all" if high is None else f"< {_number(high)}"
    return f">= {_number(low)}" if high is None else f"{_number(low)} - {_number(high)}"


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
