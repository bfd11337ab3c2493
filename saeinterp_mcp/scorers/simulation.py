"""Simulation: how strongly does the feature fire at each token?"""

from collections.abc import Mapping, Sequence
from typing import Any

from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.excerpts.records import Excerpt
from saeinterp_mcp.excerpts.show import plain
from saeinterp_mcp.scorers.base import Answer, Grade, InvalidAnswer, Scorer, Trial
from saeinterp_mcp.scorers.grading import HIGHEST, grade_numbers, is_number
from saeinterp_mcp.scorers.judging import answers_schema, ask, read_answers, token_list
from saeinterp_mcp.scorers.trials import Part, firing_and_silent, in_order
from saeinterp_mcp.store.base import Store

AT_ONCE = 5
TOKENS_OF_A_NUMBER = 4
"""Room in the answer for one number with its comma; it takes 2 or 3."""
SCHEMA = answers_schema("numbers", {"type": "array", "items": {"type": "number"}})


class Simulation(Scorer):
    """Numbers for all tokens of firing and silent excerpts, correlated with the activations."""

    name = "simulation"
    needs = "judge"

    def make(self, store: Store, feature: int, n: int, seed: int) -> tuple[Trial, ...]:
        """The truth is the activation on a scale on which the strongest of all trials is 10."""
        kept = Excerpts(store)
        parts = firing_and_silent(
            kept,
            feature,
            n,
            seed,
            lambda e: Part("firing", _shown(store, e), list(e.activations), (e,)),
            lambda kind, e: Part(kind, _shown(store, e), list(e.activations), (e,)),
        )
        top = max(e.strongest for part in parts for e in part.excerpts)
        scaled = [
            part._replace(truth=[HIGHEST * a / top for a in part.excerpts[0].activations]) for part in parts
        ]
        return in_order(scaled, seed, self.name, feature)

    def requests(self, claim: str, trials: Sequence[Trial]) -> list[tuple[Request, tuple[Trial, ...]]]:
        """Five trials in one."""
        return ask(self.name, claim, trials, AT_ONCE, SCHEMA, _room)

    def read(self, trials: Sequence[Trial], reply: Reply) -> dict[str, Answer]:
        """A list of another length than its excerpt leaves that trial without an answer."""
        return read_answers(trials, reply, "numbers", _numbers)

    def grade(self, trials: Sequence[Trial], answers: Mapping[str, Answer]) -> Grade:
        """Correlation over all tokens of answered trials."""
        return grade_numbers(trials, answers)


def _shown(store: Store, excerpt: Excerpt) -> str:
    return token_list(excerpt.tokens) if store.is_sequence else plain(excerpt)


def _room(trials: Sequence[Trial]) -> int:
    return 200 + sum(30 + TOKENS_OF_A_NUMBER * len(t.excerpts[0].activations) for t in trials)


def _numbers(trial: Trial, value: Any) -> list[float] | None:
    if not isinstance(value, list) or not all(is_number(one, 0, HIGHEST) for one in value):
        raise InvalidAnswer("numbers that are no list of numbers from 0 to 10")
    return [float(one) for one in value] if len(value) == len(trial.excerpts[0].activations) else None
