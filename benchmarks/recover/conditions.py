"""The worlds of the report, and what was measured on them."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from benchmarks.recover.contenders import FOLLOWER, NAMES, ORACLE, SCRIPTED, Score, run_contender
from benchmarks.recover.scoring import Grade
from benchmarks.recover.tasks import build_world
from benchmarks.recover.truth import NOT_RECOVERABLE, STRATA
from benchmarks.recover.worlds import WorldKind
from saeinterp_mcp.frozen import Frozen

RECOVERABLE = tuple(s for s in STRATA if s not in NOT_RECOVERABLE)


class Condition(Frozen):
    """Worlds of one kind."""

    name: str
    kind: WorldKind
    seeds: tuple[int, ...]
    n_units: int | None = None
    """Of each world; null for the generator's own number."""
    shuffled: bool = False
    activations: Literal["ideal", "trained"] = "ideal"
    contenders: tuple[str, ...] = NAMES
    features_per_stratum: int = 4

    @property
    def n_planted(self) -> int:
        """Features of all its worlds, of which an SAE may not have learned every one."""
        return len(STRATA) * self.features_per_stratum * len(self.seeds)


DEVELOPED_ON = (101, 102, 103, 104)
"""Seeds on which the protocol was fixed; never reported."""
REPORTED = (1, 2, 3)
BRIEF = (ORACLE, SCRIPTED, FOLLOWER, "best single token")
NULLS = (SCRIPTED, FOLLOWER)
THE_PAGE: tuple[Condition, ...] = (
    Condition(name="Sets, ideal activations", kind="set", seeds=REPORTED),
    Condition(name="Sequences, ideal activations", kind="sequence", seeds=REPORTED),
    Condition(name="Sets, 1,000 units", kind="set", seeds=REPORTED, n_units=1000, contenders=BRIEF),
    Condition(
        name="Sequences, 200 documents", kind="sequence", seeds=REPORTED, n_units=200, contenders=BRIEF
    ),
    Condition(name="Sets, trained SAE", kind="set", seeds=(1, 2), activations="trained", contenders=BRIEF),
    Condition(
        name="Sequences, trained SAE",
        kind="sequence",
        seeds=(1, 2),
        activations="trained",
        contenders=BRIEF,
    ),
    Condition(name="Sets, shuffled", kind="set", seeds=REPORTED, shuffled=True, contenders=NULLS),
    Condition(name="Sequences, shuffled", kind="sequence", seeds=REPORTED, shuffled=True, contenders=NULLS),
)


class Miss(Frozen):
    """A feature that the scripted investigator got wrong."""

    stratum: str
    planted: str
    claimed: str
    confidence: float


class Run(Frozen):
    """A condition, measured."""

    condition: Condition
    date: str
    n_rows: int
    """Of all its worlds."""
    n_features: int
    """That were asked for."""
    scores: tuple[Score, ...]
    misses: tuple[Miss, ...] = ()
    """In recoverable strata."""

    def of(self, contender: str) -> Score | None:
        """One contender's score."""
        return next((s for s in self.scores if s.contender == contender), None)


class Results(Frozen):
    """Everything measured."""

    runs: tuple[Run, ...] = ()

    def with_run(self, run: Run) -> "Results":
        """With one condition measured anew, in the order of the page."""
        order = [c.name for c in THE_PAGE]
        runs = [r for r in self.runs if r.condition.name != run.condition.name] + [run]
        runs.sort(key=lambda r: order.index(r.condition.name) if r.condition.name in order else len(order))
        return Results(runs=tuple(runs))


def measure(condition: Condition, date: str, told: Callable[[str], None]) -> Run:
    """Draw the worlds of a condition and score its contenders."""
    options = {
        "n_units": condition.n_units,
        "features_per_stratum": condition.features_per_stratum,
        "activations": condition.activations,
    }
    with tempfile.TemporaryDirectory() as folder:
        worlds = [
            build_world(
                Path(folder) / str(seed), condition.kind, seed, shuffled=condition.shuffled, **options
            )
            for seed in condition.seeds
        ]
        scores, misses = [], []
        for name in condition.contenders:
            found, grades = run_contender(name, worlds)
            scores.append(found)
            k = found.recovery(RECOVERABLE)
            told(f"{condition.name}, {name}: {k.k} of {k.n}, {found.seconds:.2f} s a feature")
            if name == SCRIPTED:
                misses = [miss(g) for g in grades if not g.exact and g.recoverable]
        return Run(
            condition=condition,
            date=date,
            n_rows=sum(store.n_rows("all") for store, _ in worlds),
            n_features=sum(len(truths) for _, truths in worlds),
            scores=tuple(scores),
            misses=tuple(misses),
        )


def miss(g: Grade) -> Miss:
    """What was planted and what was said."""
    return Miss(stratum=g.stratum, planted=g.planted, claimed=g.claimed, confidence=g.confidence)
