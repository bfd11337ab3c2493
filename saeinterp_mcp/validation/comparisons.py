"""Explainers and scorers side by side: only over features (and scorers) that both of a pair have, paired by feature."""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.distributions import t_quantile
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.metrics import Selected, explanations, scores, select_rows

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
AT_ONCE = 1_024
MIN_N = 20
"""Common features that an estimate needs."""
N_RANDOM = 10_000
"""Random pairs of explanations of different features."""
CHANCE = {"simulation": 0.0, "fuzz": 0.5, "detection": 0.5, "embedding": 0.5, "surprisal": 0.5}
"""Score of an explanation that says nothing, where the row does not tell its chance band."""
Z = 1.959963984540054


class Agreement(NamedTuple):
    """Two explainers by what their explanations mean."""

    a: str
    b: str
    n: int
    """Features that both explained."""
    cosine: float | None
    low: float | None
    high: float | None
    by_chance: float | None
    """Mean cosine of their explanations of different features."""
    percentile: float | None
    """Mean over features of the percent of random pairs with a lower cosine; 50 is chance."""
    reason: str | None


class Difference(NamedTuple):
    """Two explainers by one measure, or two scorers: a minus b."""

    a: str
    b: str
    measure: str
    n: int
    """Features that both have."""
    mean_a: float | None = None
    mean_b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    correlation: float | None = None
    correlation_low: float | None = None
    correlation_high: float | None = None
    trials_a: float | None = None
    """Median number of trials of a test."""
    trials_b: float | None = None
    reason: str | None = None


class Cell(NamedTuple):
    """The tests of one explainer by one scorer and measure."""

    explainer: str
    scorer: str | None
    measure: str
    n: int
    """Tests with a score."""
    n_null: int
    """Tests without one."""
    trials: float | None
    share_failed: float | None
    """Trials that the scorer did not answer."""
    mean: float | None
    share_below_chance: float | None


def kept_scores(validation: Validation, kept: Bools, selected: Selected) -> "pl.DataFrame":
    """Selected tests of the kept features, of explanations that did not fail; those without a score too.

    One row for each feature, explainer, scorer and measure.
    """
    import polars as pl

    tests = select_rows(scores(validation), selected)
    tests = tests.filter(pl.col("status").is_null() | (pl.col("status") == "ok"))
    tests = _of_features(tests, kept)
    known = pl.col("score").fill_nan(None)
    middle = (pl.col("chance_low") + pl.col("chance_high")) / 2
    usual = pl.col("scored_by").replace_strict(CHANCE, default=None, return_dtype=pl.Float64)
    return (
        tests.with_columns(score=known, chance=pl.coalesce(middle, usual))
        .select("feature", "explainer", "scorer", "scored_by", "score", "chance", "n", "n_failed")
        .sort("feature", "explainer", "scorer", "scored_by")
    )


def _of_features(rows: "pl.DataFrame", kept: Bools) -> "pl.DataFrame":
    features = rows["feature"].to_numpy()
    there = features < len(kept)
    return rows.filter(there & kept[np.minimum(features, len(kept) - 1)])


def compare_meanings(validation: Validation, kept: Bools, selected: Selected, seed: int) -> list[Agreement]:
    """Each pair of explainers by the cosines of their explanations of the kept features."""
    import polars as pl

    vectors = validation.vectors("explanations")
    table = explanations(validation)
    if "vector" not in table.columns or vectors is None:
        return []
    own = select_rows(table, selected._replace(scorers=None))
    ok = own.filter((pl.col("status") == "ok") & pl.col("vector").is_not_null())
    ok = _of_features(ok, kept)
    ok = ok.unique(["feature", "explainer"], keep="first", maintain_order=True)
    of: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    for explainer in sorted(ok["explainer"].unique()):
        rows = ok.filter(pl.col("explainer") == explainer).sort("feature")
        of[explainer] = (
            rows["feature"].to_numpy().astype(np.int64),
            rows["vector"].to_numpy().astype(np.int64),
        )
    return [_agreement(a, b, of[a], of[b], vectors, seed) for a, b in combinations(of, 2)]


def _agreement(
    a: str,
    b: str,
    one: tuple[NDArray[np.int64], NDArray[np.int64]],
    other: tuple[NDArray[np.int64], NDArray[np.int64]],
    vectors: NDArray[np.float32],
    seed: int,
) -> Agreement:
    common, at_a, at_b = np.intersect1d(one[0], other[0], assume_unique=True, return_indices=True)
    n = len(common)
    if n < MIN_N:
        return Agreement(a, b, n, None, None, None, None, None, _too_few(n))
    first, second = one[1][at_a], other[1][at_b]
    cosines = _cosines(vectors, first, second)
    generator = rng(seed, "explainers", a, b)
    left = generator.integers(0, n, N_RANDOM)
    right = (left + 1 + generator.integers(0, n - 1, N_RANDOM)) % n
    random = np.sort(_cosines(vectors, first[left], second[right]))
    below = (np.searchsorted(random, cosines, "left") + np.searchsorted(random, cosines, "right")) / 2
    low, high = _interval(cosines)
    percentile = float(100 * below.mean() / len(random))
    return Agreement(a, b, n, float(cosines.mean()), low, high, float(random.mean()), percentile, None)


