"""From a scorer's answers about one feature to a row of the table of scores. Pure functions.

Trials are taken as independent. delphi asks five at once, so answers of one request may go together, and a file does
not say how far: intervals are, if anything, too short.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from pipeline.importers.results.records import Answer, ScoreFile, Simulated
from saeinterp_mcp.analysis.rule_scores import Interval, PredictedRows, auroc

Z = 1.959963984540054
"""Of two-sided 95 %."""
BATCH = 5
"""Examples that delphi puts into a request (`num_examples_per_scorer_prompt`, its default)."""
MIN_RANKED = 5
"""Trials of either class, under which an AUROC has no interval: its variance is estimated from too few."""
NO_INTERVAL = Interval(math.nan, math.nan, math.nan)


class Statistics(NamedTuple):
    """The columns of a row of the table of scores that answers decide; None is null."""

    score: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    n_failed: int = 0
    n_batches_failed: int | None = None
    tp: int | None = None
    fp: int | None = None
    tn: int | None = None
    fn: int | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    balanced_low: float | None = None
    balanced_high: float | None = None
    f1: float | None = None
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    chance_low: float | None = None
    chance_high: float | None = None
    quantiles: tuple[dict[str, Any], ...] = ()
    reason: str | None = None


def statistics_of(file: ScoreFile) -> Statistics:
    """What a file says, whatever its method."""
    if file.method == "simulation":
        return of_simulation(file.simulated)
    if file.method == "intruder":
        return of_choices(file.answers)
    of = of_yes_and_no if file.method in ("fuzz", "detection") else of_ranking
    return of(file.answers, first_quantile(file))


def first_quantile(file: ScoreFile) -> int:
    """The distance of a text of the strongest quantile."""
    return 1 if file.generation == "article_version" else 0


def of_yes_and_no(answers: Sequence[Answer], first: int = 0) -> Statistics:
    """Fuzz and detection: balanced accuracy, with what else the counts say."""
    read = [(a, said) for a in answers if (said := prediction_of(a)) is not None]
    tp, fp, tn, fn = confusion([(a.activating, said) for a, said in read])
    balanced = balanced_accuracy(tp, fp, tn, fn)
    ranked = [a for a, _ in read]
    ranking = ranking_of(ranked) if all(a.value is not None for a in ranked) else NO_INTERVAL
    chance = chance_of_counts(tp, fp, tn, fn)
    right = [(a, float(a.activating == said)) for a, said in read]
    return Statistics(
        score=_known(balanced.value),
        low=_known(balanced.low),
        high=_known(balanced.high),
        n=len(read),
        n_failed=len(answers) - len(read),
        n_batches_failed=batches_failed(answers),
        tp=tp,
        fp=fp,
        tn=tn,
        fn=fn,
        accuracy=(tp + tn) / len(read) if read else None,
        balanced_accuracy=_known(balanced.value),
        balanced_low=_known(balanced.low),
        balanced_high=_known(balanced.high),
        f1=2 * tp / (2 * tp + fp + fn) if tp + fn else None,
        auroc=_known(ranking.value),
        auroc_low=_known(ranking.low),
        auroc_high=_known(ranking.high),
        chance_low=_known(chance.low),
        chance_high=_known(chance.high),
        quantiles=_by_quantile([(a, x) for a, x in right if a.activating], first, fmean),
        reason=_one_class(tp + fn, fp + tn),
    )


def of_ranking(answers: Sequence[Answer], first: int = 0) -> Statistics:
    """Embedding and surprisal: AUROC of what ranks, and where it lies when the ranking knows nothing."""
    read = [a._replace(activating=fires(a)) for a in answers if a.value is not None]
    positive = [a for a in read if a.activating]
    ranking = ranking_of(read)
    chance = chance_of_ranking(len(positive), len(read) - len(positive))
    negative = [_value(a) for a in read if not a.activating]
    score, low, high = _known(ranking.value), _known(ranking.low), _known(ranking.high)
    return Statistics(
        score=score,
        low=low,
        high=high,
        n=len(read),
        n_failed=len(answers) - len(read),
        auroc=score,
        auroc_low=low,
        auroc_high=high,
        chance_low=_known(chance.low),
        chance_high=_known(chance.high),
        quantiles=_by_quantile([(a, _value(a)) for a in positive], first, lambda mine: _above(mine, negative))
        if negative
        else (),
        reason=_one_class(len(positive), len(negative)),
    )


def of_choices(answers: Sequence[Answer]) -> Statistics:
    """Intruder: the share of right choices, beside that of a blind one."""
    read = [(a, float(said)) for a in answers if (said := prediction_of(a)) is not None]
    right = [x for _, x in read]
    share = wilson(int(sum(right)), len(right))
    blind = fmean(1 / a.n_choices for a, _ in read) if read else math.nan
    reach = Z * math.sqrt(blind * (1 - blind) / len(read)) if read else math.nan
    return Statistics(
        score=_known(share.value),
        low=_known(share.low),
        high=_known(share.high),
        n=len(read),
        n_failed=len(answers) - len(read),
        accuracy=_known(share.value),
        chance_low=max(0.0, blind - reach) if read else None,
        chance_high=min(1.0, blind + reach) if read else None,
        quantiles=_by_quantile(read, 0, fmean),
        reason=None if read else "no answer could be read",
    )


def of_simulation(groups: Sequence[Simulated]) -> Statistics:
    """The correlation over all texts (group 0); those of quantiles stay apart from it.

    There is no interval: tokens of one text are not independent, and the file does not say which are of one.
    """
    overall = next((g for g in groups if g.distance == 0), None)
    quantiles = tuple(
        {"quantile": g.distance - 1, "n": g.n, "value": g.correlation}
        for g in sorted(groups, key=lambda g: g.distance)
        if g.distance > 0
    )
    reason = None
    if overall is None:
        reason = (
            "no group over all texts: delphi leaves it out where it has no silent ones"
            if groups
            else "the file is empty"
        )
    elif overall.correlation is None:
        reason = "nan: what was simulated, or the activations, are the same everywhere"
    return Statistics(
        score=None if overall is None else overall.correlation,
        n=0 if overall is None or overall.correlation is None else overall.n,
        n_failed=sum(g.correlation is None for g in groups),
        quantiles=quantiles,
        reason=reason,
    )


def prediction_of(answer: Answer) -> bool | None:
    """What the scorer said; worked out of `correct` where only that was kept."""
    if answer.prediction is not None or answer.correct is None:
        return answer.prediction
    return answer.activating == answer.correct


def fires(answer: Answer) -> bool:
    """Whether the text of an embedding fires the feature; files say it by `distance` alone.

    Quantiles are whole numbers from 0. -1 is a random text. Any other number is minus a neighbour's likeness: also one
    above 0, which SAE_vis took for a text that fires, and -0.0.
    """
    whole = float(answer.distance).is_integer() and math.copysign(1.0, answer.distance) > 0
    return answer.activating and whole


def confusion(pairs: Sequence[tuple[bool, bool]]) -> tuple[int, int, int, int]:
    """tp, fp, tn, fn of (fires, predicted)."""
    tp = sum(fires and said for fires, said in pairs)
    fp = sum(said and not fires for fires, said in pairs)
    n_firing = sum(fires for fires, _ in pairs)
    return tp, fp, len(pairs) - n_firing - fp, n_firing - tp


def wilson(k: int, n: int) -> Interval:
    """A share with Wilson's 95 % interval (1927); it holds for small n."""
    if not n:
        return NO_INTERVAL
    p, square = k / n, Z * Z
    middle = (p + square / (2 * n)) / (1 + square / n)
    reach = Z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    low = 0.0 if k == 0 else middle - reach
    return Interval(p, low, 1.0 if k == n else middle + reach)


