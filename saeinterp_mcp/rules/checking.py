"""Whether the names in a rule exist in a store."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from saeinterp_mcp.errors import SaeInterpError, UnknownName, nearest
from saeinterp_mcp.rules.nodes import (
    FamilyCondition,
    GroupCondition,
    Rule,
    TokenCondition,
    conditions,
)
from saeinterp_mcp.rules.quoting import Span, named, placed

_LEVELS_SHOWN = 20


class Schema(Protocol):
    """The names that rules about a store may use."""

    @property
    def families(self) -> Mapping[str, Sequence[int]]:
        """Each family's levels, ascending, without 0."""

    @property
    def groups(self) -> Mapping[str, Sequence[str]]:
        """Each group's values; null is `(none)`."""

    @property
    def attributes(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """By group and attribute: the attribute's values. Groups without attributes may be left out."""

    def has_token(self, token: str) -> bool:
        """Whether the vocabulary has this token."""

    def nearest_tokens(self, token: str) -> Sequence[str]:
        """A few tokens that look like it, the nearest first; may be empty."""


def check_rule(rule: Rule, schema: Schema) -> Rule:
    """The same rule, once every name in it is known to exist.

    A level that a family does not have may stand after an inequality, not after `=` and `!=`.

    Raises:
        UnknownName: a family, level, token, group, attribute or value that does not exist; the message points
            at the first and gives the nearest.
    """
    for condition in conditions(rule.root):
        match condition:
            case FamilyCondition():
                _check_family(condition, rule, schema)
            case TokenCondition():
                _check_token(condition, rule, schema)
            case GroupCondition():
                _check_group(condition, rule, schema)
            case _:
                pass  # regions are checked as they are read, numbers need no check
    return rule


def _unknown(problem: str, rule: Rule, span: Span) -> SaeInterpError:
    return placed(UnknownName, problem, rule.text, span)


def _check_family(condition: FamilyCondition, rule: Rule, schema: Schema) -> None:
    name, level = condition.name, condition.level
    if name not in schema.families:
        other = _also(name, schema, "token", "group")
        problem = f"there is no family {named(name)}; {nearest(name, schema.families)}{other}"
        raise _unknown(problem, rule, condition.places[0])
    levels = schema.families[name]
    if condition.op in ("=", "!=") and level != 0 and level not in levels:
        shown = ", ".join(map(str, levels[:_LEVELS_SHOWN]))
        more = f" and {len(levels) - _LEVELS_SHOWN} more" if len(levels) > _LEVELS_SHOWN else ""
        problem = f"family {named(name)} has no level {str(level)[:20]}; its levels: {shown}{more}"
        raise _unknown(problem, rule, condition.places[1])


def _check_token(condition: TokenCondition, rule: Rule, schema: Schema) -> None:
    token = condition.token
    if schema.has_token(token):
        return
    near = schema.nearest_tokens(token)
    tail = f"; nearest: {', '.join(map(named, near))}" if near else ""
    other = _also(token, schema, "family", "group")
    raise _unknown(f"the vocabulary has no token {named(token)}{tail}{other}", rule, condition.places[0])


def _check_group(condition: GroupCondition, rule: Rule, schema: Schema) -> None:
    group, attribute = condition.group, condition.attribute
    own, *rest = condition.places
    if group not in schema.groups:
        paths = [f"{g}.{a}" for g, by_attribute in schema.attributes.items() for a in by_attribute]
        other = _also(group, schema, "family", "token")
        problem = f"there is no group {named(group)}; {nearest(group, [*schema.groups, *paths])}{other}"
        raise _unknown(problem, rule, own)
    values, what = schema.groups[group], f"group {named(group)}"
    if attribute is not None:
        attributes = schema.attributes.get(group, {})
        if attribute not in attributes:
            problem = f"{what} has no attribute {named(attribute)}; {nearest(attribute, attributes)}"
            raise _unknown(problem, rule, rest[0])
        values, what, rest = attributes[attribute], f"attribute {named(attribute)} of {what}", rest[1:]
    for value, place in zip(condition.values, rest, strict=True):
        if value not in values:
            raise _unknown(f"{what} has no value {named(value)}; {nearest(value, values)}", rule, place)


def _also(name: str, schema: Schema, *kinds: str) -> str:
    """What to write if the name is meant as something else that exists."""
    found = []
    if "family" in kinds and name in schema.families:
        found.append(FamilyCondition(name).canonical())
    if "token" in kinds and schema.has_token(name):
        found.append(TokenCondition(name).canonical())
    if "group" in kinds and name in schema.groups:
        found.append(GroupCondition(name, None, "=", ("VALUE",)).canonical())
    return f"; or try {' or '.join(found)}" if found else ""
