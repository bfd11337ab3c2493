"""How far a question is, for a face that can show it: the only thing that an operation tells before its answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int, int], None]
"""Told how many steps are done, and of how many."""
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """What is answered inside, in this thread or one started with its context, tells this listener how far it is."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(n_done: int, n_total: int) -> None:
    """Say how far it is; nobody may be listening."""
    if (listener := _listener.get()) is not None:
        listener(n_done, n_total)
