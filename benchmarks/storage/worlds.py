"""Synthetic worlds of the size that the storage targets are stated for: how many of what, by seed.

The shapes are those of the reference's S1 and S2: log-normal densities with a dense tail that saturates, 3 % of the
features dead, log-normal values. `write_world.py` writes them as bundles.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.frozen import Frozen

DEAD_SHARE = 0.03
PLANTED_EVERY = 64
"""One live feature in so many depends on a family or a group."""
DOCUMENT_TOKENS = 128
PART_ROWS = 65_536
"""Rows written by one task; bounds its memory at about 500 MB for 60 activations a row."""


class World(Frozen):
    """A world, before it is drawn. The same fields give the same bytes."""

    name: str
    kind: Literal["set", "sequence"]
    n_features: PositiveInt
    full_rows: PositiveInt
    """Samples of a set world, positions of a sequence one, at scale 1."""
    mean_firing: PositiveFloat
    """Features that fire at a row, on average."""
    spread: PositiveFloat
    """Standard deviation of the logarithm of a feature's density, before it saturates."""
    densest: float = Field(gt=0, lt=1)
    """Share of the rows where no feature's rate goes above."""
    scale: PositiveFloat = 1.0
    """Share of `full_rows` that is drawn; rates stay as they are."""
    seed: int = 0

    @property
    def n_rows(self) -> int:
        """Rows that are drawn: whole documents of a sequence world."""
        n = max(1, round(self.full_rows * self.scale))
        return n if self.kind == "set" else max(1, round(n / DOCUMENT_TOKENS)) * DOCUMENT_TOKENS

    @property
    def n_samples(self) -> int:
        """Samples that are drawn."""
        return self.n_rows if self.kind == "set" else self.n_rows // DOCUMENT_TOKENS

    @property
    def samples_per_part(self) -> int:
        """Samples whose activations lie in one file."""
        return PART_ROWS if self.kind == "set" else PART_ROWS // DOCUMENT_TOKENS

    @property
    def n_parts(self) -> int:
        """Files of activations."""
        return -(-self.n_samples // self.samples_per_part)

    @property
    def folder(self) -> str:
        """Name of the folder of this world: `S2`, or `S2-0.1` at another scale."""
        return self.name if self.scale == 1.0 else f"{self.name}-{self.scale:g}"

    @property
    def expected_activations(self) -> int:
        """Activations, in expectation; planted dependence moves it by a few percent."""
        return round(self.n_rows * self.mean_firing)


SET_WORLD = World(
    name="S1",
    kind="set",
    n_features=4096,
    full_rows=1_000_000,
    mean_firing=60,
    spread=2.15,
    densest=0.4,
)
SEQUENCE_WORLD = World(
    name="S2",
    kind="sequence",
    n_features=16_384,
    full_rows=2_000_000,
    mean_firing=50,
    spread=2.2,
    densest=0.26,
)
WORLDS = {
    "S1": SET_WORLD,
    "S2": SEQUENCE_WORLD,
    "S3": SEQUENCE_WORLD.model_copy(update={"name": "S3", "full_rows": 20_000_000}),
}
"""By the name that `--world` takes. S3 is S2 with ten times the rows: 1.0 billion activations."""

BYTES_PER_ACTIVATION = {"bundle": 6, "store": 17, "while building": 24}
"""Disk that a world takes, measured; feature-major and row-major postings are 8 bytes each."""


class Planted(NamedTuple):
    """Features whose rate depends on a label of the row."""

    features: NDArray[np.int64]
    by_family: NDArray[np.bool_]
    """Whether it is the level of a family (else a value of the group) that moves the rate."""
    which: NDArray[np.int64]
    """Index of the family, or of the group's value."""


@lru_cache(maxsize=4)
def firing_rates(world: World) -> NDArray[np.float64]:
    """(F,) share of the rows where each feature fires; 0 for the dead.

    Quantiles of a log-normal in shuffled order, so that the tail does not hang on the draw, saturating at `densest`
    and scaled so that they add up to `mean_firing`.
    """
    from scipy.special import ndtri

    n = world.n_features
    n_dead = round(DEAD_SHARE * n)
    z = ndtri((np.arange(n - n_dead) + 0.5) / (n - n_dead))
    raw = np.exp(world.spread * z)

    def rates(scale: float) -> NDArray[np.float64]:
        return np.asarray(world.densest * -np.expm1(-scale * raw / world.densest))

    low, high = 1e-12, 1.0
    for _ in range(200):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if rates(middle).sum() < world.mean_firing else (low, middle)
    order = rng(world.seed, world.name, "densities").permutation(n)
    out = np.zeros(n)
    out[order[n_dead:]] = rates(low)
    return out


@lru_cache(maxsize=4)
def value_centres(world: World) -> NDArray[np.float64]:
    """(F,) logarithm of each feature's median activation."""
    return rng(world.seed, world.name, "values").normal(0, 0.5, world.n_features)


@lru_cache(maxsize=4)
def planted(world: World, n_families: int, n_values: int) -> Planted:
    """Which features depend on what: every 64th live one, in the order of density, by turns on a family or a value."""
    rates = firing_rates(world)
    features = np.sort(
        np.argsort(rates, kind="stable")[round(DEAD_SHARE * world.n_features) :][::PLANTED_EVERY]
    )
    by_family = np.arange(len(features)) % 2 == 0
    generator = rng(world.seed, world.name, "planted")
    which = np.where(
        by_family,
        generator.integers(0, n_families, len(features)),
        generator.integers(0, n_values, len(features)),
    )
    return Planted(features, by_family, which)
