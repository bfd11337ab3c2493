"""What a world's rows carry: levels of families and values of groups, and where terms hold in them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.recover.truth import InGroup, Structure, Term
from saeinterp_mcp.frozen import Frozen

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Encoding = Literal["exclusive", "cumulative"]


class Family(Frozen):
    """A family and the names of its tokens."""

    name: str
    encoding: Encoding
    levels: tuple[int, ...]
    of_positions: bool = False
    """Levels belong to positions of a sequence, not to tokens."""

    def token(self, level: int) -> str:
        """The token that stands for a level."""
        return self.name if self.levels == (1,) else f"{self.name}_{level}"


class Group(Frozen):
    """A group, with the attributes of its values."""

    name: str
    values: tuple[str, ...]
    attributes: dict[str, tuple[str, ...]] = {}
    """Attribute to its value for each value of the group."""


class Schema(Frozen):
    """The families and groups of a world."""

    families: tuple[Family, ...]
    groups: tuple[Group, ...]
    fillers: tuple[str, ...]
    """Tokens in no family, unrelated to everything."""

    def index(self, family: str) -> int:
        """Column of a family in `Rows.levels`."""
        return [f.name for f in self.families].index(family)

    def group(self, name: str) -> Group:
        """A group by name."""
        return next(g for g in self.groups if g.name == name)


@dataclass(frozen=True)
class Rows:
    """N rows of U units, ascending by unit."""

    schema: Schema
    unit: Ints
    """(N,)"""
    levels: NDArray[np.int16]
    """(N, families) level of each family, 0 where there is none."""
    groups: dict[str, Ints]
    """Group to (N,) index of its value."""
    fillers: Bools
    """(N, fillers) whether the token is there."""
    coin: Floats
    """(U,) uniform in [0, 1): which of two twins sees the unit."""
    sample: Ints
    """(N,) index of the sample."""
    position: Ints
    """(N,) position in it, 0 in a set."""

    def __len__(self) -> int:
        return len(self.unit)

    def has(self, term: Term) -> Bools:
        """(N,) whether the family stands at the threshold or above."""
        return np.asarray(self.levels[:, self.schema.index(term.family)] >= term.threshold)

    def within(self, where: InGroup) -> Bools:
        """(N,) whether the row has the value of the group, or of its attribute."""
        name, _, attribute = where.by.partition(".")
        group = self.schema.group(name)
        names = group.attributes[attribute] if attribute else group.values
        return np.array([value == where.value for value in names])[self.groups[name]]

    def holds(self, structure: Structure) -> Bools:
        """(N,) whether the terms, or the group, are there, whatever the polarity."""
        if structure.group is not None:
            return self.within(structure.group)
        terms = np.stack([self.has(term) for term in structure.terms])
        match structure.combine:
            case "or":
                found = terms.any(0)
            case "xor":
                found = terms.sum(0) == 1
            case _:
                found = terms.all(0)
        return np.asarray(found if structure.gate is None else found & self.within(structure.gate))
