"""What is this feature, at a glance?"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from saeinterp_mcp.analysis.effects import MIN_N, Effects
from saeinterp_mcp.analysis.firing import histogram_bin, histogram_edges, region_of
from saeinterp_mcp.analysis.intervals import Arm, mean_interval, rate_interval
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.operations.base import (
    Feature,
    FeatureResult,
    ScopeArgument,
    Seed,
    SplitArgument,
    Table,
    Where,
    Window,
    digits,
    number,
    percent,
    sealed,
    table_rows,
)
from saeinterp_mcp.operations.effects import effects_of, outstanding_tokens, presence_effects
from saeinterp_mcp.operations.feature_examples import _pick as pick_rows
from saeinterp_mcp.operations.feature_examples import example_table
from saeinterp_mcp.operations.features_search import below_floor, importance_percentile
from saeinterp_mcp.operations.labelled import labelled
from saeinterp_mcp.operations.published_figures import Published, published_of
from saeinterp_mcp.operations.slicing import Labels, Scoping, Slice, make_slice
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import QUANTILES, REGIONS
from saeinterp_mcp.store.manifest import Split


class Firing(BaseModel):
    """How often and how strongly the feature fires in the slice; silent rows count in n, firing_rate and mean."""

    model_config = ConfigDict(extra="forbid")
    n: int
    n_units: int
    n_firing: int
    n_firing_units: int
    firing_rate: float | None
    rate_low: float | None
    rate_high: float | None
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    mean_when_firing: float | None
    std_when_firing: float | None
    median_when_firing: float | None
    max: float | None
    effective_max: float | None
    """99.5th percentile of activations in the explain split; null under 20 firings."""
    quantiles: dict[str, float | None]
    """Of the activations where it fires."""


class Histogram(BaseModel):
    """Activations where the feature fires, in bins of half an octave."""

    model_config = ConfigDict(extra="forbid")
    edges: list[float]
    counts: list[int]


class DecoderSummary(BaseModel):
    """What the decoder direction does to the model's output."""

    model_config = ConfigDict(extra="forbid")
    promoted: list[str]
    suppressed: list[str]
    effect_norm: float | None
    effect_percentile: float | None


class FeatureOverview(FeatureResult):
    """A feature at a glance."""

    label: str | None = None
    flagged: bool
    """Under the store's search floor: too rare or too weak to trust."""
    importance_percentile: float | None
    firing: Firing
    histogram: Histogram
    regions: Table
    enhancers: Table
    suppressors: Table
    families: Table
    groups: Table
    positions: Table
    """Sequence stores: by position in the sample."""
    decoder: DecoderSummary | None
    neighbours: Table
    examples: Table
    labels: list[dict[str, Any]] = []
    published: Annotated[list[Published] | None, Field(exclude_if=lambda found: found is None)] = None
    """Only where an import brought it: somebody else's figures, which are no part of the evidence."""


EFFECT_COLUMNS = ["n", "n_firing", "firing_rate", "rate_low", "rate_high", "rate_ratio", "effect", "q"]
POSITION_COLUMNS = ["first", "last", "n", "n_firing", "firing_rate", "mean"]
POSITION_MATTERS = 0.1


