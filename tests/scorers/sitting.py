"""Whoever sits a test: planted judges that read a request as a model would, and answer it."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.scorers.base import Answer, InvalidAnswer, Scorer, Trial

LINE = re.compile(r"(t\d+): (.*)")
Judge = Callable[[str], Any]
"""What a trial shows to the value of its answer."""


def shown_in(request: Request) -> dict[str, str]:
    """Trial id to what is shown of it, read from between the fence."""
    lines = request.user.split("\n")
    inside = lines[lines.index("<excerpts>") + 1 : lines.index("</excerpts>")]
    found: dict[str, str] = {}
    for line in inside:
        match = LINE.fullmatch(line)
        if match:
            found[match[1]] = match[2]
        else:
            found[list(found)[-1]] += "\n" + line
    return found


def reply_of(value: Any) -> Reply:
    return Reply(outcome="answered", text=json.dumps(value), value=value)


def sit(
    scorer: Scorer, trials: Sequence[Trial], name: str, judge: Judge, fails_each: int = 0
) -> tuple[dict[str, Answer], int]:
    """Answers of a judge to all requests, and how many trials were in those that failed.

    Args:
        scorer: of the test.
        trials: of the test.
        name: of the value in an answer.
        judge: who answers.
        fails_each: 3: every third request has no usable answer.
    """
    answers: dict[str, Answer] = {}
    n_lost = 0
    for i, (request, part) in enumerate(scorer.requests("it fires on the word def", trials), 1):
        if fails_each and i % fails_each == 0:
            n_lost += len(part)
            try:
                scorer.read(part, reply_of({"answers": "no"}))
            except InvalidAnswer:
                continue
            raise AssertionError("rubbish was read as an answer")
        entries = [{"id": trial, name: judge(shown)} for trial, shown in shown_in(request).items()]
        answers |= scorer.read(part, reply_of({"answers": entries}))
    return answers, n_lost
