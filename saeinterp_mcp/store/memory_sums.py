"""The sums by unit and label of `memory_store`, from matrices of units by labels, by their definitions."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.effects import MIN_N, tested
from saeinterp_mcp.analysis.intervals import Arm, Cross
from saeinterp_mcp.analysis.moments import Moments
from saeinterp_mcp.store.base import AnyArray, Bools, Floats, Ints
from saeinterp_mcp.store.layout import INFLUENCE, LABEL_SUMS, NO_INDEX


class RowsByUnit(NamedTuple):
    """Which rows belong together, and which to `explain`."""

    unit: Ints
    """(R,) unit of each row."""
    n_explain: int


def carries(labels: list[list[int]], k: int) -> Bools:
    """(rows, k) whether a row carries a label."""
    return np.array([[label in held for label in range(k)] for held in labels], bool).reshape(len(labels), k)


def sums_of_labels(rows: RowsByUnit, activations: Floats, label_sets: dict[str, Bools]) -> Floats:
    """(D, 2, L, 14) of (R, D) activations, 0 where silent."""
    n_labels = sum(held.shape[1] for held in label_sets.values())
    out = np.zeros((activations.shape[1], 2, n_labels, len(LABEL_SUMS)))
    for i, column in enumerate(activations.T):
        for split, n in enumerate((rows.n_explain, len(column))):
            start = 0
            for name, held in label_sets.items():
                by_unit = _by_unit(rows.unit[:n], column[:n], held[:n], name.startswith("family."))
                stop = start + held.shape[1]
                out[i, split, start:stop] = by_unit.sums()
                start = stop
    return out


def influence_of_tokens(rows: RowsByUnit, activations: Floats, tokens: Bools) -> dict[str, AnyArray]:
    """`influence/*`: the tokens that stand out in `explain`."""
    n, n_features = rows.n_explain, activations.shape[1]
    found = np.full((n_features, 2, INFLUENCE), NO_INDEX, np.uint32)
    sums, q = np.full((*found.shape, len(LABEL_SUMS)), np.nan), np.full(found.shape, np.nan)
    for i, column in enumerate(activations[:n].T):
        strength, firing = (
            _by_unit(rows.unit[:n], x, tokens[:n], False) for x in (column, (column > 0).astype(float))
        )
        largest = float(column.max(initial=0))
        effects = tested(strength.moments(), firing.moments(), largest, MIN_N, False)
        for side, best in enumerate(effects.outstanding()):
            k = best[:INFLUENCE]
            found[i, side, : len(k)], q[i, side, : len(k)] = k, effects.q[k]
            sums[i, side, : len(k)] = strength.sums()[k]
    return {"influence/tokens": found, "influence/sums": sums, "influence/q": q}


class _Part(NamedTuple):
    """(units, labels), or (units, 1): activation, firing rows, rows."""

    s: Floats
    c: Floats
    n: Floats

    def arm(self) -> Arm:
        """Sums over units."""
        s, c, n = self
        each = (n, n > 0, c > 0, s, s * s, s * n, n * n)
        return Arm(*(np.asarray(x.sum(0), np.float64) for x in each))


@dataclass(frozen=True)
class _ByUnit:
    own: _Part
    base: _Part
    """Rows of level 0, or all rows."""
    firing: Floats
    """(units, 1) firing rows, labels aside."""

    def sums(self) -> Floats:
        """(labels, 14) in the order of LABEL_SUMS."""
        (s, c, n), base = self.own, self.base
        columns = (
            c > 0, (c > 0) & (c == self.firing),
            s, s * s, s * n, s * base.s, s * base.n, n * base.s,
            c, c * c, c * n, c * base.c, c * base.n, n * base.c,
        )  # fmt: skip
        return np.stack([column.sum(0) for column in columns], 1).astype(np.float64)

    def moments(self) -> Moments:
        """Each label beside all the rest, where the base is everything."""
        own, rest = self.own, _Part(*(whole - mine for whole, mine in zip(self.base, self.own, strict=True)))
        pairs = (own.s * rest.s, own.s * rest.n, own.n * rest.s, own.n * rest.n)
        return Moments(own.arm(), rest.arm(), Cross(*(x.sum(0) for x in pairs)))


def _by_unit(unit: Ints, column: NDArray[Any], held: Bools, of_level: bool) -> _ByUnit:
    """One feature's rows added up by unit and label, and over the base."""
    member = (unit == np.arange(unit.max(initial=-1) + 1)[:, None]).astype(np.float64)
    fires = (column > 0).astype(np.float64)
    base = held[:, :1] if of_level else np.ones((len(column), 1), bool)

    def part(rows: Bools) -> _Part:
        return _Part(*(member @ (rows * x[:, None]) for x in (column, fires, np.ones(len(column)))))

    return _ByUnit(part(held), part(base), member @ fires[:, None])
