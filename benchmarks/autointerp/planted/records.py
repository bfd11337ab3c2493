"""What is measured: a line for each label while measuring, means over features to keep."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from benchmarks.recover.scoring import mean, share
from benchmarks.recover.worlds import WorldKind
from saeinterp_mcp.frozen import Frozen

Seen = Literal["shown", "unsayable", "hidden", "null"]
"""shown: the planted rule can be said of what a reader sees; unsayable: it can, and is not where the feature fires
(half a rule, a rule about strength); hidden: it cannot (depth, groups of documents); null: nothing is planted."""


class Graded(Frozen):
    """One contender on one feature."""

    contender: str
    feature: int
    stratum: str
    seen: Seen
    claims: bool
    """False: unclear, or left out."""
    detection: float | None = None
    above_floor: bool | None = None
    """Whether the interval's low end is above the floor."""
    fuzzing: float | None = None
    rule: float | None = None
    rule_floor: float | None = None
    tokens_f1: float | None = None
    """Of the tokens and values it names, against those of the planted rule."""
    same_rows: bool | None = None
    """Whether the claim holds on the very rows on which the planted rule holds."""
    right: dict[str, float | None] = {}
    """Kind of trial to the share answered rightly, in detection, by the claim at its word."""

    @property
    def against_random(self) -> float | None:
        """Balanced accuracy on the firing and the random trials alone."""
        firing, random = self.right.get("firing"), self.right.get("random")
        return None if firing is None or random is None else (firing + random) / 2


class Cell(Frozen):
    """A mean over features, or a share (exact interval); null where there is nothing."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


class Line(Frozen):
    """A row of a table."""

    contender: str
    n_features: int
    n_claims: int
    detection: Cell
    """Over all features; where nothing is claimed the floor counts, .5."""
    detection_of_claims: Cell
    against_random: Cell
    """Of claims: detection with the random silent trials alone."""
    right: dict[str, Cell]
    """Kind of trial to the share answered rightly, over claims."""
    above_floor: Cell
    """Share of scored claims."""
    fuzzing: Cell
    rule: Cell
    rule_floor: Cell
    tokens_f1: Cell
    """Over all features, 0 where nothing is claimed."""
    same_rows: Cell
    """Share of all features."""


class Part(Frozen):
    """Worlds of one kind."""

    kind: WorldKind
    n_worlds: int
    shown: tuple[Line, ...]
    null: tuple[Line, ...]
    by_stratum: dict[str, dict[str, Cell]]
    """Stratum to contender to detection; hidden rules of a stratum as `STRATUM, not in the text`."""
    n_of_stratum: dict[str, int]


class Results(Frozen):
    """Everything the page shows."""

    seeds: tuple[int, ...]
    features_per_stratum: dict[WorldKind, int]
    n_trials: int
    n_requests: int
    seconds: float
    date: str
    parts: tuple[Part, ...]


FLOOR = 0.5


def part_of(kind: WorldKind, n_worlds: int, graded: Sequence[Graded]) -> Part:
    """Means over the features of all worlds of a kind."""
    strata: dict[str, list[Graded]] = {}
    for one in graded:
        hidden = ", not in the text" if one.seen == "hidden" else ""
        if one.seen != "null":
            strata.setdefault(f"{one.stratum}{hidden}", []).append(one)
    return Part(
        kind=kind,
        n_worlds=n_worlds,
        shown=lines([one for one in graded if one.seen == "shown"]),
        null=lines([one for one in graded if one.seen == "null"]),
        by_stratum={
            stratum: {line.contender: line.detection for line in lines(found)}
            for stratum, found in strata.items()
        },
        n_of_stratum={stratum: max(map(len, _by_contender(f).values())) for stratum, f in strata.items()},
    )


def _right_by_kind(graded: Sequence[Graded]) -> dict[str, Cell]:
    kinds = dict.fromkeys(kind for one in graded for kind in one.right)
    return {kind: mean_of([one.right.get(kind) for one in graded]) for kind in sorted(kinds)}


def lines(graded: Sequence[Graded]) -> tuple[Line, ...]:
    """A line a contender, in the order they come."""
    return tuple(_line(contender, found) for contender, found in _by_contender(graded).items())


def _by_contender(graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    found: dict[str, list[Graded]] = {}
    for one in graded:
        found.setdefault(one.contender, []).append(one)
    return found


def _line(contender: str, found: Sequence[Graded]) -> Line:
    def over_all(value: Callable[[Graded], float | None], otherwise: float) -> Cell:
        return mean_of([value(one) if one.claims else otherwise for one in found])

    claimed = [one for one in found if one.claims]
    return Line(
        contender=contender,
        n_features=len(found),
        n_claims=len(claimed),
        detection=over_all(lambda one: one.detection, FLOOR),
        detection_of_claims=mean_of([one.detection for one in claimed]),
        against_random=mean_of([one.against_random for one in claimed]),
        right=_right_by_kind(claimed),
        above_floor=share_of([one.above_floor for one in claimed]),
        fuzzing=over_all(lambda one: one.fuzzing, FLOOR)
        if any(one.fuzzing is not None for one in found)
        else Cell(),
        rule=mean_of([one.rule for one in claimed]),
        rule_floor=mean_of([one.rule_floor for one in claimed if one.rule is not None]),
        tokens_f1=over_all(lambda one: one.tokens_f1, 0.0)
        if any(one.tokens_f1 is not None for one in found)
        else Cell(),
        same_rows=share_of([one.same_rows if one.claims else False for one in found])
        if any(one.same_rows is not None for one in found)
        else Cell(),
    )


def mean_of(values: Sequence[float | None]) -> Cell:
    """Of those that are there."""
    found = mean(values)
    if found is None:
        return Cell()
    low, high = (round(x, 4) if np.isfinite(x) else None for x in (found.low, found.high))
    return Cell(value=round(found.value, 4), low=low, high=high, n=found.n)


def share_of(flags: Sequence[bool | None]) -> Cell:
    """Of the flags that are known."""
    found = share([flag for flag in flags if flag is not None])
    if found is None:
        return Cell()
    return Cell(value=round(found.value, 4), low=round(found.low, 4), high=round(found.high, 4), n=found.n)