def balanced_accuracy(tp: int, fp: int, tn: int, fn: int) -> Interval:
    """The mean of the two classes' shares of right answers; NaN where a class is missing.

    The interval is MOVER on the two Wilson intervals (Zou and Donner 2008), as `analysis.intervals.contrast` makes it.
    """
    if not tp + fn or not tn + fp:
        return NO_INTERVAL
    hits, rejections = wilson(tp, tp + fn), wilson(tn, tn + fp)
    value = (hits.value + rejections.value) / 2
    below = math.hypot(hits.value - hits.low, rejections.value - rejections.low) / 2
    above = math.hypot(hits.high - hits.value, rejections.high - rejections.value) / 2
    return Interval(value, max(0.0, value - below), min(1.0, value + above))


def chance_of_counts(tp: int, fp: int, tn: int, fn: int) -> Interval:
    """Where 95 % of balanced accuracies lie when answers have nothing to do with the texts.

    The same number of yes and no, dealt at random: the hypergeometric variance of tp, normal approximation.
    """
    firing, silent = tp + fn, tn + fp
    n, said = firing + silent, tp + fp
    if not firing or not silent or n < 2:
        return NO_INTERVAL
    variance = said * (firing / n) * (silent / n) * (n - said) / (n - 1)
    return _around_half(math.sqrt(variance) * (1 / firing + 1 / silent) / 2)


