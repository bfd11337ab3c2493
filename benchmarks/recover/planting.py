"""Which rule each feature gets: drawn at random until enough rows bear on it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.recover.firing import FeatureLaw
from benchmarks.recover.rows import Bools, Family, Rows
from benchmarks.recover.truth import STRATA, InGroup, Stratum, Structure, Term

MAX_TRIES = 2000
PAIRED: tuple[Stratum, ...] = ("absorbed_child", "split_twin")
"""Strata whose features come two by two."""


def plant(
    rows: Rows, pairs: tuple[tuple[str, str], ...], per_stratum: int, generator: np.random.Generator
) -> list[FeatureLaw]:
    """Laws of `per_stratum` features of each stratum, in random order.

    Args:
        rows: many rows, by which the support of a rule is judged.
        pairs: families that go together closely.
        per_stratum: features of each.
        generator: of all draws.
    """
    planter = Planter(rows, pairs, generator)
    laws: list[FeatureLaw] = []
    for stratum in STRATA:
        made: list[FeatureLaw] = []
        while len(made) < per_stratum:
            made += planter.make(stratum)
        laws += made[:per_stratum]
    return [laws[i] for i in generator.permutation(len(laws)).tolist()]


class Planter:
    """Draws rules and how they fire."""

    def __init__(
        self, rows: Rows, pairs: tuple[tuple[str, str], ...], generator: np.random.Generator
    ) -> None:
        self.rows, self.pairs, self.generator = rows, pairs, generator
        self.families = rows.schema.families
        self.used: set[str] = set()
        """Rules that have been given, so that no two features share one by chance."""
        self._terms: dict[str, Bools] = {}

    def make(self, stratum: Stratum) -> Iterator[FeatureLaw]:
        """One feature of a stratum, or two that belong together."""
        makers: dict[Stratum, Callable[[], list[FeatureLaw]]] = {
            "level_threshold": lambda: [self._on("level_threshold", self._until(self._threshold))],
            "dose_response": lambda: [self._dose()],
            "or": lambda: [self._on("or", self._until(self._either))],
            "and": lambda: [self._on("and", self._until(self._both))],
            "xor": lambda: [self._on("xor", self._until(self._one_of))],
            "gated": lambda: [self._on("gated", self._until(self._gated))],
            "group_only": lambda: [self._on("group_only", self._until(self._value))],
            "attribute_only": lambda: [self._on("attribute_only", self._until(self._attribute))],
            "suppressor_rate": lambda: [self._suppressed("suppressor_rate")],
            "suppressor_strength": lambda: [self._suppressed("suppressor_strength")],
            "tail_stimulus": lambda: [self._tail()],
            "confounded": lambda: [self._on("confounded", self._until(self._of_pair))],
            "absorbed_child": self._absorbed,
            "split_twin": self._twins,
            "dense": lambda: [self._unplanted("dense", 0.62, 0.92)],
            "dead": lambda: [FeatureLaw(stratum="dead", structure=None, rate=0)],
            "noise": lambda: [self._unplanted("noise", 0.02, 0.12)],
        }
        yield from makers[stratum]()

    def _noise(self) -> dict[str, Any]:
        """How a feature fires, whatever it fires on."""
        g = self.generator
        return {
            "strength": float(g.uniform(0.8, 4)),
            "sigma": float(g.uniform(0.3, 0.6)),
            "shared_firing": float(g.uniform(0, 0.4)),
            "shared_strength": float(g.uniform(0, 0.6)),
        }

    def _on(self, stratum: Stratum, structure: Structure | None, **given: Any) -> FeatureLaw:
        rates: dict[str, Any] = {
            "rate": 1 - float(self.generator.uniform(0.05, 0.15)),
            "other_rate": float(self.generator.uniform(0.003, 0.01)),
        }
        return FeatureLaw(stratum=stratum, structure=structure, **{**rates, **self._noise(), **given})

    def _unplanted(self, stratum: Stratum, low: float, high: float) -> FeatureLaw:
        rate = float(self.generator.uniform(low, high))
        return FeatureLaw(stratum=stratum, structure=None, rate=rate, **self._noise())

    def _dose(self) -> FeatureLaw:
        """Strength grows 3 to 6 times from the lowest level to the highest; in half of them the rate grows too."""
        grows = bool(self.generator.integers(2))
        return self._on(
            "dose_response",
            self._until(self._graded),
            dose_strength=float(self.generator.uniform(3, 6)),
            dose_rate=0.55 if grows else 1.0,
        )

    def _suppressed(self, stratum: Stratum) -> FeatureLaw:
        """A base rate of .25 to .45; with the term a tenth of it, or the same at .25 to .45 of the strength."""
        g = self.generator
        base = float(g.uniform(0.25, 0.45))
        seldom = stratum == "suppressor_rate"
        return self._on(
            stratum,
            self._until(self._lowered),
            rate=base,
            other_rate=base * float(g.uniform(0.06, 0.15)) if seldom else base,
            other_factor=1.0 if seldom else float(g.uniform(0.25, 0.45)),
        )

    def _tail(self) -> FeatureLaw:
        """Strength about doubled with the tail term, of narrow spread otherwise.

        Then rows without it are core (25 to 75 % of the effective maximum), and the tail (over 90 %) is the term's.
        """
        return self._on(
            "tail_stimulus",
            self._until(self._driven_with_tail),
            tail_factor=float(self.generator.uniform(1.9, 2.7)),
            sigma=float(self.generator.uniform(0.08, 0.16)),
        )

    def _absorbed(self) -> list[FeatureLaw]:
        """A parent that is silent where its child fires, and the child."""
        child = self._until(self._child)
        assert child is not None
        g = self.generator
        parent_at = int(g.integers(2))
        own, specific = child.terms[parent_at], child.terms[1 - parent_at]
        parent = Structure(terms=(own,))
        return [
            self._on("absorbed_child", parent, hole=specific),
            self._on("absorbed_child", child),
        ]

    def _twins(self) -> list[FeatureLaw]:
        rule = self._until(self._threshold)
        return [self._on("split_twin", rule, twin=half) for half in (0, 1)]

    def _until(self, draw: Callable[[], Structure | None]) -> Structure:
        """The first draw that is not None and that no other feature has; one that another has, if all are taken."""
        taken = None
        for _ in range(MAX_TRIES):
            found = draw()
            if found is not None and found.rule not in self.used:
                self.used.add(found.rule)
                return found
            taken = found or taken
        assert taken is not None, f"{MAX_TRIES} draws of {draw.__name__} found no rule with enough rows"
        return taken

    def _term(self, several: bool | None = None) -> Term:
        """A random family at a random level; `several`: with several levels, or with one."""
        fit = [f for f in self.families if several is None or (len(f.levels) > 1) == several]
        return self._level_of(fit[int(self.generator.integers(len(fit)))])

    def _level_of(self, family: Family) -> Term:
        return Term(family=family.name, threshold=int(self.generator.choice(family.levels)))

    def _two(self) -> tuple[Term, Term] | None:
        """Terms of two families that are no pair, sorted."""
        a, b = sorted((self._term(), self._term()), key=lambda t: t.family)
        names = {a.family, b.family}
        return None if len(names) == 1 or names in [set(pair) for pair in self.pairs] else (a, b)

    def _has(self, term: Term) -> Bools:
        if term.rule not in self._terms:
            self._terms[term.rule] = self.rows.has(term)
        return self._terms[term.rule]

    def _share(self, term: Term) -> float:
        return float(self._has(term).mean())

    def _threshold(self) -> Structure | None:
        term = self._term(several=bool(self.generator.random() < 0.8) or None)
        return Structure(terms=(term,)) if 0.05 <= self._share(term) <= 0.35 else None

    def _lowered(self) -> Structure | None:
        term = self._term()
        fits = 0.1 <= self._share(term) <= 0.4
        return Structure(polarity="decreases", terms=(term,)) if fits else None

    def _of_pair(self) -> Structure | None:
        """The driver is either of a pair."""
        pair = self.pairs[int(self.generator.integers(len(self.pairs)))]
        name = pair[int(self.generator.integers(2))]
        term = self._level_of(self.families[self.rows.schema.index(name)])
        return Structure(terms=(term,)) if 0.08 <= self._share(term) <= 0.35 else None

    def _graded(self) -> Structure | None:
        """At least 1.5 % of rows at each of three levels or more."""
        term = self._term(several=True)
        family = self.families[self.rows.schema.index(term.family)]
        column = self.rows.levels[:, self.rows.schema.index(term.family)]
        enough = all((column == level).mean() >= 0.015 for level in family.levels)
        lowest = Term(family=family.name, threshold=family.levels[0])
        return Structure(terms=(lowest,), dose=True) if enough and len(family.levels) >= 3 else None

    def _parts(self, two: tuple[Term, Term]) -> tuple[float, float, float]:
        """Shares of rows with the first alone, the second alone, both."""
        a, b = (self._has(term) for term in two)
        return float((a & ~b).mean()), float((b & ~a).mean()), float((a & b).mean())

    def _combined(self, combine: Any, least: tuple[float, float, float], most: float) -> Structure | None:
        two = self._two()
        if two is None or any(part < need for part, need in zip(self._parts(two), least, strict=True)):
            return None
        found = Structure(terms=two, combine=combine)
        return found if self.rows.holds(found).mean() <= most else None

    def _either(self) -> Structure | None:
        return self._combined("or", (0.04, 0.04, 0.01), 0.4)

    def _both(self) -> Structure | None:
        return self._combined("and", (0.04, 0.04, 0.03), 0.3)

    def _one_of(self) -> Structure | None:
        return self._combined("xor", (0.04, 0.04, 0.03), 0.4)

    def _child(self) -> Structure | None:
        found = self._both()
        if found is None:
            return None
        first, second, both = self._parts((found.terms[0], found.terms[1]))
        return found if 0.15 <= both / (both + max(first, second)) <= 0.5 else None

    def _gate(self) -> InGroup:
        """A value of g, or of one of its attributes."""
        g = self.rows.schema.group("g")
        attribute = ["", *g.attributes][int(self.generator.integers(1 + len(g.attributes)))]
        values = sorted(set(g.attributes[attribute])) if attribute else list(g.values)
        by = f"g.{attribute}" if attribute else "g"
        return InGroup(by=by, value=values[int(self.generator.integers(len(values)))])

    def _gated(self) -> Structure | None:
        found = Structure(terms=(self._term(),), gate=self._gate())
        assert found.gate is not None
        inside, there = self._has(found.terms[0]), self.rows.within(found.gate)
        fits = (inside & there).mean() >= 0.03 and (inside & ~there).mean() >= 0.05
        return found if fits and (there & ~inside).mean() >= 0.02 else None

    def _value(self) -> Structure | None:
        g = self.rows.schema.group("g")
        found = Structure(group=InGroup(by="g", value=g.values[int(self.generator.integers(len(g.values)))]))
        return found if self.rows.holds(found).mean() >= 0.03 else None

    def _attribute(self) -> Structure | None:
        gate = self._gate()
        group, _, attribute = gate.by.partition(".")
        if not attribute:
            return None
        carried_by = self.rows.schema.group(group).attributes[attribute].count(gate.value)
        return Structure(group=gate) if carried_by >= 3 else None

    def _driven_with_tail(self) -> Structure | None:
        two = self._two()
        if two is None:
            return None
        driver, tail = two if self.generator.integers(2) else two[::-1]
        drives = self._has(driver)
        share = float(self._has(tail)[drives].mean()) if drives.any() else 0.0
        fits = 0.08 <= drives.mean() <= 0.4 and 0.06 <= share <= 0.2
        return Structure(terms=(driver,), tail=tail) if fits else None
