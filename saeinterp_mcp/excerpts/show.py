"""Excerpts as text for people and language models: marks and fences that a corpus can neither forge nor close."""

import math
import re
from collections.abc import Sequence
from itertools import groupby

from saeinterp_mcp.analysis.text import MARK_CLOSE, MARK_OPEN, join_bytes, shortened, visible
from saeinterp_mcp.excerpts.records import Excerpt

FENCE_OPEN, FENCE_CLOSE = "<excerpts>", "</excerpts>"
MAX_TOKEN = 200
"""Characters of a token that are shown."""
MAX_SET = 8_000
STEPS = 10
"""Activations are shown as 0 to this."""
_FENCE = re.compile(r"<(?=[\s/]*excerpts)", re.IGNORECASE)


def plain(excerpt: Excerpt) -> str:
    """The excerpt on one line: the text of a sequence; groups and tokens of a set."""
    if _is_set(excerpt):
        return _set_text(excerpt)
    return _safe(excerpt.tokens)


def marked(excerpt: Excerpt, at: Sequence[bool]) -> str:
    """The text of a sequence with the tokens of `at` marked `<<so>>`, neighbours in one mark.

    Marks in the corpus are spelled `‹‹` and `››`, and so is a single `<` or `>` that touches a mark. Whoever reads it
    sees where marks begin and end, and nothing else.
    """
    assert len(at) == len(excerpt.tokens), "one mark or none for each token"
    parts = []
    for is_marked, run in groupby(zip(at, excerpt.tokens, strict=True), key=lambda pair: bool(pair[0])):
        parts.append((is_marked, _safe([token for _, token in run])))
    shown = []
    for i, (is_marked, text) in enumerate(parts):
        after_mark = i > 0 and parts[i - 1][0]
        before_mark = i + 1 < len(parts) and parts[i + 1][0]
        if text.startswith("<" if is_marked else ">") and (is_marked or after_mark):
            text = ("‹" if is_marked else "›") + text[1:]
        if text.endswith(">" if is_marked else "<") and (is_marked or before_mark):
            text = text[:-1] + ("›" if is_marked else "‹")
        shown.append(MARK_OPEN + text + MARK_CLOSE if is_marked else text)
    return "".join(shown)


def with_activations(excerpt: Excerpt, maximum: float) -> str:
    """Two lines for an explainer: the text, its own token marked; what fires in it, from 1 to 10 (the maximum).

    `maximum` is the activation shown as 10, such as the effective maximum; where it is unknown (NaN, 0), the
    excerpt's own strongest is. A silent excerpt has no mark. A set has one activation.
    """
    top = maximum if math.isfinite(maximum) and maximum > 0 else excerpt.strongest
    if _is_set(excerpt):
        return f"{_set_text(excerpt)}\nactivation: {_step(excerpt.strongest, top)} of {STEPS}"
    fires = [
        f'("{_token(token)}", {_step(activation, top)})'
        for token, activation in zip(excerpt.tokens, excerpt.activations, strict=True)
        if activation > 0
    ]
    if not fires:
        return f"{plain(excerpt)}\nactivations: none, it is silent at every token"
    own = [i == excerpt.at and excerpt.activations[i] > 0 for i in range(len(excerpt.tokens))]
    return f"{marked(excerpt, own)}\nactivations: {', '.join(fires)}"


def fenced(texts: Sequence[str], names: Sequence[str] | None = None) -> str:
    """Texts of this module under numbers (or names), inside a fence that none of them can close.

    Every text is data: a line of it begins with a number of ours, since line breaks of the corpus are shown as ⏎.
    """
    labels = names if names is not None else [str(i) for i in range(1, len(texts) + 1)]
    lines = [f"{label}: {_FENCE.sub('‹', text)}" for label, text in zip(labels, texts, strict=True)]
    return "\n".join([FENCE_OPEN, *lines, FENCE_CLOSE])


def _step(activation: float, top: float) -> int:
    """0 where it is silent, otherwise 1 to 10: what fires never looks silent."""
    return min(STEPS, math.ceil(STEPS * activation / top)) if activation > 0 else 0


def _is_set(excerpt: Excerpt) -> bool:
    return bool(excerpt.groups) or len(excerpt.activations) != len(excerpt.tokens)


def _set_text(excerpt: Excerpt) -> str:
    groups = [f"{_safe([name])}: {_token(value)}" for name, value in excerpt.groups]
    held = shortened(", ".join(_token(token) for token in excerpt.tokens), MAX_SET)
    return "; ".join([*groups, f"tokens: {held or '(none)'}"])


def _token(token: str) -> str:
    return _safe([token]).replace('"', "'")


def _safe(tokens: Sequence[str]) -> str:
    """One line: control characters visible, bytes joined, the marks of the corpus spelled otherwise."""
    text = visible(join_bytes("".join(shortened(token, MAX_TOKEN) for token in tokens)))
    return text.replace(MARK_OPEN, "‹‹").replace(MARK_CLOSE, "››")
