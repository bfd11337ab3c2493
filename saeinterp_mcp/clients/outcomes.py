"""What came back from a provider as a Reply: the words for it are the same for every provider, so they can be counted.

Reasons of `failed`: rate_limit, overloaded, timeout, connection, bad_request, authentication, no_credit, unknown_model,
not_found, server_error, bad_answer; in batches expired and cancelled too.
"""

import json
from typing import Any

from saeinterp_mcp.clients.base import Reply, Usage, json_object
from saeinterp_mcp.fingerprint import canonical_json

_REASONS = {
    401: "authentication",
    402: "no_credit",
    403: "authentication",
    408: "timeout",
    429: "rate_limit",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
_NO_CREDIT = ("insufficient_quota", "billing_error", "credit balance")
_LONGEST_DETAIL = 500
CONNECT_SECONDS = 10.0
"""A server that is not there is found out long before an answer would be too late."""


def answered(
    text: str, usage: Usage | None, model: str | None, detail: str | None = None, anywhere: bool = False
) -> Reply:
    """`answered` where the text is a JSON object, else `invalid`.

    `anywhere`: from a model that is held to no schema: the first object in it counts, what it thinks aloud does not.
    """
    value = json_object(first_object(without_thoughts(text)) if anywhere else text)
    known: dict[str, Any] = {"text": sendable(text), "usage": usage, "model": model, "detail": detail}
    if value is None:
        return Reply(outcome="invalid", reason="no JSON" if text.strip() else "empty", **known)
    try:
        canonical_json(value).encode("utf-8")
    except (ValueError, RecursionError):  # NaN, infinity, half a surrogate pair: nothing can be stored of it
        return Reply(outcome="invalid", reason="no valid JSON", **known)
    return Reply(outcome="answered", value=value, **known)


def failed(status: int | None, said: str, code: str | None = None) -> Reply:
    """`failed`, with the reason that an HTTP status and the provider's words amount to; status None: no answer."""
    return Reply(outcome="failed", reason=_reason(status, said, code), detail=brief(said))


def _reason(status: int | None, said: str, code: str | None) -> str:
    if status is None:
        return "connection"
    words = f"{code} {said}".lower()
    if 400 <= status < 500 and any(word in words for word in _NO_CREDIT):
        return "no_credit"
    if status == 404:
        return "unknown_model" if "model" in words else "not_found"
    return _REASONS.get(status, "server_error" if status >= 500 else "bad_request")


def brief(said: str) -> str:
    """The provider's words in one line, not too long."""
    line = " ".join(sendable(said).split())
    return line if len(line) <= _LONGEST_DETAIL else line[: _LONGEST_DETAIL - 1] + "…"


def sendable(text: str) -> str:
    """Without halves of surrogate pairs, which no file and no database takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def without_thoughts(text: str) -> str:
    """What comes after the thoughts that some open models write in front of an answer."""
    return text.rpartition("</think>")[2]


def first_object(text: str) -> str:
    """The first JSON object inside a text, or the text where there is none."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return text[start:end]
    return text
