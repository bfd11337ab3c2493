"""Causal language models from local files, as a judge: greedy answers, and losses of texts.

Corpus text never becomes a control token: what a chat template adds is tokenised apart from what it is put around, so
that a text with `<|im_end|>` in it is text.
"""

import os

# read when the libraries are imported: nothing fetched unless somebody says so
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import json
import secrets
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import file_sha256, fingerprint

disable_progress_bar()
set_verbosity_error()

Stop = Literal["object", "end", "limit", "too_long"]
"""object: a JSON object is closed; end: the model ended; limit: at `max_tokens`, or at the end of what it reads;
too_long: the prompt leaves no room for a token."""
NOT_THE_MODEL = (".md", ".gitattributes", ".gitignore")


class Generated(NamedTuple):
    """An answer."""

    text: str
    stop: Stop
    n_prompt: int
    n_new: int
    """Tokens that were generated."""


class TextModel:
    """A model that is loaded."""

    def __init__(self, folder: Path) -> None:
        """Raises BadInput when the folder holds no language model that can be read without running code of its own."""
        if not (folder / "config.json").is_file():
            raise BadInput(f"{folder} holds no language model: there is no config.json in it")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        # small numbers are slow on a CPU, and rounded differently on each
        dtype: Any = "auto" if self.device.type == "cuda" else torch.float32
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), **local)
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(folder), use_safetensors=True, dtype=dtype, **local
            )
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise BadInput(f"{folder} holds no language model that can be read: {said}") from error
        self._model = model.eval().requires_grad_(False).to(self.device)
        self.name, self.fingerprint = folder.name, model_fingerprint(folder)
        length = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self.context = int(length) if length else int(min(self._tokenizer.model_max_length, 2**31))
        """Tokens that it reads, prompt and answer together."""

    def generate(self, system: str, user: str, max_tokens: int) -> Generated:
        """The likeliest answer, token by token, until a JSON object is closed, the model ends, or the limit."""
        prompt = self._prompt(system, user)
        room = min(max_tokens, self.context - len(prompt))
        if room < 1:
            return Generated("", "too_long", len(prompt), 0)
        ends = _ids(self._model.generation_config.eos_token_id) | _ids(self._tokenizer.eos_token_id)
        closed = _Closed(self._tokenizer, len(prompt))
        how = GenerationConfig(
            max_new_tokens=room,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=sorted(ends) or None,
            pad_token_id=min(ends) if ends else 0,
            use_cache=True,
        )
        ids = torch.tensor([prompt], device=self.device)
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=how,
                stopping_criteria=[closed],
            )
        new = out[0, len(prompt) :].tolist()
        stop: Stop = "object" if closed.is_closed else "end" if new and new[-1] in ends else "limit"
        return Generated(self._text(new), stop, len(prompt), len(new))

    def losses(self, prefix: str, texts: Sequence[str]) -> list[float | None]:
        """Mean cross-entropy in nats of the tokens of each text after the prefix; None where no token counts.

        Raises:
            BadInput: a text is longer than the model reads.
        """
        start = [*self._first(), *self._plain(prefix)]
        return [self._loss(start, self._plain(text), i) for i, text in enumerate(texts)]

    @torch.inference_mode()
    def _loss(self, start: list[int], text: list[int], i: int) -> float | None:
        ids = [*start, *text]
        if len(ids) > self.context:
            raise BadInput(
                f"text {i} is too long: {len(ids)} tokens with the prefix, the model reads {self.context}"
            )
        n_scored = len(text) if start else len(text) - 1
        if n_scored < 1:
            return None
        tokens = torch.tensor([ids], device=self.device)
        logits: Tensor = self._model(tokens, use_cache=False).logits[0, -n_scored - 1 : -1].float()
        return float(cross_entropy(logits, tokens[0, -n_scored:]))

    def _prompt(self, system: str, user: str) -> list[int]:
        """By the model's chat template where it has one."""
        if not self._tokenizer.chat_template:
            return [*self._first(), *self._plain(f"{system}\n\n{user}\n\n")]
        places = [f"place{secrets.token_hex(8)}" for _ in range(2)]
        template = self._render(*places)
        if template is None or places[0] not in template:  # it knows no system text
            template = self._render(None, places[1])
            system, user = "", f"{system}\n\n{user}"
        if template is None or template.count(places[1]) != 1:
            raise BadInput(f"the chat template of {self.name} does not show what is asked exactly once")
        ids: list[int] = []
        before, found, rest = template.partition(places[0])
        if found:
            ids += [*self._control(before), *self._plain(system)]
            before = rest
        before, _, after = (before if found else template).partition(places[1])
        return [*ids, *self._control(before), *self._plain(user), *self._control(after)]

    def _render(self, system: str | None, user: str) -> str | None:
        said = [{"role": "user", "content": user}]
        if system is not None:
            said = [{"role": "system", "content": system}, *said]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    said, tokenize=False, add_generation_prompt=True, enable_thinking=False
                )
            )
        except TemplateError:
            return None

    def _first(self) -> list[int]:
        """What the tokenizer itself puts in front of a text (BOS), if it does."""
        ids = self._tokenizer("a")["input_ids"]
        bos = self._tokenizer.bos_token_id
        return [bos] if bos is not None and ids[:1] == [bos] else []

    def _plain(self, text: str) -> list[int]:
        """Text in which nothing is a control token."""
        return self._ids(text, split=True)

    def _control(self, text: str) -> list[int]:
        return self._ids(text, split=False)

    def _ids(self, text: str, *, split: bool) -> list[int]:
        found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=split, verbose=False)
        return list(found["input_ids"])

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class _Closed:
    """Stops at the end of the first JSON object."""

    def __init__(self, tokenizer: Any, n_prompt: int) -> None:
        self._tokenizer, self._n_prompt, self.is_closed = tokenizer, n_prompt, False

    def __call__(self, ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        new = ids[0, self._n_prompt :].tolist()
        if "}" in self._tokenizer.decode(new[-1:]):
            self.is_closed = _has_object(self._tokenizer.decode(new, skip_special_tokens=True))
        return torch.full((ids.shape[0],), self.is_closed, device=ids.device)


def _has_object(text: str) -> bool:
    start = text.find("{")
    while start >= 0:
        try:
            json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return True
    return False


def _ids(given: int | list[int] | None) -> set[int]:
    return set() if given is None else {given} if isinstance(given, int) else set(given)


@lru_cache(maxsize=1)
def load_text_model(folder: str) -> TextModel:
    """Of a folder.

    Raises:
        BadInput: it holds no such model.
    """
    return TextModel(Path(folder))


def model_fingerprint(folder: Path) -> str:
    """Names what is in the files that decide what a model does."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix not in NOT_THE_MODEL]
    return fingerprint({path.name: file_sha256(path) for path in files})
