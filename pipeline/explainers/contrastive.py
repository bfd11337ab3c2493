"""Contrastive: what do excerpts where it fires have that others, as like them as can be found, do not?"""

from typing import ClassVar

from pipeline.explainers.asking import AskingExplainer, Count
from pipeline.explainers.material import SILENT_IN_WORDS, hard_negatives, shown_silent
from pipeline.explainers.statistics import statistics
from saeinterp_mcp.clients.base import Request
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.store.base import Store


class Contrastive(AskingExplainer):
    """Shows the same as max_activating, and hard negatives beside them."""

    name: ClassVar[str] = "contrastive"
    n_near_miss: Count = 6
    """Silent excerpts with the tokens that go most with firing."""
    n_similar: Count = 6
    """Silent excerpts where similar features fire."""
    statistics: bool | None = None
    """As in max_activating."""

    def request(self, store: Store, feature: int, seed: int) -> Request:
        """What to ask a language model; NotInStore too where the feature is silent in no excerpt."""
        store.check_feature(feature)
        silent = hard_negatives(
            self._excerpts(store), feature, {"near_miss": self.n_near_miss, "similar": self.n_similar}, seed
        )
        drawn = [excerpt for kind in silent.values() for excerpt in kind]
        if not drawn:
            raise NotInStore(
                f"feature {feature} of store {store.name!r} is silent in no excerpt of the explain split, so there is "
                f"nothing to hold its firing against; explain it with max_activating"
            )
        kinds = ", ".join(f"{len(found)} {SILENT_IN_WORDS[kind]}" for kind, found in silent.items())
        return self._request(
            store,
            feature,
            seed,
            n_silent=str(len(drawn)),
            silent_kinds=kinds,
            silent=shown_silent(drawn),
            statistics=statistics(store, feature, seed, self.statistics),
        )
