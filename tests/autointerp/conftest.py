"""A planted store, made once a run and copied for each test, in an environment that reaches no real provider."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.autointerp.running import KEYS
from tests.autointerp.worlds import named_documents
from tests.providers.guard import loopback_only
from tests.worlds import import_world


@pytest.fixture(scope="session")
def planted_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_world(named_documents(), tmp_path_factory.mktemp("planted"))


@pytest.fixture
def store(planted_store: Path, tmp_path: Path) -> Path:
    """A copy: labels and ledger lie beside it."""
    return Path(shutil.copytree(planted_store, tmp_path / "store", copy_function=shutil.copy))


@pytest.fixture(autouse=True)
def _no_real_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with loopback_only():
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        yield
