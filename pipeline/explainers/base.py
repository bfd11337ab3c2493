"""Explainer: one way of asking what a feature fires on. It sees the explain split alone and never calls a model."""

from typing import ClassVar, Literal

from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.base import Store

Granularity = Literal["token", "phrase", "syntax", "topic", "position", "combination", "output", "unclear"]
"""token: one token or its variants; phrase: a few in a row; syntax: a place in the grammar; topic: what a passage is
about; position: where in the sample; combination: several things together (sets); output: clear in what it promotes."""
Polarity = Literal["present", "absent"]
"""present: fires where the thing is there; absent: fires unless it is there."""


class Explanation(Frozen):
    """A claim about when a feature fires."""

    label: str
    """Under 10 words."""
    explanation: str
    """One or two sentences that a stranger can test."""
    granularity: Granularity
    polarity: Polarity
    confidence: float
    """Of the explainer, 0 to 1."""
    rule: str | None = None
    """The same as a rule of the store's grammar, where the explainer gave one that the store can read."""
    remarks: tuple[str, ...] = ()
    """What was done to the answer (a rule dropped, a label cut), for whoever reviews it; no part of the claim."""

    @property
    def is_unclear(self) -> bool:
        """Whether the explainer says that it saw no pattern; a legal answer."""
        return self.granularity == "unclear"


class InvalidExplanation(Exception):
    """A reply that is no explanation; the message is short, so that it can be counted."""


class Explainer(Frozen):
    """One way of explaining; its fields are its options, which belong to a run's fingerprint.

    Where `needs_model`, `request` and `read` are there and somebody else asks; else `explain` is there.
    """

    name: ClassVar[str]
    needs_model: ClassVar[bool] = True
    """False where the explanation is worked out from the store (search)."""

    def request(self, store: Store, feature: int, seed: int) -> Request:
        """What to ask a language model; corpus text is fenced as data.

        Raises:
            UnknownName: no such feature.
            NotInStore: there is nothing to show (the feature never fires in the explain split, no decoder).
        """
        raise NotImplementedError(f"{self.name} asks no model; call explain")

    def read(self, store: Store, reply: Reply) -> Explanation:
        """The explanation in an `answered` reply. A rule that the store cannot read is dropped with a remark.

        Raises:
            InvalidExplanation: there is none.
        """
        raise NotImplementedError(f"{self.name} asks no model; call explain")

    def explain(self, store: Store, feature: int, seed: int) -> Explanation:
        """The explanation, where no model is needed.

        Raises:
            UnknownName: no such feature.
            NotInStore: there is nothing to explain.
        """
        raise NotImplementedError(f"{self.name} asks a model; call request and read")
