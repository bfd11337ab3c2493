"""What tells kinds of explanations apart: rates, percentiles and the areas under their ROC curves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.validation_planted.by_hand import Agreement
from benchmarks.validation_planted.explanations import KINDS, SHUFFLED, Kind
from benchmarks.validation_planted.running import Outcome
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.frozen import Frozen

N_BOOTSTRAP = 2_000
TOP = 95.0
Values = NDArray[np.float64]
Interval = tuple[float, float]


class Line(Frozen):
    """Explanations of one kind. Intervals hold 95 % of N_BOOTSTRAP draws, with replacement, of true explanations:
    features of one topic share theirs, and are drawn together."""

    kind: Kind
    n_explanations: int
    n_untested: int
    """Explanations without a phrase that could be tested; they are in no mean."""
    n_phrases: int
    """That were tested."""
    share_matched: float
    """Of these phrases."""
    share_interval: Interval
    by_words: float
    """Share of the phrases, those that match by meaning too among them."""
    by_meaning: float
    literal: tuple[int, int]
    """Of the phrases that quote a text or name a sign: how many match, how many there are."""
    by_chance: float
    """Mean `match_rate_by_chance` of the explanations."""
    rate: float
    """Mean `match_rate` of the explanations."""
    percentile: float
    """Mean `match_percentile`."""
    quartiles: tuple[float, float, float]
    top: float
    """Share of explanations at or above the 95th percentile."""
    top_interval: Interval
    auroc_rate: float | None
    """How often a true explanation has the larger match rate than one of this kind, ties half; None of the true."""
    auroc_rate_interval: Interval | None
    auroc_percentile: float | None
    auroc_percentile_interval: Interval | None


class Part(Frozen):
    """One set of features."""

    name: str
    n_features: int
    lines: tuple[Line, ...]


class Results(Frozen):
    """What is kept."""

    date: str
    embedder: str | None
    seed: int
    parts: tuple[Part, ...]
    by_hand: Agreement
    """Rows of the demo's features that were worked out another way."""


def part_of(name: str, outcomes: Sequence[Outcome], seed: int) -> Part:
    """A line for each kind."""
    present = {one.kind for one in outcomes}
    kinds = [kind for kind in (*KINDS, SHUFFLED) if kind in present]
    of_kind = {kind: [one for one in outcomes if one.kind == kind] for kind in kinds}
    lines = tuple(_line(kind, of_kind[kind], of_kind["true"], seed) for kind in kinds)
    return Part(name=name, n_features=len({one.feature for one in of_kind["true"]}), lines=lines)


def _line(kind: Kind, found: Sequence[Outcome], true: Sequence[Outcome], seed: int) -> Line:
    tested = [one for one in found if one.rate is not None and one.percentile is not None]
    assert tested, f"some explanations of the kind {kind} were tested"
    n, matched = (np.array([getattr(one, f) for one in tested], float) for f in ("n_tested", "n_matched"))
    rates, percentiles = column(tested, "rate"), column(tested, "percentile")
    draws = _draws(tested, seed)
    quarter, half, three = np.quantile(percentiles, [0.25, 0.5, 0.75]).tolist()
    by_rate, rate_interval = _apart(true, tested, "rate", seed) if kind != "true" else (None, None)
    by_percentile, interval = _apart(true, tested, "percentile", seed) if kind != "true" else (None, None)
    return Line(
        kind=kind,
        n_explanations=len(found),
        n_untested=len(found) - len(tested),
        n_phrases=int(n.sum()),
        share_matched=rounded(matched.sum() / n.sum()),
        share_interval=_middle(draws @ matched, draws @ n),
        by_words=rounded(sum(one.by_words for one in tested) / n.sum()),
        by_meaning=rounded(sum(one.by_meaning for one in tested) / n.sum()),
        literal=(sum(one.literal_matched for one in tested), sum(one.n_literal for one in tested)),
        by_chance=rounded(column(tested, "by_chance").mean()),
        rate=rounded(rates.mean()),
        percentile=rounded(percentiles.mean()),
        quartiles=(rounded(quarter), rounded(half), rounded(three)),
        top=rounded((percentiles >= TOP).mean()),
        top_interval=_middle(draws @ (percentiles >= TOP), draws.sum(1)),
        auroc_rate=by_rate,
        auroc_rate_interval=rate_interval,
        auroc_percentile=by_percentile,
        auroc_percentile_interval=interval,
    )


def _apart(
    true: Sequence[Outcome], others: Sequence[Outcome], name: str, seed: int
) -> tuple[float, Interval]:
    """The area, and its interval; what belongs to one true explanation is drawn together on both sides."""
    tested = [one for one in true if one.rate is not None]
    mine, theirs = column(tested, name), column(others, name)
    wins = (np.sign(mine[:, None] - theirs[None, :]) + 1) / 2
    here, there = _draws(tested, seed), _draws(others, seed)
    return rounded(wins.mean()), _middle(((here @ wins) * there).sum(1), here.sum(1) * there.sum(1))


def _draws(outcomes: Sequence[Outcome], seed: int) -> Values:
    """(N_BOOTSTRAP, n) how often each is drawn: the same draw for all kinds, by the place of its true explanation."""
    place = {text: i for i, text in enumerate(dict.fromkeys(one.true for one in outcomes))}
    drawn = rng(seed, "true explanations").multinomial(len(place), [1 / len(place)] * len(place), N_BOOTSTRAP)
    return np.asarray(drawn[:, [place[one.true] for one in outcomes]], np.float64)


def column(outcomes: Sequence[Outcome], name: str) -> Values:
    """One number of each."""
    return np.array([getattr(one, name) for one in outcomes], np.float64)


def _middle(sums: Values, totals: Values) -> Interval:
    low, high = np.quantile(sums / totals, [0.025, 0.975]).tolist()
    return rounded(low), rounded(high)


def rounded(value: float) -> float:
    """As it is kept: the fifth digit would differ from machine to machine."""
    return round(float(value), 4)
