"""Sequence worlds: documents as units, one token at a position, families of tokens and of positions.

At scope `at` a position has one token, so token families never meet; rules of two families join a family of
positions (like nesting depth) with another one, or with a family of tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.recover.rows import Family, Floats, Ints, Rows, Schema
from benchmarks.recover.sets import N_FACTORS, PAIR_CORRELATION, Habits, cut, draw_groups, draw_habits
from saeinterp_mcp.analysis.sampling import rng

BOS = "t_bos"
TOKEN_LEVELS = ((1, 2, 3), (1, 2, 3, 4), (1,), (1,))
POSITION_LEVELS = ((1, 2, 3, 4), (1, 2, 3, 4, 5), (1, 2, 3), (1, 2, 3), (1,), (1,), (1,), (1,))
N_FILLERS = 8
SAMPLES = (0.6, 0.4)
"""Chances of 1 or 2 samples a document."""
LENGTHS = (5, 16)
"""Counted positions of a sample: the least, and the first too many."""
OF_DOCUMENT = 0.35
"""Share of a family's variance that is the document's."""
CARRIED = 0.7
"""Correlation of the rest from one position to the next."""


@dataclass(frozen=True)
class SequenceLaw:
    """The law that rows are drawn from."""

    schema: Schema
    habits: Habits
    kind: str = "sequence"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The confounded pairs, by name."""
        names = [f.name for f in self.schema.families]
        return tuple((names[a], names[b]) for a, b in self.habits.pairs)

    def draw(self, n_units: int, generator: np.random.Generator) -> Rows:
        """Rows of new documents, the first position of each sample left out."""
        value = generator.choice(len(self.habits.weights), n_units, p=self.habits.weights)
        other = generator.integers(0, len(self.schema.groups[1].values), n_units)
        n_samples = 1 + generator.choice(len(SAMPLES), n_units, p=SAMPLES)
        unit_of_sample = np.repeat(np.arange(n_units), n_samples)
        lengths = generator.integers(*LENGTHS, len(unit_of_sample))
        sample = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(len(sample)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        unit = unit_of_sample[sample]
        x = self._latent(value, unit, position, generator)
        levels = cut(self.habits, self.schema, x)
        fillers = self._one_token(levels, x, generator)
        return Rows(
            schema=self.schema,
            unit=unit,
            levels=levels,
            groups={"g": value[unit], "h": other[unit]},
            fillers=fillers,
            coin=generator.random(n_units),
            sample=sample,
            position=position + 1,
        )

    def _latent(self, value: Ints, unit: Ints, position: Ints, generator: np.random.Generator) -> Floats:
        """(n, families): habits of the document, and what goes on from position to position."""
        h, k = self.habits, len(self.habits.cuts)
        common = generator.normal(size=(len(value), N_FACTORS)) @ h.loadings.T
        of_document = (
            h.by_value[value] + common + np.sqrt(OF_DOCUMENT) * h.own * generator.normal(size=(len(value), k))
        )
        moving = _carried(position, k, generator)
        x = of_document[unit] + np.sqrt(1 - OF_DOCUMENT) * h.own * moving
        for first, second in h.pairs:
            rest = np.sqrt(1 - PAIR_CORRELATION**2)
            x[:, second] = PAIR_CORRELATION * x[:, first] + rest * x[:, second]
        return np.asarray(x)

    def _one_token(
        self, levels: NDArray[np.int16], x: Floats, generator: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Leave each position one token: of the token families there the one that stands out most, else a filler."""
        of_tokens = [i for i, f in enumerate(self.schema.families) if not f.of_positions]
        beyond = np.stack([x[:, i] - self.habits.cuts[i][0] for i in of_tokens], 1)
        best = np.argmax(beyond, 1)
        for j, i in enumerate(of_tokens):
            levels[best != j, i] = 0
        bare = np.flatnonzero(levels[:, of_tokens].max(1) == 0)
        fillers = np.zeros((len(levels), len(self.schema.fillers)), bool)
        weights = self.habits.shares / self.habits.shares.sum()
        fillers[bare, generator.choice(len(weights), len(bare), p=weights)] = True
        return fillers


def _carried(position: Ints, k: int, generator: np.random.Generator) -> Floats:
    """(n, k) standard normal, correlated from one position of a sample to the next."""
    noise = generator.normal(size=(len(position), k))
    for at in range(1, int(position.max()) + 1):
        here = np.flatnonzero(position == at)
        noise[here] = CARRIED * noise[here - 1] + np.sqrt(1 - CARRIED**2) * noise[here]
    return np.asarray(noise)


def draw_sequence_law(seed: int) -> SequenceLaw:
    """Names, habits and shares of a sequence world."""
    generator = rng(seed, "recover", "sequence law")
    shapes = [(levels, False) for levels in TOKEN_LEVELS] + [(levels, True) for levels in POSITION_LEVELS]
    order = generator.permutation(len(shapes)).tolist()
    families = tuple(
        Family(name=f"f{i + 1:02d}", encoding="exclusive", levels=shapes[k][0], of_positions=shapes[k][1])
        for i, k in enumerate(order)
    )
    fillers = tuple(f"t_{c}1" for c in "abcdefgh"[:N_FILLERS])
    schema = Schema(families=families, groups=draw_groups(generator), fillers=fillers)
    return SequenceLaw(schema, draw_habits(schema, _draw_pairs(families, generator), generator))


def _draw_pairs(families: tuple[Family, ...], generator: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Two pairs among families of positions; the first of each has several levels."""
    several = [i for i, f in enumerate(families) if f.of_positions and len(f.levels) > 2]
    first = generator.choice(several, 2, replace=False).tolist()
    rest = [i for i, f in enumerate(families) if f.of_positions and i not in first]
    second = generator.choice(rest, 2, replace=False).tolist()
    return tuple(zip(first, second, strict=True))