def _cosines(vectors: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats:
    """(n,) of pairs of rows, summed in double precision, a part at a time."""
    found = np.empty(len(first))
    for start in range(0, len(first), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        a, b = (np.asarray(vectors[rows[part]], np.float64) for rows in (first, second))
        found[part] = np.einsum("ij,ij->i", a, b)
    return np.round(found, 6)


def compare_explainers(tests: "pl.DataFrame") -> list[Difference]:
    """Each pair of explainers by each measure, over scorers that tested both of a feature."""
    return _differences(tests, "explainer", "scorer")


def compare_scorers(tests: "pl.DataFrame") -> list[Difference]:
    """Each pair of scorers by each measure, over explainers whose explanation of a feature both tested."""
    import polars as pl

    return _differences(tests.filter(pl.col("scorer").is_not_null()), "scorer", "explainer")


def _differences(tests: "pl.DataFrame", side: str, common: str) -> list[Difference]:
    import polars as pl

    known = tests.filter(pl.col("score").is_not_null())
    found = []
    for measure in known["scored_by"].unique().sort().to_list():
        own = known.filter(pl.col("scored_by") == measure)
        for a, b in combinations(own[side].unique().sort().to_list(), 2):
            keys = ["feature", common]
            left, right = (own.filter(pl.col(side) == one).select(*keys, "score", "n") for one in (a, b))
            both = left.join(right, on=keys, suffix="_b", nulls_equal=True)
            found.append(_difference(a, b, measure, both))
    return sorted(found, key=lambda one: (one.a, one.b, one.measure))


def _difference(a: str, b: str, measure: str, both: "pl.DataFrame") -> Difference:
    """Of tests that both have: means by feature, then over features."""
    import polars as pl

    by_feature = both.group_by("feature").agg(pl.col("score", "score_b").mean()).sort("feature")
    n = len(by_feature)
    trials = [_median(both[column].drop_nulls().to_list()) for column in ("n", "n_b")]
    if n < MIN_N:
        return Difference(a, b, measure, n, trials_a=trials[0], trials_b=trials[1], reason=_too_few(n))
    x, y = (by_feature[column].to_numpy() for column in ("score", "score_b"))
    means = float(x.mean()), float(y.mean()), float((x - y).mean())
    return Difference(a, b, measure, n, *means, *_interval(x - y), *_correlation(x, y), trials[0], trials[1])


def cells(tests: "pl.DataFrame") -> list[Cell]:
    """Every explainer, scorer and measure."""
    import polars as pl

    below = (pl.col("score") < pl.col("chance")).filter(pl.col("score").is_not_null())
    found = (
        tests.group_by("explainer", "scorer", "scored_by")
        .agg(
            n=pl.col("score").count().cast(pl.Int64),
            n_null=pl.col("score").null_count().cast(pl.Int64),
            trials=pl.col("n").median().cast(pl.Float64),
            failed=pl.col("n_failed").sum() / (pl.col("n").sum() + pl.col("n_failed").sum()),
            mean=pl.col("score").mean(),
            below=below.cast(pl.Float64).mean(),
        )
        .sort("explainer", "scorer", "scored_by")
    )
    return [Cell(*row) for row in found.iter_rows()]


def _interval(values: Floats) -> tuple[float | None, float | None]:
    """95 % of the mean, by Student's t over features."""
    n = len(values)
    reach = float(t_quantile(0.975, n - 1)) * float(values.std(ddof=1)) / float(np.sqrt(n))
    return float(values.mean()) - reach, float(values.mean()) + reach


def _correlation(x: Floats, y: Floats) -> tuple[float | None, float | None, float | None]:
    """Pearson's, with Fisher's interval; unknown where one side does not vary."""
    if not x.std() or not y.std():
        return None, None, None
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    if abs(r) > 1 - 1e-12:
        return r, None, None
    reach = Z / float(np.sqrt(len(x) - 3))
    return r, float(np.tanh(np.arctanh(r) - reach)), float(np.tanh(np.arctanh(r) + reach))


def _median(values: Sequence[int]) -> float | None:
    return float(np.median(values)) if values else None


def _too_few(n: int) -> str:
    return f"{n} common features; {MIN_N} are needed"
