"""Intruder: which of five excerpts does not belong? A test of the feature, whatever was said about it."""

from collections.abc import Mapping, Sequence
from typing import Any

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.excerpts.records import Excerpt
from saeinterp_mcp.excerpts.show import plain
from saeinterp_mcp.scorers.base import Answer, Grade, InvalidAnswer, Scorer, Trial
from saeinterp_mcp.scorers.grading import MIN_PER_CLASS, grade_choices, is_number
from saeinterp_mcp.scorers.judging import answers_schema, ask, read_answers
from saeinterp_mcp.scorers.trials import Part, equal, firing_excerpts, in_order, silent_excerpts
from saeinterp_mcp.store.base import Store

N_FIRING = 4
N_SHOWN = N_FIRING + 1
AT_ONCE = 5
TOKENS_OF_AN_ANSWER = 30
SCHEMA = answers_schema("intruder", {"type": "integer"})


class Intruder(Scorer):
    """Four excerpts of about the same strength where the feature fires, and one where it is silent."""

    name = "intruder"
    needs = "judge"
    reads_claim = False

    def make(self, store: Store, feature: int, n: int, seed: int) -> tuple[Trial, ...]:
        """Each trial has five units of its own, so `n` trials take 5 n units: often there are fewer."""
        if n < MIN_PER_CLASS:
            raise BadInput(f"a test of {n} trials cannot be graded: ask for {MIN_PER_CLASS} or more")
        kept = Excerpts(store)
        # each trial needs a silent unit too: where firing ones took them all, none would be left
        n = min(n, max(MIN_PER_CLASS, (store.n_units("all") - store.n_units("explain")) // N_SHOWN))
        firing = firing_excerpts(kept, feature, N_FIRING * n, seed, N_FIRING * MIN_PER_CLASS)
        silent = silent_excerpts(kept, feature, len(firing) // N_FIRING, seed, firing, frozenset())
        n_trials = equal(kept, feature, len(firing) // N_FIRING, len(silent))
        parts = []
        for i, (kind, stranger) in enumerate(silent[:n_trials]):
            generator = rng(seed, "place of the intruder", feature, i)
            parts.append(
                _part(kind, firing[N_FIRING * i : N_FIRING * (i + 1)], stranger, generator.integers(N_SHOWN))
            )
        return in_order(parts, seed, self.name, feature)

    def requests(self, claim: str, trials: Sequence[Trial]) -> list[tuple[Request, tuple[Trial, ...]]]:
        """Five trials in one; the claim is not told."""
        return ask(
            self.name, None, trials, AT_ONCE, SCHEMA, lambda part: 200 + TOKENS_OF_AN_ANSWER * len(part)
        )

    def read(self, trials: Sequence[Trial], reply: Reply) -> dict[str, Answer]:
        """Numbers from 1 to 5."""
        return read_answers(trials, reply, "intruder", _choice)

    def grade(self, trials: Sequence[Trial], answers: Mapping[str, Answer]) -> Grade:
        """Share of intruders found; a guess finds one in five."""
        return grade_choices(trials, answers, N_SHOWN)


def _part(kind: str, firing: Sequence[Excerpt], stranger: Excerpt, place: Any) -> Part:
    shown = [*firing]
    shown.insert(int(place), stranger)
    text = "\n".join(f"{i}. {plain(e)}" for i, e in enumerate(shown, 1))
    return Part(kind, text, float(place + 1), tuple(shown))


def _choice(trial: Trial, value: Any) -> float:
    if not is_number(value, 1, N_SHOWN) or value != int(value):
        raise InvalidAnswer("an intruder that is no whole number from 1 to 5")
    return float(value)
