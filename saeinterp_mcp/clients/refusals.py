"""Options that a model or server refuses: found out by being refused, left out from then on."""

from collections.abc import Iterable, Mapping

from saeinterp_mcp.clients.base import Reply


class Refusals:
    """Which options one client leaves out.

    An option counts as refused only when the same question was accepted without it: a server that says "max_tokens is
    too large" of one long question must not change how the others are asked.
    """

    def __init__(self, options: Mapping[str, tuple[str, ...]]) -> None:
        """`options`: each to the words by which an error names it, in the order in which they are tried."""
        self._options = dict(options)
        self.known: frozenset[str] = frozenset()
        """Left out of every question."""

    def named_in(self, said: str, without: frozenset[str]) -> str | None:
        """The option that an error is about; None where it is about something else or about one already left out."""
        lower = said.lower()
        for option, words in self._options.items():
            if option not in without and any(word in lower for word in words):
                return option
        return None

    def accepted_without(self, without: frozenset[str]) -> None:
        """A question was accepted with these left out."""
        self.known |= without

    def learn(self, replies: Iterable[Reply]) -> None:
        """From a batch of which every entry was refused for the same option: the next is asked without."""
        named = {
            self.named_in(reply.detail or "", self.known) if reply.reason == "bad_request" else None
            for reply in replies
        }
        if len(named) == 1:
            self.known |= {option for option in named if option is not None}
