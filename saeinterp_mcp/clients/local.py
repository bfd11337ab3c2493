"""A causal language model in a folder, in the child process, so that torch stays out: answers, and losses of texts."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from saeinterp_mcp.clients.answer_schema import in_words
from saeinterp_mcp.clients.base import Client, Reply, Request, Usage
from saeinterp_mcp.clients.outcomes import answered, brief, sendable
from saeinterp_mcp.clients.worker_process import TooSlow, WorkerProcess, missing
from saeinterp_mcp.errors import BadInput, Unavailable

LOSS_SECONDS = 60.0
LOSS_SECONDS_A_TEXT = 5.0
SUFFIXES = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
SAMPLED = 1 << 20
"""Bytes of the beginning and the end of each file that name a model: all of them would take minutes."""


class LocalClient(Client):
    """Greedy answers, one at a time; JSON is asked for in words, and the model stops when its object is closed."""

    def __init__(
        self, folder: Path, timeout_seconds: float = 600.0, process: WorkerProcess | None = None
    ) -> None:
        """Raises BadInput where the folder holds no model."""
        self.name = name_of(folder)
        self._model, self._seconds = _folder(folder), timeout_seconds
        self._process = process or WorkerProcess()
        self._turns = ThreadPoolExecutor(1)
        """Who waits for a turn waits here: the child's own limit of time begins when it is asked."""

    def why_not(self) -> str | None:
        """The packages that are not installed."""
        return missing("torch", "transformers")

    async def ask(self, request: Request) -> Reply:
        """`truncated` at `max_tokens` or the end of what the model reads; too long a prompt is never cut."""
        _check(self.name, self.why_not())
        question = {
            "system": sendable(request.system) + in_words(request.answer_schema),
            "user": sendable(request.user),
            "max_tokens": request.max_tokens,
        }
        loop = asyncio.get_running_loop()
        asked = {"generate": question, "model": self._model}
        try:
            answer = await loop.run_in_executor(self._turns, self._process.ask, asked, self._seconds)
        except BadInput as error:
            raise Unavailable(f"{self.name} cannot be asked: {error}") from error
        except Unavailable as error:
            reason = "timeout" if isinstance(error, TooSlow) else "server_error"
            return Reply(outcome="failed", reason=reason, detail=brief(str(error)))
        return _read(answer)

    async def close(self) -> None:
        """End the child, in the middle of a question too; the next question starts another."""
        self._process.kill()
        await asyncio.to_thread(self._process.close)


class TextModel:
    """How well a model expects texts: what surprisal is measured by."""

    def __init__(self, folder: Path, process: WorkerProcess | None = None) -> None:
        """Raises BadInput where the folder holds no model."""
        self.name = name_of(folder)
        self._model = _folder(folder)
        self._process = process or WorkerProcess()

    def why_not(self) -> str | None:
        """The packages that are not installed."""
        return missing("torch", "transformers")

    def losses(self, prefix: str, texts: Sequence[str]) -> list[float | None]:
        """Mean cross-entropy, in nats for each token, of each text after the prefix.

        The tokens of a text are the same whatever the prefix is, so losses after different prefixes can be compared.
        The first token of a text counts where something comes before it: a prefix, or the model's own first token.

        Returns:
            As many as `texts`, in their order; None of a text without a token that counts.

        Raises:
            BadInput: a text is longer than the model reads (with the prefix), or not valid Unicode.
            Unavailable: it cannot be used here, or failed.
        """
        _check(self.name, self.why_not())
        asked = {"loss": {"prefix": prefix, "texts": list(texts)}, "model": self._model}
        limit = LOSS_SECONDS + LOSS_SECONDS_A_TEXT * len(texts)
        return list(self._process.ask(asked, limit)["losses"])

    def close(self) -> None:
        """End the child; the next use starts another."""
        self._process.close()


def name_of(folder: Path) -> str:
    """`local:NAME#0123abcd`: wherever it lies, and another name for other weights, so that no old answer is theirs.

    Raises:
        BadInput: the folder holds no model.
    """
    seen = sha256()
    for file in sorted(Path(_folder(folder)).iterdir()):
        if file.suffix in SUFFIXES and file.is_file():
            size = file.stat().st_size
            seen.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as content:
                seen.update(content.read(SAMPLED))
                content.seek(max(0, size - SAMPLED))
                seen.update(content.read(SAMPLED))
    return f"local:{folder.resolve().name}#{seen.hexdigest()[:8]}"


def _folder(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds no language model: there is no config.json in it")
    return str(folder.resolve())


def _check(name: str, why_not: str | None) -> None:
    if why_not is not None:
        raise Unavailable(f"{name} cannot be used here: {why_not}")


def _read(answer: dict[str, Any]) -> Reply:
    usage = Usage(input_tokens=answer["n_prompt"], output_tokens=answer["n_new"])
    if answer["stop"] == "too_long":
        said = f"prompt too long: {answer['n_prompt']} tokens, the model reads {answer['context']}"
        return Reply(outcome="failed", reason="bad_request", detail=said)
    model = f"{answer['model']}:{answer['fingerprint']}"
    reply = answered(answer["text"], usage, model, anywhere=True)
    if answer["stop"] == "limit" and reply.outcome == "invalid":
        return reply.model_copy(update={"outcome": "truncated", "reason": "max_tokens"})
    return reply
