"""Set worlds: units of 1 to 3 partial views, families bound to each other and to the group by habits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from benchmarks.recover.rows import Encoding, Family, Floats, Group, Ints, Rows, Schema
from saeinterp_mcp.analysis.sampling import rng

CUMULATIVE = ((3, 6, 12, 21, 38), (2, 4, 8, 16), (3, 6, 12, 21, 38), (10, 20, 30))
EXCLUSIVE = ((1, 2, 3, 4), (1, 2, 3), (5, 10, 20, 40))
N_PRESENCE_ONLY = 5
N_VALUES = 16
N_ATTRIBUTES = {"a1": 4, "a2": 3}
N_FILLERS = 8
VIEWS = (0.4, 0.35, 0.25)
"""Chances of 1, 2 or 3 rows a unit; the first shows everything."""
DROPPED = 0.3
"""Chance that a later view lacks a family, or a filler."""
PAIR_CORRELATION = 0.88
"""Of the latent variables behind the two families of a confounded pair."""
N_FACTORS = 3


@dataclass(frozen=True)
class Habits:
    """How families go with groups and each other: a Gaussian behind each family, cut into levels.

    x_f = group[g, f] + attribute[a, f] + loading[f] . z + own noise, with variance about 1 in all.
    """

    weights: Floats
    """(values,) share of each value of the group."""
    by_value: Floats
    """(values, families)"""
    loadings: Floats
    """(families, factors)"""
    own: float
    """Standard deviation of what is a family's own."""
    pairs: tuple[tuple[int, int], ...]
    """Families of which the second goes closely with the first."""
    cuts: tuple[Floats, ...]
    """Of each family, lowest level first."""
    shares: Floats
    """(fillers,) chance of each."""


@dataclass(frozen=True)
class SetLaw:
    """The law that rows are drawn from: the same for every draw of a world."""

    schema: Schema
    habits: Habits
    kind: str = "set"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The confounded pairs, by name."""
        names = [f.name for f in self.schema.families]
        return tuple((names[a], names[b]) for a, b in self.habits.pairs)

    def draw(self, n_units: int, generator: np.random.Generator) -> Rows:
        """Rows of new units."""
        value = generator.choice(len(self.habits.weights), n_units, p=self.habits.weights)
        other = generator.integers(0, len(self.schema.groups[1].values), n_units)
        levels = cut(self.habits, self.schema, latent(self.habits, value, generator))
        fillers = generator.random((n_units, len(self.habits.shares))) < self.habits.shares
        n_views = 1 + generator.choice(len(VIEWS), n_units, p=VIEWS)
        unit = np.repeat(np.arange(n_units), n_views)
        first = np.append(True, unit[1:] != unit[:-1])
        kept, kept_fillers = (
            first[:, None] | (generator.random((len(unit), width)) >= DROPPED)
            for width in (levels.shape[1], fillers.shape[1])
        )
        return Rows(
            schema=self.schema,
            unit=unit,
            levels=np.where(kept, levels[unit], 0).astype(np.int16),
            groups={"g": value[unit], "h": other[unit]},
            fillers=fillers[unit] & kept_fillers,
            coin=generator.random(n_units),
            sample=np.arange(len(unit)),
            position=np.zeros(len(unit), np.int64),
        )


def draw_set_law(seed: int) -> SetLaw:
    """Names, habits and shares of a set world."""
    generator = rng(seed, "recover", "set law")
    shapes: list[tuple[Encoding, tuple[int, ...]]] = [("cumulative", levels) for levels in CUMULATIVE]
    shapes += [("exclusive", levels) for levels in (*EXCLUSIVE, *N_PRESENCE_ONLY * [(1,)])]
    order = generator.permutation(len(shapes)).tolist()
    families = tuple(
        Family(name=f"f{i + 1:02d}", encoding=shapes[k][0], levels=shapes[k][1]) for i, k in enumerate(order)
    )
    schema = Schema(
        families=families,
        groups=draw_groups(generator),
        fillers=tuple(f"t_{c}1" for c in "abcdefgh"[:N_FILLERS]),
    )
    return SetLaw(schema, draw_habits(schema, draw_pairs(families, generator), generator))


def draw_groups(generator: np.random.Generator) -> tuple[Group, ...]:
    """Group g with two attributes, and group h, which goes with nothing."""
    attributes = {}
    for name, k in N_ATTRIBUTES.items():
        which = generator.permutation(np.arange(N_VALUES) % k)
        attributes[name] = tuple(f"{name}v{j + 1}" for j in which.tolist())
    g = Group(name="g", values=tuple(f"g{i + 1:02d}" for i in range(N_VALUES)), attributes=attributes)
    return g, Group(name="h", values=tuple(f"h{i + 1}" for i in range(5)))


def draw_pairs(families: tuple[Family, ...], generator: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Two pairs; the first of each has several levels."""
    several = [i for i, f in enumerate(families) if len(f.levels) > 2]
    first = generator.choice(several, 2, replace=False).tolist()
    second = generator.choice([i for i in range(len(families)) if i not in first], 2, replace=False).tolist()
    return tuple(zip(first, second, strict=True))


def draw_habits(schema: Schema, pairs: tuple[tuple[int, int], ...], generator: np.random.Generator) -> Habits:
    """Random habits; every family has some."""
    k = len(schema.families)
    group = schema.groups[0]
    weights = generator.permutation(1.0 / (np.arange(N_VALUES) + 4.0) ** 0.6)
    by_value = generator.normal(0, 0.33, (N_VALUES, k))
    for column in group.attributes.values():
        places = sorted(set(column))
        by_value += generator.normal(0, 0.2, (len(places), k))[[places.index(v) for v in column]]
    loadings = generator.normal(0, 0.5 / np.sqrt(N_FACTORS), (k, N_FACTORS))
    return Habits(
        weights=weights / weights.sum(),
        by_value=by_value,
        loadings=loadings,
        own=0.76,
        pairs=pairs,
        cuts=tuple(_cuts(f, generator) for f in schema.families),
        shares=generator.uniform(0.05, 0.4, len(schema.fillers)),
    )


def _cuts(family: Family, generator: np.random.Generator) -> Floats:
    """Cuts of a standard normal: some level in 35 to 60 % of units, one that is alone in 18 to 40 %."""
    k = len(family.levels)
    present = generator.uniform(0.18, 0.4) if k == 1 else generator.uniform(0.4, 0.62)
    weight = generator.uniform(0.7, 1.3, k)
    at_least = present * np.cumsum((weight / weight.sum())[::-1])[::-1]
    return np.asarray(ndtri(1 - at_least))


def latent(habits: Habits, value: Ints, generator: np.random.Generator) -> Floats:
    """(n, families) standard normal, about, behind each family."""
    k = len(habits.cuts)
    common = generator.normal(size=(len(value), N_FACTORS)) @ habits.loadings.T
    x = habits.by_value[value] + common + habits.own * generator.normal(size=(len(value), k))
    for first, second in habits.pairs:
        rest = np.sqrt(1 - PAIR_CORRELATION**2)
        x[:, second] = PAIR_CORRELATION * x[:, first] + rest * x[:, second]
    return np.asarray(x)


def cut(habits: Habits, schema: Schema, x: Floats) -> NDArray[np.int16]:
    """(n, families) levels."""
    columns = [
        np.array([0, *family.levels], np.int16)[np.searchsorted(cuts, x[:, i], side="right")]
        for i, (family, cuts) in enumerate(zip(schema.families, habits.cuts, strict=True))
    ]
    return np.stack(columns, 1)
