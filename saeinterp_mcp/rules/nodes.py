"""What a rule is made of once it has been read, and its normal form as text.

Nodes compare by what they mean: where they stood in the text (`span`, `places`) does not count.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from saeinterp_mcp.rules.quoting import Span, is_hidden, quoted

CompareOp = Literal[">=", ">", "<=", "<", "=", "!="]
ChoiceOp = Literal["=", "!=", "in"]
Region = Literal["silent", "floor", "low", "below_core", "core", "high", "tail"]
REGIONS: tuple[Region, ...] = get_args(Region)
"""A region's code is its index here; silent is 0."""

_KEYWORDS = frozenset({"and", "or", "not", "in"})
_OTHER_SUBJECTS = frozenset({"family", "token", "group", "region", "activation"})
_BARE_NAME = re.compile(r"[\w-]+")
_BARE_VALUE = re.compile(r"[\w.+-]+")


@dataclass(frozen=True)
class Spot:
    """The base of all nodes: where it stood."""

    span: Span = field(default=(0, 0), compare=False, repr=False, kw_only=True)
    places: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)
    """Spans of the names and values in a condition, in the order of its fields."""


@dataclass(frozen=True)
class And(Spot):
    """All parts hold; two parts or more, none of them an And. `all_of` makes it."""

    parts: tuple["Node", ...]

    def canonical(self) -> str:
        """The normal form."""
        return " and ".join(_bracketed(part, Or) for part in self.parts)


@dataclass(frozen=True)
class Or(Spot):
    """At least one part holds; two parts or more, none of them an Or. `any_of` makes it."""

    parts: tuple["Node", ...]

    def canonical(self) -> str:
        """The normal form."""
        return " or ".join(part.canonical() for part in self.parts)


@dataclass(frozen=True)
class Not(Spot):
    """The part does not hold."""

    part: "Node"

    def canonical(self) -> str:
        """The normal form."""
        return f"not {_bracketed(self.part, And, Or)}"


@dataclass(frozen=True)
class FamilyCondition(Spot):
    """The highest level of a family that is present compares so; none present is level 0."""

    name: str
    op: CompareOp = ">"
    level: int = 0

    def canonical(self) -> str:
        """The normal form: presence, which is `>0`, is the bare name."""
        present = self.op == ">" and self.level == 0
        return f"family:{_name(self.name)}" + ("" if present else f"{self.op}{self.level}")


@dataclass(frozen=True)
class TokenCondition(Spot):
    """A token is present."""

    token: str

    def canonical(self) -> str:
        """The normal form."""
        return f"token:{_value(self.token)}"


@dataclass(frozen=True)
class GroupCondition(Spot):
    """The value of a group, or of an attribute of it, is (`=`), is not, or is among (`in`) `values`."""

    group: str
    attribute: str | None
    op: ChoiceOp
    values: tuple[str, ...]

    def canonical(self) -> str:
        """The normal form: `group:` only where the name could be read as something else."""
        name = _name(self.group)
        clear = name == self.group and name not in _OTHER_SUBJECTS
        attribute = "" if self.attribute is None else f".{_name(self.attribute)}"
        return ("" if clear else "group:") + name + attribute + _choice(self.op, self.values)


@dataclass(frozen=True)
class RegionCondition(Spot):
    """The activation lies in one of these regions (for `!=`, not in it)."""

    op: ChoiceOp
    values: tuple[Region, ...]

    def canonical(self) -> str:
        """The normal form."""
        return f"region{_choice(self.op, self.values)}"


@dataclass(frozen=True)
class ActivationCondition(Spot):
    """The activation, in the SAE's own units, compares so; silent is 0."""

    op: CompareOp
    value: float

    def canonical(self) -> str:
        """The normal form."""
        return f"activation{self.op}{_number(self.value)}"


@dataclass(frozen=True)
class MetricCondition(Spot):
    """A metric of a feature compares so; only in filters of `features_search`."""

    metric: str
    op: CompareOp
    value: float

    def canonical(self) -> str:
        """The normal form."""
        return f"{self.metric}{self.op}{_number(self.value)}"


@dataclass(frozen=True)
class MissingCondition(Spot):
    """A metric of a feature is not known (`=`), or is (`!=`)."""

    metric: str
    op: Literal["=", "!="] = "="

    def canonical(self) -> str:
        """The normal form."""
        return f"{self.metric}{self.op}null"


@dataclass(frozen=True)
class Selection(Spot):
    """Only the rows of these explainers (or scorers, methods, SAEs) make up a feature's metrics."""

    name: str
    op: ChoiceOp
    values: tuple[str, ...]

    def canonical(self) -> str:
        """The normal form."""
        return f"{self.name}{_choice(self.op, self.values)}"


