"""What operations answer about a feature, beside what the generator expects: one row of each answer, drawn blindly.

A row is chosen by a seed before the answer is seen. Half of the time the question is about what drives the feature,
half of the time about any family, group or token. Everything is asked of the split `explain`.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from benchmarks.recover.detection import rows_of
from benchmarks.recover.expected import Expected
from benchmarks.recover.rows import Floats
from benchmarks.recover.truth import InGroup, Stratum, Structure, Term
from saeinterp_mcp.analysis import intervals
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.operations.effects import effects_of
from saeinterp_mcp.operations.family_heatmap import family_heatmap
from saeinterp_mcp.operations.family_sweep import FamilySweep, family_sweep
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.slicing import make_slice
from saeinterp_mcp.operations.test_rule import test_rule as score_rule
from saeinterp_mcp.operations.token_influence import token_influence
from saeinterp_mcp.operations.token_interactions import token_interactions
from saeinterp_mcp.store.base import Store

Estimator = Literal[
    "mean",
    "firing rate",
    "sweep effect",
    "rate difference",
    "rate ratio",
    "heatmap interaction",
    "group effect",
    "token effect",
    "stratified effect",
    "stratified effect, population weights",
    "pair interaction",
    "pair rate interaction",
    "balanced accuracy",
    "recall",
    "precision",
]
STRATIFIED: tuple[Estimator, Estimator] = ("stratified effect", "stratified effect, population weights")
"""Its interval holds the weights of the strata fixed, so it is of the first; the second lets them vary, too."""
GROUPS = ("g", "g.a1", "g.a2", "h")
MIN_UNITS = 30
N_HEATMAPS, N_PAIRS, N_VALUES = 3, 2, 2
"""Rows asked for of each feature where many have no interval: in interactions all four cells must fire."""
MIN_FIRING = 10
TYPICAL = 20
"""Rows expected to fire from which an interval is hardly ever held back."""


class Reading(Frozen):
    """One estimate beside its expectation."""

    estimator: Estimator
    feature: int
    stratum: Stratum
    estimate: float
    low: float | None
    high: float | None
    expected: float
    n_units: int
    n_firing: int
    """Rows of the label that fire."""
    expected_firing: float
    """Rows of the label that should."""

    @property
    def counts(self) -> bool:
        """Whether the issue's bounds are met: 30 units and 10 firing units (else there is no interval), and rows."""
        return self.low is not None and self.n_units >= MIN_UNITS and self.n_firing >= MIN_FIRING


