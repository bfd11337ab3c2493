"""What explanations of a feature claim, phrase by phrase: the same for the stages and the server."""

from collections.abc import Callable, Sequence
from typing import Literal

from saeinterp_mcp.patterns.phrases import split_phrases, split_phrases_compat
from saeinterp_mcp.patterns.records import Claimed, Phrase, Vectors

Method = Literal["phrase", "sentence"]


def phrases_of(text: str, method: Method = "phrase", compat: bool = False) -> tuple[Phrase, ...]:
    """The phrases of an explanation (`method` sentence: its sentences)."""
    return split_phrases_compat(text, method) if compat else split_phrases(text, method)


def claims_of(
    explanations: Sequence[tuple[str, str]],
    vectors_of: Callable[[Sequence[str]], Vectors] | None,
    method: Method = "phrase",
) -> list[Claimed]:
    """Explanations of one feature, (explainer, text) each, with their phrases and the phrases' directions."""
    split = [phrases_of(text, method) for _, text in explanations]
    texts = [phrase.text for phrases in split for phrase in phrases]
    vectors = vectors_of(texts) if vectors_of is not None and texts else None
    claims, first = [], 0
    for (explainer, text), phrases in zip(explanations, split, strict=True):
        mine = None if vectors is None else vectors[first : first + len(phrases)]
        claims.append(Claimed(explainer, text, phrases, mine))
        first += len(phrases)
    return claims
