"""The scripted reader, behind the fake server: explains by what tells firing rows from the rest of what it is shown,
and judges a claim at its word. It is no language model: it has the request's text, a fixed procedure, and no wit.

    python -m tests.providers.fake_server --behaviour benchmarks.autointerp.planted.reader:behave

Its thresholds were fixed on worlds of seed 101, which is in no table.
"""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.autointerp.planted.claims import Form, Formula, read_claim, rule_of
from benchmarks.autointerp.planted.evidence import Evidence, by_level, read_evidence, rows_of

LEAST = {"few": 0.8, "counted": 0.55, "tokens": 0.65}
"""Balanced accuracy from which a claim is made: on few excerpts, with statistics, on the tokens of texts."""
LEAST_ALONE = 0.75
"""Share of firing excerpts that hold it, where nothing silent is shown."""
GAIN = {"few": 0.15, "counted": 0.08}
"""What a second item has to add: on few excerpts there is always a pair that fits by chance."""
CLEARLY = 2.0
"""How many times more often a word fires than is silent, both as shares, to be named; and where silent, the inverse."""
COST_OF_A_WORD = 0.01
"""In balanced accuracy: "none of these twelve" is the worse way to name one."""
MIN_SEEN = 3
"""Tokens of a word that fires, to be named."""
_MARK = re.compile(r"<<(.*?)>>")
_ENTRY = re.compile(r"(t\d+): (.*)")
Bools = NDArray[np.bool_]


class Found(NamedTuple):
    """A claim and how well it fits what is shown."""

    formula: Formula
    fit: float