class Asked:
    """A feature of a drawn world."""

    def __init__(
        self, store: Store, expected: Expected, feature: int, generator: np.random.Generator
    ) -> None:
        self.store, self.expected, self.feature, self.generator = store, expected, feature, generator
        law = expected.law.features[feature]
        self.stratum, self.structure = law.stratum, law.structure
        self.families = [f.name for f in expected.rows.schema.families]

    def readings(self) -> Iterator[Reading]:
        """One row of every estimator that has one."""
        sources: tuple[Callable[[], Iterator[Reading]], ...] = (
            self._sweep,
            self._rate_difference,
            *N_HEATMAPS * (self._heatmap,),
            *N_PAIRS * (self._terms_together,),
            *N_VALUES * (self._group, self._token),
            self._rule,
        )
        for source in sources:
            yield from source()

    def _pick(self, options: Any) -> Any:
        return options[int(self.generator.integers(len(options)))]

    def _family(self) -> str:
        """One that matters, or any."""
        mine = [t.family for t in self._terms()]
        return str(self._pick(mine if mine and self.generator.random() < 0.5 else self.families))

    def _terms(self) -> tuple[Term, ...]:
        if self.structure is None:
            return ()
        tail = self.structure.tail
        return (*self.structure.terms, *([tail] if tail else []))

    def _reading(
        self, estimator: Estimator, row: dict[str, Any], names: str, expected: float, **more: Any
    ) -> Reading:
        """From a table's row; `names`: its columns of estimate, low and high."""
        estimate, low, high = (row.get(name) for name in names.split())
        rate = more.pop("rate", None)
        return Reading(
            estimator=estimator,
            feature=self.feature,
            stratum=self.stratum,
            estimate=estimate,
            low=low,
            high=high,
            expected=expected,
            n_units=row["n_units"],
            n_firing=row["n_firing"],
            expected_firing=row["n"] * rate if rate is not None else row["n_firing"],
        )

    def _sweep(self) -> Iterator[Reading]:
        family = self._family()
        found = family_sweep(self.store, self.feature, family)
        cells, base = self.expected.levels(self.feature, family), found.baseline
        if base.mean is not None and self.generator.random() < 0.3:
            rate = cells.rate[0]
            yield self._reading("mean", base.model_dump(), "mean ci_low ci_high", cells.mean[0], rate=rate)
        row = self._pick(rows_of(found))
        k = self._code(family, row["level"])
        if row["mean"] is not None:
            yield self._reading("mean", row, "mean ci_low ci_high", cells.mean[k], rate=cells.rate[k])
        if row["ci_low"] is not None:  # 10 firing units, which a rate's interval does not need
            names = "firing_rate rate_low rate_high"
            yield self._reading("firing rate", row, names, cells.rate[k], rate=cells.rate[k])
        if row["effect"] is not None:
            effect = float(cells.mean[k] - cells.mean[0])
            names = "effect effect_low effect_high"
            yield self._reading("sweep effect", row, names, effect, rate=cells.rate[k])
        if row["effect"] is not None and min(row["n_firing"], base.n_firing) >= MIN_FIRING:
            row["log_ratio"] = float(np.log(row["rate_ratio"]))
            wanted = float(np.log(cells.rate[k] / cells.rate[0]))
            yield self._reading("rate ratio", row, "log_ratio none none", wanted, rate=cells.rate[k])
        yield from self._stratified(family, found)

    def _stratified(self, family: str, found: FamilySweep) -> Iterator[Reading]:
        if found.stratified_effect is None or found.stratified_effect.value is None:
            return
        row: dict[str, Any] = {
            name: sum(level[name] for level in rows_of(found)) for name in ("n", "n_units", "n_firing")
        }
        row |= found.stratified_effect.model_dump()
        cells = self.expected.levels(self.feature, family)
        rate = cells.joined(np.arange(len(cells.n)) > 0)[1]
        for estimator, n in zip(STRATIFIED, (self._rows_of_strata(family), None), strict=True):
            wanted = self.expected.stratified_effect(self.feature, family, "g", n)
            yield self._reading(estimator, row, "value low high", wanted, rate=rate)

    def _rows_of_strata(self, family: str) -> tuple[Floats, Floats]:
        """(values of g,) rows of the split without and with a level, in the law's order of values."""
        n, store = self.store.n_rows("explain"), self.store
        value = store.group_of_samples("g")[store.row_sample[:n]]
        present = store.codes(family)[:n] > 0
        known = store.group("g").values
        order = [
            known.index(name) if name in known else -1 for name in self.expected.rows.schema.group("g").values
        ]
        absent_n, present_n = (
            np.append(np.bincount(value[side], minlength=len(known)), 0)[order].astype(np.float64)
            for side in (~present, present)
        )
        return absent_n, present_n

    def _code(self, family: str, level: int) -> int:
        schema = self.expected.rows.schema
        return 1 + schema.families[schema.index(family)].levels.index(level)

    def _rate_difference(self) -> Iterator[Reading]:
        """No table shows its interval, so it is taken from the sums behind a sweep (`intervals.rate_difference`)."""
        family = self._family()
        effects = effects_of(
            make_slice(self.store, self.feature, "explain", None).labels(f"family.{family}"), 20
        )
        cells = self.expected.levels(self.feature, family)
        levels = self.store.family(family).levels
        k = 1 + int(self.generator.integers(len(levels)))
        if not effects.compared[k] or np.isnan(effects.effect_low[k]):
            return
        firing = effects.firing
        with np.errstate(invalid="ignore", divide="ignore"):
            value, low, high, _ = intervals.rate_difference(firing.label, firing.reference, firing.cross)
        code = self._code(family, levels[k - 1])
        row: dict[str, Any] = {name: int(getattr(effects, name)[k]) for name in ("n", "n_units", "n_firing")}
        row |= {"value": float(value[k]), "low": float(low[k]), "high": float(high[k])}
        wanted = float(cells.rate[code] - cells.rate[0])
        yield self._reading("rate difference", row, "value low high", wanted, rate=cells.rate[code])

    def _pair(self) -> tuple[str, str]:
        """The families of a rule of two, or any two; of two with few cells more often."""
        mine = sorted({t.family for t in self._terms()})
        if len(mine) == 2 and self.generator.random() < 0.7:
            return mine[0], mine[1]
        first = mine[0] if mine and self.generator.random() < 0.5 else str(self._pick(self.families))
        return first, str(self._pick([f for f in self.families if f != first]))

    def _heatmap(self) -> Iterator[Reading]:
        x, y = self._pair()
        found = family_heatmap(self.store, self.feature, x, y)
        inner = [row for row in rows_of(found) if row["x"] and row["y"] and row["n_units"] >= MIN_UNITS]
        if not inner:
            return
        row = self._pick(inner)
        if row["interaction"] is None:
            return
        mean, _ = self.expected.grid(self.feature, x, y)
        i, j = self._code(x, row["x"]), self._code(y, row["y"])
        wanted = float(mean[i, j] - mean[i, 0] - mean[0, j] + mean[0, 0])
        yield self._reading(
            "heatmap interaction", row, "interaction interaction_low interaction_high", wanted
        )

    def _terms_together(self) -> Iterator[Reading]:
        """The planted terms, or a term of each of two families."""
        a, b = (self._term_of(name) for name in self._pair())
        if self.structure and self.structure.combine != "one" and self.generator.random() < 0.5:
            a, b = self.structure.terms
        items = [f"{term.family}>={term.threshold}" for term in (a, b)]
        found = token_interactions(self.store, self.feature, families=items)
        if not found.rows:
            return
        row = rows_of(found)[0]
        cells = {"11": f"{a.rule} and {b.rule}", "10": f"{a.rule} and not {b.rule}"}
        cells |= {"01": f"{b.rule} and not {a.rule}", "00": f"not {a.rule} and not {b.rule}"}
        least = min(cells, key=lambda cell: int(row[f"n_{cell}"]))
        row["n"], row["n_firing"] = row["n_11"], found.n_firing
        row["n_units"] = make_slice(self.store, self.feature, "explain", cells[least]).n_units
        for name, wanted in zip(("", "rate_"), self.expected.interaction(self.feature, a, b), strict=True):
            names = f"{name}interaction {name}interaction_low {name}interaction_high"
            if row[f"{name}interaction"] is not None and row["interaction_low"] is not None:
                estimator: Estimator = "pair rate interaction" if name else "pair interaction"
                yield self._reading(estimator, row, names, wanted)

    def _term_of(self, family: str) -> Term:
        schema = self.expected.rows.schema
        levels = schema.families[schema.index(family)].levels
        return Term(family=family, threshold=int(self._pick(levels)))

    def _group(self) -> Iterator[Reading]:
        by = str(self._pick(GROUPS))
        if (
            self.structure
            and (where := self.structure.group or self.structure.gate)
            and self.generator.random() < 0.5
        ):
            by = where.by
        found = group_sweep(self.store, self.feature, by, limit=200)
        row = self._pick(rows_of(found))
        if row["effect"] is not None:
            wanted = self.expected.value_effect(self.feature, InGroup(by=by, value=str(row["value"])))
            yield self._reading("group effect", row, "effect effect_low effect_high", wanted)

    def _token(self) -> Iterator[Reading]:
        found = token_influence(self.store, self.feature, limit=200)
        row = self._pick(rows_of(found))
        if row["effect"] is not None and row["token"] != "t_bos":
            wanted = self.expected.token_effect(self.feature, str(row["token"]))
            yield self._reading("token effect", row, "effect effect_low effect_high", wanted)

    def _rule(self) -> Iterator[Reading]:
        """The planted rule, or any term."""
        rule = self.structure
        if rule is None or self.generator.random() < 0.4:
            rule = Structure(terms=(self._term_of(str(self._pick(self.families))),))
        found = score_rule(self.store, self.feature, rule.rule, split="explain", limit=0)
        predicted = self.expected.rows.holds(rule)
        if rule.polarity == "decreases":
            predicted = ~predicted
        recall, precision, accuracy = self.expected.of_rule(self.feature, predicted)
        row = found.model_dump()
        for name, names, wanted in (
            ("balanced accuracy", "balanced_accuracy low high", accuracy),
            ("recall", "recall recall_low recall_high", recall),
            ("precision", "precision precision_low precision_high", precision),
        ):
            if row[names.split()[0]] is not None:
                yield self._reading(name, row, names, wanted)  # type: ignore[arg-type]
