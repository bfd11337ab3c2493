"""Scorer: makes trials from held-out samples and grades the answers. It never calls a model.

A language model, a recorded reply, an oracle and the agent itself can all sit the same test, because what they see
(`Trial.shown`) and how it is graded are apart from who answers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.excerpts.records import Excerpt
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.base import Store

Answer = float | list[float]
"""A probability from 0 to 1 that the trial is a positive one (more than one half is a yes, exactly one half is half
right); in simulation a number from 0 to 10 for each token; in intruder trials the number of the intruder."""


class InvalidAnswer(Exception):
    """A reply that answers something else; its trials stay unscored. The message is short: it is counted."""


class Trial(Frozen):
    """One question of a test. `shown` is all that whoever sits the test may see; the rest is the key."""

    trial_id: str
    """`t1`, `t2`, ... in the order shown, which tells nothing."""
    shown: str
    """The excerpt as text; corpus text made visible, marks that cannot be forged."""
    kind: str
    """`firing`, or why it is silent: `random`, `near_miss`, `similar`; of fuzzing `wrong_mark` too."""
    truth: Answer
    """The answer of an oracle."""
    excerpts: tuple[Excerpt, ...]
    """What it was made from: one, of an intruder trial several."""
    marked: tuple[int, ...] = ()
    """Which tokens of the excerpt are marked in `shown`, from 0; in fuzzing alone."""


class Grade(Frozen):
    """How the answers fared. A missing answer is unscored, never wrong or right."""

    measure: Literal["balanced_accuracy", "correlation", "auroc", "accuracy"]
    """What `score` is."""
    score: float | None
    low: float | None
    """Of the 95 % interval, by unit."""
    high: float | None
    floor: float
    """What is reached without any knowledge."""
    low_without_near_misses: float | None = None
    """`low` of the same without near misses. Those are chosen by their tokens, so that a claim about nothing can tell
    them apart, by the very tokens. `low` itself where there are none; null under 5 trials of a class without them."""
    auroc: float | None = None
    """P(a positive trial is given a higher probability than a negative one), ties half."""
    auroc_low: float | None = None
    auroc_high: float | None = None
    n: int
    """Scored trials."""
    n_units: int
    n_failed: int
    """Trials without an answer."""
    by_kind: dict[str, dict[str, float | int | None]]
    """Kind of trial to `n`, and `right`: the share answered rightly."""
    reason: str | None = None
    """Why estimates are null."""


class Scorer(ABC):
    """One way of testing a claim about a feature."""

    name: ClassVar[str]
    needs: ClassVar[Literal["judge", "embedder", "text_model"]]
    """Who answers: a language model (or the agent itself), the text embedder, the subject model."""
    reads_claim: ClassVar[bool] = True
    """False where the score is about the feature alone (intruder), and supports no label."""

    @abstractmethod
    def make(self, store: Store, feature: int, n: int, seed: int) -> tuple[Trial, ...]:
        """About `n` trials from the heldout split, one seed, one set; no two of one unit; classes of equal size.

        Raises:
            NotInStore: the store cannot be tested so (a sampled store, no held-out firings, a set where tokens matter).
        """

    @abstractmethod
    def requests(self, claim: str, trials: Sequence[Trial]) -> list[tuple[Request, tuple[Trial, ...]]]:
        """What to ask a judge, and which trials each request is about. The text of the claim is fenced as data."""

    @abstractmethod
    def read(self, trials: Sequence[Trial], reply: Reply) -> dict[str, Answer]:
        """Answers by trial id, out of an `answered` reply to a request about these trials.

        A trial that the reply leaves out is left out.

        Raises:
            InvalidAnswer: it is no answer to them.
        """

    @abstractmethod
    def grade(self, trials: Sequence[Trial], answers: Mapping[str, Answer]) -> Grade:
        """Compare; trials without an answer are unscored.

        Raises:
            BadInput: an answer to a trial that is none of these, or out of range.
        """
