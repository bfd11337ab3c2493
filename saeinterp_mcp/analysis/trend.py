"""Does activation rise with the level? Spearman's rank correlation with an interval by unit."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.distributions import t_quantile

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
N_FOLDS = 40
MIN_UNITS = 10


class Trend(NamedTuple):
    """Rank correlation of level and activation over rows with a level; NaN where it cannot be had."""

    spearman: float
    low: float
    high: float
    n: int


def spearman_by_unit(
    level_n: NDArray[np.int64],
    fold_level_n: NDArray[np.int64],
    fold: NDArray[np.int64],
    level: NDArray[np.int64],
    value: NDArray[np.float64],
) -> Trend:
    """Spearman's rho (midranks) of level and activation, silent rows included, with a jackknife interval by unit.

    Units fall into 40 folds by their hash order; each fold is left out once (delete-a-group jackknife, Shao and Tu
    1995, section 2.3), on the scale of Fisher's z. The degrees of freedom are 3 E - 1, at most folds - 1, with
    E = (sum d^2)^2 / sum d^4 of the folds' deviations d: as many as there are folds if these are normal, fewer when a
    few folds make the variance (strong trends, broken by a few rows). Deterministic: nothing is drawn.

    Args:
        level_n: (L,) rows of the slice at each level above 0.
        fold_level_n: (folds, L) the same by fold of the row's unit.
        fold: (n,) fold of each firing row.
        level: (n,) its level, 0-based.
        value: (n,) its activation.
    """
    n = int(level_n.sum())
    if (level_n > 0).sum() < 2 or not len(value):
        return Trend(np.nan, np.nan, np.nan, n)
    occupied = np.flatnonzero(fold_level_n.sum(1) > 0)
    rho, *left_out = _rho_without(level_n, fold_level_n, fold, level, value)[
        np.append(0, occupied + 1)
    ].tolist()
    if len(occupied) < MIN_UNITS or not np.isfinite(rho):
        return Trend(rho, np.nan, np.nan, n)
    z = np.arctanh(np.clip(left_out, -0.999999, 0.999999))
    if not np.isfinite(z).all():
        return Trend(rho, np.nan, np.nan, n)
    g, deviation = len(z), z - z.mean()
    squares = (deviation**2).sum()
    se = np.sqrt((g - 1) / g * squares)
    df = 3 * squares**2 / (deviation**4).sum() - 1 if squares > 0 else g - 1
    centre = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    reach = t_quantile(0.975, np.clip(df, 1, g - 1)) * se
    return Trend(rho, float(np.tanh(centre - reach)), float(np.tanh(centre + reach)), n)


def _rho_without(level_n: Ints, fold_level_n: Ints, fold: Ints, level: Ints, value: Floats) -> Floats:
    """(1 + folds,) Pearson correlation of midranks of all rows, then without each fold; NaN where there is none.

    One sort serves all: without a fold, a row's rank is its rank among all less its rank in the fold, so the sums of
    products follow from sums by fold and level. Silent rows share the lowest rank.
    """
    n_folds, n_levels = fold_level_n.shape
    rows = _Sorted.of(fold, level, value)
    cell = rows.fold.astype(np.int64) * n_levels + rows.level

    def by_cell(weights: Floats | None) -> Floats:
        """(1 + folds, levels) sums over the firing rows that are left."""
        sums = np.bincount(cell, weights, n_folds * n_levels).reshape(n_folds, n_levels).astype(np.float64)
        return np.vstack([sums.sum(0), sums.sum(0) - sums])

    kept = np.vstack([level_n, level_n - fold_level_n]).astype(np.float64)
    n, fires = kept.sum(1), by_cell(None)
    silent, centre = n - fires.sum(1), (n + 1) / 2
    silent_rank = (silent + 1) / 2 - centre
    level_rank = np.cumsum(kept, 1) - (kept - 1) / 2 - centre[:, None]
    removed = np.vstack([np.zeros(n_levels), rows.ranks_in_folds(n_folds, n_levels)])
    value_rank = by_cell(rows.rank) - removed + fires * (silent + 0.5 - centre)[:, None]
    cross = (level_rank * (value_rank + (kept - fires) * silent_rank[:, None])).sum(1)
    level_ss = (kept * level_rank**2).sum(1)
    # a sum of squared ranks is (n^3 - n) / 12, less the same of every tie; the silent rows are one
    value_ss = ((n - silent) * (n**2 + n * silent + silent**2 - 1) - rows.ties(n_folds)) / 12
    known = (n >= 3) & (level_ss > 0) & (value_ss > 0)
    return np.asarray(
        np.divide(cross, np.sqrt(level_ss * value_ss), out=np.full(len(n), np.nan), where=known)
    )


class _Sorted(NamedTuple):
    """Firing rows by activation; equal ones are a tie."""

    fold: NDArray[np.uint8]
    level: NDArray[np.uint16]
    first: Ints
    """(n,) where the row's tie begins."""
    last: Ints
    """(n,) and where it ends."""

    @classmethod
    def of(cls, fold: Ints, level: Ints, value: Floats) -> "_Sorted":
        order = np.argsort(value)
        first, last = _runs(value[order])
        return cls(fold[order].astype(np.uint8), level[order].astype(np.uint16), first, last)

    @property
    def rank(self) -> Floats:
        """(n,) rows below, and half of the tie."""
        return (self.first + self.last) / 2

    def _in_order(self) -> tuple[Ints, Ints, Ints]:
        """Rows by fold and activation: their order; where the ties of each fold begin and end in it."""
        order = np.argsort(self.fold, kind="stable")
        first, last = _runs(self.fold[order].astype(np.int64) * (len(order) + 1) + self.first[order])
        return order, first, last

    def ranks_in_folds(self, n_folds: int, n_levels: int) -> Floats:
        """(folds, levels) sum, over rows of the level outside the fold, of the rank a row has among the fold's."""
        order, first, last = self._in_order()
        fold, level = self.fold[order].astype(np.int64), self.level[order].astype(np.int64)
        size = np.bincount(self.fold, minlength=n_folds)
        own_rank = (first + last) / 2 - (np.cumsum(size) - size)[fold]
        own = np.bincount(fold * n_levels + level, own_rank, n_folds * n_levels).reshape(n_folds, n_levels)
        if n_folds < n_levels:
            return self._ranks(self.fold, n_folds, self.level, n_levels) - own
        # of two rows either is above the other, or half
        above = self._ranks(self.level, n_levels, self.fold, n_folds).T
        return np.outer(size, np.bincount(self.level, minlength=n_levels)) - above - own

    def _ranks(self, of: NDArray[Any], n_of: int, by: NDArray[Any], n_by: int) -> Floats:
        """(n_of, n_by) sum, over the rows of each `by`, of the rank a row has among those of each `of`."""
        out, below = np.zeros((n_of, n_by)), np.zeros(len(of) + 1, np.int32)
        for k in range(n_of):
            np.cumsum(of == k, out=below[1:])
            out[k] = np.bincount(by, below[self.first] + below[self.last], n_by) / 2
        return out

    def ties(self, n_folds: int) -> Floats:
        """(1 + folds,) sum of t^3 - t over the ties of all rows, then without each fold."""
        t = (self.last - self.first).astype(np.float64)
        order, first, last = self._in_order()
        fold, own, all_t = self.fold[order], (last - first).astype(np.float64), t[order]

        def by_fold(weights: Floats) -> Floats:
            return np.bincount(fold, weights, n_folds).astype(np.float64)

        # (t - own)^3 - (t - own), summed over ties: a row stands for 1 / t of its tie, or 1 / own
        gone = by_fold(3 * all_t**2 - 3 * all_t * own + own**2 - 1)
        return np.asarray(np.append(0, -gone) + (t**2 - 1).sum())


def _runs(ordered: NDArray[Any]) -> tuple[Ints, Ints]:
    """(n,) where the run of equal values of each entry begins, and where it ends."""
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    ends = np.append(starts[1:], len(ordered))
    return np.repeat(starts, ends - starts), np.repeat(ends, ends - starts)


def monotone(means: list[float | None]) -> bool | None:
    """Whether level means never fall or never rise; None with fewer than 2 known ones."""
    known = [m for m in means if m is not None]
    if len(known) < 2:
        return None
    steps = list(pairwise(known))
    return all(a <= b for a, b in steps) or all(a >= b for a, b in steps)
