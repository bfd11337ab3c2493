"""What both providers' batches have in common: what may be handed in, and what happened when it may or may not be."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from saeinterp_mcp.clients.base import NotKnownYet, Request
from saeinterp_mcp.errors import BadInput, Unavailable

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
CLOCKS_DIFFER = timedelta(minutes=5)
"""A provider's clock may be that much behind ours."""
MAYBE = (408, 409, 500, 502, 503, 504, 529)
"""Status after which a batch may have been taken all the same."""


def check_ids(requests: Mapping[str, Request], most: int) -> None:
    """Refuse what the provider would refuse after the upload."""
    if not requests:
        raise BadInput("a batch holds at least one request; this one is empty")
    if len(requests) > most:
        raise BadInput(
            f"{len(requests)} requests are too many for one batch ({most}); hand in several batches"
        )
    if odd := [one for one in requests if not _ID.fullmatch(one)]:
        raise BadInput(
            f"the id {odd[0]!r} does not fit [A-Za-z0-9_-]{{1,64}}, which providers want; rename it"
        )


def check_size(n_bytes: int, most: int, n_requests: int) -> None:
    """Refuse what is larger than the provider takes."""
    if n_bytes > most:
        fits = max(1, n_requests * most // n_bytes)
        raise BadInput(
            f"the batch is {n_bytes / 1e6:.0f} MB, the provider takes {most / 1e6:.0f} MB; "
            f"hand in several, of at most about {fits} requests"
        )


def not_taken(status: int | None, said: str) -> Unavailable:
    """What to raise when handing in did not end well."""
    if status is None or status in MAYBE:
        return NotKnownYet(
            f"the batch was sent, and whether the provider took it is not known ({said}); `find` tells"
        )
    return Unavailable(f"the provider did not take the batch: {said}")


def earliest(since: str) -> datetime:
    """The first moment at which a batch handed in after `since` (UTC) may say it was made."""
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as error:
        raise BadInput(f"{since!r} is no time; give it as in 2026-11-21T10:00:00+00:00") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - CLOCKS_DIFFER