def behave(system: str, user: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An answer to an explainer's request or to a scorer's."""
    return judged(system, user) if system.startswith("You test a claim") else explained(user)


def explained(user: str) -> dict[str, Any]:
    """A claim, or unclear."""
    evidence = read_evidence(user)
    found = _in_texts(evidence) if evidence.in_text else _in_sets(evidence)
    if found is None:
        return _answer("No single item tells them apart.", "unclear", "unclear", "present", 0, None)
    formula, fit = found
    granularity = "token" if len(formula.items) == 1 or evidence.in_text else "combination"
    polarity = "absent" if formula.form == "none" else "present"
    rule = rule_of(formula, evidence.in_text)
    return _answer(formula.said, formula.label, granularity, polarity, round(100 * fit), rule)


def judged(system: str, user: str) -> dict[str, Any]:
    """An entry for every trial: whether any token (set) shown, or how many of the marked ones, are as claimed."""
    lines = user.split("\n")
    formula = read_claim(" ".join(lines[lines.index("<claim>") + 1 : lines.index("</claim>")]))
    entries = []
    for line in lines[lines.index("<excerpts>") + 1 : lines.index("</excerpts>")]:
        if (found := _ENTRY.fullmatch(line)) is None:
            continue
        in_text = not re.search(r"(^|; )tokens: ", found[2])
        marks = _MARK.findall(found[2]) if "<<so>>" in system else []
        fits = [formula.holds(row) for row in rows_of(" ".join(marks) or found[2], in_text)]
        likely = sum(fits) / max(1, len(fits)) if marks else any(fits)
        entries.append({"id": found[1], "probability": round(100 * likely)})
    return {"answers": entries}


def _in_texts(evidence: Evidence) -> Found | None:
    """The words that fire clearly more often than they are silent; or all but those that hardly fire."""
    shares = dict(evidence.shares)
    n_firing, n_silent = len(evidence.firing), len(evidence.silent)
    words = sorted({name for row in (*evidence.firing, *evidence.silent) for name in row.names})
    seen = {word: sum(word in row for row in evidence.firing) for word in words}
    for word in words:
        if not evidence.shares or word not in shares:
            rests = sum(word in row for row in evidence.silent)
            shares[word] = (seen[word] / max(1, n_firing), rests / max(1, n_silent))
    known = set(words) & set(evidence.shares or words)
    more = sorted(w for w in known if shares[w][0] > CLEARLY * shares[w][1] and seen.get(w, 0) >= MIN_SEEN)
    less = sorted(w for w in known if shares[w][1] > CLEARLY * shares[w][0])
    forms: list[tuple[Form, list[str]]] = [("any", more), ("none", less)]
    fits = [
        Found(Formula(form, tuple(named)), (1 + sign * sum(shares[w][0] - shares[w][1] for w in named)) / 2)
        for form, named, sign in ((f, n, 1 if f == "any" else -1) for f, n in forms)
        if named
    ]
    best = max(fits, key=lambda found: found.fit - COST_OF_A_WORD * len(found.formula.items), default=None)
    if best is None or evidence.nothing_goes:
        return None
    return best if best.fit >= LEAST["counted" if evidence.shares else "tokens"] else None


def _in_sets(evidence: Evidence) -> Found | None:
    """The simplest claim that fits best; a second item has to earn its place."""
    if evidence.nothing_goes:
        return None
    counted = by_level(evidence)
    items = sorted(counted) or sorted(
        {item for row in (*evidence.firing, *evidence.silent) for item in row.items()}
    )
    if not items:
        return None
    if not counted and not evidence.silent:
        return _common(evidence, items)
    fit = _Fit(evidence, items, counted)
    one = max((fit.of(places) for places in _ones(len(items))), key=lambda found: found.fit)
    two = max((fit.of(places) for places in _twos(items)), key=lambda found: found.fit, default=one)
    shown = "counted" if counted else "few"
    best = two if two.fit >= one.fit + GAIN[shown] else one
    return best if best.fit >= LEAST[shown] else None


def _common(evidence: Evidence, items: list[str]) -> Found | None:
    """What most firing excerpts have; how common it is elsewhere nobody says."""
    share = {item: sum(item in row for row in evidence.firing) / len(evidence.firing) for item in items}
    # of levels that are as common, the highest says most
    best = max(items, key=lambda item: (share[item], int(item.partition(">=")[2] or 0)))
    return Found(Formula("any", (best,)), share[best]) if share[best] >= LEAST_ALONE else None


Places = tuple[Form, tuple[int, ...]]


def _ones(n: int) -> Iterator[Places]:
    for i in range(n):
        yield "any", (i,)
        yield "none", (i,)


def _twos(items: list[str]) -> Iterator[Places]:
    """Two items of different families or groups."""
    about = [re.split(">=|=", item)[0] for item in items]
    for pair in combinations(range(len(items)), 2):
        if about[pair[0]] != about[pair[1]]:
            yield "any", pair
            yield "all", pair
            yield "either", pair
            yield "without", pair
            yield "without", pair[::-1]


class _Fit:
    """Balanced accuracy of claims on what is shown."""

    def __init__(self, evidence: Evidence, items: list[str], counted: dict[str, tuple[float, float]]) -> None:
        self.items, self.counted = items, counted
        self.firing, self.silent = (
            np.array([[item in row for row in rows] for item in items], bool).reshape(len(items), -1)
            for rows in (evidence.firing, evidence.silent)
        )

    def of(self, places: Places) -> Found:
        """Silent excerpts that were chosen for their likeness count as much as all silent ones of the statistics."""
        form, which = places
        items = tuple(self.items[i] for i in which)
        right = float(_mask(form, self.firing[list(which)]).mean())
        silent = []
        if self.silent.shape[1]:
            silent.append(float(_mask(form, self.silent[list(which)]).mean()))
        if self.counted:
            if len(items) == 1:
                p = self.counted[items[0]][0]
                right = p if form == "any" else 1 - p
            silent.append(_expected(form, [self.counted[item][1] for item in items]))
        return Found(Formula(form, items), (right + 1 - sum(silent) / len(silent)) / 2)


def _mask(form: Form, has: Bools) -> Bools:
    if form == "any":
        return np.asarray(has.any(0))
    if form == "all":
        return np.asarray(has.all(0))
    if form == "without":
        return np.asarray(has[0] & ~has[1])
    if form == "either":
        return np.asarray(has[0] ^ has[1])
    return np.asarray(~has.any(0))


def _expected(form: Form, shares: list[float]) -> float:
    """Share of silent rows where a claim holds, if its items had nothing to do with each other."""
    p, q = shares[0], shares[-1]
    if len(shares) == 1:
        return p if form == "any" else 1 - p
    return {"any": p + q - p * q, "all": p * q, "without": p * (1 - q), "either": p + q - 2 * p * q}[form]


def _answer(
    explanation: str, label: str, granularity: str, polarity: str, confidence: int, rule: str | None
) -> dict[str, Any]:
    answer = {"explanation": explanation, "label": label, "granularity": granularity, "polarity": polarity}
    return json.loads(json.dumps({**answer, "confidence": confidence, "rule": rule}))  # type: ignore[no-any-return]
