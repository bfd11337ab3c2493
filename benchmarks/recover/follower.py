"""The floor that matters: the rules of the system this project replaces, on the rows it had, the firing ones.

After the seed's skills and experiments: a group with over half of the rows is the answer; else the five families of
largest activation-weighted share are swept by their lowest visible level against firing rows without the family, the
headline needs a share over 40 % or half of the core and a delta over 0.02, its threshold is the first |delta| over 0.1;
heatmaps with the others look for synergy, tail markers have under 30 % of the core, enrichment at the 90th percentile
(1.2, 0.8) is the last resort. Silent rows, intervals and chance are unknown to it, as they were there. Deltas are in
units of the effective maximum: the seed's raw units suit one SAE only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.recover.truth import Claim, InGroup, Structure, Term
from saeinterp_mcp.operations.slicing import Scoping, make_slice
from saeinterp_mcp.store.base import Store

MIN_FIRING = 20
N_SWEPT = 5
SINGLE_FAMILY = 0.4
HEADLINE = 0.5
NOT_A_DRIVER = 0.02
DOMINANT_GROUP = 0.5
THRESHOLD_DELTA = 0.1
ENRICHED, DEPLETED = 1.2, 0.8
TAIL_MARKER = 0.3
CORE, TAIL = (0.25, 0.75), 0.9
MIN_CELL = 5


def follow_seed_rules(store: Store, features: Sequence[int]) -> list[Claim]:
    """What the seed's rules say of each feature; it gave every conclusion the same confidence."""
    return [Claim(feature=f, structure=_structure(_Firing.of(store, f)), confidence=0.7) for f in features]


class _Firing(NamedTuple):
    """The firing rows of the explain split."""

    activation: NDArray[np.float64]
    """(n,) over the effective maximum (99.5th percentile)."""
    low: dict[str, NDArray[np.int64]]
    """Family to (n,) lowest visible level, 0 where none is."""
    high: dict[str, NDArray[np.int64]]
    """The same, highest."""
    groups: dict[str, NDArray[Any]]
    """Group, or group.attribute, to (n,) value."""

    @classmethod
    def of(cls, store: Store, feature: int) -> "_Firing | None":
        part = make_slice(store, feature, "explain", None, Scoping())
        rows, values = part.firing
        if len(rows) < MIN_FIRING:
            return None
        low, high = {}, {}
        for name, info in store.families.items():
            levels = np.array([0, *info.levels])
            high[name] = levels[store.codes(name)[rows]]
            low[name] = high[name]
        _lowest_tokens(store, part.labels("tokens").of_rows(rows), low)
        groups: dict[str, NDArray[Any]] = {}
        for g in store.manifest.groups:
            code = store.group_of_samples(g.name)[store.row_sample[rows]]
            groups[g.name] = np.array(g.values)[code]
            groups |= {f"{g.name}.{a}": np.array(column)[code] for a, column in g.attributes.items()}
        return cls(values / np.quantile(values, 0.995), low, high, groups)


def _lowest_tokens(store: Store, labels: tuple[Any, Any], low: dict[str, NDArray[np.int64]]) -> None:
    """Where a family has several tokens in a row, the first counts, which is the lowest."""
    entry, token = labels
    for name, info in store.families.items():
        if info.encoding != "cumulative" or info.of_positions:
            continue
        level_of = np.zeros(len(store.tokens), np.int64)
        for text, level in info.tokens.items():
            if text in store.token_ids:
                level_of[store.token_ids[text]] = level
        level = level_of[token]
        lowest = np.full(len(low[name]), np.iinfo(np.int64).max)
        np.minimum.at(lowest, entry[level > 0], level[level > 0])
        low[name] = np.where(lowest < np.iinfo(np.int64).max, lowest, 0)


def _structure(firing: _Firing | None) -> Structure | None:
    """The phases of the seed's investigation, as far as they have a rule."""
    if firing is None:
        return None
    if (group := _dominant_group(firing)) is not None:
        return Structure(group=group)
    shares = _family_shares(firing)
    top = sorted(shares, key=lambda name: -shares[name])[:N_SWEPT]
    sweeps = {name: sweep for name in top if (sweep := _sweep(firing, name)) is not None}
    headline = [name for name in sweeps if shares[name] > SINGLE_FAMILY or _in_core(firing, name) > HEADLINE]
    drivers = [name for name in headline or sweeps if abs(sweeps[name].delta) > NOT_A_DRIVER]
    if not drivers:
        return _by_enrichment(firing)
    first = max(drivers, key=lambda name: abs(sweeps[name].delta))
    structure = sweeps[first].structure(first)
    for other in (name for name in sweeps if name != first):
        if structure.polarity == "increases" and _synergy(firing, first, other):
            second = sweeps[other].structure(other)
            terms = tuple(sorted((*structure.terms, *second.terms), key=lambda t: t.family))
            return Structure(terms=terms, combine="and")
    return _with_tail(firing, structure)


