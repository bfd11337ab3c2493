"""Claude by the Messages API, one question at a time and in message batches. Only this file knows the SDK."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saeinterp_mcp.clients.answer_schema import in_words, strict_schema
from saeinterp_mcp.clients.base import BatchClient, BatchState, NotKnownYet, Reply, Request, Usage
from saeinterp_mcp.clients.batches import check_ids, check_size, earliest, not_taken
from saeinterp_mcp.clients.outcomes import CONNECT_SECONDS, answered, brief, failed, sendable
from saeinterp_mcp.clients.refusals import Refusals
from saeinterp_mcp.errors import Unavailable

if TYPE_CHECKING:
    import anthropic
    from anthropic.types.messages import MessageBatch

INSTALL = "pip install 'saeinterp-mcp[anthropic]'"
MOST_IN_BATCH = 100_000
MOST_BYTES_IN_BATCH = 256_000_000
CACHED_FROM_LETTERS = 4000
"""A shorter system text is below what any model keeps in its cache (1,024 tokens)."""
_OPTIONS = {
    "thinking": ("thinking",),
    "json_schema": ("output_config", "output_format", "json_schema", "structured output"),
}
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""An entry of a batch has a word where a direct answer has a status."""
_USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_tokens": "cache_read_input_tokens",
    "written_tokens": "cache_creation_input_tokens",
}
"""Our names to theirs."""


class AnthropicClient(BatchClient):
    """One Claude model."""

    def __init__(
        self, model: str, base_url: str | None = None, timeout_seconds: float = 120.0, max_retries: int = 2
    ) -> None:
        """`base_url`: of a proxy; the SDK's own (ANTHROPIC_BASE_URL) where not given, as are its keys."""
        self.name = f"anthropic:{model}" + (f"@{base_url}" if base_url else "")
        self.refusals = Refusals(_OPTIONS)
        self._model, self._base_url = model, base_url
        self._timeout, self._retries = timeout_seconds, max_retries
        self._sdk: anthropic.AsyncAnthropic | None = None

    def why_not(self) -> str | None:
        """The package, or a key."""
        try:
            self._open()
        except Unavailable as error:
            return str(error)
        return None

    async def close(self) -> None:
        """Close the connections; the next question opens others."""
        sdk, self._sdk = self._sdk, None
        if sdk is not None:
            await sdk.close()

    async def ask(self, request: Request) -> Reply:
        """The outcome; the SDK has tried again by itself where that can help."""
        sdk = self._open()
        from anthropic import AnthropicError, BadRequestError

        without = self.refusals.known
        while True:
            body = self._body(request, without)
            try:
                message = await sdk.messages.create(**body)
            except BadRequestError as error:
                refused = self.refusals.named_in(error.message, without)
                if refused is None:
                    return _failed(error)
                without |= {refused}
            except (AnthropicError, ValueError) as error:
                return _failed(error)
            else:
                self.refusals.accepted_without(without)
                return _read(message, without)

    async def submit(self, requests: Mapping[str, Request], mark: str) -> str:
        """The provider keeps no mark; `find` tells a batch by its ids."""
        check_ids(requests, MOST_IN_BATCH)
        sdk, without = self._open(), self.refusals.known
        asked: Any = [
            {"custom_id": name, "params": self._body(one, without)} for name, one in requests.items()
        ]
        check_size(len(json.dumps({"requests": asked})), MOST_BYTES_IN_BATCH, len(asked))
        from anthropic import AnthropicError

        try:  # a second try of the SDK's could be a second batch
            return (await sdk.with_options(max_retries=0).messages.batches.create(requests=asked)).id
        except AnthropicError as error:
            raise not_taken(getattr(error, "status_code", None), brief(str(error))) from error

    async def state(self, batch_id: str) -> BatchState:
        """A batch is worked on as a whole: nothing is counted before its end."""
        batch = await self._batch(batch_id)
        return BatchState(
            batch_id=batch_id,
            ended=batch.processing_status == "ended",
            n_done=_n_total(batch) - batch.request_counts.processing,
            n_total=_n_total(batch),
        )

    async def collect(self, batch_id: str) -> dict[str, Reply]:
        """Kept by the provider for 29 days."""
        batch = await self._batch(batch_id)
        if batch.processing_status != "ended":
            raise Unavailable(
                f"the batch {batch_id} has not ended ({batch.processing_status}); ask again later"
            )
        if batch.archived_at is not None or batch.results_url is None:
            raise Unavailable(f"the results of the batch {batch_id} are not kept any more (29 days)")
        replies = {name: _entry(result) async for name, result in self._results(batch_id)}
        self.refusals.learn(replies.values())
        return replies

    async def find(self, mark: str, ids: frozenset[str], since: str) -> str | None:
        """Of the batches of this size, the one with exactly these ids; they are told when a batch has ended."""
        sdk, first = self._open(), earliest(since)
        from anthropic import AnthropicError

        running = []
        try:
            async for batch in sdk.messages.batches.list(limit=100):  # newest first
                if batch.created_at < first:
                    break
                if _n_total(batch) != len(ids):
                    continue
                if batch.processing_status != "ended":
                    running.append(batch.id)
                elif batch.results_url is not None and await self._has_ids(batch.id, ids):
                    return batch.id
        except AnthropicError as error:
            raise Unavailable(f"the provider does not list its batches: {brief(str(error))}") from error
        if running:
            raise NotKnownYet(
                f"whether the batch was taken is not known yet: {', '.join(running)} "
                f"of {len(ids)} requests may be it, which shows when that has ended; ask again later"
            )
        return None

    async def _has_ids(self, batch_id: str, ids: frozenset[str]) -> bool:
        async for name, _ in self._results(batch_id):
            if name not in ids:
                return False
        return True  # as many, and an id is in a batch once

    async def _batch(self, batch_id: str) -> "MessageBatch":
        sdk = self._open()
        from anthropic import AnthropicError

        try:
            return await sdk.messages.batches.retrieve(batch_id)
        except AnthropicError as error:
            raise Unavailable(f"the provider does not tell about {batch_id}: {brief(str(error))}") from error

    async def _results(self, batch_id: str) -> Any:
        sdk = self._open()
        from anthropic import AnthropicError

        try:
            async for line in await sdk.messages.batches.results(batch_id):
                yield line.custom_id, line.result
        except (AnthropicError, ValueError) as error:
            said = brief(str(error))
            raise Unavailable(f"the provider does not give the results of {batch_id}: {said}") from error

    def _body(self, request: Request, without: frozenset[str]) -> dict[str, Any]:
        from anthropic import transform_schema

        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": request.max_tokens,
            "system": sendable(request.system),
            "messages": [{"role": "user", "content": sendable(request.user)}],
        }
        if "thinking" not in without:  # some models think where nothing is said, at the cost of max_tokens
            body["thinking"] = {"type": "disabled"}
        if "json_schema" in without:
            body["system"] += in_words(request.answer_schema)
        else:
            schema = transform_schema(strict_schema(request.answer_schema))
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        if len(body["system"]) >= CACHED_FROM_LETTERS:
            cache = {"type": "ephemeral"}
            body["system"] = [{"type": "text", "text": body["system"], "cache_control": cache}]
        return body

    def _open(self) -> "anthropic.AsyncAnthropic":
        if self._sdk is not None:
            return self._sdk
        try:
            import anthropic
        except ImportError as error:
            raise Unavailable(f"{self.name} needs a package that is not installed; {INSTALL}") from error
        try:
            timeout = anthropic.Timeout(self._timeout, connect=min(self._timeout, CONNECT_SECONDS))
            sdk = anthropic.AsyncAnthropic(
                base_url=self._base_url, timeout=timeout, max_retries=self._retries
            )
        except (anthropic.AnthropicError, ValueError) as error:
            raise Unavailable(f"{self.name} cannot be asked: {brief(str(error))}") from error
        if sdk.api_key is None and sdk.auth_token is None and sdk.credentials is None:
            raise Unavailable(f"{self.name} needs a key: set the environment variable ANTHROPIC_API_KEY")
        self._sdk = sdk
        return sdk


