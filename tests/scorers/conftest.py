"""The planted worlds as stores."""

import pytest

from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World, memory_store
from tests.scorers.planted import builds_to_test, documents


@pytest.fixture(scope="session")
def written() -> World:
    """The documents, as written out."""
    return documents()


@pytest.fixture(scope="session")
def texts(written: World) -> Store:
    """Documents with planted features."""
    return memory_store(written)


@pytest.fixture(scope="session")
def sets() -> Store:
    """Builds with planted features."""
    return memory_store(builds_to_test())


@pytest.fixture(scope="session")
def hostile() -> Store:
    """Documents that try to speak to the judge."""
    return memory_store(documents(hostile=True))
