"""Judges of the planted documents, and how tests ask through a face and stand in for a provider."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.config import JUDGE_BUDGET_VARIABLE, JUDGES_VARIABLE
from saeinterp_mcp.faces.answering import answer
from saeinterp_mcp.faces.arguments import entries
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.served import ServedStores
from tests.providers.behaviour import Behaviour
from tests.providers.fake_server import FakeServer, fake_server
from tests.providers.guard import loopback_only
from tests.scorers.planted import documents
from tests.worlds import import_world

CLAIM = "the token def"
LINE = re.compile(r"^(t\d+): (.*)$", re.MULTILINE)
ENTRIES = {entry.name: entry for entry in entries()}


def ask(store: Store, tool: str = "label_score", **arguments: Any) -> dict[str, Any]:
    """Through what all faces share, so that the answer goes on record."""
    return answer(ENTRIES[tool], ServedStores([store]), arguments).body


def by_word(word: str, yes: int = 90, no: int = 5) -> Behaviour:
    """A judge that knows the planted rule: it says yes where a word stands."""

    def behave(system: str, user: str, schema: dict[str, Any]) -> dict[str, Any]:
        found = [{"id": i, "probability": yes if word in text else no} for i, text in LINE.findall(user)]
        return {"answers": found}

    return behave


def fresh(made: Path, folder: Path) -> Store:
    """A copy of a store with no labels and no ledger beside it."""
    return open_store(shutil.copytree(made, folder / "documents"))


def make(folder: Path) -> Path:
    """The planted documents on disk."""
    return import_world(documents(), folder / "documents")


@contextmanager
def judged_by(
    behave: Behaviour, monkeypatch: pytest.MonkeyPatch, budget: str | None = None, model: str = "judge"
) -> Iterator[FakeServer]:
    """A provider that behaves so is the only configured judge."""
    with loopback_only(), fake_server(behave) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "test-key")
        monkeypatch.setenv(JUDGES_VARIABLE, f"openai:{model}@{server.openai_url}")
        if budget is not None:
            monkeypatch.setenv(JUDGE_BUDGET_VARIABLE, budget)
        yield server
