"""When a run had better stop: it pays for nothing, or hammers a provider that says no."""

from collections import Counter, deque
from collections.abc import Sequence

from pydantic import Field, PositiveInt

from saeinterp_mcp.clients.base import Reply
from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.frozen import Frozen

AT_ONCE = ("authentication", "no_credit", "unknown_model")
"""Reasons that no other request would be spared."""


class GiveUp(Frozen):
    """Limits of failing. Whatever is not what was asked for is a failure here: no answer, refused, cut off, invalid."""

    in_a_row: PositiveInt = 10
    window: PositiveInt = 20
    """Calls that `share` is of."""
    share: float = Field(0.5, ge=0, le=1)
    """More than this share of the last calls; 1 is never."""


class TooManyFailures(SaeInterpError):
    """The run stops; what was answered stays answered."""

    def __init__(self, said: str, reasons: Counter[str], last: Reply) -> None:
        self.reasons = dict(reasons.most_common())
        counted = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
        detail = f" The last one: {last.detail[:300]}." if last.detail else ""
        super().__init__(
            f"{said}; failures so far: {counted}.{detail} Nothing more was asked; start again to go on from here"
        )


class Watch:
    """Counts what comes back, in the order it comes."""

    def __init__(self, limits: GiveUp) -> None:
        self._limits = limits
        self._recent = deque[bool](maxlen=limits.window)
        self._row = 0
        self.reasons = Counter[str]()
        """Of failures, by reason."""

    def saw(self, reply: Reply) -> TooManyFailures | None:
        """The reason to stop, if this is one too many."""
        if not self._count(reply):
            return None
        if reply.reason in AT_ONCE:
            return TooManyFailures(f"the provider says {reply.reason}", self.reasons, reply)
        if self._row >= self._limits.in_a_row:
            return TooManyFailures(f"{self._row} requests in a row failed", self.reasons, reply)
        n_failed, n = sum(self._recent), len(self._recent)
        if n == self._limits.window and n_failed > self._limits.share * n:
            return TooManyFailures(f"{n_failed} of the last {n} requests failed", self.reasons, reply)
        return None

    def saw_batch(self, replies: Sequence[Reply]) -> TooManyFailures | None:
        """The same for a batch, whose replies have no order: only their share counts."""
        failed = [reply for reply in replies if self._count(reply)]
        at_once = [reply for reply in failed if reply.reason in AT_ONCE]
        self._recent.clear()
        self._row = 0
        if at_once:
            return TooManyFailures(f"the provider says {at_once[0].reason}", self.reasons, at_once[0])
        if len(replies) >= self._limits.in_a_row and len(failed) > self._limits.share * len(replies):
            said = f"{len(failed)} of the {len(replies)} requests of a batch failed"
            return TooManyFailures(said, self.reasons, failed[-1])
        return None

    def _count(self, reply: Reply) -> bool:
        bad = reply.outcome != "answered"
        self._recent.append(bad)
        self._row = self._row + 1 if bad else 0
        if bad:
            self.reasons[failure_of(reply)] += 1
        return bad


def failure_of(reply: Reply) -> str:
    """A word for what is wrong with a reply, to count by."""
    return (reply.reason or "no reason given") if reply.outcome == "failed" else reply.outcome
