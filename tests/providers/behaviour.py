"""What a pretended provider may answer, and behaviours that many tests share."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any


@dataclass(frozen=True)
class Failure:
    """An HTTP error; in a batch, an entry that errored."""

    status: int = 500
    message: str = "planted failure"
    headers: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    """The provider's word for it; by the status where not given."""


@dataclass(frozen=True)
class Truncated:
    """The answer so far, at the limit of its tokens."""

    text: str


@dataclass(frozen=True)
class Refused:
    """The model says no."""

    text: str = "I cannot help with that."


@dataclass(frozen=True)
class Expired:
    """An entry of a batch that was not worked on in time; asked directly, an overloaded provider."""


@dataclass(frozen=True)
class HangUp:
    """The question was taken, and counted, and the connection closes without an answer."""


Answer = dict[str, Any] | str | Truncated | Refused | Failure | Expired | HangUp
"""A dict is sent as JSON, a str as it is."""


@dataclass(frozen=True)
class Slow:
    """An answer after a while; the others do not wait."""

    seconds: float
    answer: Answer


Behaviour = Callable[[str, str, dict[str, Any]], Answer | Slow]
"""System text, user text, answer schema ({} where none was sent) to an answer; called one at a time, in the order of
arrival."""


def smallest(schema: dict[str, Any]) -> Any:
    """The smallest value that fits a schema: false, 0, "", the first of a choice, empty lists."""
    return _smallest(schema, schema.get("$defs", {}))


def _smallest(schema: dict[str, Any], named: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _smallest(named[schema["$ref"].removeprefix("#/$defs/")], named)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return _smallest(schema[several][0], named)
    kind = schema.get("type")
    if kind == "object":
        return {name: _smallest(one, named) for name, one in schema.get("properties", {}).items()}
    if kind == "array":
        return [_smallest(schema["items"], named)] * schema.get("minItems", 0)
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"boolean": False, "null": None}.get(str(kind), "")


def answers_smallest(system: str, user: str, schema: dict[str, Any]) -> Answer:
    """Fits any schema and knows nothing."""
    return dict(smallest(schema)) if schema else "{}"


def answers_rubbish(system: str, user: str, schema: dict[str, Any]) -> Answer:
    """No JSON at all."""
    return "Sure! Here is what I think: it depends."


def echoes(system: str, user: str, schema: dict[str, Any]) -> Answer:
    """What was asked, in an object."""
    return {"system": system, "user": user}


def every_nth(n: int, otherwise: Answer, behave: Behaviour) -> Behaviour:
    """`behave`, but `otherwise` to every nth question."""
    numbers: Iterator[int] = count(1)
    return lambda system, user, schema: otherwise if next(numbers) % n == 0 else behave(system, user, schema)


NAMED: dict[str, Callable[[], Behaviour]] = {
    "smallest": lambda: answers_smallest,
    "rubbish": lambda: answers_rubbish,
    "echo": lambda: echoes,
    "third_fails": lambda: every_nth(3, Failure(400, "every third fails"), answers_smallest),
}
"""Behaviours that a fake in a process of its own can be started with; `module:function` names any other."""


def as_text(answer: dict[str, Any] | str) -> str:
    """As a model would write it."""
    return answer if isinstance(answer, str) else json.dumps(answer)
