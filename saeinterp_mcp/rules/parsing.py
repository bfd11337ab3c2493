"""From text to rules and filters."""

import math
from collections.abc import Callable, Collection
from typing import Literal, cast, get_args

from lark import Token, Tree

from saeinterp_mcp.errors import BadInput, UnknownName, nearest
from saeinterp_mcp.rules.grammar import MAX_DEPTH, METRIC_FILTERS, RULES, syntax_tree
from saeinterp_mcp.rules.nodes import (
    REGIONS,
    ActivationCondition,
    And,
    ChoiceOp,
    CompareOp,
    Condition,
    FamilyCondition,
    GroupCondition,
    MetricCondition,
    MetricFilter,
    MissingCondition,
    Node,
    Not,
    Region,
    RegionCondition,
    Rule,
    RuleCondition,
    Selection,
    TokenCondition,
    all_of,
    any_of,
    conditions,
)
from saeinterp_mcp.rules.quoting import BadEscape, Span, named, placed, unquoted

_ReadCondition = Callable[[Tree[Token], str], Condition]


def parse_rule(text: str) -> Rule:
    r"""Read a rule such as `family:swim_speed_up>=12 and weapon.class=roller and not token:"a b"`.

    `not` binds more tightly than `and`, and `and` than `or`; these words may be in capitals. Whether the
    names exist in a store is not looked at: that is `check_rule`.

    Raises:
        BadInput: the text is no rule; the message points at the spot and says what was expected there.
        UnknownName: a region that does not exist.
    """
    return Rule(_node(syntax_tree(text, RULES), _rule_condition, text), text)


def parse_metric_filter(text: str, metrics: Collection[str]) -> MetricFilter:
    """Read a filter on features such as `firing_rate>0.01 and explainer=llama and not (score_fuzz<0.6)`.

    `metric=null` is where a metric is not known. Whether an explainer, scorer, method or SAE that rows are selected by
    exists is not looked at here.

    Raises:
        BadInput: the text is no filter; the message points at the spot and says what was expected there.
        UnknownName: a metric that is not among `metrics`.
    """

    def condition(tree: Tree[Token], text: str) -> MetricCondition | MissingCondition | Selection:
        name, op, *values = _tokens(tree)
        span, places = _span(tree), (_span(name), *map(_span, values))
        if tree.data == "selection":
            chosen = tuple(_text(value, text) for value in values)
            return Selection(name.lower(), _choice(op), chosen, span=span, places=places)
        if name not in metrics:
            problem = f"there is no metric {named(name)}; {nearest(name, sorted(metrics))}"
            raise placed(UnknownName, problem, text, _span(name))
        if tree.data == "missing":
            equality: Literal["=", "!="] = "=" if op == "=" else "!="
            return MissingCondition(str(name), equality, span=span, places=places)
        return MetricCondition(str(name), _compare(op), _number(values[0], text), span=span, places=places)

    root = _node(syntax_tree(text, METRIC_FILTERS), condition, text)
    _check_selections(root, text)
    return MetricFilter(root, text)


def _check_selections(root: Node, text: str) -> None:
    """Rows are selected for the whole filter, so a selection inside `or` or `not` would mean nothing."""
    outermost = root.parts if isinstance(root, And) else (root,)
    for condition in conditions(root):
        if isinstance(condition, Selection) and not any(condition is part for part in outermost):
            problem = (
                f"{condition.name} selects the rows of the whole filter, so it cannot stand inside or, or not"
            )
            advice = f"join it to the rest with and; one of several is {condition.name} in (a, b)"
            raise placed(BadInput, problem, text, condition.span, advice)


def _node(tree: Tree[Token], condition: _ReadCondition, text: str, depth: int = 0) -> Node:
    if tree.data not in ("disjunction", "conjunction", "negation", "parentheses"):
        return condition(tree, text)
    depth += tree.data in ("negation", "parentheses")
    if depth > MAX_DEPTH:
        problem = f"parentheses and nots are nested more than {MAX_DEPTH} deep"
        raise placed(BadInput, problem, text, (tree.meta.start_pos, tree.meta.start_pos + 1))
    parts = [_node(part, condition, text, depth) for part in tree.children if isinstance(part, Tree)]
    if tree.data == "negation":
        return Not(parts[0], span=_span(tree))
    return (any_of if tree.data == "disjunction" else all_of)(*parts, span=_span(tree))


def _rule_condition(tree: Tree[Token], text: str) -> RuleCondition:
    span, tokens = _span(tree), _tokens(tree)
    places = tuple(map(_span, tokens))
    match tree.data:
        case "family":
            name, *comparison = tokens
            if not comparison:
                return FamilyCondition(_text(name, text), span=span, places=places)
            op, level = comparison
            spots = (places[0], places[2])
            return FamilyCondition(_text(name, text), _compare(op), int(level), span=span, places=spots)
        case "token":
            return TokenCondition(_text(tokens[0], text), span=span, places=places)
        case "activation":
            op, number = tokens
            return ActivationCondition(_compare(op), _number(number, text), span=span, places=places[1:])
        case "region":
            op, *values = tokens
            regions = tuple(_region(value, text) for value in values)
            return RegionCondition(_choice(op), regions, span=span, places=places[1:])
        case _:
            names = [child for child in tree.children if isinstance(child, Tree)]
            owner, *attribute = [name for child in names for name in _tokens(child)]
            op, *values = tokens
            return GroupCondition(
                _text(owner, text),
                _text(attribute[0], text) if attribute else None,
                _choice(op),
                tuple(_text(value, text) for value in values),
                span=span,
                places=(_span(owner), *map(_span, attribute), *places[1:]),
            )


def _tokens(tree: Tree[Token]) -> list[Token]:
    return [child for child in tree.children if isinstance(child, Token)]


def _span(spot: Tree[Token] | Token) -> Span:
    meta = spot if isinstance(spot, Token) else spot.meta
    assert meta.start_pos is not None, "every token and tree of ours comes from a text"
    assert meta.end_pos is not None, "every token and tree of ours comes from a text"
    return meta.start_pos, meta.end_pos


def _text(token: Token, text: str) -> str:
    if token.type != "STRING":
        return str(token)
    try:
        return unquoted(token)
    except BadEscape as error:
        start = _span(token)[0]
        raise placed(BadInput, str(error), text, (start + error.span[0], start + error.span[1])) from None


def _number(token: Token, text: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise placed(BadInput, f"{token[:40]} is too large for a number", text, _span(token))
    return value + 0.0  # -0.0 becomes 0.0, so that equal filters have one normal form


def _region(token: Token, text: str) -> Region:
    name = _text(token, text)
    if name not in REGIONS:
        problem = f"there is no region {named(name)}; there are: {', '.join(REGIONS)}"
        raise placed(UnknownName, problem, text, _span(token))
    return name


def _compare(token: Token) -> CompareOp:
    assert token in get_args(CompareOp), f"the grammar lets {token} through as a comparison"
    return cast(CompareOp, str(token))


def _choice(token: Token) -> ChoiceOp:
    op = token.lower()
    assert op in get_args(ChoiceOp), f"the grammar lets {token} through as a choice"
    return cast(ChoiceOp, op)
