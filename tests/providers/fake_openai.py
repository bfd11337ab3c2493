"""Chat completions, files and batches of OpenAI, and of the local servers that speak the same."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.providers.behaviour import Answer, Expired, Failure, HangUp, Refused, Truncated, as_text
from tests.providers.provider import Batch, Provider, hung_up, n_tokens

KINDS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
}


def openai_routes(provider: Provider) -> list[Route]:
    """`/v1/chat/completions`, `/v1/files` and `/v1/batches`."""

    async def chat(request: Request) -> Response:
        body = await request.json()
        if (planted := await provider.received(request, body)) is not None:
            return _failed(planted)
        if (refused := provider.refusal(body)) is not None:
            return _failed(refused)
        answer = await provider.answer(*_asked(body))
        if isinstance(answer, HangUp):
            return hung_up()
        if isinstance(answer, Expired):
            return _failed(Failure(503, "The server is currently overloaded"))
        return _failed(answer) if isinstance(answer, Failure) else JSONResponse(_completion(body, answer))

    def _completion(body: dict[str, Any], answer: Answer) -> dict[str, Any]:
        assert isinstance(answer, dict | str | Truncated | Refused)
        text = answer.text if isinstance(answer, Truncated | Refused) else as_text(answer)
        refused = isinstance(answer, Refused)
        system, user, _ = _asked(body)
        n_in, n_out = n_tokens(system) + n_tokens(user), n_tokens(text)
        return {
            "id": f"chatcmpl-{next(provider.numbers)}",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": body["model"] + "-2026-10-01",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "length" if isinstance(answer, Truncated) else "stop",
                    "message": {
                        "role": "assistant",
                        "content": None if refused else text,
                        "refusal": text if refused else None,
                    },
                    "logprobs": None,
                }
            ],
            "usage": {
                "prompt_tokens": n_in,
                "completion_tokens": n_out,
                "total_tokens": n_in + n_out,
                "prompt_tokens_details": {"cached_tokens": provider.cached(system)[0], "audio_tokens": 0},
            },
        }

    async def upload(request: Request) -> Response:
        form = await request.form()
        sent = form["file"]
        assert not isinstance(sent, str), "a file, not a field"
        content = await sent.read()
        await sent.close()
        entry = {"purpose": form["purpose"], "content": content.decode("utf-8")}
        if (planted := await provider.received(request, entry)) is not None:
            return _failed(planted)
        return JSONResponse(_file(content))

    def _file(content: bytes) -> dict[str, Any]:
        name = f"file-{next(provider.numbers)}"
        provider.files[name] = content
        facts = {"bytes": len(content), "created_at": 1_790_000_000, "filename": "batch.jsonl"}
        return {"id": name, "object": "file", "purpose": "batch", "status": "processed", **facts}

    async def content(request: Request) -> Response:
        if (planted := await provider.received(request, None)) is not None:
            return _failed(planted)
        found = provider.files.get(request.path_params["file"])
        return _failed(Failure(404, "No such file")) if found is None else Response(found)

    async def create(request: Request) -> Response:
        body = await request.json()
        if (planted := await provider.received(request, body)) is not None:
            return _failed(planted)
        lines = provider.files[body["input_file_id"]].decode("utf-8").splitlines()
        asked = {one["custom_id"]: one["body"] for one in map(json.loads, lines)}
        batch = provider.submit(asked, body.get("metadata") or {})
        batch.input_file = body["input_file_id"]
        return hung_up() if provider.loses_batches else JSONResponse(_state(batch))

    async def listed(request: Request) -> Response:
        if (planted := await provider.received(request, None)) is not None:
            return _failed(planted)
        page, more = provider.newest(request.query_params)
        data = [_state(batch) for batch in page]
        return JSONResponse({"object": "list", "data": data, "has_more": more})

    async def state(request: Request) -> Response:
        if (planted := await provider.received(request, None)) is not None:
            return _failed(planted)
        batch = provider.batches.get(request.path_params["batch"])
        if batch is None:
            return _failed(Failure(404, "No batch found", {}, "not_found"))
        if batch.answers is None and batch.polls_left == 0:
            batch.answers = {
                name: provider.refusal(body) or await provider.answer(*_asked(body))
                for name, body in batch.asked.items()
            }
            _written(batch)
        batch.polls_left = max(0, batch.polls_left - 1)
        return JSONResponse(_state(batch))

    def _written(batch: Batch) -> None:
        """Results into files, last first, as nobody promises an order."""
        assert batch.answers is not None
        lines: dict[str, list[str]] = {"output": [], "error": []}
        for name in reversed(batch.asked):
            kind, line = _result(name, batch.asked[name], batch.answers[name])
            lines[kind].append(json.dumps(line) + "\n")
        if provider.batch_status == "failed":  # at the door: nothing was worked on
            return
        for kind, some in lines.items():
            if some:
                provider.files[f"{kind}-{batch.batch_id}"] = "".join(some).encode("utf-8")

    def _result(name: str, body: dict[str, Any], answer: Answer) -> tuple[str, dict[str, Any]]:
        line = {"id": f"batch_req_{name}", "custom_id": name, "response": None, "error": None}
        if isinstance(answer, Expired | HangUp):
            return "error", {**line, "error": {"code": "batch_expired", "message": "not executed in time"}}
        failed = isinstance(answer, Failure)
        response = {
            "status_code": answer.status if isinstance(answer, Failure) else 200,
            "request_id": f"req_{name}",
            "body": _error(answer) if isinstance(answer, Failure) else _completion(body, answer),
        }
        return ("error" if failed else "output"), {**line, "response": response}

    def _state(batch: Batch) -> dict[str, Any]:
        answers, n = batch.answers, len(batch.asked)
        bad = sum(isinstance(one, Failure | Expired | HangUp) for one in (answers or {}).values())
        files = {kind: f"{kind}-{batch.batch_id}" for kind in ("output", "error")}
        failed = answers is not None and provider.batch_status == "failed"
        return {
            "id": batch.batch_id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "errors": {"object": "list", "data": [{"code": "invalid_request", "message": "bad file"}]}
            if failed
            else None,
            "input_file_id": batch.input_file,
            "completion_window": "24h",
            "status": "in_progress" if answers is None else provider.batch_status,
            "output_file_id": files["output"] if files["output"] in provider.files else None,
            "error_file_id": files["error"] if files["error"] in provider.files else None,
            "created_at": int(batch.created.timestamp()),
            "request_counts": {
                "total": 0 if failed else n,
                "completed": 0 if answers is None or failed else n - bad,
                "failed": 0 if failed else bad,
            },
            "metadata": batch.metadata,
        }

    return [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/files", upload, methods=["POST"]),
        Route("/v1/files/{file}/content", content, methods=["GET"]),
        Route("/v1/batches", create, methods=["POST"]),
        Route("/v1/batches", listed, methods=["GET"]),
        Route("/v1/batches/{batch}", state, methods=["GET"]),
    ]


def _asked(body: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    said = {one["role"]: one["content"] for one in body["messages"]}
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    return said.get("system", ""), said["user"], schema


def _error(failure: Failure) -> dict[str, Any]:
    kind, code = KINDS.get(failure.status, ("server_error", None))
    facts = {"message": failure.message, "type": kind, "param": None, "code": failure.code or code}
    if failure.status == 400 and failure.code:
        facts["param"] = failure.code
    return {"error": facts}


def _failed(failure: Failure) -> Response:
    return JSONResponse(_error(failure), failure.status, failure.headers)
