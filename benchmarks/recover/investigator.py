"""A scripted investigator: the protocol of `/investigate` with fixed rules in place of a language model.

1. Overview: how often it fires; nothing under 20 firings.
2. Sweeps of the families and groups that go with firing: the level where the rate steps, the value or attribute.
   Hypotheses compete by their evidence, G of rule against firing.
3. Controls: what is left inside and outside the best one's rows gives or, and, xor and gates; a bystander leaves
   nothing there. Each part is looked for again with the other parts held.
4. Strength, among firing rows alone: a dose, a tail stimulus, a suppressor of strength.
5. Rules are compared on the explain split, and the one that is left is tested once on the held-out one.

It reads answers of operations and nothing else. `Toolset` cuts it short, to see what each kind of tool is worth.
"""

from collections.abc import Iterator
from typing import Literal, get_args

from benchmarks.recover.findings import Finder
from benchmarks.recover.steps import Counts, Desk, Found, but, single, two
from benchmarks.recover.strength import dose_of, strength_suppressor, tail_of
from benchmarks.recover.truth import Claim, InGroup, Structure, Term
from saeinterp_mcp.store.base import Store

Toolset = Literal["overview", "sweeps", "controls", "rules"]
TOOLSETS: tuple[Toolset, ...] = get_args(Toolset)
"""Each with all before it."""

MIN_FIRING = 20
MIN_EVIDENCE = 30.0
"""G that a rule needs: some hundreds are looked at, and rows of a unit go together."""
MIN_DIFFERENCE = 0.1
"""Of firing rates, inside a slice: what a second part must add."""
MIN_GAIN = 1.04
"""G of a longer rule over that of the shorter one it replaces."""
CLEAR_GAIN = 1.15
COMPLETE = 0.7
"""Share of a rule's rows that fire, and of firing rows that it holds on, from which nothing more is looked for."""
COMBINED: tuple[Literal["and", "or", "xor"], ...] = ("and", "or", "xor")


def investigate(store: Store, feature: int, tools: Toolset = "rules") -> Claim:
    """Find out what a feature fires on.

    Args:
        store: a set or sequence store.
        feature: which.
        tools: what it may ask.
    """
    desk = Desk(store, feature)
    return _Investigation(desk, tools).claim()


