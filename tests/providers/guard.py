"""Tests of language models reach this machine alone: a real provider must never be asked, and paid, by accident."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

VARIABLES = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_CONFIG_DIR",
    "ANTHROPIC_IDENTITY_TOKEN",
    "ANTHROPIC_IDENTITY_TOKEN_FILE",
    "ANTHROPIC_PROFILE",
    "OPENAI_API_KEY",
    "OPENAI_ADMIN_KEY",
    "OPENAI_BASE_URL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@contextmanager
def loopback_only() -> Iterator[list[str]]:
    """No host but this one can be looked up or connected to, and no key of the user's is in the environment.

    Yields the hosts that somebody tried to reach.
    """
    tried: list[str] = []
    look_up = socket.getaddrinfo

    def checked(host: Any) -> None:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if host is not None and name not in LOOPBACK:
            tried.append(name)
            raise OSError(f"a test tried to reach {name}")

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        checked(host)
        return look_up(host, *args, **kwargs)

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            if isinstance(address, tuple):
                checked(address[0])
            super().connect(address)

        def connect_ex(self, address: Any) -> int:
            if isinstance(address, tuple):
                checked(address[0])
            return super().connect_ex(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(socket, "socket", Socket)
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        yield tried
