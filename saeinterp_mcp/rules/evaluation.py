"""Which rows a rule holds on, and which features a filter keeps."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from saeinterp_mcp.rules.nodes import (
    REGIONS,
    ActivationCondition,
    And,
    CompareOp,
    Condition,
    FamilyCondition,
    GroupCondition,
    MetricCondition,
    MetricFilter,
    MissingCondition,
    Node,
    Not,
    Or,
    RegionCondition,
    Rule,
    Selection,
    TokenCondition,
)

Mask = npt.NDArray[np.bool_]

_COMPARE: dict[CompareOp, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "=": operator.eq,
    "!=": operator.ne,
}


class RowSource(Protocol):
    """The rows (samples or positions, silent ones included) that a rule is asked about.

    Every array has the shape `(n_rows,)`. Only what the rule's `needs()` name is asked for.
    """

    @property
    def n_rows(self) -> int:
        """How many rows there are."""

    def family_level(self, name: str) -> npt.NDArray[np.integer[Any]]:
        """The highest level of the family that is present, by its value; 0 where none is."""

    def has_token(self, token: str) -> Mask:
        """Whether the token is present."""

    def group_is(self, group: str, attribute: str | None, values: tuple[str, ...]) -> Mask:
        """Whether the group's value (with an attribute: that attribute of its value) is among `values`."""

    def activation(self) -> npt.NDArray[np.floating[Any]]:
        """The feature's activation; 0 where it is silent."""

    def region(self) -> npt.NDArray[np.integer[Any]]:
        """The region of the activation, as its index in `REGIONS`."""


def evaluate(rule: Rule, rows: RowSource) -> Mask:
    """Where the rule holds: `(n_rows,) bool`, a new array."""
    return _mask(rule.root, lambda condition: _rows_where(condition, rows))


def evaluate_metric_filter(wanted: MetricFilter, metrics: Mapping[str, npt.NDArray[Any]]) -> Mask:
    """Which features the filter keeps: `(n_features,) bool`, a new array.

    A metric that is NaN compares False, with `!=` too; a `not` around the comparison then makes it True. `metric=null`
    is where it is NaN. A `Selection` keeps all: which rows make up the metrics was decided before.
    """
    return _mask(wanted.root, lambda condition: _features_where(condition, metrics))


def _mask(node: Node, condition_mask: Callable[[Condition], Mask]) -> Mask:
    match node:
        case And(parts) | Or(parts):
            mask = _mask(parts[0], condition_mask)
            for part in parts[1:]:
                if isinstance(node, And):
                    mask &= _mask(part, condition_mask)
                else:
                    mask |= _mask(part, condition_mask)
            return mask
        case Not(part):
            return ~_mask(part, condition_mask)
        case _:
            return condition_mask(node)


def _rows_where(condition: Condition, rows: RowSource) -> Mask:
    mask: Mask
    match condition:
        case FamilyCondition(name, op, level):
            mask = _compared(rows.family_level(name), op, level)
        case TokenCondition(token):
            mask = np.array(rows.has_token(token), dtype=np.bool_)  # copied: the source may keep its own
        case GroupCondition(group, attribute, op, values):
            among = rows.group_is(group, attribute, values)
            mask = np.logical_not(among) if op == "!=" else np.array(among, dtype=np.bool_)
        case RegionCondition(op, names):
            mask = np.isin(rows.region(), [REGIONS.index(name) for name in names], invert=op == "!=")
        case ActivationCondition(op, value):
            mask = _compared(rows.activation(), op, value)
        case MetricCondition() | MissingCondition() | Selection():
            raise AssertionError("a rule holds no conditions on metrics")
    assert mask.shape == (rows.n_rows,), f"{condition} gave {mask.shape} for {rows.n_rows} rows"
    return mask


def _features_where(condition: Condition, metrics: Mapping[str, npt.NDArray[Any]]) -> Mask:
    if isinstance(condition, Selection):
        return np.ones(len(next(iter(metrics.values()))), np.bool_)
    if isinstance(condition, MissingCondition):
        missing = np.isnan(metrics[condition.metric])
        return np.asarray(missing if condition.op == "=" else ~missing)
    assert isinstance(condition, MetricCondition), f"{condition} is no condition on metrics"
    values = metrics[condition.metric]
    mask = _compared(values, condition.op, condition.value)
    mask &= values == values  # not where NaN
    return mask


def _compared(values: npt.NDArray[Any], op: CompareOp, with_value: float) -> Mask:
    """In the type of the array, so that a stored 0.1 equals the 0.1 in the text."""
    with np.errstate(over="ignore"):  # a number beyond that type is its infinity
        return np.asarray(_COMPARE[op](values, with_value), dtype=np.bool_)
