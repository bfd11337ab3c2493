"""OpenAI by chat completions, and every server that speaks the same; batches too. Only this file knows the SDK."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from saeinterp_mcp.clients.answer_schema import in_words, strict_schema
from saeinterp_mcp.clients.base import BatchClient, BatchState, Reply, Request, Usage
from saeinterp_mcp.clients.batches import check_ids, check_size, earliest, not_taken
from saeinterp_mcp.clients.outcomes import CONNECT_SECONDS, answered, brief, failed, sendable
from saeinterp_mcp.clients.refusals import Refusals
from saeinterp_mcp.errors import Unavailable

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

INSTALL = "pip install 'saeinterp-mcp[openai]'"
MOST_IN_BATCH = 50_000
MOST_BYTES_IN_BATCH = 200_000_000
ENDPOINT: Final = "/v1/chat/completions"
MARK = "saeinterp"
"""Of our metadata."""
_OPTIONS = {
    "temperature": ("temperature",),
    "seed": ("seed",),
    "max_completion_tokens": ("max_completion_tokens",),
    "json_schema": ("json_schema", "response_format", "structured output", "guided", "grammar"),
    "json_object": ("json_object", "response_format"),
}
_ENDED = ("completed", "failed", "expired", "cancelled")


class OpenAIClient(BatchClient):
    """One model of OpenAI, or of a server that speaks its API."""

    def __init__(
        self, model: str, base_url: str | None = None, timeout_seconds: float = 120.0, max_retries: int = 2
    ) -> None:
        """`base_url`: of such a server, which needs no key (OPENAI_API_KEY is sent where it is set)."""
        self.name = f"openai:{model}" + (f"@{base_url}" if base_url else "")
        self.refusals = Refusals(_OPTIONS)
        self._model, self._base_url = model, base_url
        self._timeout, self._retries = timeout_seconds, max_retries
        self._sdk: openai.AsyncOpenAI | None = None

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
        from openai import APIStatusError, OpenAIError

        without = self.refusals.known
        while True:
            try:
                completion = await sdk.chat.completions.create(**self._body(request, without))
            except APIStatusError as error:
                refused = self._refused(error, without)
                if refused is None:
                    return _failed(error)
                without |= {refused}
            except (OpenAIError, ValueError) as error:
                return _failed(error)
            else:
                self.refusals.accepted_without(without)
                return _read(completion, without)

    def _refused(self, error: "openai.APIStatusError", without: frozenset[str]) -> str | None:
        if error.status_code not in (400, 422):
            return None
        return self.refusals.named_in(f"{error.param or ''} {error.message}", without)

    async def submit(self, requests: Mapping[str, Request], mark: str) -> str:
        """A file of requests, then a batch that reads it; the mark is in the batch's metadata."""
        check_ids(requests, MOST_IN_BATCH)
        lines = [
            {
                "custom_id": name,
                "method": "POST",
                "url": ENDPOINT,
                "body": self._body(one, self.refusals.known),
            }
            for name, one in requests.items()
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode("ascii")
        check_size(len(content), MOST_BYTES_IN_BATCH, len(lines))
        sdk = self._open()
        from openai import OpenAIError

        try:
            file = await sdk.files.create(file=("batch.jsonl", content), purpose="batch")
        except OpenAIError as error:
            raise Unavailable(f"the provider took no file of requests: {brief(str(error))}") from error
        try:  # a second try of the SDK's could be a second batch
            batch = await sdk.with_options(max_retries=0).batches.create(
                input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={MARK: mark}
            )
        except OpenAIError as error:
            raise not_taken(getattr(error, "status_code", None), brief(str(error))) from error
        return batch.id

    async def state(self, batch_id: str) -> BatchState:
        """Counted as it goes on."""
        batch = await self._batch(batch_id)
        counts = batch.request_counts
        done, total = (counts.completed + counts.failed, counts.total) if counts else (0, 0)
        return BatchState(batch_id=batch_id, ended=batch.status in _ENDED, n_done=done, n_total=total)

    async def collect(self, batch_id: str) -> dict[str, Reply]:
        """From both of its files; what is in neither has the batch's own end as its reason."""
        batch = await self._batch(batch_id)
        if batch.status not in _ENDED:
            raise Unavailable(f"the batch {batch_id} has not ended ({batch.status}); ask again later")
        replies: dict[str, Reply] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            if file is not None:
                replies |= {line["custom_id"]: _entry(line) async for line in self._lines(file)}
        if batch.status != "completed":
            problems = (batch.errors and batch.errors.data) or []
            said = brief("; ".join(one.message or one.code or "" for one in problems)) or None
            rest = Reply(outcome="failed", reason=_unfinished(batch.status), detail=said)
            async for line in self._lines(batch.input_file_id):
                replies.setdefault(line["custom_id"], rest)
        self.refusals.learn(replies.values())
        return replies

    async def find(self, mark: str, ids: frozenset[str], since: str) -> str | None:
        """By the mark, which is in the batch's metadata."""
        sdk, first = self._open(), earliest(since).timestamp()
        from openai import OpenAIError

        try:
            async for batch in sdk.batches.list(limit=100):  # newest first
                if batch.created_at < int(first):
                    break
                if (batch.metadata or {}).get(MARK) == mark:
                    return batch.id
        except OpenAIError as error:
            raise Unavailable(f"the provider does not list its batches: {brief(str(error))}") from error
        return None

    async def _batch(self, batch_id: str) -> "Batch":
        sdk = self._open()
        from openai import OpenAIError

        try:
            return await sdk.batches.retrieve(batch_id)
        except OpenAIError as error:
            raise Unavailable(f"the provider does not tell about {batch_id}: {brief(str(error))}") from error

    async def _lines(self, file: str) -> AsyncIterator[dict[str, Any]]:
        sdk = self._open()
        from openai import OpenAIError

        try:
            text = (await sdk.files.content(file)).text
            for line in text.split("\n"):
                if line.strip():
                    yield json.loads(line)
        except (OpenAIError, ValueError) as error:
            raise Unavailable(f"the provider does not give the file {file}: {brief(str(error))}") from error

    def _body(self, request: Request, without: frozenset[str]) -> dict[str, Any]:
        system = sendable(request.system)
        limit = "max_tokens" if "max_completion_tokens" in without else "max_completion_tokens"
        body: dict[str, Any] = {"model": self._model, limit: request.max_tokens}
        body |= {name: 0 for name in ("temperature", "seed") if name not in without}
        if "json_schema" not in without:
            named = {"name": "answer", "strict": True, "schema": strict_schema(request.answer_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        else:
            system += in_words(request.answer_schema)
            if "json_object" not in without:
                body["response_format"] = {"type": "json_object"}
        said = [{"role": "system", "content": system}, {"role": "user", "content": sendable(request.user)}]
        return body | {"messages": said}

    def _open(self) -> "openai.AsyncOpenAI":
        if self._sdk is not None:
            return self._sdk
        try:
            import openai
        except ImportError as error:
            raise Unavailable(f"{self.name} needs a package that is not installed; {INSTALL}") from error
        given: dict[str, Any] = {
            "base_url": self._base_url,
            "timeout": openai.Timeout(self._timeout, connect=min(self._timeout, CONNECT_SECONDS)),
            "max_retries": self._retries,
        }
        try:
            self._sdk = openai.AsyncOpenAI(**given)
        except openai.OpenAIError as error:
            if self._base_url is None:
                raise Unavailable(
                    f"{self.name} needs a key: set the environment variable OPENAI_API_KEY"
                ) from error
            self._sdk = openai.AsyncOpenAI(**given, api_key="none")
        return self._sdk


def _read(completion: Any, without: frozenset[str]) -> Reply:
    """What stopped it and what was used come first: they are known whatever the answer is."""
    choices = getattr(completion, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        return Reply(outcome="failed", reason="bad_answer", detail=brief(str(completion)))
    choice, message = choices[0], choices[0].message
    usage, model = _usage(completion), getattr(completion, "model", None)
    text, stop = getattr(message, "content", None) or "", getattr(choice, "finish_reason", None)
    refusal = getattr(message, "refusal", None)
    asked = f"asked without {', '.join(sorted(without))}" if without else None
    if refusal or stop == "content_filter":
        said, reason = refusal or text, "refusal" if refusal else stop
        return Reply(
            outcome="refused", text=sendable(said), usage=usage, model=model, reason=reason, detail=asked
        )
    if stop == "length":
        return Reply(
            outcome="truncated",
            text=sendable(text),
            usage=usage,
            model=model,
            reason="max_tokens",
            detail=asked,
        )
    return answered(text, usage, model, asked, anywhere="json_schema" in without)


def _usage(completion: Any) -> Usage | None:
    used = getattr(completion, "usage", None)
    if used is None:
        return None
    details = getattr(used, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or 0
    written = getattr(details, "cache_write_tokens", None) or 0
    return Usage(
        input_tokens=max(0, (getattr(used, "prompt_tokens", None) or 0) - cached - written),
        output_tokens=getattr(used, "completion_tokens", None) or 0,
        cached_tokens=cached,
        written_tokens=written,
    )


def _failed(error: Exception) -> Reply:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Reply(outcome="failed", reason="timeout", detail=brief(str(error)))
    if isinstance(error, openai.APIStatusError):
        return failed(error.status_code, error.message, f"{error.code} {error.type}")
    if isinstance(error, openai.APIConnectionError):
        return failed(None, f"{error} {error.__cause__ or ''}")
    return Reply(outcome="failed", reason="bad_answer", detail=brief(f"{type(error).__name__}: {error}"))


def _entry(line: dict[str, Any]) -> Reply:
    """One of a batch."""
    from openai.types.chat import ChatCompletion

    response, error = line.get("response"), line.get("error")
    if response is None:
        code = str((error or {}).get("code"))
        reason = "expired" if code == "batch_expired" else "cancelled" if "cancel" in code else "server_error"
        return Reply(outcome="failed", reason=reason, detail=brief(str((error or {}).get("message"))))
    body = response["body"]
    if response["status_code"] != 200:
        said = (body or {}).get("error") or {}
        return failed(
            response["status_code"], str(said.get("message")), f"{said.get('code')} {said.get('type')}"
        )
    return _read(ChatCompletion.model_construct(**body), frozenset())


def _unfinished(status: str) -> str:
    return "bad_request" if status == "failed" else status
