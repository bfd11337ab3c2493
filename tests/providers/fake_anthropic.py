"""The Messages API of Anthropic, as far as our client uses it."""

import json
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.providers.behaviour import Answer, Expired, Failure, HangUp, Refused, Truncated, as_text
from tests.providers.provider import Batch, Provider, hung_up, n_tokens

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


def anthropic_routes(provider: Provider) -> list[Route]:
    """`/v1/messages` and what lies under it."""

    async def messages(request: Request) -> Response:
        body = await request.json()
        if (planted := await provider.received(request, body)) is not None:
            return _failed(planted)
        if (refused := provider.refusal(body)) is not None:
            return _failed(Failure(400, refused.message))
        answer = await provider.answer(*_asked(body))
        if isinstance(answer, HangUp):
            return hung_up()
        if isinstance(answer, Expired):
            return _failed(Failure(529, "Overloaded"))
        return _failed(answer) if isinstance(answer, Failure) else JSONResponse(_message(body, answer))

    def _message(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        assert isinstance(answer, dict | str | Truncated | Refused)
        system, user, _ = _asked(body)
        text = answer.text if isinstance(answer, Truncated | Refused) else as_text(answer)
        stop = {Truncated: "max_tokens", Refused: "refusal"}.get(type(answer), "end_turn")
        marked = isinstance(body.get("system"), list) and "cache_control" in body["system"][-1]
        read, written = provider.cached(system) if marked else (0, 0)
        return {
            "id": f"msg_{next(provider.numbers)}",
            "type": "message",
            "role": "assistant",
            "model": body["model"] + "-20261001",
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {
                "input_tokens": n_tokens(user) + (0 if read or written else n_tokens(system)),
                "output_tokens": n_tokens(text),
                "cache_read_input_tokens": read,
                "cache_creation_input_tokens": written,
                "service_tier": "standard",
            },
        }

    async def count_tokens(request: Request) -> Response:
        body = await request.json()
        if (planted := await provider.received(request, body)) is not None:
            return _failed(planted)
        system, user, _ = _asked(body)
        return JSONResponse({"input_tokens": n_tokens(system) + n_tokens(user)})

    async def create(request: Request) -> Response:
        body = await request.json()
        if (planted := await provider.received(request, body)) is not None:
            return _failed(planted)
        batch = provider.submit({one["custom_id"]: one["params"] for one in body["requests"]}, {})
        return hung_up() if provider.loses_batches else JSONResponse(_state(batch, str(request.base_url)))

    async def listed(request: Request) -> Response:
        if (planted := await provider.received(request, None)) is not None:
            return _failed(planted)
        page, more = provider.newest(request.query_params)
        data = [_state(batch, str(request.base_url)) for batch in page]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return JSONResponse({"data": data, "has_more": more, "first_id": None, "last_id": None, **ends})

    async def state(request: Request) -> Response:
        if (planted := await provider.received(request, None)) is not None:
            return _failed(planted)
        batch = provider.batches.get(request.path_params["batch"])
        if batch is None:
            return _failed(Failure(404, "no such batch"))
        await _worked_on(batch)
        return JSONResponse(_state(batch, str(request.base_url)))

    async def _worked_on(batch: Batch) -> None:
        if batch.answers is None and batch.polls_left == 0:
            batch.answers = {name: await _one(body) for name, body in batch.asked.items()}
        batch.polls_left = max(0, batch.polls_left - 1)

    async def _one(body: dict[str, Any]) -> Answer:
        refused = provider.refusal(body)
        return Failure(400, refused.message) if refused else await provider.answer(*_asked(body))

    async def results(request: Request) -> Response:
        if (planted := await provider.received(request, None)) is not None:
            return _failed(planted)
        batch = provider.batches[request.path_params["batch"]]
        if batch.answers is None:
            return _failed(Failure(404, "this batch has not ended"))
        lines = [_result(name, batch) for name in reversed(batch.asked)]
        return Response("".join(json.dumps(line) + "\n" for line in lines), media_type="application/x-jsonl")

    def _result(name: str, batch: Batch) -> dict[str, Any]:
        assert batch.answers is not None
        answer = batch.answers[name]
        if isinstance(answer, Expired | HangUp):
            return {"custom_id": name, "result": {"type": "expired"}}
        if isinstance(answer, Failure):
            return {"custom_id": name, "result": {"type": "errored", "error": _error(answer)}}
        return {
            "custom_id": name,
            "result": {"type": "succeeded", "message": _message(batch.asked[name], answer)},
        }

    return [
        Route("/v1/messages", messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
        Route("/v1/messages/batches", create, methods=["POST"]),
        Route("/v1/messages/batches", listed, methods=["GET"]),
        Route("/v1/messages/batches/{batch}", state, methods=["GET"]),
        Route("/v1/messages/batches/{batch}/results", results, methods=["GET"]),
    ]


def _asked(body: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    system, user = body.get("system", ""), body["messages"][-1]["content"]
    if isinstance(system, list):
        system = "".join(block["text"] for block in system)
    if isinstance(user, list):
        user = "".join(block["text"] for block in user)
    return system, user, body.get("output_config", {}).get("format", {}).get("schema", {})


def _state(batch: Batch, base: str) -> dict[str, Any]:
    answers = batch.answers
    kinds = [type(one) for one in (answers or {}).values()]
    expired, errored = sum(kind in (Expired, HangUp) for kind in kinds), kinds.count(Failure)
    n = len(batch.asked)
    return {
        "id": batch.batch_id,
        "type": "message_batch",
        "processing_status": "in_progress" if answers is None else "ended",
        "request_counts": {
            "processing": n if answers is None else 0,
            "succeeded": 0 if answers is None else n - expired - errored,
            "errored": errored,
            "canceled": 0,
            "expired": expired,
        },
        "created_at": batch.created.isoformat(),
        "expires_at": (batch.created + timedelta(days=1)).isoformat(),
        "ended_at": None if answers is None else batch.created.isoformat(),
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": None if answers is None else f"{base}v1/messages/batches/{batch.batch_id}/results",
    }


def _error(failure: Failure) -> dict[str, Any]:
    kind = failure.code or KINDS.get(failure.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": failure.message}, "request_id": "req_1"}


def _failed(failure: Failure) -> Response:
    return JSONResponse(_error(failure), failure.status, failure.headers)
