"""What is planted in a feature, and what an investigator claims of one: the same words for both."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from saeinterp_mcp.frozen import Frozen

Stratum = Literal[
    "level_threshold",
    "dose_response",
    "or",
    "and",
    "xor",
    "gated",
    "group_only",
    "attribute_only",
    "suppressor_rate",
    "suppressor_strength",
    "tail_stimulus",
    "confounded",
    "absorbed_child",
    "split_twin",
    "dense",
    "dead",
    "noise",
]
STRATA: tuple[Stratum, ...] = get_args(Stratum)
NOT_RECOVERABLE: tuple[Stratum, ...] = ("absorbed_child", "split_twin", "dense", "dead", "noise")
"""Left out of the recovery rate: the planted rule is not what the stored activations show, or there is none."""
NULL: tuple[Stratum, ...] = ("dead", "noise")
"""Nothing is planted, so every claim is a false one."""


class Term(Frozen):
    """A family at or above a level; of a family with one level, its presence."""

    family: str
    threshold: int = Field(default=1, ge=1)

    @property
    def rule(self) -> str:
        """In the rule grammar."""
        return f"family:{self.family}>={self.threshold}"


class InGroup(Frozen):
    """A value of a group, or of an attribute of a group."""

    by: str
    """`weapon`, or `weapon.class` for an attribute."""
    value: str

    @property
    def rule(self) -> str:
        """In the rule grammar."""
        return f'{self.by}="{self.value}"'


class Structure(Frozen):
    """What makes a feature fire more, or less."""

    polarity: Literal["increases", "decreases"] = "increases"
    """Whether the terms, or the group, raise the activation or lower it."""
    terms: tuple[Term, ...] = ()
    """Sorted by family; none where only a group matters."""
    combine: Literal["one", "or", "and", "xor"] = "one"
    """How several terms go together."""
    dose: bool = False
    """Activation grows with the level; the term's threshold is then the lowest level and is not scored."""
    gate: InGroup | None = None
    """The terms count only there."""
    group: InGroup | None = None
    """The group itself drives the feature; then there are no terms."""
    tail: Term | None = None
    """Lifts activations of a feature that the terms drive into the tail, without making it fire."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (len(self.terms) > 1) != (self.combine != "one"):
            raise ValueError("combine is `one` for one term or none, and or, and, xor for several")
        if self.terms != tuple(sorted(self.terms, key=lambda term: term.family)):
            raise ValueError("terms are sorted by family")
        if bool(self.terms) == (self.group is not None):
            raise ValueError("give terms or a group")
        return self

    @property
    def rule(self) -> str:
        """Where the feature fires by rights, in the rule grammar; of `decreases`, where it does not."""
        if self.group is not None:
            text = self.group.rule
        elif self.combine == "xor":
            a, b = (term.rule for term in self.terms)
            text = f"({a} and not {b}) or ({b} and not {a})"
        else:
            text = f" {self.combine} ".join(term.rule for term in self.terms)
        if self.gate is not None:
            text = f"({text}) and {self.gate.rule}"
        return f"not ({text})" if self.polarity == "decreases" else text


class Truth(Frozen):
    """What is planted in one feature."""

    feature: int
    stratum: Stratum
    structure: Structure | None
    """None where nothing is planted that could be claimed (dead, noise, dense)."""


class Claim(Frozen):
    """What an investigator says of one feature."""

    feature: int
    structure: Structure | None
    """None says: unclear, nothing to claim."""
    confidence: float = Field(ge=0, le=1)
    """That the structure is exactly right."""
    n_calls: int = Field(default=0, ge=0)
    """Operations asked."""
    note: str = ""
