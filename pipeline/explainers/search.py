"""Search: the words that go with a feature's firing, found by counting. The baseline of every other explainer."""

import re
from typing import ClassVar

from pydantic import Field

from pipeline.explainers.answer import MAX_WORDS, UNCLEAR
from pipeline.explainers.base import Explainer, Explanation
from saeinterp_mcp.errors import NotInStore, SaeInterpError
from saeinterp_mcp.excerpts.search_label import SearchLabel, SearchWord, search_label
from saeinterp_mcp.operations.known_names import checked_rule
from saeinterp_mcp.rules import FamilyCondition, GroupCondition, TokenCondition, any_of
from saeinterp_mcp.store.base import Store

_LEVEL = re.compile(r"(.+?)(>=|=)(\d+)")
_VALUE = re.compile(r"([\w-]+)(?:\.([\w-]+))?=(.*)", re.DOTALL)
Term = FamilyCondition | GroupCondition | TokenCondition


class Search(Explainer):
    """The search label as an explanation: no model, the same whenever it is asked."""

    name: ClassVar[str] = "search"
    needs_model: ClassVar[bool] = False
    n_words: int = Field(default=4, ge=1, le=6)
    """Most words of a label."""
    vocabulary: str | None = None
    """The only words it may use: a file, or a name in `prompts/vocabularies`; None: any."""

    def explain(self, store: Store, feature: int, seed: int) -> Explanation:
        """The words, with how often they are there; unclear where none goes with it beyond chance.

        Its confidence is by how much the best word is more frequent in firing excerpts than in all: of 1, both shares
        counted on the explain split.
        """
        found = search_label(store, feature, self.vocabulary, self.n_words, seed)
        if not found.n_firing_excerpts:
            raise NotInStore(
                f"feature {feature} never fires in the explain split of store {store.name!r}, so there is nothing to "
                f"explain; features_search --where 'firing_rate>0' finds features that fire"
            )
        words = _short_enough(found.words)
        if not words:
            return Explanation(
                label=UNCLEAR,
                explanation=f"Counting words tells nothing: {found.reason}.",
                granularity="unclear",
                polarity="present",
                confidence=0.0,
            )
        return Explanation(
            label=", ".join(word.word for word in words),
            explanation=_in_words(store, found, words),
            granularity="token" if len(words) == 1 else "topic",
            polarity="present",
            confidence=_lead(found, words),
            rule=_rule(store, words),
        )


def _short_enough(words: tuple[SearchWord, ...]) -> tuple[SearchWord, ...]:
    """The first ones that make a label of under 10 words; a token of a set may be several words long."""
    kept = 0
    while kept < len(words) and sum(len(word.word.split()) for word in words[: kept + 1]) <= MAX_WORDS:
        kept += 1
    return words[: max(1, kept)]


def _in_words(store: Store, found: SearchLabel, words: tuple[SearchWord, ...]) -> str:
    where = "the sample holds"
    if store.is_sequence:
        where = "the firing token is" if found.scope == "token" else "the text around holds"
    what = "tokens" if found.scope == "token" else "excerpts"
    shares = [
        f"{word.word} ({_percent(word.n_firing_excerpts, found.n_firing_excerpts)} of {what} where it fires, "
        f"{_percent(word.n, found.n_background)} of all)"
        for word in words
    ]
    return f"Fires where {where} {' or '.join(shares)}."


def _lead(found: SearchLabel, words: tuple[SearchWord, ...]) -> float:
    leads = (
        word.n_firing_excerpts / found.n_firing_excerpts - word.n / max(1, found.n_background)
        for word in words
    )
    return round(max(0.0, *leads), 4)


def _percent(n: int, total: int) -> str:
    return f"{100 * n / max(1, total):.3g} %"


def _rule(store: Store, words: tuple[SearchWord, ...]) -> str | None:
    """Any of the words, in a set; in a text they stand around the firing token, where rules do not look."""
    if store.is_sequence:
        return None
    terms = [term for word in words if (term := _term(store, word.word)) is not None]
    if len(terms) < len(words):
        return None
    try:
        return checked_rule(any_of(*terms).canonical(), store).canonical()
    except SaeInterpError:  # a value that was shortened to be shown
        return None


def _term(store: Store, word: str) -> Term | None:
    if word in store.families:
        return FamilyCondition(word)
    if word in store.token_ids:
        return TokenCondition(word)
    level = _LEVEL.fullmatch(word)
    if level and level[1] in store.families:
        return FamilyCondition(level[1], ">=" if level[2] == ">=" else "=", int(level[3]))
    value = _VALUE.fullmatch(word)
    if value and value[1] in store.groups:
        return GroupCondition(value[1], value[2], "=", (value[3],))
    return None