RuleCondition = FamilyCondition | TokenCondition | GroupCondition | RegionCondition | ActivationCondition
Condition = RuleCondition | MetricCondition | MissingCondition | Selection
Node = And | Or | Not | Condition


def all_of(*parts: Node, span: Span = (0, 0)) -> Node:
    """The conjunction of the parts; an And among them is taken apart, a single part stays itself."""
    flat = [p for part in parts for p in (part.parts if isinstance(part, And) else (part,))]
    return And(tuple(flat), span=span) if len(flat) > 1 else flat[0]


def any_of(*parts: Node, span: Span = (0, 0)) -> Node:
    """The disjunction of the parts; an Or among them is taken apart, a single part stays itself."""
    flat = [p for part in parts for p in (part.parts if isinstance(part, Or) else (part,))]
    return Or(tuple(flat), span=span) if len(flat) > 1 else flat[0]


def conditions(node: Node) -> Iterator[Condition]:
    """All conditions below a node, in the order of the text."""
    match node:
        case And(parts) | Or(parts):
            for part in parts:
                yield from conditions(part)
        case Not(part):
            yield from conditions(part)
        case _:
            yield node


@dataclass(frozen=True)
class Needs:
    """What has to be read before a rule can be evaluated; each name once, in the order of the text."""

    families: tuple[str, ...]
    tokens: tuple[str, ...]
    groups: tuple[tuple[str, str | None], ...]
    """(group, attribute); the attribute is None where the group's own value is asked for."""
    region: bool
    activation: bool

    @property
    def uses_feature(self) -> bool:
        """Whether the mask depends on the feature, so that it cannot be shared between features."""
        return self.region or self.activation

    @property
    def uses_tokens(self) -> bool:
        """Whether the mask depends on what counts as present, so that `scope` matters."""
        return bool(self.families or self.tokens)


@dataclass(frozen=True)
class Rule:
    """A condition on the rows of a store. `parse_rule` makes it."""

    root: Node
    text: str = field(compare=False)
    """As it was written; the spans count its characters."""

    def canonical(self) -> str:
        """The rule in its normal form, which reads back as an equal rule."""
        return self.root.canonical()

    def needs(self) -> Needs:
        """What `evaluate` will ask the rows for."""
        found = list(conditions(self.root))
        groups = [(c.group, c.attribute) for c in found if isinstance(c, GroupCondition)]
        return Needs(
            families=tuple(dict.fromkeys(c.name for c in found if isinstance(c, FamilyCondition))),
            tokens=tuple(dict.fromkeys(c.token for c in found if isinstance(c, TokenCondition))),
            groups=tuple(dict.fromkeys(groups)),
            region=any(isinstance(c, RegionCondition) for c in found),
            activation=any(isinstance(c, ActivationCondition) for c in found),
        )


@dataclass(frozen=True)
class MetricFilter:
    """A condition on the metrics of features. `parse_metric_filter` makes it."""

    root: Node
    text: str = field(compare=False)
    """As it was written."""

    def canonical(self) -> str:
        """The filter in its normal form, which reads back as an equal filter."""
        return self.root.canonical()

    def metrics(self) -> tuple[str, ...]:
        """The metrics it reads, each once, in the order of the text."""
        named = [c.metric for c in conditions(self.root) if isinstance(c, MetricCondition | MissingCondition)]
        return tuple(dict.fromkeys(named))

    def selections(self) -> tuple[Selection, ...]:
        """What it selects rows by; `parse_metric_filter` lets them stand in the outermost `and` only."""
        return tuple(c for c in conditions(self.root) if isinstance(c, Selection))


def _bracketed(part: Node, *loose: type[Node]) -> str:
    """The normal form of a part, in parentheses if it binds more loosely than what is around it."""
    return f"({part.canonical()})" if isinstance(part, loose) else part.canonical()


def _name(name: str) -> str:
    return name if _is_bare(_BARE_NAME, name) else quoted(name)


def _value(value: str) -> str:
    return value if _is_bare(_BARE_VALUE, value) else quoted(value)


def _is_bare(pattern: re.Pattern[str], text: str) -> bool:
    """Whether the text can stand without quotes."""
    return bool(pattern.fullmatch(text)) and not any(map(is_hidden, text)) and text.lower() not in _KEYWORDS


def _choice(op: ChoiceOp, values: tuple[str, ...]) -> str:
    return f" in ({', '.join(map(_value, values))})" if op == "in" else f"{op}{_value(values[0])}"


def _number(value: float) -> str:
    assert math.isfinite(value), f"a rule compares with finite numbers, not {value}"
    return repr(float(value)).removesuffix(".0")
