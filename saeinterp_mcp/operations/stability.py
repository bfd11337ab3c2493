"""Would another half of the data say the same of a feature, and could chance alone say as much?"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from saeinterp_mcp.analysis import stability as draws_of
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.analysis.stability import NULL_QUANTILES, LabelledRows, Pattern, Shuffler
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.operations.base import (
    Feature,
    FeatureResult,
    ScopeArgument,
    Seed,
    SplitArgument,
    Where,
    Window,
    digits,
    number,
    sealed,
)
from saeinterp_mcp.operations.slicing import Labels, Scope, Scoping, Slice, make_slice
from saeinterp_mcp.store.base import Floats, Ints, Store

Method = Literal["split_half", "shuffle_null"]
DRAWS = {"split_half": 20, "shuffle_null": 200}
MIN_N = 20
"""Rows that a token needs in both halves."""
MIN_FIRING, MIN_FIRING_UNITS = 20, 10
MIN_COMPARED = 10
"""Tokens without which a correlation means nothing."""
MIN_MOVABLE = 0.5
MAX_FIRING: dict[Scope, int] = {"at": 20_000, "before": 5_000, "sample": 1_000}
"""Firing rows above which only some units are shuffled; a draw costs all of them, for each label in scope."""


class NullSummary(BaseModel):
    """The statistic in shuffled data."""

    model_config = ConfigDict(extra="forbid")
    n: int
    mean: float | None
    q05: float | None
    median: float | None
    q95: float | None
    max: float | None


class Outstanding(BaseModel):
    """What stands out most from shuffled data."""

    model_config = ConfigDict(extra="forbid")
    of: str
    """tokens, family:NAME or a group."""
    label: str
    z: float
    by: Literal["rate", "strength"]


class Stability(FeatureResult):
    """A statistic of a feature beside its values in shuffled data. Null values have their reason."""

    method: str
    scope: str | None
    draws: int
    n: int
    n_units: int
    n_firing: int
    statistic: float | None
    """split_half: mean correlation of the tokens' log-odds between halves; shuffle_null: the largest |z|."""
    low: float | None
    """split_half: 2.5 % of the draws."""
    high: float | None
    n_compared: int | None
    """Tokens in the correlation (median over draws), or labels among which the largest z was looked for."""
    strongest: Outstanding | None
    null: NullSummary | None
    p: float | None
    """(1 + shuffles whose statistic is at least as large) / (1 + shuffles)."""
    reason: str | None


