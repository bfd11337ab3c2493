"""`python -m pipeline.worker`: what needs torch, in a process of its own, so that a server never loads it.

A request is a line of JSON on stdin; its answer is a line on stdout, in the order asked:

    {"embed": ["a text", ...], "model": null}
        -> {"model": "all-MiniLM-L6-v2", "fingerprint": "...", "dimensions": 384, "truncated": [],
            "vectors": base64 of (n, 384) little-endian float32, each of length 1}
    what cannot be done
        -> {"error": "...", "kind": "caller" or "bug"}

`model` is a folder with a sentence-transformers model, or a name in this machine's Hugging Face cache; null is the one
that the `pipeline` extra installs. Nothing is downloaded. The worker ends when stdin closes. Nothing but answers gets
onto stdout: what libraries print goes to stderr.
"""

import base64
import json
import logging
import os
import signal
import sys
from typing import IO, Any

from pydantic import ConfigDict, ValidationError, field_validator

from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.frozen import Frozen, describe_validation

log = logging.getLogger(__name__)


class EmbedRequest(Frozen):
    """Texts whose directions are asked for."""

    model_config = ConfigDict(strict=True)
    embed: list[str]
    model: str | None = None

    @field_validator("embed")
    @classmethod
    def _is_unicode(cls, texts: list[str]) -> list[str]:
        """JSON can hold half a surrogate pair; tokenizers fall over it."""
        for i, text in enumerate(texts):
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(f"text {i} holds half a surrogate pair, which is no valid Unicode")
        return texts


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
        return embed(EmbedRequest.model_validate(json.loads(line.decode("utf-8"))))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        return {"error": f"not a request: no JSON: {error}", "kind": "caller"}
    except ValidationError as error:
        return {"error": f"not a request: {describe_validation(error)}", "kind": "caller"}
    except SaeInterpError as error:
        return {"error": str(error), "kind": "caller"}
    except Exception as error:
        log.exception("a request failed")
        return {"error": f"{type(error).__name__}: {error}", "kind": "bug"}


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