def feature_overview(
    store: Store,
    feature: Feature,
    detail: Annotated[
        Literal["concise", "detailed"], Field(description="How long the lists are")
    ] = "concise",
    where: Where = None,
    scope: ScopeArgument = "at",
    window: Window = 16,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> FeatureOverview:
    """One feature at a glance: firing, regions, tokens that go with and against it, families, groups, decoder,
    neighbours, examples. Gives hypotheses, not findings: test them by sweeps.
    """
    short = detail == "concise"
    part = make_slice(store, feature, split, where, Scoping(scope, window))
    firing = _firing(part)
    rows, values = part.firing
    warnings = list(part.warnings)
    full = store.manifest.coverage == "full"
    if not full:
        warnings.append(
            "this store is sampled: it holds chosen examples only, so rates, means and effects are left out, and what "
            "is said of activations when firing, of regions and quantiles is of these examples alone"
        )
    flagged = full and bool(below_floor(store, feature)[0])
    if flagged:
        warnings.append("flagged: this feature fires too rarely or too weakly to be trusted")
    if not len(rows):
        warnings.append(
            "the feature never fires in this slice"
            if full
            else "no activation of the feature is stored in this slice"
        )
    maximum = float(store.per_feature("stats/effective_max", feature))
    enhancers, suppressors = (
        _tokens(part, 6 if short else 20, 4 if short else 20) if full else (_empty("token"), _empty("token"))
    )
    positions, explained = _positions(part) if full else (Table(columns=POSITION_COLUMNS, rows=[]), 0.0)
    if explained >= POSITION_MATTERS:
        warnings.append(
            f"position in the sample explains {percent(explained)} of the activation's variance (positions): "
            "tokens and families may go with the feature only because of where they stand"
        )
    example_rows, activations = pick_rows(part, "spread", seed)
    chosen = np.linspace(0, len(example_rows) - 1, min(len(example_rows), 4 if short else 12)).astype(
        np.int64
    )
    columns, examples = example_table(
        store, example_rows[chosen], activations[chosen], *((10, 4) if short else (24, 10))
    )
    result = FeatureOverview(
        operation="feature_overview",
        store=store.name,
        basis="observed",
        summary=_summary(feature, firing, enhancers, store),
        warnings=[*warnings, "q is corrected within each table, not across features or tables"],
        seed=seed,
        split=split,
        where=where,
        feature=feature,
        flagged=flagged,
        importance_percentile=importance_percentile(store, feature),
        firing=firing,
        histogram=_histogram(values),
        regions=_regions(part, maximum),
        enhancers=enhancers,
        suppressors=suppressors,
        families=_families(part, 6 if short else 100) if full else _empty("family"),
        groups=_groups(part, 4 if short else 12) if full else _empty("group"),
        positions=positions,
        decoder=_decoder(store, feature, 6 if short else 15),
        neighbours=_neighbours(
            store, feature, 3 if short else 8, ("coactivation", "decoder") if full else ("decoder",)
        ),
        examples=Table(columns=columns, rows=examples),
    )
    arguments = {
        "feature": feature,
        "detail": detail,
        "where": where,
        "scope": scope,
        "window": window,
        "split": split,
        "seed": seed,
    }
    answer = labelled(sealed(result, store, arguments), store)
    found, told = published_of(store, feature)
    answer.published = found or None
    answer.warnings.extend(told)
    return answer


def _firing(part: Slice) -> Firing:
    rows, values = part.firing
    s, c = float(values.sum()), float(len(rows))
    units, index = part.firing_units.units, part.firing_units.index
    unit_s, unit_c, unit_n = (
        np.bincount(index, values),
        np.bincount(index),
        part.unit_rows[units].astype(np.float64),
    )
    everything = {
        "n": float(part.n_rows),
        "n_units": float(part.n_units),
        "n_firing_units": float(len(units)),
    }
    nn = float((part.unit_rows.astype(np.float64) ** 2).sum())

    def arm(total: float, by_unit: Any) -> Arm:
        sums = {**everything, "s": total, "ss": (by_unit**2).sum(), "sn": (by_unit * unit_n).sum(), "nn": nn}
        return Arm(**{name: np.array([value], np.float64) for name, value in sums.items()})

    with np.errstate(invalid="ignore", divide="ignore"):
        ci = mean_interval(arm(s, unit_s), np.array([part.largest]))
        rate = rate_interval(arm(c, unit_c.astype(np.float64)))
    full = part.store.manifest.coverage == "full" and part.n_rows > 0
    quantiles = np.quantile(values, QUANTILES) if len(rows) else np.full(len(QUANTILES), np.nan)
    return Firing(
        n=part.n_rows,
        n_units=part.n_units,
        n_firing=len(rows),
        n_firing_units=len(units),
        firing_rate=c / part.n_rows if full else None,
        rate_low=number(rate[0][0]) if full else None,
        rate_high=number(rate[1][0]) if full else None,
        mean=s / part.n_rows if full else None,
        ci_low=number(ci[0][0]) if full else None,
        ci_high=number(ci[1][0]) if full else None,
        mean_when_firing=s / c if len(rows) else None,
        std_when_firing=float(values.std(ddof=1)) if len(rows) > 1 else None,
        median_when_firing=float(np.median(values)) if len(rows) else None,
        max=float(values.max()) if len(rows) else None,
        effective_max=number(part.store.per_feature("stats/effective_max", part.feature)),
        quantiles={f"{q:g}": number(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
    )


def _histogram(values: Any) -> Histogram:
    if not len(values):
        return Histogram(edges=[], counts=[])
    bins = histogram_bin(values) // 4
    first, last = int(bins.min()), int(bins.max())
    counts = np.bincount(bins - first, minlength=last - first + 1)
    edges = histogram_edges()[::4][first : last + 2]
    return Histogram(edges=[float(e) for e in edges], counts=[int(c) for c in counts])


def _regions(part: Slice, maximum: float) -> Table:
    rows, values = part.firing
    counts, means = np.zeros(len(REGIONS), np.int64), np.full(len(REGIONS), np.nan)
    if np.isfinite(maximum):
        region = region_of(values, maximum)
        counts = np.bincount(region, minlength=len(REGIONS))
        np.divide(np.bincount(region, values, len(REGIONS)), counts, out=means, where=counts > 0)
    total = max(len(rows), 1)
    shares = counts / total if np.isfinite(maximum) else np.full(len(REGIONS), np.nan)
    return Table(columns=["region", "n", "share", "mean"], rows=table_rows(REGIONS, counts, shares, means))


def _empty(first: str) -> Table:
    return Table(columns=[first, *EFFECT_COLUMNS], rows=[])


def _effect_rows(names: list[Any], effects: Effects) -> list[list[Any]]:
    return table_rows(names, *(getattr(effects, column) for column in EFFECT_COLUMNS))


def _tokens(part: Slice, n_up: int, n_down: int) -> tuple[Table, Table]:
    """Tokens that go with the feature and against it."""
    tables = []
    for tokens, effects in outstanding_tokens(part, n_up, n_down):
        names = [visible_token(part.store.tokens[k]) for k in tokens]
        tables.append(Table(columns=["token", *EFFECT_COLUMNS], rows=_effect_rows(names, effects)))
    return tables[0], tables[1]


def _families(part: Slice, limit: int) -> Table:
    """Any level of each family against none, the surest effects; q is over all families."""
    names = list(part.store.families)
    if not names:
        return _empty("family")
    effects = presence_effects(part, names, MIN_N)
    pick = effects.ranked()[:limit]
    rows = _effect_rows([names[k] for k in pick], effects.only(pick))
    return Table(columns=["family", *EFFECT_COLUMNS], rows=rows)


def _groups(part: Slice, limit: int) -> Table:
    """Values of the primary group that differ most surely from the rest."""
    primary = next((g for g in part.store.manifest.groups if g.primary), None)
    if primary is None:
        return Table(columns=["group", "value", *EFFECT_COLUMNS], rows=[])
    labels = Labels(part, f"group.{primary.name}")
    effects = effects_of(labels, MIN_N)
    pick = effects.ranked()[:limit]
    names = [visible_token(labels.names[k]) for k in pick]
    rows = [[primary.name, *row] for row in _effect_rows(names, effects.only(pick))]
    return Table(columns=["group", "value", *EFFECT_COLUMNS], rows=rows)


def _positions(part: Slice) -> tuple[Table, float]:
    """Firing by position, in bins that double, and the share of the activation's variance between the bins."""
    store = part.store
    if not store.is_sequence or not part.n_rows:
        return Table(columns=POSITION_COLUMNS, rows=[]), 0.0
    rows, values = part.firing
    if part.mask is None:
        n = _rows_by_position(store, part.split)
    else:
        n = np.bincount(_position_bin(store.row_position[: len(part.mask)][part.mask]))
    k = len(n)
    bins = _position_bin(store.row_position[rows])
    fires, sums = np.bincount(bins, minlength=k), np.bincount(bins, values, k)
    mean = sums / np.maximum(n, 1)
    overall = values.sum() / part.n_rows
    total = (values**2).sum() - part.n_rows * overall**2
    between = (n * (mean - overall) ** 2).sum()
    lowest = int(store.row_position[:].min())
    first = np.maximum(np.where(np.arange(k) == 0, 0, 2 ** np.arange(k)), lowest)
    last = np.minimum(2 ** (np.arange(k) + 1) - 1, int(store.row_position[:].max()))
    shown = np.flatnonzero(n >= 20)
    columns = (first, last, n, fires, fires / np.maximum(n, 1), mean)
    return (
        Table(columns=POSITION_COLUMNS, rows=table_rows(*(column[shown] for column in columns))),
        float(between / total) if total > 0 else 0.0,
    )


def _position_bin(position: Any) -> Any:
    """0 for positions 0 and 1, then one for each doubling."""
    return np.floor(np.log2(np.maximum(position.astype(np.float64), 1))).astype(np.int64)


@lru_cache(maxsize=16)
def _rows_by_position(store: Store, split: Split) -> Any:
    return np.bincount(_position_bin(store.row_position[: store.n_rows(split)]))


def _decoder(store: Store, feature: int, limit: int) -> DecoderSummary | None:
    if not store.backend.has("outputs/norm"):
        return None
    norm = store.backend.column("outputs/norm")
    lists = {
        side: [
            visible_token(store.output_tokens[t])
            for t in store.list_of_feature(f"outputs/{side}/tokens", feature)[:limit]
        ]
        for side in ("promoted", "suppressed")
    }
    return DecoderSummary(
        effect_norm=number(norm[feature]),
        effect_percentile=number(100 * float((norm < norm[feature]).mean())),
        **lists,
    )


def _neighbours(store: Store, feature: int, limit: int, measures: Sequence[str]) -> Table:
    rows = []
    for by in measures:
        if store.backend.has(f"neighbours/{by}/features"):
            others = store.list_of_feature(f"neighbours/{by}/features", feature)[:limit]
            scores = store.list_of_feature(f"neighbours/{by}/scores", feature)[:limit]
            rows += [[by, int(f), float(s), None] for f, s in zip(others, scores, strict=True)]
    return Table(columns=["by", "feature", "score", "label"], rows=rows)


def _summary(feature: int, firing: Firing, enhancers: Table, store: Store) -> str:
    where = "positions" if store.is_sequence else "samples"
    if not firing.n_firing and store.manifest.coverage == "full":
        return f"Feature {feature} fires on none of {firing.n} {where}."
    if store.manifest.coverage != "full":
        return (
            f"{firing.n_firing} activations of feature {feature} are stored here, chosen ones in "
            f"{firing.n_firing_units} units, the strongest {digits(firing.max)}; how often it fires cannot be known "
            "from them."
        )
    # counted and not quoted: corpus text stays in fields named token and text
    goes = " Tokens that go with it: see enhancers." if enhancers.rows else " No token stands out."
    return (
        f"Feature {feature} fires on {firing.n_firing} of {firing.n} {where} ({percent(firing.firing_rate)} "
        f"[{percent(firing.rate_low)}, {percent(firing.rate_high)}], "
        f"{firing.n_firing_units} of {firing.n_units} units), "
        f"with mean {digits(firing.mean_when_firing)} and maximum {digits(firing.max)} when it fires.{goes}"
    )
