"""Errors a caller can act on; anything else is our bug and falls."""

import difflib
import re
from collections.abc import Iterable

_WORD = re.compile(r"\(?[\w.+-]{1,60}\)?", re.ASCII)
_NEAR_ENOUGH = 0.8


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
    everything = list(known)
    names = [one for one in everything if may_be_named(one, name)]
    folded = {k.lower(): k for k in names}
    close = [folded[m] for m in difflib.get_close_matches(name.lower(), folded, n, cutoff=0.5)]
    if close:
        return f"nearest: {', '.join(map(repr, close))}"
    if not names:
        return f"there are {len(everything)}, none like it" if everything else "there are none"
    shown, more = ", ".join(map(repr, names[:8])), len(everything) - len(names[:8])
    return f"there are: {shown}" + (f" and {more} more" if more else "")


def may_be_named(name: str, asked: str) -> bool:
    """Whether an error may quote a name out of a store: a bare word, or nearly what the caller said.

    Any other text of a corpus stays out of sentences, because it might be read as ours.
    """
    if _WORD.fullmatch(name.strip()):
        return True
    one, other = name.strip().lower(), asked.strip().lower()
    if not len(one) <= 2 * len(other) + 2 <= 400:
        return False
    return one == other or difflib.SequenceMatcher(None, one, other).ratio() >= _NEAR_ENOUGH
