"""A scripted language model: explains by what is marked in the excerpts it is shown, judges by the claim's own words.

It knows nothing of any store: all it has is the text of the request, read as a careful model would. For
`tests.providers.fake_server`, in a thread or in a process of its own (`--behaviour tests.autointerp.scripted_model:x`).
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from itertools import count
from typing import Any

from tests.providers.behaviour import Answer, Behaviour, Expired, Failure, Refused

MARKED = re.compile(r"<<(.*?)>>")
NAMED = re.compile(r'the token "(.*)"')
NUMBERED = re.compile(r"\d+: (.*)")
ENTRY = re.compile(r"(t\d+): (.*)")
RARE = 0.5
"""A token that is marked in less than this share of the excerpts is no pattern."""


def is_judging(system: str) -> bool:
    """Whether it is asked to test a claim, and not to make one."""
    return system.startswith(("You test a claim", "You look for what"))


def fenced(user: str) -> list[str]:
    """The lines between the first fence."""
    lines = user.split("\n")
    return lines[lines.index("<excerpts>") + 1 : lines.index("</excerpts>")]


def explained(user: str, share: float = RARE) -> dict[str, Any]:
    """A claim about the token that is marked most often; unclear where none is marked in that share of the excerpts."""
    shown = [found[1] for line in fenced(user) if (found := NUMBERED.fullmatch(line))]
    marks = Counter(mark[1].strip() for text in shown for mark in [MARKED.search(text)] if mark)
    token, n = marks.most_common(1)[0] if marks else ("", 0)
    clear = bool(token) and n >= share * len(shown)
    return {
        "explanation": f'Fires on the token "{token}".' if clear else "No token is marked in half of them.",
        "label": f'the token "{token}"' if clear else "unclear",
        "granularity": "token" if clear else "unclear",
        "polarity": "present",
        "confidence": round(100 * n / max(1, len(shown))),
        "rule": None,
    }


def claimed(user: str) -> str:
    """The token that the claim names; nothing where it names none."""
    lines = user.split("\n")
    claim = " ".join(lines[lines.index("<claim>") + 1 : lines.index("</claim>")])
    found = NAMED.search(claim.partition(": ")[0])
    return found[1] if found else "\0"


def holds(text: str, token: str) -> bool:
    """Whether a text holds a token, as a word of its own where it is one."""
    before = r"(?<!\w)" if token[:1].isalnum() else ""
    after = r"(?!\w)" if token[-1:].isalnum() else ""
    return re.search(f"{before}{re.escape(token)}{after}", text) is not None


def judged(system: str, user: str, says: Callable[[str, str], bool]) -> dict[str, Any]:
    """An entry for every trial; `says` is given the claim's token and what is shown."""
    token, entries = claimed(user) if "<claim>" in user.split("\n") else "\0", []
    for line in fenced(user):
        if (found := ENTRY.fullmatch(line)) is None:
            continue
        name, shown = found[1], found[2]
        if "`numbers` holds" in system:
            tokens = json.loads(shown.partition(" tokens: ")[2])
            entries.append({"id": name, "numbers": [10 * says(token, one) for one in tokens]})
        elif "`intruder` is" in system:
            entries.append({"id": name, "intruder": 1})
        else:
            marks = MARKED.findall(shown) if "tokens are marked, <<so>>" in system else [shown]
            entries.append({"id": name, "probability": 100 * any(says(token, one) for one in marks)})
    return {"answers": entries}


def model(judge: Callable[[str, str], Answer], share: float = RARE) -> Behaviour:
    """Explains as it is; judges as told."""

    def behave(system: str, user: str, schema: dict[str, Any]) -> Answer:
        return judge(system, user) if is_judging(system) else explained(user, share)

    return behave


def by_words(system: str, user: str) -> Answer:
    """Goes by whether the token of the claim is there."""
    return judged(system, user, lambda token, shown: holds(shown, token))


def never(system: str, user: str) -> Answer:
    """Says no to everything."""
    return judged(system, user, lambda token, shown: False)


def by_hash(system: str, user: str) -> Answer:
    """A coin that falls the same way for the same words."""
    return judged(system, user, lambda token, shown: sha256(shown.encode()).digest()[0] % 2 == 0)


def every_third(otherwise: Answer) -> Callable[[str, str], Answer]:
    """Goes by the words, but not at every third question."""
    numbers = count(1)
    return lambda system, user: otherwise if next(numbers) % 3 == 0 else by_words(system, user)


knows = model(by_words)
says_no = model(never)
eager = model(by_words, share=0.0)
"""Never finds anything unclear."""
coin = model(by_hash)


def third_fails() -> Behaviour:
    """Every third question to the judge is answered with an error that nobody tries again."""
    return model(every_third(Failure(400, "every third fails")))


def third_expires() -> Behaviour:
    """Every third question to the judge expires in its batch."""
    return model(every_third(Expired()))


def judge_rubbish(system: str, user: str, schema: dict[str, Any]) -> Answer:
    """Explains, and judges in prose."""
    return "Sure! It depends." if is_judging(system) else explained(user)


def refuses(system: str, user: str, schema: dict[str, Any]) -> Answer:
    """Says no to whatever it is asked."""
    return Refused()
