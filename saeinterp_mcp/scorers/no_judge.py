"""Tests that no judge sits: the answers are worked out, and their order is graded."""

from collections.abc import Mapping, Sequence

from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.scorers.base import Answer, Grade, InvalidAnswer, Scorer, Trial
from saeinterp_mcp.scorers.detection import detection_parts
from saeinterp_mcp.scorers.grading import grade_ranking
from saeinterp_mcp.scorers.trials import in_order
from saeinterp_mcp.store.base import Store


class Ranking(Scorer):
    """The trials of detection, put in an order by how well the claim fits."""

    def make(self, store: Store, feature: int, n: int, seed: int) -> tuple[Trial, ...]:
        """Firing ones are spread over the deciles of activation."""
        return in_order(detection_parts(store, feature, n, seed), seed, self.name, feature)

    def requests(self, claim: str, trials: Sequence[Trial]) -> list[tuple[Request, tuple[Trial, ...]]]:
        """None."""
        return []

    def read(self, trials: Sequence[Trial], reply: Reply) -> dict[str, Answer]:
        """Nothing was asked."""
        raise InvalidAnswer(f"{self.name} asks no judge")

    def grade(self, trials: Sequence[Trial], answers: Mapping[str, Answer]) -> Grade:
        """AUROC; there is no yes or no."""
        return grade_ranking(trials, answers)