def _read(message: Any, without: frozenset[str]) -> Reply:
    """What stopped it and what was used come first: they are known whatever the answer is."""
    from anthropic.types import Message

    if not isinstance(message, Message) or not getattr(message, "stop_reason", None):
        return Reply(outcome="failed", reason="bad_answer", detail=brief(str(message)))
    stop, usage, model = message.stop_reason, _usage(message), getattr(message, "model", None)
    blocks = getattr(message, "content", None) or ()
    text = "".join(block.text for block in blocks if block.type == "text")
    asked = f"asked without {', '.join(sorted(without))}" if without else None
    if stop == "refusal":
        details = message.stop_details
        said = brief(f"{details.category}: {details.explanation}") if details else None
        return Reply(
            outcome="refused", text=sendable(text), usage=usage, model=model, reason=stop, detail=said
        )
    if stop in ("max_tokens", "model_context_window_exceeded"):
        return Reply(
            outcome="truncated", text=sendable(text), usage=usage, model=model, reason=stop, detail=asked
        )
    return answered(text, usage, model, asked, anywhere="json_schema" in without)


def _usage(message: Any) -> Usage | None:
    used = getattr(message, "usage", None)
    if used is None:
        return None
    counts = {ours: getattr(used, theirs, None) or 0 for ours, theirs in _USAGE.items()}
    return Usage(**counts)


def _failed(error: Exception) -> Reply:
    import anthropic

    if isinstance(error, anthropic.APITimeoutError):
        return Reply(outcome="failed", reason="timeout", detail=brief(str(error)))
    if isinstance(error, anthropic.APIStatusError):
        return failed(error.status_code, error.api_message or error.message, error.type)
    if isinstance(error, anthropic.APIConnectionError):
        return failed(None, f"{error} {error.__cause__ or ''}")
    if isinstance(error, anthropic.CredentialsError):
        return failed(401, str(error))
    return Reply(outcome="failed", reason="bad_answer", detail=brief(f"{type(error).__name__}: {error}"))


def _entry(result: Any) -> Reply:
    """One of a batch."""
    if result.type == "succeeded":
        return _read(result.message, frozenset())
    if result.type == "errored":
        error = result.error.error
        return failed(_STATUS.get(error.type, 500), error.message, error.type)
    return Reply(outcome="failed", reason="cancelled" if result.type == "canceled" else result.type)


def _n_total(batch: "MessageBatch") -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