def chance_of_ranking(n_firing: int, n_silent: int) -> Interval:
    """The same of an AUROC: the variance of Mann and Whitney's U without ties, normal approximation."""
    if not n_firing or not n_silent:
        return NO_INTERVAL
    return _around_half(math.sqrt((n_firing + n_silent + 1) / (12 * n_firing * n_silent)))


def _around_half(deviation: float) -> Interval:
    return Interval(0.5, max(0.0, 0.5 - Z * deviation), min(1.0, 0.5 + Z * deviation))


def ranking_of(answers: Sequence[Answer]) -> Interval:
    """AUROC of the values with DeLong's interval on the logit scale (`analysis.rule_scores.auroc`), ties half."""
    positive = np.array([a.activating for a in answers], bool)
    n, n_firing = len(positive), int(positive.sum())
    if not n_firing or n_firing == n:
        return NO_INTERVAL
    ranks = np.unique([_value(a) for a in answers], return_inverse=True)[1].astype(np.float64) + 1
    found = auroc(PredictedRows(np.arange(n), n, positive), positive, ranks)
    if min(n_firing, n - n_firing) < MIN_RANKED:
        return Interval(found.value, math.nan, math.nan)
    return Interval(*map(float, found))


def batches_failed(answers: Sequence[Answer]) -> int:
    """Whole requests without an answer: delphi takes none of five where one cannot be read, and loses the last when
    it is short."""
    unread = [prediction_of(a) is None for a in answers]
    return sum(all(unread[i : i + BATCH]) for i in range(0, len(unread), BATCH))


def _by_quantile(
    pairs: Sequence[tuple[Answer, float]], first: int, value: Callable[[list[float]], float]
) -> tuple[dict[str, Any], ...]:
    """quantile (0 the strongest), n and value of each, ascending."""
    parts: dict[int, list[float]] = {}
    for answer, number in pairs:
        if float(answer.distance).is_integer():
            parts.setdefault(int(answer.distance) - first, []).append(number)
    return tuple(
        {"quantile": quantile, "n": len(mine), "value": value(mine)}
        for quantile, mine in sorted(parts.items())
    )


def _above(mine: Sequence[float], others: Sequence[float]) -> float:
    """AUROC of some values against others."""
    a, b = np.array(mine)[:, None], np.array(others)
    return float(((a > b) + (a == b) / 2).mean())


def _one_class(n_firing: int, n_silent: int) -> str | None:
    if n_firing and n_silent:
        return None
    if not n_firing and not n_silent:
        return "no answer could be read"
    return f"answers to {n_firing} texts that fire and {n_silent} silent ones: both are needed"


def _value(answer: Answer) -> float:
    assert answer.value is not None, "answers without a value were left out"
    return answer.value


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
