"""What goes with strength, among firing rows alone: doses, stimuli of the tail, suppressors of strength."""

from benchmarks.recover.findings import Q_CUT, Finder
from benchmarks.recover.steps import Desk, climbs, levels_that_fire, rows_of, strength_step, within
from benchmarks.recover.truth import Structure, Term

FIRING = "activation>0"
MIN_Z = 4.0
"""Standard errors of a difference in strength that is taken for one: about 12 families by 8 levels are looked at."""
DOSE_RATIO = 1.3
TAIL_RATIO = 1.4
SUPPRESSED_RATIO = 0.75


def dose_of(desk: Desk, structure: Structure) -> Structure:
    """With a dose, where the strength climbs along the levels of a single term."""
    if len(structure.terms) != 1 or structure.gate is not None or structure.polarity == "decreases":
        return structure
    (term,) = structure.terms
    rates = desk.ask("family_sweep", family=term.family)
    levels = levels_that_fire(rates.baseline, rows_of(rates))
    sweep = desk.ask("family_sweep", family=term.family, where=FIRING)
    z, ratio, rising = climbs(row for row in rows_of(sweep) if row["level"] in levels)
    if not (rising and z > MIN_Z and ratio > DOSE_RATIO):
        return structure
    lowest = min(levels)
    return structure.model_copy(update={"dose": True, "terms": (Term(family=term.family, threshold=lowest),)})


def tail_of(desk: Desk, find: Finder, structure: Structure) -> Structure:
    """With a tail, where another family lifts the strength of the rows that the terms make fire."""
    if not structure.terms or structure.polarity == "decreases":
        return structure
    taken = {term.family for term in structure.terms}
    best = _strongest_of(desk, find, within(structure.rule, FIRING), taken, sign=1)
    if best is None or best[1] < TAIL_RATIO:
        return structure
    return structure.model_copy(update={"tail": best[0]})


def strength_suppressor(desk: Desk, find: Finder) -> Structure | None:
    """A term with which the feature fires as often and less strongly."""
    best = _strongest_of(desk, find, FIRING, set(), sign=-1)
    if best is None or best[1] > SUPPRESSED_RATIO:
        return None
    return Structure(polarity="decreases", terms=(best[0],))


def _strongest_of(
    desk: Desk, find: Finder, where: str | None, taken: set[str], sign: int
) -> tuple[Term, float] | None:
    """(term, ratio of strengths) of the surest step in strength of that sign."""
    rows = [r for r in rows_of(find.influence(where)) if r["q"] is not None and r["q"] < Q_CUT]
    rows = [r for r in rows if r["family"] not in taken and (r["effect"] or 0) * sign > 0]
    rows.sort(key=lambda r: -abs(r["effect"]))
    found = []
    for row in rows[:3]:
        sweep = desk.ask("family_sweep", family=row["family"], where=where)
        step = strength_step(sweep.baseline, rows_of(sweep))
        if step and step.z * sign > MIN_Z:
            found.append((abs(step.z), Term(family=row["family"], threshold=step.threshold), step.ratio))
    if not found:
        return None
    _, term, ratio = max(found, key=lambda f: f[0])
    return term, ratio
