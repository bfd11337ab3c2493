"""open_client: which language model, in one word that fits into a config and onto a command line."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from saeinterp_mcp.clients.base import Client
from saeinterp_mcp.errors import BadInput

SPECS = """\
anthropic:MODEL            Claude; needs ANTHROPIC_API_KEY and pip install 'saeinterp-mcp[anthropic]'
openai:MODEL               OpenAI; needs OPENAI_API_KEY and pip install 'saeinterp-mcp[openai]'
openai:MODEL@URL           any server that speaks OpenAI's API, as in openai:qwen@http://127.0.0.1:8000/v1
local:DIR                  a causal language model in a Hugging Face folder; needs pip install 'saeinterp-mcp[pipeline]'
recorded:FILE              replies that were written down"""
"""Every form, one a line."""
REMOTE_SECONDS = 120.0
LOCAL_SECONDS = 600.0
_REMOTE = re.compile(r"(?P<model>.+?)(?:@(?P<url>https?://.+))?", re.DOTALL)


def open_client(spec: str, *, timeout_seconds: float | None = None, max_retries: int = 2) -> Client:
    """The client of a spec (SPECS). No SDK is imported and nothing is asked yet; `why_not` tells what is missing.

    Args:
        spec: as in `anthropic:claude-haiku-4-5`.
        timeout_seconds: limit of one try at a question; where not given, 120 of a provider, 600 of a local model.
        max_retries: of the provider's SDK, where trying again can help (429, 5xx, connections).

    Raises:
        BadInput: it is no spec, or names a file or folder that does not fit.
    """
    kind, _, rest = spec.strip().partition(":")
    if not rest or kind not in ("anthropic", "openai", "local", "recorded"):
        raise BadInput(f"{spec!r} names no language model; there are:\n{SPECS}")
    if kind == "recorded":
        from saeinterp_mcp.clients.recorded import RecordedClient

        return RecordedClient(Path(rest).expanduser())
    if kind == "local":
        from saeinterp_mcp.clients.local import LocalClient

        return LocalClient(Path(rest).expanduser(), timeout_seconds or LOCAL_SECONDS)
    model, url = _remote(spec, rest)
    seconds = timeout_seconds or REMOTE_SECONDS
    if kind == "anthropic":
        from saeinterp_mcp.clients.anthropic import AnthropicClient

        return AnthropicClient(model, url, seconds, max_retries)
    from saeinterp_mcp.clients.openai import OpenAIClient

    return OpenAIClient(model, url, seconds, max_retries)


def _remote(spec: str, rest: str) -> tuple[str, str | None]:
    found = _REMOTE.fullmatch(rest)
    assert found is not None, "one letter and more always fit"
    model, url = found["model"], found["url"]
    if "://" in model or not model.strip():
        raise BadInput(
            f"{spec!r} names no model; a server is given as in openai:MODEL@http://127.0.0.1:8000/v1"
        )
    if url is not None:
        _check(url)
    return model, url


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadInput(
            f"the URL of the server is none: {error}; give it as in http://127.0.0.1:8000/v1"
        ) from error
    if parts.username or parts.password or parts.query or parts.fragment:
        raise BadInput(
            "the URL of a server has no user, password or query in it: it becomes part of the names of replies "
            "and labels; set OPENAI_API_KEY or ANTHROPIC_API_KEY instead"
        )
    if not host:
        raise BadInput(f"the URL {url!r} names no host; give it as in http://127.0.0.1:8000/v1")
