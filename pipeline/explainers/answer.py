"""The answer that explainers ask for, and how it is read: every way of being none has a few words to be counted by."""

from typing import Any, Final, cast, get_args

from pipeline.explainers.base import Explanation, Granularity, InvalidExplanation, Polarity
from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.clients.base import Reply
from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.operations.known_names import checked_rule
from saeinterp_mcp.store.base import Store

MAX_WORDS: Final = 9
"""Of a label ("under 10 words")."""
MAX_SAID_WORDS: Final = 30
"""Of what is still taken for a label and shortened; more is an essay."""
MAX_LABEL: Final = 150
MAX_EXPLANATION: Final = 1_000
"""Characters, also of a label's explanation in the label store."""
MAX_ANSWER_TOKENS: Final = 1_000
UNCLEAR: Final = "unclear"
_NO_LABEL: Final = frozenset({UNCLEAR, "n/a", "no pattern", "no clear pattern"})
"""What models write instead of a label when they see nothing, whatever else they fill in. ("None" is a token, too.)"""

ANSWER_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "explanation": {
            "type": "string",
            "description": "One or two sentences: where it fires, and what looks alike but does not belong to it",
        },
        "label": {"type": "string", "description": f"At most {MAX_WORDS} words"},
        "granularity": {"type": "string", "enum": list(get_args(Granularity))},
        "polarity": {"type": "string", "enum": list(get_args(Polarity))},
        "confidence": {"type": "integer", "description": "0 to 100"},
        "rule": {
            "anyOf": [{"type": "string"}, {"type": "null"}],
            "description": "The claim as a rule, or null",
        },
    },
    "required": ["explanation", "label", "granularity", "polarity", "confidence", "rule"],
    "additionalProperties": False,
}
"""No bounds in it: providers do not keep to them. The explanation comes first, so that the label is drawn from it."""


def read_answer(store: Store, reply: Reply) -> Explanation:
    """The explanation in a reply, with remarks on what was done to it.

    Raises:
        InvalidExplanation: there is none; the message has no words of the model in it.
    """
    answer = reply.value
    if reply.outcome != "answered" or answer is None:
        raise InvalidExplanation("no answer")
    granularity = _choice(answer, "granularity", get_args(Granularity))
    polarity = _choice(answer, "polarity", get_args(Polarity))
    label, explanation = _text(answer, "label"), _text(answer, "explanation")
    remarks: list[str] = []
    confidence = _confidence(answer, remarks)
    if granularity != UNCLEAR and label.rstrip(".").lower() in _NO_LABEL:
        granularity = UNCLEAR
        remarks.append("the label says that there is none: read as unclear")
    if granularity == UNCLEAR:
        label = label or UNCLEAR
    if not label:
        raise InvalidExplanation("empty label")
    if not explanation and granularity != UNCLEAR:
        raise InvalidExplanation("empty explanation")
    label, explanation = _shortened(label, explanation, remarks)
    if len(explanation) > MAX_EXPLANATION:
        raise InvalidExplanation("explanation too long")
    return Explanation(
        label=label,
        explanation=explanation,
        granularity=cast(Granularity, granularity),
        polarity=cast(Polarity, polarity),
        confidence=confidence,
        rule=_rule(store, answer, granularity == UNCLEAR, remarks),
        remarks=tuple(remarks),
    )


def _field(answer: dict[str, Any], name: str) -> Any:
    if name not in answer:
        raise InvalidExplanation(f"no {name}")
    return answer[name]


def _text(answer: dict[str, Any], name: str) -> str:
    """In one line, with nothing invisible in it: it goes to judges and reviewers."""
    value = _field(answer, name)
    if not isinstance(value, str):
        raise InvalidExplanation(f"{name} is no text")
    return visible(" ".join(value.split()))


def _choice(answer: dict[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = _field(answer, name)
    word = value.strip().lower() if isinstance(value, str) else None
    if word not in known:
        raise InvalidExplanation(f"unknown {name}")
    return word


def _confidence(answer: dict[str, Any], remarks: list[str]) -> float:
    """0 to 1, from a percentage."""
    value = _field(answer, "confidence")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidExplanation("confidence is no number")
    if not 0 <= value <= 100:
        raise InvalidExplanation("confidence out of range")
    if 0 < value < 1:
        remarks.append("confidence under 1 read as a share, not as percent")
        return float(value)
    return float(value) / 100


def _shortened(label: str, explanation: str, remarks: list[str]) -> tuple[str, str]:
    """A label of 10 words and more is cut and stands whole in the explanation: nothing of the claim is lost."""
    words = label.split()
    if len(words) <= MAX_WORDS and len(label) <= MAX_LABEL:
        return label, explanation
    if len(words) > MAX_SAID_WORDS or len(words) <= MAX_WORDS:
        raise InvalidExplanation("label too long")
    remarks.append(f"label of {len(words)} words cut to {MAX_WORDS}; it stands whole in the explanation")
    return " ".join(words[:MAX_WORDS]), f"{label.rstrip('.')}. {explanation}".strip()


def _rule(store: Store, answer: dict[str, Any], unclear: bool, remarks: list[str]) -> str | None:
    """The rule in its normal form; None, with a remark, if the store cannot test it."""
    said = answer.get("rule")
    if said is None or (isinstance(said, str) and said.strip().lower() in ("", "null", "none")):
        return None
    if not isinstance(said, str):
        raise InvalidExplanation("rule is no text")
    if unclear:
        remarks.append("rule dropped: the answer is that it is unclear")
        return None
    try:
        rule = checked_rule(said, store)
    except SaeInterpError as error:
        remarks.append(f"rule dropped: {str(error).splitlines()[0]}")
        return None
    if rule.needs().uses_feature:
        remarks.append("rule dropped: it reads the feature's own activation")
        return None
    return rule.canonical()
