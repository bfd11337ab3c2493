"""Max-activating: what do the excerpts where it fires have in common?"""

from typing import ClassVar

from pipeline.explainers.asking import AskingExplainer
from pipeline.explainers.statistics import statistics
from saeinterp_mcp.clients.base import Request
from saeinterp_mcp.store.base import Store


class MaxActivating(AskingExplainer):
    """Shows the strongest excerpts and some of the whole range."""

    name: ClassVar[str] = "max_activating"
    statistics: bool | None = None
    """Whether to show what goes most with firing, counted on more excerpts; None: in sets, where nothing is marked."""

    def request(self, store: Store, feature: int, seed: int) -> Request:
        """What to ask a language model."""
        return self._request(
            store, feature, seed, statistics=statistics(store, feature, seed, self.statistics)
        )
