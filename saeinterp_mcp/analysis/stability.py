"""Would another half of the data say the same, and could chance alone say as much? Draws over units, never over rows.

Shuffling moves the activations of whole units onto other units of (nearly) the same number of rows, in their order
within the unit, so a unit's firing rows stay together and what tells units apart is lost. Units of one row are
shuffled as rows are. A draw costs the feature's firings, not the corpus.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.intervals import log_odds_shrunken

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
MIN_CLASS = 10
"""Units of like size among which patterns are exchanged; a smaller class joins the next."""
N_PILOT = 50
"""Draws from which the scale of every effect is taken, apart from those that are counted."""
PER_OCTAVE = 4
NULL_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Pattern:
    """Firing rows of a slice by unit and place in it."""

    size: Ints
    """(U,) rows of each unit in the slice; those with none are never drawn."""
    unit: Ints
    """(n,) unit of each firing row, ascending."""
    place: Ints
    """(n,) which row of its unit it is, from 0."""
    value: Floats
    """(n,) activation."""


class Shuffler:
    """Draws where the firing rows would lie if units had been dealt their activations at random."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.first = np.cumsum(pattern.size) - pattern.size
        classes = size_classes(pattern.size)
        firing, self.index = np.unique(pattern.unit, return_inverse=True)
        order = np.argsort(classes, kind="stable")
        edges = np.searchsorted(classes[order], np.arange(classes.max(initial=-1) + 2))
        of_firing = classes[firing]
        self.classes = [
            (order[edges[c] : edges[c + 1]], np.flatnonzero(of_firing == c)) for c in np.unique(of_firing)
        ]
        self.firing = firing

    @property
    def share_movable(self) -> float:
        """Share of the firing rows whose unit has others to change with."""
        alone = [firing for members, firing in self.classes if len(members) < 2]
        held = np.isin(self.index, np.concatenate(alone)) if alone else np.zeros(len(self.index), bool)
        return 1 - float(held.mean()) if len(held) else 0.0

    def draw(self, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """(n,) unit of each firing row and its row in the slice, after a random exchange within the classes."""
        pattern, target = self.pattern, np.empty(len(self.firing), np.int64)
        for members, firing in self.classes:
            target[firing] = members[generator.choice(len(members), len(firing), replace=False)]
        unit = target[self.index]
        # in a unit of another size, at the same share of its rows
        place = (2 * pattern.place + 1) * pattern.size[unit] // (2 * pattern.size[pattern.unit])
        return unit, self.first[unit] + place


def size_classes(size: Ints) -> Ints:
    """(U,) class of each unit by its rows: quarter octaves, up to an octave joined for MIN_CLASS units; -1 if none."""
    inside = size > 0
    quarter = np.floor(PER_OCTAVE * np.log2(np.maximum(size, 1)) + 1e-9).astype(np.int64)
    found, index, counts = np.unique(quarter[inside], return_inverse=True, return_counts=True)
    joined, first, number, held = np.zeros(len(found), np.int64), 0, -1, MIN_CLASS
    for i, (at, count) in enumerate(zip(found.tolist(), counts.tolist(), strict=True)):
        near, last = at - first <= PER_OCTAVE, i == len(found) - 1
        if not near or (held >= MIN_CLASS and not (last and count < MIN_CLASS)):
            first, number, held = at, number + 1, 0
        joined[i] = max(number, 0)
        held += count
    out = np.full(len(size), -1, np.int64)
    out[inside] = joined[index]
    return out


class LabelledRows(NamedTuple):
    """Labels of some rows: (index into the rows, label), one entry for each label that a row carries."""

    entry: Ints
    label: Ints


LabelsOf = Callable[[Ints], LabelledRows]
"""Labels of rows of the slice."""


class Null(NamedTuple):
    """An observed statistic among its values in shuffled data."""

    observed: float
    drawn: Floats
    p: float
    """(1 + draws at least as large) / (1 + draws)."""


def p_of(observed: float, drawn: Floats) -> float:
    """Phipson and Smyth (2010): never 0, because the observed data are one of the orders."""
    return (1 + int((drawn >= observed).sum())) / (1 + len(drawn))


class Strongest(NamedTuple):
    """The label that stands out most."""

    label_set: int
    label: int
    z: float
    by_rate: bool
    """Whether it is its firing rate that stands out, rather than its mean activation."""


def shuffle_null(
    pattern: Pattern,
    observed: Ints,
    label_sets: list[tuple[int, LabelsOf]],
    n: int,
    generator: np.random.Generator,
) -> tuple[Null, Strongest]:
    """The largest |z| over all labels, of the number of firing rows and of the summed activation, and its null.

    z is the distance from the mean of N_PILOT shuffles, over their standard deviation and that of one firing row
    together: so a label of few rows does not stand out for one firing row. The pilot draws are independent of the n
    that are counted, so that observed and shuffled data are treated alike and p is exact but for units that differ.

    Args:
        pattern: the firing rows.
        observed: (n_firing,) their rows in the slice.
        label_sets: how many labels each set has, and how to look them up.
        n: draws.
        generator: of the draws.
    """
    shuffler = Shuffler(pattern)
    pilot = _Spread(_sums(shuffler.draw(generator)[1], pattern.value, label_sets) for _ in range(N_PILOT))
    one = np.array([1.0, float((pattern.value**2).mean())])
    scale = np.sqrt(pilot.variance + one[:, None])

    def scores(rows: Ints) -> Floats:
        return np.asarray((_sums(rows, pattern.value, label_sets) - pilot.mean) / scale)

    seen = scores(observed)
    drawn = np.array([np.abs(scores(shuffler.draw(generator)[1])).max() for _ in range(n)])
    kind, at = np.unravel_index(int(np.abs(seen).argmax()), seen.shape)
    edges = np.cumsum([0, *(k for k, _ in label_sets)])
    label_set = int(np.searchsorted(edges, at, side="right")) - 1
    largest = float(np.abs(seen).max())
    strongest = Strongest(label_set, int(at - edges[label_set]), float(seen[kind, at]), kind == 0)
    return Null(largest, drawn, p_of(largest, drawn)), strongest


def _sums(rows: Ints, value: Floats, label_sets: list[tuple[int, LabelsOf]]) -> Floats:
    """(2, labels of all sets) firing rows with each label, and their summed activation."""
    parts = []
    for k, labels_of in label_sets:
        entry, label = labels_of(rows)
        parts.append(np.stack([np.bincount(label, minlength=k), np.bincount(label, value[entry], k)]))
    return np.concatenate(parts, axis=1)


class _Spread:
    """Mean and variance of arrays that are not kept."""

    def __init__(self, arrays: Iterable[Floats]) -> None:
        n, total, squares = 0, np.zeros(1), np.zeros(1)
        for array in arrays:
            n, total, squares = n + 1, total + array, squares + array**2
        self.mean = total / n
        self.variance = np.maximum(squares - n * self.mean**2, 0.0) / (n - 1)


class Halves(NamedTuple):
    """Correlations between random halves of the units."""

    observed: Floats
    """(n,) one for each division; NaN where too few labels could be compared or one half has no effects."""
    shuffled: Floats
    """(n,) the same of shuffled activations."""
    n_compared: Ints
    """(n,) labels."""


def split_half(
    pattern: Pattern,
    observed: Ints,
    unit_labels: Any,
    labels_of: LabelsOf,
    min_n: int,
    n: int,
    generator: np.random.Generator,
) -> Halves:
    """Correlation (Pearson) of the labels' shrunken log-odds of firing between random halves of the units.

    Not stepped up to the whole by Spearman and Brown: it is what half the data would have said.

    Args:
        pattern: the firing rows.
        observed: (n_firing,) their rows in the slice.
        unit_labels: (U, K) sparse, rows of each unit with each label.
        labels_of: the labels of rows.
        min_n: rows that a label needs in both halves.
        n: divisions.
        generator: of the draws.
    """
    shuffler, k = Shuffler(pattern), unit_labels.shape[1]
    inside = np.flatnonzero(pattern.size)
    in_first = np.zeros((len(pattern.size), n))
    for i in range(n):
        in_first[generator.permutation(inside)[: len(inside) // 2], i] = 1.0
    n_first = unit_labels.T @ in_first
    n_both = np.asarray(unit_labels.sum(axis=0)).ravel()
    rows = pattern.size.astype(np.float64) @ in_first
    entry, label = labels_of(observed)
    found = np.full((3, n), np.nan)
    for i in range(n):
        sizes = [(n_first[:, i], rows[i]), (n_both - n_first[:, i], pattern.size.sum() - rows[i])]
        enough = (sizes[0][0] >= min_n) & (sizes[1][0] >= min_n)
        found[2, i] = enough.sum()
        half = in_first[:, i] == 0
        found[0, i] = _correlation(half[pattern.unit], entry, label, sizes, enough, k)
        unit, moved = shuffler.draw(generator)
        found[1, i] = _correlation(half[unit], *labels_of(moved), sizes, enough, k)
    return Halves(found[0], found[1], found[2].astype(np.int64))


def _correlation(
    half: Bools, entry: Ints, label: Ints, sizes: list[tuple[Floats, float]], enough: Bools, k: int
) -> float:
    """Of the log-odds of both halves, given which half each firing row is in.

    Two firing rows of a long unit may meet in one row of a shorter one, hence the bounds.
    """
    effects = []
    for which, (n, n_rows) in enumerate(sizes):
        mine = half == bool(which)
        firing = np.bincount(label[mine[entry]], minlength=k).astype(np.float64)
        rest = mine.sum() - firing
        odds, _ = log_odds_shrunken(np.fmin(firing, n), n, np.fmin(rest, n_rows - n), n_rows - n)
        effects.append(odds[enough])
    first, second = effects
    if len(first) < 2 or not (first.std() > 0 and second.std() > 0):
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
