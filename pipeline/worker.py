"""`python -m pipeline.worker`: what needs torch, in a process of its own, so that a server never loads it.

A request is a line of JSON on stdin; its answer is a line on stdout, in the order asked:

    {"embed": ["a text", ...], "model": null}
        -> {"model": "all-MiniLM-L6-v2", "fingerprint": "...", "dimensions": 384, "truncated": [],
            "vectors": base64 of (n, 384) little-endian float32, each of length 1}
    {"generate": {"system": "...", "user": "...", "max_tokens": 100}, "model": "a folder"}
        -> {"model": "...", "fingerprint": "...", "text": "...", "stop": "object", "end", "limit" or "too_long",
            "n_prompt": 57, "n_new": 20, "context": 2048}
    {"loss": {"prefix": "...", "texts": ["a text", ...]}, "model": "a folder"}
        -> {"model": "...", "fingerprint": "...", "losses": [3.1, ...]}, nats for each token
    what cannot be done
        -> {"error": "...", "kind": "caller" or "bug"}

`model` of `embed` is a folder with a sentence-transformers model, or a name in this machine's Hugging Face cache; null
is the one that the `pipeline` extra installs. Of the others it is a folder with a causal language model. Nothing is
downloaded. The worker ends when stdin closes. Nothing but answers gets
onto stdout: what libraries print goes to stderr.
"""

import base64
import json
import logging
import os
import signal
import sys
from typing import IO, Annotated, Any

from pydantic import AfterValidator, ConfigDict, PositiveInt, ValidationError

from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.frozen import Frozen, describe_validation

log = logging.getLogger(__name__)


def _is_unicode(texts: list[str]) -> list[str]:
    """JSON can hold half a surrogate pair; tokenizers fall over it."""
    for i, text in enumerate(texts):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(f"text {i} holds half a surrogate pair, which is no valid Unicode")
    return texts


Text = Annotated[str, AfterValidator(lambda text: _is_unicode([text])[0])]
Texts = Annotated[list[str], AfterValidator(_is_unicode)]


class _Strict(Frozen):
    model_config = ConfigDict(strict=True)


class EmbedRequest(_Strict):
    """Texts whose directions are asked for."""

    embed: Texts
    model: str | None = None


class Question(_Strict):
    """What a language model is asked."""

    system: Text
    user: Text
    max_tokens: PositiveInt


class GenerateRequest(_Strict):
    """An answer is asked for."""

    generate: Question
    model: str


class Surprise(_Strict):
    """Texts, each after the same prefix."""

    prefix: Text
    texts: Texts


class LossRequest(_Strict):
    """How well a model expects texts is asked for."""

    loss: Surprise
    model: str


def main() -> int:
    """Answer until stdin closes."""
    logging.basicConfig(stream=sys.stderr)
    requests, answers = _own_pipes()
    # Ctrl-C at a terminal reaches the whole group; the parent decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in requests:
        if line.strip():
            answers.write(json.dumps(answer(line)).encode("ascii") + b"\n")
            answers.flush()
    return 0


def answer(line: bytes) -> dict[str, Any]:
    """What to say to one request; never raises."""
    try:
        return _answer(json.loads(line.decode("utf-8")))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        return {"error": f"not a request: no JSON: {error}", "kind": "caller"}
    except ValidationError as error:
        return {"error": f"not a request: {describe_validation(error)}", "kind": "caller"}
    except SaeInterpError as error:
        return {"error": str(error), "kind": "caller"}
    except Exception as error:
        log.exception("a request failed")
        return {"error": f"{type(error).__name__}: {error}", "kind": "bug"}


def _answer(request: Any) -> dict[str, Any]:
    if isinstance(request, dict) and "generate" in request:
        return generate(GenerateRequest.model_validate(request))
    if isinstance(request, dict) and "loss" in request:
        return loss(LossRequest.model_validate(request))
    return embed(EmbedRequest.model_validate(request))


def embed(request: EmbedRequest) -> dict[str, Any]:
    """Directions of the texts."""
    from pipeline.sources.text_embedding import (
        load_embedder,
    )  # seconds: a worker that is asked nothing ends at once

    embedder = load_embedder(request.model)
    found = embedder.embed(request.embed)
    return {
        "model": embedder.name,
        "fingerprint": embedder.fingerprint,
        "dimensions": embedder.dimensions,
        "truncated": found.truncated,
        "vectors": base64.b64encode(found.vectors.astype("<f4").tobytes()).decode("ascii"),
    }


def generate(request: GenerateRequest) -> dict[str, Any]:
    """The likeliest answer."""
    from pipeline.sources.text_model import load_text_model

    model, asked = load_text_model(request.model), request.generate
    found = model.generate(asked.system, asked.user, asked.max_tokens)
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "context": model.context,
        **found._asdict(),
    }


def loss(request: LossRequest) -> dict[str, Any]:
    """Losses of the texts."""
    from pipeline.sources.text_model import load_text_model

    model = load_text_model(request.model)
    losses = model.losses(request.loss.prefix, request.loss.texts)
    return {"model": model.name, "fingerprint": model.fingerprint, "losses": losses}


def _own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """stdin and stdout for us alone; anyone else who reads finds nothing, and who prints does so on stderr."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


if __name__ == "__main__":
    sys.exit(main())
