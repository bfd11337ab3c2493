r"""The language of conditions, in slices (`where`), sweeps (`given`), `test_rule` and `features_search`.

    family:swim_speed_up>=12 and (weapon.class=roller or weapon in (a, "b c")) and not token:"\n"

A rule is read by `parse_rule`, its names are checked by `check_rule`, and `evaluate` says on which rows it
holds. Filters on the metrics of features have the same and, or, not and parentheses:
`firing_rate>0.01 and max>=2.5`.
"""

from saeinterp_mcp.rules.checking import Schema, check_rule
from saeinterp_mcp.rules.evaluation import Mask, RowSource, evaluate, evaluate_metric_filter
from saeinterp_mcp.rules.grammar import MAX_CHARACTERS, MAX_DEPTH
from saeinterp_mcp.rules.nodes import (
    REGIONS,
    ActivationCondition,
    And,
    FamilyCondition,
    GroupCondition,
    MetricCondition,
    MetricFilter,
    MissingCondition,
    Needs,
    Node,
    Not,
    Or,
    Region,
    RegionCondition,
    Rule,
    Selection,
    TokenCondition,
    all_of,
    any_of,
)
from saeinterp_mcp.rules.parsing import parse_metric_filter, parse_rule

__all__ = [
    "MAX_CHARACTERS",
    "MAX_DEPTH",
    "REGIONS",
    "ActivationCondition",
    "And",
    "FamilyCondition",
    "GroupCondition",
    "Mask",
    "MetricCondition",
    "MetricFilter",
    "MissingCondition",
    "Needs",
    "Node",
    "Not",
    "Or",
    "Region",
    "RegionCondition",
    "RowSource",
    "Rule",
    "Schema",
    "Selection",
    "TokenCondition",
    "all_of",
    "any_of",
    "check_rule",
    "evaluate",
    "evaluate_metric_filter",
    "parse_metric_filter",
    "parse_rule",
]
