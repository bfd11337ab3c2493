"""Errors a caller can act on; anything else is our bug and falls."""

import difflib
from collections.abc import Iterable


class SaeInterpError(Exception):
    """A caller's mistake: the message says what was asked, what there is and what to try."""


class BadInput(SaeInterpError):
    """An argument, config or input file that does not fit."""


class UnknownName(SaeInterpError):
    """A feature, family, group, token or store that does not exist."""


class NotInStore(SaeInterpError):
    """The store is fine, but holds no data for this question (no decoder, a sampled store)."""


class Unavailable(SaeInterpError):
    """Something beside the store that the question needs is not installed, was too slow, or failed."""


class BadStore(SaeInterpError):
    """Damaged, truncated, foreign or newer data on disk.

    Always four facts: path, expected, found, what to do.
    """

    def __init__(self, path: object, expected: str, found: str, advice: str) -> None:
        super().__init__(f"{path}: expected {expected}; found {found}. {advice}")


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """A `; nearest: a, b` tail for an error message, or the first few names when nothing is near."""
    names = list(known)
    folded = {k.lower(): k for k in names}
    close = [folded[m] for m in difflib.get_close_matches(name.lower(), folded, n, cutoff=0.5)]
    if close:
        return f"nearest: {', '.join(map(repr, close))}"
    if not names:
        return "there are none"
    shown = ", ".join(map(repr, names[:8]))
    return f"there are: {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