def _by_enrichment(firing: _Firing) -> Structure | None:
    """The most enriched family, else the most depleted."""
    enriched = _enrichment(firing)
    if not enriched:
        return None
    best, worst = (pick(enriched, key=lambda name: enriched[name]) for pick in (max, min))
    for name, passes in ((best, enriched[best] > ENRICHED), (worst, enriched[worst] < DEPLETED)):
        sweep = _sweep(firing, name) if passes else None
        if sweep is not None:
            return sweep.structure(name)
    return None


def _dominant_group(firing: _Firing) -> InGroup | None:
    """A value with over half of the rows; an attribute's only where no group has one."""
    for by in sorted(firing.groups, key=lambda name: "." in name):
        values, counts = np.unique(firing.groups[by], return_counts=True)
        top = int(counts.argmax())
        if len(values) > 1 and counts[top] / counts.sum() > DOMINANT_GROUP:
            return InGroup(by=by, value=str(values[top]))
    return None


def _family_shares(firing: _Firing) -> dict[str, float]:
    """Activation-weighted counts of the families, to one: what the seed's overview ranks by."""
    mass = {name: float(firing.activation[level > 0].sum()) for name, level in firing.high.items()}
    total = sum(mass.values())
    return {name: value / total for name, value in mass.items()} if total else {}


def _enrichment(firing: _Firing) -> dict[str, float]:
    """P(family at the 90th percentile and above) over P(family where it fires); needs 1 % of the rows."""
    top = firing.activation >= np.quantile(firing.activation, 0.9)
    base = {name: float((level > 0).mean()) for name, level in firing.high.items()}
    return {
        name: float((firing.high[name][top] > 0).mean()) / b if b >= 0.01 else 1.0 for name, b in base.items()
    }


class _Sweep(NamedTuple):
    """By the lowest visible level, against firing rows without the family."""

    delta: float
    """The largest, by size."""
    threshold: int
    """The first level whose |delta| is over 0.1; the lowest where none is."""

    def structure(self, family: str) -> Structure:
        polarity: Any = "decreases" if self.delta < 0 else "increases"
        return Structure(polarity=polarity, terms=(Term(family=family, threshold=self.threshold),))


def _sweep(firing: _Firing, family: str) -> _Sweep | None:
    level = firing.low[family]
    absent = firing.activation[level == 0]
    seen = [int(v) for v in np.unique(level) if v]
    if not seen or not len(absent):
        return None
    deltas = {v: float(firing.activation[level == v].mean() - absent.mean()) for v in seen}
    passing = [v for v in seen if abs(deltas[v]) > THRESHOLD_DELTA]
    return _Sweep(max(deltas.values(), key=abs), passing[0] if passing else seen[0])


def _in_core(firing: _Firing, family: str) -> float:
    """Share of core rows with the family."""
    core = (firing.activation > CORE[0]) & (firing.activation <= CORE[1])
    return float((firing.high[family][core] > 0).mean()) if core.any() else 0.0


def _synergy(firing: _Firing, x: str, y: str) -> bool:
    """Whether the heatmap peaks where both families are, clear of the best cell with x alone."""
    a, b = firing.high[x], firing.high[y]
    cells = {}
    for i, j in set(zip(a.tolist(), b.tolist(), strict=True)):
        inside = firing.activation[(a == i) & (b == j)]
        if len(inside) >= MIN_CELL:
            cells[i, j] = float(inside.mean())
    alone = [mean for (i, j), mean in cells.items() if i and not j]
    both = [mean for (i, j), mean in cells.items() if i and j]
    return bool(alone) and bool(both) and max(both) - max(alone) > THRESHOLD_DELTA


def _with_tail(firing: _Firing, structure: Structure) -> Structure:
    """A family of under 30 % of the core that is enriched in the tail twice over is a tail marker."""
    core = (firing.activation > CORE[0]) & (firing.activation <= CORE[1])
    tail = firing.activation > TAIL
    if not core.any() or not tail.any():
        return structure
    taken = {term.family for term in structure.terms}
    found = []
    for name, level in firing.high.items():
        in_core, in_tail = float((level[core] > 0).mean()), float((level[tail] > 0).mean())
        if (
            name not in taken
            and in_core < TAIL_MARKER
            and in_tail > 2 * max(in_core, 0.001)
            and in_tail > 0.1
        ):
            found.append((in_tail / max(in_core, 0.001), name))
    if not found:
        return structure
    name = max(found)[1]
    lowest = int(firing.low[name][firing.low[name] > 0].min())
    return structure.model_copy(update={"tail": Term(family=name, threshold=lowest)})
