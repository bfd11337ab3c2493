"""Client: asks a language model. Requests and replies are the same for every provider."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from saeinterp_mcp.errors import Unavailable
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.frozen import Frozen

Outcome = Literal["answered", "refused", "truncated", "invalid", "failed"]
"""answered: with what was asked for; refused: by the model; truncated: at `max_tokens`; invalid: answered with
something else (no JSON object); failed: no answer came (the provider's error, the network)."""


class Request(Frozen):
    """One question to a language model."""

    system: str
    """Instructions, the same for many requests: providers can keep it in a cache."""
    user: str
    answer_schema: dict[str, Any]
    """JSON schema of the object that the answer has to be."""
    max_tokens: int = 1000
    """Of the answer."""

    def with_room(self, think_tokens: int) -> "Request":
        """The same with room in the answer for a model that thinks before it answers."""
        if not think_tokens:
            return self
        return self.model_copy(update={"max_tokens": self.max_tokens + think_tokens})

    def key(self, model: str) -> str:
        """Names the question put to that model: the same key is never paid for twice."""
        return fingerprint([model, self.model_dump(mode="json")])


class Usage(Frozen):
    """Tokens of one request, as the provider counts them."""

    input_tokens: int = 0
    """Read from the request, not counting those from the cache."""
    output_tokens: int = 0
    cached_tokens: int = 0
    """Read from the provider's cache."""
    written_tokens: int = 0
    """Written to the provider's cache."""


class Reply(Frozen):
    """What came back, whole: an outcome is data, and what was used is known whatever it is."""

    outcome: Outcome
    text: str = ""
    """As it came."""
    value: dict[str, Any] | None = None
    """The JSON object in `text`; not yet checked against the schema."""
    usage: Usage | None = None
    """None where the provider did not tell, or was not reached."""
    model: str | None = None
    """As the provider names the one that answered."""
    reason: str | None = None
    """Why there is no answer, in a few words that can be counted: `rate_limit`, `timeout`, `no JSON`, ..."""
    detail: str | None = None
    """The provider's own words about it."""


class Client(ABC):
    """One model of one provider. Safe for many requests at once, on one event loop."""

    name: str
    """`provider:model`, as in `open_client`; part of every fingerprint."""

    @abstractmethod
    async def ask(self, request: Request) -> Reply:
        """The reply; what goes wrong on the way is an outcome and never raised.

        Raises:
            Unavailable: this machine cannot ask at all: a package or a key is missing.
        """

    def why_not(self) -> str | None:
        """Why it cannot be asked on this machine (a package, a key), and what to do; None when it can."""
        return None

    async def close(self) -> None:
        """Give connections and processes back; on the event loop that asked."""
        return


class NotKnownYet(Unavailable):
    """Whether the provider has a batch shows later: the connection broke while it was handed in, or one that may be it
    has not ended. Nothing is to be handed in again before `find` has said that there is none."""


class BatchState(Frozen):
    """How far a batch is."""

    batch_id: str
    ended: bool
    n_done: int
    n_total: int


class BatchClient(Client):
    """A client whose provider takes many requests at once, for less money and within a day."""

    @abstractmethod
    async def submit(self, requests: Mapping[str, Request], mark: str) -> str:
        """Hand in requests under ids of `[A-Za-z0-9_-]{1,64}`; the provider's id of the batch.

        Args:
            requests: id to request; ids are unique in a run.
            mark: our own name of the batch, kept by the provider where it can keep one.

        Raises:
            BadInput: more than the provider takes in one batch; the message says how much it takes.
            NotKnownYet: it may have been taken; never sent twice by itself.
            Unavailable: it was not taken.
        """

    @abstractmethod
    async def state(self, batch_id: str) -> BatchState:
        """How far it is.

        Raises:
            Unavailable: the provider does not say, or does not know the batch.
        """

    @abstractmethod
    async def collect(self, batch_id: str) -> dict[str, Reply]:
        """Id to reply of a batch that has ended, in no order; what expired or was cancelled has `failed`.

        Raises:
            Unavailable: it has not ended, its results are gone, or the provider does not give them.
        """

    @abstractmethod
    async def find(self, mark: str, ids: frozenset[str], since: str) -> str | None:
        """The batch that was handed in under `mark` with these ids after `since` (UTC), if the provider has it.

        For a run that was killed between handing in and writing down the provider's id.

        Raises:
            NotKnownYet: one that has not ended may be it (Anthropic tells the ids of a batch when it has ended).
            Unavailable: the provider does not say.
        """


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, with a code fence around it or without; None if it is none."""
    stripped = text.strip()
    if stripped.startswith("```") and stripped.endswith("```") and len(stripped) >= 6:
        first, _, rest = stripped[3:-3].partition("\n")
        stripped = rest if first.strip().isalpha() or not first.strip() else stripped[3:-3]
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
