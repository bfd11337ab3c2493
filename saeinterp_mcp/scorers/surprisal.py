"""Surprisal: does the claim help a language model to foresee the excerpts where the feature fires? Nobody is asked."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, cycle
from typing import Protocol

from saeinterp_mcp.analysis.text import join_bytes
from saeinterp_mcp.config import shipped_text
from saeinterp_mcp.excerpts.show import plain
from saeinterp_mcp.scorers.base import Answer, Trial
from saeinterp_mcp.scorers.judging import of_sets
from saeinterp_mcp.scorers.no_judge import Ranking


class Losses(Protocol):
    """A language model that reads texts (`clients.local.TextModel`)."""

    def losses(self, prefix: str, texts: Sequence[str]) -> Sequence[float | None]:
        """Mean cross-entropy of each text after the prefix, nats a token; None where no token counts."""


class Surprisal(Ranking):
    """AUROC of the loss after a sentence that says nothing, less the loss after the claim."""

    name = "surprisal"
    needs = "text_model"

    def answers(self, claim: str, trials: Sequence[Trial], model: Losses) -> dict[str, Answer]:
        """1 / (1 + exp(-difference)) of each trial: over one half where the claim helps; only the order is graded.

        The sentence that says nothing is about as long as the claim, because anything in front of a text changes its
        loss. An excerpt without text, or whose loss is no number, stays without an answer.
        """
        sets = of_sets(trials)
        texts = {t.trial_id: plain(t.excerpts[0]) if sets else _text(t) for t in trials}
        texts = {name: text for name, text in texts.items() if text}
        if not texts:
            return {}
        said, unsaid = (
            model.losses(_prefix(words), list(texts.values())) for words in (claim, neutral(claim))
        )
        pairs = zip(texts, said, unsaid, strict=True)
        gains = {name: b - a for name, a, b in pairs if a is not None and b is not None}
        return {name: _logistic(gain) for name, gain in gains.items() if math.isfinite(gain)}


def neutral(claim: str) -> str:
    """A sentence about nothing, cut or repeated at words to about the claim's length in characters."""
    words = cycle(shipped_text("prompts", "score/surprisal_neutral.md").split())
    texts = accumulate(words, lambda text, word: f"{text} {word}")
    return next(text for text in texts if len(text) >= len(claim))


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, x))))


@lru_cache(maxsize=1)
def _form() -> str:
    return shipped_text("prompts", "score/surprisal.md").rstrip("\n")


def _prefix(words: str) -> str:
    return _form().replace("{claim}", words)


def _text(trial: Trial) -> str:
    return join_bytes("".join(trial.excerpts[0].tokens))