def stability(
    store: Store,
    feature: Feature,
    method: Annotated[Method, Field(description="Which test")] = "split_half",
    draws: Annotated[int | None, Field(ge=19, le=5000, description="Default 20 or 200")] = None,
    where: Where = None,
    scope: ScopeArgument = "at",
    window: Window = 16,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> Stability:
    """Are a feature's effects stable, and beyond chance?

    split_half correlates token effects of random halves of the units; shuffle_null sets the largest effect beside those
    of shuffled units.
    """
    store.need_full_coverage("stability")
    part = make_slice(store, feature, split, where, Scoping(scope, window))
    if method == "shuffle_null":
        part = _thinned(part, seed)
    n = draws or DRAWS[method]
    found = _Drawn(part, n, seed).found(method)
    result = Stability(
        operation="stability",
        store=store.name,
        basis="observed",
        summary=_summary(method, found),
        warnings=part.warnings,
        seed=seed,
        split=split,
        where=where,
        feature=feature,
        method=method,
        scope=scope if store.is_sequence else None,
        draws=n,
        n=part.n_rows,
        n_units=part.n_units,
        n_firing=len(part.firing[0]),
        **found,
    )
    arguments: dict[str, Any] = {
        "feature": feature,
        "method": method,
        "draws": draws,
        "where": where,
        "scope": scope,
        "window": window,
        "split": split,
        "seed": seed,
    }
    return sealed(result, store, arguments)


def _thinned(part: Slice, seed: int) -> Slice:
    """A random choice of the units, where the feature fires too often to be drawn again and again."""
    n_firing, most = len(part.firing[0]), MAX_FIRING[part.scoping.scope]
    if n_firing <= most:
        return part
    units = np.flatnonzero(part.unit_rows)
    chosen = rng(seed, "thinned", part.feature).permutation(units)[: max(1, len(units) * most // n_firing)]
    keep = np.zeros(len(part.unit_rows), bool)
    keep[chosen] = True
    mask = keep[part.store.row_unit[: part.store.n_rows(part.split)]]
    note = (
        f"drawn from {len(chosen)} of {len(units)} units, at random by the seed: it fires on {n_firing} rows"
    )
    mask = mask if part.mask is None else mask & part.mask
    return Slice(part.store, part.feature, part.split, part.scoping, mask, [*part.warnings, note])


NOTHING: dict[str, Any] = {
    "statistic": None, "low": None, "high": None, "n_compared": None, "strongest": None, "null": None, "p": None,
    "reason": None,
}  # fmt: skip


class _Drawn:
    """The draws of one slice."""

    def __init__(self, part: Slice, n: int, seed: int) -> None:
        self.part, self.n, self.seed = part, n, seed
        self.rows, values = part.firing
        self.inside = None if part.mask is None else np.flatnonzero(part.mask)
        self.at = self.rows if self.inside is None else np.searchsorted(self.inside, self.rows)
        size = np.asarray(part.unit_rows, np.int64)
        unit = part.store.row_unit[self.rows].astype(np.int64)
        first = np.cumsum(size) - size
        self.pattern = Pattern(size, unit, self.at - first[unit], values)

    def found(self, method: Method) -> dict[str, Any]:
        """The fields of the result that the draws give."""
        if reason := self._too_little():
            return {**NOTHING, "reason": reason}
        generator = rng(self.seed, "stability", method, self.part.feature)
        return self._halves(generator) if method == "split_half" else self._shuffles(generator)

    def _too_little(self) -> str | None:
        n, n_units = len(self.rows), len(np.unique(self.pattern.unit))
        if n < MIN_FIRING or n_units < MIN_FIRING_UNITS:
            return f"{n} firing rows of {n_units} units; {MIN_FIRING} of {MIN_FIRING_UNITS} needed"
        share = Shuffler(self.pattern).share_movable
        if share < MIN_MOVABLE:
            return (
                f"only {digits(100 * share)} % of the firing rows lie in units that have others of like size"
            )
        return None

    def _labelled(self, labels: Labels) -> draws_of.LabelsOf:
        """Labels by row of the slice."""

        def labels_of(rows: Ints) -> LabelledRows:
            return LabelledRows(*labels.of_rows(rows if self.inside is None else self.inside[rows]))

        return labels_of

    def _halves(self, generator: np.random.Generator) -> dict[str, Any]:
        from scipy import sparse  # slow to import

        labels = self.part.labels("tokens")
        counts, n_units = labels.counts, len(self.pattern.size)
        pairs = int(counts.indptr[-1])
        columns = (
            counts.pair_n[:pairs].astype(np.float64),
            counts.labels[:pairs].astype(np.int64),
            counts.indptr,
        )
        matrix = sparse.csr_array(columns, shape=(n_units, len(labels.names)))
        of_rows = self._labelled(labels)
        halves = draws_of.split_half(self.pattern, self.at, matrix, of_rows, MIN_N, self.n, generator)
        n_compared = int(np.median(halves.n_compared))
        known = halves.observed[~np.isnan(halves.observed)]
        shuffled = halves.shuffled[~np.isnan(halves.shuffled)]
        if n_compared < MIN_COMPARED or len(known) < self.n or len(shuffled) < self.n:
            reason = f"{n_compared} tokens have {MIN_N} rows in both halves; {MIN_COMPARED} needed"
            return {**NOTHING, "n_compared": n_compared, "reason": reason}
        statistic = float(known.mean())
        low, high = np.quantile(known, [0.025, 0.975])
        return {
            **NOTHING,
            "statistic": statistic,
            "low": float(low),
            "high": float(high),
            "n_compared": n_compared,
            "null": _null_summary(shuffled),
            "p": draws_of.p_of(statistic, shuffled),
        }

    def _shuffles(self, generator: np.random.Generator) -> dict[str, Any]:
        names = _label_sets(self.part.store)
        sets = [self.part.labels(name) for name in names]
        looked_up = [(len(labels.names), self._labelled(labels)) for labels in sets]
        null, strongest = draws_of.shuffle_null(self.pattern, self.at, looked_up, self.n, generator)
        kind, _, rest = names[strongest.label_set].partition(".")
        outstanding = Outstanding(
            of={"family": f"family:{rest}", "group": rest}.get(kind, kind),
            label=visible_token(str(sets[strongest.label_set].names[strongest.label])),
            z=strongest.z,
            by="rate" if strongest.by_rate else "strength",
        )
        return {
            **NOTHING,
            "statistic": null.observed,
            "n_compared": sum(k for k, _ in looked_up),
            "strongest": outstanding,
            "null": _null_summary(null.drawn),
            "p": null.p,
        }


def _label_sets(store: Store) -> list[str]:
    """Everything that rows are labelled with."""
    groups = [f"group.{g.name}" for g in store.manifest.groups]
    attributes = [f"group.{g.name}.{a}" for g in store.manifest.groups for a in g.attributes]
    return ["tokens", *(f"family.{name}" for name in store.families), *groups, *attributes]


def _null_summary(drawn: Floats) -> NullSummary:
    q05, median, q95 = (number(q) for q in np.quantile(drawn, NULL_QUANTILES))
    ends = {"mean": number(drawn.mean()), "max": number(drawn.max())}
    return NullSummary(n=len(drawn), q05=q05, median=median, q95=q95, **ends)


def _summary(method: Method, found: dict[str, Any]) -> str:
    if found["statistic"] is None:
        return f"Too little data for {method} ({found['reason']})."
    null, value = found["null"], digits(found["statistic"])
    beside = f"median {digits(null.median)} and 95 % {digits(null.q95)} in shuffled data, p {digits(found['p'], 2)}"
    if method == "split_half":
        return (
            f"Token effects of two random halves of the units correlate {value} on average "
            f"[{digits(found['low'])}, {digits(found['high'])} over draws] ({beside}; {found['n_compared']} tokens)."
        )
    strongest = found["strongest"]
    return f"The largest effect ({strongest.of}, by {strongest.by}) has |z| {value} ({beside})."
