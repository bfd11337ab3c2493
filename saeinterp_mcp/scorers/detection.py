"""Detection: in which of these excerpts does the feature fire?"""

from collections.abc import Mapping, Sequence
from typing import Any

from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.excerpts.show import plain
from saeinterp_mcp.scorers.base import Answer, Grade, InvalidAnswer, Scorer, Trial
from saeinterp_mcp.scorers.grading import grade_probabilities, is_number
from saeinterp_mcp.scorers.judging import answers_schema, ask, read_answers
from saeinterp_mcp.scorers.trials import Part, firing_and_silent, in_order
from saeinterp_mcp.store.base import Store

AT_ONCE = 10
TOKENS_OF_AN_ANSWER = 30
"""Room in the answer for one trial; an entry takes about 15."""
SCHEMA = answers_schema("probability", {"type": "integer"})


class YesOrNo(Scorer):
    """Trials that are answered by a probability."""

    def requests(self, claim: str, trials: Sequence[Trial]) -> list[tuple[Request, tuple[Trial, ...]]]:
        """Ten trials in one."""
        return ask(
            self.name, claim, trials, AT_ONCE, SCHEMA, lambda part: 200 + TOKENS_OF_AN_ANSWER * len(part)
        )

    def read(self, trials: Sequence[Trial], reply: Reply) -> dict[str, Answer]:
        """Percents become probabilities."""
        return read_answers(trials, reply, "probability", _probability)

    def grade(self, trials: Sequence[Trial], answers: Mapping[str, Answer]) -> Grade:
        """Balanced accuracy, and AUROC beside it."""
        return grade_probabilities(trials, answers)


class Detection(YesOrNo):
    """Half of the excerpts fire somewhere, half are silent at every token: random, near misses, similar features."""

    name = "detection"
    needs = "judge"

    def make(self, store: Store, feature: int, n: int, seed: int) -> tuple[Trial, ...]:
        """Firing ones are spread over the deciles of activation."""
        parts = detection_parts(store, feature, n, seed)
        return in_order(parts, seed, self.name, feature)


def detection_parts(store: Store, feature: int, n: int, seed: int) -> list[Part]:
    """Trials before they have an order; whoever answers them."""
    return firing_and_silent(
        Excerpts(store),
        feature,
        n,
        seed,
        lambda e: Part("firing", plain(e), 1.0, (e,)),
        lambda kind, e: Part(kind, plain(e), 0.0, (e,)),
    )


def _probability(trial: Trial, value: Any) -> float:
    if not is_number(value, 0, 100):
        raise InvalidAnswer("a probability that is no number from 0 to 100")
    return float(value) / 100
