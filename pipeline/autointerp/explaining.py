"""One feature explained: what is asked, and the draft that comes of it."""

import re
from typing import Final

from pipeline.autointerp.config import ExplainConfig
from pipeline.autointerp.drafts import SEARCH_AUTHOR, save_draft
from pipeline.explainers import EXPLAINERS
from pipeline.explainers.base import Explainer, InvalidExplanation
from saeinterp_mcp.asking.giving_up import failure_of
from saeinterp_mcp.clients.base import Reply
from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.store.base import Store

PURPOSE: Final = "explain"
_OF_ONE = re.compile(r"^feature \d+|(?<=in )\d+(?= (different )?excerpts)")


class LeftOut(Exception):
    """A feature, or one test of its label, that a run passes over; the message is one of few, to be counted."""


def explainer_of(config: ExplainConfig) -> Explainer:
    """The explainer with its options."""
    options: dict[str, object] = {}
    if config.statistics is not None:
        options["statistics"] = config.statistics
    if config.vocabulary is not None:
        options["vocabulary"] = str(config.vocabulary)
    if config.think_tokens and EXPLAINERS[config.explainer].needs_model:
        options["think_tokens"] = config.think_tokens
    return EXPLAINERS[config.explainer](**options)


def without_numbers(error: SaeInterpError) -> str:
    """The first part of an error, the same for all features it happens to."""
    said = str(error).split(";")[0].split(", so ")[0]
    return _OF_ONE.sub(lambda found: "a feature" if found[0].startswith("feature") else "too few", said)


def draft_from(
    store: Store,
    explainer: Explainer,
    feature: int,
    reply: Reply,
    source: str,
    author: str,
    cost: float | None,
    about: str,
) -> Label:
    """The draft in a reply.

    Raises:
        LeftOut: there is no explanation in it.
    """
    if reply.outcome != "answered":
        raise LeftOut(f"explainer: {failure_of(reply)}")
    try:
        said = explainer.read(store, reply)
    except InvalidExplanation as error:
        raise LeftOut(f"explainer: invalid answer: {error}") from error
    return save_draft(store, feature, said, source, author, cost, about)


def draft_by_counting(
    store: Store, explainer: Explainer, feature: int, seed: int, source: str, about: str
) -> Label:
    """The draft of an explainer that needs no model.

    Raises:
        LeftOut: there is nothing to explain.
    """
    try:
        said = explainer.explain(store, feature, seed)
    except SaeInterpError as error:
        raise LeftOut(without_numbers(error)) from error
    return save_draft(store, feature, said, source, SEARCH_AUTHOR, 0.0, about)
