"""What explainers that ask a language model have in common: excerpts in the request, one way of answering."""

from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.explainers.answer import ANSWER_SCHEMA, MAX_ANSWER_TOKENS, read_answer
from pipeline.explainers.base import Explainer, Explanation
from pipeline.explainers.material import firing_excerpts, firing_rate_in_words, scale_of, shown_firing
from pipeline.explainers.wording import wording
from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.store.base import Store

Count = Annotated[int, Field(ge=0, le=500)]
AtLeastOne = Annotated[int, Field(ge=1, le=500)]


class AskingExplainer(Explainer):
    """Shows excerpts where the feature fires, and more; a language model answers."""

    name: ClassVar[str]
    n_top: AtLeastOne = 6
    """Strongest excerpts."""
    n_spread: Count = 10
    """Excerpts from the whole range of its activations."""
    before: Count = 24
    """Tokens of an excerpt before the one that fires (sequences)."""
    after: Count = 7
    """Tokens behind it."""
    think_tokens: int = Field(default=0, ge=0)
    """Room in the answer for a model that thinks first."""

    def read(self, store: Store, reply: Reply) -> Explanation:
        """The explanation in an `answered` reply."""
        return read_answer(store, reply)

    def _excerpts(self, store: Store) -> Excerpts:
        return Excerpts(store, self.before, self.after)

    def _request(self, store: Store, feature: int, seed: int, **material: str) -> Request:
        """The request of this explainer: what all of them show, and `material` of its own."""
        store.check_feature(feature)
        firing = firing_excerpts(self._excerpts(store), feature, self.n_top, self.n_spread, seed)
        words = wording(
            self.name,
            store,
            firing_rate=firing_rate_in_words(store, feature),
            scale=scale_of(store, feature)[1],
            n_firing=str(len(firing)),
            firing=shown_firing(store, feature, firing),
            **material,
        )
        return Request(
            system=words.system,
            user=words.user,
            answer_schema=ANSWER_SCHEMA,
            max_tokens=MAX_ANSWER_TOKENS,
        ).with_room(self.think_tokens)
