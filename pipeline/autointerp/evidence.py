"""Answers that a run asks for and cites, on record as those of any face."""

import inspect
from collections.abc import Callable
from typing import Any

from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.labels.evidence import record_answer
from saeinterp_mcp.labels.records import RecordedAnswer
from saeinterp_mcp.operations.base import Result
from saeinterp_mcp.store.base import Store


def cited(store: Store, operation: Callable[..., Result], **given: Any) -> str:
    """The evidence id of an answer, kept so that it can be asked again.

    Args:
        store: of whom it is asked.
        operation: what is asked; a function of OPERATIONS.
        given: arguments; the others have their defaults.

    Raises:
        SaeInterpError: the question is refused.
    """
    return keep_answer(store, operation, operation(store, **given), **given)


def keep_answer(store: Store, operation: Callable[..., Result], result: Result, **given: Any) -> str:
    """Keep the answer to such a call; its evidence id."""
    bound = inspect.signature(operation).bind(store, **given)
    bound.apply_defaults()
    answer = RecordedAnswer(
        evidence=result.evidence,
        store=store.lineage,
        fingerprint=store.fingerprint,
        operation=operation.__name__,
        arguments={name: value for name, value in bound.arguments.items() if name != "store"},
        digest=fingerprint(result.bare),
        result=result.bare,
    )
    record_answer(store.need_labels, answer)
    return result.evidence
