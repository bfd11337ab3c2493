"""How a planted feature fires: the chance and the expected strength of each row, in closed form, and a draw.

A row's chance p and expected strength m follow from what the row carries, so the expectation of its activation is
p m, exactly. A draw adds what is random: firing is correlated within a unit (a Gaussian copula, which keeps p), and
strength is log-normal with mean m, a part of its variance shared by the rows of a unit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import ndtri

from benchmarks.recover.rows import Floats, Ints, Rows
from benchmarks.recover.truth import Stratum, Structure, Term
from saeinterp_mcp.frozen import Frozen

FALSE_STRENGTH = 0.6
"""Strength of a row that fires without reason, of what the feature's own rows have."""


class FeatureLaw(Frozen):
    """What makes a feature fire, and how noisily."""

    stratum: Stratum
    structure: Structure | None
    rate: float = Field(ge=0, lt=1)
    """Chance to fire where it should: 1 less the misses, or the base rate of what is suppressed, or of noise."""
    other_rate: float = Field(default=0, ge=0, lt=1)
    """Chance to fire elsewhere."""
    strength: float = Field(default=1, gt=0)
    """Expected activation where it fires."""
    other_factor: float = FALSE_STRENGTH
    """Strength elsewhere, as a factor."""
    sigma: float = 0.4
    """Of the log-normal strength."""
    shared_firing: float = Field(default=0, ge=0, lt=1)
    """Correlation, within a unit, of the Gaussian behind firing."""
    shared_strength: float = Field(default=0, ge=0, le=1)
    """Share of sigma^2 that the rows of a unit have in common."""
    dose_strength: float = 1
    """Strength at the highest level, of that at the lowest."""
    dose_rate: float = 1
    """Chance at the lowest level, of that at the highest."""
    tail_factor: float = 1
    """Strength with the tail term, as a factor."""
    hole: Term | None = None
    """Where another feature fires in this one's place."""
    twin: int | None = None
    """Which half of the units it sees."""


class Chances(NamedTuple):
    """Of each row."""

    rate: Floats
    """(N,) chance to fire."""
    strength: Floats
    """(N,) expected activation if it fires."""

    @property
    def mean(self) -> Floats:
        """(N,) expected activation, silence included."""
        return self.rate * self.strength


def chances(law: FeatureLaw, rows: Rows) -> Chances:
    """The chance and the expected strength of each row."""
    n = len(rows)
    if law.structure is None:
        return Chances(np.full(n, law.rate), np.full(n, law.strength))
    on = rows.holds(law.structure)
    if law.structure.polarity == "decreases":
        on = ~on
    if law.hole is not None:
        on &= ~rows.has(law.hole)
    if law.twin is not None:
        on &= (rows.coin >= 0.5)[rows.unit] == bool(law.twin)
    rate = np.where(on, law.rate, law.other_rate)
    strength = law.strength * np.where(on, 1.0, law.other_factor)
    if law.structure.dose:
        step = _step(rows, law.structure.terms[0])
        rate = np.where(on, law.rate * (law.dose_rate + (1 - law.dose_rate) * step), rate)
        strength = strength * np.where(on, 1 + (law.dose_strength - 1) * step, 1.0)
    if law.structure.tail is not None:
        strength = strength * np.where(on & rows.has(law.structure.tail), law.tail_factor, 1.0)
    return Chances(rate, strength)


def _step(rows: Rows, term: Term) -> Floats:
    """(N,) 0 at the lowest level of the family and 1 at the highest, in equal steps."""
    column = rows.schema.index(term.family)
    levels = np.array(rows.schema.families[column].levels)
    code = np.searchsorted(levels, rows.levels[:, column])
    return np.asarray(code / (len(levels) - 1))


def draw_activations(
    law: FeatureLaw, rows: Rows, generator: np.random.Generator
) -> tuple[Ints, NDArray[np.float32]]:
    """(rows that fire, ascending; their activations)."""
    found = chances(law, rows)
    n_units = len(rows.coin)

    def normal(shared: float) -> Floats:
        of_unit, own = generator.normal(size=n_units), generator.normal(size=len(rows))
        return np.asarray(np.sqrt(shared) * of_unit[rows.unit] + np.sqrt(1 - shared) * own)

    with np.errstate(divide="ignore"):
        fires = np.flatnonzero(normal(law.shared_firing) < ndtri(found.rate))
    noise = np.exp(law.sigma * normal(law.shared_strength) - law.sigma**2 / 2)
    return fires, (found.strength * noise)[fires].astype(np.float32)
