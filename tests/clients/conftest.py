"""Every test of a client runs with keys that are none, and reaches this machine alone."""

from collections.abc import Iterator

import pytest

from tests.providers.guard import loopback_only


@pytest.fixture(autouse=True)
def reached(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hosts that somebody tried to reach."""
    with loopback_only() as tried:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
        monkeypatch.setenv("OPENAI_API_KEY", "test-key")
        yield tried
        assert tried == [], "nothing but this machine is to be reached"
