"""Looking for terms and groups that go with firing, in the whole split or where a rule holds."""

from typing import Any

from benchmarks.recover.steps import Counts, Desk, Found, Row, rate_step, rows_of
from benchmarks.recover.truth import InGroup, Structure, Term

N_SWEPT = 6
"""Families swept in the whole split; their q in the overview is the ticket."""
N_SWEPT_WITHIN = 3
N_PAIRS = 2
"""Pairs of families that are followed up."""
MIN_INTERACTION = 0.15
"""Of firing rates."""
Q_CUT = 0.05


class Finder:
    """Asks for tables and keeps what says most about firing."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        status = desk.status()
        self.families = {f.name: f.levels for f in status.families}
        self.groups = [g.name for g in status.groups]
        self.attributes = [f"{g.name}.{a}" for g in status.groups for a in g.attributes]

    def best(self, sweep: bool) -> Found | None:
        """Of everything, in the whole split.

        Args:
            sweep: whether families and groups may be swept, or only read from the overview.
        """
        if sweep:
            found = [self.best_term(None, n=N_SWEPT), self.best_group(None)]
            return _strongest([f for f in found if f])
        overview = self.desk.ask("feature_overview", detail="detailed")
        terms = [
            Found(Term(family=row["family"], threshold=self.families[row["family"]][0]), counts)
            for row, counts in _sure(rows_of(overview.families), overview.firing)
        ]
        return _strongest(terms + _values(overview.groups, overview.firing))

    def influence(self, where: str | None) -> Any:
        """Any level of each family against none."""
        return self.desk.ask("token_influence", by="family", limit=100, **_given(where))

    def candidates(self, where: str | None, n: int, without: str | None = None) -> list[str]:
        """Families worth a sweep."""
        found = self.influence(where)
        present = sorted(_sure(rows_of(found), found), key=lambda pair: -pair[1].evidence)
        return [row["family"] for row, _ in present if row["family"] != without][:n]

    def best_term(
        self, where: str | None, without: str | None = None, n: int = N_SWEPT_WITHIN
    ) -> Found | None:
        """The family and level whose rows differ most."""
        return _strongest(
            [f for family in self.candidates(where, n, without) if (f := self.term_of(family, where))]
        )

    def term_of(self, family: str, where: str | None) -> Found | None:
        """The level of a family where the firing rate steps."""
        sweep = self.desk.ask("family_sweep", family=family, **_given(where))
        step = rate_step(sweep.baseline.n, sweep.baseline.n_firing, rows_of(sweep))
        return Found(Term(family=family, threshold=step.threshold), step.counts) if step else None

    def best_group(self, where: str | None) -> Found | None:
        """The value of a group or of an attribute whose rows differ most."""
        found, firing = [], self.influence(where)
        for by in (*self.groups, *self.attributes):
            sweep = self.desk.ask("group_sweep", by=by, limit=50, **_given(where))
            found += _values(sweep, firing, by)
        # an attribute carried by one value alone is that value: the group comes first and stays
        return _strongest(found)

    def counts(self, structure: Structure) -> Counts:
        """Rows and firing rows where a structure says the feature fires, and where not, on the explain split."""
        whole, part = self.influence(None), self.influence(structure.rule)
        return Counts(part.n, part.n_firing, whole.n - part.n, whole.n_firing - part.n_firing)

    def tested(self, structure: Structure) -> Counts:
        """The same from a test of the rule, which of a suppressor is the negation."""
        test = self.desk.ask("test_rule", rule=structure.rule, split="explain", limit=0)
        return Counts(test.n_rule, test.tp, test.n - test.n_rule, test.fn)

    def design_effect(self) -> float:
        """Variance of the firing rate by unit over that of as many independent rows."""
        firing = self.desk.ask("feature_overview", detail="detailed").firing
        rate = firing.firing_rate
        if not rate or rate == 1 or firing.rate_high is None:
            return 1.0
        clustered = ((firing.rate_high - firing.rate_low) / 3.92) ** 2
        return float(max(clustered * firing.n / (rate * (1 - rate)), 1.0))

    def interacting(self) -> list[tuple[Term, Term]]:
        """Pairs of families whose firing rates do not add up, each with the level where it steps without the other."""
        table = self.desk.ask("token_interactions", families=list(self.families), method="pairs", limit=5)
        found = []
        for row in rows_of(table):
            if row["q"] is None or row["q"] > Q_CUT or abs(row["rate_interaction"] or 0) < MIN_INTERACTION:
                continue
            x, y = row["set"]
            terms = [self.term_of(a, f"not family:{b}>=1") for a, b in ((x, y), (y, x))]
            pair = [f.what for f in terms if f and isinstance(f.what, Term)]
            if len(pair) == 2:
                found.append((pair[0], pair[1]))
        return found[:N_PAIRS]


def _sure(rows: list[Row], whole: Any) -> list[tuple[Row, Counts]]:
    """Rows of a table whose q is small, with their counts beside the rest of the slice."""
    return [
        (r, Counts(r["n"], r["n_firing"], whole.n - r["n"], whole.n_firing - r["n_firing"]))
        for r in rows
        if r["q"] is not None and r["q"] < Q_CUT
    ]


def _values(table: Any, whole: Any, by: str | None = None) -> list[Found]:
    return [
        Found(InGroup(by=by or row["group"], value=row["value"]), counts)
        for row, counts in _sure(rows_of(table), whole)
    ]


def _strongest(found: list[Found]) -> Found | None:
    return max(found, key=lambda f: f.counts.evidence, default=None)


def _given(where: str | None) -> dict[str, str]:
    return {} if where is None else {"where": where}
