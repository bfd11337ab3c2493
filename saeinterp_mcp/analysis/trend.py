"""Does activation rise with the level? Spearman's rank correlation with an interval by unit."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.distributions import t_quantile

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
    distinct, rank = np.unique(value, return_inverse=True)
    rho = _rho(level_n, level, rank, len(distinct))
    occupied = np.flatnonzero(fold_level_n.sum(1) > 0)
    if len(occupied) < MIN_UNITS or not np.isfinite(rho):
        return Trend(rho, np.nan, np.nan, n)
    left_out = []
    for f in occupied:
        keep = fold != f
        left_out.append(_rho(level_n - fold_level_n[f], level[keep], rank[keep], len(distinct)))
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


def _rho(
    level_n: NDArray[np.int64], level: NDArray[np.int64], rank: NDArray[np.int64], n_distinct: int
) -> float:
    """Pearson correlation of midranks; silent rows share the lowest rank."""
    n = float(level_n.sum())
    if n < 3:
        return float("nan")
    firing_n = np.bincount(level, minlength=len(level_n))
    level_rank = np.cumsum(level_n) - (level_n - 1) / 2
    value_n = np.bincount(rank, minlength=n_distinct)
    silent = n - len(rank)
    value_rank = silent + np.cumsum(value_n) - (value_n - 1) / 2
    silent_rank, centre = (silent + 1) / 2, (n + 1) / 2
    cross = ((level_rank[level] - centre) * (value_rank[rank] - centre)).sum()
    cross += ((level_n - firing_n) * (level_rank - centre)).sum() * (silent_rank - centre)
    level_ss = (level_n * (level_rank - centre) ** 2).sum()
    value_ss = (value_n * (value_rank - centre) ** 2).sum() + silent * (silent_rank - centre) ** 2
    return float(cross / np.sqrt(level_ss * value_ss)) if level_ss > 0 and value_ss > 0 else float("nan")


def monotone(means: list[float | None]) -> bool | None:
    """Whether level means never fall or never rise; None with fewer than 2 known ones."""
    known = [m for m in means if m is not None]
    if len(known) < 2:
        return None
    steps = list(pairwise(known))
    return all(a <= b for a, b in steps) or all(a >= b for a, b in steps)