class _Investigation:
    """One feature's protocol."""

    def __init__(self, desk: Desk, tools: Toolset) -> None:
        self.desk, self.tools = desk, tools
        self.find = Finder(desk)
        self.needed = MIN_EVIDENCE
        """G that a rule needs, times the design effect."""

    def claim(self) -> Claim:
        """Run it."""
        overview = self.desk.ask("feature_overview", detail="detailed")
        if overview.firing.n_firing < MIN_FIRING:
            return self._nothing(0.98, f"fires {overview.firing.n_firing} times")
        self.needed = MIN_EVIDENCE * self.find.design_effect()
        if self.tools == "overview":
            return self._from_overview()
        best = self.find.best(sweep=True)
        if self.tools == "sweeps":
            return self._from_sweeps(best)
        rules = self._rules(best)
        if not rules:
            return self._strength_alone()
        structure, confidence = self._choose(rules)
        structure = self._strength(structure)
        if self.tools == "rules":
            return self._confirmed(structure, confidence)
        return self._say(structure, confidence, "not tested")

    def _nothing(self, confidence: float, note: str) -> Claim:
        return Claim(
            feature=self.desk.feature,
            structure=None,
            confidence=confidence,
            n_calls=self.desk.n_calls,
            note=note,
        )

    def _say(self, structure: Structure, confidence: float, note: str) -> Claim:
        return Claim(
            feature=self.desk.feature,
            structure=structure,
            confidence=round(confidence, 3),
            n_calls=self.desk.n_calls,
            note=note,
        )

    # the toolsets cut short

    def _from_overview(self) -> Claim:
        best = self.find.best(sweep=False)
        if best is None or best.counts.evidence < self.needed:
            return self._nothing(0.7, "nothing stands out in the overview")
        return self._say(single(best), 0.4, "the surest row of the overview")

    def _from_sweeps(self, best: Found | None) -> Claim:
        if best is None or best.counts.evidence < self.needed:
            return self._nothing(0.7, "no sweep shows a step")
        structure = single(best)
        return self._say(dose_of(self.desk, structure), 0.5, "the best of the sweeps")

    # hypotheses

    def _rules(self, best: Found | None) -> list[tuple[Structure, Counts]]:
        """Structures worth comparing, with their counts; none when not even the best single one has evidence."""
        found: dict[str, tuple[Structure, Counts]] = {}

        def add(structure: Structure) -> None:
            if structure.rule not in found:
                counts = self.find.tested if self.tools == "rules" else self.find.counts
                found[structure.rule] = (structure, counts(structure))

        if best and best.counts.evidence >= self.needed:
            add(single(best))
        if best and best.counts.difference > 0:
            for structure in self._longer(best):
                add(structure)
        if not any(_complete(counts) for _, counts in found.values()):
            for structure in self._from_pairs():
                add(structure)
        if found:
            leading = max(found.values(), key=lambda pair: pair[1].evidence)[0]
            for structure in self._again(leading):
                add(structure)
        return [pair for pair in found.values() if pair[1].evidence >= self.needed]

    def _longer(self, best: Found) -> Iterator[Structure]:
        """What a second part inside or outside the rows of the first makes of it."""
        inside, outside = best.rule, but(best.rule)
        if isinstance(best.what, InGroup):
            term = self.find.best_term(inside)
            if term and term.counts.difference > MIN_DIFFERENCE and isinstance(term.what, Term):
                yield Structure(terms=(term.what,), gate=best.what)
            return
        first = best.what
        group = self.find.best_group(inside)
        if group and group.counts.difference > MIN_DIFFERENCE and isinstance(group.what, InGroup):
            yield Structure(terms=(first,), gate=group.what)
        within_it = self.find.best_term(inside, without=first.family)
        beside_it = self.find.best_term(outside, without=first.family)
        seconds = [f for f in (within_it, beside_it) if f and abs(f.counts.difference) > MIN_DIFFERENCE]
        for second in seconds:
            assert isinstance(second.what, Term), "best_term finds terms"
            for combine in COMBINED:
                yield two(first, second.what, combine)

    def _from_pairs(self) -> Iterator[Structure]:
        """Two families whose interaction stands out: an exclusive or may leave neither of them a trace alone."""
        for a, b in self.find.interacting():
            for combine in COMBINED:
                yield two(a, b, combine)

    def _again(self, leading: Structure) -> Iterator[Structure]:
        """Each part looked for anew with the other held."""
        if leading.gate is not None:
            (term,) = leading.terms
            better = self.find.best_term(leading.gate.rule)
            gate = self.find.best_group(term.rule)
            if better and isinstance(better.what, Term):
                yield Structure(terms=(better.what,), gate=leading.gate)
            if gate and isinstance(gate.what, InGroup):
                yield Structure(terms=(term,), gate=gate.what)
        if len(leading.terms) == 2:
            for held, other in (leading.terms, leading.terms[::-1]):
                where = held.rule if leading.combine == "and" else but(held.rule)
                level = self.find.term_of(other.family, where)
                if level and isinstance(level.what, Term):
                    yield two(held, level.what, leading.combine)
                better = self.find.best_term(where, without=held.family)
                if better and isinstance(better.what, Term):
                    yield two(held, better.what, leading.combine)

    # decisions

    def _choose(self, rules: list[tuple[Structure, Counts]]) -> tuple[Structure, float]:
        """The shortest rule that no longer one clearly beats, and how sure that is."""

        def size(structure: Structure) -> int:
            return len(structure.terms) + (structure.gate is not None)

        chosen, evidence = None, 0.0
        for k in (1, 2):
            of_size = [(counts.evidence, s) for s, counts in rules if size(s) <= k]
            if not of_size:
                continue
            top, structure = max(of_size, key=lambda pair: pair[0])
            if chosen is None or (top > MIN_GAIN * evidence and top > evidence + 10):
                chosen, evidence = structure, top
        assert chosen is not None, "there are rules, of one part or two"
        others = [c.evidence for s, c in rules if s != chosen and not _level_apart(s, chosen)]
        margin = evidence / max(others, default=1e-9)
        return chosen, 0.93 if margin > CLEAR_GAIN else 0.75 if margin > 1.02 else 0.5

    def _strength(self, structure: Structure) -> Structure:
        """What the strength adds: a dose of a single term, or a stimulus of the tail."""
        with_dose = dose_of(self.desk, structure)
        return with_dose if with_dose.dose else tail_of(self.desk, self.find, structure)

    def _strength_alone(self) -> Claim:
        """Firing goes with nothing; the strength may."""
        structure = strength_suppressor(self.desk, self.find)
        if structure is None:
            return self._nothing(0.85, "neither firing nor strength goes with anything")
        return self._say(structure, 0.8, "of strength alone: a rule of firing cannot test it")

    def _confirmed(self, structure: Structure, confidence: float) -> Claim:
        """The rule on held-out rows, once; what does not hold there is not claimed."""
        test = self.desk.ask("test_rule", rule=structure.rule, split="heldout", limit=0)
        if test.low is None:
            return self._say(structure, 0.6 * confidence, f"held-out rows cannot tell: {test.reason}")
        if test.low <= 0.5:
            return self._nothing(0.5, f"{structure.rule} does not hold on held-out rows")
        return self._say(structure, confidence, f"held-out balanced accuracy {test.balanced_accuracy:.3g}")


def _complete(counts: Counts) -> bool:
    firing = counts.fires + counts.fires_rest
    return counts.rate > COMPLETE and counts.fires > COMPLETE * firing


def _level_apart(a: Structure, b: Structure) -> bool:
    """Whether two structures differ in thresholds alone: no other hypothesis, and near in evidence by nature."""
    families = [[term.family for term in s.terms] for s in (a, b)]
    return families[0] == families[1] and bool(families[0]) and (a.combine, a.gate) == (b.combine, b.gate)
