"""Which words go with firing: shrunken log-odds of words in firing excerpts against a background of the same data."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
PRIOR = 1.0
"""Excerpts that the prior counts for: each side is shrunken towards what both hold together."""
PRIOR_LEAST = 0.5
"""Of them with the word, and of them without it, at least: a word the background lacks is not infinitely rare."""
MIN_UNITS = 2


class Held(NamedTuple):
    """Which words excerpts hold."""

    n: int
    """Excerpts, of different units where they are firing ones."""
    unit: Ints
    """(n,) unit of each excerpt."""
    entry: Ints
    """(E,) index of the excerpt of each entry."""
    word: Ints
    """(E,) index of a word that it holds; each once."""

    def counts(self, n_words: int) -> Ints:
        """(W,) excerpts that hold each word."""
        return np.bincount(self.word, minlength=n_words)

    def without(self, word: int) -> "Held":
        """The excerpts that do not hold a word."""
        lacks = np.ones(self.n, bool)
        lacks[self.entry[self.word == word]] = False
        kept = lacks[self.entry]
        place = np.cumsum(lacks) - 1
        return Held(int(lacks.sum()), self.unit[lacks], place[self.entry[kept]], self.word[kept])


class Found(NamedTuple):
    """A word that goes with firing; counts and log-odds are of all excerpts."""

    word: int
    log_odds: float
    n_firing: int
    """Firing excerpts that hold it."""
    n_background: int
    """Excerpts of the background that hold it."""


def shrunken_log_odds(firing: Held, background: Held, n_words: int) -> Floats:
    """(W,) log-odds ratio of each word, firing excerpts against the background; what is counted are excerpts.

    Monroe, Colaresi and Quinn 2008 (Fightin' Words), equation 16, with the informative prior of their section 3.5.1
    (the share among all excerpts).
    """
    one, other = firing.counts(n_words).astype(float), background.counts(n_words).astype(float)
    share = (one + other) / max(1, firing.n + background.n)
    prior, rest = (np.maximum(PRIOR_LEAST, PRIOR * part) for part in (share, 1 - share))

    def log_odds(k: Floats, n: int) -> Floats:
        return np.asarray(np.log((k + prior) / (n - k + rest)))

    return log_odds(one, firing.n) - log_odds(other, background.n)


def z_scores(firing: Held, background: Held, n_words: int) -> Floats:
    """(W,) how sure the difference is: the signed root of the likelihood ratio of two shares (Wilks).

    Not the paper's delta / sd, whose sd leaves out the excerpts without the word: of two words as frequent in firing
    excerpts it puts the one first that is more frequent in the background.
    """
    from scipy.special import xlogy

    one, other = firing.counts(n_words).astype(float), background.counts(n_words).astype(float)
    share = (one + other) / max(1, firing.n + background.n)
    ratio = np.zeros(n_words)
    for k, n in ((one, firing.n), (other, background.n)):
        for part, expected in ((k, n * share), (n - k, n * (1 - share))):
            ratio += xlogy(part, np.divide(part, expected, out=np.ones(n_words), where=expected > 0))
    sign = np.sign(one / max(1, firing.n) - other / max(1, background.n))
    return np.asarray(sign * np.sqrt(2 * np.maximum(ratio, 0)))


def chance_of(background: Held, n_words: int) -> Floats:
    """(W,) chance that an excerpt of some unit holds a word, on the high side.

    The larger of the share of excerpts and of the mean share by unit, since firing excerpts are one a unit and rows
    are not; one excerpt is added, so that nothing is impossible.
    """
    _, unit = np.unique(background.unit, return_inverse=True)
    size = np.bincount(unit, minlength=1).astype(float)
    weight = 1 / size[unit] / len(size) if background.n else np.zeros(0)
    by_unit = np.bincount(background.word, weight[background.entry], n_words)
    by_excerpt = (background.counts(n_words) + 1) / (background.n + 1)
    return np.asarray(np.minimum(1.0, np.maximum(by_unit, by_excerpt)))


def above_chance(n_firing: Ints, n: int, chance: Floats, level: float) -> NDArray[np.bool_]:
    """(W,) whether so many of `n` firing excerpts hold the word by chance with a probability of at most `level`."""
    from scipy.special import bdtrc

    p = np.where(n_firing > 0, bdtrc(np.maximum(n_firing - 1.0, 0.0), n, chance), 1.0)
    return np.asarray((n_firing >= MIN_UNITS) & (p <= level))


def find_words(firing: Held, background: Held, n_words: int, most: int, level: float) -> list[Found]:
    """Up to `most` words, the surest first, each chosen for the firing excerpts that hold none before it.

    So the second word tells more than the first one's company: what always stands beside it adds nothing. Of searches
    in which no word goes with firing, a share of `level` at most find one: all words are tested (Bonferroni).
    """
    log_odds = shrunken_log_odds(firing, background, n_words)
    one, other = firing.counts(n_words), background.counts(n_words)
    n_tested = max(1, int(((one + other) > 0).sum()))
    found: list[Found] = []
    left, silent = firing, background
    while len(found) < most and left.n >= MIN_UNITS and silent.n:
        sure = above_chance(left.counts(n_words), left.n, chance_of(silent, n_words), level / n_tested)
        z = z_scores(left, silent, n_words)
        good = np.flatnonzero(sure & (z > 0) & (log_odds > 0))
        if not len(good):
            break
        best = int(good[np.lexsort((good, -np.round(z[good], 9)))[0]])
        found.append(Found(best, float(log_odds[best]), int(one[best]), int(other[best])))
        left, silent = left.without(best), silent.without(best)
    return found
