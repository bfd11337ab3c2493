"""What a judge is asked, and what is read out of its replies. The wording is in `prompts/score/`."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from saeinterp_mcp.analysis.text import shortened, visible
from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.config import shipped_text
from saeinterp_mcp.excerpts.show import MAX_TOKEN, fenced
from saeinterp_mcp.scorers.base import Answer, InvalidAnswer, Trial

ANSWER_HEADING = "## Answer"
BETWEEN_FENCES = ", between lines of their own that open and close them"
"""Of requests; a blinded set is a table."""
MAX_CLAIM = 2000
_FENCE = re.compile(r"<(?=[\s/]*(?:claim|excerpts))", re.IGNORECASE)

TEXTS: Mapping[str, str] = {
    "where": "at each token of a text",
    "excerpts": "excerpts of text",
    "somewhere": "at one or more of its tokens",
    "at_each": "at each token of each excerpt",
    "base_rate": "It fires in about half of the excerpts, and there mostly at a few tokens. The other excerpts were "
    "taken at random, or because they are close to those where it fires. Each excerpt is a list of its tokens, after "
    "their number.",
    "numbers": "one number for each token, as many as stand before the list of tokens",
}
SETS: Mapping[str, str] = {
    "where": "for each set of tokens (their order means nothing)",
    "excerpts": "sets of tokens",
    "somewhere": "for that set",
    "at_each": "for each set",
    "base_rate": "It fires for about half of the sets. The others were taken at random, or because they are close to "
    "those where it fires.",
    "numbers": "a single number, for the whole set",
}


def question(name: str, trials: Sequence[Trial]) -> str:
    """The instructions of a test, without how a judge's answer is written."""
    asked = _instructions(name, of_sets(trials)).partition(ANSWER_HEADING)[0].strip()
    return asked.replace(BETWEEN_FENCES, "")


def of_sets(trials: Sequence[Trial]) -> bool:
    """Whether they show sets: one activation for all of it."""
    return all(len(e.activations) == 1 for t in trials for e in t.excerpts)


@lru_cache(maxsize=16)
def _instructions(name: str, sets: bool) -> str:
    text = shipped_text("prompts", f"score/{name}.md").strip()
    for slot, words in (SETS if sets else TEXTS).items():
        text = text.replace("{" + slot + "}", words)
    return text


def ask(
    name: str,
    claim: str | None,
    trials: Sequence[Trial],
    at_once: int,
    schema: dict[str, Any],
    max_tokens: Callable[[Sequence[Trial]], int],
) -> list[tuple[Request, tuple[Trial, ...]]]:
    """A request for every `at_once` trials, in their order; claim and excerpts are fenced as data."""
    if not trials:
        return []
    system = _instructions(name, of_sets(trials))
    asked = []
    for start in range(0, len(trials), at_once):
        part = tuple(trials[start : start + at_once])
        user = "\n\n".join(text for text in (_claim(claim), _shown(part)) if text)
        request = Request(system=system, user=user, answer_schema=schema, max_tokens=max_tokens(part))
        asked.append((request, part))
    return asked


def answers_schema(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of `{"answers": [{"id": ..., NAME: ...}, ...]}`."""
    return {
        "type": "object",
        "properties": {
            "answers": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"id": {"type": "string"}, name: entry},
                    "required": ["id", name],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["answers"],
        "additionalProperties": False,
    }


def read_answers(
    trials: Sequence[Trial], reply: Reply, name: str, read: Callable[[Trial, Any], Answer | None]
) -> dict[str, Answer]:
    """Answers by trial id; `read` gives None for a trial that stays without one.

    Raises:
        InvalidAnswer: there is no list of them, or an entry is about no trial asked for, or about one twice.
    """
    asked = {t.trial_id: t for t in trials}
    entries = reply.value.get("answers") if reply.outcome == "answered" and reply.value is not None else None
    if not isinstance(entries, list):
        raise InvalidAnswer("no list of answers")
    seen: set[str] = set()
    found: dict[str, Answer] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or name not in entry:
            raise InvalidAnswer(f"an entry without id and {name}")
        trial = asked.get(entry["id"])
        if trial is None:
            raise InvalidAnswer("an answer to a trial that was not asked for")
        if trial.trial_id in seen:
            raise InvalidAnswer("two answers to one trial")
        seen.add(trial.trial_id)
        answer = read(trial, entry[name])
        if answer is not None:
            found[trial.trial_id] = answer
    return found


def token_list(tokens: Sequence[str]) -> str:
    """`3 tokens: ["a", "b", "c"]`: how many numbers are asked for, and where each token ends."""
    held = json.dumps([visible(shortened(token, MAX_TOKEN)) for token in tokens], ensure_ascii=False)
    return f"{len(tokens)} tokens: {held}"


def _claim(claim: str | None) -> str | None:
    if claim is None:
        return None
    text = shortened(visible(" ".join(claim.split())), MAX_CLAIM)
    return f"<claim>\n{_FENCE.sub('‹', text)}\n</claim>"


def _shown(trials: Sequence[Trial]) -> str:
    lines = [_FENCE.sub("‹", t.shown) for t in trials]
    return fenced(lines, [t.trial_id for t in trials])
