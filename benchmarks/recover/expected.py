"""What an estimator should find: expectations of the generator, from the closed form over a very large sample of rows.

Given what a row carries, its expected activation is known exactly (`firing.chances`); only what rows carry is
sampled, in a draw of its own with many times the units of any world. Its error is that of the share of rows in a
label, below a tenth of the worlds' own.
"""

from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.recover.firing import chances
from benchmarks.recover.rows import Bools, Floats, Ints
from benchmarks.recover.truth import InGroup, Term
from benchmarks.recover.worlds import Law
from saeinterp_mcp.analysis.sampling import rng


class Cells(NamedTuple):
    """Of each of K cells of rows."""

    n: Floats
    """(K,) rows of the large sample."""
    rate: Floats
    """(K,) chance to fire."""
    mean: Floats
    """(K,) expected activation."""

    def joined(self, pick: Bools) -> tuple[float, float, float]:
        """Share of rows, rate and mean of some cells together."""
        n = self.n[pick].sum()
        if n == 0:
            return 0.0, float("nan"), float("nan")
        rate, mean = (
            (part[pick] * self.n[pick])[self.n[pick] > 0].sum() / n for part in (self.rate, self.mean)
        )
        return float(n / self.n.sum()), float(rate), float(mean)


class Expected:
    """Expectations of one law."""

    def __init__(self, law: Law, n_units: int, seed: int) -> None:
        self.law = law
        self.rows = law.rows.draw(n_units, rng(seed, "recover", law.kind, "expectation"))
        self._cells = cache(self._cells_of)
        self._chances = cache(self._chances_of)

    def _chances_of(self, feature: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = chances(self.law.features[feature], self.rows)
        return found.rate.astype(np.float32), found.mean.astype(np.float32)

    def _cells_of(self, feature: int, labels: tuple[str, ...]) -> Cells:
        code, k = np.zeros(len(self.rows), np.int64), 1
        for label in labels:
            part, size = self._codes(label)
            code, k = code * size + part, k * size
        rate, mean = self._chances(feature)
        n = np.bincount(code, minlength=k).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return Cells(n, *(np.bincount(code, weights, k) / n for weights in (rate, mean)))

    def _codes(self, label: str) -> tuple[Ints, int]:
        """(N,) code of each row, and how many there are: of `family:NAME` (0 for none), `filler:NAME` or a group."""
        kind, _, name = label.partition(":")
        schema = self.rows.schema
        if kind == "family":
            column = schema.index(name)
            levels = np.array(schema.families[column].levels)
            codes = np.searchsorted(levels, self.rows.levels[:, column], side="right")
            return codes.astype(np.int64), len(levels) + 1
        if kind == "filler":
            return self.rows.fillers[:, schema.fillers.index(name)].astype(np.int64), 2
        group, _, attribute = label.partition(".")
        info = schema.group(group)
        if not attribute:
            return self.rows.groups[group], len(info.values)
        column_values = info.attributes[attribute]
        names = sorted(set(column_values))
        return np.array([names.index(v) for v in column_values])[self.rows.groups[group]], len(names)

    def levels(self, feature: int, family: str) -> Cells:
        """By level of a family, none first."""
        return self._cells(feature, (f"family:{family}",))

    def grid(self, feature: int, family_x: str, family_y: str) -> tuple[Floats, Floats]:
        """(x, y) mean activation by level of two families, none first; and the shares of rows."""
        cells = self._cells(feature, (f"family:{family_x}", f"family:{family_y}"))
        shape = (len(self.levels(feature, family_x).n), -1)
        return cells.mean.reshape(shape), (cells.n / cells.n.sum()).reshape(shape)

    def value_effect(self, feature: int, where: InGroup) -> float:
        """Mean with a value of a group, or attribute, less mean of all others."""
        cells = self._cells(feature, (where.by,))
        group, _, attribute = where.by.partition(".")
        info = self.rows.schema.group(group)
        names = sorted(set(info.attributes[attribute])) if attribute else list(info.values)
        inside = np.array([name == where.value for name in names])
        return cells.joined(inside)[2] - cells.joined(~inside)[2]

    def token_effect(self, feature: int, token: str) -> float:
        """Mean with a token less mean without it."""
        cells, inside = self._token_cells(feature, token)
        return cells.joined(inside)[2] - cells.joined(~inside)[2]

    def interaction(self, feature: int, a: Term, b: Term) -> tuple[float, float]:
        """11 - 10 - 01 + 00 of two terms there or not: of the mean, and of the firing rate."""
        rate, mean = self._chances(feature)
        cell = 2 * self.rows.has(a) + self.rows.has(b)
        n = np.bincount(cell, minlength=4)
        with np.errstate(invalid="ignore"):  # two token families never meet at one position
            of_mean, of_rate = (np.bincount(cell, w, 4) / n @ [1, -1, -1, 1] for w in (mean, rate))
        return float(of_mean), float(of_rate)

    def _token_cells(self, feature: int, token: str) -> tuple[Cells, Bools]:
        label, inside = self._of_token[token]
        return self._cells(feature, (label,)), inside

    @cached_property
    def _of_token(self) -> dict[str, tuple[str, Bools]]:
        """Token to the label that tells of it, and the codes at which it is there."""
        schema = self.rows.schema
        found = {name: (f"filler:{name}", np.array([False, True])) for name in schema.fillers}
        for family in schema.families:
            codes = np.arange(len(family.levels) + 1)
            for code, level in enumerate(family.levels, 1):
                inside = codes >= code if family.encoding == "cumulative" else codes == code
                found[family.token(level)] = (f"family:{family.name}", inside)
        return found

    def stratified_effect(
        self, feature: int, family: str, group: str, n: tuple[Floats, Floats] | None = None
    ) -> float:
        """Any level against none within the values of a group, by Mantel-Haenszel weights N1 N0 / (N1 + N0).

        Args:
            feature: of the law.
            family: present or not.
            group: its values are the strata.
            n: (values,) rows without and with a level, for weights of a sample's; default those of the generator.
        """
        cells = self._cells(feature, (group, f"family:{family}"))
        shape = (-1, len(self.levels(feature, family).n))
        rows = cells.n.reshape(shape)
        total = np.nan_to_num(cells.mean.reshape(shape)) * rows
        rows0, rows1 = rows[:, 0], rows[:, 1:].sum(1)
        within = total[:, 1:].sum(1) / rows1 - total[:, 0] / rows0
        n0, n1 = n or (rows0, rows1)
        weight = n0 * n1 / np.fmax(n0 + n1, 1)
        return float(weight @ within / weight.sum())

    def of_rule(self, feature: int, predicted: Bools) -> tuple[float, float, float]:
        """Recall, precision and balanced accuracy of a rule, from the rows of the large sample where it holds."""
        rate = self._chances(feature)[0].astype(np.float64)
        hits = rate[predicted].sum()
        recall, kept = hits / rate.sum(), (1 - rate[~predicted]).sum() / (1 - rate).sum()
        return float(recall), float(hits / max(predicted.sum(), 1)), float(recall + kept) / 2
